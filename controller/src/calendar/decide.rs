//! What is due with the reservations at a moment. PURE: no I/O, no clock, no store.
//!
//! First what the clock alone decides: whose time is over, who is ready, who is to be warned. Then the
//! planner is asked with what is left, and its plan becomes changes of reservations, nodes to be lent and
//! nodes to be taken back. [`carry_out`](super::carry_out) writes all of it in one transaction.

use std::collections::{HashMap, HashSet};

use haas_api::reservation::{OnNodeLoss, ReasonCode, ReservationState};
use scheduler::{Change, ClaimId, Health, NodeId, Plan, Planned, SnapshotError, Why};

use super::{
    ask::short,
    limits::{self, Excess},
    snapshot::{self, Taken, claim_id, micros, seconds},
    words,
    world::World,
};
use crate::model::{Assigned, Micros, Reservation, SECOND};

/// A start that moves by less is nobody's news.
const NEWS: Micros = 60 * SECOND;

/// What is to be done with a reservation.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// As it shall be.
    pub(super) now: Reservation,
    /// As it is.
    before: Reservation,
    /// What happened to it.
    pub(super) steps: Vec<Step>,
    /// Nodes that it is given now, by id.
    pub(super) lend: Vec<String>,
    /// Nodes that are taken from it, by id.
    pub(super) back: Vec<String>,
    /// Its time should last so long, if nothing is in the way.
    wants_until: Option<Micros>,
}

/// Something that happened to a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) code: ReasonCode,
    pub(super) detail: String,
}

/// What is due.
#[derive(Debug)]
pub(super) struct Decision {
    /// The reservations that change.
    pub(super) drafts: Vec<Draft>,
    /// When something will be due next, as far as is known.
    pub(super) next: Option<Micros>,
    /// Why nothing new could be planned.
    pub(super) problem: Option<SnapshotError>,
}

/// Decides what is due at `now`.
pub(super) fn decide(world: &World, now: Micros) -> Decision {
    let mut drafts: Vec<Draft> = world.live.iter().cloned().map(Draft::new).collect();
    for draft in &mut drafts {
        draft.by_the_clock(world, now);
    }
    let kept_back = kept_back(world, &mut drafts, now);
    let planned = drafts.iter().map(|draft| &draft.now);
    let planned = planned.filter(|one| !kept_back.contains(&one.id));
    let mut taken = snapshot::take(world, planned, now);
    let planned = lengthen(world, &mut taken, &mut drafts, now)
        .and_then(|()| scheduler::plan(&taken.snapshot, seconds(now)));
    let problem = match planned {
        Ok(plan) => {
            apply(world, &taken, plan, &mut drafts, now);
            None
        }
        // What has been given ends in its time all the same.
        Err(problem) => Some(problem),
    };
    lend_in_time(world, &mut drafts, now);
    let next = drafts.iter().filter_map(|draft| draft.next(world, now)).min();
    drafts.retain(Draft::is_news);
    Decision { drafts, next, problem }
}

impl Draft {
    fn new(now: Reservation) -> Self {
        let (steps, lend, back) = Default::default();
        Self { before: now.clone(), now, steps, lend, back, wants_until: None }
    }

    fn is_news(&self) -> bool {
        self.now != self.before || !self.lend.is_empty() || !self.back.is_empty()
    }

    fn step(&mut self, what: &'static str, code: ReasonCode, detail: impl Into<String>) {
        self.steps.push(Step { what, code, detail: detail.into() });
    }

    /// Another state, and why.
    pub(super) fn turn(
        &mut self,
        state: ReservationState,
        code: ReasonCode,
        reason: impl Into<String>,
    ) {
        let reason = reason.into();
        self.now.state = state;
        self.now.code = code;
        self.now.reason.clone_from(&reason);
        self.step(state.as_str(), code, reason);
    }

    fn by_the_clock(&mut self, world: &World, now: Micros) {
        match self.now.state {
            ReservationState::Starting | ReservationState::Active if self.is_over(now) => {
                self.end_in_time(now);
            }
            ReservationState::Planned if self.now.is_advance && self.is_over(now) => {
                let reason = "its whole time passed while haasd was away";
                self.give_up(ReasonCode::NeverReady, reason.to_owned());
            }
            ReservationState::Starting => self.become_active(world, now),
            ReservationState::Active => self.warn(world, now),
            ReservationState::Ending if self.nodes_are_back(world) => {
                let state = match self.now.code {
                    ReasonCode::NodeLost | ReasonCode::NeverReady => ReservationState::Failed,
                    _ => ReservationState::Ended,
                };
                let code = self.now.code;
                self.turn(state, code, self.now.reason.clone());
            }
            ReservationState::Ending
            | ReservationState::Pending
            | ReservationState::Planned
            | ReservationState::Ended
            | ReservationState::Cancelled
            | ReservationState::Failed => {}
        }
    }

