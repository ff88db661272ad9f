//! nodes.toml: the one file that a person fills to add a node (M38, M39).
//!
//! A file is taken whole or not at all: [`Inventory::parse`] returns every node, or everything that
//! is wrong. The inventory in the database is the truth; this file is how it is changed, after
//! [`Inventory::diff`] has shown a person what would change. Secrets are referred to, never held.

mod diff;
mod layer;
mod node;
mod power;
mod stanza;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use haas_api::{
    agent::{DiskName, DiskSelector},
    check::ReadyCheck,
    names::{Digest, Mac, NodeGroupName, NodeName},
};
use serde::{Deserialize, Serialize};

pub use self::{
    diff::{Diff, FieldChange},
    power::IPMI_PORT,
    stanza::{Seen, stanza_for},
};
use crate::{
    config::{Network, Problems, reader::Notes},
    netboot::firmware::SHIM,
};

/// Why an inventory was refused.
#[derive(Debug, thiserror::Error)]
pub enum InventoryErrors {
    /// The file could not be read.
    #[error("cannot read the inventory {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file was read and something in it is wrong; one line for each thing.
    #[error("{0}")]
    Invalid(Problems),
}

/// A whole inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The nodes, in the file's order.
    pub nodes: Vec<NodeSpec>,
    /// The digest of the file's text; the same text is imported once.
    pub hash: Digest,
}

impl Inventory {
    /// Reads and checks a nodes.toml.
    ///
    /// # Errors
    /// When the file cannot be read, or with everything that is wrong in it.
    pub fn load(path: &Path, networks: &[Network]) -> Result<Self, InventoryErrors> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| InventoryErrors::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string(), networks)
    }

    /// Checks the text of a nodes.toml. `file_name` names it in errors, and a relative
    /// `password_file` starts at its folder. Without any network addresses are not compared with them.
    ///
    /// # Errors
    /// With everything that is wrong in it.
    pub fn parse(
        text: &str,
        file_name: &str,
        networks: &[Network],
    ) -> Result<Self, InventoryErrors> {
        let notes = Notes::new(file_name, text);
        let folder = Path::new(file_name).parent().unwrap_or(Path::new(""));
        let nodes = node::nodes(&notes, folder, networks);
        let inventory = Self { nodes, hash: Digest::of(text.as_bytes()) };
        notes.finish(inventory).map_err(InventoryErrors::Invalid)
    }

    /// What would change if `new` took the place of `old`.
    pub fn diff(old: &[NodeSpec], new: &[NodeSpec]) -> Diff {
        diff::diff(old, new)
    }
}

/// What the inventory says of one node, with defaults and groups already applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The node's name.
    pub name: NodeName,
    /// Its network interfaces; exactly one has the role `boot`.
    pub nics: Vec<Nic>,
    /// Its address on the boot network; none takes one from the pool.
    pub address: Option<Ipv4Addr>,
    /// The node groups that it is in.
    pub groups: BTreeSet<NodeGroupName>,
    /// How its power is switched.
    pub power: PowerSpec,
    /// Which firmware boots it.
    pub firmware: Firmware,
    /// Its processor.
    pub arch: Arch,
    /// The disk for overlays.
    pub overlay_disk: DiskSelector,
    /// Disks that the node's users may write.
    #[serde(default)]
    pub scratch_disks: Vec<DiskName>,
    /// Disks that the node's kernel gives up before users come.
    #[serde(default)]
    pub detached_disks: Vec<DiskName>,
    /// MiB of that disk kept for the read cache.
    pub cache_mib: u64,
    /// What the scheduler may choose by.
    pub labels: BTreeMap<String, String>,
    /// More arguments for the kernel command line.
    pub kernel_args: Vec<String>,
    /// Another iPXE binary than the default for the firmware, a file name in the iPXE directory.
    pub ipxe: Option<String>,
    /// Whether its firmware runs signed programs only: it is given shim and GRUB in place of iPXE.
    #[serde(default)]
    pub secure_boot: bool,
    /// What must succeed on the node before it is ready, in this order.
    #[serde(default)]
    pub ready_checks: Vec<ReadyCheck>,
}

impl NodeSpec {
    /// The NIC that boots.
    pub fn boot_mac(&self) -> Mac {
        self.nics
            .iter()
            .find(|nic| nic.role == NicRole::Boot)
            .map(|nic| nic.mac)
            .expect("the inventory refuses a node without a boot NIC")
    }
}

impl NodeSpec {
    /// The file that its firmware loads; none is the iPXE that fits it.
    pub fn boot_program(&self) -> Option<String> {
        if self.secure_boot { Some(SHIM.to_owned()) } else { self.ipxe.clone() }
    }

    /// What a MAC is in this node, when it is one of its NICs or its BMC.
    pub fn owns(&self, mac: Mac) -> Option<MacUse> {
        if let Some(nic) = self.nics.iter().find(|nic| nic.mac == mac) {
            return Some(MacUse::Nic(nic.role));
        }
        (self.power.mac() == Some(mac)).then_some(MacUse::Bmc)
    }
}

