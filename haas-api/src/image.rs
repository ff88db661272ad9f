//! Images. `/v1/images`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{Digest, ImageName, ImageRef, ImageTag};

/// An image: an immutable manifest and the names that point to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// The manifest's SHA-256: the image's identity.
    pub digest: Digest,
    /// `name:tag`s that point here.
    pub tags: Vec<ImageRef>,
    /// Bytes of the root block image.
    pub root_bytes: u64,
    /// The root's file system.
    pub fstype: String,
    /// The kernel's release.
    pub kernel: String,
    /// Bytes of kernel and initramfs together, as a node fetches them.
    pub boot_bytes: u64,
    /// The processor it is for.
    pub arch: String,
    /// The iSCSI target that serves it.
    pub target: String,
    /// When it came here.
    pub created_at: String,
    /// The nodes that run it or are about to.
    pub nodes: Vec<String>,
}

/// `POST /v1/images/tags`: `name:tag` points to `image` from now on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TagImage {
    /// The image.
    pub image: ImageRef,
    /// The name.
    pub name: ImageName,
    /// The tag.
    pub tag: ImageTag,
}

/// One line of the answer of `POST /v1/images/build` and `/import`, as JSON lines.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageProgress {
    /// What the build says.
    Log(String),
    /// The last line when it went well.
    Done(Box<Image>),
    /// The last line when it did not.
    Failed(crate::problem::Problem),
}

/// What an import brings, the `kind` of `POST /v1/images/import`. The body is a tar stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImportKind {
    /// The tar holds a root file system with its kernel in /boot and its modules in /lib/modules.
    Root,
    /// The tar holds `root.img`, a file system image, `vmlinuz`, and `modules/RELEASE/`.
    Raw,
}
