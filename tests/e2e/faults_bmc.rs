//! BMCs that are silent, slow, gone or refuse the password: the fault names the BMC, what was tried
//! and what to check, and no other node waits for it.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{NodeHw, PASSWORD, Rack, RackSpec, files};

use crate::support::{BOOT, Lab};

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_bmc_that_fails_is_told_of_and_holds_up_nobody_else() -> Result<()> {
    Rack::with(RackSpec::new("faults-bmc", vec![NodeHw::default(); 3]), |rack| {
        let nodes = files::nodes_toml(rack)?;
        let right = format!("power = {{ address = \"{}\" }}", rack.node(2).bmc.address.ip());
        ensure!(nodes.contains(&right), "the inventory names node2's BMC in another way");
        let wrong = right.replace(" }", ", password_file = \"bmc2-password\" }");
        fs::write(rack.dir().join("bmc2-password"), "mistyped")?;
        let config = "\n[boot]\nstage = \"2m\"\n";
        bmcs(&Lab::start_with(rack, config, nodes.replace(&right, &wrong))?)
    })
}

fn bmcs(lab: &Lab<'_>) -> Result<()> {
    let rack = lab.rack;
    rack.node(1).bmc.silence();
    lab.switch("node[1-3]", "none")?;
    // Both say at once what is wrong, while the third boots.
    lab.wait_reason("node2", &["10.77.0.102:623", "power", "wrong password", "check the file"])?;
    lab.wait_reason("node1", &["10.77.0.101:623", "power", "no answer", "check its address"])?;
    lab.wait_ready("node3")?;
    lab.wait_fault("node2", &["10.77.0.102:623", "wrong password", "check the file"])?;
    lab.wait_fault("node1", &["10.77.0.101:623", "no answer", "check its address"])?;
    let none = tests::PowerCommands::default();
    ensure!(rack.node(2).bmc.power_commands() == none, "a stranger was obeyed");

    // Mended, both go where they were sent; one of them comes back only during the switch.
    fs::write(rack.dir().join("bmc2-password"), PASSWORD)?;
    lab.switch("node[1-2]", "none")?;
    lab.wait_reason("node1", &["10.77.0.101:623", "no answer"])?;
    rack.node(1).bmc.resume();
    lab.wait_ready("node1")?;
    lab.wait_ready("node2")?;
    for number in [1, 2] {
        let commands = rack.node(number).bmc.power_commands();
        ensure!(commands.on == 1 && commands.off == 0, "node{number}: {commands:?}");
    }

    // A slow one is waited for, and one without power is no reason to lose a running node.
    rack.node(3).bmc.slow_down(Duration::from_millis(2500))?;
    lab.ok(&["power", "cycle", "node3", "--wait"])?;
    lab.wait_ready("node3")?;
    rack.node(3).bmc.slow_down(Duration::ZERO)?;
    rack.node(2).bmc.unplug();
    lab.ok(&["power", "off", "node2"])?;
    lab.wait_reason("node2", &["10.77.0.102:623", "nothing listens", "IPMI over LAN"])?;
    rack.node(2).bmc.plug_in()?;
    rack.wait_for("node2 to be off", BOOT, || lab.state("node2") == "off")?;
    ensure!(rack.node(2).bmc.power_commands().off == 0, "its power was cut: not an orderly end");
    Ok(())
}
