//! A switch of a whole fleet as one transaction, with BMCs that are dead, nodes that never boot, slow ones,
//! packets that are lost, and a haasd that is killed in the middle. It ends by itself, with exactly the
//! bad nodes in fault. What it cost is printed.
#![expect(clippy::print_stdout, reason = "what was measured is for the one who runs it")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use haas_api::client::Client;
use haas_api::names::NodeName;
use haas_api::operation::{MinSuccess, NodeProgress, Operation, OperationState};
use sim::bmc::{Farm, Faults, Setup};
use sim::{Fleet, FleetNode};
use tests::{CONTROLLER, Haasd, files, wait_some};

use crate::many::cpu_seconds;
use crate::rack::{Controller, SimRack, copy_tree, ip, node_netns, request, seed};

/// Longer than any fleet takes on a busy machine.
const VERY_LONG: Duration = Duration::from_secs(3600);
const PASSWORD: &str = "sesame";

/// What is wrong with a node, by its number: 1 % of BMCs are dead, 1 % of nodes never boot, 2 % are slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Slow,
    DeadBmc,
    NeverBoots,
}

fn kind(number: usize) -> Kind {
    match number % 100 {
        3 => Kind::DeadBmc,
        57 => Kind::NeverBoots,
        20 | 80 => Kind::Slow,
        _ => Kind::Good,
    }
}

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
    let setup = Setup::new("admin", PASSWORD);
    let farm = Arc::new(sim.rack.in_netns(|| Farm::start(count, &setup))??);
    for number in 1..=count {
        farm.bmc(number - 1).set_faults(Faults {
            lost: 0.001,
            hangs: kind(number) == Kind::DeadBmc,
            slow_ms: if kind(number) == Kind::Slow { 300 } else { 0 },
            ..Faults::default()
        });
    }
    let fleet = Fleet::start(&network(&sim, count)?, nodes(count), farm.clone())?;
    let mut haas = controller(&sim, &farm, count)?;

    let is_over = AtomicBool::new(false);
    let (operation, latencies, cpu) = std::thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| watch(&sim, &is_over));
        let ended = kill_in_the_middle(&mut haas, count);
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
    let name = |number| format!("n{number}");
    let bad = (1..=count).filter(|n| matches!(kind(*n), Kind::DeadBmc | Kind::NeverBoots));
    let bad: BTreeSet<String> = bad.map(name).collect();
    let failed = operation.nodes.iter().filter(|n| n.state == NodeProgress::Failed);
    let wrong: Vec<_> = failed.clone().filter(|n| !bad.contains(&n.node)).collect();
    ensure!(wrong.is_empty(), "good nodes have failed: {wrong:?}");
    let failed: BTreeSet<String> = failed.map(|n| n.node.clone()).collect();
    ensure!(failed == bad, "bad nodes have not failed: {:?}", bad.difference(&failed));
    ensure!(fleet.admitted() >= count - bad.len(), "{} let users in", fleet.admitted());
    Ok(())
}

/// A namespace with the addresses of all nodes, whose name is answered. The controller reaches them
/// through one of them, so that its table of neighbours has one entry.
fn network(sim: &SimRack, count: usize) -> Result<String> {
    let (netns, own) = (sim.rack.netns(), node_netns(&sim.rack.netns(), 1));
    ip(&["netns", "add", &own])?;
    ip(&[
        "-n", &netns, "link", "add", "v1", "type", "veth", "peer", "name", "eth0", "netns", &own,
    ])?;
    ip(&["-n", &netns, "link", "set", "v1", "master", "br0", "up"])?;
    let mut batch = String::from("link set eth0 up\naddress add 10.77.0.2/16 dev eth0\n");
    for number in 1..=count {
        writeln!(batch, "address add {}/16 dev eth0", address(number))?;
    }
    let file = sim.rack.dir().join("fleet.batch");
    fs::write(&file, batch)?;
    ip(&["-n", &own, "-batch", &file.to_string_lossy()])?;
    ip(&["-n", &netns, "route", "add", "10.77.0.0/16", "via", "10.77.0.2", "dev", "br0"])?;
    Ok(own)
}

fn address(number: usize) -> Ipv4Addr {
    let octet = |n: usize| u8::try_from(n).expect("it is below 250");
    Ipv4Addr::new(10, 77, octet(1 + number / 250), octet(1 + number % 250))
}

fn mac(number: usize) -> [u8; 6] {
    let [.., high, low] = number.to_be_bytes();
    [0x52, 0x54, 0, 0x77, high, low]
}

fn nodes(count: usize) -> Vec<FleetNode> {
    let node = |number: usize| FleetNode {
        mac: mac(number),
        address: address(number),
        firmware: match kind(number) {
            Kind::Slow => Duration::from_secs(20),
            // Not all at the same moment.
            _ => Duration::from_millis(500 + u64::try_from(number * 37 % 2_000).unwrap_or(0)),
        },
        never_boots: kind(number) == Kind::NeverBoots,
    };
    (1..=count).map(node).collect()
}

/// haasd with all nodes in its inventory, managed.
fn controller<'a>(sim: &'a SimRack, farm: &Farm, count: usize) -> Result<Controller<'a>> {
    copy_tree(seed()?, &sim.rack.dir().join("state"))?;
    let secret = sim.rack.dir().join("bmc-password");
    fs::write(&secret, PASSWORD)?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let mut text = String::from(
        "[defaults]\ncache = \"0\"\n[defaults.power]\ndriver = \"ipmi\"\nuser = \"admin\"\n\
         password_file = \"bmc-password\"\n",
    );
    for (number, bmc) in (1..=count).zip(farm.addresses()) {
        let mac = mac(number).map(|byte| format!("{byte:02x}")).join(":");
        let (address, port) = (address(number), bmc.port());
        write!(
            text,
            "[[node]]\nname = \"n{number}\"\nmac = \"{mac}\"\naddress = \"{address}\"\n\
             power = {{ address = \"{}\", port = {port} }}\n",
            bmc.ip()
        )?;
    }
    let network = files::haasd_toml(&sim.rack)?
        .replace("10.77.0.0/24", "10.77.0.0/16")
        .replace("dhcp = \"own\"", "dhcp = \"own\"\nprobe = false");
    // No good node needs so long, whatever else the machine does.
    let limit = 60 + count / 5;
    let config = format!(
        "{network}\n[boot]\nfirmware = \"{limit}s\"\nstage = \"{limit}s\"\ntotal = \"{}s\"\nattempts = 1\n",
        3 * limit
    );
    let haas = Controller { haasd: Haasd::start(&sim.rack, &config, &text)?, sim };
    haas.manage(&format!("n[1-{count}]"), true)?;
    Ok(haas)
}

/// Switches all nodes, and kills haasd when a third of them is there. Answers the operation at its end,
/// and the seconds of CPU that both haasd have used.
fn kill_in_the_middle(haas: &mut Controller<'_>, count: usize) -> Result<(Operation, f32)> {
    let all = format!("n[1-{count}]");
    let mut wanted = request(&all, "none")?;
    wanted.min_success = Some(MinSuccess::Percent(95));
    let id = haas.switch_as(wanted)??.id;
    wait_until(haas, &id, |operation| {
        let there = operation.nodes.iter().filter(|n| n.state == NodeProgress::Prepared).count();
        there >= count / 3
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
