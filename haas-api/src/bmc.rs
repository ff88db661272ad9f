//! BMCs: what one was found to speak, and the hardware that it sees. `/v1/probes`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    names::{Mac, NodeName},
    user::Password,
};

/// `POST /v1/probes`: what does the BMC of a node, or the one at an address, speak?
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProbeRequest {
    /// Which BMC.
    #[serde(flatten)]
    pub target: ProbeTarget,
    /// SHA-256 of the BMC's certificate, as it was compared at the BMC itself: the account is sent to a
    /// Redfish service only if it has this certificate. A node's own is taken where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// Which BMC is looked at.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "of")]
pub enum ProbeTarget {
    /// A node's, with the account that the inventory names.
    Node {
        /// The node.
        node: NodeName,
    },
    /// The one at this address.
    Address {
        /// The address.
        #[schema(value_type = String)]
        address: IpAddr,
        /// The account to try; none only looks who answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account: Option<ProbeAccount>,
        /// The TCP port of Redfish, 443.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        redfish_port: Option<u16>,
        /// The UDP port of IPMI, 623.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ipmi_port: Option<u16>,
    },
}

/// An account of a BMC.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProbeAccount {
    /// Its name.
    pub user: String,
    /// Its password; it is neither kept nor logged.
    pub password: Password,
}

/// A look at a BMC, which takes seconds. haasd forgets it after some minutes, and when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// Its id.
    pub id: String,
    /// What was found; absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ProbeReport>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProbeReport {
    /// The BMC.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// IPMI 2.0 over LAN.
    pub ipmi: IpmiProbe,
    /// Redfish.
    pub redfish: RedfishProbe,
    /// What follows from it, in sentences.
    pub advice: Vec<String>,
    /// What to write into nodes.toml, where something can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stanza: Option<String>,
}

/// What was found of IPMI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpmiProbe {
    /// Whether anything answers.
    pub answers: bool,
    /// The highest privilege level that the account gets: `administrator`, `operator` or `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privilege: Option<String>,
    /// Why there is no more to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What was found of Redfish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RedfishProbe {
    /// Whether a Redfish service answers.
    pub answers: bool,
    /// SHA-256 of its certificate. Whoever is in between has another one than the BMC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Whether the certificate is the one that was asked for, or that the inventory accepts.
    pub verified: bool,
    /// Whose BMC it says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Its product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The version of Redfish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The account's role: `Administrator`, `Operator`, `ReadOnly` or one of the vendor's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether that role may switch power; absent where the BMC does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_switch: Option<bool>,
    /// Its systems; more than one need `system` in nodes.toml.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub systems: Vec<String>,
    /// Kinds of reset that the system offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resets: Vec<String>,
    /// What the system offers to boot from, for one time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot_targets: Vec<String>,
    /// The hardware that it sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// Why there is no more to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The hardware that a BMC sees in a node. What it does not tell, or tells in another form than the
/// schema has it, is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hardware {
    /// Who made the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its UUID, which its firmware says in DHCP too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The version of its BIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<String>,
    /// Processors, GPUs and the like.
    #[serde(default)]
    pub cpus: Vec<Cpu>,
    /// Memory modules; empty sockets are left out.
    #[serde(default)]
    pub memory: Vec<MemoryModule>,
    /// Drives.
    #[serde(default)]
    pub drives: Vec<Drive>,
    /// Network interfaces.
    #[serde(default)]
    pub nics: Vec<NetworkInterface>,
}

/// A processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cpu {
    /// Where it is.
    pub socket: String,
    /// `CPU`, `GPU`, `FPGA` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u64>,
    /// Threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
}

/// A memory module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryModule {
    /// Where it is.
    pub slot: String,
    /// Its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// `DDR5` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Its part number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drive {
    /// What the BMC calls it.
    pub name: String,
    /// Its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// `SSD` or `HDD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<String>,
    /// `NVMe`, `SAS`, `SATA` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `OK`, `Warning` or `Critical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkInterface {
    /// What the BMC calls it.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// Its speed in megabits per second, when there is a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u64>,
    /// Whether there is a link; absent where the BMC does not tell, as most do not while the node is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
}
