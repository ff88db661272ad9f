//! The agent's channel: one outgoing WebSocket over TLS, `GET /v1/agent` on the API port.
//!
//! The agent speaks first, with [`Hello`]; haasd answers with [`Welcome`] or closes with a reason.
//! From then on both send [`Frame`]s as JSON text messages. Each side numbers its own frames from 1
//! and says in `ack` the last number that it has taken from the other, so that after a lost
//! connection the agent sends again what was not acknowledged. Frames with a number already taken
//! are ignored.
//!
//! Additive within `v1`: a reader ignores fields that it does not know, and an agent booted by an
//! older haasd goes on working with a newer one. `tests/golden/` holds transcripts that keep us to it.

mod disks;
mod ssh;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::{
    disks::{Disk, DiskState, ShardReport, StoreReport},
    ssh::{SshCertificates, SshHostKey, SshKeys, SshPlan, SshUserKey},
};
use crate::{
    baseline::Fact,
    check::{CheckReport, ReadyCheck},
    hardware::Inventory,
    names::{Digest, Mac, NodeName, UserName},
};

/// The version of the channel that this build speaks.
pub const PROTO: u32 = 1;

/// How often an agent sends [`ToController::Heartbeat`], in seconds.
pub const HEARTBEAT_S: u64 = 5;

/// What an agent says first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the channel that the agent speaks, [`PROTO`].
    pub proto: u32,
    /// The agent's own version, for people.
    pub version: String,
    /// What proves who it is.
    pub auth: HelloAuth,
    /// Whether its node can start another kernel without its firmware. None: an agent of an earlier
    /// version, which does not know [`ToAgent::Kexec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kexec: Option<Kexec>,
}

/// Whether a node can load and start another kernel (kexec_file_load(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kexec {
    /// What it is, as `uname -m` has it: it starts kernels for nothing else.
    pub machine: String,
    /// Its memory in MiB: both kernels are in it for a time.
    pub memory_mib: u64,
    /// Why it cannot, in a sentence; none: it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

/// What proves who an agent is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HelloAuth {
    /// The boot token from the kernel command line. It is spent by this.
    Token(String),
    /// The credential that [`Welcome`] gave: it opens this attempt's channel again, and nothing else.
    Credential(String),
}

impl std::fmt::Debug for HelloAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(***)",
            Self::Credential(_) => "Credential(***)",
        })
    }
}

/// haasd's first answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HelloAnswer {
    /// The agent is known.
    Welcome(Box<Welcome>),
    /// It is not, or its attempt is over. The agent must not go on booting.
    Refused {
        /// Why, in a sentence for the node's console.
        reason: String,
    },
}

/// What haasd tells an agent that it knows.
#[derive(Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// The controller's clock, microseconds since 1970 UTC. Set before anything is mounted.
    pub now_us: i64,
    /// The number of the last frame that haasd has taken of this attempt's agent, 0 at first.
    pub ack: u64,
    /// For [`HelloAuth::Credential`], given only in answer to a token.
    pub credential: Option<String>,
    /// What this boot must bring up.
    pub plan: BootPlan,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Welcome")
            .field("ack", &self.ack)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

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
    /// Whether haasd takes [`ToController::Inventory`].
    #[serde(default)]
    pub inventory: bool,
    /// Whether haasd wants to hear [`ToController::Baseline`] before anything else. It answers with the plan
    /// to go on with, which alone may have the secrets of the boot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baseline: bool,
    /// Places that the node must not reach. An agent that has some tries, and says which answer:
    /// [`ToController::Reaches`].
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
    /// Every node of the cluster, for /etc/hosts.
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

/// The stages of a boot, in their order. haasd sees the first five by itself.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum BootStage {
    /// The attempt is open; the node's power is being switched on.
    Power,
    /// The BMC says that the node is on; its firmware runs.
    Firmware,
    /// The firmware or iPXE asked for an address.
    Dhcp,
    /// The iPXE script was fetched.
    Script,
    /// Kernel and initramfs were fetched.
    Kernel,
    /// The agent runs and has exchanged its token.
    Agent,
    /// The iSCSI session stands and the root disk was found through it.
    Root,
    /// The overlay store is open and the overlay is mounted.
    Overlay,
    /// switch_root is done and the image's own init runs.
    Userspace,
    /// The agent has proved what runs, and users can log in: the node is ready.
    Ready,
}

