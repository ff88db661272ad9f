//! What BMCs say of their machines: sensors and logs, as they were when they were asked last.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    hardware::{Sel, Sensors},
    problem::Problem,
};

use super::{Answer, Caller, Fail, Json, Path, nodes::find};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    hardware::shown_sel,
    power,
};

/// What a node's sensors measured.
#[utoipa::path(get, path = "/v1/nodes/{name}/sensors", params(("name" = String, Path)),
    responses((status = 200, body = Sensors), (status = 404, body = Problem)))]
pub(super) async fn sensors(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<Sensors>> {
    caller.may(Verb::View, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let node = find(&mut tx, &name).await?;
    let row = tx.hardware(&node.id).await?;
    Ok(Json(Sensors {
        at: row.bmc_at.map(clock::rfc3339),
        error: row.bmc_error,
        items: row.sensors,
    }))
}

/// The log of a node's BMC (SEL).
#[utoipa::path(get, path = "/v1/nodes/{name}/sel", params(("name" = String, Path)),
    responses((status = 200, body = Sel), (status = 404, body = Problem)))]
pub(super) async fn sel(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<Sel>> {
    caller.may(Verb::View, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let node = find(&mut tx, &name).await?;
    Ok(Json(shown_sel(tx.hardware(&node.id).await?)))
}

/// Has the log of a node's BMC cleared, as soon as the BMC can be asked: then there is an event
/// `sel-cleared`.
#[utoipa::path(delete, path = "/v1/nodes/{name}/sel", params(("name" = String, Path)),
    responses((status = 202, body = Sel), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn clear_sel(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<(StatusCode, Json<Sel>)> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let mut tx = context.store.write().await?;
    let node = find(&mut tx, &name).await?;
    if !node.managed {
        let detail =
            format!("{name} is not haasd's; `haasctl node manage {name}` gives it to haasd");
        return Err(Fail::conflict("unmanaged", detail));
    }
    if power::health_driver(&node.spec.power).is_none() {
        let detail = format!("{name} has no BMC with a log that haasd can reach");
        return Err(Fail::conflict("no-bmc", detail));
    }
    if context.config.health.poll.is_none() {
        let detail = "haasd asks no BMC how its node is: [health] poll = \"off\" in haasd.toml";
        return Err(Fail::conflict("no-bmc", detail));
    }
    tx.set_clear(&node.id, Some(caller.0.name.as_str())).await?;
    let row = tx.hardware(&node.id).await?;
    let what = format!("the log of the BMC of {name} is to be cleared");
    caller.commit(tx, StatusCode::ACCEPTED, what).await?;
    context.bmc_wake.notify_one();
    Ok((StatusCode::ACCEPTED, Json(shown_sel(row))))
}
