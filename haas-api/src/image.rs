//! Images. `/v1/images`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{Digest, ImageName, ImageRef, ImageTag, NodeName, UserName};

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
    /// Whether nodes that boot it may read it without proving themselves (CHAP).
    #[serde(default)]
    pub open: bool,
    /// When it came here.
    pub created_at: String,
    /// The nodes that run it or are about to, as far as the caller may know.
    pub nodes: Vec<String>,
    /// The project whose it is; none: the cluster's, for everybody to boot.
    #[serde(default)]
    pub project: Option<UserName>,
}

/// `POST /v1/images/tags`: `name:tag` points to `image` from now on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagImage {
    /// The image.
    pub image: ImageRef,
    /// The name.
    pub name: ImageName,
    /// The tag.
    pub tag: ImageTag,
}

/// `PATCH /v1/images/{image}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageChange {
    /// Whether nodes that boot it may read it without proving themselves (CHAP), as initiators that know
    /// no secret do: iPXE's, dracut's.
    pub open: bool,
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

/// `GET /v1/images/{image}/sessions`: what the iSCSI sessions of an image did since haasd started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageSessions {
    /// The image.
    pub digest: Digest,
    /// Bytes of its root that are in the controller's memory now; none where its file cannot be
    /// opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_bytes: Option<u64>,
    /// All sessions together, also those of boots that are over.
    pub all: SessionCounts,
    /// Those of each user and project, also of boots that are over.
    #[serde(default)]
    pub users: Vec<UserSessions>,
    /// Nodes that run the image or boot it, each with the sessions of this boot.
    pub nodes: Vec<Sessions>,
}

/// The sessions of one user or project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserSessions {
    /// Who has or had the nodes.
    pub user: String,
    /// What the sessions did.
    pub counts: SessionCounts,
}

/// The sessions of one boot of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// The node.
    pub node: NodeName,
    /// The boot attempt.
    pub boot: String,
    /// The address that it must come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Who asked for what it runs.
    pub user: String,
    /// What the sessions did.
    pub counts: SessionCounts,
}

/// What sessions did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionCounts {
    /// Sessions now.
    pub sessions: u64,
    /// Logins; more than one for a boot means that the session was lost and made anew.
    pub logins: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Half of the reads took no longer than so many microseconds, rounded up to a power of two, from
    /// their arrival until their last byte was handed to the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    /// The same of 99 in 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
    /// The histogram behind it: entry n counts reads of less than 2^n microseconds (and not less than
    /// half of that), the last entry all longer ones.
    pub took_us: Vec<u64>,
    /// Commands that ended in an error.
    pub errors: Vec<SenseCount>,
}

/// How often a command ended in an error of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SenseCount {
    /// Sense key, and additional sense code with qualifier, in hexadecimal: `7/2700` is a write to the
    /// write-protected disk.
    pub sense: String,
    /// How often.
    pub count: u64,
}

/// `GET /v1/images/{image}/reads`: one read of the first boot of the image since haasd started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootRead {
    /// Counts from 1.
    pub number: u64,
    /// Microseconds since the first read.
    pub at_us: u64,
    /// The first block of 512 bytes.
    pub lba: u64,
    /// How many blocks.
    pub blocks: u32,
}
