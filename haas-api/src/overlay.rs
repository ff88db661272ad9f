//! Overlays and the disks that hold them. `/v1/overlays`, `/v1/nodes/{name}/disks`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{OverlayLabel, UserName};

/// A named, private, persistent writable layer, with its shards on the nodes' own disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overlay {
    /// Immutable; names the folder on the nodes.
    pub id: String,
    /// Whose it is.
    pub owner: UserName,
    /// Its name.
    pub name: OverlayLabel,
    /// When it was made.
    pub created_at: String,
    /// Its part on each node.
    pub shards: Vec<Shard>,
    /// Whether its owner lets others be root on the nodes whose disks hold it.
    #[serde(default)]
    pub shares_disk: bool,
}

/// An overlay's part on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shard {
    /// The node that holds it.
    pub node: String,
    /// The node's place in the overlay, from 0. It goes with the data.
    pub rank: u32,
    /// Bytes used, when the node last told; none until it has.
    pub bytes: Option<i64>,
    /// The image that last ran under it, `name:tag` or digest.
    pub last_image: Option<String>,
    /// When it was last mounted.
    pub last_used_at: Option<String>,
}

/// `POST /v1/overlays`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOverlay {
    /// Whose; the caller's own where none is given.
    #[serde(default)]
    pub owner: Option<UserName>,
    /// Its name.
    pub name: OverlayLabel,
}

/// `PATCH /v1/overlays/{owner}/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverlayChange {
    /// Whether others may be root on the nodes whose disks hold it. They could read and destroy it.
    pub shares_disk: bool,
}

/// A disk of a node, as its agent last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeDisk {
    /// The node.
    pub node: String,
    /// What the agent said.
    pub disk: crate::agent::Disk,
    /// When.
    pub seen_at: String,
    /// Whether an admin has claimed it to be wiped.
    pub claimed: bool,
}

/// `POST /v1/nodes/{name}/disks/claim`: this disk may be wiped for the overlay store.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimDisk {
    /// The disk's serial number, typed by a person.
    pub serial: String,
    /// Must be true: what is on the disk will be lost.
    pub wipe: bool,
}

/// `POST /v1/nodes/{name}/disks/accept`: the overlay store on a disk is to be this node's.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptDisk {
    /// The disk's serial number; needed where several disks hold a store that could be meant.
    pub serial: Option<String>,
}

/// `POST /v1/nodes/{name}/disks/repair`: the node's damaged overlay store may be repaired, once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepairDisk {
    /// Must be true: files of any overlay on the disk may be lost.
    pub may_lose_files: bool,
}
