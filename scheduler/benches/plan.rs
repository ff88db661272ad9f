//! How long a pass takes over a large cluster, and one claim more after it.
//!
//! 10,000 nodes of four shapes in 50 racks, half of them in use; 10,000 claims of all sizes and shapes in
//! 100 queues, with labels, locations, overlays, limits and maintenance. With `--json` the last line is
//! one object.

use std::fs;
use std::io::Write;
use std::time::Instant;

use roaring::RoaringBitmap;
use scheduler::{
    Affinity, Assignment, Claim, ClaimId, Grant, Health, ImageId, Location, Maintenance, Need,
    Node, NodeId, OnNodeLoss, Overlay, OverlayId, OverlayUse, Planner, Policy, Power, ProjectId,
    Queue, QueueId, RackId, Request, ShapeId, Shard, Share, Snapshot, Time, UserId, Vector,
    explain,
};

const NODES: u32 = 10_000;
const RACKS: u32 = 50;
const CLAIMS: u64 = 10_000;
const MORE: u64 = 1_000;
const PARENTS: u32 = 10;
const LEAVES: u32 = 100;
const PROJECTS: u32 = 20;
const OVERLAYS: u32 = 2_000;
const NOW: Time = 1_000_000;
const PASSES: usize = 5;

fn main() {
    let json = std::env::args().any(|arg| arg == "--json");
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let snapshot = cluster(&mut dice);
    snapshot.check().expect("the cluster can be planned with");

    let pass = || {
        let begun = Clock::start();
        let planner = Planner::run(&snapshot, NOW);
        let took = begun.stop();
        drop(planner);
        took
    };
    let passes: Vec<Took> = (0..PASSES).map(|_| pass()).collect();
    let passes = Sorted::of(&passes);

    let plan = Planner::run(&snapshot, NOW).into_plan();
    let answered = plan.starts.len() + plan.planned.len() + plan.waiting.len();
    assert_eq!(answered as u64, CLAIMS, "every claim starts, is planned or has a reason to wait");
    let last = plan.waiting.last().expect("10,000 claims do not all start").claim;

    let mut planner = Planner::run(&snapshot, NOW);
    let mut add = |index| {
        let claim = claim(&mut dice, CLAIMS + index);
        let begun = Clock::start();
        planner.add(&claim).expect("the claim can be planned with");
        begun.stop()
    };
    let adds: Vec<Took> = (0..MORE).map(&mut add).collect();
    let adds = Sorted::of(&adds);

    let begun = Clock::start();
    explain(&snapshot, NOW, last).expect("it can be planned with").expect("it waits");
    let explained = begun.stop();

    let numbers = [
        ("claims", CLAIMS as f64),
        ("starts", plan.starts.len() as f64),
        ("planned", plan.planned.len() as f64),
        ("waiting_with_reason", plan.waiting.len() as f64),
        ("full_pass_median_ms", passes.wall[PASSES / 2]),
        ("full_pass_median_cpu_ms", passes.cpu[PASSES / 2]),
        ("full_pass_max_cpu_ms", passes.cpu[PASSES - 1]),
        ("one_more_p50_ms", adds.wall[adds.wall.len() / 2]),
        ("one_more_p99_ms", adds.wall[adds.wall.len() * 99 / 100]),
        ("explain_last_cpu_ms", explained.cpu_ms),
        ("peak_memory_mb", peak_memory_mb()),
    ];
    let mut out = std::io::stdout().lock();
    let fields: Vec<String> =
        numbers.iter().map(|(name, value)| format!("\"{name}\":{value:.3}")).collect();
    if json {
        writeln!(out, "{{{}}}", fields.join(",")).expect("standard output is open");
    } else {
        for (name, value) in numbers {
            writeln!(out, "{name:<24} {value:.3}").expect("standard output is open");
        }
    }
}

/// How long something took: by the clock, and of a core's time, which other work on the machine does not
/// stretch.
#[derive(Clone, Copy)]
struct Took {
    wall_ms: f64,
    cpu_ms: f64,
}

