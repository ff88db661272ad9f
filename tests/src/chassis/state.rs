//! What a chassis remembers between two calls: whether it is on, and the boot device of the next start.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::config::NodeConfig;
use crate::process::Process;

/// The boot device that IPMI's boot options name; it holds for one start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootDevice {
    /// No override: the disk first.
    #[default]
    None,
    /// The network first.
    Pxe,
    /// The disk first, asked for.
    Default,
    Cdrom,
    Bios,
}

impl BootDevice {
    /// The firmware tries the NIC before the disk.
    pub(super) fn is_network(self) -> bool {
        self == BootDevice::Pxe
    }
}

impl fmt::Display for BootDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BootDevice::None => "none",
            BootDevice::Pxe => "pxe",
            BootDevice::Default => "default",
            BootDevice::Cdrom => "cdrom",
            BootDevice::Bios => "bios",
        })
    }
}

impl FromStr for BootDevice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<BootDevice> {
        Ok(match text {
            "none" => BootDevice::None,
            "pxe" => BootDevice::Pxe,
            "default" => BootDevice::Default,
            "cdrom" => BootDevice::Cdrom,
            "bios" => BootDevice::Bios,
            other => bail!("ipmi_sim names the unknown boot device {other:?}"),
        })
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) boot_device: BootDevice,
    /// The process that keeps QEMU; the node is on as long as it lives.
    pub(super) supervisor: Option<Process>,
    pub(super) qemu: Option<Process>,
    /// How often QEMU was started.
    #[serde(default)]
    pub(super) starts: usize,
}

impl State {
    pub(super) fn load(node: &NodeConfig) -> Result<State> {
        State::change_with(node, |state| Ok(state.clone()))
    }

    pub(super) fn change(node: &NodeConfig, change: impl FnOnce(&mut State)) -> Result<()> {
        State::change_with(node, |state| {
            change(state);
            Ok(())
        })
    }

    /// Reads, changes and writes the state while no other process does.
    pub(super) fn change_with<T>(
        node: &NodeConfig,
        change: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let path = node.state_file();
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // Empty at first, or half written by a call that was killed: then the node is off.
        let mut state: State = serde_json::from_str(&text).unwrap_or_default();
        let result = change(&mut state)?;
        let new = serde_json::to_string(&state)?;
        if new != text {
            file.seek(SeekFrom::Start(0))?;
            file.set_len(0)?;
            file.write_all(new.as_bytes())?;
        }
        Ok(result)
    }

    pub(super) fn is_on(&self) -> bool {
        self.supervisor.is_some_and(Process::is_alive)
    }
}

/// Ends the node at once, as when its plug is pulled. Returns when QEMU is gone.
pub(super) fn cut_power(node: &NodeConfig) -> Result<()> {
    State::change_with(node, |state| {
        for process in [state.supervisor.take(), state.qemu.take()].into_iter().flatten() {
            if !process.kill_and_wait(Duration::from_secs(5)) {
                bail!("{} does not end although it was killed", node.name);
            }
        }
        Ok(())
    })
}

/// A power cut that the BMC does not know of, for tests.
#[derive(Debug)]
pub struct PowerCut;

impl PowerCut {
    /// Pulls the node's plug.
    pub fn strike(node: &NodeConfig) -> Result<()> {
        cut_power(node)
    }
}
