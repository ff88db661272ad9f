//! A node: its inventory entry, what is seen of it, and how far its orderly end has come.

use std::net::Ipv4Addr;

use haas_api::{
    agent::{BootStage, Heartbeat, ShutdownHow},
    names::{Mac, NodeName},
};
use serde::{Deserialize, Serialize};

use super::{BootTimes, Micros};
use crate::inventory::NodeSpec;

words! {
    /// A node's power, as its BMC last said.
    Power {
        /// It runs.
        On = "on",
        /// It does not.
        Off = "off",
        /// Nobody can say: no BMC, or it has not been asked yet.
        Unknown = "unknown",
    }
}

/// A node as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Immutable.
    pub id: String,
    /// Its name.
    pub name: NodeName,
    /// The NIC that boots.
    pub boot_mac: Mac,
    /// What the inventory says.
    pub spec: NodeSpec,
    /// Its address on the boot network.
    pub address: Option<Ipv4Addr>,
    /// Whether haasd may touch it.
    pub managed: bool,
    /// Whether the inventory still names it.
    pub present: bool,
    /// The desired state in force; 0 before the first.
    pub generation: i64,
    /// Locks the row.
    pub version: i64,
    /// What its BMC said.
    pub power: Power,
    /// When it said so or, where it cannot be asked, since when; on the steady clock.
    pub power_at: Option<Micros>,
    /// Why the BMC could not be asked, when the last try failed.
    pub power_error: Option<String>,
    /// Since when it fails, on the steady clock; a new desired state counts anew.
    pub power_failed_at: Option<Micros>,
    /// When the BMC was last asked, whatever came of it, on the steady clock.
    pub power_asked_at: Option<Micros>,
    /// The attempt whose agent spoke last.
    pub agent_attempt: Option<String>,
    /// When, on the steady clock.
    pub agent_at: Option<Micros>,
    /// That agent's last words, when it ended in order.
    pub goodbye: Option<ShutdownHow>,
    /// Its last heartbeat.
    pub heartbeat: Option<Heartbeat>,
    /// When somebody was last seen logged in, on the steady clock.
    pub used_at: Option<Micros>,
    /// When its dirty pages last became fewer, on the steady clock.
    pub dirty_fell_at: Option<Micros>,
    /// How far the orderly end of what runs has come, and since when on the steady clock.
    pub ending: Option<(Ending, Micros)>,
    /// Why the present generation cannot be reached without a person.
    pub fault: Option<Fault>,
    /// Who has taken it out of service, and why.
    pub drain: Option<Drain>,
    /// What its BMC said when its agent had been silent for long, as far as that was told.
    pub silence: Option<Silence>,
    /// How long its last boots took.
    pub boot_times: BootTimes,
    /// What was tried for the present generation, since the node was last ready.
    pub tried: Vec<Tried>,
    /// Faults in a row that no image can cause.
    pub hardware_faults: i64,
    /// The overlay store that was last seen on it.
    pub store_id: Option<String>,
    /// That store's generation.
    pub store_generation: i64,
    /// Whether an admin has accepted that store on this node though its disk bears another mark.
    pub store_accepted: bool,
    /// Whether an admin lets the next boot repair a damaged store, whatever that takes.
    pub store_repair: bool,
}

words! {
    /// How far the orderly end of what runs on a node has come. Each step has its deadline.
    Ending {
        /// The agent was asked to load the next kernel, to end everything in order and to start it.
        Kexec = "kexec",
        /// The agent was asked to end everything in order.
        Agent = "agent",
        /// The BMC was asked for ACPI's soft off.
        Acpi = "acpi",
        /// The BMC was told to cut the power.
        Hard = "hard",
        /// The BMC did not, and was started anew.
        BmcReset = "bmc-reset",
    }
}

words! {
    /// How a node is out of service.
    DrainState {
        /// Nobody new gets it. Who has it goes on as ever, reboots included.
        Drain = "drain",
        /// People work on it: haasd does nothing with it that no admin asks for.
        Maintenance = "maintenance",
        /// It is not to be trusted: as in maintenance.
        Quarantine = "quarantine",
    }
}

impl DrainState {
    /// Whether haasd does only what an admin asks for.
    pub fn keeps_hands_off(self) -> bool {
        match self {
            Self::Drain => false,
            Self::Maintenance | Self::Quarantine => true,
        }
    }
}

/// A node is out of service until somebody resumes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How.
    pub state: DrainState,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub actor: String,
    /// Since when, wall clock.
    pub since: Micros,
    /// The generation that was in force then: what is wanted later, an admin has asked for.
    pub generation: i64,
}

words! {
    /// What a BMC says of a node whose agent is silent. One that is off boots again, and is not silent.
    Silence {
        /// The node is on.
        On = "on",
        /// Nothing: it does not answer either.
        Unreachable = "unreachable",
        /// There is no BMC.
        NoBmc = "no-bmc",
    }
}

/// Something that was tried with a node which did not do as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// What: `agent`, `soft-off`, `hard-off`, `bmc-reset`, `power-on`, `boot`.
    pub what: String,
    /// When, on the steady clock.
    pub at: Micros,
    /// What went wrong with it, where that is known.
    pub error: Option<String>,
}

/// Why a generation cannot be reached without a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The generation that it holds for.
    pub generation: i64,
    /// A stable word.
    pub code: String,
    /// Which stage, what happened, what to do.
    pub reason: String,
    /// What led to it.
    #[serde(default)]
    pub evidence: Option<Evidence>,
}

impl Fault {
    /// A fault of which nothing more is known yet.
    pub fn new(generation: i64, code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { generation, code: code.into(), reason: reason.into(), evidence: None }
    }
}

/// What led to a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When it was found, on the steady clock.
    pub at: Micros,
    /// The stages of the last boot with their beginnings, on the steady clock.
    pub stages: Vec<(BootStage, Micros)>,
    /// What was tried, the oldest first.
    pub tried: Vec<Tried>,
}
