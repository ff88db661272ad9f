//! Taking nodes out of service and back: who may have them is decided by `requests`, and what haasd does
//! with them by `lifecycle`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    node::{self, DrainRequest, Node, ResumeRequest},
    problem::Problem,
};
use serde_json::json;

use super::{Answer, Caller, Fail, Json, baselines::tell, nodes::shown_all};
use crate::{
    auth::{Object, Verb},
    baseline, clock,
    context::Context,
    model::{Drain, DrainState, Ending},
    nodeset,
};

/// Characters of a reason: it stands in tables.
const MOST: usize = 300;

/// Takes nodes out of service. What runs on them goes on.
#[utoipa::path(post, path = "/v1/nodes/drain", request_body = DrainRequest,
    responses((status = 200, body = List<Node>), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn drain(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<DrainRequest>,
) -> Answer<Json<List<Node>>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let reason = reason(&request.reason)?;
    let state = match request.state {
        node::DrainState::Drain => DrainState::Drain,
        node::DrainState::Maintenance => DrainState::Maintenance,
        node::DrainState::Quarantine => DrainState::Quarantine,
    };
    let mut tx = context.store.write().await?;
    for node in nodeset::resolve(&request.nodeset, tx.nodes().await?)? {
        let drain = Drain {
            state,
            reason: reason.clone(),
            actor: caller.0.name.to_string(),
            since: clock::wall(),
            generation: node.generation,
        };
        tx.set_drain(&node.id, Some(&drain)).await?;
        let data = json!({ "state": state.as_str(), "reason": reason });
        caller.note(&mut tx, &node, "drained", data).await?;
    }
    caller
        .commit(tx, StatusCode::OK, format!("{} {}: {reason}", state.as_str(), request.nodeset))
        .await?;
    context.changed();
    answer(&context, &caller, &request.nodeset).await
}

/// Takes nodes back into service. haasd goes on with what is wanted of them.
#[utoipa::path(post, path = "/v1/nodes/resume", request_body = ResumeRequest,
    responses((status = 200, body = List<Node>), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn resume(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<ResumeRequest>,
) -> Answer<Json<List<Node>>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let reason = request.reason.as_deref().map(reason).transpose()?;
    let mut held = Vec::new();
    let mut tx = context.store.write().await?;
    for node in nodeset::resolve(&request.nodeset, tx.nodes().await?)? {
        if node.drain.is_none() {
            continue;
        }
        tx.set_drain(&node.id, None).await?;
        tx.set_hardware_faults(&node.id, 0).await?;
        // An end that was begun before has its deadlines anew.
        if let Some((Ending::Acpi | Ending::Hard | Ending::BmcReset, _)) = node.ending {
            tx.set_ending(&node.id, None).await?;
        }
        held.extend(baseline::go_on(&context, &mut tx, &node).await?);
        caller.note(&mut tx, &node, "resumed", json!({ "reason": reason })).await?;
    }
    caller
        .commit(
            tx,
            StatusCode::OK,
            format!("resume {}: {}", request.nodeset, reason.as_deref().unwrap_or("-")),
        )
        .await?;
    tell(&context, &held).await?;
    context.changed();
    answer(&context, &caller, &request.nodeset).await
}

/// Why, in one line that can be shown to others.
pub(super) fn reason(text: &str) -> Answer<String> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Fail::bad("no-reason", "say why, for those who would use the nodes: --reason"));
    }
    if text.chars().count() > MOST || text.chars().any(char::is_control) {
        let detail = format!("the reason must be one line of at most {MOST} characters");
        return Err(Fail::bad("bad-reason", detail));
    }
    Ok(text.to_owned())
}

async fn answer(context: &Context, caller: &Caller, set: &str) -> Answer<Json<List<Node>>> {
    let mut tx = context.store.read().await?;
    let nodes = nodeset::resolve(set, tx.nodes().await?)?;
    Ok(Json(List::whole(shown_all(context, &mut tx, caller, nodes).await?)))
}
