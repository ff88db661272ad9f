//! What haasd does when BMCs lie, agents fall silent and people take nodes out of service.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use haas_api::node::{DrainRequest, DrainState, Drift, DriftState, NodeState, ResumeRequest};
use haas_api::operation::PowerVerb;
use sim::Bmc;
use sim::bmc::Faults;

use crate::bmcs::Bmcs;
use crate::rack::{Controller, LONG, PATIENT, QUICK, SimRack, behave, refusal};

/// Each fault of a BMC that a fleet meets, on a node of its own: all of them boot and end as is wanted.
#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn every_fault_of_a_bmc_is_coped_with() -> Result<()> {
    let faults = |change: fn(&mut Faults)| {
        let mut faults = Faults::default();
        change(&mut faults);
        faults
    };
    let cases = [
        ("loss", faults(|f| f.lost = 0.1)),
        ("delay", faults(|f| (f.delayed, f.delay_ms) = (0.3, 800))),
        ("duplication", faults(|f| f.duplicated = 0.5)),
        ("reordering", faults(|f| f.reordered = 0.3)),
        ("session exhaustion", faults(|f| f.sessions_full = true)),
        ("wrong power state for some seconds", faults(|f| f.wrong_state_ms = 4_000)),
        ("ignored soft-off", faults(|f| f.ignores_soft_off = true)),
        ("reboot of the BMC", Faults::default()),
        ("takes orders and does nothing", faults(|f| f.deaf = true)),
    ];
    let sim = SimRack::start("bmcs", cases.len())?;
    let bmcs = Bmcs::start(&sim)?;
    let limits = "\n[boot]\nfirmware = \"30s\"\nstage = \"30s\"\ntotal = \"90s\"\nattempts = 2\n\
                  shutdown = \"6s\"\n";
    let haas = sim.haasd_with_power(limits, |number| bmcs.power_of(number))?;
    let all = format!("n[1-{}]", cases.len());
    haas.manage(&all, true)?;
    for (number, (_, faults)) in cases.iter().enumerate() {
        bmcs.farm.bmc(number).set_faults(*faults);
    }
    let numbered = |name: &str| cases.iter().position(|(case, _)| *case == name);
    let exhausted = numbered("session exhaustion").context("a case")?;
    let rebooting = numbered("reboot of the BMC").context("a case")?;
    let deaf_to_all = numbered("ignored soft-off").context("a case")?;
    behave(sim.node(deaf_to_all + 1), |b| b.ignores_shutdown = true)?;
    let restart = || bmcs.farm.bmc(rebooting).reboot(Duration::from_secs(4), Instant::now());
    restart();
    let switch = haas.switch(&all, "none")??;
    std::thread::sleep(Duration::from_secs(4));
    bmcs.farm.bmc(exhausted).set_faults(Faults::default());
    haas.done(switch)?;
    restart();
    haas.done(haas.power(&all, PowerVerb::Off, false)??)?;

    for (number, (case, _)) in cases.iter().enumerate() {
        let node = sim.node(number + 1);
        ensure!(!sim::power::is_on(node)?, "{case}: it is on");
        let bmc = bmcs.farm.bmc(number);
        let orders: Vec<_> = bmc.orders().iter().map(String::as_str).collect();
        let count = |order: &str| orders.iter().filter(|o| **o == order).count();
        let (on, soft, off) = match *case {
            "ignored soft-off" => (1, 1, 1),
            // Told once, then started anew and told again.
            "takes orders and does nothing" => (2, 0, 0),
            _ => (1, 0, 0),
        };
        ensure!(count("on") == on && count("off") == off, "{case}: {orders:?}");
        ensure!(count("soft") == soft, "{case}: {orders:?}");
        let resets = u64::from(*case == "takes orders and does nothing");
        ensure!(bmc.counts().resets == resets, "{case}: {:?}", bmc.counts());
        ensure!(node.diary().matches("admitted").count() == 1, "{case}: {}", node.diary());
    }
    let faults: Vec<_> = haas.events()?.into_iter().filter(|e| e.kind == "fault").collect();
    ensure!(faults.is_empty(), "{faults:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_drained_node_goes_on_and_nobody_new_gets_it() -> Result<()> {
    let sim = SimRack::start("drain", 2)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n1", "a")?;
    drain(&haas, "n[1-2]", DrainState::Drain)?;
    let problem = refusal(haas.switch("n2", "b")?)?;
    ensure!(problem.nodes[0].code == "node-drained", "{problem:?}");
    ensure!(problem.nodes[0].reason.contains("DIMM A3 fails"), "{problem:?}");
    haas.done(haas.power("n1", PowerVerb::Cycle, false)??)?;
    ensure!(sim.count("on") == [2, 0], "who has it may reboot it");
    resume(&haas, "n2")?;
    haas.switched("n2", "b")?;
    let listed = haas.haasd.ctl(&["node", "list"])?.ok()?.stdout;
    ensure!(listed.contains("ready+drain") && listed.contains("DIMM A3 fails"), "{listed}");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_drift_is_what_a_reboot_would_change() -> Result<()> {
    let sim = SimRack::start("drift", 2)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n1", "a")?;
    let drift = || -> Result<Vec<Drift>> {
        Ok(haas.api(async |client| client.drift(Some("n[1-2]")).await)??)
    };
    let before = drift()?;
    ensure!(before[0].state == DriftState::Same, "{before:?}");
    ensure!(before[1].state == DriftState::NotRunning, "{before:?}");

    let nodes = sim.nodes_toml_of(&[1, 2])?;
    let more =
        nodes.replacen("name = \"n1\"", "name = \"n1\"\nkernel_args = [\"mitigations=off\"]", 1);
    let file = haas.haasd.write("more.toml", more)?;
    haas.haasd.ctl(&["node", "apply", &file.to_string_lossy(), "--yes"])?.ok()?;
    let changed = drift()?;
    ensure!(changed[0].state == DriftState::Differs, "{changed:?}");
    let [difference] = changed[0].differences.as_slice() else { panic!("{changed:?}") };
    ensure!(difference.what == "command line", "{difference:?}");
    ensure!(difference.would == "mitigations=off" && difference.runs.is_empty(), "{difference:?}");

    haas.done(haas.power("n1", PowerVerb::Cycle, false)??)?;
    ensure!(drift()?[0].state == DriftState::Same, "{:?}", drift()?);
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_silent_agent_means_what_its_bmc_says() -> Result<()> {
    let sim = SimRack::start("silent", 4)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n[1-4]", "a")?;
    drain(&haas, "n4", DrainState::Maintenance)?;
    sim.forget_power()?;
    // On and hanging; nobody knows; off; and off while people work on it.
    sim::power::freeze(sim.node(1))?;
    sim::power::freeze(sim.node(2))?;
    behave(sim.node(2), |b| b.bmc = Bmc::Fails)?;
    sim::power::off(sim.node(3))?;
    sim::power::off(sim.node(4))?;
    let told = |name: &str, bmc: &str| -> Result<bool> {
        let events = haas.events()?;
        let of_node = events.iter().filter(|e| e.node.as_deref() == Some(name));
        Ok(of_node.filter(|e| e.kind == "agent-silent").any(|e| e.data["bmc"] == bmc))
    };
    let limit = Duration::from_secs(150);
    haas.until("both to be told of", limit, || {
        Ok((told("n1", "on")? && told("n2", "unreachable")?).then_some(()))
    })?;
    let (hangs, lost) = (haas.node("n1")?, haas.node("n2")?);
    ensure!(hangs.state == NodeState::Unreachable && lost.state == NodeState::Unreachable);
    ensure!(hangs.reason.contains("it is on and its agent is silent"), "{}", hangs.reason);
    ensure!(lost.reason.contains("neither its agent nor its BMC answers"), "{}", lost.reason);
    ensure!(lost.reason.contains("chassis command refused"), "{}", lost.reason);
    haas.until("n3 to be on again", limit, || {
        Ok((haas.node("n3")?.state == NodeState::Ready).then_some(()))
    })?;
    ensure!(sim.node(3).diary().matches("generation=1").count() == 2, "{}", sim.node(3).diary());
    ensure!(sim.count("on") == [0, 0, 1, 0], "{:?}", sim.count("on"));
    ensure!(sim.count("off") == [0; 4] && sim.count("soft") == [0; 4], "nothing was reset");

    // What comes back is heard; what was lost with its BMC and is off boots again.
    sim::power::thaw(sim.node(1))?;
    haas.until("n1 to be heard", LONG, || {
        Ok((haas.node("n1")?.state == NodeState::Ready).then_some(()))
    })?;
    sim::power::off(sim.node(2))?;
    behave(sim.node(2), |_| ())?;
    resume(&haas, "n4")?;
    haas.until("n2 and n4 to be on again", limit, || {
        let ready = |name| haas.node(name).map(|node| node.state == NodeState::Ready);
        Ok((ready("n2")? && ready("n4")?).then_some(()))
    })?;
    let kinds: Vec<_> = haas.events()?.into_iter().map(|e| e.kind).collect();
    ensure!(kinds.iter().any(|kind| kind == "agent-back"), "{kinds:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_fault_says_what_was_tried() -> Result<()> {
    let sim = SimRack::start("tried", 1)?;
    let haas = sim.haasd(QUICK)?;
    haas.switched("n1", "none")?;
    behave(sim.node(1), |b| {
        (b.ignores_shutdown, b.ignores_soft, b.bmc) = (true, true, Bmc::OffIsStuck);
    })?;
    haas.power("n1", PowerVerb::Off, false)??;
    let reason = haas.fault("n1", Duration::from_secs(120))?;
    ensure!(reason.contains("still says that it is on"), "{reason}");
    let fault = haas.node("n1")?.fault.context("it has evidence")?;
    ensure!(fault.code == "bmc-power-stuck", "{fault:?}");
    let tried: Vec<_> = fault.tried.iter().map(|tried| tried.what.as_str()).collect();
    ensure!(tried == ["shutdown-asked", "soft-off", "hard-off", "bmc-reset"], "{fault:?}");
    ensure!(fault.tried[3].error.is_some(), "this BMC cannot be started anew: {fault:?}");
    ensure!(fault.stages.len() > 5, "{fault:?}");
    let shown = haas.haasd.ctl(&["node", "show", "n1"])?.ok()?.stdout;
    ensure!(shown.contains("bmc-reset") && shown.contains("hard-off"), "{shown}");
    Ok(())
}

fn drain(haas: &Controller<'_>, nodeset: &str, state: DrainState) -> Result<()> {
    let reason = "DIMM A3 fails".to_owned();
    let request = DrainRequest { nodeset: nodeset.to_owned(), state, reason };
    haas.api(async |client| client.drain(&request).await)??;
    Ok(())
}

fn resume(haas: &Controller<'_>, nodeset: &str) -> Result<()> {
    let request = ResumeRequest { nodeset: nodeset.to_owned(), reason: None };
    haas.api(async |client| client.resume(&request).await)??;
    Ok(())
}
