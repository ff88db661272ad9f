//! The disks of nodes: what is on them, and what an admin decides about them. A disk is wiped, taken
//! over or repaired by its node's agent; here it is only said that it may.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    agent::{Disk, DiskState, ToAgent},
    overlay::{AcceptDisk, ClaimDisk, NodeDisk, RepairDisk},
    problem::Problem,
};

use super::{Answer, Caller, Fail, Json, Page, Path, Query, nodes::find};
use crate::{
    auth::{Object, Verb},
    boots, clock,
    context::Context,
    model::{Attempt, AttemptState, Node, Power},
    store::{DiskRow, Tx},
};

/// A node's disks, as its agent last saw them.
#[utoipa::path(get, path = "/v1/nodes/{name}/disks", params(Page, ("name" = String, Path)),
    responses((status = 200, body = List<NodeDisk>), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    Query(page): Query<Page>,
) -> Answer<Json<List<NodeDisk>>> {
    caller.may(Verb::View, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let node = find(&mut tx, &name).await?;
    Ok(Json(
        page.of(node_disks(&mut tx, &node).await?, |entry: &NodeDisk| entry.disk.name.clone())?,
    ))
}

/// Claims a disk: what is on it may be wiped for the overlay store. A node that waits for it goes on.
#[utoipa::path(post, path = "/v1/nodes/{name}/disks/claim", params(("name" = String, Path)),
    request_body = ClaimDisk,
    responses((status = 200, body = NodeDisk), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn claim(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    Json(request): Json<ClaimDisk>,
) -> Answer<Json<NodeDisk>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    if !request.wipe {
        return Err(Fail::bad(
            "not-wiped",
            "a claim loses what is on the disk; say --wipe to mean it",
        ));
    }
    let mut tx = context.store.write().await?;
    let node = find(&mut tx, &name).await?;
    let disks = tx.disks(&node.id).await?;
    let disk = by_serial(&node, &disks, &request.serial)?.disk.clone();
    refuse_a_second(&node, &disks, &disk)?;
    tx.claim_disk(&node.id, &request.serial, true).await?;
    let data = serde_json::json!({ "serial": request.serial });
    caller.note(&mut tx, &node, "disk-claimed", data).await?;
    go_on(&context, &caller, tx, &node, format!("the disk {} may be wiped", request.serial))
        .await?;
    shown(&context, &node, &disk).await
}

/// Lets a node have the overlay store on its disk, whatever mark that bears. A node that waits goes on.
#[utoipa::path(post, path = "/v1/nodes/{name}/disks/accept", params(("name" = String, Path)),
    request_body = AcceptDisk,
    responses((status = 200, body = NodeDisk), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn accept(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    Json(request): Json<AcceptDisk>,
) -> Answer<Json<NodeDisk>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let mut tx = context.store.write().await?;
    let node = find(&mut tx, &name).await?;
    let disks = tx.disks(&node.id).await?;
    let held = open_attempt(&mut tx, &node).await?.and_then(|attempt| attempt.failure);
    let is_old = held.is_some_and(|failure| failure.code == "store-old");
    let (disk, store_id) = acceptable(&node, &disks, request.serial.as_deref(), is_old)?;
    refuse_a_second(&node, &disks, &disk)?;
    let holder =
        tx.all_nodes().await?.into_iter().find(|other| {
            other.id != node.id && other.store_id.as_deref() == Some(store_id.as_str())
        });
    match &holder {
        Some(holder) => {
            if may_use(&mut tx, holder, &store_id).await? {
                return Err(Fail::conflict(
                    "store-in-use",
                    format!(
                        "node {0} is on and was seen with this store: the disk of {name} is a copy of \
                         it. Take it out or wipe it; or, if {name} shall have the store, first: \
                         haasctl power off {0}",
                        holder.name
                    ),
                ));
            }
            tx.exchange_stores(&node, holder).await?;
            let data = serde_json::json!({ "store": store_id, "now_at": name });
            caller.note(&mut tx, holder, "store-lost", data).await?;
        }
        // It is expected here, as what another node had in exchange.
        None if node.store_id.as_ref() == Some(&store_id) && !is_old => {}
        None => {
            // Of what the node had, only what this store holds is left.
            if node.store_id.as_ref() != Some(&store_id) {
                tx.forget_shards(&node.id).await?;
            }
            tx.set_store(&node.id, Some(&store_id), 0).await?;
        }
    }
    tx.accept_store(&node.id).await?;
    let data = serde_json::json!({ "serial": disk.serial, "store": store_id,
        "from": holder.map(|holder| holder.name) });
    caller.note(&mut tx, &node, "disk-accepted", data).await?;
    go_on(&context, &caller, tx, &node, format!("store {store_id} accepted")).await?;
    shown(&context, &node, &disk).await
}

/// Lets a node that is held for a damaged overlay store repair it, whatever that takes, once.
#[utoipa::path(post, path = "/v1/nodes/{name}/disks/repair", params(("name" = String, Path)),
    request_body = RepairDisk,
    responses((status = 200, body = NodeDisk), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn repair(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    Json(request): Json<RepairDisk>,
) -> Answer<Json<NodeDisk>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    if !request.may_lose_files {
        return Err(Fail::bad(
            "not-meant",
            "a repair may lose files of any overlay on the disk; say may_lose_files to mean it",
        ));
    }
    let mut tx = context.store.write().await?;
    let node = find(&mut tx, &name).await?;
    let held = open_attempt(&mut tx, &node).await?.and_then(|attempt| attempt.failure);
    let is_damaged = held.is_some_and(|failure| failure.code == "store-damaged");
    let disks = tx.disks(&node.id).await?;
    let ours = |row: &&DiskRow| matches!(row.disk.state, DiskState::Ours { .. });
    let Some(disk) = disks.iter().find(ours).filter(|_| is_damaged).map(|row| row.disk.clone())
    else {
        let detail = format!("{name} is not held for a damaged overlay store (store-damaged)");
        return Err(Fail::conflict("nothing-to-repair", detail));
    };
    tx.allow_repair(&node.id).await?;
    let data = serde_json::json!({ "serial": disk.serial });
    caller.note(&mut tx, &node, "repair-allowed", data).await?;
    go_on(&context, &caller, tx, &node, "the store may be repaired, and lose files").await?;
    shown(&context, &node, &disk).await
}

/// The one disk of this serial number.
fn by_serial<'a>(node: &Node, disks: &'a [DiskRow], serial: &str) -> Answer<&'a DiskRow> {
    let matching: Vec<_> =
        disks.iter().filter(|row| row.disk.serial.as_deref() == Some(serial)).collect();
    match matching[..] {
        [one] => Ok(one),
        _ => Err(Fail::not_found(
            "no-disk",
            format!(
                "{} disks of {1} have the serial {serial:?}; `haasctl disk list {1}` shows them as its \
                 agent last saw them",
                matching.len(),
                node.name
            ),
        )),
    }
}

