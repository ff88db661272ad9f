//! From the store's words to the planner's and back. Pure.
//!
//! The planner knows nodes, queues, users and images as small numbers. What makes two images different
//! to it is the digest *and* for whom it runs: a system is never handed from one tenant to another as it
//! is, so only the same tenant finds it ready.

use std::collections::HashMap;

use haas_api::{
    names::QueueName,
    queue::{QueuePolicy, QueueSpec},
    reservation::{OnNodeLoss, ReservationState},
};
use roaring::RoaringBitmap;
use scheduler::{
    AdvanceLimits, Affinity, Assignment, BootTime, Claim, ClaimId, Grant, Idle, ImageId, Location,
    Maintenance, Need, Node, NodeId, Overlay, OverlayId, OverlayUse, Policy, Power, ProjectId,
    Promise, Queue, QueueId, RackId, Request, Settings, ShapeId, Shard, Share, Snapshot, Time,
    Usage, UserId, Vector,
};

use super::world::{Seen, World};
use crate::model::{Micros, Reservation, SECOND};

/// Seconds of a time, as the planner counts.
pub(super) fn seconds(at: Micros) -> Time {
    at.div_euclid(SECOND)
}

/// The planner's time as the store has it.
pub(super) fn micros(at: Time) -> Micros {
    at.saturating_mul(SECOND)
}

/// The planner's name of a reservation.
pub(super) fn claim_id(id: i64) -> ClaimId {
    ClaimId(id.unsigned_abs())
}

/// A snapshot, and what its numbers mean.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) snapshot: Snapshot,
    names: Names,
}

/// Names that have numbers.
#[derive(Debug, Default)]
struct Names {
    shapes: Vec<Vector>,
    racks: Vec<String>,
    queues: Vec<QueueName>,
    users: Vec<String>,
    /// By digest and tenant.
    images: Vec<(String, String)>,
    overlays: Vec<String>,
}

/// The number of a name, which is the next one if nobody had it before.
fn number<T: PartialEq>(names: &mut Vec<T>, name: T) -> u32 {
    let found = names.iter().position(|known| *known == name);
    let place = found.unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Takes the snapshot that plans are made from. `reservations` are those of `world`, as far as was
/// decided about them already; those whose nodes a project's limit keeps from it are left out.
pub(super) fn take<'a>(
    world: &World,
    reservations: impl Iterator<Item = &'a Reservation> + Clone,
    now: Micros,
) -> Taken {
    let mut names = Names::default();
    for row in &world.queues {
        names.queues.push(row.spec.name.clone());
    }
    let nodes: Vec<Node> = world.nodes.iter().map(|seen| node(world, &mut names, seen)).collect();
    let mut snapshot = Snapshot {
        nodes,
        queues: queues(world),
        grants: grants(world),
        maintenance: maintenance(world),
        settings: Settings {
            boot_time: seconds(world.config.boot_time()),
            // Spares are switched off by `[[idle]]`, or not at all.
            idle: Idle::Never,
            ..Settings::default()
        },
        ..Snapshot::default()
    };
    for one in reservations {
        overlay(world, &mut names, &mut snapshot, one);
        let Some(claim) = claim(world, &mut names, one) else { continue };
        match one.state {
            ReservationState::Pending => snapshot.claims.push(claim),
            ReservationState::Planned if one.is_advance => {
                snapshot.assignments.extend(assignment(world, one, claim, now));
            }
            ReservationState::Planned => {
                let promise = promise(world, one);
                snapshot.claims.push(Claim { promise, ..claim });
            }
            ReservationState::Starting | ReservationState::Active => {
                snapshot.assignments.extend(assignment(world, one, claim, now));
            }
            ReservationState::Ending
            | ReservationState::Ended
            | ReservationState::Cancelled
            | ReservationState::Failed => {}
        }
    }
    after_others(world, &mut snapshot);
    for past in &world.past {
        let Some(queue) = names.queues.iter().position(|name| name.as_str() == past.queue) else {
            continue;
        };
        let held = seconds(past.end_at - past.start_at).unsigned_abs();
        let nodes = u64::try_from(past.nodes).unwrap_or(0);
        snapshot.usage.push(Usage {
            queue: queue_id(queue),
            user: UserId(number(&mut names.users, past.owner_id.clone())),
            spent: Vector { nodes: nodes.saturating_mul(held), ..Vector::default() },
            at: seconds(past.end_at),
        });
    }
    // Overlays and images have their numbers by now.
    for (seen, node) in world.nodes.iter().zip(&mut snapshot.nodes) {
        runs(&names, seen, node);
    }
    for shape in 0..names.shapes.len() {
        let Some(usual) = world.usual_of(names.shapes[shape]) else { continue };
        let images = 0..u32::try_from(names.images.len()).unwrap_or(u32::MAX);
        let shape = ShapeId(u32::try_from(shape).unwrap_or(u32::MAX));
        let boot = |image| BootTime { shape, image: ImageId(image), p95: seconds(usual) + 1 };
        snapshot.boots.extend(images.map(boot));
    }
    snapshot.shapes = names.shapes.clone();
    Taken { snapshot, names }
}

