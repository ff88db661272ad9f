//! A switch as one transaction: users are let in on all nodes or on none, and whatever dies meanwhile.
#![expect(clippy::print_stdout, reason = "what was measured is for the one who runs it")]

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use haas_api::operation::{MinSuccess, NodeProgress, Operation, OperationState, SwitchRequest};
use sim::Lie;

use crate::rack::{Controller, LONG, PATIENT, SimRack, behave, request};

const ABORT: &str = "HAAS_ABORT_AFTER_COMMIT";

/// No transaction of two nodes commits more often than this.
const MOST: usize = 400;

fn transaction(nodeset: &str, overlay: &str, least: MinSuccess) -> Result<SwitchRequest> {
    Ok(SwitchRequest { min_success: Some(least), ..request(nodeset, overlay)? })
}

/// Whether users were let in, for each boot of a node so far.
fn admitted(sim: &SimRack, number: usize) -> Vec<bool> {
    let diary = sim.node(number).diary();
    diary.split(" boot ").skip(1).map(|boot| boot.contains("admitted")).collect()
}

/// Whether users were let in at the end and never before. A node that had not begun was not booted.
fn let_in_at_last(boots: &[bool]) -> bool {
    boots.split_last().is_none_or(|(last, others)| *last && !others.contains(&true))
}

