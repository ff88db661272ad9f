//! How many nodes of a queue are free when. Whose the others are is nobody's matter here.

use std::collections::HashSet;

use haas_api::reservation::{Calendar, Slot};
use scheduler::Health;

use super::{
    ask::{AskError, offered, shown},
    snapshot::{self, seconds},
    world::World,
};
use crate::{
    context::Context,
    model::{ImageWanted, Micros, Reservation, SECOND},
    store::QueueRow,
};

/// The calendar of a queue from now on for so long; and, where a number of nodes and a time are given,
/// the next starts for these.
pub async fn calendar(
    context: &Context,
    queue: &QueueRow,
    span: Micros,
    wanted: Option<(u32, Micros)>,
) -> Result<Calendar, AskError> {
    let mut tx = context.store.read().await?;
    let world = World::load(context, &mut tx).await?;
    drop(tx);
    let now = context.clock.now();
    let free = free(&world, queue, now, now.saturating_add(span));
    let slots = free.slots.iter().map(|slot| Slot {
        from: shown(context, slot.from),
        until: shown(context, slot.until),
        free: slot.free,
    });
    let next_starts = match wanted {
        None => Vec::new(),
        Some((nodes, walltime)) => {
            let starts = next_starts(&world, queue, nodes, walltime, now)?;
            starts.into_iter().map(|at| offered(context, at)).collect()
        }
    };
    Ok(Calendar {
        queue: queue.spec.name.clone(),
        nodes: free.nodes,
        slots: slots.collect(),
        next_starts,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Free {
    nodes: u32,
    slots: Vec<Span>,
}

#[derive(Debug, PartialEq, Eq)]
struct Span {
    from: Micros,
    until: Micros,
    free: u32,
}

/// Free nodes over time: those that are in service, less those that are had or promised.
fn free(world: &World, queue: &QueueRow, now: Micros, until: Micros) -> Free {
    let nodes: Vec<usize> = world.nodes_of(queue).collect();
    let in_service =
        nodes.iter().filter(|place| world.health(&world.nodes[**place]) == Health::Ready);
    let ids = in_service.map(|place| world.nodes[*place].node.id.as_str());
    let ids: HashSet<&str> = ids.collect();
    // By node: one that is had in a window is counted once.
    let mut taken: Vec<(&str, Micros, Micros)> = Vec::new();
    for one in &world.live {
        let Some((begins, end)) = world.span(one) else { continue };
        let from = if one.state.has_nodes() { now } else { begins };
        taken.extend(one.held().map(|held| (held.node_id.as_str(), from, end)));
    }
    for window in world.windows.iter() {
        let nodes = window.nodes.iter().map(String::as_str);
        taken.extend(nodes.map(|id| (id, window.begin_at, window.end_at)));
    }
    taken.retain(|(id, ..)| ids.contains(id));
    let mut times: Vec<Micros> =
        taken.iter().flat_map(|(_, from, until)| [*from, *until]).collect();
    times.retain(|at| *at > now && *at < until);
    times.extend([now, until]);
    times.sort_unstable();
    times.dedup();
    let mut slots: Vec<Span> = Vec::new();
    for pair in times.windows(2) {
        let [from, until] = *pair else { continue };
        let then = taken.iter().filter(|(_, start, end)| *start <= from && from < *end);
        let busy: HashSet<&str> = then.map(|(id, ..)| *id).collect();
        let free = u32::try_from(ids.len().saturating_sub(busy.len())).unwrap_or(u32::MAX);
        match slots.last_mut() {
            Some(last) if last.free == free => last.until = until,
            Some(_) | None => slots.push(Span { from, until, free }),
        }
    }
    Free { nodes: u32::try_from(nodes.len()).unwrap_or(u32::MAX), slots }
}

fn next_starts(
    world: &World,
    queue: &QueueRow,
    nodes: u32,
    walltime: Micros,
    now: Micros,
) -> Result<Vec<Micros>, AskError> {
    let mut taken = snapshot::take(world, world.live.iter(), now);
    let one = nobodys(queue, nodes, walltime, now);
    let Some(claim) = taken.claim(world, &one) else { return Ok(Vec::new()) };
    Ok(match scheduler::reserve(&taken.snapshot, seconds(now), &claim, seconds(now))? {
        Ok(_) => vec![now],
        Err(refusal) => {
            refusal.next_starts.into_iter().map(|at| snapshot::hour(world, at)).collect()
        }
    })
}

/// A wish that nobody has.
fn nobodys(queue: &QueueRow, count: u32, walltime: Micros, now: Micros) -> Reservation {
    use haas_api::reservation::{OnNodeLoss, ReasonCode, ReservationState};
    Reservation {
        id: i64::MAX,
        version: 0,
        state: ReservationState::Pending,
        code: ReasonCode::Submitted,
        reason: String::new(),
        owner_id: String::new(),
        tenant: String::new(),
        queue: queue.spec.name.clone(),
        count: count.max(1),
        walltime: walltime.max(SECOND),
        is_advance: true,
        among: None,
        image: ImageWanted { digest: haas_api::names::Digest::of(b""), name: String::new() },
        follow_tag: false,
        overlay_id: None,
        on_node_loss: OnNodeLoss::Replace,
        submitted_at: now,
        start_at: None,
        end_at: None,
        ready_at: None,
        warned: false,
        actor: String::new(),
        key: None,
        request: String::new(),
        nodes: Vec::new(),
    }
}
