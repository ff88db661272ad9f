//! The state of a pass: cells over time, limits over time, and what was given out so far.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use roaring::RoaringBitmap;

use crate::{
    Assignment, Change, Claim, ClaimId, Health, Location, Need, NodeId, OnNodeLoss, Plan, Rule,
    Snapshot, Time, Vector,
    caps::{Asked, Barrier, Caps},
    cells::{Cells, Ground, Taken},
    matching::{Share, matching},
    needs::{self, Classes, Sets, Way},
    place::{self, Standing},
    steps::Steps,
};

/// A claim that should have ended is expected to have done so after that many seconds more.
pub(crate) const OVERDUE: Time = 60;

/// Plans claims one after the other. [`plan`](crate::plan) runs it over all claims of a snapshot; it is
/// kept to plan single claims more ([`Planner::add`]).
#[derive(Debug)]
pub struct Planner<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now: Time,
    pub(crate) total: Vector,
    pub(crate) cells: Cells,
    pub(crate) caps: Caps,
    sets: Sets,
    classes: Classes,
    /// Until when each node is in use by what runs or starts now.
    pub(crate) busy_until: Vec<Time>,
    /// Starts that are promised or planned.
    pub(crate) holds: HashMap<ClaimId, Hold>,
    /// What could not start now, by class of cells: so many nodes for so long.
    pub(crate) blocked: Vec<Vec<(u32, Time)>>,
    /// How many nodes of each class are free now, as of so many starts.
    pub(crate) free_now: Vec<Option<(usize, Free)>>,
    /// What was found before, by class of cells: so many nodes for so long, not before then.
    earliest: HashMap<usize, Vec<(u32, Time, Time)>>,
    /// How overlays stand, once that was asked for.
    standings: OnceCell<Vec<Standing>>,
    pub(crate) plan: Plan,
    /// Advance claims that lost nodes and need others at their time.
    pub(crate) displaced: Vec<Claim>,
    /// Running claims that want others for nodes that are lost.
    healing: Vec<&'a Assignment>,
    /// How many claims behind have to respect the starts of.
    pub(crate) protected: u32,
    /// Nobody may pass any more.
    pub(crate) is_blocked: bool,
}

/// Cells that are taken for a claim for a time that comes.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    pub(crate) claim: Claim,
    pub(crate) start: Time,
    pub(crate) end: Time,
    pub(crate) vector: Vector,
    /// Cells for each request.
    pub(crate) shares: Vec<(usize, Share)>,
}

/// What is free of a class of cells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Free {
    pub(crate) nodes: i32,
    /// Some of the cells are worked on at some time.
    pub(crate) is_worked_on: bool,
}

/// A way to meet a claim at some time.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) way: usize,
    pub(crate) shares: Vec<Vec<Share>>,
    pub(crate) vector: Vector,
}

/// Why there is no way at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    Nodes,
    Limit(Barrier),
}

