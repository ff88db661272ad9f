//! A controller is lost with all that it had, and another one goes on from the backup that the page on
//! operations makes.

use std::fs;

use anyhow::{Context, Result, ensure};
use haas_api::node::NodeState;
use haas_api::overlay::NewOverlay;
use serde_json::Value;
use tests::pages::pages;
use tests::{Output, built};

use crate::rack::{Controller, LONG, PATIENT, SimRack, copy_tree};

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_nodes_run_on_under_a_controller_that_was_restored_from_its_backup() -> Result<()> {
    let sim = SimRack::start("backup", 2)?;
    let mut haas = sim.haasd(PATIENT)?;
    let (state, backup) = (sim.rack.dir().join("state"), sim.rack.dir().join("backup"));
    let token = fs::read_to_string(state.join("admin.token"))?;
    haas.switched("n[1-2]", "a")?;

    let before = stores(&sim)?;

    fs::create_dir_all(&backup)?;
    for line in backup_lines()? {
        let line = line.replace("/var/lib/haas", &state.to_string_lossy());
        let line = line.replace("/backup", &backup.to_string_lossy());
        let mut shell = sim.rack.command("sh");
        Output::of(shell.args(["-c", &line]))?.ok().with_context(|| line.clone())?;
    }
    // What comes after the backup is forgotten.
    let later =
        NewOverlay { owner: None, name: "later".parse().map_err(|e| anyhow::anyhow!("{e}"))? };
    haas.api(async |client| client.new_overlay(&later).await)??;
    ensure!(overlays(&haas)?.contains(&"later".to_owned()));

    haas.haasd.kill()?;
    fs::remove_dir_all(&state)?;
    copy_tree(&backup, &state)?;
    let mut check = sim.rack.command(built("haasd")?);
    check.arg("--config").arg(sim.rack.dir().join("haasd.toml")).arg("check");
    Output::of(check.current_dir(sim.rack.dir()))?.ok()?;
    haas.haasd.launch()?;
    // The admin has it elsewhere.
    fs::write(state.join("admin.token"), token)?;

    haas.until("both nodes to be ready under the new controller", LONG, || {
        let nodes = [haas.node("n1")?, haas.node("n2")?];
        Ok(nodes.iter().all(|node| node.state == NodeState::Ready).then_some(()))
    })?;
    ensure!(sim.count("on") == [1, 1], "running nodes were powered: {:?}", sim.count("on"));
    let found = overlays(&haas)?;
    ensure!(found == ["a", "b"], "{found:?}");
    // The stores on the nodes' disks are known: no node is held, and none begins empty.
    haas.switched("n[1-2]", "b")?;
    haas.switched("n[1-2]", "a")?;
    ensure!(stores(&sim)? == before, "stores were made anew");
    Ok(())
}

/// The commands by which the page makes a backup.
fn backup_lines() -> Result<Vec<String>> {
    let pages = pages()?;
    let page = pages.iter().find(|page| page.name == "docs/operations.md");
    let blocks = page.context("there is no docs/operations.md")?.blocks("sh");
    let block = blocks.into_iter().find(|(_, text)| text.contains(".backup"));
    let (_, text) = block.context("docs/operations.md makes no backup")?;
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    ensure!(lines.len() > 2, "{lines:?}");
    Ok(lines)
}

/// The ids of the stores on the nodes' disks.
fn stores(sim: &SimRack) -> Result<Vec<Value>> {
    let read = |node: &sim::Folder| -> Result<Value> {
        let disk: Value = serde_json::from_slice(&fs::read(node.path().join("disk.json"))?)?;
        Ok(disk["store_id"].clone())
    };
    sim.nodes.iter().map(read).collect()
}

fn overlays(haas: &Controller<'_>) -> Result<Vec<String>> {
    let all = haas.api(async |client| client.overlays().await)??;
    let mut names: Vec<_> = all.into_iter().map(|overlay| overlay.name.to_string()).collect();
    names.sort();
    Ok(names)
}