struct Clock {
    wall: Instant,
    cpu_ns: f64,
}

impl Clock {
    fn start() -> Clock {
        Clock { wall: Instant::now(), cpu_ns: cpu_ns() }
    }

    fn stop(self) -> Took {
        let cpu_ms = (cpu_ns() - self.cpu_ns) / 1e6;
        Took { wall_ms: self.wall.elapsed().as_secs_f64() * 1e3, cpu_ms }
    }
}

/// What this process has had of cores so far, in nanoseconds.
fn cpu_ns() -> f64 {
    let text = fs::read_to_string("/proc/self/schedstat").expect("Linux has /proc");
    text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("it begins with nanoseconds")
}

struct Sorted {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Sorted {
    fn of(all: &[Took]) -> Sorted {
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        Sorted {
            wall: sorted(all.iter().map(|took| took.wall_ms).collect()),
            cpu: sorted(all.iter().map(|took| took.cpu_ms).collect()),
        }
    }
}

/// The most memory that this process has had, in units of 10^6 bytes.
fn peak_memory_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<f64>().ok()).expect("VmHWM is in kB") * 1024.0 / 1e6
}

/// The same numbers each time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    /// Small numbers as often as large ones.
    fn width(&mut self) -> u32 {
        let bits = self.roll(9);
        (1 << bits) + self.roll(1 << bits) as u32
    }
}

fn cluster(dice: &mut Dice) -> Snapshot {
    let node = |cores, gpus, memory_gib| Vector {
        nodes: 1,
        cores,
        gpus,
        memory_gib,
        disk_gib: 1_000,
        network_gbit: 100,
    };
    let mut snapshot = Snapshot {
        shapes: vec![node(64, 0, 256), node(128, 0, 512), node(64, 4, 512), node(64, 0, 2_048)],
        queues: queues(dice),
        overlays: vec![Overlay { disk_gib: 50, homes: Vec::new() }; OVERLAYS as usize],
        ..Snapshot::default()
    };
    for index in 0..NODES {
        let health = match dice.roll(100) {
            0 => Health::Down,
            1 => Health::Draining,
            _ => Health::Ready,
        };
        let is_off = dice.roll(10) == 0;
        snapshot.nodes.push(Node {
            shape: ShapeId([0, 0, 0, 1, 1, 2, 2, 3][dice.roll(8) as usize]),
            rack: RackId(index / (NODES / RACKS)),
            labels: 1 << dice.roll(3),
            health,
            power: if is_off { Power::Off } else { Power::On { idle_since: NOW - 60 } },
            runs: Some((ImageId(dice.roll(5) as u32), None)),
            shards: Vec::new(),
            disk_gib: 1_000,
        });
    }
    shards(&mut snapshot, dice);
    for project in 0..PROJECTS {
        // Each may use the cluster but for two racks.
        let without = [project, project + PROJECTS];
        let in_them = |node: &u32| !without.contains(&(node / (NODES / RACKS)));
        let nodes = (0..NODES).filter(in_them).collect();
        snapshot.grants.push(Grant { project: ProjectId(project), nodes });
    }
    for rack in [7, 8] {
        let first = rack * (NODES / RACKS);
        let nodes: RoaringBitmap = (first..first + NODES / RACKS).collect();
        let from = NOW + 86_400 * Time::from(rack - 6);
        snapshot.maintenance.push(Maintenance { nodes, from, until: from + 14_400 });
    }
    run_half(&mut snapshot, dice);
    snapshot.claims = (0..CLAIMS).map(|id| claim(dice, id)).collect();
    snapshot
}

