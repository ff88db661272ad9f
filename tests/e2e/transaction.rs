//! A switch as one transaction on the virtual rack: one node cannot, so all go back to what they ran,
//! and nobody was let in meanwhile.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{NodeHw, Output, Rack, RackSpec};

use crate::support::{BOOT, Lab, boots};

/// Succeeds on node 1 alone. Its time is long enough to look at the node that waits.
const CHECK: &str =
    r#"ready_checks = [{ command = ["sh", "-c", "test $(hostname) = node1"], within = "40s" }]"#;

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_too_few_nodes_take_the_whole_set_back_and_let_nobody_in() -> Result<()> {
    Rack::with(RackSpec::new("transaction", vec![NodeHw::default(); 2]), |rack| {
        let lab = Lab::start(rack)?;
        build_image_for_node_1(&lab)?;
        lab.bring_up(&["node1", "node2"], "alice/work")?;
        for node in ["node1", "node2"] {
            lab.ssh("alice", node, "echo kept > /home/alice/before && sync")?;
        }
        let switch = ["switch", "node[1-2]", "--image", "picky", "--overlay", "bob/work"];
        let begun = lab.json(&[&switch[..], &["--min-success", "100%", "--force"]].concat())?;
        let id = begun["id"].as_str().context("an operation has an id")?;
        wait(&lab, id, |operation| operation["nodes"][0]["state"] == "prepared")?;
        let closed = Output::of(&mut lab.ssh_command("root", "node1", "echo in")?)?;
        ensure!(closed.code != Some(0) && closed.stdout.is_empty(), "{closed:?}");

        let ended = wait(&lab, id, |operation| operation["state"] == "rolled-back")?;
        let reason = ended["reason"].as_str().unwrap_or_default();
        ensure!(reason == "1 of 2 nodes failed, and 2 (100%) must get there", "{ended}");
        let failure = ended["nodes"][1]["failure"].as_str().unwrap_or_default();
        ensure!(failure.contains("exit code 1"), "{ended}");
        for node in ["node1", "node2"] {
            lab.wait_ready(node)?;
            let kept = lab.ssh("alice", node, "cat /home/alice/before")?;
            ensure!(kept.trim() == "kept", "{node} has {kept:?}");
            let all = boots(&lab, node)?;
            ensure!(all.len() == 3, "{node} was booted {} times", all.len());
            let picky =
                all.iter().find(|boot| boot["what"].as_str().unwrap_or("").contains("picky"));
            let stages = picky.context("it has booted the new image")?["stages"].to_string();
            ensure!(!stages.contains("ready"), "{node} let users in: {stages}");
        }
        Ok(())
    })
}

/// `minimal`, which is not content on node 2.
fn build_image_for_node_1(lab: &Lab<'_>) -> Result<()> {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/minimal");
    let folder = lab.rack.dir().join("picky");
    Output::of(Command::new("cp").arg("-a").arg(recipe).arg(&folder))?.ok()?;
    let file = folder.join("recipe.toml");
    let text = fs::read_to_string(&file)?;
    fs::write(&file, text.replacen("\npackages", &format!("\n{CHECK}\n\npackages"), 1))?;
    let folder = folder.to_str().context("the rack's directory is plain text")?;
    lab.ok(&["image", "build", folder, "--name", "picky"])?;
    Ok(())
}

/// Waits for the operation to be as is wanted, and answers it.
fn wait(lab: &Lab<'_>, id: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = lab.rack.wait_for(&format!("the operation {id}"), 2 * BOOT, || {
        last = lab.json(&["operation", "show", id]).unwrap_or_default();
        is_so(&last)
    });
    waited.with_context(|| last.to_string())?;
    Ok(last)
}
