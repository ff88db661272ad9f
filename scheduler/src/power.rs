//! Which nodes to turn on for starts that come, and which idle ones to turn off.
//!
//! A start is promised as ready: nodes are turned on so much before as 95 of 100 boots of their shape
//! and image took. A rack's nodes are turned on a few at a time; those that have to wait their turn
//! begin earlier.

use std::collections::{HashMap, HashSet};

use crate::{
    Claim, Health, Idle, ImageId, NodeId, OverlayId, Power, PowerAction, RackId, ShapeId, Snapshot,
    Time, planner::Planner,
};

/// When all nodes should be ready for a claim if they are given to it now.
pub(crate) fn ready_at<'a>(
    snapshot: &Snapshot,
    claim: &Claim,
    nodes: impl Iterator<Item = &'a NodeId>,
    now: Time,
) -> Time {
    let wanted = (claim.image, claim.overlay.map(|wanted| wanted.overlay));
    nodes.map(|node| now + lead(snapshot, *node, wanted, now)).max().unwrap_or(now)
}

/// How long a node takes to run this, from now.
fn lead(snapshot: &Snapshot, id: NodeId, wanted: (ImageId, Option<OverlayId>), now: Time) -> Time {
    let node = &snapshot.nodes[id.index()];
    let runs_it = node.runs == Some(wanted);
    match node.power {
        Power::On { .. } if runs_it => 0,
        Power::Booting { ready_at } if runs_it => (ready_at - now).max(0),
        Power::On { .. } | Power::Booting { .. } | Power::Off => boot_time(snapshot, id, wanted.0),
    }
}

fn boot_time(snapshot: &Snapshot, node: NodeId, image: ImageId) -> Time {
    let shape = snapshot.nodes[node.index()].shape;
    let learned = snapshot.boots.iter().find(|one| one.shape == shape && one.image == image);
    learned.map_or(snapshot.settings.boot_time, |one| one.p95)
}

/// Decides about all nodes.
pub(crate) fn decide(planner: &mut Planner<'_>) {
    let needed = needs(planner);
    let mut actions = turn_off(planner, &needed);
    actions.extend(turn_on(planner, &needed, &actions));
    actions.sort_unstable();
    planner.plan.power = actions;
}

/// When each node is needed next, and with which image.
fn needs(planner: &Planner<'_>) -> Vec<Option<(Time, ImageId)>> {
    let snapshot = planner.snapshot;
    let mut needed: Vec<Option<(Time, ImageId)>> = vec![None; snapshot.nodes.len()];
    let mut need = |node: NodeId, at: Time, image: ImageId| {
        let known = &mut needed[node.index()];
        if known.is_none_or(|(before, _)| at < before) {
            *known = Some((at, image));
        }
    };
    if !planner.plan.starts.is_empty() {
        let is_off = |node: &NodeId| snapshot.nodes[node.index()].power == Power::Off;
        let cold = planner.plan.starts.iter().any(|s| s.nodes.iter().flatten().any(is_off));
        let claims = snapshot.claims.iter().filter(|_| cold);
        let images: HashMap<_, _> = claims.map(|claim| (claim.id, claim.image)).collect();
        for start in planner.plan.starts.iter().filter(|_| cold) {
            for node in start.nodes.iter().flatten() {
                need(*node, planner.now, images[&start.claim]);
            }
        }
    }
    for planned in &planner.plan.planned {
        let image = planner.holds[&planned.claim].claim.image;
        for node in planned.nodes.iter().flatten() {
            need(*node, planned.start, image);
        }
    }
    for assignment in &snapshot.assignments {
        for node in assignment.all_nodes() {
            let at = if assignment.has_begun(planner.now) { planner.now } else { assignment.start };
            need(node, at, assignment.claim.image);
        }
    }
    needed
}

fn turn_on(
    planner: &Planner<'_>,
    needed: &[Option<(Time, ImageId)>],
    turned_off: &[PowerAction],
) -> Vec<PowerAction> {
    let snapshot = planner.snapshot;
    let goes_off: HashSet<NodeId> = turned_off.iter().map(|action| action.node).collect();
    let mut due: Vec<(Time, NodeId)> = Vec::new();
    for (index, need) in needed.iter().enumerate() {
        let node = NodeId(index as u32);
        let is_off = match snapshot.nodes[index].power {
            Power::Off => true,
            Power::On { .. } | Power::Booting { .. } => goes_off.contains(&node),
        };
        if let Some((at, image)) = need
            && is_off
        {
            due.push((at - boot_time(snapshot, node, *image), node));
        }
    }
    // From the last one back, so that a full minute sends nodes into the one before.
    due.sort_unstable_by_key(|(at, node)| (std::cmp::Reverse(*at), *node));
    let ramp = snapshot.settings.ramp_per_minute.max(1);
    let mut minutes: HashMap<(RackId, Time), u32> = HashMap::new();
    let mut actions = Vec::with_capacity(due.len());
    for (at, node) in due {
        let rack = snapshot.nodes[node.index()].rack;
        let mut minute = at.max(planner.now).div_euclid(60);
        let first = planner.now.div_euclid(60);
        let mut step = -1;
        while minutes.get(&(rack, minute)).is_some_and(|count| *count >= ramp) {
            // What cannot be earlier is later.
            if minute == first {
                step = 1;
            }
            minute += step;
        }
        *minutes.entry((rack, minute)).or_default() += 1;
        let at = at.clamp(minute * 60, minute * 60 + 59).max(planner.now);
        actions.push(PowerAction { at, node, on: true });
    }
    actions
}

fn turn_off(planner: &Planner<'_>, needed: &[Option<(Time, ImageId)>]) -> Vec<PowerAction> {
    let mut actions = Vec::new();
    let snapshot = planner.snapshot;
    let now = planner.now;
    let (pays_after, after, spares) = match snapshot.settings.idle {
        Idle::Never => return actions,
        Idle::Timeout { after } => (Time::MAX, after, 0),
        Idle::Planned { pays_after, after, spares } => (pays_after, after, spares),
    };
    let mut off = |node| actions.push(PowerAction { at: now, node, on: false });
    let mut unneeded: Vec<(Time, NodeId)> = Vec::new();
    for (index, node) in snapshot.nodes.iter().enumerate() {
        let id = NodeId(index as u32);
        let idle_since = match node.power {
            Power::On { idle_since } => idle_since,
            Power::Booting { .. } | Power::Off => continue,
        };
        if node.health != Health::Ready || planner.busy_until[index] > now {
            continue;
        }
        match needed[index] {
            Some((at, image)) if pays_after < Time::MAX => {
                let pays = at - now - boot_time(snapshot, id, image) > pays_after;
                if pays && now - idle_since > after {
                    off(id);
                }
            }
            Some(_) | None => unneeded.push((idle_since, id)),
        }
    }
    unneeded.sort_unstable_by_key(|(since, node)| (std::cmp::Reverse(*since), *node));
    let mut kept: HashMap<ShapeId, u32> = HashMap::new();
    for (since, node) in unneeded {
        let kept = kept.entry(snapshot.nodes[node.index()].shape).or_default();
        if *kept < spares {
            *kept += 1;
        } else if now - since > after {
            off(node);
        }
    }
    actions
}
