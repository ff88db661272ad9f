//! Nodes are lent to a reservation and taken back from it: desired states, an operation and its events,
//! written as every other request is, in the transaction of the calendar that decides it.

use std::collections::HashMap;

use super::{Asked, By, RequestError, plan, plan::Candidate, record};
use crate::{
    context::Context,
    model::{ImageWanted, NewDesired, Node, Reservation},
    reconcile::Loaded,
    store::{StoreError, Tx},
};

const KIND: &str = "reservation";

/// What a reservation wants of each of its nodes.
pub(crate) fn wanted_of(reservation: &Reservation) -> NewDesired {
    NewDesired {
        power_on: true,
        image: Some(reservation.image.clone()),
        overlay_id: reservation.overlay_id.clone(),
        tenant: reservation.tenant.clone(),
        actor_id: reservation.owner_id.clone(),
        ..plan::nothing()
    }
}

/// Has these nodes, as they were read, run what the reservation says, each with its rank. Answers the
/// generation of each, by the node's id.
pub(crate) async fn lend(
    context: &Context,
    tx: &mut Tx,
    reservation: &Reservation,
    nodes: Vec<(Node, u32)>,
) -> Result<HashMap<String, i64>, RequestError> {
    let mut ranks = HashMap::new();
    let mut overlay = None;
    if let Some(id) = &reservation.overlay_id {
        let absent = || RequestError::NoOverlay(id.clone());
        overlay = Some(tx.overlay_by_id(id).await?.ok_or_else(absent)?.full_name());
        tx.forget_unmade_shards(id).await?;
        for shard in tx.shards(id).await? {
            ranks.insert(shard.node_id, u32::try_from(shard.rank).unwrap_or(u32::MAX));
        }
    }
    let mut planned = Vec::with_capacity(nodes.len());
    for (node, rank) in nodes {
        let candidate = candidate(context, tx, node).await?;
        let known = ranks.get(&candidate.node().id).copied();
        let rank = match known {
            Some(rank) => rank,
            // Whoever has that rank's data keeps it.
            None if ranks.values().any(|taken| *taken == rank) => {
                ranks.values().max().map_or(0, |last| last.saturating_add(1))
            }
            None => rank,
        };
        let new_shard = overlay.is_some() && known.is_none();
        if new_shard {
            ranks.insert(candidate.node().id.clone(), rank);
        }
        let wanted = NewDesired { rank, ..wanted_of(reservation) };
        planned.push(plan::lent(candidate, wanted, overlay.as_deref(), new_shard));
    }
    let set = super::fold(&planned);
    let with = overlay.map_or_else(String::new, |name| format!(" with overlay {name}"));
    let image = &reservation.image.name;
    let summary = format!("reservation {}: {set} to {image}{with}", reservation.id);
    write(tx, reservation, summary, planned).await
}

/// Ends what a reservation's nodes run, in order: each is to be off, or, where an image is given, a spare
/// that runs it in RAM. Answers the generation of each, by the node's id.
pub(crate) async fn take_back(
    context: &Context,
    tx: &mut Tx,
    reservation: &Reservation,
    nodes: Vec<(Node, Option<ImageWanted>)>,
) -> Result<HashMap<String, i64>, RequestError> {
    let mut planned = Vec::with_capacity(nodes.len());
    for (node, spare) in nodes {
        let candidate = candidate(context, tx, node).await?;
        let before = candidate.wanted().cloned().unwrap_or_else(plan::nothing);
        let wanted = match spare {
            Some(image) => NewDesired { power_on: true, image: Some(image), ..plan::nothing() },
            // What it ran is kept, as when somebody switches it off.
            None => NewDesired {
                power_on: false,
                tenant: String::new(),
                forced: false,
                reboot: false,
                boot_once: None,
                ..before
            },
        };
        planned.push(plan::lent(candidate, wanted, None, false));
    }
    let set = super::fold(&planned);
    let summary = format!("reservation {} ends on {set}", reservation.id);
    write(tx, reservation, summary, planned).await
}

async fn candidate(context: &Context, tx: &mut Tx, node: Node) -> Result<Candidate, StoreError> {
    let loaded = Loaded::read(context, tx, node).await?;
    let overlay = match loaded.desired.as_ref().and_then(|d| d.wanted.overlay_id.clone()) {
        Some(id) => tx.overlay_by_id(&id).await?.map(|o| o.full_name()),
        None => None,
    };
    let (is_hooked, now) = (context.config.drain_hook.is_some(), context.clock.now());
    Ok(Candidate::new(loaded, overlay, None, None, is_hooked, now))
}

async fn write(
    tx: &mut Tx,
    reservation: &Reservation,
    summary: String,
    planned: Vec<plan::Planned>,
) -> Result<HashMap<String, i64>, RequestError> {
    let by = By { name: &reservation.actor, id: &reservation.owner_id };
    let asked = Asked::new(KIND, summary, None, String::new());
    let operation = record(tx, by, asked, &planned, reservation.tenant.clone()).await?;
    Ok(operation.nodes.into_iter().map(|node| (node.node_id, node.generation)).collect())
}
