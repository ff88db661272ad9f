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
    model::Micros,
    store::UsedRow,
};

/// Between which moments, and how it is written.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Span {
    /// From when; from the first reservation on where nothing is given.
    begin: Option<String>,
    /// Until when; now where nothing is given.
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
    let begin = moment(span.begin.as_deref())?.unwrap_or(0);
    let end = moment(span.end.as_deref())?.unwrap_or(now);
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

fn moment(text: Option<&str>) -> Answer<Option<Micros>> {
    let Some(text) = text else { return Ok(None) };
    let at: jiff::Timestamp = text.parse().map_err(|_| {
        Fail::bad("bad-time", format!("{text:?} is no time; write it as 2026-12-01T08:00:00Z"))
    })?;
    Ok(Some(at.as_microsecond()))
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