    fn is_over(&self, now: Micros) -> bool {
        self.now.end_at.is_some_and(|end| end <= now)
    }

    fn end_in_time(&mut self, now: Micros) {
        let (code, reason) = match (self.now.code, self.now.state) {
            (ReasonCode::Released, _) => (ReasonCode::Released, self.now.reason.clone()),
            (_, ReservationState::Active) => (ReasonCode::TimeOver, "its time is over".to_owned()),
            _ => {
                let reason = "its nodes were not ready within its whole time";
                (ReasonCode::NeverReady, reason.to_owned())
            }
        };
        self.end(code, reason, now);
    }

    /// Ends what it has, in order; its nodes are free for others at once.
    pub(super) fn end(&mut self, code: ReasonCode, reason: impl Into<String>, now: Micros) {
        self.now.end_at = Some(now.min(self.now.end_at.unwrap_or(now)));
        let given = self.now.held().filter(|held| held.generation > 0);
        self.back.extend(given.map(|held| held.node_id.clone()));
        // What was only promised is promised no more.
        self.now.nodes.retain(|held| held.generation > 0);
        self.turn(ReservationState::Ending, code, reason);
    }

    fn become_active(&mut self, world: &World, now: Micros) {
        let is_ready = |held: &Assigned| {
            let standing = world.seen(&held.node_id).and_then(|seen| seen.standing.as_ref());
            let runs = standing.and_then(|standing| standing.runs.as_ref());
            held.generation > 0
                && runs.is_some_and(|runs| {
                    runs.is_ready
                        && runs.generation >= held.generation
                        && runs.tenant == self.now.tenant
                })
        };
        let (Some(start), false) = (self.now.start_at, self.now.held().next().is_none()) else {
            return;
        };
        if !self.now.held().all(is_ready) {
            return;
        }
        let ready = *self.now.ready_at.get_or_insert(now);
        if now < start {
            return;
        }
        if !self.now.is_advance {
            // Its time counts from now.
            let wanted = now.saturating_add(self.now.walltime);
            match self.now.end_at {
                Some(end) if end < wanted => self.wants_until = Some(wanted),
                Some(_) | None => self.now.end_at = Some(wanted),
            }
        }
        let late = (ready - start) / SECOND;
        if self.now.is_advance && late > 0 {
            let reason = format!("its nodes were ready {late} s after its hour");
            self.turn(ReservationState::Active, ReasonCode::ReadyLate, reason);
        } else {
            self.turn(ReservationState::Active, ReasonCode::Ready, "its nodes are ready");
        }
    }

    fn warn(&mut self, world: &World, now: Micros) {
        if let Some(at) = self.warns_at(world)
            && at <= now
            && !self.now.warned
        {
            self.now.warned = true;
            let left = short(self.now.end_at.unwrap_or(now) - now);
            self.step("warned", ReasonCode::EndsSoon, format!("its time is over in {left}"));
        }
    }

    /// When its user is told that its time is over soon: short ones are told later.
    fn warns_at(&self, world: &World) -> Option<Micros> {
        let before = world.config.warn().min(self.now.walltime / 4);
        Some(self.now.end_at? - before)
    }

    /// Whether nothing of it runs any more on the nodes that were taken from it.
    fn nodes_are_back(&self, world: &World) -> bool {
        self.now.held().all(|held| {
            let Some(seen) = world.seen(&held.node_id) else { return true };
            let has_fault =
                seen.node.fault.as_ref().is_some_and(|f| f.generation == seen.node.generation);
            let runs = seen.standing.as_ref().and_then(|standing| standing.runs.as_ref());
            has_fault || runs.is_none_or(|runs| runs.generation >= held.generation)
        })
    }

