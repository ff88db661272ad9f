//! Asking BMCs how their nodes' power is, now.

use std::{sync::Arc, time::Instant};

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use haas_api::{
    operation::{PowerStatus, PowerStatusRequest},
    problem::Problem,
};
use tracing::error;

use super::{Answer, Caller, Fail, Json, Path, nodes::shown_all, probes::crowded};
use crate::{
    context::Context,
    looks::Look,
    nodeset,
    reconcile::ask,
    requests::may_power,
    store::{Result, StoreError},
};

/// Begins to ask the nodes' BMCs, all at once, whether the nodes are on; for whoever may switch their power.
#[utoipa::path(post, path = "/v1/power/status", request_body = PowerStatusRequest,
    responses((status = 202, body = PowerStatus), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn begin(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<PowerStatusRequest>,
) -> Answer<impl IntoResponse> {
    let mut tx = context.store.read().await?;
    let nodes = nodeset::resolve(&request.nodeset, tx.nodes().await?)?;
    may_power(&mut tx, &caller.0, &nodes).await?;
    drop(tx);
    let ids = nodes.iter().map(|node| node.id.clone()).collect();
    let id = context.power_looks.begin(&caller.0.user_id, ids, Instant::now());
    let id = id.ok_or_else(crowded)?;
    let mut look = UnderWay { context, id: id.clone(), is_noted: false };
    tokio::spawn(async move {
        look.end_with(ask::power(&look.context, nodes).await);
    });
    Ok((StatusCode::ACCEPTED, Json(PowerStatus { id, nodes: None })))
}

/// A look that is under way as long as the value lives, so that it ends however its task does.
struct UnderWay {
    context: Arc<Context>,
    id: String,
    is_noted: bool,
}

impl UnderWay {
    fn end_with(&mut self, noted: Result<()>) {
        if let Err(error) = &noted {
            let error = error as &dyn std::error::Error;
            error!(error, "what BMCs said cannot be noted");
        }
        self.is_noted = noted.is_ok();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.context.power_looks.end(&self.id, self.is_noted);
    }
}

/// The nodes as they are known once all were asked.
#[utoipa::path(get, path = "/v1/power/status/{id}", params(("id" = String, Path)),
    responses((status = 200, body = PowerStatus), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<PowerStatus>> {
    let gone =
        || Fail::not_found("no-question", "there is no such question, or no more; ask again");
    let look = context.power_looks.get(&id, Instant::now());
    let Look { at: ids, found, .. } = look.ok_or_else(gone)?;
    let nodes = match found {
        // Whoever knows the id learns nothing else before all have answered.
        None => None,
        Some(false) => return Err(StoreError::of_another().into()),
        Some(true) => {
            let mut tx = context.store.read().await?;
            let mut nodes = tx.nodes().await?;
            nodes.retain(|node| ids.contains(&node.id));
            may_power(&mut tx, &caller.0, &nodes).await?;
            Some(shown_all(&context, &mut tx, &caller, nodes).await?)
        }
    };
    Ok(Json(PowerStatus { id, nodes }))
}
