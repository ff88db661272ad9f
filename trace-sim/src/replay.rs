//! Replays jobs through the planner: at every submission and end the planner is asked, and what it
//! starts runs for as long as it did in the trace.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use scheduler::{
    Affinity, Assignment, Claim, ClaimId, Grant, Health, Idle, ImageId, Node, NodeId, OnNodeLoss,
    Overlay, OverlayId, OverlayUse, Planned, Planner, Power, PowerAction, ProjectId, Promise,
    Promises, Queue, QueueId, RackId, Request, Settings, ShapeId, Shard, Snapshot, Time, UserId,
    Vector,
};

use crate::swf::Job;

/// What an overlay is in a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Overlays {
    /// There are none.
    None,
    /// Each user has one; a job meets it if all its nodes hold a shard of it.
    User,
    /// Each user has one for each width; a job meets it if each rank is on the node where it ran last.
    Rank,
}

/// What to replay.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) nodes: u32,
    /// How many overlays have room on a node.
    pub(crate) shard_cap: u32,
    pub(crate) overlays: Overlays,
    pub(crate) settings: Settings,
}

/// A job as it ran.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    pub(crate) start: Time,
    /// By rank.
    pub(crate) nodes: Vec<NodeId>,
    /// It met its overlay.
    pub(crate) is_hit: bool,
    /// How many of its nodes were not ready.
    pub(crate) cold: u32,
}

/// A replayed trace.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) jobs: Vec<Ran>,
    /// How many passes the planner made, and how many answers they gave.
    pub(crate) passes: u64,
    pub(crate) decisions: u64,
    /// How long they took.
    pub(crate) planning: Duration,
    /// How often a start that was promised or planned moved back.
    pub(crate) moved_back: u64,
    /// Node-seconds on, whether in use, idle or booting.
    pub(crate) on_s: i64,
    pub(crate) power_ons: u64,
}

/// The image that all jobs boot.
const IMAGE: ImageId = ImageId(0);

/// Replays all jobs.
pub(crate) fn replay(jobs: &[Job], setup: &Setup) -> Replay {
    let mut world = World::new(jobs, setup);
    let mut arriving = 0;
    while let Some(now) = world.next_event(jobs.get(arriving)) {
        world.end_until(now);
        while jobs.get(arriving).is_some_and(|job| job.submit <= now) {
            world.submit(arriving);
            arriving += 1;
        }
        world.pass(now);
    }
    world.finish()
}

/// The cluster in the middle of a replay.
struct World<'a> {
    jobs: &'a [Job],
    setup: &'a Setup,
    snapshot: Snapshot,
    overlay_of: Vec<OverlayId>,
    ends: BinaryHeap<Reverse<(Time, usize)>>,
    /// Nodes to turn on before a planned start.
    turn_on: BTreeSet<(Time, NodeId)>,
    /// When a node should next be looked at because it is idle.
    look: Option<Time>,
    /// Since when each node is on.
    on_since: Vec<Option<Time>>,
    /// The last planned start of each claim.
    planned: HashMap<ClaimId, Time>,
    ran: Vec<Option<Ran>>,
    replay: Replay,
    now: Time,
}

