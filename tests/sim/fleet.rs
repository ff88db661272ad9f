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

    let alone = alone(&haas)?;

    let is_over = AtomicBool::new(false);
    let (switch, answers) = std::thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| watch(&sim, &is_over));
        let ended = kill_in_the_middle(&mut haas, &fleet);
        is_over.store(true, Ordering::Relaxed);
        let answers = watcher.join().expect("the watcher does not panic")?;
        Ok((ended?, answers))
    })?;
    let operation = &switch.operation;
    report(&switch, answers, alone);

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
    let faults = haas.api(async |client| client.nodes_where(None, "state==fault").await)??;
    let faults: BTreeSet<String> = faults.iter().map(|node| node.name.to_string()).collect();
    ensure!(faults == bad, "in fault are {faults:?}, and bad are {bad:?}");
    ensure!(fleet.admitted() >= count - bad.len(), "{} let users in", fleet.admitted());
    Ok(())
}

/// How long one of the slowest good nodes takes when it boots alone. It is off again afterwards.
fn alone(haas: &Controller<'_>) -> Result<Duration> {
    let begun = Instant::now();
    haas.switched(tests::fleet::A_SLOW_NODE, "none")?;
    let took = begun.elapsed();
    haas.haasd.ctl(&["power", "off", tests::fleet::A_SLOW_NODE, "--wait"])?.ok()?;
    Ok(took)
}

/// A switch of a fleet, and what it cost.
struct Switch {
    operation: Operation,
    /// From the request until the last good node was there.
    took: Duration,
    /// Of both haasd, seconds.
    cpu: f32,
    /// Of the one that had more.
    memory: Memory,
}

/// What a haasd had resident, KiB; compared by the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Memory {
    /// The most that it had.
    most: u64,
    /// Pages of its program and of other files, which are the kernel's to take.
    files: u64,
}

/// Switches all nodes, and kills haasd when a third of them is there.
fn kill_in_the_middle(haas: &mut Controller<'_>, fleet: &FleetRack<'_>) -> Result<Switch> {
    let mut wanted = request(&fleet.nodeset(), "none")?;
    wanted.min_success = Some(MinSuccess::Percent(95));
    let begun = Instant::now();
    let id = haas.switch_as(wanted)??.id;
    let is_there = |state| matches!(state, NodeProgress::Prepared | NodeProgress::Succeeded);
    let there =
        |operation: &Operation| operation.nodes.iter().filter(|n| is_there(n.state)).count();
    wait_until(haas, &id, |operation| there(operation) >= operation.nodes.len() / 3)?;
    let (before, memory) = (cpu_seconds(haas)?, memory(haas)?);
    haas.haasd.kill()?;
    haas.haasd.launch()?;
    let bad = fleet.bad().len();
    wait_until(haas, &id, |operation| {
        there(operation) >= operation.nodes.len() - bad || operation.state.is_over()
    })?;
    let took = begun.elapsed();
    let operation = wait_until(haas, &id, |operation| operation.state.is_over())?;
    let (cpu, memory) = (before + cpu_seconds(haas)?, memory.max(self::memory(haas)?));
    Ok(Switch { operation, took, cpu, memory })
}

fn memory(haas: &Controller<'_>) -> Result<Memory> {
    let pid = haas.haasd.pid().context("haasd runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        Ok(number.with_context(|| name.to_owned())?.parse()?)
    };
    Ok(Memory { most: kib("VmHWM:")?, files: kib("RssFile:")? + kib("RssShmem:")? })
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

/// How long answers took, and how many there were none of.
#[derive(Default)]
struct Answers {
    of_one: Vec<Duration>,
    of_all: Vec<Duration>,
    /// haasd was away, or gave up.
    none: usize,
}

/// Asks for one node again and again, and now and then for all, as a person does who watches.
fn watch(sim: &SimRack, is_over: &AtomicBool) -> Result<Answers> {
    let state = sim.rack.dir().join("state");
    let fingerprint = fs::read_to_string(state.join("fingerprint"))?;
    let token = fs::read_to_string(state.join("admin.token"))?;
    let name: NodeName = "n1".parse().context("a node name")?;
    sim.rack.in_netns(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client =
            Client::new(&format!("https://{CONTROLLER}:8443"), fingerprint.trim(), &token)?;
        let mut answers = Answers::default();
        for turn in 1.. {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let (begun, is_for_all) = (Instant::now(), turn % 50 == 0);
            let is_answered = match is_for_all {
                true => runtime.block_on(client.nodes(None)).is_ok(),
                false => runtime.block_on(client.node(&name)).is_ok(),
            };
            match (is_answered, is_for_all) {
                (false, _) => answers.none += 1,
                (true, true) => answers.of_all.push(begun.elapsed()),
                (true, false) => answers.of_one.push(begun.elapsed()),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(answers)
    })?
}

fn report(switch: &Switch, mut answers: Answers, alone: Duration) {
    let Switch { operation, took, cpu, memory } = switch;
    answers.of_one.sort();
    answers.of_all.sort();
    let part = |times: &[Duration], share: usize| {
        times.get(times.len() * share / 100).copied().unwrap_or_default()
    };
    println!(
        "{} nodes: the last good one was there after {:.0} s, and alone takes {:.0} s; haasd used {cpu:.0} s \
         of CPU and {} MB at its peak, {} MB of that pages of files; GET of a node: median {:?}, p99 {:?} of {}, of all: p99 {:?} of {}; \
         {} had no answer",
        operation.nodes.len(),
        took.as_secs_f32(),
        alone.as_secs_f32(),
        memory.most * 1024 / 1_000_000,
        memory.files * 1024 / 1_000_000,
        part(&answers.of_one, 50),
        part(&answers.of_one, 99),
        answers.of_one.len(),
        part(&answers.of_all, 99),
        answers.of_all.len(),
        answers.none,
    );
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