impl Taken {
    /// The claim of a reservation that is not in the snapshot yet.
    pub(super) fn claim(&mut self, world: &World, one: &Reservation) -> Option<Claim> {
        overlay(world, &mut self.names, &mut self.snapshot, one);
        claim(world, &mut self.names, one)
    }

    /// When the planner takes the nodes of an accepted hour to be its own.
    pub(super) fn begins(&self, id: i64) -> Option<Time> {
        let mut all = self.snapshot.assignments.iter();
        Some(all.find(|one| one.claim.id == claim_id(id))?.start)
    }

    /// The name of a queue; none for the top of the tree.
    pub(super) fn queue(&self, id: QueueId) -> Option<&QueueName> {
        id.index().checked_sub(1).and_then(|place| self.names.queues.get(place))
    }
}

/// The planner's tree of queues: its first one is the top, which has no name here.
pub(super) fn tree<'a>(specs: impl Iterator<Item = &'a QueueSpec> + Clone) -> Vec<Queue> {
    let mut queues = vec![Queue::root()];
    for spec in specs.clone() {
        let mut all = specs.clone();
        let above = spec.parent.as_ref();
        let above = above.and_then(|name| all.position(|one| one.name == *name));
        queues.push(Queue {
            name: spec.name.to_string(),
            parent: Some(above.map_or(QueueId(0), queue_id)),
            guaranteed: Share::percent(spec.guaranteed),
            max: Share::percent(spec.max),
            weight: spec.weight,
            priority: spec.priority,
            policy: match spec.policy {
                QueuePolicy::Fifo => Policy::Fifo,
                QueuePolicy::Fair => Policy::Fair,
                QueuePolicy::Capacity => Policy::Capacity { user_factor_percent: 100 },
            },
            user_max: spec.user_max.map(Share::percent),
            advance: AdvanceLimits {
                duration: Time::try_from(spec.max_walltime_s).unwrap_or(Time::MAX),
                ahead: Time::try_from(spec.max_ahead_s).unwrap_or(Time::MAX),
                reserved: Share::percent(spec.max_reserved),
            },
        });
    }
    queues
}

/// As the planner sees them, to whom an advance claim begins when its nodes do.
fn queues(world: &World) -> Vec<Queue> {
    let mut queues = tree(world.queues.iter().map(|row| &row.spec));
    let ahead = seconds(world.ahead());
    for queue in &mut queues {
        queue.advance.duration = queue.advance.duration.saturating_add(ahead);
        queue.advance.ahead = queue.advance.ahead.saturating_sub(ahead).max(0);
    }
    queues
}

/// The number of the queue at this place of the store's list.
fn queue_id(place: usize) -> QueueId {
    QueueId(u32::try_from(place + 1).unwrap_or(u32::MAX))
}

/// Whoever may use a queue may be given its nodes: to the planner a queue is its own project.
fn grants(world: &World) -> Vec<Grant> {
    let queues = world.queues.iter().enumerate();
    let grant = |(place, row)| Grant {
        project: ProjectId(queue_id(place).0),
        nodes: world.nodes_of(row).filter_map(|node| u32::try_from(node).ok()).collect(),
    };
    queues.map(grant).collect()
}

/// Windows of maintenance, to the second, as the starts of reservations are.
fn maintenance(world: &World) -> Vec<Maintenance> {
    let windows = world.windows.iter().map(|window| {
        let places = window.nodes.iter().filter_map(|id| world.place(id));
        Maintenance {
            nodes: places.filter_map(|place| u32::try_from(place).ok()).collect(),
            from: seconds(window.begin_at),
            until: seconds(window.end_at),
        }
    });
    windows.collect()
}

