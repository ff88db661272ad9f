//! A small cluster that lives: claims come, run, end early; nodes fail and return; the clock jumps. After
//! every step the planner is asked, what it says is done, and every invariant is looked at.

use std::collections::BTreeMap;

use proptest::prelude::*;
use scheduler::{
    Affinity, Assignment, Change, Claim, ClaimId, Grant, Health, Location, Need, NodeId,
    OnNodeLoss, Overlay, OverlayId, OverlayUse, Plan, Policy, ProjectId, Promise, Queue, QueueId,
    RackId, Request, Settings, ShapeId, Share, Snapshot, Time, UserId, Vector, plan, reserve,
};

use crate::build::{claim, cluster, node, set};

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Time passes, and the planner is asked whenever something is due.
    Pass(Time),
    /// The clock jumps, ahead or back.
    Jump(Time),
    Submit(Claim),
    /// An advance claim, so many seconds ahead.
    Reserve(Claim, Time),
    /// A running claim ends before its time.
    EndEarly(usize),
    Fail(u32),
    Return(u32),
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) now: Time,
    next_id: u64,
    /// Promises may be broken by this step.
    has_failed: bool,
    /// Starts that were promised.
    promised: BTreeMap<ClaimId, Time>,
    pub(crate) plans: Vec<Plan>,
}

/// Eight nodes of two shapes in two racks; two projects; a root with three queues.
pub(crate) fn mixed(settings: Settings) -> Snapshot {
    let mut snapshot = Snapshot { settings, ..cluster(8) };
    for (index, node) in snapshot.nodes.iter_mut().enumerate() {
        node.shape = ShapeId(u32::from(index >= 6));
        node.rack = RackId(index as u32 % 2);
        node.labels = u64::from(index < 3);
    }
    snapshot.grants.push(Grant { project: ProjectId(1), nodes: set(&[2, 3, 4, 5, 6]) });
    snapshot.queues.extend([
        Queue { max: Share::percent(50), ..Queue::below(QueueId(0), "a") },
        Queue {
            policy: Policy::Fair,
            priority: 1,
            user_max: Some(Share::percent(60)),
            ..Queue::below(QueueId(0), "b")
        },
        Queue { guaranteed: Share::percent(30), ..Queue::below(QueueId(0), "c") },
    ]);
    snapshot.overlays = vec![
        Overlay { disk_gib: 1, homes: vec![Some(NodeId(1)), Some(NodeId(4))] },
        Overlay { disk_gib: 1, homes: Vec::new() },
    ];
    snapshot
}

pub(crate) fn any_claim() -> impl Strategy<Value = Claim> {
    let location = prop_oneof![
        4 => Just(Location::Anywhere),
        1 => Just(Location::Rack(RackId(1), Need::Required)),
        1 => Just(Location::Racks(1, Need::Required)),
        1 => Just(Location::Nodes(set(&[0, 2, 5, 7]), Need::Required)),
        1 => Just(Location::Rack(RackId(0), Need::Preferred)),
    ];
    let shapes = prop_oneof![
        4 => Just(Vec::new()),
        1 => Just(vec![ShapeId(1)]),
        1 => Just(vec![ShapeId(1), ShapeId(0)]),
    ];
    let overlay = prop_oneof![
        4 => Just(None),
        1 => Just(Some((0, Affinity::Require))),
        1 => Just(Some((0, Affinity::Prefer))),
        1 => Just(Some((1, Affinity::Require))),
    ];
    let request = (1u32..5, shapes, location, 0u64..2, 0i32..2);
    let requests = prop::collection::vec(request, 1..3);
    let loss =
        prop_oneof![Just(OnNodeLoss::Replace), Just(OnNodeLoss::Shrink), Just(OnNodeLoss::Fail)];
    let who = (1u32..4, 0u32..3, 0u32..2);
    (who, 1i64..60, requests, overlay, loss, any::<bool>()).prop_map(
        |((queue, user, project), walltime, requests, overlay, on_node_loss, preemptible)| {
            let requests =
                requests.into_iter().map(|(count, shapes, location, labels, priority)| Request {
                    count,
                    priority,
                    shapes,
                    labels,
                    location,
                });
            let overlay = overlay.map(|(overlay, affinity)| OverlayUse {
                overlay: OverlayId(overlay),
                affinity,
                fork: false,
            });
            Claim {
                queue: QueueId(queue),
                user: UserId(user),
                project: ProjectId(project),
                requests: requests.collect(),
                overlay,
                on_node_loss,
                preemptible,
                ..claim(0, 1, walltime)
            }
        },
    )
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1i64..40).prop_map(Step::Pass),
        1 => (-20i64..400).prop_map(Step::Jump),
        8 => any_claim().prop_map(Step::Submit),
        2 => (any_claim(), 1i64..80).prop_map(|(claim, ahead)| Step::Reserve(claim, ahead)),
        2 => (0usize..8).prop_map(Step::EndEarly),
        1 => (0u32..8).prop_map(Step::Fail),
        2 => (0u32..8).prop_map(Step::Return),
    ]
}