impl<'a> World<'a> {
    fn new(jobs: &'a [Job], setup: &'a Setup) -> World<'a> {
        let node = Node {
            shape: ShapeId(0),
            rack: RackId(0),
            labels: 0,
            health: Health::Ready,
            power: Power::On { idle_since: 0 },
            runs: None,
            shards: Vec::new(),
            disk_gib: setup.shard_cap,
        };
        let (overlays, overlay_of) = overlays(jobs, setup.overlays);
        let snapshot = Snapshot {
            shapes: vec![Vector { nodes: 1, ..Vector::default() }],
            nodes: vec![node; setup.nodes as usize],
            queues: vec![Queue::root()],
            grants: vec![Grant { project: ProjectId(0), nodes: (0..setup.nodes).collect() }],
            overlays,
            settings: setup.settings.clone(),
            ..Snapshot::default()
        };
        let replay = Replay {
            jobs: Vec::new(),
            passes: 0,
            decisions: 0,
            planning: Duration::ZERO,
            moved_back: 0,
            on_s: 0,
            power_ons: 0,
        };
        World {
            jobs,
            setup,
            snapshot,
            overlay_of,
            ends: BinaryHeap::new(),
            turn_on: BTreeSet::new(),
            look: None,
            on_since: vec![Some(0); setup.nodes as usize],
            planned: HashMap::new(),
            ran: vec![None; jobs.len()],
            replay,
            now: 0,
        }
    }

    fn next_event(&self, arriving: Option<&Job>) -> Option<Time> {
        let end = self.ends.peek().map(|Reverse((end, _))| *end);
        let next = arriving.map(|job| job.submit).into_iter().chain(end).min()?;
        // Power matters only as long as something comes.
        let power = self.turn_on.first().map(|(at, _)| *at).into_iter().chain(self.look);
        Some(power.min().map_or(next, |power| power.max(self.now + 1).min(next)))
    }

    fn end_until(&mut self, now: Time) {
        self.now = now;
        while let Some(Reverse((end, index))) = self.ends.peek().copied()
            && end <= now
        {
            self.ends.pop();
            let id = ClaimId(index as u64);
            let at = self.snapshot.assignments.iter().position(|one| one.claim.id == id);
            let one = self.snapshot.assignments.swap_remove(at.expect("what ends was running"));
            for node in one.all_nodes() {
                let node = &mut self.snapshot.nodes[node.index()];
                node.power = Power::On { idle_since: end };
            }
        }
    }

    fn submit(&mut self, index: usize) {
        let job = &self.jobs[index];
        let overlay = self.overlay_of.get(index).map(|overlay| OverlayUse {
            overlay: *overlay,
            affinity: Affinity::Prefer,
            fork: true,
        });
        self.snapshot.claims.push(Claim {
            id: ClaimId(index as u64),
            queue: QueueId(0),
            user: UserId(job.user),
            project: ProjectId(0),
            submitted: job.submit,
            walltime: job.estimate,
            requests: vec![Request::of(job.width)],
            image: IMAGE,
            overlay,
            barred: Default::default(),
            preemptible: false,
            on_node_loss: OnNodeLoss::Fail,
            promise: None,
        });
    }

    fn pass(&mut self, now: Time) {
        self.boot(now);
        let begun = Instant::now();
        let plan = Planner::run(&self.snapshot, now).into_plan();
        self.replay.planning += begun.elapsed();
        self.replay.passes += 1;
        let answers = plan.starts.len() + plan.planned.len() + plan.waiting.len();
        self.replay.decisions += answers as u64;
        for start in plan.starts {
            let nodes = start.nodes.into_iter().flatten().collect();
            self.start(start.claim, nodes, start.end);
        }
        for planned in plan.planned {
            self.note(planned);
        }
        self.switch(plan.power);
    }

    /// Nodes whose time has come are turned on, and those that booted are ready.
    fn boot(&mut self, now: Time) {
        while let Some((at, id)) = self.turn_on.first().copied()
            && at <= now
        {
            self.turn_on.pop_first();
            let ready_at = now + self.setup.settings.boot_time;
            self.snapshot.nodes[id.index()].power = Power::Booting { ready_at };
            self.on_since[id.index()] = Some(now);
            self.replay.power_ons += 1;
        }
        for node in &mut self.snapshot.nodes {
            if let Power::Booting { ready_at } = node.power
                && ready_at <= now
            {
                node.power = Power::On { idle_since: ready_at };
            }
        }
    }

    /// Does what the plan says about power.
    fn switch(&mut self, actions: Vec<PowerAction>) {
        self.turn_on.clear();
        self.look = None;
        let (pays_after, after) = match self.setup.settings.idle {
            Idle::Never => return,
            Idle::Timeout { after } => (None, after),
            Idle::Planned { pays_after, after, .. } => (Some(pays_after), after),
        };
        for action in actions {
            let index = action.node.index();
            match (action.on, self.snapshot.nodes[index].power) {
                (true, Power::Off) if pays_after.is_some() => {
                    self.turn_on.insert((action.at, action.node));
                }
                (false, Power::On { .. }) => {
                    self.snapshot.nodes[index].power = Power::Off;
                    let since = self.on_since[index].take().expect("what is on has been since");
                    self.replay.on_s += self.now - since;
                }
                (true | false, Power::On { .. } | Power::Booting { .. } | Power::Off) => {}
            }
        }
        let now = self.now;
        let idle = self.snapshot.nodes.iter().filter_map(|node| match node.power {
            Power::On { idle_since } if idle_since <= now => Some(idle_since + after + 1),
            Power::Booting { ready_at } => Some(ready_at),
            Power::On { .. } | Power::Off => None,
        });
        self.look = idle.filter(|time| *time > now).min();
    }

    fn place(&self, id: ClaimId) -> usize {
        let found = self.snapshot.claims.binary_search_by_key(&id, |claim| claim.id);
        found.expect("who is planned waits")
    }

    fn start(&mut self, id: ClaimId, nodes: Vec<NodeId>, end: Time) {
        let index = id.0 as usize;
        let place = self.place(id);
        let claim = self.snapshot.claims.remove(place);
        self.planned.remove(&id);
        let is_hit = match self.setup.overlays {
            Overlays::None => false,
            Overlays::User => self.attach(self.overlay_of[index], &nodes, false),
            Overlays::Rank => self.attach(self.overlay_of[index], &nodes, true),
        };
        let mut cold = 0;
        for id in &nodes {
            let node = &mut self.snapshot.nodes[id.index()];
            cold += u32::from(!matches!(node.power, Power::On { .. }));
            if node.power == Power::Off {
                self.replay.power_ons += 1;
                self.on_since[id.index()] = Some(self.now);
            }
            node.power = Power::On { idle_since: Time::MAX };
            node.runs = Some((IMAGE, self.overlay_of.get(index).copied()));
        }
        self.ran[index] = Some(Ran { start: self.now, nodes: nodes.clone(), is_hit, cold });
        self.ends.push(Reverse((self.now + self.jobs[index].run, index)));
        self.snapshot.assignments.push(Assignment {
            claim,
            nodes: vec![nodes],
            start: self.now,
            end,
            claim_by: None,
            is_advance: false,
        });
    }

    /// Attaches an overlay on nodes and says whether all of them held it.
    fn attach(&mut self, overlay: OverlayId, nodes: &[NodeId], by_rank: bool) -> bool {
        let Snapshot { nodes: all, overlays, .. } = &mut self.snapshot;
        let index = overlay.0 as usize;
        let mut is_hit = true;
        for (rank, id) in nodes.iter().enumerate() {
            let shards = &mut all[id.index()].shards;
            let held = shards.iter().position(|shard| shard.overlay == overlay);
            is_hit &= held.is_some();
            if by_rank {
                is_hit &= overlays[index].homes[rank] == Some(*id);
            }
            if let Some(held) = held {
                shards.remove(held);
            }
            shards.push(Shard { overlay, used: self.now, leased: false });
            if shards.len() > self.setup.shard_cap as usize {
                let gone = shards.remove(0);
                for home in &mut overlays[gone.overlay.0 as usize].homes {
                    if *home == Some(*id) {
                        *home = None;
                    }
                }
            }
        }
        if by_rank {
            // A rank lives on one node: where it was before, it is no more.
            for home in overlays[index].homes.iter().flatten().filter(|home| !nodes.contains(home))
            {
                all[home.index()].shards.retain(|shard| shard.overlay != overlay);
            }
            overlays[index].homes = nodes.iter().copied().map(Some).collect();
        }
        is_hit
    }

    fn note(&mut self, planned: Planned) {
        let before = self.planned.insert(planned.claim, planned.start);
        self.replay.moved_back += u64::from(before.is_some_and(|before| planned.start > before));
        if self.setup.settings.promises == Promises::Kept {
            let place = self.place(planned.claim);
            let promise = Promise { start: planned.start, nodes: planned.nodes };
            self.snapshot.claims[place].promise = Some(promise);
        }
    }

    fn finish(mut self) -> Replay {
        let still_on = self.on_since.iter().flatten().map(|since| self.now - since);
        self.replay.on_s += still_on.sum::<Time>();
        let ran = self.ran.into_iter().map(|ran| ran.expect("every job fits and ran"));
        self.replay.jobs = ran.collect();
        self.replay
    }
}

/// The overlays of a trace, and that of each job.
fn overlays(jobs: &[Job], kind: Overlays) -> (Vec<Overlay>, Vec<OverlayId>) {
    let mut known: HashMap<(u32, u32), OverlayId> = HashMap::new();
    let mut overlays = Vec::new();
    let key = |job: &Job| match kind {
        Overlays::None => None,
        Overlays::User => Some((job.user, 0)),
        Overlays::Rank => Some((job.user, job.width)),
    };
    let of = jobs.iter().filter_map(|job| {
        let key = key(job)?;
        Some(*known.entry(key).or_insert_with(|| {
            let homes = vec![None; key.1 as usize];
            overlays.push(Overlay { disk_gib: 1, homes });
            OverlayId(overlays.len() as u32 - 1)
        }))
    });
    let of = of.collect();
    (overlays, of)
}