/// The disk whose store can be accepted, and that store.
fn acceptable(
    node: &Node,
    disks: &[DiskRow],
    serial: Option<&str>,
    is_old: bool,
) -> Answer<(Disk, String)> {
    let store_of = |row: &DiskRow| match &row.disk.state {
        DiskState::Foreign { store_id, .. } => store_id.clone(),
        // Of stores that bear the node's own mark: one that it had before, one that another node has
        // by now, or an old copy.
        DiskState::Ours { store_id } => {
            (is_old || node.store_id.as_ref() != Some(store_id)).then(|| store_id.clone())
        }
        DiskState::Blank | DiskState::Other { .. } | DiskState::Unusable { .. } => None,
    };
    let name = &node.name;
    if let Some(serial) = serial {
        let row = by_serial(node, disks, serial)?;
        return store_of(row).map(|store_id| (row.disk.clone(), store_id)).ok_or_else(|| {
            Fail::conflict(
                "nothing-to-accept",
                format!(
                    "the disk {serial} of {name} holds no store of another node of this cluster; \
                     `haasctl disk list {name}` shows what it holds"
                ),
            )
        });
    }
    let mut found: Vec<_> = disks
        .iter()
        .filter_map(|row| store_of(row).map(|store_id| (row.disk.clone(), store_id)))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(Fail::conflict(
            "which-disk",
            format!("several disks of {name} hold a store that could be accepted: say --serial"),
        )),
        (None, _) => Err(Fail::conflict(
            "nothing-to-accept",
            format!(
                "no disk of {name} holds a store of another node of this cluster, as its agent last saw \
                 them; `haasctl disk list {name}` shows them"
            ),
        )),
    }
}

