//! One round over all claims.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use crate::{
    Backfill, Change, Claim, ClaimId, Location, Need, NodeId, Plan, Planned, Promises, Reason,
    Snapshot, SnapshotError, Start, Time, Waiting, Why,
    caps::Barrier,
    matching::Share,
    needs::Way,
    order::Walk,
    place,
    planner::{Found, Free, Hold, Lack, Planner, is_worked_on, lone_class},
    power, preempt,
};

/// Plans all claims of a snapshot.
pub fn plan(snapshot: &Snapshot, now: Time) -> Result<Plan, SnapshotError> {
    snapshot.check()?;
    Ok(Planner::run(snapshot, now).into_plan())
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It starts now.
    Start(Start),
    /// It starts then.
    Planned(Planned),
    /// It waits.
    Waiting(Waiting),
}

impl<'a> Planner<'a> {
    /// Plans all claims of a snapshot that passes [`Snapshot::check`], and is then ready for more.
    pub fn run(snapshot: &'a Snapshot, now: Time) -> Planner<'a> {
        let mut planner = Planner::new(snapshot, now, &[]);
        planner.keep_promises();
        let mut walk = Walk::new(snapshot, planner.total, now);
        while let Some(index) = walk.next() {
            planner.decide(&snapshot.claims[index]);
        }
        planner.finish();
        planner
    }

    /// What was found.
    pub fn into_plan(self) -> Plan {
        self.plan
    }

    /// Plans one claim more, behind all that were planned before.
    pub fn add(&mut self, claim: &Claim) -> Result<Outcome, SnapshotError> {
        self.snapshot.check_claim(claim, &self.snapshot.leaves())?;
        self.tell_apart(claim);
        let (starts, planned) = (self.plan.starts.len(), self.plan.planned.len());
        self.decide(claim);
        self.place_planned();
        if let Some(start) = self.plan.starts.get(starts) {
            return Ok(Outcome::Start(start.clone()));
        }
        if self.plan.planned.len() > planned {
            let mut all = self.plan.planned.iter();
            let found = all.find(|planned| planned.claim == claim.id);
            return Ok(Outcome::Planned(found.expect("it was just planned").clone()));
        }
        let waiting = self.plan.waiting.last().expect("it neither starts nor is planned");
        Ok(Outcome::Waiting(*waiting))
    }

    /// Takes what was promised before anything else is given out, then replaces lost nodes.
    pub(crate) fn keep_promises(&mut self) {
        match self.snapshot.settings.promises {
            Promises::Kept => self.hold_promised(),
            Promises::Renewed => {}
        }
        self.heal();
    }

    fn hold_promised(&mut self) {
        let snapshot = self.snapshot;
        let mut promised: Vec<(Time, ClaimId, &Claim)> = snapshot
            .claims
            .iter()
            .filter_map(|claim| Some((claim.promise.as_ref()?.start, claim.id, claim)))
            .collect();
        promised.sort_unstable_by_key(|(start, id, _)| (*start, *id));
        // First all that hold, so that one that does not cannot move them.
        promised.retain(|(start, _, claim)| match self.promised(claim, (*start).max(self.now)) {
            Some(hold) => {
                self.insert(hold);
                false
            }
            None => true,
        });
        for (start, _, claim) in promised {
            let ways = self.ways(claim, None);
            let start = start.max(self.now);
            if let Some((start, found)) = self.find_first(claim, &ways, start, None) {
                self.hold(claim.clone(), &ways, start, found);
            }
        }
    }

    /// The promise as it was given, if it still holds: the same nodes at the same time. One that is looked at within
    /// a boot's time after its start ends by when it was promised, so that it moves nobody behind it.
    fn promised(&mut self, claim: &Claim, start: Time) -> Option<Hold> {
        let promise = claim.promise.as_ref()?;
        let late = start - promise.start;
        let is_little = late <= self.snapshot.settings.boot_time.min(claim.walltime / 2);
        let from = if is_little { promise.start } else { start };
        let end = from.saturating_add(claim.walltime);
        let ways = self.ways(claim, None);
        let serves = |request: usize, cell: u32| {
            ways.iter().flatten().any(|part| part.request == request && part.cells.contains(&cell))
        };
        let mut shares: Vec<(usize, Share)> = Vec::new();
        for (request, nodes) in promise.nodes.iter().enumerate() {
            if nodes.len() != claim.requests.get(request)?.count as usize {
                return None;
            }
            for node in nodes {
                let cell = self.cells.of(*node);
                if !serves(request, cell as u32) {
                    return None;
                }
                match shares.iter_mut().find(|(r, (c, _))| *r == request && *c == cell) {
                    Some((_, (_, count))) => *count += 1,
                    None => shares.push((request, (cell, 1))),
                }
            }
        }
        let mut by_cell: std::collections::BTreeMap<usize, i32> = Default::default();
        for (_, (cell, count)) in &shares {
            *by_cell.entry(*cell).or_default() += *count as i32;
        }
        let low = |cell: usize| self.cells.all[cell].steps.low(start, end);
        if by_cell.iter().any(|(cell, count)| low(*cell) < *count) {
            return None;
        }
        let vector = self.vector_of(promise.nodes.iter().flatten().copied());
        let span = (start, end);
        let asked = crate::caps::Asked { queue: true, user: true, overlay: true };
        self.caps.allow(claim, vector, span, asked).ok()?;
        Some(Hold { claim: claim.clone(), start, end, vector, shares })
    }

    /// Advance claims lost nodes before their time: others at their time, and only where their nodes are worked
    /// on or are barred to them by then as soon after as can be. Answers those that keep theirs, since
    /// they find none; one whose nodes are worked on in its time has failed then.
    pub(crate) fn replan_displaced(&mut self) -> Vec<ClaimId> {
        let mut stuck = Vec::new();
        for claim in std::mem::take(&mut self.displaced) {
            let Some(promise) = &claim.promise else { continue };
            let (id, wanted) = (claim.id, promise.start);
            let end = wanted.saturating_add(claim.walltime);
            let nodes = || promise.nodes.iter().flatten().copied();
            let is_worked_on = nodes().any(|node| is_worked_on(self.snapshot, node, wanted, end));
            let is_barred = nodes().any(|node| claim.barred.contains(node.0));
            let ways = self.ways(&claim, None);
            // What was found for one hour says nothing of an earlier one.
            self.forget();
            let found = match self.find_at(&claim, &ways, wanted, None) {
                Ok(found) => Some((wanted, found)),
                // A node that is lost may be back by then.
                Err(_) if !is_worked_on && !is_barred => None,
                Err(_) => self.find_first(&claim, &ways, wanted, None),
            };
            if let Some((start, found)) = found {
                self.hold(claim.clone(), &ways, start, found);
                self.note_planned(id, Reason::Reserved);
                let why = self.why_later(&claim);
                let change = Change::Moved { claim: id, from: wanted, to: start, why };
                self.plan.changes.push(change);
                continue;
            }
            if is_worked_on {
                self.plan.changes.push(Change::Failed { claim: id, lost: Vec::new() });
            } else {
                stuck.push(id);
            }
        }
        self.forget();
        stuck
    }

    fn is_ready(&self, node: NodeId) -> bool {
        self.snapshot.nodes[node.index()].health == crate::Health::Ready
    }

    fn note_planned(&mut self, claim: ClaimId, reason: Reason) {
        let hold = &self.holds[&claim];
        let (start, end) = (hold.start, hold.end);
        self.plan.planned.push(Planned { claim, start, end, nodes: Vec::new(), reason });
    }

    /// Decides about one claim: it starts, or is planned, or waits.
    pub(crate) fn decide(&mut self, claim: &Claim) {
        let promised = match claim.promise {
            Some(_) => self.release(claim.id),
            None => None,
        };
        if self.is_blocked && promised.is_none() {
            return self.wait(claim, Reason::Turn);
        }
        let may_be_planned = promised.is_some() || self.may_be_planned(claim);
        if !may_be_planned && let Some(reason) = self.known_to_wait(claim) {
            return self.wait(claim, reason);
        }
        let ways = self.ways(claim, None);
        let lack = match self.find_now(claim, &ways) {
            Ok(found) => return self.start_by(claim, &ways, &found),
            Err(lack) => lack,
        };
        if let Some(hold) = promised.as_ref().filter(|hold| hold.start <= self.now) {
            // Its time has come, and what was kept for it is there.
            let (nodes, vector) = (self.choose_held(hold), hold.vector);
            return self.start(claim, nodes, vector, hold.end);
        }
        let reason = self.reason(claim, &ways, lack);
        if promised.is_none() && preempt::make_room(self, claim, &ways) {
            self.note_planned(claim.id, Reason::Preempting);
            return;
        }
        if !may_be_planned || (reason == Reason::Never && promised.is_none()) {
            return self.wait(claim, reason);
        }
        match (self.find_first(claim, &ways, self.now, None), promised) {
            // A promise is never later than it was, though another way would have been found.
            (Some((start, _)), Some(hold)) if hold.start < start => self.insert(hold),
            (Some((start, found)), _) => self.hold(claim.clone(), &ways, start, found),
            (None, Some(hold)) => self.insert(hold),
            (None, None) => return self.wait(claim, reason),
        }
        self.protected += 1;
        match self.snapshot.settings.backfill {
            Backfill::Off => self.is_blocked = true,
            Backfill::Easy => self.set_aside(claim, &ways),
            Backfill::Protect(_) | Backfill::ProtectAll => {}
        }
        self.note_planned(claim.id, reason);
        self.note_move(claim);
    }

    /// Whether a claim that has to wait gets a start that others respect.
    fn may_be_planned(&self, claim: &Claim) -> bool {
        let settings = &self.snapshot.settings;
        let is_aged = self.now - claim.submitted >= settings.age_limit;
        let is_among_first = match settings.backfill {
            Backfill::Off | Backfill::ProtectAll => true,
            Backfill::Easy => self.protected < 1,
            Backfill::Protect(most) => self.protected < most,
        };
        is_among_first || is_aged
    }

    /// Why a claim has to wait, if that is known from a smaller one on the same cells.
    fn known_to_wait(&mut self, claim: &Claim) -> Option<Reason> {
        if self.snapshot.settings.preemption.is_some() {
            return None;
        }
        let class = self.lone_class_of(claim)?;
        let count = claim.count();
        let is_larger = |(least, short): &(u32, Time)| *least <= count && *short <= claim.walltime;
        if !self.blocked.get(class)?.iter().any(is_larger) {
            return None;
        }
        let free = self.free_of(class);
        if free.is_worked_on {
            return None;
        }
        let (_, nodes) = self.cells_of(class);
        if nodes < u64::from(count) {
            return Some(Reason::Never);
        }
        Some(if free.nodes < count as i32 { Reason::Busy } else { Reason::Reserved })
    }

    /// What is free of a class now.
    fn free_of(&mut self, class: usize) -> Free {
        let starts = self.plan.starts.len();
        if self.free_now.len() <= class {
            self.free_now.resize(class + 1, None);
        }
        if let Some((_, free)) = self.free_now[class].filter(|(as_of, _)| *as_of == starts) {
            return free;
        }
        let (cells, _) = self.cells_of(class);
        let mut free = Free { nodes: 0, is_worked_on: false };
        for cell in cells.iter() {
            let cell = &self.cells.all[*cell as usize];
            free.nodes += cell.steps.get(self.now);
            free.is_worked_on |= !cell.maintenance.is_empty();
        }
        self.free_now[class] = Some((starts, free));
        free
    }

    /// The classic form of EASY: of nodes that come free at the start of the protected claim, those are
    /// set aside of running claims whose end it need not have waited for.
    fn set_aside(&mut self, claim: &Claim, ways: &[Way]) {
        let Some(hold) = self.holds.get(&claim.id) else { return };
        let (start, count) = (hold.start, claim.count() as i32);
        let mut cells: Vec<usize> =
            ways.iter().flatten().flat_map(|part| part.cells.iter().map(|c| *c as usize)).collect();
        cells.sort_unstable();
        cells.dedup();
        let mut free: i32 =
            cells.iter().map(|cell| self.cells.all[*cell].steps.get(start - 1)).sum();
        let running = self.snapshot.assignments.iter();
        let running = running.filter(|one| one.has_begun(self.now) && one.end == start);
        let mut ending: Vec<(ClaimId, Vec<NodeId>)> =
            running.map(|one| (one.claim.id, one.all_nodes().collect())).collect();
        let starts = self.plan.starts.iter().filter(|one| one.end == start);
        ending.extend(starts.map(|one| (one.claim, one.nodes.iter().flatten().copied().collect())));
        ending.sort_unstable();
        for (_, nodes) in ending {
            let of: Vec<usize> = nodes.iter().map(|node| self.cells.of(*node)).collect();
            let of: Vec<usize> = of.into_iter().filter(|cell| cells.contains(cell)).collect();
            if free >= count {
                for cell in of {
                    self.cells.all[cell].steps.add(start, start + 1, -1);
                }
            } else {
                free += of.len() as i32;
            }
        }
    }

    /// Whether a claim can start now. What was seen not to fit is not tried again.
    fn find_now(&mut self, claim: &Claim, ways: &[Way]) -> Result<Found, Lack> {
        let class = lone_class(ways);
        let count = claim.count();
        if let Some(class) = class
            && let Some(blocked) = self.blocked.get(class)
            && blocked.iter().any(|(least, short)| *least <= count && *short <= claim.walltime)
        {
            return Err(Lack::Nodes);
        }
        let found = self.find_at(claim, ways, self.now, None);
        if let (Some(class), Err(Lack::Nodes)) = (class, &found) {
            if self.blocked.len() <= class {
                self.blocked.resize(class + 1, Vec::new());
            }
            let blocked = &mut self.blocked[class];
            blocked.retain(|(least, short)| *least < count || *short < claim.walltime);
            blocked.push((count, claim.walltime));
        }
        found
    }

    fn wait(&mut self, claim: &Claim, reason: Reason) {
        self.plan.waiting.push(Waiting { claim: claim.id, reason });
    }

    /// Starts a claim in the way that was found, or in fewer racks if it would like that.
    pub(crate) fn start_by(&mut self, claim: &Claim, ways: &[Way], found: &Found) {
        let closer = closer(claim, ways);
        let (nodes, vector) = match self.find_at(claim, &closer, self.now, None) {
            Ok(found) if !closer.is_empty() => self.choose(claim, &closer[found.way], &found),
            Ok(_) | Err(_) => self.choose(claim, &ways[found.way], found),
        };
        self.start(claim, nodes, vector, self.now.saturating_add(claim.walltime));
    }

    fn start(&mut self, claim: &Claim, nodes: Vec<Vec<NodeId>>, vector: crate::Vector, end: Time) {
        let now = self.now;
        for node in nodes.iter().flatten() {
            let cell = self.cells.of(*node);
            self.use_now(cell, *node, end);
        }
        self.caps.take(claim, vector, now, end);
        let ready = power::ready_at(self.snapshot, claim, nodes.iter().flatten(), now);
        self.plan.starts.push(Start { claim: claim.id, nodes, end, ready });
        self.note_move(claim);
    }

    /// Nodes for a claim that starts now. One part may take others than those that were found.
    pub(crate) fn choose(
        &self,
        claim: &Claim,
        way: &Way,
        found: &Found,
    ) -> (Vec<Vec<NodeId>>, crate::Vector) {
        let span = (self.now, self.now.saturating_add(claim.walltime));
        if let [part] = &way[..] {
            let limits = self.limits(part, span);
            let none = RoaringBitmap::new();
            let nodes = vec![place::choose_within(self, claim, 0, &limits, part.count, &none)];
            let vector = self.vector_of(nodes.iter().flatten().copied());
            let asked = crate::caps::Asked { queue: true, user: true, overlay: true };
            // Of other shapes they may be too much for a limit.
            if vector == found.vector || self.caps.allow(claim, vector, span, asked).is_ok() {
                return (nodes, vector);
            }
        }
        let parts = way.iter().zip(&found.shares);
        let shares = parts.flat_map(|(part, shares)| shares.iter().map(|s| (part.request, *s)));
        (self.choose_shares(claim, &shares.collect::<Vec<_>>()), found.vector)
    }

    /// Nodes out of the cells that were held.
    fn choose_held(&self, hold: &Hold) -> Vec<Vec<NodeId>> {
        self.choose_shares(&hold.claim, &hold.shares)
    }

    /// As many nodes of each cell as it says, for each request; requests may share a cell.
    fn choose_shares(&self, claim: &Claim, shares: &[(usize, Share)]) -> Vec<Vec<NodeId>> {
        let mut taken = RoaringBitmap::new();
        let mut nodes = vec![Vec::new(); claim.requests.len()];
        for (request, nodes) in nodes.iter_mut().enumerate() {
            let of_it = shares.iter().filter(|(of, _)| *of == request);
            let limits: Vec<Share> = of_it.map(|(_, share)| *share).collect();
            *nodes = place::choose(self, claim, request, &limits, &taken);
            taken.extend(nodes.iter().map(|node: &NodeId| node.0));
        }
        nodes
    }

    /// What can be had of each cell of a part, in its racks if it names some.
    fn limits(&self, part: &crate::needs::Part, span: (Time, Time)) -> Vec<Share> {
        let limit = |cell: &u32| {
            let low = self.cells.all[*cell as usize].steps.low(span.0, span.1).max(0) as u32;
            (low > 0).then_some((*cell as usize, low))
        };
        match part.racks {
            None => part.cells.iter().filter_map(limit).collect(),
            Some(_) => {
                let way = vec![part.clone()];
                self.match_way(&way, span, None).map_or(Vec::new(), |mut shares| shares.remove(0))
            }
        }
    }

    /// Why a claim does not start now.
    fn reason(&self, claim: &Claim, ways: &[Way], lack: Lack) -> Reason {
        match lack {
            Lack::Limit(Barrier::Queue(queue)) => Reason::QueueMax(queue),
            Lack::Limit(Barrier::User(queue)) => Reason::UserMax(queue),
            Lack::Limit(Barrier::Overlay(overlay)) => Reason::OverlayInUse(overlay),
            Lack::Nodes => self.lacking(claim, ways),
        }
    }

    fn lacking(&self, claim: &Claim, ways: &[Way]) -> Reason {
        let serving = |way: &&Way| way.iter().all(|part| part.nodes >= u64::from(part.count));
        let Some(way) = ways.iter().find(serving) else { return Reason::Never };
        let span = (self.now, self.now.saturating_add(claim.walltime));
        let is_home = way.len() > claim.requests.len();
        let whole = way.iter().any(|part| u64::from(part.count) == part.nodes);
        if claim.overlay.is_some_and(|wanted| wanted.affinity == crate::Affinity::Require)
            && (is_home || whole)
            && self.match_way(way, span, None).is_none()
        {
            return Reason::OverlayHome;
        }
        let cells = || way.iter().flat_map(|part| part.cells.iter().map(|cell| *cell as usize));
        let free_now: i32 = cells().map(|cell| self.cells.all[cell].steps.get(self.now)).sum();
        if free_now < claim.count() as i32 {
            return Reason::Busy;
        }
        let works = |cell: usize| {
            let windows = &self.cells.all[cell].maintenance;
            windows.iter().any(|(from, until)| *from < span.1 && span.0 < *until)
        };
        if cells().any(works) && self.match_way(way, span, Some(crate::Rule::Maintenance)).is_some()
        {
            return Reason::Maintenance;
        }
        Reason::Reserved
    }

    /// Says why a promised start is not when it was.
    fn note_move(&mut self, claim: &Claim) {
        let Some(promise) = &claim.promise else { return };
        let to = self.holds.get(&claim.id).map_or(self.now, |hold| hold.start);
        let from = promise.start;
        // Who starts as soon as it is looked at after its time was not moved.
        let is_due = to == self.now && from <= self.now;
        if to == from || is_due {
            return;
        }
        let why = if to < from { Why::Freed } else { self.why_later(claim) };
        self.plan.changes.push(Change::Moved { claim: claim.id, from, to, why });
    }

    fn why_later(&self, claim: &Claim) -> Why {
        let Some(promise) = &claim.promise else { return Why::Limits };
        let end = promise.start.saturating_add(claim.walltime);
        let snapshot = self.snapshot;
        let nodes = || promise.nodes.iter().flatten();
        if let Some(node) = nodes().find(|node| !self.is_ready(**node)) {
            return Why::NodeLost(*node);
        }
        if let Some(node) = nodes().find(|node| claim.barred.contains(node.0)) {
            return Why::Barred(*node);
        }
        for window in
            snapshot.maintenance.iter().filter(|w| w.from < end && promise.start < w.until)
        {
            if let Some(node) = nodes().find(|node| window.nodes.contains(node.0)) {
                return Why::Maintenance(*node);
            }
        }
        let overdue = snapshot.assignments.iter().filter(|one| one.end <= self.now);
        let mut has_it = overdue.filter(|one| one.all_nodes().any(|n| nodes().any(|m| *m == n)));
        if let Some(one) = has_it.next() {
            return Why::Overdue(one.claim.id);
        }
        let is_past = |claim: &Claim| claim.promise.as_ref().is_some_and(|p| p.start < self.now);
        if snapshot.claims.iter().any(is_past) { Why::Late } else { Why::Limits }
    }

    /// Gives nodes to planned starts, and decides about power.
    pub(crate) fn finish(&mut self) {
        self.place_planned();
        power::decide(self);
    }

    /// Gives nodes to planned starts.
    pub(crate) fn place_planned(&mut self) {
        let mut nodes_of = self.place_holds();
        for planned in &mut self.plan.planned {
            planned.nodes = nodes_of.remove(&planned.claim).expect("what is planned is held");
        }
    }

    /// Finds nodes for what is held, in the order of the starts: a node that is free at a start then
    /// stays so, since all that is placed before began before.
    pub(crate) fn place_holds(&self) -> HashMap<ClaimId, Vec<Vec<NodeId>>> {
        let mut busy = self.busy_until.clone();
        let mut holds: Vec<&Hold> = self.holds.values().collect();
        holds.sort_unstable_by_key(|hold| (hold.start, hold.claim.id));
        let mut nodes_of = HashMap::with_capacity(holds.len());
        for hold in holds {
            let mut nodes: Vec<Vec<NodeId>> = vec![Vec::new(); hold.claim.requests.len()];
            for (request, (cell, count)) in &hold.shares {
                let free = |node: &u32| busy[*node as usize] <= hold.start;
                let cell = &self.cells.all[*cell].nodes;
                let mut chosen: Vec<u32> = cell.iter().filter(free).collect();
                // Those that are free last are of least use to others until then.
                chosen.sort_by_key(|node| std::cmp::Reverse(busy[*node as usize]));
                chosen.truncate(*count as usize);
                debug_assert_eq!(
                    chosen.len(),
                    *count as usize,
                    "the counts said that they are free"
                );
                for node in chosen {
                    busy[node as usize] = hold.end;
                    nodes[*request].push(NodeId(node));
                }
            }
            for (request, nodes) in nodes.iter_mut().enumerate() {
                let all = std::mem::take(nodes);
                *nodes = place::by_rank(self.snapshot, &hold.claim, request, all);
            }
            nodes_of.insert(hold.claim.id, nodes);
        }
        nodes_of
    }

    /// Why a claim would not start now; `must_wait` if others have to start before it.
    pub(crate) fn reason_now(&mut self, claim: &Claim, must_wait: bool) -> Option<Reason> {
        if must_wait {
            return Some(Reason::Turn);
        }
        let ways = self.ways(claim, None);
        match self.find_at(claim, &ways, self.now, None) {
            Ok(_) => None,
            Err(lack) => Some(self.reason(claim, &ways, lack)),
        }
    }

    /// How many nodes that serve a claim are in use now.
    pub(crate) fn busy(&mut self, claim: &Claim) -> u32 {
        let ways = self.ways(claim, None);
        let mut cells: Vec<u32> =
            ways.iter().flatten().flat_map(|part| part.cells.iter().copied()).collect();
        cells.sort_unstable();
        cells.dedup();
        let nodes = cells.iter().flat_map(|cell| &self.cells.all[*cell as usize].nodes);
        nodes.filter(|node| self.busy_until[*node as usize] > self.now).count() as u32
    }
}

/// The ways of a claim with the racks that it would like; none if it does not care.
fn closer(claim: &Claim, ways: &[Way]) -> Vec<Way> {
    let racks = |request: &crate::Request| match request.location {
        Location::Racks(racks, Need::Preferred) => Some(racks),
        Location::Racks(_, Need::Required)
        | Location::Rack(..)
        | Location::Nodes(..)
        | Location::Anywhere => None,
    };
    if !claim.requests.iter().any(|request| racks(request).is_some()) {
        return Vec::new();
    }
    let mut closer = ways.to_vec();
    for part in closer.iter_mut().flatten() {
        part.racks = part.racks.or(racks(&claim.requests[part.request]));
    }
    closer
}