    /// When something will be due with it.
    fn next(&self, world: &World, now: Micros) -> Option<Micros> {
        let one = &self.now;
        let due = self.begins_at(world);
        let warn = self.warns_at(world).filter(|_| one.state == ReservationState::Active);
        let times = [one.start_at, one.end_at, due, warn, snapshot::claim_by(world, one)];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// When the first of its nodes must begin to boot to be ready at its hour.
    fn begins_at(&self, world: &World) -> Option<Micros> {
        let one = &self.now;
        if !one.is_advance || one.state != ReservationState::Planned {
            return None;
        }
        let held = one.held().filter_map(|held| world.seen(&held.node_id));
        let lead = held.map(|seen| world.lead(seen)).max()?;
        Some(one.start_at? - lead)
    }

    /// Gives a rank another node, which is lent to it as soon as can be.
    fn put(&mut self, node_id: String, rank: u32) {
        self.now.nodes.retain(|held| held.node_id != node_id);
        self.now.nodes.push(Assigned { node_id, rank, generation: 0, lost: false });
        self.now.nodes.sort_by_key(|held| (held.rank, !held.lost));
    }

    /// Marks a node as lost; what it may still run is ended as soon as that can be.
    fn lose(&mut self, node_id: &str) -> Option<u32> {
        let held = self.now.nodes.iter_mut().find(|held| held.node_id == node_id && !held.lost)?;
        held.lost = true;
        let (rank, was_given) = (held.rank, held.generation > 0);
        if was_given {
            self.back.push(node_id.to_owned());
        }
        Some(rank)
    }
}

/// The reservations that wait since their project would have more nodes than it may.
fn kept_back(world: &World, drafts: &mut [Draft], now: Micros) -> HashSet<i64> {
    let mut kept = HashSet::new();
    for place in 0..drafts.len() {
        if waits(&drafts[place].now)
            && let Some(excess) = excess_from_now(world, drafts, place, now)
        {
            kept.insert(drafts[place].now.id);
            drafts[place].wait(ReasonCode::ProjectLimit, limits::reason(excess));
        }
    }
    kept
}

/// When the project of one that has its nodes from now on would have more than it may.
fn excess_from_now(world: &World, drafts: &[Draft], place: usize, now: Micros) -> Option<Excess> {
    let one = &drafts[place].now;
    let until = now.saturating_add(snapshot::held_for(world, one));
    limits::first_excess(world, drafts.iter().map(|draft| &draft.now), one, (now, until))
}

fn waits(one: &Reservation) -> bool {
    match one.state {
        ReservationState::Pending => true,
        ReservationState::Planned => !one.is_advance,
        ReservationState::Starting
        | ReservationState::Active
        | ReservationState::Ending
        | ReservationState::Ended
        | ReservationState::Cancelled
        | ReservationState::Failed => false,
    }
}

/// Those that were ready late get their whole time where nothing is in the way.
fn lengthen(
    world: &World,
    taken: &mut Taken,
    drafts: &mut [Draft],
    now: Micros,
) -> Result<(), SnapshotError> {
    for place in 0..drafts.len() {
        let one = &drafts[place].now;
        let Some(until) = drafts[place].wants_until else { continue };
        let id = claim_id(one.id);
        let found = scheduler::extend(&taken.snapshot, seconds(now), id, seconds(until));
        let end = match found {
            Ok(extension) => micros(extension.end),
            Err(scheduler::ChangeError::Snapshot(error)) => return Err(error),
            Err(scheduler::ChangeError::NotAssigned(_) | scheduler::ChangeError::Count(_)) => {
                continue;
            }
        };
        let more = (one.end_at.unwrap_or(now), end);
        let all = drafts.iter().map(|draft| &draft.now);
        let excess = limits::first_excess(world, all, one, more);
        let end = excess.map_or(end, |excess| excess.at);
        let draft = &mut drafts[place];
        draft.now.end_at = draft.now.end_at.max(Some(end));
        let all = &mut taken.snapshot.assignments;
        if let Some(one) = all.iter_mut().find(|one| one.claim.id == id) {
            one.end = one.end.max(seconds(end));
        }
    }
    Ok(())
}

/// Turns a plan into what becomes of each reservation.
fn apply(world: &World, taken: &Taken, plan: Plan, drafts: &mut [Draft], now: Micros) {
    let places: HashMap<ClaimId, usize> =
        drafts.iter().enumerate().map(|(place, draft)| (claim_id(draft.now.id), place)).collect();
    let id_of = |node: &NodeId| world.nodes[node.index()].node.id.clone();
    let mut moved: HashMap<ClaimId, Why> = HashMap::new();
    let mut at_risk: HashSet<ClaimId> = HashSet::new();
    for change in plan.changes {
        if let Change::Degraded { claim, .. } = &change {
            at_risk.insert(*claim);
        }
        if let Change::Moved { claim, why, .. } = change {
            moved.insert(claim, why);
        } else {
            change_of(world, change, drafts, &places, now);
        }
    }
    for start in plan.starts {
        let Some(place) = places.get(&start.claim).copied() else { continue };
        // Others of its project may have started just now.
        if let Some(excess) = excess_from_now(world, drafts, place, now) {
            drafts[place].wait(ReasonCode::ProjectLimit, limits::reason(excess));
            continue;
        }
        let draft = &mut drafts[place];
        draft.now.promise(start.nodes.iter().flatten().map(id_of));
        draft.now.start_at = Some(now);
        draft.now.end_at =
            Some((now + snapshot::held_for(world, &draft.now)).min(micros(start.end)));
        draft.turn(ReservationState::Starting, ReasonCode::NodesFree, "its nodes are free");
    }
    for planned in plan.planned {
        let Some(draft) = places.get(&planned.claim).map(|place| &mut drafts[*place]) else {
            continue;
        };
        let why = moved.get(&planned.claim).map(|why| words::why(world, *why));
        draft.plan(world, &planned, planned.nodes.iter().flatten().map(id_of), why, taken);
    }
    let assigned: HashSet<ClaimId> =
        taken.snapshot.assignments.iter().map(|one| one.claim.id).collect();
    let no_more = |draft: &&mut Draft| {
        let id = claim_id(draft.now.id);
        assigned.contains(&id) && !at_risk.contains(&id)
    };
    for draft in drafts.iter_mut().filter(no_more) {
        if draft.now.state == ReservationState::Planned && draft.now.code == ReasonCode::Degraded {
            let reason = "its nodes can be had again at its hour";
            draft.turn(ReservationState::Planned, ReasonCode::Accepted, reason);
        }
    }
    for waiting in plan.waiting {
        let Some(draft) = places.get(&waiting.claim).map(|place| &mut drafts[*place]) else {
            continue;
        };
        let (code, reason) = words::reason(taken, waiting.reason);
        draft.wait(code, reason);
    }
}

impl Draft {
    /// It has no hour, and no nodes are promised to it.
    fn wait(&mut self, code: ReasonCode, reason: String) {
        if self.now.state == ReservationState::Planned {
            self.step("moved", code, format!("it has no hour any more: {reason}"));
        }
        self.now.state = ReservationState::Pending;
        (self.now.code, self.now.reason) = (code, reason);
        (self.now.start_at, self.now.end_at) = (None, None);
        self.now.nodes.clear();
    }

