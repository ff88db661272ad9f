//! The calendar's feed, for programs that show calendars.

use std::{collections::HashMap, sync::Arc};

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
    nodeset,
};

/// The most reservations that are looked at: the last ones.
const MOST: i64 = 1_000;

/// The reservations that the caller may see, and maintenance, as iCalendar (RFC 5545). Wants a name and a
/// token for feeds as user and password, or a token as everywhere.
#[utoipa::path(get, path = "/v1/calendar.ics",
    responses((status = 200, body = String, content_type = "text/calendar"),
        (status = 401, body = Problem)))]
pub(super) async fn show(State(context): State<Arc<Context>>, caller: Caller) -> Answer<Response> {
    let mut tx = context.store.read().await?;
    let nodes = tx.all_nodes().await?.into_iter();
    let nodes: HashMap<_, _> = nodes.map(|node| (node.id, node.name.to_string())).collect();
    let (clock, cluster) = (context.clock, &context.cluster_id);
    let mut entries = Vec::new();
    for one in tx.reservations(MOST).await? {
        if caller.may(Verb::View, reservations::object(&one)).is_ok() {
            let nodes = folded(&nodes, one.held().map(|held| &held.node_id));
            entries.extend(Entry::of(&one, &nodes, clock, cluster));
        }
    }
    for window in tx.maintenance(context.clock.now()).await? {
        let nodes = folded(&nodes, window.nodes.iter());
        entries.push(Entry::of_window(&window, &nodes, clock, cluster));
    }
    let head = [(header::CONTENT_TYPE, "text/calendar; charset=utf-8")];
    Ok((head, ical::feed(&entries, clock::wall())).into_response())
}

fn folded<'a>(names: &HashMap<String, String>, ids: impl Iterator<Item = &'a String>) -> String {
    nodeset::fold(ids.filter_map(|id| names.get(id)).map(String::as_str))
}
