//! What was used.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use haas_api::{
    List,
    names::QueueName,
    problem::Problem,
    usage::{Usage, csv},
};
use serde::Deserialize;

use super::{Answer, Caller, Fail, Json, Query};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    store::UsedRow,
};

/// Between which moments, and how it is written.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Span {
    /// From when (RFC 3339); from the first reservation on where nothing is given.
    begin: Option<String>,
    /// Until when (RFC 3339); now where nothing is given.
    end: Option<String>,
    /// `csv`, or JSON where nothing is given.
    format: Option<String>,
}

/// Node-hours by project, user and queue, as far as the caller may see the reservations.
#[utoipa::path(get, path = "/v1/usage", params(Span),
    responses((status = 200, body = List<Usage>), (status = 422, body = Problem)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(span): Query<Span>,
) -> Answer<Response> {
    let now = clock::wall();
    let moment = |text: &Option<String>| match text {
        Some(text) => clock::moment(text).map(Some).map_err(|why| Fail::bad("bad-time", why)),
        None => Ok(None),
    };
    let (begin, end) = (moment(&span.begin)?.unwrap_or(0), moment(&span.end)?.unwrap_or(now));
    if begin >= end {
        return Err(Fail::bad(
            "bad-time",
            "what was used ends after its begin, which is not to come",
        ));
    }
    let mut tx = context.store.read().await?;
    let rows = tx.used(begin, end, now).await?;
    let visible = rows.into_iter().filter(|row| sees(&caller, row));
    let lines: Vec<Usage> = visible.map(shown).collect();
    match span.format.as_deref() {
        None | Some("json") => Ok(Json(List::whole(lines)).into_response()),
        Some("csv") => {
            let head = [(header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")];
            Ok((head, csv(&lines)).into_response())
        }
        Some(_) => Err(Fail::bad("bad-format", "usage is written as json or csv")),
    }
}

fn sees(caller: &Caller, row: &UsedRow) -> bool {
    let queue: Result<QueueName, _> = row.queue.parse();
    queue.is_ok_and(|queue| {
        let (owner_id, tenant) = (row.owner_id.as_str(), row.tenant.as_str());
        caller.may(Verb::View, Object::Reservation { owner_id, tenant, queue: &queue }).is_ok()
    })
}

#[expect(clippy::cast_precision_loss, reason = "hours with a fraction, for people")]
fn shown(row: UsedRow) -> Usage {
    Usage {
        project: row.project,
        user: row.user,
        queue: row.queue,
        reservations: row.reservations,
        node_hours: row.held as f64 / 3.6e9,
    }
}
