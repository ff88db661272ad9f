//! What an agent says of its node's disks and of the overlay store.

use serde::{Deserialize, Serialize};

/// A disk of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Disk {
    /// The kernel's name at this boot, `vda`.
    pub name: String,
    /// The serial number, where the disk has one.
    pub serial: Option<String>,
    /// The maker's name for the model.
    pub model: Option<String>,
    /// Bytes.
    pub size: u64,
    /// What was found on it.
    pub state: DiskState,
}

/// What was found on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum DiskState {
    /// The first and last 64 MiB and 1,000 samples between read as zero.
    Blank,
    /// Our store of this cluster and node.
    Ours {
        /// The store's id.
        store_id: String,
    },
    /// A store of another cluster or node.
    Foreign {
        /// Whose, in words.
        owner: String,
        /// The store's id, where it is one of this cluster: such a one can be accepted.
        #[serde(default)]
        store_id: Option<String>,
    },
    /// Something else: never touched without `disk claim`.
    Other {
        /// What it looks like, for people: `gpt`, `ext4`, `unknown data at 1048576`.
        looks_like: String,
    },
    /// Cannot hold a store: removable, virtual medium, SAN LUN, read-only or unreadable.
    Unusable {
        /// Why.
        reason: String,
    },
}

/// The overlay store as the agent has opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// The store's id.
    pub store_id: String,
    /// The store's generation after this opening.
    pub generation: i64,
    /// The disk's serial, where it has one.
    pub disk_serial: Option<String>,
    /// Bytes of the file system.
    pub size: u64,
    /// Bytes free.
    pub free: u64,
    /// Whether the store was made by this boot.
    pub created: bool,
    /// What `e2fsck` did to a damaged store that an admin had let it repair, its last lines.
    #[serde(default)]
    pub repaired: Option<String>,
    /// Every shard in the store.
    pub shards: Vec<ShardReport>,
}

/// A shard in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// The overlay's id.
    pub overlay_id: String,
    /// The rank that the shard's metadata holds.
    pub rank: u32,
    /// Bytes used, by project quota.
    pub bytes: u64,
}