fn node(world: &World, names: &mut Names, seen: &Seen) -> Node {
    let rack = seen.node.spec.labels.get("rack").cloned().unwrap_or_default();
    let power = match &seen.standing {
        Some(standing) => match &standing.runs {
            Some(runs) if runs.is_ready => Power::On { idle_since: seconds(runs.opened_at) },
            Some(runs) => Power::Booting { ready_at: seconds(runs.opened_at + world.lead(seen)) },
            None => Power::Off,
        },
        None => Power::Off,
    };
    Node {
        shape: ShapeId(number(&mut names.shapes, seen.vector)),
        rack: RackId(number(&mut names.racks, rack)),
        labels: 0,
        health: world.health(seen),
        power,
        runs: None,
        shards: Vec::new(),
        // Who has how much room for shards is not known here: each finds room.
        disk_gib: 0,
    }
}

/// What a node runs, and which shards it has, in the numbers that claims have.
fn runs(names: &Names, seen: &Seen, node: &mut Node) {
    let Some(runs) = seen.standing.as_ref().and_then(|standing| standing.runs.as_ref()) else {
        return;
    };
    let Some(digest) = &runs.image else { return };
    let image = (digest.as_str(), runs.tenant.as_str());
    let image = names.images.iter().position(|(d, t)| (d.as_str(), t.as_str()) == image);
    let overlay = match &runs.overlay_id {
        None => Some(None),
        Some(id) => names.overlays.iter().position(|known| known == id).map(Some),
    };
    if let (Some(image), Some(overlay)) = (image, overlay) {
        let small = |place| u32::try_from(place).unwrap_or(u32::MAX);
        node.runs = Some((ImageId(small(image)), overlay.map(|o| OverlayId(small(o)))));
    }
}

/// Has the overlay of a reservation in the snapshot, with the node of each rank and the shards there.
fn overlay(world: &World, names: &mut Names, snapshot: &mut Snapshot, one: &Reservation) {
    let Some(id) = &one.overlay_id else { return };
    let known = names.overlays.len();
    let number = number(&mut names.overlays, id.clone());
    if names.overlays.len() == known {
        return;
    }
    let mut homes: Vec<Option<NodeId>> = Vec::new();
    // A place that was given and never made has no data that would have to be met.
    for shard in world.shards.get(id).into_iter().flatten().filter(|s| s.store_id.is_some()) {
        let (Some(place), Ok(rank)) = (world.place(&shard.node_id), usize::try_from(shard.rank))
        else {
            continue;
        };
        if homes.len() <= rank {
            homes.resize(rank + 1, None);
        }
        homes[rank] = Some(NodeId(u32::try_from(place).unwrap_or(u32::MAX)));
        let used = seconds(shard.last_used_at.unwrap_or_default());
        let shard = Shard { overlay: OverlayId(number), used, leased: true };
        snapshot.nodes[place].shards.push(shard);
    }
    snapshot.overlays.push(Overlay { disk_gib: 0, homes });
}

/// None where its queue is gone.
fn claim(world: &World, names: &mut Names, one: &Reservation) -> Option<Claim> {
    let queue = names.queues.iter().position(|name| *name == one.queue)?;
    let queue = queue_id(queue);
    let user = UserId(number(&mut names.users, one.owner_id.clone()));
    let image = (one.image.digest.to_string(), one.tenant.clone());
    let image = ImageId(number(&mut names.images, image));
    let overlay = one.overlay_id.as_ref().map(|id| OverlayUse {
        overlay: OverlayId(number(&mut names.overlays, id.clone())),
        affinity: Affinity::Require,
        fork: false,
    });
    let location = match &one.among {
        None => Location::Anywhere,
        Some(ids) => {
            let places = ids.iter().filter_map(|id| world.place(id));
            let nodes: RoaringBitmap = places.filter_map(|p| u32::try_from(p).ok()).collect();
            Location::Nodes(nodes, Need::Required)
        }
    };
    let barred = world.barred(one).filter_map(|(id, _)| world.place(id));
    let barred = barred.filter_map(|place| u32::try_from(place).ok()).collect();
    Some(Claim {
        id: claim_id(one.id),
        queue,
        user,
        project: ProjectId(queue.0),
        submitted: seconds(one.submitted_at),
        walltime: seconds(held_for(world, one)).max(1),
        requests: vec![Request { location, ..Request::of(one.count) }],
        image,
        overlay,
        barred,
        preemptible: false,
        on_node_loss: on_node_loss(one),
        promise: None,
    })
}

