//! Requests of admins: what is done, what is refused, and in which order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use haas_api::node::NodeState;
use haas_api::operation::{NodeProgress, OperationState, PowerVerb};
use tests::built;

use crate::rack::{LONG, PATIENT, SimRack, behave, refusal, request};

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn switch_rollback_and_power() -> Result<()> {
    let sim = SimRack::start("requests", 2)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n[1-2]", "a")?;
    haas.switched("n[1-2]", "b")?;
    ensure!(sim.count("on") == [2, 2], "each switch is one power-on");

    haas.done(haas.rollback("n1")??)?;
    let overlay = |name: &str| Ok(haas.node(name)?.desired.context("it is switched")?.overlay);
    let rolled: Result<_> = overlay("n1");
    ensure!(rolled? == Some("admin/a".to_owned()), "{:?}", overlay("n1")?);
    ensure!(overlay("n2")? == Some("admin/b".to_owned()), "n2 was not asked to");

    haas.switched("n1", "a")?;
    ensure!(sim.count("on") == [3, 2], "what runs already is not booted again");

    haas.done(haas.power("n2", PowerVerb::Off, false)??)?;
    ensure!(!sim::power::is_on(sim.node(2))? && haas.node("n2")?.state == NodeState::Off);
    haas.done(haas.power("n2", PowerVerb::On, false)??)?;
    ensure!(overlay("n2")? == Some("admin/b".to_owned()), "it comes back with what it had");
    haas.done(haas.power("n[1-2]", PowerVerb::Cycle, false)??)?;
    ensure!(sim.count("on") == [4, 4], "{:?}", sim.count("on"));
    ensure!(sim.count("off") == [0, 0] && sim.count("soft") == [0, 0], "all ended in order");
    let mut shards = sim.node(1).diary();
    shards.retain(|c| c != ' ');
    ensure!(shards.contains("rank:0") && !shards.contains("rank:1"), "{shards}");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn at_most_one_at_a_time() -> Result<()> {
    let sim = SimRack::start("atmost", 3)?;
    let haas = sim.haasd(PATIENT)?;
    let mut wanted = request("n[3,1-2]", "none")?;
    wanted.at_most = Some(1);
    let begun = Instant::now();
    haas.done(haas.switch_as(wanted)??)?;
    let mut booting = 0;
    for event in haas.events()? {
        match (event.kind.as_str(), event.data["set"].as_str(), event.data["stage"].as_str()) {
            ("power", Some("on"), _) => booting += 1,
            ("boot-progressed", _, Some("ready")) => booting -= 1,
            _ => {}
        }
        ensure!((0..=1).contains(&booting), "{booting} nodes boot at event {event:?}");
    }
    ensure!(sim.count("on") == [1, 1, 1] && booting == 0, "all have booted");
    ensure!(begun.elapsed() < Duration::from_secs(25), "each waited for more than its turn");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn the_second_admin_gets_a_conflict_and_logins_protect_a_node() -> Result<()> {
    let sim = SimRack::start("busy", 2)?;
    let haas = sim.haasd(PATIENT)?;
    behave(sim.node(1), |b| b.never_boots = true)?;
    let first = haas.switch("n1", "a")??;
    let problem = refusal(haas.switch("n[1-2]", "b")?)?;
    ensure!(problem.status == 409 && problem.nodes.len() == 1, "{problem:?}");
    ensure!(problem.nodes[0].code == "node-switching", "{problem:?}");
    ensure!(problem.nodes[0].reason.contains("switch n1"), "{problem:?}");
    ensure!(haas.node("n2")?.desired.is_none(), "a request is refused whole");

    // With --force the later request takes over, and the first one ends.
    behave(sim.node(1), |b| b.logins = vec!["alice pts/0".to_owned()])?;
    let mut wanted = request("n1", "b")?;
    wanted.force = true;
    haas.done(haas.switch_as(wanted.clone())??)?;
    let first = haas.over(&first.id)?;
    ensure!(first.state == OperationState::Failed, "{first:?}");
    ensure!(first.nodes[0].state == NodeProgress::Superseded, "{first:?}");

    haas.until("haasd to know of the login", LONG, || {
        Ok((!haas.node("n1")?.observed.logins.is_empty()).then_some(()))
    })?;
    let problem = refusal(haas.switch("n1", "a")?)?;
    ensure!(problem.status == 409 && problem.nodes[0].code == "node-busy", "{problem:?}");
    ensure!(problem.nodes[0].reason.contains("alice pts/0"), "{problem:?}");
    let problem = refusal(haas.power("n1", PowerVerb::Off, false)?)?;
    ensure!(problem.nodes[0].code == "node-busy", "{problem:?}");
    wanted.overlay = request("n1", "a")?.overlay;
    haas.done(haas.switch_as(wanted)??)?;
    ensure!(sim.node(1).diary().contains("goodbye"), "also a forced end is orderly");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_node_whose_power_was_cut_comes_back_by_itself() -> Result<()> {
    let sim = SimRack::start("cut", 1)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n1", "a")?;
    sim::power::off(sim.node(1))?;
    haas.until("haasd to switch it on again", Duration::from_secs(90), || {
        // The cut may come before the first boot has noted that it was admitted.
        let diary = sim.node(1).diary();
        let second = diary.split(" boot ").nth(2);
        Ok(second.filter(|boot| boot.contains("admitted")).map(drop))
    })?;
    ensure!(sim.count("on") == [2] && sim.count("off") == [0], "{:?}", sim.node(1).power_lines());
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_node_that_starts_by_itself_gets_its_image_only_from_a_boot_that_its_bmc_has_begun()
-> Result<()> {
    let sim = SimRack::start("alone", 1)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n1", "a")?;
    sim.forget_power()?;
    // Its BMC says "on" before and after.
    sim::power::off(sim.node(1))?;
    sim::power::on(sim.node(1), &built("haas-sim-node")?)?;
    haas.until("its second plan", Duration::from_secs(90), || {
        let diary = sim.node(1).diary();
        let second = diary.split(" boot ").nth(2);
        Ok(second.filter(|boot| boot.contains("admitted")).map(drop))
    })?;
    ensure!(sim.count("on") == [1] && sim.count("off") == [1], "{:?}", sim.node(1).power_lines());
    let told = haas.events()?;
    let opened = told.iter().filter(|e| e.kind == "boot-opened");
    let causes: Vec<_> = opened.map(|e| e.data["cause"].as_str().unwrap_or_default()).collect();
    ensure!(causes == ["desired", "unplanned", "unplanned"], "{causes:?}\n{}", sim.diaries());
    Ok(())
}