    fn plan(
        &mut self,
        world: &World,
        planned: &Planned,
        nodes: impl Iterator<Item = String>,
        why: Option<(ReasonCode, String)>,
        taken: &Taken,
    ) {
        let before = self.now.start_at;
        self.now.promise(nodes);
        let start = if self.now.is_advance {
            // Who names an hour keeps it to the microsecond while the planner keeps it to the second.
            let kept = before.filter(|_| taken.begins(self.now.id) == Some(planned.start));
            let hour = kept.unwrap_or_else(|| snapshot::hour(world, planned.start));
            self.now.end_at = Some(hour.saturating_add(self.now.walltime));
            hour
        } else {
            let kept = before.filter(|before| seconds(*before) == planned.start);
            let start = kept.unwrap_or_else(|| micros(planned.start));
            self.now.end_at = Some(start + micros(planned.end - planned.start));
            start
        };
        self.now.start_at = Some(start);
        if !self.now.is_advance {
            (self.now.code, self.now.reason) = words::reason(taken, planned.reason);
        }
        let is_new = self.now.state == ReservationState::Pending;
        self.now.state = ReservationState::Planned;
        let is_moved = before.is_some_and(|before| (start - before).abs() >= NEWS);
        match why {
            _ if is_new => {
                let (code, reason) = (self.now.code, self.now.reason.clone());
                self.step("planned", code, reason);
            }
            Some((code, reason)) if is_moved || self.now.is_advance => {
                if self.now.is_advance {
                    (self.now.code, self.now.reason) = (code, reason.clone());
                }
                self.step("moved", code, reason);
            }
            Some(_) | None => {}
        }
    }
}

/// What the planner says of a reservation that has nodes.
fn change_of(
    world: &World,
    change: Change,
    drafts: &mut [Draft],
    places: &HashMap<ClaimId, usize>,
    now: Micros,
) {
    let claim = match &change {
        Change::Moved { claim, .. }
        | Change::NoShow { claim }
        | Change::Replaced { claim, .. }
        | Change::Shrunk { claim, .. }
        | Change::Degraded { claim, .. }
        | Change::Failed { claim, .. }
        | Change::Preempted { claim, .. } => *claim,
    };
    let Some(draft) = places.get(&claim).map(|place| &mut drafts[*place]) else { return };
    let id_of = |node: NodeId| world.nodes[node.index()].node.id.as_str();
    let names = |nodes: &[NodeId]| {
        crate::nodeset::fold(nodes.iter().map(|node| world.nodes[node.index()].node.name.as_str()))
    };
    match change {
        // Its start is planned with the others'; nobody is preempted, as is set.
        Change::Moved { .. } | Change::Preempted { .. } => {}
        Change::NoShow { .. } => {
            draft.end(ReasonCode::NoShow, "nobody logged in on its nodes in time", now);
        }
        Change::Replaced { lost, by, .. } => {
            let Some(rank) = draft.lose(id_of(lost)) else { return };
            draft.put(id_of(by).to_owned(), rank);
            (draft.now.code, draft.now.reason) = (
                ReasonCode::Replaced,
                format!("{} has taken the place of {}", names(&[by]), names(&[lost])),
            );
            let mut detail = format!(
                "rank {rank} was on {}, which is lost; {} takes its place",
                names(&[lost]),
                names(&[by])
            );
            if draft.now.overlay_id.is_some() {
                detail
                    .push_str(", with an empty shard; the lost node keeps what it has on its disk");
            }
            draft.step("node-lost", ReasonCode::Replaced, detail);
        }
        Change::Shrunk { lost, .. } => {
            let reason = format!("goes on without {}", names(&lost));
            for node in &lost {
                draft.lose(id_of(*node));
            }
            (draft.now.code, draft.now.reason) = (ReasonCode::Shrunk, reason.clone());
            draft.step("node-lost", ReasonCode::Shrunk, reason);
        }
        Change::Degraded { lost, .. } if draft.now.state == ReservationState::Planned => {
            let reason = format!(
                "{} cannot be had now, and no other node can at its hour; it is kept for it until then",
                names(&lost)
            );
            if draft.now.code != ReasonCode::Degraded {
                draft.step("at-risk", ReasonCode::Degraded, reason.clone());
            }
            (draft.now.code, draft.now.reason) = (ReasonCode::Degraded, reason);
        }
        Change::Degraded { lost, .. } => {
            let reason = format!("{} is lost, and no other node serves yet", names(&lost));
            if draft.now.on_node_loss == OnNodeLoss::Fail && !draft.now.is_before_its_hour(now) {
                draft.end(ReasonCode::NodeLost, reason, now);
            } else if draft.now.code != ReasonCode::Degraded {
                (draft.now.code, draft.now.reason) = (ReasonCode::Degraded, reason.clone());
                draft.step("node-lost", ReasonCode::Degraded, reason);
            }
        }
        Change::Failed { lost, .. } => {
            let reason = match lost.as_slice() {
                [] => "no nodes serve it any more".to_owned(),
                lost => format!("{} is lost", names(lost)),
            };
            for node in &lost {
                draft.lose(id_of(*node));
            }
            if draft.now.state.has_nodes() {
                draft.end(ReasonCode::NodeLost, reason, now);
            } else {
                draft.give_up(ReasonCode::NodeLost, reason);
            }
        }
    }
}

impl Draft {
    /// It comes to nothing, before it had nodes.
    pub(super) fn give_up(&mut self, code: ReasonCode, reason: String) {
        self.now.nodes.clear();
        self.lend.clear();
        (self.now.start_at, self.now.end_at) = (None, None);
        self.turn(ReservationState::Failed, code, reason);
    }
}

/// Lends nodes whose time has come and that nobody has any more.
fn lend_in_time(world: &World, drafts: &mut [Draft], now: Micros) {
    let has = |draft: &Draft| {
        let given = draft.now.held().filter(|held| held.generation > 0);
        let ids = given.map(|held| held.node_id.clone());
        if draft.now.state.has_nodes() { ids.collect() } else { Vec::new() }
    };
    let mut had: HashSet<String> = drafts.iter().flat_map(has).collect();
    for draft in drafts {
        if draft.begins_at(world).is_some_and(|at| at <= now) {
            let reason = "its nodes begin now, to be ready at its hour";
            draft.turn(ReservationState::Starting, ReasonCode::LeadTime, reason);
        }
        if !draft.now.state.has_nodes() {
            continue;
        }
        let is_free = |held: &&Assigned| {
            let seen = world.seen(&held.node_id);
            held.generation == 0
                && !had.contains(&held.node_id)
                && seen.is_some_and(|seen| world.health(seen) == Health::Ready)
        };
        let free: Vec<String> =
            draft.now.held().filter(is_free).map(|held| held.node_id.clone()).collect();
        had.extend(free.iter().cloned());
        draft.lend = free;
    }
}
