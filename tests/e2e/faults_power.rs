//! How a node ends: in order whenever it can, with all that was written, and hard only when neither
//! its agent nor ACPI gets an answer.

use anyhow::{Context, Result, ensure};
use tests::{NodeHw, Rack, RackSpec, files, wait_for};

use crate::support::{BOOT, Lab};

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_ends_in_order_if_it_can_and_hard_if_it_hangs() -> Result<()> {
    Rack::with(RackSpec::new("faults-power", vec![NodeHw::default(); 2]), |rack| {
        let config = "\n[boot]\nshutdown = \"12s\"\n";
        let lab = Lab::start_with(rack, config, files::nodes_toml(rack)?)?;
        lab.switch("node[1-2]", "alice/work")?;
        lab.wait_ready("node1")?;
        lab.wait_ready("node2")?;
        while_writing(&lab)?;
        hung(&lab)?;
        button(&lab)
    })
}

/// `power off` while a user's program writes: what it has synced is there, and nothing was cut.
fn while_writing(lab: &Lab<'_>) -> Result<()> {
    let begin = "echo precious > /home/alice/synced && sync /home/alice/synced && \
                 (trap '' HUP; dd if=/dev/zero of=/home/alice/big bs=1M count=400 > /dev/null 2>&1 &) ; \
                 while [ ! -s /home/alice/big ]; do sleep 0.1; done";
    lab.ssh("alice", "node1", begin)?;
    lab.ok(&["power", "off", "node1", "--force", "--wait"])?;
    let commands = lab.rack.node(1).bmc.power_commands();
    ensure!(commands.off == 0 && commands.soft == 0, "not in order: {commands:?}");
    let log = lab.haasd.log();
    let goodbye = log.lines().rfind(|line| line.contains("the agent said goodbye"));
    let goodbye = goodbye.context("no goodbye was logged")?;
    ensure!(goodbye.contains("true"), "the store was not closed cleanly: {goodbye}");
    Ok(())
}

/// A kernel that has crashed hears neither its agent's channel nor the power button.
fn hung(lab: &Lab<'_>) -> Result<()> {
    let node = lab.rack.node(2);
    let crash = "echo 0 > /proc/sys/kernel/panic; sleep 1; echo c > /proc/sysrq-trigger";
    let mut ssh = lab.ssh_command("root", "node2", crash)?.spawn()?;
    let crashed = node.console.wait_for("Kernel panic", Default::default(), BOOT);
    ssh.kill()?;
    ssh.wait()?;
    crashed?;
    lab.ok(&["power", "off", "node2", "--force", "--wait"])?;
    let commands = node.bmc.power_commands();
    ensure!((commands.soft, commands.off) == (1, 1), "first soft, then hard, once: {commands:?}");
    ensure!(!node.is_on()?);
    Ok(())
}

/// Somebody asks the BMC for a soft off behind haasd's back: the agent hears the button.
fn button(lab: &Lab<'_>) -> Result<()> {
    let node = lab.rack.node(1);
    lab.ok(&["power", "on", "node1", "--wait"])?;
    lab.wait_ready("node1")?;
    let kept = lab.ssh("alice", "node1", "cat /home/alice/synced; rm /home/alice/big")?;
    ensure!(kept.trim() == "precious", "{kept}");
    lab.ssh("alice", "node1", "echo pressed > /home/alice/last")?;
    node.bmc.ipmitool(&["chassis", "power", "soft"])?;
    node.wait_off(BOOT)?;
    // It stays off: who shut it down meant it.
    wait_for("haasd to see it", BOOT, || {
        let show = lab.node("node1").unwrap_or_default();
        show["state"] == "off" && show["reason"].as_str().is_some_and(|r| r.contains("shut down"))
    })?;
    ensure!(node.bmc.power_commands().off == 0);
    lab.ok(&["power", "cycle", "node1", "--wait"])?;
    lab.wait_ready("node1")?;
    let kept = lab.ssh("alice", "node1", "cat /home/alice/last")?;
    ensure!(kept.trim() == "pressed", "what was not synced was lost by an orderly end: {kept}");
    Ok(())
}
