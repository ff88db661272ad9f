//! A switch of a whole fleet as one transaction, with BMCs that are dead, nodes that never boot, slow ones,
//! packets that are lost, and a haasd that is killed in the middle. It ends by itself, with exactly the
//! bad nodes in fault. What it cost is printed.
#![expect(clippy::print_stdout, reason = "what was measured is for the one who runs it")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use haas_api::client::Client;
use haas_api::names::NodeName;
use haas_api::operation::{MinSuccess, NodeProgress, Operation, OperationState};
use tests::fleet::FleetRack;
use tests::{CONTROLLER, Output, built, wait_some};

use crate::many::cpu_seconds;
use crate::rack::{Controller, SimRack, copy_tree, request, seed};

/// Longer than any fleet takes on a busy machine.
const VERY_LONG: Duration = Duration::from_secs(3600);

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_fleet_of_200_nodes_is_switched_though_haasd_is_killed() -> Result<()> {
    switched(200)
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_fleet_of_2000_nodes_is_switched_though_haasd_is_killed() -> Result<()> {
    switched(2000)
}

fn switched(count: usize) -> Result<()> {
    let sim = SimRack::start(&format!("fleet{count}"), 0)?;
    let fleet = FleetRack::start(&sim.rack, count)?;
    copy_tree(seed()?, &sim.rack.dir().join("state"))?;
    // No good node needs so long, whatever else the machine does.
    let limit = Duration::from_secs(60 + u64::try_from(count)? / 5);
    let mut haas = Controller { haasd: fleet.haasd(limit)?, sim: &sim };
    haas.manage(&fleet.nodeset(), true)?;

    let is_over = AtomicBool::new(false);
    let (operation, latencies, cpu) = std::thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| watch(&sim, &is_over));
        let ended = kill_in_the_middle(&mut haas, &fleet.nodeset());
        is_over.store(true, Ordering::Relaxed);
        let latencies = watcher.join().expect("the watcher does not panic")?;
        let (operation, cpu) = ended?;
        Ok((operation, latencies, cpu))
    })?;
    report(&haas, &operation, latencies, cpu)?;

    ensure!(
        operation.state == OperationState::Succeeded,
        "{:?}: {}",
        operation.state,
        operation.reason
    );
    let bad = fleet.bad();
    let failed = operation.nodes.iter().filter(|n| n.state == NodeProgress::Failed);
    let wrong: Vec<_> = failed.clone().filter(|n| !bad.contains(&n.node)).collect();
    ensure!(wrong.is_empty(), "good nodes have failed: {wrong:?}");
    let failed: BTreeSet<String> = failed.map(|n| n.node.clone()).collect();
    ensure!(failed == bad, "bad nodes have not failed: {:?}", bad.difference(&failed));
    ensure!(fleet.admitted() >= count - bad.len(), "{} let users in", fleet.admitted());
    Ok(())
}

/// Switches all nodes, and kills haasd when a third of them is there. Answers the operation at its end,
/// and the seconds of CPU that both haasd have used.
fn kill_in_the_middle(haas: &mut Controller<'_>, all: &str) -> Result<(Operation, f32)> {
    let mut wanted = request(all, "none")?;
    wanted.min_success = Some(MinSuccess::Percent(95));
    let id = haas.switch_as(wanted)??.id;
    wait_until(haas, &id, |operation| {
        let there = operation.nodes.iter().filter(|n| n.state == NodeProgress::Prepared).count();
        there >= operation.nodes.len() / 3
    })?;
    let before = cpu_seconds(haas)?;
    haas.haasd.kill()?;
    haas.haasd.launch()?;
    let operation = wait_until(haas, &id, |operation| operation.state.is_over())?;
    let after = cpu_seconds(haas)?;
    Ok((operation, before + after))
}

fn wait_until(
    haas: &Controller<'_>,
    id: &str,
    is_so: impl Fn(&Operation) -> bool,
) -> Result<Operation> {
    wait_some(&format!("the operation {id}"), VERY_LONG, || {
        // The answer has every boot of the fleet.
        std::thread::sleep(Duration::from_secs(5));
        let operation = haas.api(async |client| client.operation(id).await).ok()?.ok()?;
        is_so(&operation).then_some(operation)
    })
}

/// Asks for one node again and again, as a person does who watches, and answers how long each answer
/// took. None is counted while haasd is away.
fn watch(sim: &SimRack, is_over: &AtomicBool) -> Result<Vec<Duration>> {
    let state = sim.rack.dir().join("state");
    let fingerprint = fs::read_to_string(state.join("fingerprint"))?;
    let token = fs::read_to_string(state.join("admin.token"))?;
    let name: NodeName = "n1".parse().context("a node name")?;
    sim.rack.in_netns(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client =
            Client::new(&format!("https://{CONTROLLER}:8443"), fingerprint.trim(), &token)?;
        let mut latencies = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            if runtime.block_on(client.node(&name)).is_ok() {
                latencies.push(begun.elapsed());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(latencies)
    })?
}

fn report(
    haas: &Controller<'_>,
    operation: &Operation,
    mut latencies: Vec<Duration>,
    cpu: f32,
) -> Result<()> {
    latencies.sort();
    let part =
        |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or_default();
    let pid = haas.haasd.pid().context("haasd runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let boots = operation.nodes.iter().filter(|n| n.state == NodeProgress::Succeeded);
    let slowest = boots
        .filter_map(|n| n.boot.as_ref())
        .map(|boot| boot.stages.iter().map(|stage| stage.seconds).sum::<f64>());
    println!(
        "{} nodes from {} to {}: haasd used {cpu:.0} s of CPU and {} at its peak; GET of a node: median \
         {:?}, p99 {:?} of {}; the slowest boot took {:.0} s",
        operation.nodes.len(),
        operation.created_at,
        operation.ended_at.as_deref().unwrap_or("-"),
        peak.trim(),
        part(50),
        part(99),
        latencies.len(),
        slowest.fold(0.0, f64::max),
    );
    Ok(())
}

/// In a user namespace, in which root is nobody outside of it.
#[test]
#[ignore = "needs built binaries; run: cargo xtask e2e --slow"]
fn slow_the_demo_of_a_fleet_needs_no_root() -> Result<()> {
    let mut demo = Command::new("unshare");
    demo.args(["--user", "--map-root-user", "--net", "--mount", "--kill-child", "--fork"]);
    demo.args(["sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$@\"", "sh"]);
    let output = Output::of(demo.arg(built("haas-demo")?).args(["--sim", "20"]))?.ok()?;
    ensure!(output.stdout.contains("19 nodes serve"), "{}", output.stdout);
    Ok(())
}