impl World {
    pub(crate) fn new(snapshot: Snapshot) -> World {
        World {
            snapshot,
            now: 0,
            next_id: 1,
            has_failed: false,
            promised: BTreeMap::new(),
            plans: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, step: Step) {
        self.has_failed = false;
        match step {
            Step::Pass(by) => {
                let until = self.now + by;
                while let Some(next) = self.next_event().filter(|next| *next < until) {
                    self.now = next;
                    self.end_and_plan();
                }
                self.now = until;
            }
            Step::Jump(by) => {
                self.now += by;
                self.has_failed = true;
            }
            Step::Submit(claim) => {
                let claim = self.named(claim);
                self.snapshot.claims.push(claim);
            }
            Step::Reserve(claim, ahead) => {
                let claim = self.named(claim);
                let answer = reserve(&self.snapshot, self.now, &claim, self.now + ahead);
                let answer = answer.expect("the snapshot can be planned with");
                if let Ok(assignment) = answer {
                    assert_eq!(assignment.start, self.now + ahead);
                    self.snapshot.assignments.push(assignment);
                }
            }
            Step::EndEarly(index) => {
                let now = self.now;
                let running = self.snapshot.assignments.iter().filter(|a| a.has_begun(now));
                let mut running: Vec<ClaimId> = running.map(|one| one.claim.id).collect();
                running.sort_unstable();
                if let Some(id) = running.get(index).copied() {
                    self.snapshot.assignments.retain(|one| one.claim.id != id);
                }
            }
            Step::Fail(index) => {
                self.snapshot.nodes[index as usize].health = Health::Down;
                self.has_failed = true;
            }
            Step::Return(index) => self.snapshot.nodes[index as usize].health = Health::Ready,
        }
        self.end_and_plan();
    }

    fn end_and_plan(&mut self) {
        let now = self.now;
        self.snapshot.assignments.retain(|one| one.end > now);
        self.plan();
    }

    /// When something ends, begins or is promised.
    fn next_event(&self) -> Option<Time> {
        let held = self.snapshot.assignments.iter().flat_map(|one| [one.start, one.end]);
        let promised = self.promised.values().copied();
        held.chain(promised).filter(|time| *time > self.now).min()
    }

    fn named(&mut self, claim: Claim) -> Claim {
        let id = self.next_id;
        self.next_id += 1;
        Claim { id: ClaimId(id), submitted: self.now, ..claim }
    }

    /// Asks, looks at the answer, and does it.
    pub(crate) fn plan(&mut self) {
        let plan = plan(&self.snapshot, self.now).expect("the snapshot can be planned with");
        self.everybody_is_answered(&plan);
        self.apply_changes(&plan);
        self.nodes_are_right(&plan);
        self.promises_are_kept(&plan);
        self.apply(&plan);
        self.nothing_overlaps(&plan);
        self.shares_are_kept(&plan);
        self.plans.push(plan);
    }

    fn everybody_is_answered(&self, plan: &Plan) {
        let starts = plan.starts.iter().map(|one| one.claim);
        let planned = plan.planned.iter().map(|one| one.claim);
        let waiting = plan.waiting.iter().map(|one| one.claim);
        let mut answered: Vec<ClaimId> = starts.chain(planned).chain(waiting).collect();
        let is_advance = |id: &ClaimId| self.snapshot.assignments.iter().any(|a| a.claim.id == *id);
        answered.retain(|id| !is_advance(id));
        answered.sort_unstable();
        let mut all: Vec<ClaimId> = self.snapshot.claims.iter().map(|claim| claim.id).collect();
        all.sort_unstable();
        assert_eq!(answered, all);
    }

    fn apply_changes(&mut self, plan: &Plan) {
        let all = &mut self.snapshot.assignments;
        for change in &plan.changes {
            match change {
                Change::Failed { claim, .. } | Change::NoShow { claim } => {
                    all.retain(|one| one.claim.id != *claim);
                }
                Change::Shrunk { claim, lost } => {
                    let one = all.iter_mut().find(|one| one.claim.id == *claim).unwrap();
                    for nodes in &mut one.nodes {
                        nodes.retain(|node| !lost.contains(node));
                    }
                }
                Change::Replaced { claim, lost, by } => {
                    let one = all.iter_mut().find(|one| one.claim.id == *claim).unwrap();
                    for node in one.nodes.iter_mut().flatten().filter(|node| *node == lost) {
                        *node = *by;
                    }
                }
                Change::Preempted { claim, at, .. } => {
                    let one = all.iter_mut().find(|one| one.claim.id == *claim).unwrap();
                    one.end = *at;
                }
                Change::Moved { .. } | Change::Degraded { .. } => {}
            }
        }
        // Advance claims that lost nodes have others now.
        for planned in &plan.planned {
            if let Some(one) = all.iter_mut().find(|one| one.claim.id == planned.claim) {
                one.nodes = planned.nodes.clone();
                (one.start, one.end) = (planned.start, planned.end);
            }
        }
    }

    /// Grants, health, shapes, labels, places, counts, homes.
    fn nodes_are_right(&self, plan: &Plan) {
        let starts = plan.starts.iter().map(|one| (one.claim, &one.nodes));
        let planned = plan.planned.iter().map(|one| (one.claim, &one.nodes));
        for (id, nodes) in starts.chain(planned) {
            let held = self.snapshot.assignments.iter().map(|one| &one.claim);
            let mut claims = self.snapshot.claims.iter().chain(held);
            let claim = claims.find(|claim| claim.id == id).unwrap();
            let mut rank = 0;
            for (request, nodes) in claim.requests.iter().zip(nodes) {
                assert_eq!(nodes.len(), request.count as usize);
                self.request_is_met(claim, request, nodes, rank);
                rank += nodes.len();
            }
        }
    }

    fn request_is_met(&self, claim: &Claim, request: &Request, nodes: &[NodeId], first: usize) {
        let node = |id: &NodeId| &self.snapshot.nodes[id.index()];
        let mut racks: Vec<RackId> = nodes.iter().map(|id| node(id).rack).collect();
        racks.sort_unstable();
        racks.dedup();
        let mut shapes: Vec<ShapeId> = nodes.iter().map(|id| node(id).shape).collect();
        shapes.dedup();
        assert!(request.shapes.is_empty() || shapes.len() == 1);
        for (index, id) in nodes.iter().enumerate() {
            let granted =
                |grant: &Grant| grant.project == claim.project && grant.nodes.contains(id.0);
            assert!(self.snapshot.grants.iter().any(granted), "{id:?} is not granted");
            assert_eq!(node(id).health, Health::Ready);
            assert!(request.shapes.is_empty() || request.shapes.contains(&node(id).shape));
            assert_eq!(node(id).labels & request.labels, request.labels);
            match &request.location {
                Location::Nodes(set, Need::Required) => assert!(set.contains(id.0)),
                Location::Rack(rack, Need::Required) => assert_eq!(node(id).rack, *rack),
                Location::Racks(most, Need::Required) => assert!(racks.len() <= *most as usize),
                Location::Nodes(_, Need::Preferred)
                | Location::Rack(_, Need::Preferred)
                | Location::Racks(_, Need::Preferred)
                | Location::Anywhere => {}
            }
            if let Some(wanted) = claim.overlay.filter(|w| w.affinity == Affinity::Require) {
                let homes = &self.snapshot.overlays[wanted.overlay.0 as usize].homes;
                if let Some(Some(home)) = homes.get(first + index) {
                    assert_eq!(id, home, "rank {} is away from home", first + index);
                }
            }
        }
    }

    fn promises_are_kept(&self, plan: &Plan) {
        if self.has_failed {
            return;
        }
        let started = |id: &ClaimId| plan.starts.iter().any(|start| start.claim == *id);
        for (id, promised) in &self.promised {
            let planned = plan.planned.iter().find(|planned| planned.claim == *id);
            match planned {
                Some(planned) => assert!(
                    planned.start <= *promised,
                    "{id:?} moved back at {}: {plan:?}",
                    self.now
                ),
                None => assert!(started(id), "{id:?} lost its promise"),
            }
        }
    }

    fn apply(&mut self, plan: &Plan) {
        self.promised.clear();
        for start in &plan.starts {
            let at = self.snapshot.claims.iter().position(|one| one.id == start.claim).unwrap();
            let claim = self.snapshot.claims.remove(at);
            self.snapshot.assignments.push(Assignment {
                claim: Claim { promise: None, ..claim },
                nodes: start.nodes.clone(),
                start: self.now,
                end: start.end,
                claim_by: None,
                is_advance: false,
            });
        }
        for claim in &mut self.snapshot.claims {
            claim.promise = None;
        }
        for planned in &plan.planned {
            let mut claims = self.snapshot.claims.iter_mut();
            if let Some(claim) = claims.find(|one| one.id == planned.claim) {
                let promise = Promise { start: planned.start, nodes: planned.nodes.clone() };
                claim.promise = Some(promise);
                self.promised.insert(planned.claim, planned.start);
            }
        }
    }

    /// What is held, by which claim, over time: assignments and planned starts.
    fn held(&self, plan: &Plan) -> Vec<(&Claim, Vec<NodeId>, Time, Time)> {
        let mut held = Vec::new();
        for one in &self.snapshot.assignments {
            let start = if one.has_begun(self.now) { self.now.min(one.start) } else { one.start };
            held.push((&one.claim, one.all_nodes().collect(), start, one.end));
        }
        for planned in &plan.planned {
            let mut claims = self.snapshot.claims.iter();
            if let Some(claim) = claims.find(|claim| claim.id == planned.claim) {
                let nodes = planned.nodes.iter().flatten().copied().collect();
                held.push((claim, nodes, planned.start, planned.end));
            }
        }
        held
    }

    fn nothing_overlaps(&self, plan: &Plan) {
        let held = self.held(plan);
        for (index, (claim, nodes, start, end)) in held.iter().enumerate() {
            for (other, others, from, until) in &held[..index] {
                if start >= until || from >= end {
                    continue;
                }
                let shared = nodes.iter().find(|node| others.contains(node));
                assert_eq!(shared, None, "{:?} and {:?} share a node", claim.id, other.id);
                let overlay = claim.overlay.map(|wanted| wanted.overlay);
                let same = overlay.is_some() && overlay == other.overlay.map(|w| w.overlay);
                assert!(!same, "{:?} and {:?} share an overlay", claim.id, other.id);
            }
        }
    }

    fn shares_are_kept(&self, plan: &Plan) {
        let held = self.held(plan);
        let total = self.snapshot.total();
        let vector = |nodes: &[NodeId]| {
            let one = |node: &NodeId| {
                self.snapshot.shapes[self.snapshot.nodes[node.index()].shape.0 as usize]
            };
            nodes.iter().map(one).fold(Vector::default(), Vector::plus)
        };
        for at in held.iter().map(|(_, _, start, _)| *start) {
            for (index, queue) in self.snapshot.queues.iter().enumerate() {
                let is_below = |mut id: QueueId| loop {
                    if id.index() == index {
                        return true;
                    }
                    match self.snapshot.queues[id.index()].parent {
                        Some(parent) => id = parent,
                        None => return false,
                    }
                };
                let open = || {
                    held.iter().filter(|(claim, _, start, end)| {
                        *start <= at && at < *end && is_below(claim.queue)
                    })
                };
                let sum = open().map(|(_, nodes, _, _)| vector(nodes));
                let sum = sum.fold(Vector::default(), Vector::plus);
                assert!(sum.is_within(queue.max, total), "{} is over its maximum", queue.name);
                let Some(max) = queue.user_max else { continue };
                for user in (0..3).map(UserId) {
                    let sum = open().filter(|(claim, ..)| claim.user == user);
                    let sum = sum.map(|(_, nodes, _, _)| vector(nodes));
                    let sum = sum.fold(Vector::default(), Vector::plus);
                    assert!(sum.is_within(max, total), "{user:?} is over the maximum");
                }
            }
        }
    }
}

#[test]
fn the_world_itself_notices_a_double_use() {
    let mut world = World::new(cluster(2));
    world.snapshot.nodes.push(node());
    world.snapshot.assignments.push(crate::build::running(1, &[0], 10));
    world.snapshot.assignments.push(crate::build::running(2, &[0], 10));
    let seen = std::panic::catch_unwind(|| world.nothing_overlaps(&Plan::default()));
    assert!(seen.is_err());
}
