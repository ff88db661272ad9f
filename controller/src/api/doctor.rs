//! What is right and wrong around haasd.

use std::sync::Arc;

use axum::extract::State;
use haas_api::{List, doctor::Finding, problem::Problem};

use super::{Answer, Caller, Json};
use crate::{
    auth::{Object, Verb},
    context::Context,
    doctor,
};

/// Looks at interfaces, ports, BMCs, clock, disk, limits and programs. Changes nothing.
#[utoipa::path(get, path = "/v1/doctor",
    responses((status = 200, body = List<Finding>), (status = 403, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
) -> Answer<Json<List<Finding>>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    Ok(Json(List::whole(doctor::online(&context).await?)))
}
