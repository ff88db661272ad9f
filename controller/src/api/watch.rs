//! Being watched: metrics, whether haasd lives and whether it is ready.
//!
//! They stand on the API's port, and on ports of their own where `[metrics] listen` names some: there
//! without TLS and tokens, for the addresses that `[metrics] allow` names.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Answer, BESIDE, Caller, Fail, Json};
use crate::{
    auth::{Object, Verb},
    context::Context,
    health,
    metrics::{self, METRICS},
};

/// What anybody may ask.
pub(super) fn open() -> Router<Arc<Context>> {
    let [.., alive, is_ready, _] = BESIDE;
    Router::new().route(alive, get(async || "ok\n")).route(is_ready, get(ready))
}

/// The router of the ports for metrics.
pub fn router(context: Arc<Context>) -> Router {
    let [metrics, ..] = BESIDE;
    open()
        .route(metrics, get(for_the_allowed))
        .layer(middleware::from_fn_with_state(context.clone(), only_the_allowed))
        .with_state(context)
}

/// Counts and times requests by route.
pub(super) async fn measure(request: Request, next: Next) -> Response {
    let since = Instant::now();
    let method = match request.method() {
        known @ (&Method::GET
        | &Method::HEAD
        | &Method::POST
        | &Method::PUT
        | &Method::PATCH
        | &Method::DELETE) => known.clone(),
        // Anything can stand there.
        _ => Method::OPTIONS,
    };
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    METRICS.answered(method.as_str(), route, response.status().as_u16(), since.elapsed());
    response
}

/// What haasd counts, for admins.
pub(super) async fn for_admins(
    State(context): State<Arc<Context>>,
    caller: Caller,
) -> Answer<Response> {
    caller.may(Verb::View, Object::Metrics)?;
    text(&context).await
}

async fn for_the_allowed(State(context): State<Arc<Context>>) -> Answer<Response> {
    text(&context).await
}

async fn only_the_allowed(
    State(context): State<Arc<Context>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if !context.config.metrics.may_read(peer.ip().to_canonical()) {
        let detail = "this address is not among those of [metrics] allow in haasd.toml";
        return Fail::new(StatusCode::FORBIDDEN, "denied", detail).into_response();
    }
    next.run(request).await
}

async fn text(context: &Context) -> Answer<Response> {
    let text = metrics::text(context).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Whether haasd can do its work, and what it lacks.
async fn ready(State(context): State<Arc<Context>>) -> Response {
    let readiness = health::readiness(&context).await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}
