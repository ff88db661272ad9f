//! Machines that haasd must leave alone, and an inventory that changes under running nodes.

use anyhow::{Context, Result, ensure};
use haas_api::node::{ApplyRequest, NodeState};
use tests::built;

use crate::rack::{LONG, PATIENT, SimRack};

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn strangers_and_unmanaged_nodes_are_offered_nothing_until_they_are_given() -> Result<()> {
    let sim = SimRack::start("inventory", 3)?;
    let haas = sim.haasd_with(PATIENT, &[1, 2])?;
    haas.manage("n1", true)?;
    haas.switched("n1", "a")?;
    let program = built("haas-sim-node")?;
    // Persons press the buttons of an unmanaged node and of a machine in no inventory.
    sim::power::on(sim.node(2), &program)?;
    sim::power::on(sim.node(3), &program)?;
    let discovered = haas.until("the stranger to be discovered", LONG, || {
        let seen = haas.api(async |client| client.discovered().await)??;
        Ok(seen.into_iter().find(|d| d.mac.to_string() == "52:54:00:77:01:03"))
    })?;
    let stanza = discovered.stanza.clone().context("a node has a stanza")?;
    ensure!(discovered.kind == "node" && discovered.description.contains("iPXE"), "{discovered:?}");
    // Several DISCOVERs of each went unanswered.
    haas.until("both to have asked more than once", LONG, || {
        let seen = haas.api(async |client| client.discovered().await)??;
        let again = seen.iter().any(|d| d.last_seen != d.first_seen);
        Ok(again.then_some(()))
    })?;
    for number in [2, 3] {
        let diary = sim.node(number).diary();
        ensure!(diary.lines().count() == 1, "n{number} got further than its power: {diary}");
        ensure!(sim.node(number).power_lines().is_empty(), "n{number}'s BMC was spoken to");
    }
    ensure!(haas.node("n2")?.state == NodeState::Unmanaged);

    // The stanza is valid as it stands; the whole inventory is applied while n1 runs.
    let text = format!("{}\n{stanza}", sim.nodes_toml_of(&[1, 2])?);
    let apply = ApplyRequest { file: "nodes.toml".to_owned(), text, dry_run: false };
    let result = haas.api(async |client| client.apply(&apply).await)??;
    ensure!(result.added == ["node-770103"] && result.removed.is_empty(), "{result:?}");
    ensure!(result.changed.is_empty(), "{result:?}");

    // The same by file and SIGHUP, with the node's real name and BMC.
    haas.haasd.write("nodes.toml", sim.nodes_toml_of(&[1, 2, 3])?)?;
    haas.haasd.reload();
    haas.until("the file to be read", LONG, || Ok(haas.node("n3").ok()))?;
    // A broken file is refused whole.
    haas.haasd.write("nodes.toml", "[[node]]\nname = \"n1\"\n")?;
    haas.haasd.reload();
    haas.until("the broken file to be refused", LONG, || {
        Ok(haas.haasd.log().contains("mac").then_some(()))
    })?;
    ensure!(haas.node("n3")?.state == NodeState::Unmanaged);
    ensure!(haas.node("n1")?.state == NodeState::Ready);
    ensure!(sim.count("on") == [1, 0, 0] && sim.count("off") == [0, 0, 0], "n1 was touched");

    // Switched off by the persons and given to haasd, both boot.
    sim::power::off(sim.node(2))?;
    sim::power::off(sim.node(3))?;
    haas.manage("n[2-3]", true)?;
    haas.switched("n[2-3]", "none")?;
    Ok(())
}
