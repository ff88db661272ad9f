//! Queues, where reservations wait.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    names::QueueName,
    problem::Problem,
    queue::{Queue, QueueSpec},
    reservation::ReservationState,
};

use super::{Answer, Caller, Fail, Json, Page, Path, Query};
use crate::{
    auth::{Object, Verb},
    calendar, clock,
    context::Context,
    model::Reservation,
    nodeset,
    store::{NewEvent, QueueRow, Tx},
};

/// All queues, each behind the one above it.
#[utoipa::path(get, path = "/v1/queues", params(Page), responses((status = 200, body = List<Queue>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Queue>>> {
    let mut tx = context.store.read().await?;
    let rows = tx.queues().await?;
    let live = tx.live_reservations().await?;
    let nodes = tx.nodes().await?;
    let groups = nodeset::groups(&nodes);
    let managed: Vec<_> = nodes.iter().filter(|node| node.managed).map(|node| &node.name).collect();
    let gives = |row: &QueueRow| {
        let mut at = Some(row);
        while let Some(row) = at {
            if !row.spec.node_groups.is_empty() {
                let names = row.spec.node_groups.iter().filter_map(|group| groups.get(group));
                let mut names: Vec<_> = names.flatten().filter(|n| managed.contains(n)).collect();
                names.sort_unstable();
                names.dedup();
                return names.len();
            }
            let parent = row.spec.parent.as_ref();
            at = parent.and_then(|name| rows.iter().find(|row| row.spec.name == *name));
        }
        managed.len()
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let waits = |one: &&Reservation| {
        matches!(one.state, ReservationState::Pending | ReservationState::Planned)
    };
    let items = rows.iter().map(|row| {
        let name = &row.spec.name;
        let here = |one: &&Reservation| is_below(&rows, &one.queue, name);
        let object = Object::Queue { name: Some(name), open: row.spec.open };
        Queue {
            spec: row.spec.clone(),
            from_file: row.from_file,
            may_use: caller.may(Verb::Use, object).is_ok(),
            nodes: count(gives(row)),
            held: live
                .iter()
                .filter(here)
                .filter(|one| one.state.has_nodes())
                .map(|one| count(one.held().count()))
                .sum(),
            waiting: count(live.iter().filter(here).filter(waits).count()),
        }
    });
    Ok(Json(page.of(items.collect(), |queue: &Queue| queue.spec.name.to_string())?))
}

/// Whether a queue is another one, or below it.
fn is_below(rows: &[QueueRow], name: &QueueName, above: &QueueName) -> bool {
    let mut at = Some(name);
    while let Some(name) = at {
        if name == above {
            return true;
        }
        let row = rows.iter().find(|row| row.spec.name == *name);
        at = row.and_then(|row| row.spec.parent.as_ref());
    }
    false
}

/// Makes a queue.
#[utoipa::path(post, path = "/v1/queues", request_body = QueueSpec,
    responses((status = 201, body = QueueSpec), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(spec): Json<QueueSpec>,
) -> Answer<(StatusCode, Json<QueueSpec>)> {
    caller.may(Verb::Manage, Object::Queue { name: None, open: false })?;
    if spec.weight == 0 || spec.walltime_s == 0 || spec.walltime_s > spec.max_walltime_s {
        let detail = "a weight is 1 or more, and a walltime is from 1 s to max_walltime_s";
        return Err(Fail::bad("bad-queue", detail));
    }
    let shares = [spec.guaranteed, spec.max, spec.max_reserved, spec.user_max.unwrap_or_default()];
    if shares.iter().any(|share| *share > 100) {
        return Err(Fail::bad("bad-queue", "shares are in percent, from 0 to 100"));
    }
    let mut tx = context.store.write().await?;
    if tx.queue(&spec.name).await?.is_some() {
        return Err(Fail::conflict("conflict", format!("there is a queue {} already", spec.name)));
    }
    calendar::check_queue(&mut tx, &spec).await?;
    tx.set_queue(&QueueRow { spec: spec.clone(), from_file: false }).await?;
    note(&mut tx, &caller, "queue-added", &spec.name).await?;
    caller.commit(tx, StatusCode::CREATED, format!("queue {}", spec.name)).await?;
    context.told();
    context.calendar_wake.notify_one();
    Ok((StatusCode::CREATED, Json(spec)))
}

/// Removes a queue that has none below and in which no reservation is.
#[utoipa::path(delete, path = "/v1/queues/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    caller.may(Verb::Manage, Object::Queue { name: None, open: false })?;
    let mut tx = context.store.write().await?;
    let row = find(&mut tx, &name).await?;
    if row.from_file {
        let detail = format!("the queue {name} stands in haasd.toml; take it out of there");
        return Err(Fail::conflict("queue-in-file", detail));
    }
    let is_used = tx.live_reservations().await?.iter().any(|one| one.queue == row.spec.name);
    let mut all = tx.queues().await?.into_iter();
    if is_used || all.any(|other| other.spec.parent.as_ref() == Some(&row.spec.name)) {
        let detail = format!("reservations or other queues are in {name}");
        return Err(Fail::conflict("queue-in-use", detail));
    }
    tx.remove_queue(&row.spec.name).await?;
    note(&mut tx, &caller, "queue-removed", &row.spec.name).await?;
    caller.commit(tx, StatusCode::NO_CONTENT, format!("removed queue {name}")).await?;
    context.told();
    Ok(StatusCode::NO_CONTENT)
}

/// The queue of this name.
pub(super) async fn find(tx: &mut Tx, name: &str) -> Answer<QueueRow> {
    let rows = tx.queues().await?;
    let row = rows.into_iter().find(|row| row.spec.name.as_str() == name);
    row.ok_or_else(|| Fail::not_found("no-queue", format!("there is no queue {name}")))
}

async fn note(tx: &mut Tx, caller: &Caller, kind: &str, name: &QueueName) -> Answer<()> {
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind,
        node: None,
        operation: None,
        actor: caller.0.name.as_str(),
        data: serde_json::json!({ "queue": name }),
        tenant: None,
    })
    .await?;
    Ok(())
}
