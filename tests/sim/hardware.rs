//! Parts that fail, go and are replaced, between one boot of a node and the next.

use anyhow::{Result, ensure};
use haas_api::hardware::{Inventory, Level, Smart};

use crate::rack::{Controller, LONG, PATIENT, SimRack, behave};

/// What is told of changed hardware, as far as `node` says.
fn changes(haas: &Controller<'_>, node: &str) -> Result<Vec<String>> {
    let events = haas.events()?.into_iter();
    let of_node = events.filter(|event| event.node.as_deref() == Some(node));
    let changed = of_node.filter(|event| event.kind == "hardware-changed");
    Ok(changed.filter_map(|event| Some(event.data["what"].as_str()?.to_owned())).collect())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_part_that_is_gone_at_the_next_boot_is_told_and_a_running_node_is_not_believed()
-> Result<()> {
    let sim = SimRack::start("hardware", 2)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n[1-2]", "a")?;
    let node = haas.node("n1")?;
    ensure!(node.health.level == Level::Ok, "{:?}", node.health);
    let found = node.hardware.and_then(|hardware| hardware.inventory);
    ensure!(found == Some(sim.node(1).inventory()?), "{found:?}");

    // Root on the node says in its agent's name that all is gone.
    sim.node(1).forge(&Inventory::default())?;
    haas.until("the forged inventory to be refused", LONG, || {
        Ok(haas.haasd.log().contains("it is not believed").then_some(()))
    })?;
    ensure!(haas.node("n1")?.hardware.and_then(|hardware| hardware.inventory) == found);

    let mut later = sim.node(1).inventory()?;
    later.dimms.retain(|dimm| dimm.slot != "A3");
    later.disks[0].smart =
        Smart { level: Level::Critical, reasons: vec!["read-only".to_owned()], ..Smart::default() };
    behave(sim.node(1), |n| n.inventory = Some(later.clone()))?;
    let mut other = sim.node(2).inventory()?;
    other.disks[0].serial = Some("D-new".to_owned());
    behave(sim.node(2), |n| n.inventory = Some(other.clone()))?;
    haas.switched("n[1-2]", "b")?;

    let told = changes(&haas, "n1")?;
    ensure!(told.len() == 2, "{told:?}");
    ensure!(told[0].starts_with("DIMM A3 (32 GiB") && told[0].ends_with("is gone"), "{told:?}");
    ensure!(told[1].ends_with("SMART says that it fails: read-only"), "{told:?}");
    let told = changes(&haas, "n2")?;
    ensure!(told.len() == 1 && told[0].contains("was replaced by S/N D-new"), "{told:?}");

    let names = |condition: &'static str| -> Result<Vec<String>> {
        let nodes = haas.api(async |client| client.nodes_where(None, condition).await)??;
        Ok(nodes.into_iter().map(|node| node.name.to_string()).collect())
    };
    ensure!(names("health==critical")? == ["n1"]);
    ensure!(names("memory>=64G and cores==32")? == ["n2"]);
    Ok(())
}
