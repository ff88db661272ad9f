//! Maintenance windows.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    maintenance::{Maintenance, NewMaintenance},
    problem::Problem,
};

use super::{Answer, Caller, Fail, Json, Page, Path, Query, drain::reason};
use crate::{
    auth::{Object, Verb},
    calendar,
    context::Context,
};

/// The windows that are not over.
#[utoipa::path(get, path = "/v1/maintenance", params(Page),
    responses((status = 200, body = List<Maintenance>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    _caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Maintenance>>> {
    let windows = calendar::windows(&context).await?;
    Ok(Json(page.of(windows, |window: &Maintenance| window.id.to_string())?))
}

/// Sets a window: nodes and a time in which nothing is planned on them.
#[utoipa::path(post, path = "/v1/maintenance", request_body = NewMaintenance,
    responses((status = 201, body = Maintenance), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(new): Json<NewMaintenance>,
) -> Answer<(StatusCode, Json<Maintenance>)> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let new = NewMaintenance { reason: reason(&new.reason)?, ..new };
    let mut tx = context.store.write().await?;
    let made = calendar::add_window(&context, &mut tx, &caller.0, &new).await?;
    let what = format!("maintenance {} of {}", made.id, made.nodes);
    caller.commit(tx, StatusCode::CREATED, what).await?;
    context.told();
    context.calendar_wake.notify_one();
    Ok((StatusCode::CREATED, Json(made)))
}

/// Removes a window.
#[utoipa::path(delete, path = "/v1/maintenance/{id}", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let absent =
        || Fail::not_found("no-maintenance", format!("there is no window {id} that is not over"));
    let number = id.parse().map_err(|_| absent())?;
    let mut tx = context.store.write().await?;
    if !calendar::remove_window(&context, &mut tx, &caller.0, number).await? {
        return Err(absent());
    }
    caller.commit(tx, StatusCode::NO_CONTENT, format!("removed maintenance {id}")).await?;
    context.told();
    context.calendar_wake.notify_one();
    Ok(StatusCode::NO_CONTENT)
}
