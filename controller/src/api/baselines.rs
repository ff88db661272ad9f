//! Baselines of nodes: how they were, how they are, and what an admin decides about the difference. Nobody
//! else sees them: who has accounts at a BMC is nobody else's business.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    agent::ToAgent,
    baseline::{BaselineRequest, NodeBaseline},
    problem::Problem,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::error;

use super::{Answer, Caller, Fail, Json, Path, nodes::find};
use crate::{
    auth::{Object, Verb},
    baseline, boots,
    context::Context,
    model::{Attempt, Node},
    nodeset,
};

/// BMCs that are asked at the same time because somebody wants to look.
static TURNS: Semaphore = Semaphore::const_new(16);

/// How a node was when its baseline was recorded, how it was seen last, and what differs.
#[utoipa::path(get, path = "/v1/nodes/{name}/baseline", params(("name" = String, Path)),
    responses((status = 200, body = NodeBaseline), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<NodeBaseline>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let node = find(&mut tx, &name).await?;
    Ok(Json(baseline::shown(&mut tx, &node).await?))
}

/// Asks the BMCs of nodes how they are, and answers before they do: each has told, or why not, when its
/// `asked_at` is another one. Nothing else comes of it.
#[utoipa::path(post, path = "/v1/nodes/baseline/check", request_body = BaselineRequest,
    responses((status = 202, body = List<NodeBaseline>), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn check(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<BaselineRequest>,
) -> Answer<(StatusCode, Json<List<NodeBaseline>>)> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let nodes = nodeset::resolve(&request.nodeset, tx.nodes().await?)?;
    let shown = shown_all(&mut tx, &nodes).await?;
    drop(tx);
    for node in nodes {
        let context = context.clone();
        tokio::spawn(async move {
            // Nobody closes it.
            let _turn = TURNS.acquire().await;
            if let Err(error) = baseline::look(&context, &node).await {
                error!(node = %node.name, error = &error as &dyn std::error::Error, "cannot note how it is");
            }
        });
    }
    caller.did(format!("baseline check {}", request.nodeset));
    Ok((StatusCode::ACCEPTED, Json(shown)))
}

/// Takes nodes as they were seen last for what they shall be. Those that are in quarantine for the
/// difference go back into service, and what is wanted of them goes on.
#[utoipa::path(post, path = "/v1/nodes/baseline/accept", request_body = BaselineRequest,
    responses((status = 200, body = List<NodeBaseline>), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn accept(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<BaselineRequest>,
) -> Answer<Json<List<NodeBaseline>>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let mut tx = context.store.write().await?;
    let nodes = nodeset::resolve(&request.nodeset, tx.nodes().await?)?;
    let mut held = Vec::new();
    for node in &nodes {
        let by = caller.0.name.as_str();
        let Some(seen) = baseline::accept(&mut tx, node, by).await? else {
            let detail = format!(
                "nothing was seen of {0} yet; `haasctl node baseline check {0}` asks its BMC, and its agent \
                 tells when it boots for another tenant",
                node.name
            );
            return Err(Fail::conflict("nothing-seen", detail));
        };
        held.extend(baseline::go_on(&context, &mut tx, node).await?);
        let data = json!({ "parts": seen.keys().collect::<Vec<_>>() });
        caller.note(&mut tx, node, "baseline-accepted", data).await?;
    }
    let shown = shown_all(&mut tx, &nodes).await?;
    caller.commit(tx, StatusCode::OK, format!("baseline accept {}", request.nodeset)).await?;
    tell(&context, &held).await?;
    context.changed();
    Ok(Json(shown))
}

/// Forgets how nodes were: what is found in the next boot of each is recorded in its place.
#[utoipa::path(post, path = "/v1/nodes/baseline/forget", request_body = BaselineRequest,
    responses((status = 200, body = List<NodeBaseline>), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn forget(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<BaselineRequest>,
) -> Answer<Json<List<NodeBaseline>>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let mut tx = context.store.write().await?;
    let nodes = nodeset::resolve(&request.nodeset, tx.nodes().await?)?;
    for node in &nodes {
        tx.forget_baseline(&node.id).await?;
        caller.note(&mut tx, node, "baseline-forgotten", json!({})).await?;
    }
    let shown = shown_all(&mut tx, &nodes).await?;
    caller.commit(tx, StatusCode::OK, format!("baseline forget {}", request.nodeset)).await?;
    context.told();
    Ok(Json(shown))
}

async fn shown_all(tx: &mut crate::store::Tx, nodes: &[Node]) -> Answer<List<NodeBaseline>> {
    let mut shown = Vec::with_capacity(nodes.len());
    for node in nodes {
        shown.push(baseline::shown(tx, node).await?);
    }
    Ok(List::whole(shown))
}

/// Tells agents whose boots were held for the difference to go on. They are looked at again.
pub(super) async fn tell(context: &Context, held: &[Attempt]) -> Answer<()> {
    for attempt in held {
        let now = context.store.read().await?.attempt(&attempt.id).await?;
        let Some(now) = now else { continue };
        if let Some(plan) = boots::plan(context, &now).await? {
            context.agents.tell(&attempt.id, ToAgent::Retry { plan: Box::new(plan) });
        }
    }
    Ok(())
}
