//! A node's chassis: what a BMC acts on. `ipmi_sim` runs `haas-chassis CONFIG get|set ...` per command.
//!
//! Each call must be quick (ipmi_sim waits for it and ipmitool repeats itself after a second) and may
//! come twice. Power on starts a [`supervisor`], which starts QEMU, and starts it again when the guest
//! reboots, because the boot device is then chosen anew.

pub mod hub;
pub mod supervisor;

mod config;
mod log;
mod qemu;
mod qmp;
mod state;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

pub use config::{DiskConfig, NicConfig, NodeConfig};
pub use log::{Entry, read_log};
pub use state::{BootDevice, PowerCut};

use crate::process::Process;
use crate::sys;
use qmp::Qmp;
use state::State;

/// `get power` and the like: the lines that ipmi_sim expects.
pub fn get(node: &NodeConfig, what: &[String]) -> Result<String> {
    let state = State::load(node)?;
    let mut answer = String::new();
    for item in what {
        match item.as_str() {
            "power" => answer += &format!("power:{}\n", u8::from(state.is_on())),
            "boot" => answer += &format!("boot:{}\n", state.boot_device),
            other => bail!("ipmi_sim asks for {other:?}, which the chassis does not know"),
        }
    }
    Ok(answer)
}

/// `set power 1` and the like, in pairs. Each is logged before it is done, as often as it comes.
pub fn set(config_file: &Path, node: &NodeConfig, pairs: &[String]) -> Result<()> {
    for pair in pairs.chunks(2) {
        let [what, value] = pair else { bail!("{pair:?} lacks a value") };
        log::append(node, &format!("set {what} {value}"))?;
        // A slow BMC, for tests: ipmi_sim is deaf as long as we are busy.
        if let Ok(milliseconds) = std::fs::read_to_string(node.slow_file()) {
            std::thread::sleep(Duration::from_millis(milliseconds.trim().parse().unwrap_or(0)));
        }
        match (what.as_str(), value.as_str()) {
            ("power", "1") => power_on(config_file, node)?,
            ("power", "0") => state::cut_power(node)?,
            ("reset", "1") => tell_qemu(node, "system_reset")?,
            ("shutdown", "1") => tell_qemu(node, "system_powerdown")?,
            ("boot", device) => {
                let device = device.parse()?;
                State::change(node, |state| state.boot_device = device)?;
            }
            // "identify", and the zeros of the above: nothing to do.
            _ => {}
        }
    }
    Ok(())
}

fn power_on(config_file: &Path, node: &NodeConfig) -> Result<()> {
    State::change_with(node, |state| {
        if state.is_on() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(node.qemu_log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(config_file).arg("run");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        sys::keep_only_standard_streams(&mut command);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().context("cannot start the node's supervisor")?;
        state.supervisor = Process::of(child.id());
        Ok(())
    })
}

/// Plugs a disk of SCSI into a node that runs and has a controller for it, until it ends.
pub(crate) fn plug(node: &NodeConfig, file: &Path, serial: &str) -> Result<()> {
    let mut qemu = Qmp::connect(&node.qmp_socket(), Duration::from_secs(5))?;
    let drive = json!({ "driver": "raw", "node-name": serial,
        "file": { "driver": "file", "filename": file } });
    qemu.execute_with("blockdev-add", &drive)?;
    let disk = json!({ "driver": "scsi-hd", "bus": "scsi.0", "drive": serial, "serial": serial });
    qemu.execute_with("device_add", &disk)
}

/// A node that is off has nobody to tell, which is no error of the BMC.
fn tell_qemu(node: &NodeConfig, command: &str) -> Result<()> {
    if !State::load(node)?.is_on() {
        return Ok(());
    }
    Qmp::connect(&node.qmp_socket(), Duration::from_millis(700))?.execute(command)
}

/// The node sees the link of its card number `nic` come or go.
pub fn set_link(node: &NodeConfig, nic: usize, up: bool) -> Result<()> {
    let arguments = serde_json::json!({ "name": qemu::nic_id(nic), "up": up });
    Qmp::connect(&node.qmp_socket(), Duration::from_secs(5))?.execute_with("set_link", &arguments)
}
