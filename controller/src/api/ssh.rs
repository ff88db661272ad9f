//! What ssh may trust.

use std::sync::Arc;

use axum::extract::State;
use haas_api::ssh::SshCa;

use super::{Answer, Caller, Json};
use crate::{
    auth::{Object, Verb},
    context::Context,
};

/// The public half of the key that signs the nodes' host keys.
#[utoipa::path(get, path = "/v1/ssh-ca", responses((status = 200, body = SshCa)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
) -> Answer<Json<SshCa>> {
    caller.may(Verb::View, Object::Nodes)?;
    Ok(Json(SshCa { host_ca: context.ssh_ca.host_ca().to_owned() }))
}
