//! The audit log.

use std::sync::Arc;

use axum::extract::State;
use haas_api::{List, audit::AuditEntry};
use serde::Deserialize;

use super::{Answer, Caller, Json, Query};
use crate::{
    auth::{Object, Verb},
    context::Context,
};

/// The most entries of one answer.
const MOST: u16 = 1000;

/// Which entries.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Wanted {
    /// Those after this number; 0 is from the beginning.
    #[serde(default)]
    after: u64,
    /// Those of this user, by the name that it had.
    actor: Option<String>,
    /// At most so many, up to 1000.
    limit: Option<u16>,
}

/// Who changed what, or tried to, oldest first.
#[utoipa::path(get, path = "/v1/audit", params(Wanted),
    responses((status = 200, body = List<AuditEntry>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> Answer<Json<List<AuditEntry>>> {
    caller.may(Verb::View, Object::Audit)?;
    let limit = wanted.limit.unwrap_or(MOST).min(MOST);
    let mut tx = context.store.read().await?;
    let items = tx.audit(wanted.after, wanted.actor.as_deref(), limit.into()).await?;
    Ok(Json(List::whole(items)))
}
