//! The HTTP API, `/v1` on the TLS port: one file per noun, and `agent` for the nodes' own channel.
//!
//! `guard` finds out who asks. A handler reads its `Caller`, asks `auth::authorize`, and calls what
//! does the work. It never waits for hardware. Errors leave as `Fail`, which knows what callers may be told.

mod agent;
mod audit;
mod baselines;
mod caller;
mod consoles;
mod convention;
mod disks;
mod doctor;
mod document;
mod drain;
mod events;
mod extract;
mod fail;
mod feed;
mod grants;
mod groups;
mod guard;
mod hardware;
mod images;
mod known;
mod login;
mod maintenance;
mod nodes;
mod operations;
mod overlays;
mod power_status;
mod probes;
mod projects;
mod queues;
mod remains;
mod reports;
mod reservations;
pub mod server;
mod sessions;
mod ssh;
mod tokens;
mod usage;
mod users;
mod watch;
mod webhooks;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, middleware, routing::get};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::context::Context;
pub(crate) use nodes::in_words;
pub(crate) use tokens::make_token;
pub use watch::router as watch_router;

use caller::Caller;
use convention::{IdempotencyKey, IfMatch, Page, Tagged};
use extract::{Json, Path, Query};
use fail::{Answer, Fail};

#[derive(OpenApi)]
#[openapi(info(
    title = "haas",
    description = "Turns a rack of bare machines into clusters on demand. \
        Errors are application/problem+json; every route but /v1/login, \
        /v1/register, /healthz, /readyz and /openapi.json wants `Authorization: Bearer TOKEN`.",
    license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
))]
struct Document;

/// The routes that are not of this description: what haasd counts, the agents' channel, whether haasd lives and
/// is ready, and the description itself. They only look.
const BESIDE: [&str; 5] = ["/metrics", "/v1/agent", "/healthz", "/readyz", "/openapi.json"];

fn routes() -> (Router<Arc<Context>>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(users::whoami))
        .routes(routes!(users::list, users::add))
        .routes(routes!(users::show, users::change, users::remove))
        .routes(routes!(users::restore))
        .routes(routes!(tokens::list, tokens::add))
        .routes(routes!(tokens::remove))
        .routes(routes!(login::login))
        .routes(routes!(login::register))
        .routes(routes!(login::logout))
        .routes(routes!(login::change_password))
        .routes(routes!(groups::list, groups::add))
        .routes(routes!(groups::show, groups::change, groups::remove))
        .routes(routes!(projects::list, projects::add))
        .routes(routes!(projects::show, projects::change, projects::remove))
        .routes(routes!(projects::members))
        .routes(routes!(grants::list, grants::add))
        .routes(routes!(grants::remove))
        .routes(routes!(audit::list))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::discovered))
        .routes(routes!(nodes::manage))
        .routes(routes!(drain::drain))
        .routes(routes!(drain::resume))
        .routes(routes!(nodes::apply))
        .routes(routes!(baselines::check))
        .routes(routes!(baselines::accept))
        .routes(routes!(baselines::forget))
        .routes(routes!(baselines::show))
        .routes(routes!(nodes::show))
        .routes(routes!(nodes::boots))
        .routes(routes!(nodes::render))
        .routes(routes!(hardware::sensors))
        .routes(routes!(hardware::sel, hardware::clear_sel))
        .routes(routes!(consoles::watch))
        .routes(routes!(consoles::log))
        .routes(routes!(disks::list))
        .routes(routes!(disks::claim))
        .routes(routes!(disks::accept))
        .routes(routes!(disks::repair))
        .routes(routes!(nodes::groups))
        .routes(routes!(nodes::drift))
        .routes(routes!(operations::switch))
        .routes(routes!(operations::rollback))
        .routes(routes!(operations::power))
        .routes(routes!(power_status::begin))
        .routes(routes!(power_status::show))
        .routes(routes!(operations::list))
        .routes(routes!(operations::show))
        .routes(routes!(probes::begin))
        .routes(routes!(probes::show))
        .routes(routes!(operations::pause))
        .routes(routes!(operations::resume))
        .routes(routes!(operations::abort))
        .routes(routes!(doctor::show))
        .routes(routes!(ssh::show))
        .routes(routes!(events::stream))
        .routes(routes!(webhooks::list, webhooks::add))
        .routes(routes!(webhooks::remove))
        .routes(routes!(webhooks::dead))
        .routes(routes!(webhooks::test))
        .routes(routes!(images::list))
        .routes(routes!(images::build))
        .routes(routes!(images::import))
        .routes(routes!(images::tag))
        .routes(routes!(images::show, images::change, images::remove))
        .routes(routes!(sessions::sessions))
        .routes(routes!(sessions::reads))
        .routes(routes!(overlays::list, overlays::add))
        .routes(routes!(overlays::change, overlays::remove))
        .routes(routes!(reservations::list, reservations::add))
        .routes(routes!(reservations::show))
        .routes(routes!(reservations::extend))
        .routes(routes!(reservations::release))
        .routes(routes!(reservations::explain))
        .routes(routes!(reservations::calendar))
        .routes(routes!(queues::list, queues::add))
        .routes(routes!(queues::remove))
        .routes(routes!(maintenance::list, maintenance::add))
        .routes(routes!(maintenance::remove))
        .routes(routes!(usage::list))
        .routes(routes!(feed::show))
        .split_for_parts();
    document::complete(&mut document);
    (router, document)
}

/// The API's router.
pub fn router(context: Arc<Context>) -> Router {
    let (router, document) = routes();
    let document = Arc::new(document);
    let [metrics, agent, .., description] = BESIDE;
    router
        .route(metrics, get(watch::for_admins))
        // Image uploads are streamed to disk; everything else is small.
        .layer(DefaultBodyLimit::max(4 << 20))
        .route_layer(middleware::from_fn_with_state(context.clone(), guard::guard))
        .route(agent, get(agent::connect))
        .merge(watch::open())
        .route(description, get(async move || Json((*document).clone())))
        .method_not_allowed_fallback(async || {
            Fail::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "no-method",
                "this route does not know that method; see /openapi.json",
            )
        })
        .fallback(async || Fail::not_found("no-route", "there is no such route; see /openapi.json"))
        .layer(middleware::from_fn(watch::measure))
        .layer(middleware::from_fn(remains::take_in))
        .with_state(context)
}

/// The API's description, as `docs/openapi.json` has it.
pub fn openapi_json() -> String {
    let (_, document) = routes();
    document.to_pretty_json().map(|text| text + "\n").expect("the document is plain data")
}

#[cfg(test)]
mod tests;
