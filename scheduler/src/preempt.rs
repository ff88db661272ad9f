//! Ending running claims for one that was guaranteed what they borrowed.
//!
//! A claim may have others ended only while its queue stays within its guarantee, and only claims of
//! queues that stay at or above theirs. So the claim that was ended can never do the same in return: its
//! queue has what it is guaranteed. The freed nodes are held for the beneficiary in the same plan, and
//! nothing is ended unless they are enough for it.

use crate::{
    Assignment, Change, Claim, Preemption, QueueId, Share, Time, Vector, needs::Way,
    planner::Planner,
};

/// Ends claims so that this one can start after their grace. False, and nothing is changed, if that
/// is not possible or not allowed.
pub(crate) fn make_room(planner: &mut Planner<'_>, claim: &Claim, ways: &[Way]) -> bool {
    let Some(settings) = planner.snapshot.settings.preemption else { return false };
    let at = planner.now + settings.grace;
    if !is_within_guarantee(planner, claim, ways) {
        return false;
    }
    let mut ended: Vec<&Assignment> = Vec::new();
    for victim in victims(planner, claim, settings) {
        if !stays_at_guarantee(planner, &ended, victim) {
            continue;
        }
        set_end(planner, victim, victim.end, at);
        ended.push(victim);
        if planner.find_at(claim, ways, at, None).is_ok() {
            break;
        }
    }
    // Whoever turns out not to be needed goes on.
    for index in (0..ended.len()).rev() {
        let victim = ended[index];
        set_end(planner, victim, at, victim.end);
        if planner.find_at(claim, ways, at, None).is_ok() {
            ended.remove(index);
        } else {
            set_end(planner, victim, victim.end, at);
        }
    }
    let found = match planner.find_at(claim, ways, at, None) {
        Ok(found) if !ended.is_empty() => found,
        Ok(_) | Err(_) => {
            for victim in ended {
                set_end(planner, victim, at, victim.end);
            }
            return false;
        }
    };
    for victim in ended {
        for node in victim.all_nodes() {
            planner.busy_until[node.index()] = at;
        }
        let change = Change::Preempted { claim: victim.claim.id, by: claim.id, at };
        planner.plan.changes.push(change);
    }
    planner.hold(claim.clone(), ways, at, found);
    planner.forget();
    true
}

/// Claims that may be ended, those with the least work lost first.
fn victims<'a>(planner: &Planner<'a>, claim: &Claim, settings: Preemption) -> Vec<&'a Assignment> {
    let snapshot = planner.snapshot;
    let now = planner.now;
    let gone = |id| planner.plan.changes.iter().any(|change| ends(change) == Some(id));
    let may_end = |one: &&Assignment| {
        one.claim.preemptible
            && !one.is_advance
            && one.has_begun(now)
            && now - one.start >= settings.min_run
            && one.end > now + settings.grace
            && one.claim.queue != claim.queue
            && !gone(one.claim.id)
    };
    let mut victims: Vec<&Assignment> = snapshot.assignments.iter().filter(may_end).collect();
    victims.sort_by_key(|one| {
        let nodes = one.all_nodes().count() as Time;
        (nodes * (now - one.start), nodes, one.claim.id)
    });
    victims
}

/// The claim that a change ends.
fn ends(change: &Change) -> Option<crate::ClaimId> {
    match change {
        Change::NoShow { claim }
        | Change::Failed { claim, .. }
        | Change::Preempted { claim, .. } => Some(*claim),
        Change::Moved { .. }
        | Change::Replaced { .. }
        | Change::Shrunk { .. }
        | Change::Degraded { .. } => None,
    }
}

fn is_within_guarantee(planner: &Planner<'_>, claim: &Claim, ways: &[Way]) -> bool {
    let Some(way) = ways.first() else { return false };
    let of_part = |part: &crate::needs::Part| {
        let cell = part.cells.first().map(|cell| &planner.cells.all[*cell as usize]);
        let shape =
            cell.map_or(Vector::default(), |cell| planner.snapshot.shapes[cell.shape.0 as usize]);
        shape.times(u64::from(part.count))
    };
    let wanted = way.iter().fold(Vector::default(), |sum, part| sum.plus(of_part(part)));
    let held = held_by(planner, claim.queue, &[]);
    held.plus(wanted).is_within(guaranteed(planner, claim.queue), planner.total)
}

fn stays_at_guarantee(planner: &Planner<'_>, ended: &[&Assignment], victim: &Assignment) -> bool {
    let all: Vec<&Assignment> = ended.iter().copied().chain([victim]).collect();
    let held = held_by(planner, victim.claim.queue, &all);
    held.dominant(planner.total) >= guaranteed(planner, victim.claim.queue)
}

fn guaranteed(planner: &Planner<'_>, queue: QueueId) -> Share {
    planner.snapshot.queues[queue.index()].guaranteed
}

/// What a queue holds with what starts in this plan, but without some assignments.
fn held_by(planner: &Planner<'_>, queue: QueueId, without: &[&Assignment]) -> Vector {
    let snapshot = planner.snapshot;
    let gone = |id| {
        without.iter().any(|one| one.claim.id == id)
            || planner.plan.changes.iter().any(|change| ends(change) == Some(id))
    };
    let assignments = snapshot.assignments.iter();
    let held = assignments
        .filter(|one| one.claim.queue == queue && one.has_begun(planner.now) && !gone(one.claim.id))
        .flat_map(|one| one.all_nodes());
    let of_queue = |id| snapshot.claims.iter().any(|c| c.id == id && c.queue == queue);
    let starts = planner.plan.starts.iter().filter(|start| of_queue(start.claim));
    let started = starts.flat_map(|start| start.nodes.iter().flatten().copied());
    let now = planner.vector_of(held.chain(started));
    let planned = planner.holds.values().filter(|hold| hold.claim.queue == queue);
    planned.fold(now, |sum, hold| sum.plus(hold.vector))
}

/// Moves the end of a running claim.
fn set_end(planner: &mut Planner<'_>, one: &Assignment, from: Time, to: Time) {
    let (begin, end, sign) = if to < from { (to, from, 1) } else { (from, to, -1) };
    for node in one.all_nodes() {
        let cell = planner.cells.of(node);
        planner.cells.all[cell].steps.add(begin, end, sign);
    }
    let vector = planner.vector_of(one.all_nodes());
    let start = planner.now;
    planner.caps.give_back(&one.claim, vector, start, from);
    planner.caps.take(&one.claim, vector, start, to);
}