fn queues(dice: &mut Dice) -> Vec<Queue> {
    let mut queues = vec![Queue::root()];
    for parent in 0..PARENTS {
        let guaranteed = Share::percent(8);
        let max = Share::percent(40);
        queues.push(Queue {
            guaranteed,
            max,
            ..Queue::below(QueueId(0), format!("department {parent}"))
        });
    }
    for leaf in 0..LEAVES {
        let policy = match leaf % 3 {
            0 => Policy::Fifo,
            1 => Policy::Fair,
            _ => Policy::Capacity { user_factor_percent: 200 },
        };
        let parent = QueueId(1 + leaf % PARENTS);
        queues.push(Queue {
            guaranteed: Share(5_000_000),
            max: Share::percent(5 + dice.roll(20) as u32),
            weight: 1 + dice.roll(4) as u32,
            priority: dice.roll(3) as i32,
            policy,
            ..Queue::below(parent, format!("group {leaf}"))
        });
    }
    queues
}

/// A quarter of the overlays lie on some nodes in a row.
fn shards(snapshot: &mut Snapshot, dice: &mut Dice) {
    for overlay in 0..OVERLAYS / 4 {
        let ranks = 1 + dice.roll(16) as u32;
        let first = dice.roll(u64::from(NODES - ranks)) as u32;
        for rank in 0..ranks {
            let node = &mut snapshot.nodes[(first + rank) as usize];
            let shard = Shard { overlay: OverlayId(overlay), used: NOW - 1_000, leased: true };
            node.shards.push(shard);
            let home = Some(NodeId(first + rank));
            snapshot.overlays[overlay as usize].homes.push(home);
        }
    }
}

/// Claims run on every second node.
fn run_half(snapshot: &mut Snapshot, dice: &mut Dice) {
    let busy: Vec<NodeId> = (0..NODES).filter(|_| dice.roll(2) == 0).map(NodeId).collect();
    let mut rest = &busy[..];
    let mut id = 1_000_000;
    while !rest.is_empty() {
        let (nodes, others) = rest.split_at((dice.width() as usize).min(rest.len()));
        rest = others;
        let mut claim = claim(dice, id);
        claim.overlay = None;
        claim.requests = vec![Request::of(nodes.len() as u32)];
        let start = NOW - dice.roll(claim.walltime as u64) as Time;
        let end = start + claim.walltime;
        snapshot.assignments.push(Assignment {
            claim,
            nodes: vec![nodes.to_vec()],
            start,
            end,
            claim_by: None,
            is_advance: false,
        });
        id += 1;
    }
}

fn claim(dice: &mut Dice, id: u64) -> Claim {
    let mut request = Request::of(dice.width());
    match dice.roll(10) {
        0..5 => {}
        5 | 6 => request.shapes = vec![ShapeId(dice.roll(4) as u32)],
        7 => request.shapes = vec![ShapeId(1), ShapeId(0)],
        8 => request.labels = 1 << dice.roll(3),
        _ => {
            request.count = request.count.min(100);
            request.location = Location::Racks(1, Need::Required);
        }
    }
    let mut requests = vec![request];
    if dice.roll(20) == 0 {
        requests.push(Request { shapes: vec![ShapeId(2)], priority: 1, ..Request::of(1) });
    }
    let overlay = match dice.roll(4) {
        0 => Some(OverlayUse {
            overlay: OverlayId(dice.roll(u64::from(OVERLAYS)) as u32),
            affinity: if dice.roll(2) == 0 { Affinity::Require } else { Affinity::Prefer },
            fork: false,
        }),
        _ => None,
    };
    Claim {
        id: ClaimId(id),
        queue: QueueId(1 + PARENTS + dice.roll(u64::from(LEAVES)) as u32),
        user: UserId(dice.roll(500) as u32),
        project: ProjectId(dice.roll(u64::from(PROJECTS)) as u32),
        submitted: NOW - dice.roll(500_000) as Time,
        walltime: 600 << dice.roll(9),
        requests,
        image: ImageId(dice.roll(5) as u32),
        overlay,
        barred: RoaringBitmap::new(),
        preemptible: dice.roll(4) == 0,
        on_node_loss: OnNodeLoss::Replace,
        promise: None,
    }
}