/// Refuses to give a node another store while the one that it has is there.
fn refuse_a_second(node: &Node, disks: &[DiskRow], wanted: &Disk) -> Answer<()> {
    let other = disks.iter().map(|row| &row.disk).find(|disk| {
        *disk != wanted
            && matches!(&disk.state, DiskState::Ours { store_id } if node.store_id.as_ref() == Some(store_id))
    });
    let Some(other) = other else { return Ok(()) };
    Err(Fail::conflict(
        "store-elsewhere",
        format!(
            "the overlays of {} are on its disk {} (serial {}): take that one out first",
            node.name,
            other.name,
            other.serial.as_deref().unwrap_or("none")
        ),
    ))
}

/// Whether a node may have this store open: it was seen there, and the node is not known to be off.
async fn may_use(tx: &mut Tx, holder: &Node, store_id: &str) -> Answer<bool> {
    let was_seen = tx.disks(&holder.id).await?.iter().any(
        |row| matches!(&row.disk.state, DiskState::Ours { store_id: seen } if seen == store_id),
    );
    let lives = tx
        .last_attempt(&holder.id)
        .await?
        .is_some_and(|attempt| matches!(attempt.state, AttemptState::Open | AttemptState::Ready));
    Ok(was_seen
        && match holder.power {
            Power::On => true,
            Power::Off => false,
            Power::Unknown => lives,
        })
}

async fn open_attempt(tx: &mut Tx, node: &Node) -> Answer<Option<Attempt>> {
    Ok(tx.last_attempt(&node.id).await?.filter(|attempt| attempt.state == AttemptState::Open))
}

/// Commits, and tells an agent that waits for its disk to go on.
async fn go_on(
    context: &Context,
    caller: &Caller,
    mut tx: Tx,
    node: &Node,
    what: impl Into<String>,
) -> Answer<()> {
    let held = open_attempt(&mut tx, node).await?;
    if let Some(attempt) = &held {
        tx.restart_stage(&attempt.id, context.clock.now()).await?;
    }
    caller.commit(tx, StatusCode::OK, what).await?;
    if let Some(attempt) = held
        && let Some(plan) = boots::plan(context, &attempt).await.map_err(|e| Fail::internal(&e))?
    {
        context.agents.tell(&attempt.id, ToAgent::Retry { plan: Box::new(plan) });
    }
    context.changed();
    Ok(())
}

/// The disk as it stands now.
async fn shown(context: &Context, node: &Node, disk: &Disk) -> Answer<Json<NodeDisk>> {
    let mut tx = context.store.read().await?;
    let disks = node_disks(&mut tx, node).await?;
    let disk = disks.into_iter().find(|seen| seen.disk.name == disk.name);
    disk.map(Json).ok_or_else(|| Fail::not_found("no-disk", "the disk is gone"))
}

async fn node_disks(tx: &mut Tx, node: &Node) -> Answer<Vec<NodeDisk>> {
    let rows = tx.disks(&node.id).await?;
    Ok(rows
        .into_iter()
        .map(|row| NodeDisk {
            node: node.name.to_string(),
            disk: row.disk,
            seen_at: clock::rfc3339(row.seen_at),
            claimed: row.claimed,
        })
        .collect())
}
