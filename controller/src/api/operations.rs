//! Switch, rollback and power, and the operations that they start.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use haas_api::{
    List,
    operation::{Operation, OperationNode, Plan, PowerRequest, RollbackRequest, SwitchRequest},
    problem::Problem,
};

use super::{
    Answer, Caller, Fail, IdempotencyKey, Json, Page, Path, Query, Tagged, known::Known,
    reports::boot_report,
};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    model,
    requests::{self, Outcome, Steer},
    store::Tx,
};

/// Moves nodes to an image and an overlay.
#[utoipa::path(post, path = "/v1/switch", request_body = SwitchRequest,
    responses((status = 200, body = Plan, description = "dry run"), (status = 202, body = Operation),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn switch(
    State(context): State<Arc<Context>>,
    caller: Caller,
    key: IdempotencyKey,
    Json(request): Json<SwitchRequest>,
) -> Answer<Response> {
    if request.at_most == Some(0) {
        return Err(Fail::bad(
            "bad-at-most",
            "at most 0 nodes at once is none ever; say 1 or more",
        ));
    }
    let outcome = requests::switch(&context, &caller.0, key.0, &request).await?;
    answer(&context, &caller, outcome).await
}

/// Moves nodes back to what they ran before.
#[utoipa::path(post, path = "/v1/rollback", request_body = RollbackRequest,
    responses((status = 200, body = Plan, description = "dry run"), (status = 202, body = Operation),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn rollback(
    State(context): State<Arc<Context>>,
    caller: Caller,
    key: IdempotencyKey,
    Json(request): Json<RollbackRequest>,
) -> Answer<Response> {
    let outcome = requests::rollback(&context, &caller.0, key.0, &request).await?;
    answer(&context, &caller, outcome).await
}

/// Switches nodes on or off, or off and on.
#[utoipa::path(post, path = "/v1/power", request_body = PowerRequest,
    responses((status = 200, body = Plan, description = "dry run"), (status = 202, body = Operation),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn power(
    State(context): State<Arc<Context>>,
    caller: Caller,
    key: IdempotencyKey,
    Json(request): Json<PowerRequest>,
) -> Answer<Response> {
    let outcome = requests::power(&context, &caller.0, key.0, &request).await?;
    answer(&context, &caller, outcome).await
}

/// The last operations that the caller may know of, newest first.
#[utoipa::path(get, path = "/v1/operations", params(Page), responses((status = 200, body = List<Operation>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Operation>>> {
    let mut tx = context.store.read().await?;
    let mut operations = tx.operations(100).await?;
    operations.retain(|one| caller.may(Verb::View, deed(one)).is_ok());
    let operations = page.of(operations, |entry| entry.id.clone())?;
    let mut items = Vec::with_capacity(operations.items.len());
    for operation in operations.items {
        items.push(shown(&context, &mut tx, operation).await?);
    }
    Ok(Json(List { items, next_page_token: operations.next_page_token }))
}

/// One operation with how each of its nodes stands.
#[utoipa::path(get, path = "/v1/operations/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Operation), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Tagged<Operation>> {
    let mut tx = context.store.read().await?;
    let operation = tx
        .operation(&id)
        .await?
        .filter(|operation| caller.may(Verb::View, deed(operation)).is_ok())
        .ok_or_else(|| Fail::not_found("no-operation", format!("there is no operation {id}")))?;
    Ok(Tagged(shown(&context, &mut tx, operation).await?))
}

/// Begins no further node of an operation, and neither commits it nor takes it back, until it is resumed.
#[utoipa::path(post, path = "/v1/operations/{id}/pause", params(("id" = String, Path)),
    responses((status = 200, body = Operation), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn pause(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Response> {
    steered(&context, &caller, &id, Steer::Pause).await
}

/// Lets a paused operation go on.
#[utoipa::path(post, path = "/v1/operations/{id}/resume", params(("id" = String, Path)),
    responses((status = 200, body = Operation), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn resume(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Response> {
    steered(&context, &caller, &id, Steer::Resume).await
}

/// Ends an operation early: where it is one transaction, all nodes go back to what they ran before, else
/// those stay as they are that have not begun.
#[utoipa::path(post, path = "/v1/operations/{id}/abort", params(("id" = String, Path)),
    responses((status = 200, body = Operation), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn abort(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Response> {
    steered(&context, &caller, &id, Steer::Abort).await
}

async fn steered(context: &Context, caller: &Caller, id: &str, steer: Steer) -> Answer<Response> {
    let operation = requests::steer(context, &caller.0, id, steer).await?;
    caller.did(format!("{} ({})", operation.summary, operation.id));
    let mut tx = context.store.read().await?;
    let operation = shown(context, &mut tx, operation).await?;
    Ok(Json(operation).into_response())
}

fn deed(operation: &model::Operation) -> Object<'_> {
    Object::Deed { actor: Some(&operation.actor_id), tenant: &operation.tenant }
}

async fn answer(context: &Context, caller: &Caller, outcome: Outcome) -> Answer<Response> {
    match outcome {
        Outcome::Planned(plan) => {
            caller.did("dry run");
            Ok(Json(plan).into_response())
        }
        Outcome::Started(operation) => {
            let mut tx = context.store.read().await?;
            let operation = shown(context, &mut tx, *operation).await?;
            caller.did(format!("{} ({})", operation.summary, operation.id));
            Ok((StatusCode::ACCEPTED, Json(operation)).into_response())
        }
    }
}

async fn shown(context: &Context, tx: &mut Tx, operation: model::Operation) -> Answer<Operation> {
    let names = tx.node_names_of_operation(&operation.id).await?;
    let mut attempts = tx.attempts_of_operation(&operation.id).await?;
    let desired = tx.desired_by_operation(&operation.id).await?;
    let mut known = Known::default();
    let mut nodes = Vec::with_capacity(operation.nodes.len());
    for entry in operation.nodes {
        let name = names.get(&entry.node_id).map_or(&entry.node_id, |name| name);
        let boot = match attempts.remove(&entry.node_id) {
            Some(attempt) => {
                let desired = desired.get(&entry.node_id);
                Some(boot_report(context, tx, &mut known, name, attempt, desired).await?)
            }
            None => None,
        };
        nodes.push(OperationNode {
            node: name.clone(),
            generation: entry.generation,
            state: entry.state,
            reason: entry.reason,
            failure: entry.failure,
            stage: boot.as_ref().and_then(|boot| boot.stages.last()).map(|stage| stage.stage),
            boot,
        });
    }
    Ok(Operation {
        id: operation.id,
        kind: operation.kind,
        actor: operation.actor,
        summary: operation.summary,
        state: operation.state,
        reason: operation.reason,
        min_success: operation.min_success,
        committed_at: operation.committed_at.map(clock::rfc3339),
        created_at: clock::rfc3339(operation.created_at),
        ended_at: operation.ended_at.map(clock::rfc3339),
        nodes,
    })
}
