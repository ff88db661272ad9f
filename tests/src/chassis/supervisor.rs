//! Keeps one powered node: starts QEMU, and again after each reset, until the guest powers off.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::config::NodeConfig;
use super::qemu;
use super::qmp::Qmp;
use super::state::State;
use crate::process::Process;
use crate::sys;

/// Runs until the node is off. QEMU dies with this process, and this process with the rack's owner.
pub fn run(node: &NodeConfig) -> Result<()> {
    end_with_owner(node)?;
    loop {
        let mut qemu = start(node)?;
        if node.self_test > 0 {
            let node = node.clone();
            std::thread::spawn(move || let_go(&node));
        }
        let reason = watch(node, &mut qemu)?;
        let status = qemu.wait()?;
        match reason.as_deref() {
            // The guest's reboot and the BMC's reset.
            Some("guest-reset" | "host-qmp-system-reset") => {}
            Some("guest-shutdown") => return Ok(()),
            other => bail!("QEMU of {} ended ({status}), reason {other:?}", node.name),
        }
    }
}

/// Starts QEMU with the stored boot device, which is thereby spent.
fn start(node: &NodeConfig) -> Result<Child> {
    State::change_with(node, |state| {
        let device = std::mem::take(&mut state.boot_device);
        for socket in [node.qmp_socket(), node.events_socket()] {
            // Left by the QEMU before; a connect to it would fail at once instead of waiting.
            let _ = std::fs::remove_file(socket);
        }
        let mut console = File::options().create(true).append(true).open(node.console())?;
        writeln!(console, "\n[rack] {} starts, boot device {device}", node.name)?;
        let mut command = qemu::command(node, device.is_network(), state.starts);
        state.starts += 1;
        command.stdin(Stdio::null());
        // This is the main thread, which lives as long as the process.
        sys::die_with_parent(&mut command, Signal::SIGKILL);
        let child = command.spawn().context("cannot run qemu-system-x86_64")?;
        state.qemu = Process::of(child.id());
        Ok(child)
    })
}

/// Ends the self test.
fn let_go(node: &NodeConfig) {
    std::thread::sleep(Duration::from_secs(node.self_test.into()));
    let goes = Qmp::connect(&node.qmp_socket(), Duration::from_secs(5));
    if let Err(error) = goes.and_then(|mut qemu| qemu.execute("cont")) {
        // This goes into QEMU's log; the test sees a node that never boots.
        eprintln!("{} stays in its self test: {error:#}", node.name);
    }
}

fn watch(node: &NodeConfig, qemu: &mut Child) -> Result<Option<String>> {
    match Qmp::connect(&node.events_socket(), Duration::from_secs(20)) {
        Ok(events) => events.shutdown_reason(),
        Err(error) => {
            // Usually QEMU has ended already and said why in its log.
            let _ = qemu.kill();
            Err(error)
        }
    }
}

/// Ends this process (and so QEMU) as soon as nobody owns the rack any more, even by kill -9.
fn end_with_owner(node: &NodeConfig) -> Result<()> {
    let Some(owner) = node.owner.as_ref() else { return Ok(()) };
    let lock = File::open(owner).with_context(|| format!("no owner file {}", owner.display()))?;
    std::thread::spawn(move || {
        // Granted only when the owner has let go.
        let _ = lock.lock_shared();
        std::process::exit(0);
    });
    Ok(())
}
