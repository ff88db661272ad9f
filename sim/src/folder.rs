//! A node's folder: who it is, how it is to behave, and what happened to it.
//!
//! Tests and node talk only through these files, so either may die at any time.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use haas_api::{
    agent::BootStage,
    baseline::{Facts, Part},
    hardware::{Cpu, Dimm, DiskDrive, Inventory, Level, NicPort, Smart, System},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Who a node is. Written once, before it is first switched on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Its MAC, `52:54:00:77:00:01`.
    pub mac: String,
    /// Its network namespace, a file of /run/netns; its NIC there is `eth0`.
    pub netns: String,
    /// A file that is locked as long as the node may live; it ends with the lock's owner.
    pub owner: Option<PathBuf>,
}

/// How a node behaves. May be changed at any time; the node looks again at each step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Its firmware hangs: the network hears nothing of it.
    pub never_boots: bool,
    /// It boots what is on its disk: an installed system that asks for an address.
    pub boots_disk: bool,
    /// It loses power on the way to this stage.
    pub dies_before: Option<BootStage>,
    /// It hangs on the way to this stage.
    pub hangs_before: Option<BootStage>,
    /// What its proof says wrong.
    pub lie: Option<Lie>,
    /// Who is logged in.
    pub logins: Vec<String>,
    /// Its agent does not shut down when haasd says so.
    pub ignores_shutdown: bool,
    /// It does not obey ACPI's button.
    pub ignores_soft: bool,
    /// How long its dirty pages take to be written back when it shuts down, in seconds.
    pub dirty_s: u64,
    /// Whether its agent can start another kernel, and what comes of it.
    pub kexec: Kexec,
    /// What its agent says of its hardware; none: [`Folder::inventory`] makes something up.
    pub inventory: Option<Inventory>,
    /// What its agent says of its firmware; none: [`Folder::baseline`] makes something up.
    pub baseline: Option<Facts>,
    /// What its BMC does.
    pub bmc: Bmc,
}

/// What comes of it when an agent is to start another kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kexec {
    /// Its agent is of a version that knows nothing of it.
    #[default]
    Unknown,
    /// It starts it.
    Works,
    /// Its kernel does not load it.
    Refused,
    /// The kernel that it starts hangs.
    Hangs,
}

/// What a proof may say wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// Another image's disk.
    Image,
    /// Another overlay.
    Overlay,
    /// Another place in the overlay.
    Rank,
    /// Another node's name.
    Hostname,
    /// An image's disk that is writable.
    Writable,
}

/// What a BMC does with commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bmc {
    /// It obeys.
    #[default]
    Works,
    /// It answers with an error.
    Fails,
    /// It does not answer.
    Hangs,
    /// It says that it did, and did not switch off.
    OffIsStuck,
}

/// One command that the BMC was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerLine {
    /// Milliseconds since 1970.
    pub at_ms: u128,
    /// `on`, `off`, `soft`, `status`, `bootdev-pxe` or `bootdev-disk`.
    pub verb: String,
}

/// The file by which root on a node speaks in its agent's name.
const FORGED: &str = "forged.json";