impl<'a> Planner<'a> {
    /// Gathers what is there and what was accepted; no claim is planned yet, but advance claims whose nodes
    /// do not serve have others. The snapshot must pass [`Snapshot::check`].
    pub(crate) fn new(snapshot: &'a Snapshot, now: Time, extra: &[&Claim]) -> Planner<'a> {
        // Where there are no others they keep theirs, which may be back by then.
        let mut keep = HashSet::new();
        loop {
            let mut planner = Planner::gather(snapshot, now, extra, &keep);
            let stuck = planner.replan_displaced();
            if stuck.is_empty() {
                return planner;
            }
            keep.extend(stuck);
        }
    }

    fn gather(
        snapshot: &'a Snapshot,
        now: Time,
        extra: &[&Claim],
        keep: &HashSet<ClaimId>,
    ) -> Planner<'a> {
        let total = snapshot.total();
        let mut plan = Plan::default();
        let (held, displaced) = settle(snapshot, now, keep, &mut plan);
        let mut busy_until = vec![Time::MIN; snapshot.nodes.len()];
        let mut later = Vec::new();
        for (assignment, nodes) in &held {
            if assignment.has_begun(now) {
                let until = busy_until_of(assignment, now);
                for node in nodes.iter().flatten() {
                    let busy = &mut busy_until[node.index()];
                    *busy = until.max(*busy);
                }
            } else {
                let nodes: RoaringBitmap = nodes.iter().flatten().map(|node| node.0).collect();
                later.push((nodes, assignment.start, assignment.end));
            }
        }
        let fixed: Vec<Taken<'_>> = later
            .iter()
            .map(|(nodes, from, until)| Taken { nodes, from: *from, until: *until })
            .collect();
        let mut sets = Sets::default();
        for claim in snapshot.claims.iter().chain(extra.iter().copied()).chain(&displaced) {
            sets.name(snapshot, claim);
        }
        let grants: Vec<&RoaringBitmap> =
            snapshot.grants.iter().map(|grant| &grant.nodes).collect();
        let ground =
            Ground { busy_until: &busy_until, fixed: &fixed, grants: &grants, named: &sets.all };
        let cells = Cells::new(snapshot, now, &ground);
        let mut planner = Planner {
            snapshot,
            now,
            total,
            cells,
            caps: Caps::new(snapshot, total),
            sets,
            classes: Classes::default(),
            busy_until,
            holds: HashMap::new(),
            blocked: Vec::new(),
            free_now: Vec::new(),
            earliest: HashMap::new(),
            standings: OnceCell::new(),
            plan,
            displaced,
            healing: Vec::new(),
            protected: 0,
            is_blocked: false,
        };
        for (assignment, nodes) in held {
            let vector = planner.vector_of(nodes.iter().flatten().copied());
            let until = busy_until_of(assignment, now);
            let from = if assignment.has_begun(now) { now } else { assignment.start };
            planner.caps.take(&assignment.claim, vector, from, until);
            if assignment.has_begun(now) && assignment.claim.on_node_loss == OnNodeLoss::Replace {
                planner.healing.push(assignment);
            }
        }
        planner
    }

    /// Replaces lost nodes, out of what is promised to nobody.
    pub(crate) fn heal(&mut self) {
        for assignment in std::mem::take(&mut self.healing) {
            self.replace_lost(assignment);
        }
    }

    /// Gives other nodes to a running claim in place of lost ones.
    fn replace_lost(&mut self, assignment: &Assignment) {
        let claim = assignment.claim.id;
        let mut nodes = assignment.nodes.clone();
        let mut missing = Vec::new();
        for (request, rank) in ranks(&assignment.nodes) {
            let lost = nodes[request][rank];
            if self.snapshot.nodes[lost.index()].health != Health::Down {
                continue;
            }
            match self.replacement(assignment, &mut nodes, (request, rank)) {
                Some(by) => self.plan.changes.push(Change::Replaced { claim, lost, by }),
                None => missing.push(lost),
            }
        }
        if !missing.is_empty() {
            self.plan.changes.push(Change::Degraded { claim, lost: missing });
        }
    }

    /// Puts another node on a rank, if one serves and no limit is in the way.
    fn replacement(
        &mut self,
        assignment: &Assignment,
        nodes: &mut [Vec<NodeId>],
        (request, rank): (usize, usize),
    ) -> Option<NodeId> {
        let mut one = assignment.claim.clone();
        // Its data is lost with the node, and the other ranks need not move.
        one.overlay = one.overlay.map(|wanted| crate::OverlayUse {
            affinity: crate::Affinity::Any,
            fork: true,
            ..wanted
        });
        one.requests = vec![crate::Request { count: 1, ..one.requests[request].clone() }];
        let ways = self.ways(&one, None);
        let until = busy_until_of(assignment, self.now);
        let span = (self.now, until);
        let before = self.vector_of(nodes.iter().flatten().copied());
        self.caps.give_back(&assignment.claim, before, self.now, until);
        let lost = nodes[request][rank];
        let mut found = None;
        for cell in ways.iter().flatten().flat_map(|part| part.cells.iter().map(|c| *c as usize)) {
            if self.available(cell, span, None) == 0 {
                continue;
            }
            let none = RoaringBitmap::new();
            let by = place::choose(self, &one, 0, &[(cell, 1)], &none)[0];
            nodes[request][rank] = by;
            let after = self.vector_of(nodes.iter().flatten().copied());
            if self.is_near(&one.requests[0], &nodes[request])
                && self.caps.allow(&assignment.claim, after, span, asked(None)).is_ok()
            {
                found = Some((cell, by));
                break;
            }
            nodes[request][rank] = lost;
        }
        let vector = self.vector_of(nodes.iter().flatten().copied());
        self.caps.take(&assignment.claim, vector, self.now, until);
        let (cell, by) = found?;
        self.use_now(cell, by, until);
        Some(by)
    }

