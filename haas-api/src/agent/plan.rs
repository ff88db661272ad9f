//! What haasd gives an agent to bring up.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::SshPlan;
use crate::{
    check::ReadyCheck,
    names::{Digest, Mac, NodeName, UserName},
};

/// What one boot attempt must bring up, whole. The agent takes it from here and not from the
/// kernel command line, which anybody on the boot network could have written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootPlan {
    /// The boot attempt's id, the `boot` of every log line.
    pub attempt: String,
    /// The desired state that this attempt serves.
    pub generation: i64,
    /// This cluster's id; a store with another is foreign.
    pub cluster_id: String,
    /// The node's immutable id; a store with another is foreign.
    pub node_id: String,
    /// Its name, which becomes the host name.
    pub node: NodeName,
    /// The boot NIC's addresses and the network it is in.
    pub net: NetPlan,
    /// The read-only root.
    pub root: RootPlan,
    /// The writable layer over it.
    pub overlay: OverlayPlan,
    /// The stores of other nodes, as haasd knows them: a disk that bears this node's mark and holds
    /// one of these is a copy.
    #[serde(default)]
    pub elsewhere: Vec<StoreElsewhere>,
    /// Disks that the node's users may write. Every other one but the store's is read-only to them,
    /// and none of these ever becomes the store's.
    #[serde(default)]
    pub scratch: Vec<DiskName>,
    /// Disks that the kernel gives up before users come. None of these ever becomes the store's either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detached: Vec<DiskName>,
    /// Another tenant may have written on these: they are erased before anybody else's code runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub erase_scratch: bool,
    /// Who may log in once the node is ready.
    pub logins: Vec<Login>,
    /// What must succeed in the running system before it is ready, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready_checks: Vec<ReadyCheck>,
    /// Whom ssh on the node trusts. An agent that has it asks for certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshPlan>,
    /// Whether haasd takes [`ToController::Inventory`](super::ToController::Inventory).
    #[serde(default)]
    pub inventory: bool,
    /// Whether haasd wants to hear [`ToController::Baseline`](super::ToController::Baseline) before anything
    /// else. It answers with the plan to go on with, which alone may have the secrets of the boot, and names
    /// other nodes and places.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baseline: bool,
    /// Places that the node must not reach. The agent tries them, and says which answer:
    /// [`ToController::Reaches`](super::ToController::Reaches).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<Door>,
}

/// A place in the network that a node must not reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Where.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// How it is tried.
    pub kind: DoorKind,
    /// What it is, for people.
    pub what: String,
}

/// How a place is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoorKind {
    /// By a TCP connection, which is closed again.
    Tcp,
    /// By RMCP's presence ping, UDP.
    Rmcp,
}

/// The boot NIC's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetPlan {
    /// The NIC, by its address.
    pub mac: Mac,
    /// Its address with the network's prefix length, `10.77.0.11/24`.
    pub address: IpNet,
    /// The way out, where there is one.
    pub gateway: Option<IpAddr>,
    /// Name servers for resolv.conf.
    pub dns: Vec<IpAddr>,
    /// The search domain for resolv.conf.
    pub domain: Option<String>,
    /// Bytes; the NIC's own default where none is given.
    pub mtu: Option<u32>,
    /// Every node of the cluster, for /etc/hosts. None once its overlay is mounted.
    pub hosts: Vec<(IpAddr, NodeName)>,
}

/// The read-only root, over iSCSI.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct RootPlan {
    /// The image's digest, for people and for the proof.
    pub digest: Digest,
    /// The image's name and tag as it was asked for, for people.
    pub name: String,
    /// The portal's address.
    pub portal: IpAddr,
    /// The portal's port, 3260.
    pub port: u16,
    /// The target's name; LUN 0 of it is the root.
    pub target: String,
    /// The name under which the node logs in.
    pub initiator: String,
    /// By what the node proves itself to the target (CHAP, RFC 7143 section 12.1). It is given until the
    /// session stands, and never again: from then on the agent has it, and tenants are on the node.
    pub chap: Option<Chap>,
    /// By what the target proves itself to the node (mutual CHAP), given with the other. An agent of an
    /// earlier version does not ask the target for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_chap: Option<Chap>,
    /// The file system's type, `erofs`, `squashfs` or `ext4`.
    pub fstype: String,
    /// The identity that the disk must show in VPD page 83, as `naa.` or `t10.` text.
    pub wwid: String,
}