/// A node of today's size; serial numbers are its own.
fn made_up(mac: &str) -> Inventory {
    let own: String = mac.split(':').skip(3).collect();
    let text = |text: &str| Some(text.to_owned());
    let dimm = |slot: &str| Dimm {
        slot: slot.to_owned(),
        size: 32 << 30,
        kind: text("DDR5"),
        speed_mts: Some(4_800),
        vendor: text("Sim Works"),
        part: text("SIM-32G"),
        serial: Some(format!("{slot}-{own}")),
    };
    let cpu = |socket| Cpu { socket, model: "Sim CPU 9000".to_owned(), cores: 16, threads: 32 };
    Inventory {
        system: System {
            vendor: text("Sim Works"),
            product: text("SIM-2000"),
            serial: Some(format!("SN-{own}")),
            firmware: text("1.0"),
            ..System::default()
        },
        cpus: vec![cpu(0), cpu(1)],
        memory: 63 << 30,
        dimms: vec![dimm("A1"), dimm("A3")],
        disks: vec![DiskDrive {
            name: "nvme0n1".to_owned(),
            model: text("Sim NVMe"),
            serial: Some(format!("D-{own}")),
            size: 960_000_000_000,
            transport: "nvme".to_owned(),
            smart: Smart { level: Level::Ok, ..Smart::default() },
            ..DiskDrive::default()
        }],
        nics: vec![NicPort {
            name: "eth0".to_owned(),
            mac: mac.to_owned(),
            driver: text("veth"),
            speed_mbps: Some(10_000),
            ..NicPort::default()
        }],
        pci: Vec::new(),
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which exists.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes the folder of a new node, which is off.
    pub fn create(path: impl Into<PathBuf>, config: &NodeConfig) -> Result<Self> {
        let folder = Self::new(path);
        fs::create_dir_all(&folder.path)?;
        folder.write("node.json", config)?;
        folder.set_behaviour(&Behaviour::default())?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who the node is.
    pub fn config(&self) -> Result<NodeConfig> {
        self.read("node.json")?.context("the folder has no node.json")
    }

    /// How it is to behave now.
    pub fn behaviour(&self) -> Result<Behaviour> {
        Ok(self.read("behaviour.json")?.unwrap_or_default())
    }

    /// Has it behave so from now on.
    pub fn set_behaviour(&self, behaviour: &Behaviour) -> Result<()> {
        self.write("behaviour.json", behaviour)
    }

    /// What its agent says of its hardware in each boot.
    pub fn inventory(&self) -> Result<Inventory> {
        match self.behaviour()?.inventory {
            Some(inventory) => Ok(inventory),
            None => Ok(made_up(&self.config()?.mac)),
        }
    }

    /// What its agent says of its firmware and of what it starts from.
    pub fn baseline(&self) -> Result<Facts> {
        let named = |told: &[(&str, &str)]| {
            told.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Ok(self.behaviour()?.baseline.unwrap_or_else(|| {
            Facts::from([
                (Part::Firmware, named(&[("mode", "BIOS"), ("version", "1.0")])),
                (Part::BootCode, named(&[("D-1", "nothing to start")])),
            ])
        }))
    }

    /// Has root on the node say this of the hardware in the agent's name, while it runs.
    pub fn forge(&self, inventory: &Inventory) -> Result<()> {
        self.write(FORGED, inventory)
    }

    /// What root on the node wants to be said, once.
    pub(crate) fn take_forged(&self) -> Result<Option<Inventory>> {
        let forged = self.read(FORGED)?;
        if forged.is_some() {
            fs::remove_file(self.path.join(FORGED))?;
        }
        Ok(forged)
    }

    /// Every power command so far, in order.
    pub fn power_lines(&self) -> Vec<PowerLine> {
        let text = fs::read_to_string(self.path.join("power.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let (at, verb) = line.split_once(' ')?;
                Some(PowerLine { at_ms: at.parse().ok()?, verb: verb.to_owned() })
            })
            .collect()
    }

    /// What the node did, for tests and people: `admitted`, `boot generation=3 …`.
    pub fn diary(&self) -> String {
        fs::read_to_string(self.path.join("diary")).unwrap_or_default()
    }

    pub(crate) fn note(&self, what: &str) -> Result<()> {
        self.append("diary", what)
    }

    pub(crate) fn append(&self, name: &str, what: &str) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let mut file = File::options().create(true).append(true).open(self.path.join(name))?;
        // One write, so that lines of several processes never mix.
        Ok(file.write_all(format!("{now} {what}\n").as_bytes())?)
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let parsed = serde_json::from_slice(&bytes);
                Ok(Some(parsed.with_context(|| format!("cannot read {}", path.display()))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes a file whole or not at all.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let new = self.path.join(format!("{name}.{}", std::process::id()));
        fs::write(&new, serde_json::to_vec_pretty(value)?)?;
        Ok(fs::rename(new, self.path.join(name))?)
    }
}