/// What a known MAC belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacUse {
    /// A node's interface.
    Nic(NicRole),
    /// A node's BMC; it is offered nothing to boot.
    Bmc,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its address.
    pub mac: Mac,
    /// What it is for.
    pub role: NicRole,
}

/// What a network interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicRole {
    /// The node boots and reads its root through it.
    Boot,
    /// Ethernet for users.
    Data,
    /// InfiniBand.
    Ib,
}

/// How a node's power is switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "driver")]
pub enum PowerSpec {
    /// IPMI 2.0 over LAN.
    Ipmi {
        /// The BMC's address.
        address: IpAddr,
        /// Its UDP port, 623.
        port: u16,
        /// The BMC's own MAC, so that its DHCP requests are told apart from unknown machines.
        mac: Option<Mac>,
        /// The account.
        user: String,
        /// Where its password is.
        password: SecretRef,
        /// Where the BMC's own key K_g is, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kg: Option<SecretRef>,
        /// What haasd asks to be allowed.
        #[serde(default)]
        privilege: BmcPrivilege,
        /// The only cipher suite that may be used; none is the best that the BMC has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cipher_suite: Option<CipherSuite>,
    },
    /// Redfish over HTTPS.
    Redfish(RedfishSpec),
    /// Custom software (M8): a program with arguments, never a shell. It is called with one more
    /// argument: `on`, `off`, `soft`, `status`, `bootdev-pxe`.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A person presses the button.
    Manual,
}

/// A BMC that speaks Redfish, and how it is logged in to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedfishSpec {
    /// The BMC's address.
    pub address: IpAddr,
    /// Its TCP port, 443.
    pub port: u16,
    /// The BMC's own MAC.
    pub mac: Option<Mac>,
    /// The account.
    pub user: String,
    /// Where its password is.
    pub password: SecretRef,
    /// Which certificate it must have.
    pub tls: TlsTrust,
    /// The name in its certificate; none is its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The Id of the node's system, where the BMC has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What it is told to boot from when that is the network.
    #[serde(default)]
    pub network_boot: NetworkBoot,
    /// By what its serial console is had.
    #[serde(default)]
    pub console: ConsoleBy,
}

impl PowerSpec {
    /// The driver's name in nodes.toml.
    pub fn driver(&self) -> &'static str {
        match self {
            Self::Ipmi { .. } => "ipmi",
            Self::Redfish(_) => "redfish",
            Self::Exec { .. } => "exec",
            Self::Manual => "manual",
        }
    }

    /// The BMC's address, where there is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Ipmi { address, .. } | Self::Redfish(RedfishSpec { address, .. }) => {
                Some(*address)
            }
            Self::Exec { .. } | Self::Manual => None,
        }
    }

    /// The BMC's own MAC, where it is known.
    pub fn mac(&self) -> Option<Mac> {
        match self {
            Self::Ipmi { mac, .. } | Self::Redfish(RedfishSpec { mac, .. }) => *mac,
            Self::Exec { .. } | Self::Manual => None,
        }
    }

    /// Where its secrets are.
    pub fn secrets(&self) -> Vec<&SecretRef> {
        match self {
            Self::Ipmi { password, kg, .. } => {
                [Some(password), kg.as_ref()].into_iter().flatten().collect()
            }
            Self::Redfish(spec) => vec![&spec.password],
            Self::Exec { .. } | Self::Manual => Vec::new(),
        }
    }
}

/// Which certificate a BMC must have. There is no way to accept any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsTrust {
    /// The one with this SHA-256, 64 hexadecimal digits in lower case.
    Fingerprint(String),
    /// One that the authorities in this file vouch for.
    CaFile(PathBuf),
}

/// How a node boots from the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkBoot {
    /// PXE: DHCP and TFTP.
    #[default]
    Pxe,
    /// UEFI HTTP boot: DHCP and HTTP.
    Http,
}

/// By what the serial console of a node is had whose power is switched by Redfish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleBy {
    /// It has none.
    #[default]
    Nothing,
    /// IPMI's serial over LAN, at the same address and with the same account.
    Ipmi,
}

/// The privilege level of a session with a BMC. Both may switch power.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BmcPrivilege {
    /// OPERATOR.
    Operator,
    /// ADMINISTRATOR.
    #[default]
    Administrator,
}

/// A cipher suite of IPMI 2.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CipherSuite {
    /// HMAC-SHA1, AES-CBC-128.
    #[serde(rename = "3")]
    Three,
    /// HMAC-SHA256, AES-CBC-128.
    #[serde(rename = "17")]
    Seventeen,
}

/// Where a secret is, never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// The first line of this file.
    File(std::path::PathBuf),
    /// This environment variable of haasd.
    Env(String),
}

/// Which firmware boots a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PC BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// A node's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// As `uname -m` has it.
    pub fn machine(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

#[cfg(test)]
mod tests;