impl RootPlan {
    /// Keeps the secrets of an earlier plan of the same boot, where this one has none: haasd gives them
    /// only until the session stands.
    pub fn keep_secrets(&mut self, earlier: &Self) {
        if self.initiator == earlier.initiator && self.chap.is_none() {
            self.chap.clone_from(&earlier.chap);
            self.target_chap.clone_from(&earlier.target_chap);
        }
    }
}

impl std::fmt::Debug for RootPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootPlan")
            .field("digest", &self.digest)
            .field("target", &self.target)
            .field("initiator", &self.initiator)
            .finish_non_exhaustive()
    }
}

/// A CHAP name and its secret, on the wire a pair of both.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, String)", into = "(String, String)")]
pub struct Chap {
    /// The name, `CHAP_N`.
    pub user: String,
    /// What both sides know.
    pub secret: String,
}

impl std::fmt::Debug for Chap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chap")
            .field("user", &self.user)
            .field("secret", &format_args!("***"))
            .finish()
    }
}

impl From<(String, String)> for Chap {
    fn from((user, secret): (String, String)) -> Self {
        Self { user, secret }
    }
}

impl From<Chap> for (String, String) {
    fn from(chap: Chap) -> Self {
        (chap.user, chap.secret)
    }
}

/// The writable layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum OverlayPlan {
    /// In RAM: what the user writes is lost at power-off, as was asked for.
    Ram {
        /// The node's place in the set, from 0.
        rank: u32,
    },
    /// On the node's own disk.
    Disk {
        /// The overlay's immutable id, which names its folder.
        overlay_id: String,
        /// `owner/name`, for people.
        name: String,
        /// The node's place in the overlay, from 0.
        rank: u32,
        /// What to do when the node's store has no shard of this overlay.
        missing: MissingShard,
        /// Which disk holds the store.
        disk: DiskSelector,
        /// The store that haasd last saw on this node; another is a fault.
        store_id: Option<String>,
        /// The store's last known generation; an older one is a fault (an old clone or backup).
        store_generation: i64,
        /// Whether an admin has accepted that store here though its disk bears another node's mark.
        #[serde(default)]
        accepted: bool,
        /// Whether a damaged store may be repaired whatever that takes, which an admin has allowed.
        #[serde(default)]
        repair: bool,
        /// MiB kept for `haas-cache` when the disk is partitioned.
        cache_mib: u64,
        /// Overlays that were removed while this node had shards of them, by id: their data goes.
        #[serde(default)]
        removed: Vec<String>,
        /// Whether the shard is only mounted at `/overlay`, and the root's writable layer is in RAM.
        #[serde(default)]
        rescue: bool,
        /// Set when an admin has claimed this disk's serial to be wiped though it is not blank.
        wipe_serial: Option<String>,
        /// The store of our own on the claimed disk that is to be wiped with it. Another store on
        /// that disk was made since, and stays.
        #[serde(default)]
        wipe_store: Option<String>,
    },
}

/// A store that haasd knows to be another node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreElsewhere {
    /// The store's id.
    pub store_id: String,
    /// The node that has it.
    pub node: NodeName,
}

/// What to do when the store has no shard of the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingShard {
    /// Make an empty one: haasd knows of none on this node.
    Create,
    /// Fault: haasd knows that there was one, so the data is elsewhere or lost.
    Fault,
}

/// Which disk holds the overlay store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSelector {
    /// The one disk that already holds our store or, failing that, the one blank internal disk.
    Auto,
    /// This one.
    #[serde(untagged)]
    One(DiskName),
}

/// One disk of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskName {
    /// The disk with this serial number.
    Serial(String),
    /// The disk behind this path, usually `/dev/disk/by-path/…` or `/dev/vdb`.
    Path(String),
}

impl std::fmt::Display for DiskSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::One(disk) => disk.fmt(f),
        }
    }
}

impl std::fmt::Display for DiskName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial {serial}"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// Somebody who may log in over ssh once the node is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The Unix name.
    pub name: UserName,
    /// The Unix uid, and gid.
    pub uid: u32,
    /// Public keys, one per line of `authorized_keys`.
    pub ssh_keys: Vec<String>,
    /// Whether the keys open root too.
    pub root: bool,
    /// Whether it may do everything by sudo, without a password.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sudo: bool,
}