impl BootStage {
    /// All stages, in order.
    pub const ALL: [Self; 10] = [
        Self::Power,
        Self::Firmware,
        Self::Dhcp,
        Self::Script,
        Self::Kernel,
        Self::Agent,
        Self::Root,
        Self::Overlay,
        Self::Userspace,
        Self::Ready,
    ];

    /// The stage's name as it stands in JSON, tables and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Firmware => "firmware",
            Self::Dhcp => "dhcp",
            Self::Script => "script",
            Self::Kernel => "kernel",
            Self::Agent => "agent",
            Self::Root => "root",
            Self::Overlay => "overlay",
            Self::Userspace => "userspace",
            Self::Ready => "ready",
        }
    }
}

impl std::fmt::Display for BootStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One message in either direction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Frame<T> {
    /// The sender's own number, from 1, one more each time.
    pub seq: u64,
    /// The last number that the sender has taken from the other side, 0 for none.
    pub ack: u64,
    /// What is said.
    pub msg: T,
}

/// What an agent says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToController {
    /// A stage was reached.
    Stage {
        /// Which.
        stage: BootStage,
        /// Milliseconds since the kernel started (CLOCK_BOOTTIME).
        uptime_ms: u64,
    },
    /// A stage could not be passed. The agent holds the node until it is told to try again.
    Failure(Failure),
    /// The disks that the node has; sent before the overlay store is opened.
    Disks {
        /// One entry per disk.
        disks: Vec<Disk>,
    },
    /// What the node is made of; sent before the overlay is mounted, and only to a haasd whose plan has
    /// [`BootPlan::inventory`].
    Inventory(Box<Inventory>),
    /// What the machine starts from, and which firmware it has; said before the root is attached, and only
    /// to a haasd whose plan has [`BootPlan::baseline`].
    Baseline {
        /// All that it could tell.
        facts: Vec<Fact>,
    },
    /// Which of [`BootPlan::doors`] answer; said before the overlay is mounted, also when none does.
    Reaches {
        /// Those.
        doors: Vec<Door>,
    },
    /// A scratch disk is being erased, which may take hours; said now and then. Only for a haasd whose plan
    /// has [`BootPlan::erase_scratch`].
    Erasing {
        /// The disk, as people know it.
        disk: String,
        /// Bytes that are erased.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// All scratch disks that the node has were erased, and read back as nothing but zeros.
    Erased {
        /// As people know them.
        disks: Vec<String>,
    },
    /// The store that was opened or made, and the shard in it.
    Store(StoreReport),
    /// How a ready check stands: it begins, fails so far, or has come to its end.
    Check(CheckReport),
    /// The public keys that its ssh server and its users have; asks for a certificate for each. Only
    /// for a haasd whose plan has [`BootPlan::ssh`].
    SshKeys(SshKeys),
    /// What runs, read back from the kernel.
    Proof(Proof),
    /// The node is alive.
    Heartbeat(Heartbeat),
    /// What [`ToAgent::Kexec`] asks for cannot be done. The node runs on.
    KexecFailed {
        /// The attempt whose kernel it was.
        attempt: String,
        /// Why, in a sentence.
        reason: String,
    },
    /// The agent ends: the node will reboot, power off or start another kernel.
    Goodbye {
        /// Why: `reboot`, `poweroff` or `kexec`.
        reason: String,
        /// Whether the overlay was unmounted cleanly.
        clean: bool,
    },
    /// Nothing but an acknowledgement.
    Ack,
}

/// Why a stage could not be passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stage that was being worked on.
    pub stage: BootStage,
    /// A stable word for machines, such as `disk-not-blank` or `overlay-disk-full`.
    pub code: String,
    /// What failed and what to do, in a sentence.
    pub cause: String,
    /// The last lines of the kernel's log.
    pub kernel_log: Vec<String>,
    /// Whether trying again by itself can help (a network that is away) or a person is needed.
    pub retryable: bool,
}

/// What runs on the node, read back from the kernel and never echoed from the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The generation that the plan named.
    pub generation: i64,
    /// VPD page 83 of the disk under the root mount, through the iSCSI session in sysfs.
    pub wwid: String,
    /// The target's name of that session, from sysfs.
    pub target: String,
    /// Whether the kernel has that disk read-only.
    pub read_only: bool,
    /// The overlay's id from the shard's metadata behind `upperdir` in mountinfo; none for RAM.
    pub overlay_id: Option<String>,
    /// The rank from that metadata or from /run/haas/rank.
    pub rank: u32,
    /// The host name.
    pub hostname: String,
    /// The addresses of the boot NIC.
    pub addresses: Vec<IpNet>,
    /// machine-id, as /etc/machine-id has it.
    pub machine_id: String,
    /// The kernel's release, `uname -r`.
    pub kernel: String,
    /// Whether the agent says the stage [`BootStage::Ready`] itself, once it is admitted and users
    /// can log in. One of an earlier version does not: it is ready by its proof.
    #[serde(default)]
    pub says_ready: bool,
}

/// Alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// People logged in: `alice pts/0`.
    pub logins: Vec<String>,
    /// Dirty and writeback page cache, KiB (/proc/meminfo).
    pub dirty_kib: u64,
    /// Bytes read over the root's iSCSI session so far (/sys/block/…/stat).
    pub root_read_bytes: u64,
    /// Bytes free in the overlay store; none for RAM.
    pub store_free: Option<u64>,
    /// Whether the iSCSI session stands at this moment.
    pub root_attached: bool,
    /// The lease of the boot NIC's address, where another DHCP server than haasd gave it.
    #[serde(default)]
    pub lease: Option<AddressLease>,
}

/// A leased address, as the agent that keeps the lease sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AddressLease {
    /// The DHCP server that gave it; none while no server has acknowledged it.
    #[schema(value_type = Option<String>)]
    pub server: Option<Ipv4Addr>,
    /// For how many seconds it still holds.
    pub left_s: u64,
    /// What is wrong with it and what to do, in a sentence. The node keeps its address all the same.
    pub trouble: Option<String>,
}

/// What haasd says after [`Welcome`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToAgent {
    /// The proof was right: let users in.
    Admit,
    /// The proof was wrong: keep users out.
    NotReady {
        /// What differs.
        reason: String,
    },
    /// End every process in order, unmount, and power the node off or reboot it.
    Shutdown {
        /// Which of them.
        how: ShutdownHow,
    },
    /// Load this kernel, end every process in order, unmount, and start it in place of the firmware.
    /// Only to an agent whose [`Hello::kexec`] has no obstacle. Lost with a connection: it is said
    /// again to an agent that calls again.
    Kexec(Box<NextKernel>),
    /// Try the failed stage again, or go on; the plan may have changed (a disk was claimed). Lost with a
    /// connection, so a held agent takes each [`Welcome`] for one.
    Retry {
        /// The plan as it is now.
        plan: Box<BootPlan>,
    },
    /// Certificates for the keys that the agent has named. Lost with a connection: the agent asks
    /// again.
    SshCertificates(SshCertificates),
    /// Nothing but an acknowledgement.
    Ack,
}

/// The kernel of the boot attempt that follows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextKernel {
    /// That attempt.
    pub attempt: String,
    /// The kernel.
    pub kernel: BootFile,
    /// Its initramfs.
    pub initrd: BootFile,
    /// Its command line. That attempt's token stands on it.
    pub cmdline: String,
}

impl std::fmt::Debug for NextKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NextKernel").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// A file that haasd serves by HTTP. The attempt's token stands in its URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFile {
    /// `http://ADDRESS:PORT/boot/TOKEN/...`.
    pub url: String,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub digest: Digest,
}

impl std::fmt::Debug for BootFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootFile")
            .field("size", &self.size)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownHow {
    /// Power off.
    Poweroff,
    /// Reboot.
    Reboot,
    /// Start the kernel that was loaded on the node by kexec. The node's own root asks for it;
    /// haasd says [`ToAgent::Kexec`].
    Kexec,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_the_next_boot_never_shows() {
        let file = |name| BootFile {
            url: format!("http://x/boot/T0K3N/{name}"),
            size: 1,
            digest: Digest::of(b""),
        };
        let next = NextKernel {
            attempt: "01J1".into(),
            kernel: file("kernel"),
            initrd: file("initrd"),
            cmdline: "ro haas.token=T0K3N".into(),
        };
        let shown =
            format!("{next:?} {:?} {:?}", next.kernel, ToAgent::Kexec(Box::new(next.clone())));
        assert!(shown.contains("01J1") && !shown.contains("T0K3N"), "{shown}");
    }

    #[test]
    fn a_secret_is_a_pair_on_the_wire_and_never_shows() {
        let chap: Chap = serde_json::from_str(r#"["node","sesame"]"#).unwrap();
        assert_eq!(serde_json::to_string(&chap).unwrap(), r#"["node","sesame"]"#);
        assert_eq!(format!("{chap:?}"), r#"Chap { user: "node", secret: *** }"#);
    }
}
