//! A node is started from its own disk, once: haasd keeps its hands off what runs there, and has the
//! node again at its next boot.

use anyhow::{Result, ensure};
use tests::{Content, DiskHw, NodeHw, OldOs, Rack, RackSpec, files};

use crate::support::{BOOT, Lab, boots, with_lines};

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_boots_its_own_disk_once_and_is_taken_back() -> Result<()> {
    let old_os = Content::OldOs { marker: "OLD-OS".into(), then: OldOs::ObeysThePowerButton };
    let hardware = NodeHw {
        disks: vec![
            DiskHw { content: old_os, serial: Some("OLD1".into()), ..DiskHw::default() },
            DiskHw { serial: Some("NEW1".into()), ..DiskHw::default() },
        ],
        ..NodeHw::default()
    };
    Rack::with(RackSpec::new("boot-once", vec![hardware]), |rack| {
        let nodes = files::nodes_toml(rack)?;
        let nodes = with_lines(&nodes, "node1", "overlay_disk = { serial = \"NEW1\" }");
        let lab = Lab::start_with(rack, "", nodes)?;
        handed_over(&lab)?;
        taken_back(&lab)
    })
}

fn handed_over(lab: &Lab<'_>) -> Result<()> {
    lab.bring_up(&["node1"], "alice/work")?;
    lab.ssh("alice", "node1", "echo mine > /home/alice/file; sync")?;
    let node = lab.rack.node(1);
    let mark = node.console.mark();
    let plan = lab.ok(&["node", "boot", "node1", "disk", "--dry-run", "--force"])?.stdout;
    ensure!(plan.contains("its own disk, once"), "{plan}");
    lab.ok(&["node", "boot", "node1", "disk", "--force", "--wait"])?;
    node.console.wait_for("OLD-OS", mark, BOOT)?;
    ensure!(node.bmc.power_commands().off == 0, "what ran was not shut down in order");
    ensure!(lab.state("node1") == "handed-over", "{}", lab.node("node1")?);
    Ok(())
}

fn taken_back(lab: &Lab<'_>) -> Result<()> {
    lab.switch("node1", "alice/work")?;
    lab.wait_fault("node1", &["did not boot", "--force"])?;
    lab.ok(&["switch", "node1", "--image", "minimal", "--overlay", "alice/work", "--force"])?;
    lab.wait_ready("node1")?;
    ensure!(lab.rack.node(1).bmc.power_commands().off == 0, "the old system was cut off");
    ensure!(lab.ssh("alice", "node1", "cat /home/alice/file")? == "mine\n");
    let causes: Vec<_> = boots(lab, "node1")?.iter().map(|boot| boot["cause"].clone()).collect();
    ensure!(causes == ["desired", "handed-over", "desired"], "{causes:?}");
    Ok(())
}
