//! What the chassis program must know about its node: a JSON file in the rack's work directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::hardware::{DiskModel, Firmware, NicModel};

/// One node, as the rack built it. All its files lie in `dir` and begin with its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    pub name: String,
    /// Counts from 1.
    pub number: usize,
    pub dir: PathBuf,
    /// Whoever locks this file owns the rack; when the lock falls, the node ends. None: it stays up.
    pub owner: Option<PathBuf>,
    pub firmware: Firmware,
    pub memory_mib: u32,
    pub nics: Vec<NicConfig>,
    /// The card that the firmware tries first.
    pub first_nic: usize,
    pub disks: Vec<DiskConfig>,
    pub shuffled_disks: bool,
    /// Seconds between power-on and the firmware's first instruction.
    pub self_test: u32,
    /// QEMU's `-rtc base=`.
    pub clock: Option<String>,
    /// Where the [`super::hub`] serves the serial line, for the BMC's serial over LAN.
    pub serial: SocketAddr,
}

/// A network card, as QEMU must know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NicConfig {
    pub tap: String,
    pub mac: String,
    pub model: NicModel,
}

/// A disk, as QEMU must know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskConfig {
    pub file: PathBuf,
    pub serial: Option<String>,
    pub model: DiskModel,
    pub read_only: bool,
}

impl NodeConfig {
    pub fn read(path: &Path) -> Result<NodeConfig> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the node's config {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no node config", path.display()))
    }

    /// The console log.
    pub fn console(&self) -> PathBuf {
        self.file("serial")
    }
    pub fn config_file(&self) -> PathBuf {
        self.file("json")
    }
    /// The set commands that the BMC passed on.
    pub fn command_log(&self) -> PathBuf {
        self.dir.join(format!("bmc-{}.log", self.number))
    }
    /// Milliseconds that each set command takes; absent: none.
    pub fn slow_file(&self) -> PathBuf {
        self.file("slow")
    }
    /// UEFI's variables, which the firmware keeps over power cuts.
    pub fn uefi_variables(&self) -> PathBuf {
        self.file("uefi-variables")
    }
    pub(super) fn tty_socket(&self) -> PathBuf {
        self.file("tty")
    }
    pub(super) fn qemu_log(&self) -> PathBuf {
        self.file("qemu.log")
    }
    pub(super) fn qmp_socket(&self) -> PathBuf {
        self.file("qmp")
    }
    pub(super) fn events_socket(&self) -> PathBuf {
        self.file("events")
    }
    pub(super) fn state_file(&self) -> PathBuf {
        self.file("power")
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", self.name))
    }
}
