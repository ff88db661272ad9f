//! Nodes and BMCs that do not do as they are told: what is said of them, and what is not done.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use haas_api::agent::BootStage;
use haas_api::node::NodeState;
use haas_api::operation::{NodeProgress, OperationState, PowerVerb};
use sim::{Behaviour, Bmc, Lie};

use crate::rack::{LONG, QUICK, SimRack, behave, request};

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_boot_that_fails_is_a_fault_that_names_its_stage() -> Result<()> {
    type Case = (&'static str, fn(&mut Behaviour), &'static str);
    let cases: [Case; 11] = [
        ("never boots", |b| b.never_boots = true, "has not asked the network for anything"),
        ("hangs in iPXE", |b| b.hangs_before = Some(BootStage::Script), "did not fetch its iPXE"),
        ("hangs in its kernel", |b| b.hangs_before = Some(BootStage::Agent), "no agent called"),
        ("hangs at the disk", |b| b.hangs_before = Some(BootStage::Overlay), "root: "),
        ("loses power", |b| b.dies_before = Some(BootStage::Userspace), "overlay"),
        ("boots its disk", |b| b.boots_disk = true, "booted its own disk"),
        ("another image", |b| b.lie = Some(Lie::Image), "image is naa.3000000000000bad"),
        ("another overlay", |b| b.lie = Some(Lie::Overlay), "overlay is another"),
        ("another rank", |b| b.lie = Some(Lie::Rank), "rank is 9, not 8"),
        ("another name", |b| b.lie = Some(Lie::Hostname), "host name is another, not n10"),
        ("a writable image", |b| b.lie = Some(Lie::Writable), "disk is writable"),
    ];
    let sim = SimRack::start("faults", cases.len() + 1)?;
    let haas = sim.haasd(QUICK)?;
    for (node, (_, change, _)) in sim.nodes.iter().zip(&cases) {
        behave(node, change)?;
    }
    let operation = haas.over(&haas.switch("n[1-12]", "a")??.id)?;
    ensure!(operation.state == OperationState::Failed, "{operation:?}");
    for ((case, _, words), node) in cases.iter().zip(&operation.nodes) {
        ensure!(node.state == NodeProgress::Failed, "{case}: {node:?}\n{}", sim.diaries());
        ensure!(node.reason.contains(words), "{case}: {:?} has no {words:?}", node.reason);
        let state = haas.node(&node.node)?.state;
        ensure!(state == NodeState::Fault, "{case}: {state:?}");
    }
    let healthy = &operation.nodes[11];
    ensure!(healthy.state == NodeProgress::Succeeded, "{healthy:?}");
    for (node, (case, ..)) in sim.nodes.iter().zip(&cases) {
        ensure!(!node.diary().contains("admitted"), "users were let in though {case}");
    }
    ensure!(sim.node(12).diary().contains("admitted"));
    ensure!(sim.node(7).diary().contains("not ready: image"), "{}", sim.node(7).diary());

    // A person has mended them; the same request again brings them up.
    for node in &sim.nodes {
        behave(node, |_| ())?;
    }
    let mut again = request("n[1-12]", "a")?;
    again.force = true;
    haas.done(haas.switch_as(again)??)?;
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_node_is_cut_off_only_after_its_deadlines_and_never_while_it_writes() -> Result<()> {
    let sim = SimRack::start("ends", 3)?;
    let haas = sim.haasd(QUICK)?;
    haas.switched("n[1-3]", "a")?;
    // Deaf to agent and button; deaf to its agent only; and busy with its dirty pages for longer than
    // both deadlines together.
    behave(sim.node(1), |b| (b.ignores_shutdown, b.ignores_soft) = (true, true))?;
    behave(sim.node(2), |b| b.ignores_shutdown = true)?;
    behave(sim.node(3), |b| b.dirty_s = 12)?;
    let begun = Instant::now();
    haas.done(haas.power("n[1-3]", PowerVerb::Off, false)??)?;
    ensure!(begun.elapsed() >= Duration::from_secs(12), "n3 was not waited for");
    ensure!(sim.count("soft") == [1, 1, 0], "soft: {:?}", sim.count("soft"));
    ensure!(sim.count("off") == [1, 0, 0], "off: {:?}", sim.count("off"));
    ensure!(sim.node(3).diary().contains("goodbye"), "{}", sim.node(3).diary());
    let lines = sim.node(1).power_lines();
    let time = |verb: &str| lines.iter().find(|l| l.verb == verb).map_or(0, |l| l.at_ms);
    ensure!(time("off") - time("soft") >= 3000, "the button's deadline was not kept: {lines:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_bmc_that_fails_or_hangs_is_told_and_holds_up_nobody_else() -> Result<()> {
    let sim = SimRack::start("bmc", 4)?;
    let haas = sim.haasd(QUICK)?;
    behave(sim.node(1), |b| b.bmc = Bmc::Fails)?;
    behave(sim.node(2), |b| b.bmc = Bmc::Hangs)?;
    let begun = Instant::now();
    let bad = haas.switch("n[1-2]", "none")??;
    haas.switched("n[3-4]", "none")?;
    ensure!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let bad = haas.over(&bad.id)?;
    for (node, words) in bad.nodes.iter().zip(["chassis command refused", "was killed after 20 s"])
    {
        ensure!(node.state == NodeProgress::Failed, "{node:?}");
        ensure!(node.reason.contains(words), "{:?} has no {words:?}", node.reason);
    }
    let asked = sim.node(1).power_lines().len();
    ensure!(asked <= 60, "a BMC that fails was asked {asked} times");

    behave(sim.node(1), |_| ())?;
    haas.switched("n1", "none")?;
    behave(sim.node(1), |b| {
        (b.ignores_shutdown, b.ignores_soft, b.bmc) = (true, true, Bmc::OffIsStuck);
    })?;
    haas.power("n1", PowerVerb::Off, false)??;
    let reason = haas.fault("n1", LONG)?;
    ensure!(reason.contains("still says that it is on"), "{reason}");
    Ok(())
}