/// For how long a reservation has its nodes: their boots come before its time. One that names its hour is ready by
/// then, whoever had its nodes before; the time of another counts from when its nodes are ready.
pub(super) fn held_for(world: &World, one: &Reservation) -> Micros {
    one.walltime + if one.is_advance { world.ahead() } else { world.usual() }
}

/// When the nodes of a reservation that names its hour are its own, as the planner counts.
pub(super) fn begins(world: &World, hour: Micros) -> Time {
    seconds(hour) - seconds(world.ahead())
}

/// The hour of one whose nodes are its own from then on.
pub(super) fn hour(world: &World, begins: Time) -> Micros {
    micros(begins) + world.ahead()
}

/// Boots that have become longer do not reach into what was promised to others before.
fn after_others(world: &World, snapshot: &mut Snapshot) {
    let mut ends: HashMap<NodeId, Vec<Time>> = HashMap::new();
    for one in &snapshot.assignments {
        for node in one.all_nodes() {
            ends.entry(node).or_default().push(one.end);
        }
    }
    for one in snapshot.assignments.iter_mut().filter(|one| one.is_advance) {
        let hour = one.start + seconds(world.ahead());
        let before = one.all_nodes().filter_map(|node| ends.get(&node)).flatten();
        let last = before.filter(|end| **end <= hour).max().copied();
        one.start = one.start.max(last.unwrap_or(one.start));
    }
}

/// A node that is lost before the reservation is active is replaced if that can be.
fn on_node_loss(one: &Reservation) -> scheduler::OnNodeLoss {
    match one.on_node_loss {
        OnNodeLoss::Shrink => scheduler::OnNodeLoss::Shrink,
        OnNodeLoss::Fail if one.state == ReservationState::Active => scheduler::OnNodeLoss::Fail,
        OnNodeLoss::Replace | OnNodeLoss::Fail => scheduler::OnNodeLoss::Replace,
    }
}

fn held(world: &World, one: &Reservation) -> Vec<NodeId> {
    let places = one.held().filter_map(|held| world.place(&held.node_id));
    places.filter_map(|place| u32::try_from(place).ok()).map(NodeId).collect()
}

fn promise(world: &World, one: &Reservation) -> Option<Promise> {
    let nodes = held(world, one);
    (nodes.len() == one.count as usize)
        .then(|| Some(Promise { start: seconds(one.start_at?), nodes: vec![nodes] }))
        .flatten()
}

/// None where none of its nodes is known any more.
fn assignment(world: &World, one: &Reservation, claim: Claim, now: Micros) -> Option<Assignment> {
    let nodes = held(world, one);
    let (start, end) = (one.start_at?, one.end_at?);
    let has_begun = one.state.has_nodes();
    // A node that is lost before its hour can come back by then.
    let claim = match one.is_before_its_hour(now) {
        true => Claim { on_node_loss: scheduler::OnNodeLoss::Replace, ..claim },
        false => claim,
    };
    (!nodes.is_empty()).then(|| Assignment {
        claim,
        nodes: vec![nodes],
        start: if has_begun { seconds(start.min(now)) } else { begins(world, start) },
        end: seconds(end),
        claim_by: claim_by(world, one).map(seconds),
        is_advance: !has_begun,
    })
}

/// Until when somebody must have logged in on its nodes, where the queue says so and nobody has.
pub(super) fn claim_by(world: &World, one: &Reservation) -> Option<Micros> {
    let row = world.queues.iter().find(|row| row.spec.name == one.queue)?;
    let within = Micros::try_from(row.spec.no_show_s?).ok()?.saturating_mul(SECOND);
    let from = one.ready_at.filter(|_| one.state == ReservationState::Active)?.max(one.start_at?);
    let came = one.held().filter_map(|held| world.seen(&held.node_id)).any(|seen| {
        seen.node.used_at.is_some_and(|at| at >= from)
            || seen.node.heartbeat.as_ref().is_some_and(|beat| !beat.logins.is_empty())
    });
    (!came).then_some(from.saturating_add(within))
}