    /// Whether nodes stand in as few racks, and have one shape, as their request says.
    fn is_near(&self, request: &crate::Request, nodes: &[NodeId]) -> bool {
        let of = |node: &NodeId| &self.snapshot.nodes[node.index()];
        let healthy = || nodes.iter().filter(|node| of(node).health != Health::Down);
        let racks: BTreeSet<_> = healthy().map(|node| of(node).rack).collect();
        let shapes: BTreeSet<_> = healthy().map(|node| of(node).shape).collect();
        let most = match request.location {
            Location::Racks(racks, Need::Required) => racks as usize,
            Location::Racks(_, Need::Preferred)
            | Location::Rack(..)
            | Location::Nodes(..)
            | Location::Anywhere => usize::MAX,
        };
        racks.len() <= most && (request.shapes.is_empty() || shapes.len() <= 1)
    }

    /// Takes a node of a cell from now on.
    pub(crate) fn use_now(&mut self, cell: usize, node: NodeId, until: Time) {
        let cell = &mut self.cells.all[cell];
        cell.free.remove(node.0);
        cell.steps.add(self.now, until, -1);
        self.busy_until[node.index()] = until;
    }

    /// How overlays stand.
    pub(crate) fn standings(&self) -> &[Standing] {
        self.standings.get_or_init(|| place::standings(self.snapshot))
    }

    pub(crate) fn vector_of(&self, nodes: impl Iterator<Item = NodeId>) -> Vector {
        nodes.fold(Vector::default(), |sum, node| sum.plus(self.snapshot.vector(node)))
    }

    /// All ways to meet a claim, without one rule where that is asked.
    pub(crate) fn ways(&mut self, claim: &Claim, without: Option<Rule>) -> Vec<Way> {
        let Planner { snapshot, cells, sets, classes, .. } = self;
        needs::ways(snapshot, cells, sets, classes, claim, without)
    }

    /// The class of cells of a claim that can be met in one way by one part, found in little time.
    pub(crate) fn lone_class_of(&mut self, claim: &Claim) -> Option<usize> {
        let Planner { snapshot, cells, sets, classes, .. } = self;
        needs::lone_class(snapshot, cells, sets, classes, claim)
    }

    /// The cells of a class, and how many nodes they have.
    pub(crate) fn cells_of(&self, class: usize) -> (Rc<[u32]>, u64) {
        self.classes.cells_of(class)
    }

    pub(crate) fn sets(&mut self) -> &mut Sets {
        &mut self.sets
    }

