//! A node: its inventory entry, what is seen of it, and how far its orderly end has come.

use std::net::Ipv4Addr;

use haas_api::{
    agent::{Heartbeat, ShutdownHow},
    names::{Mac, NodeName},
};
use serde::{Deserialize, Serialize};

use super::Micros;
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
    /// When its dirty pages last became fewer, on the steady clock.
    pub dirty_fell_at: Option<Micros>,
    /// How far the orderly end of what runs has come, and since when on the steady clock.
    pub ending: Option<(Ending, Micros)>,
    /// Why the present generation cannot be reached without a person.
    pub fault: Option<Fault>,
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
        /// The agent was asked to end everything in order.
        Agent = "agent",
        /// The BMC was asked for ACPI's soft off.
        Acpi = "acpi",
        /// The BMC was told to cut the power.
        Hard = "hard",
    }
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
}
