//! Advance claims: nodes for a time that comes, promised or refused at once.

use crate::{
    Assignment, Claim, ClaimId, NodeId, QueueId, Snapshot, SnapshotError, Time,
    planner::{Lack, Planner},
};

/// How many later starts a refusal names.
const NEXT: usize = 3;

/// Why there is no assignment at the asked time, and what could be had instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub why: Refused,
    /// Later starts at which the whole claim could be met: the first one, and then whenever nodes come
    /// free; at most three.
    pub next_starts: Vec<Time>,
    /// How many nodes could be had at the asked time.
    pub largest: u32,
}

/// Why an advance claim is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The time is over.
    Past,
    /// It is longer than its queue allows, in seconds.
    TooLong {
        /// The longest.
        most: Time,
    },
    /// It is further ahead than its queue allows, in seconds.
    TooFarAhead {
        /// The furthest.
        most: Time,
    },
    /// The queue would have more reserved ahead than it may.
    TooMuchReserved(QueueId),
    /// There are not enough nodes that serve at that time.
    Nodes,
    /// A maximum or the overlay is in the way.
    Limit,
}

/// Accepts or refuses a claim for `start`. What was accepted belongs into the snapshot's assignments;
/// from then on it is planned around. Nothing that was promised moves for it.
pub fn reserve(
    snapshot: &Snapshot,
    now: Time,
    claim: &Claim,
    start: Time,
) -> Result<Result<Assignment, Refusal>, SnapshotError> {
    snapshot.check()?;
    snapshot.check_claim(claim, &snapshot.leaves())?;
    if snapshot.claims.iter().any(|one| one.id == claim.id)
        || snapshot.assignments.iter().any(|one| one.claim.id == claim.id)
    {
        return Err(SnapshotError::Twice(claim.id));
    }
    let mut planner = Planner::new(snapshot, now, &[claim]);
    planner.keep_promises();
    let why = match refused_by_queue(&planner, claim, start) {
        Some(why) => why,
        None => match planner.accept(claim, start) {
            Ok(assignment) => return Ok(Ok(assignment)),
            Err(why) => why,
        },
    };
    let largest = match why {
        Refused::Past => 0,
        Refused::TooLong { .. }
        | Refused::TooFarAhead { .. }
        | Refused::TooMuchReserved(_)
        | Refused::Nodes
        | Refused::Limit => planner.largest(claim, start),
    };
    let next_starts = planner.next_starts(claim, start.max(now));
    Ok(Err(Refusal { why, next_starts, largest }))
}

fn refused_by_queue(planner: &Planner<'_>, claim: &Claim, start: Time) -> Option<Refused> {
    let limits = planner.snapshot.queues[claim.queue.index()].advance;
    if start < planner.now {
        return Some(Refused::Past);
    }
    if claim.walltime > limits.duration {
        return Some(Refused::TooLong { most: limits.duration });
    }
    if start - planner.now > limits.ahead {
        return Some(Refused::TooFarAhead { most: limits.ahead });
    }
    None
}

impl Planner<'_> {
    fn accept(&mut self, claim: &Claim, start: Time) -> Result<Assignment, Refused> {
        let ways = self.ways(claim, None);
        let found = self.find_at(claim, &ways, start, None).map_err(|lack| match lack {
            Lack::Nodes => Refused::Nodes,
            Lack::Limit(_) => Refused::Limit,
        })?;
        let limits = self.snapshot.queues[claim.queue.index()].advance;
        let end = start.saturating_add(claim.walltime);
        let ahead = self.snapshot.assignments.iter().filter(|one| {
            let meets = one.start < end && start < one.end;
            one.claim.queue == claim.queue && !one.has_begun(self.now) && meets
        });
        let reserved = self.vector_of(ahead.flat_map(Assignment::all_nodes));
        if !reserved.plus(found.vector).is_within(limits.reserved, self.total) {
            return Err(Refused::TooMuchReserved(claim.queue));
        }
        self.hold(claim.clone(), &ways, start, found);
        let nodes = self.place_holds().remove(&claim.id).expect("it was just held");
        let claim = Claim { promise: None, ..claim.clone() };
        Ok(Assignment { claim, nodes, start, end, claim_by: None, is_advance: true })
    }

    fn next_starts(&mut self, claim: &Claim, from: Time) -> Vec<Time> {
        let ways = self.ways(claim, None);
        let mut starts = Vec::new();
        let mut from = from;
        while starts.len() < NEXT {
            let Some((start, _)) = self.find_first(claim, &ways, from, None) else { break };
            starts.push(start);
            let later = self.candidates(claim, &ways, start, None);
            match later.into_iter().find(|time| *time > start) {
                Some(time) => from = time,
                None => break,
            }
        }
        starts
    }

    /// How many nodes could be had: of each request as many as can be, by priority.
    fn largest(&mut self, claim: &Claim, start: Time) -> u32 {
        let mut order: Vec<usize> = (0..claim.requests.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(claim.requests[*index].priority));
        let mut smaller = Claim { requests: Vec::new(), ..claim.clone() };
        for index in order {
            let request = &claim.requests[index];
            smaller.requests.push(request.clone());
            let last = smaller.requests.len() - 1;
            let (mut some, mut too_many) = (0, request.count + 1);
            while too_many - some > 1 {
                let count = some + (too_many - some) / 2;
                smaller.requests[last].count = count;
                let ways = self.ways(&smaller, None);
                match self.find_at(&smaller, &ways, start, None) {
                    Ok(_) => some = count,
                    Err(_) => too_many = count,
                }
            }
            if some == 0 {
                smaller.requests.pop();
            } else {
                smaller.requests[last].count = some;
            }
        }
        smaller.count()
    }
}