    /// How many nodes of a cell are free over time.
    fn steps(&self, cell: usize, without: Option<Rule>) -> Cow<'_, Steps> {
        let cell = &self.cells.all[cell];
        if without != Some(Rule::Maintenance) || cell.maintenance.is_empty() {
            return Cow::Borrowed(&cell.steps);
        }
        let mut steps = cell.steps.clone();
        for (from, until) in &cell.maintenance {
            steps.add(*from, *until, cell.nodes.len() as i32);
        }
        Cow::Owned(steps)
    }

    /// How many nodes of a cell can be had all that time.
    fn available(&self, cell: usize, (from, until): (Time, Time), without: Option<Rule>) -> u32 {
        self.steps(cell, without).low(from, until).max(0) as u32
    }

    /// Cells for all parts of a way at some time.
    pub(crate) fn match_way(
        &self,
        way: &Way,
        span: (Time, Time),
        without: Option<Rule>,
    ) -> Option<Vec<Vec<Share>>> {
        if way.iter().any(|part| part.nodes < u64::from(part.count)) {
            return None;
        }
        matching(way, &self.cells, |cell| self.available(cell, span, without))
    }

    fn vector_in(&self, shares: &[Vec<Share>]) -> Vector {
        shares.iter().flatten().fold(Vector::default(), |sum, (cell, count)| {
            let shape = self.cells.all[*cell].shape;
            sum.plus(self.snapshot.shapes[shape.0 as usize].times(u64::from(*count)))
        })
    }

    /// A way to meet a claim from `start` on.
    pub(crate) fn find_at(
        &self,
        claim: &Claim,
        ways: &[Way],
        start: Time,
        without: Option<Rule>,
    ) -> Result<Found, Lack> {
        let span = (start, start.saturating_add(claim.walltime));
        let mut lack = Lack::Nodes;
        for (index, way) in ways.iter().enumerate() {
            let Some(shares) = self.match_way(way, span, without) else { continue };
            let vector = self.vector_in(&shares);
            match self.caps.allow(claim, vector, span, asked(without)) {
                Ok(()) => return Ok(Found { way: index, shares, vector }),
                Err(barrier) => lack = Lack::Limit(barrier),
            }
        }
        Err(lack)
    }

    /// The first start from `from` on, and how. None if there is none ever.
    pub(crate) fn find_first(
        &mut self,
        claim: &Claim,
        ways: &[Way],
        from: Time,
        without: Option<Rule>,
    ) -> Option<(Time, Found)> {
        let class = lone_class(ways);
        let count = claim.count();
        let from = match class {
            Some(class) => self.not_before(class, count, claim.walltime).max(from),
            None => from,
        };
        let (found, is_limited) = self.search(claim, ways, from, without);
        // What a limit delayed says nothing about the nodes.
        if let (Some(class), Some((start, _)), false) = (class, &found, is_limited) {
            self.earliest.entry(class).or_default().push((count, claim.walltime, *start));
        }
        found
    }

    /// From what was found for smaller claims on the same cells: this one starts no earlier.
    fn not_before(&self, class: usize, count: u32, walltime: Time) -> Time {
        let known = self.earliest.get(&class).into_iter().flatten();
        let smaller = known.filter(|(least, short, _)| *least <= count && *short <= walltime);
        smaller.map(|(_, _, start)| *start).max().unwrap_or(Time::MIN)
    }

    /// The first start, and whether a limit was in the way of an earlier one.
    fn search(
        &self,
        claim: &Claim,
        ways: &[Way],
        from: Time,
        without: Option<Rule>,
    ) -> (Option<(Time, Found)>, bool) {
        let times = self.candidates(claim, ways, from, without);
        let mut next = times.into_iter().peekable();
        let mut time = from;
        let mut is_limited = false;
        loop {
            match self.find_at(claim, ways, time, without) {
                Ok(found) => return (Some((time, found)), is_limited),
                Err(Lack::Nodes) => {}
                Err(Lack::Limit(_)) => is_limited = true,
            }
            while next.next_if(|candidate| *candidate <= time).is_some() {}
            // A limit may be released between two changes of the nodes.
            let release = if is_limited { self.caps.next_release(claim, time) } else { None };
            time = match (next.peek().copied(), release) {
                (Some(a), Some(b)) => a.min(b),
                (Some(time), None) | (None, Some(time)) => time,
                (None, None) => return (None, is_limited),
            };
        }
    }

    /// Times at which enough nodes are free for a moment: no start can begin to be possible elsewhen,
    /// but where a limit is released.
    pub(crate) fn candidates(
        &self,
        claim: &Claim,
        ways: &[Way],
        from: Time,
        without: Option<Rule>,
    ) -> Vec<Time> {
        if let [way] = ways
            && let [part] = &way[..]
            && let [cell] = part.cells[..]
            && without != Some(Rule::Maintenance)
        {
            return self.starts_in_one_cell(cell as usize, part.count, claim.walltime, from);
        }
        let mut cells: Vec<u32> =
            ways.iter().flatten().flat_map(|part| part.cells.iter().copied()).collect();
        cells.sort_unstable();
        cells.dedup();
        let mut changes: Vec<(Time, i32)> = Vec::new();
        let mut free = 0;
        for cell in cells {
            let steps = self.steps(cell as usize, without);
            free += steps.get(from);
            steps.changes(from, &mut changes);
        }
        changes.sort_unstable();
        let least = claim.count() as i32;
        let mut times = Vec::new();
        let mut index = 0;
        while index < changes.len() {
            let time = changes[index].0;
            let mut rose = false;
            while let Some((_, change)) = changes.get(index).filter(|(at, _)| *at == time) {
                free += change;
                rose |= *change > 0;
                index += 1;
            }
            if rose && free >= least {
                times.push(time);
            }
        }
        times
    }

    /// In a lone cell the steps themselves say when; limits may need later ones too.
    fn starts_in_one_cell(&self, cell: usize, count: u32, walltime: Time, from: Time) -> Vec<Time> {
        let steps = &self.cells.all[cell].steps;
        let first = steps.first(count as i32, walltime, from);
        if first == Time::MAX {
            return Vec::new();
        }
        let mut times = vec![first];
        let mut changes = Vec::new();
        steps.changes(first, &mut changes);
        times.extend(changes.into_iter().filter(|(_, change)| *change > 0).map(|(time, _)| time));
        times
    }

    /// Takes cells for a start that comes.
    pub(crate) fn hold(&mut self, claim: Claim, ways: &[Way], start: Time, found: Found) {
        let end = start.saturating_add(claim.walltime);
        let parts = &ways[found.way];
        let shares = parts.iter().zip(found.shares);
        let shares: Vec<(usize, Share)> = shares
            .flat_map(|(part, shares)| shares.into_iter().map(|share| (part.request, share)))
            .collect();
        self.insert(Hold { claim, start, end, vector: found.vector, shares });
    }

    pub(crate) fn insert(&mut self, hold: Hold) {
        for (_, (cell, count)) in &hold.shares {
            self.cells.all[*cell].steps.add(hold.start, hold.end, -(*count as i32));
        }
        self.caps.take(&hold.claim, hold.vector, hold.start, hold.end);
        self.holds.insert(hold.claim.id, hold);
    }

    /// Gives back what was held for a claim. What could not start before may be able to now.
    pub(crate) fn release(&mut self, claim: ClaimId) -> Option<Hold> {
        let hold = self.holds.remove(&claim)?;
        for (_, (cell, count)) in &hold.shares {
            self.cells.all[*cell].steps.add(hold.start, hold.end, *count as i32);
        }
        self.caps.give_back(&hold.claim, hold.vector, hold.start, hold.end);
        self.forget();
        Some(hold)
    }

    /// Makes cells lie whole inside or outside of every set that a claim names.
    pub(crate) fn tell_apart(&mut self, claim: &Claim) {
        self.sets.name(self.snapshot, claim);
        let is_coarse = |nodes: &&RoaringBitmap| !self.cells.tell_apart(nodes);
        let coarse: Vec<RoaringBitmap> = self.sets.all.iter().filter(is_coarse).cloned().collect();
        if coarse.is_empty() {
            return;
        }
        let placed = self.place_holds();
        for nodes in &coarse {
            self.cells.part(nodes, self.now, &self.busy_until);
        }
        for cell in &mut self.cells.all {
            cell.lay(self.now, &self.busy_until);
        }
        for (id, hold) in &mut self.holds {
            hold.shares.clear();
            for (request, nodes) in placed[id].iter().enumerate() {
                for node in nodes {
                    let cell = self.cells.of(*node);
                    self.cells.all[cell].steps.add(hold.start, hold.end, -1);
                    hold.shares.push((request, (cell, 1)));
                }
            }
        }
        self.classes = Classes::default();
        self.forget();
    }

    /// Something was given back: what was found before may be wrong.
    pub(crate) fn forget(&mut self) {
        self.blocked.clear();
        self.free_now.clear();
        self.earliest.clear();
    }
}

