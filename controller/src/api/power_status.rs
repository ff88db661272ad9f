//! Asking BMCs how their nodes' power is, now.

use std::{sync::Arc, time::Instant};

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use haas_api::{
    operation::{PowerStatus, PowerStatusRequest},
    problem::Problem,
};
use tracing::error;

use super::{Answer, Caller, Fail, Json, Path, nodes::shown_all, probes::crowded};
use crate::{context::Context, looks::Look, reconcile::ask, requests::may_power};

/// Begins to ask the nodes' BMCs, all at once, whether the nodes are on; for whoever may switch their power.
#[utoipa::path(post, path = "/v1/power/status", request_body = PowerStatusRequest,
    responses((status = 202, body = PowerStatus), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn begin(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(PowerStatusRequest { nodeset }): Json<PowerStatusRequest>,
) -> Answer<impl IntoResponse> {
    let mut tx = context.store.read().await?;
    let nodes = may_power(&mut tx, &caller.0, &nodeset).await?;
    drop(tx);
    let id = context.power_looks.begin(nodeset, Instant::now()).ok_or_else(crowded)?;
    let begun = PowerStatus { id: id.clone(), nodes: None };
    tokio::spawn(async move {
        if let Err(error) = ask::power(&context, &nodes).await {
            error!(error = &error as &dyn std::error::Error, "what BMCs said cannot be noted");
        }
        context.power_looks.end(&id, ());
    });
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

/// The nodes as they were found.
#[utoipa::path(get, path = "/v1/power/status/{id}", params(("id" = String, Path)),
    responses((status = 200, body = PowerStatus), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<PowerStatus>> {
    let gone =
        || Fail::not_found("no-question", "there is no such question, or no more; ask again");
    let Look { at: nodeset, found, .. } = context.power_looks.get(&id).ok_or_else(gone)?;
    let mut tx = context.store.read().await?;
    let nodes = may_power(&mut tx, &caller.0, &nodeset).await?;
    let nodes = match found {
        Some(()) => Some(shown_all(&context, &mut tx, &caller, nodes).await?),
        None => None,
    };
    Ok(Json(PowerStatus { id, nodes }))
}
