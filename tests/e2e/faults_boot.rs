//! Nodes that do not boot, or boot something else: the fault names the stage and what to look at,
//! nothing is wiped or reset, and once mended a switch works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Content, DiskHw, NodeHw, OldOs, Rack, RackSpec, files};

use crate::support::{BOOT, Lab, boots, with_lines};

/// Short, so that the test is; a healthy boot needs a fraction of it.
const LIMITS: &str =
    "\n[boot]\nfirmware = \"60s\"\nstage = \"50s\"\ntotal = \"120s\"\nshutdown = \"10s\"\n";
/// No init in the initramfs, no root to fall back to: the kernel panics and reboots at once.
const PANICS: &str = "kernel_args = [\"console=ttyS0,115200\", \"rdinit=/nowhere\", \"panic=1\"]";

fn old(then: OldOs) -> NodeHw {
    let content = Content::OldOs { marker: "OLD-OS-RUNS".into(), then };
    NodeHw { disks: vec![DiskHw { content, ..DiskHw::default() }], ..NodeHw::default() }
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_that_boots_nothing_or_something_else_is_left_as_it_is() -> Result<()> {
    let nodes = vec![old(OldOs::Hangs), old(OldOs::Hangs), NodeHw::default(), NodeHw::default()];
    Rack::with(RackSpec::new("faults-boot", nodes), |rack| {
        let nodes = files::nodes_toml(rack)?;
        let lab = Lab::start_with(rack, LIMITS, with_lines(&nodes, "node3", PANICS))?;
        let disks = [rack.node(1).disks[0].fingerprint()?, rack.node(2).disks[0].fingerprint()?];
        rack.node(1).cut_link()?;
        rack.node(2).cut_link()?;
        lab.switch("node[1-4]", "none")?;
        boots_elsewhere(&lab)?;
        in_use(&lab)?;
        never_boots(&lab)?;
        panics(&lab)?;
        for (number, before) in [1, 2].into_iter().zip(disks) {
            let now = rack.node(number).disks[0].fingerprint()?;
            ensure!(now == before, "the old system's disk of node{number} was written to");
        }
        mended(&lab)
    })
}

/// Long enough for a minute without a cable, and short enough that a hanging firmware is given up soon.
const PATIENT: &str =
    "\n[boot]\nfirmware = \"60s\"\nstage = \"150s\"\ntotal = \"400s\"\nshutdown = \"10s\"\n";

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_that_hangs_in_its_firmware_or_loses_its_cable_in_a_boot_comes_up_by_itself()
-> Result<()> {
    Rack::with(RackSpec::new("heals", vec![NodeHw::default(); 2]), |rack| {
        let lab = Lab::start_with(rack, PATIENT, files::nodes_toml(rack)?)?;
        // Once it is known what is on a node's disks, it is tried again where its firmware hangs.
        lab.bring_up(&["node1"], "alice/work")?;
        lab.ok(&["power", "off", "node1", "--wait"])?;
        rack.node(1).cut_link()?;
        lab.ok(&["power", "on", "node1"])?;
        hangs_in_firmware(&lab)?;
        cable_in_a_boot(&lab)
    })
}

/// Its firmware hears nothing, and stands there. haasd gives it up and begins anew from off.
fn hangs_in_firmware(lab: &Lab<'_>) -> Result<()> {
    let rack = lab.rack;
    rack.wait_for("the first try to be given up", BOOT, || {
        let failed = |boot: &serde_json::Value| boot["state"] == "failed";
        boots(lab, "node1").is_ok_and(|boots| boots.iter().any(failed))
    })?;
    rack.node(1).mend_link()?;
    lab.wait_ready("node1")?;
    let tried = boots(lab, "node1")?;
    let why = tried.iter().find(|boot| boot["state"] == "failed").context("one has failed")?;
    let text = why["failure"].as_str().unwrap_or_default();
    ensure!(text.contains("has not asked the network"), "{why}");
    let commands = rack.node(1).bmc.power_commands();
    ensure!((commands.on, commands.off) == (3, 1), "cut once, and on again: {commands:?}");
    Ok(())
}

/// Nobody notices more of it than that the boot takes a minute longer.
fn cable_in_a_boot(lab: &Lab<'_>) -> Result<()> {
    let rack = lab.rack;
    lab.switch("node2", "none")?;
    rack.wait_for("node2 to have its kernel", BOOT, || {
        let node = lab.node("node2").unwrap_or_default();
        ["kernel", "agent"].map(Some).contains(&node["observed"]["stage"].as_str())
    })?;
    rack.node(2).cut_link()?;
    // The length of the outage is what is asked for.
    std::thread::sleep(Duration::from_secs(60));
    ensure!(lab.state("node2") == "switching", "{}", lab.node("node2")?);
    rack.node(2).mend_link()?;
    lab.wait_ready("node2")?;
    let tried = boots(lab, "node2")?;
    ensure!(tried.len() == 1, "it was booted anew: {tried:?}");
    let commands = rack.node(2).bmc.power_commands();
    ensure!((commands.on, commands.off) == (1, 0), "{commands:?}");
    Ok(())
}

/// An image that nodes are booting cannot be removed, and they do boot it.
fn in_use(lab: &Lab<'_>) -> Result<()> {
    let text = lab.refused(5, &["image", "rm", "minimal", "--yes"])?;
    ensure!(text.contains("minimal") && text.contains("node4"), "{text}");
    lab.wait_ready("node4")?;
    lab.refused(5, &["image", "rm", "minimal", "--yes"])?;
    Ok(())
}

/// The old system on node2 comes up and asks for an address, as installed systems do.
fn boots_elsewhere(lab: &Lab<'_>) -> Result<()> {
    let rack = lab.rack;
    rack.node(2).console.wait_for("OLD-OS-RUNS", Default::default(), BOOT)?;
    let run = |line: &str| -> Result<()> {
        let mut words = line.split(' ');
        let output = rack.command(words.next().unwrap_or_default()).args(words).output()?;
        ensure!(output.status.success(), "{line}: {output:?}");
        Ok(())
    };
    // Its NIC as the network sees it, with a real DHCP client behind it.
    run("ip link add oldos type veth peer name oldos-port")?;
    run(&format!("ip link set oldos address {} up", rack.node(2).mac))?;
    run("ip link set oldos-port master br0 up")?;
    let client = rack
        .command("busybox")
        .args(["udhcpc", "-i", "oldos", "-n", "-q"])
        .args(["-s", "/bin/true", "-t", "10"])
        .output()?;
    lab.wait_fault("node2", &["node2", "its own disk", "network boot first"])
        .with_context(|| format!("{client:?}"))?;
    run("ip link del oldos")
}

fn never_boots(lab: &Lab<'_>) -> Result<()> {
    let why = lab.wait_fault("node1", &["firmware", "node1", "has not asked the network"])?;
    ensure!(why.contains("own disk") && why.contains("NIC"), "{why}");
    // What runs there now may be somebody's: it was switched on once, and nothing more.
    for number in [1, 2] {
        let commands = lab.rack.node(number).bmc.power_commands();
        let told = (commands.on, commands.off, commands.reset, commands.soft);
        ensure!(told == (1, 0, 0, 0), "node{number}: {commands:?}");
        ensure!(lab.rack.node(number).is_on()?);
    }
    Ok(())
}

fn panics(lab: &Lab<'_>) -> Result<()> {
    lab.rack.node(3).console.wait_for("Kernel panic", Default::default(), BOOT)?;
    lab.wait_fault("node3", &["kernel", "no agent called", "console", "2 attempts"])?;
    let tried = boots(lab, "node3")?;
    ensure!(tried.len() == 2, "it was not tried again, or too often: {tried:?}");
    Ok(())
}

fn mended(lab: &Lab<'_>) -> Result<()> {
    lab.rack.node(1).mend_link()?;
    lab.rack.node(2).mend_link()?;
    let file = lab.haasd.write("mended.toml", files::nodes_toml(lab.rack)?)?;
    lab.ok(&["node", "apply", file.to_str().context("plain text")?, "--yes"])?;
    lab.bring_up(&["node3"], "none")?;
    // Whatever runs on the other two is ended by force only, and asked before it is cut off.
    lab.switch("node[1-2]", "none")?;
    for number in [1, 2] {
        let node = lab.rack.node(number);
        lab.wait_fault(&node.name, &["runs something that haas did not boot", "--force"])?;
        ensure!(node.bmc.power_commands().off == 0, "{} was cut off", node.name);
    }
    lab.ok(&["switch", "node[1-2]", "--image", "minimal", "--overlay", "none", "--force"])?;
    for number in [1, 2] {
        let node = lab.rack.node(number);
        lab.wait_ready(&node.name)?;
        let commands = node.bmc.power_commands();
        ensure!(commands.soft == 1 && commands.off >= 1, "{}: {commands:?}", node.name);
    }
    Ok(())
}
