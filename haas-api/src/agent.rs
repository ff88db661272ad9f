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
mod plan;
mod ssh;

use std::net::Ipv4Addr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::{
    disks::{Disk, DiskState, ShardReport, StoreReport},
    plan::{
        BootPlan, Chap, DiskName, DiskSelector, Door, DoorKind, Login, MissingShard, NetPlan,
        OverlayPlan, RootPlan, StoreElsewhere,
    },
    ssh::{SshCertificates, SshHostKey, SshKeys, SshPlan, SshUserKey},
};
use crate::{baseline::Fact, check::CheckReport, hardware::Inventory, names::Digest};

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
    /// It knows [`ToAgent::Notice`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notices: bool,
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

impl Failure {
    /// One that a person is needed for.
    pub fn new(stage: BootStage, code: impl Into<String>, cause: impl Into<String>) -> Self {
        let (code, cause) = (code.into(), cause.into());
        Self { stage, code, cause, kernel_log: Vec::new(), retryable: false }
    }
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
    /// Something for who is logged in: to be written on every terminal. Only to an agent whose
    /// [`Hello::notices`] is set. Lost with a connection.
    Notice {
        /// A line.
        text: String,
    },
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
