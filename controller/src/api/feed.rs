//! The calendar's feed, for programs that show calendars.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use haas_api::problem::Problem;

use super::{Answer, Caller, reservations};
use crate::{
    auth::Verb,
    calendar::ical::{self, Entry},
    clock,
    context::Context,
    nodeset::NodeNames,
};

/// Of reservations that are over so many are looked at, the last ones.
const MOST_OVER: i64 = 1_000;

/// The reservations that the caller may see, and maintenance, as iCalendar (RFC 5545). Wants a name and a
/// token for feeds as user and password, or a token as everywhere.
#[utoipa::path(get, path = "/v1/calendar.ics",
    responses((status = 200, body = String, content_type = "text/calendar"),
        (status = 401, body = Problem)))]
pub(super) async fn show(State(context): State<Arc<Context>>, caller: Caller) -> Answer<Response> {
    let mut tx = context.store.read().await?;
    let names = NodeNames::read(&mut tx).await?;
    let (clock, cluster) = (context.clock, &context.cluster_id);
    let mut entries = Vec::new();
    let over = tx.reservations(MOST_OVER).await?.into_iter().filter(|one| one.state.is_over());
    for one in tx.live_reservations().await?.into_iter().chain(over) {
        if caller.may(Verb::View, reservations::object(&one)).is_ok() {
            let nodes = names.fold(one.held().map(|held| &held.node_id));
            entries.extend(Entry::of(&one, &nodes, clock, cluster));
        }
    }
    for window in tx.maintenance(context.clock.now()).await? {
        let nodes = names.fold(&window.nodes);
        entries.push(Entry::of_window(&window, &nodes, clock, cluster));
    }
    let head = [(header::CONTENT_TYPE, "text/calendar; charset=utf-8")];
    Ok((head, ical::feed(&entries, clock::wall())).into_response())
}
