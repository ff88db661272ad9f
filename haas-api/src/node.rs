//! Nodes. `/v1/nodes`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    agent::{AddressLease, BootStage},
    check::CheckReport,
    hardware::{Hardware, Health, Summary},
    names::{Mac, NodeGroupName, NodeName, UserName},
    operation::StageTime,
};

/// A node: what the inventory says, what is wanted, what is seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Immutable; a later node of the same name has another.
    pub id: String,
    /// Its name.
    pub name: NodeName,
    /// Its address on the boot network, once it has one.
    pub address: Option<String>,
    /// The NIC that boots.
    pub mac: Mac,
    /// Its node groups.
    pub groups: Vec<NodeGroupName>,
    /// What the scheduler may choose by.
    pub labels: BTreeMap<String, String>,
    /// `ipmi`, `exec` or `manual`.
    pub power_driver: String,
    /// Whether haasd may touch it.
    pub managed: bool,
    /// In one word, for a table.
    pub state: NodeState,
    /// Why it is in that state, in words.
    pub reason: String,
    /// The last lines of its console when it came to be in fault, where the console is logged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
    /// That it is out of service, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// What led to its fault, where the caller may know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// The user or project that has it, where the caller may know; none while it is to be off.
    #[serde(default)]
    pub tenant: Option<UserName>,
    /// What is wanted of it.
    pub desired: Option<Desired>,
    /// What is seen.
    pub observed: Observed,
    /// How well it is.
    #[serde(default)]
    pub health: Health,
    /// Its hardware in a few numbers, once an agent has told of it.
    #[serde(default)]
    pub summary: Option<Summary>,
    /// All that is known of its hardware. Only where one node is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Box<Hardware>>,
}

/// A node in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// haasd keeps its hands off.
    Unmanaged,
    /// Nothing is wanted of it yet.
    Idle,
    /// Off, as is wanted.
    Off,
    /// On its way to what is wanted.
    Switching,
    /// What is wanted runs, and the agent has proved it.
    Ready,
    /// It was ready; its agent is silent now.
    Unreachable,
    /// It was started into its firmware's setup or from its disk, as was asked: haasd has it again at
    /// its next boot.
    HandedOver,
    /// It could not get there, and a person is needed.
    Fault,
}

impl NodeState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Unmanaged,
        Self::Idle,
        Self::Off,
        Self::Switching,
        Self::Ready,
        Self::Unreachable,
        Self::HandedOver,
        Self::Fault,
    ];

    /// The word that stands for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unmanaged => "unmanaged",
            Self::Idle => "idle",
            Self::Off => "off",
            Self::Switching => "switching",
            Self::Ready => "ready",
            Self::Unreachable => "unreachable",
            Self::HandedOver => "handed-over",
            Self::Fault => "fault",
        }
    }
}

/// How a node is out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DrainState {
    /// Nobody new gets it. Who has it goes on as ever.
    Drain,
    /// People work on it: only admins may have it run something, and haasd does nothing by itself.
    Maintenance,
    /// It is not to be trusted: as in maintenance.
    Quarantine,
}

impl DrainState {
    /// As it stands in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
            Self::Quarantine => "quarantine",
        }
    }
}

/// A node is out of service until somebody resumes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// How.
    pub state: DrainState,
    /// Why.
    pub reason: String,
    /// Who said so; `haasd` where the node has failed too often.
    pub actor: String,
    /// Since when.
    pub since: String,
}

/// What led to a fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// A stable word.
    pub code: String,
    /// When it was found.
    pub at: String,
    /// The stages of the last boot and the seconds that it was in each.
    pub stages: Vec<StageTime>,
    /// What was tried, the oldest first.
    pub tried: Vec<Tried>,
}

/// Something that was tried with a node which did not do as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tried {
    /// When.
    pub at: String,
    /// What: `shutdown-asked`, `soft-off`, `hard-off`, `bmc-reset`, `power-on` or `boot`.
    pub what: String,
    /// What went wrong with it, where that is known.
    pub error: Option<String>,
}

/// `POST /v1/nodes/drain`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// The nodes.
    pub nodeset: String,
    /// How they are out of service.
    pub state: DrainState,
    /// Why, for everybody who would use them.
    pub reason: String,
}

/// `POST /v1/nodes/resume`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// The nodes.
    pub nodeset: String,
    /// Why, for the events and the audit log.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What is wanted of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Desired {
    /// Counts the node's desired states.
    pub generation: i64,
    /// Whether it should be on.
    pub on: bool,
    /// `name:tag` as it was asked for.
    pub image: Option<String>,
    /// The image itself.
    pub image_digest: Option<String>,
    /// `owner/name`; none for RAM.
    pub overlay: Option<String>,
    /// Whether it runs without the overlay, which is only mounted at `/overlay` to be mended.
    #[serde(default)]
    pub rescue: bool,
    /// Its place in the overlay, from 0.
    pub rank: u32,
    /// Since when.
    pub since: String,
    /// Who asked.
    pub actor: String,
}