/// How far an assignment could be extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension {
    /// The new end, at most what was asked for.
    pub end: Time,
    /// Whether something is in the way of the end that was asked for.
    pub is_cut: bool,
}

/// What cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no such assignment.
    #[error("{0:?} has no nodes")]
    NotAssigned(ClaimId),
    /// A request keeps at least one node.
    #[error("{0:?} cannot shrink to that many nodes")]
    Count(ClaimId),
    /// The rest of the snapshot cannot be planned with.
    #[error("the snapshot cannot be planned with")]
    Snapshot(#[source] SnapshotError),
}

/// The latest end up to `until` to which an assignment can keep its nodes without moving anything that
/// is promised.
pub fn extend(
    snapshot: &Snapshot,
    now: Time,
    claim: ClaimId,
    until: Time,
) -> Result<Extension, ChangeError> {
    snapshot.check().map_err(ChangeError::Snapshot)?;
    let assignment = snapshot.assignments.iter().find(|one| one.claim.id == claim);
    let assignment = assignment.ok_or(ChangeError::NotAssigned(claim))?;
    let from = assignment.end.max(now);
    if until <= assignment.end {
        return Ok(Extension { end: until.max(now), is_cut: false });
    }
    let mut planner = Planner::new(snapshot, now, &[]);
    planner.keep_promises();
    let mut counts: std::collections::BTreeMap<usize, i32> = Default::default();
    for node in assignment.all_nodes() {
        *counts.entry(planner.cells.of(node)).or_default() += 1;
    }
    let ends =
        counts.iter().map(|(cell, count)| planner.cells.all[*cell].steps.first_below(*count, from));
    let mut end = ends.min().unwrap_or(until).min(until);
    let vector = planner.vector_of(assignment.all_nodes());
    let allows = |end: Time| {
        let all = crate::caps::Asked { queue: true, user: true, overlay: true };
        end <= from || planner.caps.allow(&assignment.claim, vector, (from, end), all).is_ok()
    };
    if !allows(end) {
        let (mut good, mut bad) = (from, end);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if allows(middle) { good = middle } else { bad = middle }
        }
        end = good;
    }
    let end = end.max(assignment.end);
    Ok(Extension { end, is_cut: end < until })
}

/// The nodes that an assignment gives back if one of its requests goes on with the first `count` ranks.
pub fn shrink(
    snapshot: &Snapshot,
    claim: ClaimId,
    request: usize,
    count: u32,
) -> Result<Vec<NodeId>, ChangeError> {
    let assignment = snapshot.assignments.iter().find(|one| one.claim.id == claim);
    let assignment = assignment.ok_or(ChangeError::NotAssigned(claim))?;
    let nodes = assignment.nodes.get(request).ok_or(ChangeError::Count(claim))?;
    if count == 0 || count as usize > nodes.len() {
        return Err(ChangeError::Count(claim));
    }
    Ok(nodes[count as usize..].to_vec())
}

/// Takes a claim out of the snapshot, whether it waits or has nodes, and answers the nodes that come
/// free. None if it is not there.
pub fn cancel(snapshot: &mut Snapshot, claim: ClaimId) -> Option<Vec<NodeId>> {
    if let Some(index) = snapshot.claims.iter().position(|one| one.id == claim) {
        snapshot.claims.remove(index);
        return Some(Vec::new());
    }
    let index = snapshot.assignments.iter().position(|one| one.claim.id == claim)?;
    Some(snapshot.assignments.remove(index).all_nodes().collect())
}