/// The class of cells of a claim that is met in one way by one part.
pub(crate) fn lone_class(ways: &[Way]) -> Option<usize> {
    match ways {
        [way] => match &way[..] {
            [part] => Some(part.class),
            _ => None,
        },
        _ => None,
    }
}

/// The places of all nodes: request and rank.
fn ranks(nodes: &[Vec<NodeId>]) -> Vec<(usize, usize)> {
    let of_request = |(index, nodes): (usize, &Vec<NodeId>)| {
        (0..nodes.len()).map(move |rank| (index, rank)).collect::<Vec<_>>()
    };
    nodes.iter().enumerate().flat_map(of_request).collect()
}

fn asked(without: Option<Rule>) -> Asked {
    Asked {
        queue: without != Some(Rule::QueueMax),
        user: without != Some(Rule::UserMax),
        overlay: without != Some(Rule::OverlayInUse),
    }
}

fn busy_until_of(assignment: &Assignment, now: Time) -> Time {
    if assignment.end <= now { now + OVERDUE } else { assignment.end }
}

/// An assignment that goes on, with the nodes that it still has.
type Held<'a> = (&'a Assignment, Vec<Vec<NodeId>>);

/// Looks at each assignment: who did not come, and who lost nodes. Answers those that go on with their
/// nodes, as advance claims in `keep` do whatever becomes of theirs, and advance claims that need others.
fn settle<'a>(
    snapshot: &'a Snapshot,
    now: Time,
    keep: &HashSet<ClaimId>,
    plan: &mut Plan,
) -> (Vec<Held<'a>>, Vec<Claim>) {
    let mut held = Vec::new();
    let mut displaced = Vec::new();
    // In whatever order the caller lists them.
    let mut assignments: Vec<&Assignment> = snapshot.assignments.iter().collect();
    assignments.sort_unstable_by_key(|assignment| assignment.claim.id);
    for assignment in assignments {
        let claim = assignment.claim.id;
        if assignment.claim_by.is_some_and(|by| by <= now) {
            plan.changes.push(Change::NoShow { claim });
            continue;
        }
        let health = |node: &NodeId| snapshot.nodes[node.index()].health;
        let is_down = |node: &NodeId| health(node) == Health::Down;
        let has_begun = assignment.has_begun(now);
        let is_kept_off = |node: NodeId| {
            health(&node) != Health::Ready
                || assignment.claim.barred.contains(node.0)
                || is_worked_on(snapshot, node, assignment.start, assignment.end)
        };
        let kept_off: Vec<NodeId> = match has_begun {
            true => Vec::new(),
            false => assignment.all_nodes().filter(|node| is_kept_off(*node)).collect(),
        };
        if !kept_off.is_empty() {
            if keep.contains(&claim) {
                plan.changes.push(Change::Degraded { claim, lost: kept_off });
                held.push((assignment, assignment.nodes.clone()));
            } else {
                let promise =
                    crate::Promise { start: assignment.start, nodes: assignment.nodes.clone() };
                displaced.push(Claim { promise: Some(promise), ..assignment.claim.clone() });
            }
            continue;
        }
        let lost: Vec<NodeId> = assignment.all_nodes().filter(is_down).collect();
        let mut nodes = assignment.nodes.clone();
        if !lost.is_empty() {
            match assignment.claim.on_node_loss {
                OnNodeLoss::Fail => {
                    plan.changes.push(Change::Failed { claim, lost });
                    continue;
                }
                OnNodeLoss::Shrink => {
                    for nodes in &mut nodes {
                        nodes.retain(|node| !is_down(node));
                    }
                    let is_empty = nodes.iter().all(Vec::is_empty);
                    plan.changes.push(match is_empty {
                        true => Change::Failed { claim, lost },
                        false => Change::Shrunk { claim, lost },
                    });
                    if is_empty {
                        continue;
                    }
                }
                OnNodeLoss::Replace => {}
            }
        }
        held.push((assignment, nodes));
    }
    (held, displaced)
}

/// Whether work is planned on a node within a time.
pub(crate) fn is_worked_on(snapshot: &Snapshot, node: NodeId, from: Time, until: Time) -> bool {
    let mut windows = snapshot.maintenance.iter();
    windows.any(|w| w.from < until && from < w.until && w.nodes.contains(node.0))
}