fn states(operation: &Operation) -> Vec<NodeProgress> {
    operation.nodes.iter().map(|node| node.state).collect()
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn too_few_nodes_take_the_whole_set_back_and_let_nobody_in() -> Result<()> {
    let sim = SimRack::start("quorum", 3)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n[1-3]", "a")?;
    behave(sim.node(2), |b| b.lie = Some(Lie::Image))?;
    let wanted = transaction("n[1-3]", "b", MinSuccess::Percent(90))?;
    let operation = haas.over(&haas.switch_as(wanted)??.id)?;
    ensure!(operation.state == OperationState::RolledBack, "{operation:?}\n{}", sim.diaries());
    ensure!(operation.reason == "1 of 3 nodes failed, and 3 (90%) must get there", "{operation:?}");
    // The one that lies does so about its old system too.
    let expected = [NodeProgress::RolledBack, NodeProgress::Failed, NodeProgress::RolledBack];
    ensure!(states(&operation) == expected, "{operation:?}");
    let failure = operation.nodes[1].failure.as_deref().unwrap_or_default();
    ensure!(failure.contains("image is naa.3000000000000bad"), "{operation:?}");
    for number in 1..=3 {
        let overlay = haas.node(&format!("n{number}"))?.desired.context("it is switched")?.overlay;
        ensure!(overlay.as_deref() == Some("admin/a"), "n{number} has {overlay:?}");
    }
    for number in [1, 3] {
        ensure!(sim::power::is_on(sim.node(number))?, "n{number} is off");
        let let_in = admitted(&sim, number).split_off(1);
        ensure!(let_in_at_last(&let_in), "n{number}: {let_in:?}\n{}", sim.diaries());
    }
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn users_are_let_in_on_all_nodes_at_once_when_enough_are_there() -> Result<()> {
    let sim = SimRack::start("commit", 3)?;
    let haas = sim.haasd(PATIENT)?;
    behave(sim.node(2), |b| b.lie = Some(Lie::Image))?;
    let mut wanted = transaction("n[1-3]", "a", MinSuccess::Nodes(2))?;
    wanted.at_most = Some(1);
    let operation = haas.over(&haas.switch_as(wanted)??.id)?;
    let expected = [NodeProgress::Succeeded, NodeProgress::Failed, NodeProgress::Succeeded];
    ensure!(states(&operation) == expected, "{operation:?}\n{}", sim.diaries());
    ensure!(operation.state == OperationState::Succeeded && operation.committed_at.is_some());
    let events = haas.events()?;
    let place = |kind: &str, stage: Option<&str>| {
        events.iter().position(|e| e.kind == kind && e.data["stage"].as_str() == stage)
    };
    let last_prepared = events.iter().rposition(|e| e.kind == "boot-prepared");
    let committed = place("operation-committed", None);
    let first_ready = place("boot-progressed", Some("ready"));
    ensure!(last_prepared < committed && committed < first_ready, "{events:?}");
    ensure!(committed.is_some() && last_prepared.is_some(), "{events:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_paused_transaction_begins_nothing_and_an_aborted_one_disturbs_nobody_else() -> Result<()> {
    let sim = SimRack::start("pause", 3)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n[1-3]", "a")?;
    let mut wanted = transaction("n[1-3]", "b", MinSuccess::Percent(100))?;
    wanted.at_most = Some(1);
    let id = haas.switch_as(wanted)??.id;
    haas.until("n1 to begin", LONG, || {
        let now = haas.api(async |client| client.operation(&id).await)??;
        Ok((now.nodes[0].state == NodeProgress::Running).then_some(()))
    })?;
    haas.api(async |client| client.pause_operation(&id).await)??;
    let paused = haas.until("n1 to be there", LONG, || {
        let now = haas.api(async |client| client.operation(&id).await)??;
        Ok((now.nodes[0].state == NodeProgress::Prepared).then_some(now))
    })?;
    ensure!(paused.state == OperationState::Paused, "{paused:?}");
    ensure!(sim.count("on") == [2, 1, 1], "{:?}", sim.count("on"));
    haas.api(async |client| client.abort_operation(&id).await)??;
    let operation = haas.over(&id)?;
    ensure!(operation.state == OperationState::RolledBack, "{operation:?}\n{}", sim.diaries());
    ensure!(states(&operation) == [NodeProgress::RolledBack; 3], "{operation:?}");
    ensure!(sim.count("on") == [3, 1, 1], "who had not begun was booted: {:?}", sim.count("on"));
    ensure!(admitted(&sim, 1) == [true, false, true], "{}", sim.diaries());
    Ok(())
}

/// Takes a transaction of two nodes through a crash after each commit, and answers how many there were.
fn survives_crashes(name: &str, lie: Option<Lie>, end: OperationState) -> Result<usize> {
    let begun = Instant::now();
    let sim = SimRack::start(name, 2)?;
    let mut haas = sim.haasd(PATIENT)?;
    haas.switched("n[1-2]", "a")?;
    behave(sim.node(2), |b| b.lie = lie)?;
    let (mut here, mut crashes) = ("a", 0);
    for k in 1..MOST {
        let there = if here == "a" { "b" } else { "a" };
        haas.haasd.stop()?;
        let boots = admitted(&sim, 1).len();
        haas.haasd.set_env(ABORT, &k.to_string());
        haas.haasd.launch_unready()?;
        let crashed = crashed(&mut haas, there).with_context(|| format!("k={k}"))?;
        let Some((id, survived)) = crashed else { continue };
        let operation = haas.over(&id)?;
        let let_in = admitted(&sim, 1).split_off(boots);
        ensure!(
            operation.state == end && let_in_at_last(&let_in),
            "k={k}: {let_in:?} {operation:?}\n{}",
            sim.diaries()
        );
        if end == OperationState::Succeeded {
            ensure!(let_in == [true], "k={k}: n1 was booted so: {let_in:?}");
            here = there;
        }
        if survived {
            break;
        }
        crashes += 1;
    }
    println!("{name}: {crashes} crashes in {:.0} s", begun.elapsed().as_secs_f32());
    Ok(crashes)
}

/// Begins a transaction with a haasd that aborts after some commit, and starts haasd again. None if it
/// died before anything was asked.
fn crashed(haas: &mut Controller<'_>, overlay: &str) -> Result<Option<(String, bool)>> {
    let mut asked = None;
    let mut survived = false;
    let end = Instant::now() + LONG;
    while haas.haasd.is_running() && Instant::now() < end && !survived {
        if !haas.haasd.is_ready() {
            std::thread::sleep(std::time::Duration::from_millis(20));
            continue;
        }
        match &asked {
            None => {
                let wanted = transaction("n[1-2]", overlay, MinSuccess::Percent(100))?;
                asked = haas.switch_as(wanted)?.ok().map(|operation| operation.id);
            }
            Some(id) => {
                let now = haas.api(async |client| client.operation(id).await)?;
                survived = now.is_ok_and(|now| now.state.is_over());
            }
        }
    }
    haas.haasd.unset_env(ABORT);
    if survived {
        haas.haasd.kill()?;
    } else {
        haas.haasd.wait_exit(LONG)?;
    }
    haas.haasd.launch()?;
    let known = haas.api(async |client| client.operations().await)??;
    let found = known.into_iter().find(|o| asked.as_ref().is_none_or(|id| o.id == *id));
    let found = found.context("an operation that was answered is lost")?;
    // The answer may have been lost in the crash; what was over before is another one.
    Ok((asked.is_some() || !found.state.is_over()).then_some((found.id, survived)))
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_transaction_survives_a_crash_after_any_of_its_commits() -> Result<()> {
    let crashes = survives_crashes("txcrash", None, OperationState::Succeeded)?;
    ensure!(crashes > 20, "a transaction cannot have so few commits: {crashes}");
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_set_that_goes_back_survives_a_crash_after_any_commit() -> Result<()> {
    let crashes = survives_crashes("txback", Some(Lie::Image), OperationState::RolledBack)?;
    ensure!(crashes > 20, "going back cannot have so few commits: {crashes}");
    Ok(())
}