/// What is seen of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Observed {
    /// `on`, `off` or `unknown`, as its BMC said.
    pub power: String,
    /// When the BMC said so.
    pub power_at: Option<String>,
    /// Why the BMC could not be asked.
    pub power_error: Option<String>,
    /// The stage of the boot in progress.
    pub stage: Option<BootStage>,
    /// When the agent was last heard.
    pub agent_at: Option<String>,
    /// Who is logged in.
    pub logins: Vec<String>,
    /// Whether the root's iSCSI session stands.
    pub root_attached: Option<bool>,
    /// Bytes free in the overlay store.
    pub store_free: Option<u64>,
    /// The ready checks of its last boot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckReport>,
    /// What it draws, in watts, as its BMC said when it was asked last; none where that could not be
    /// asked, or does not say.
    #[serde(default)]
    pub watts: Option<u32>,
    /// Hours that it was off since nobody used it.
    #[serde(default)]
    pub idle_off_hours: f64,
    /// Kilowatt-hours that it would have drawn in these hours, as far as it is known what it drew
    /// while it was idle.
    #[serde(default)]
    pub idle_saved_kwh: f64,
    /// The lease of its address, where another DHCP server than haasd gave it.
    #[serde(default)]
    pub lease: Option<AddressLease>,
    /// The public keys of its ssh server, while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<HostKey>,
}

/// A public key of a node's ssh server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostKey {
    /// As `known_hosts` has it, `ssh-ed25519 AAAA…`.
    pub key: String,
    /// The names and addresses that the node has.
    pub names: Vec<String>,
    /// Until when the server has a certificate of [`crate::ssh::SshCa`] for these names. None: it shows
    /// no certificate, and the key itself must be known.
    pub certified_until: Option<String>,
}

/// `POST /v1/nodes/manage`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManageRequest {
    /// The nodes.
    pub nodeset: String,
    /// True to let haasd have them, false to take them away from it.
    pub managed: bool,
}

/// `POST /v1/nodes/apply`: an inventory file, taken whole or not at all.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The file's name, for error messages.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Say what would change, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an inventory file changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplyResult {
    /// Nodes that are new.
    pub added: Vec<String>,
    /// Nodes that are gone from the file.
    pub removed: Vec<String>,
    /// Nodes that changed.
    pub changed: Vec<String>,
    /// The changes in words, for people.
    pub diff: String,
    /// Whether they were made.
    pub applied: bool,
}

/// A machine that was seen on the network and is in no inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Discovered {
    /// Its address.
    pub mac: Mac,
    /// `node` or `bmc`, as far as its DHCP request tells.
    pub kind: String,
    /// What it said of itself: vendor class, architecture.
    pub description: String,
    /// The network that it was seen in.
    pub network: String,
    /// When it was first seen.
    pub first_seen: String,
    /// When it was last seen.
    pub last_seen: String,
    /// A stanza for nodes.toml, ready to be completed; none for a BMC.
    pub stanza: Option<String>,
}

/// What a node would be given if it booted now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rendered {
    /// The node.
    pub node: String,
    /// The iPXE script, with the token as `***`.
    pub script: String,
    /// The kernel command line, with the token as `***`.
    pub cmdline: String,
}

/// Whether a reboot would change what a node runs. `GET /v1/drift`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// The node.
    pub node: NodeName,
    /// Whether.
    pub state: DriftState,
    /// Why it is not known, or what else there is to know.
    pub reason: String,
    /// What would change.
    pub differences: Vec<Difference>,
}

/// Whether a reboot would change what a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DriftState {
    /// It would boot the same.
    Same,
    /// It would boot something else.
    Differs,
    /// Nobody knows what it was given, or it would be given nothing.
    Unknown,
    /// Nothing of haas runs on it.
    NotRunning,
}

/// Something that a reboot would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// `image`, `kernel`, `initramfs`, `agent`, `command line` or `script`.
    pub what: String,
    /// What runs: a digest, or the words or lines that only it has.
    pub runs: String,
    /// What would run.
    pub would: String,
}

/// A named set of nodes, `@name` in a node set. `GET /v1/node-groups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeGroup {
    /// Its name, without the `@`.
    pub name: NodeGroupName,
    /// The nodes in it.
    pub nodes: Vec<String>,
}
