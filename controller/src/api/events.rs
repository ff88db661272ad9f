//! What happens, as server-sent events (the HTML standard, section 9.2).
//!
//! A stream sends each event once, in order and with no gap, or ends. Whoever asks to go on where the
//! log cannot is told so: what is forgotten is never left out in silence.

use std::{collections::BTreeSet, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
    response::sse::{Event as SseEvent, KeepAlive, Sse},
};
use futures_util::Stream;
use haas_api::event::Event;
use serde::Deserialize;

use super::{
    Answer, Caller, Fail, Query,
    guard::{Deed, authenticate},
};
use crate::{
    auth::{Object, Verb},
    context::Context,
    nodeset,
    store::{EventRow, Tx},
};

/// Events read from the store at once.
const BATCH: i64 = 200;

/// Where a browser says what it had last.
const LAST_EVENT_ID: &str = "last-event-id";

/// Which events.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Filter {
    /// After this event's number, 0 for all that are kept; from now on where none is given. The header
    /// `Last-Event-ID` goes before it.
    from: Option<i64>,
    /// Only of this operation.
    operation: Option<String>,
    /// Only of these nodes, as a node set.
    nodeset: Option<String>,
    /// Only of these kinds, with commas between them.
    kind: Option<String>,
    /// Whether to go on with what happens; `true` where nothing is said. With `false` the stream ends
    /// with a server-sent event `end`.
    follow: Option<bool>,
}

/// A stream of events that the caller may know of: first those after `from`, then each as it happens.
#[utoipa::path(get, path = "/v1/events", params(Filter),
    responses((status = 200, content_type = "text/event-stream", body = haas_api::event::Event),
        (status = 409, body = haas_api::problem::Problem),
        (status = 410, body = haas_api::problem::Problem)))]
pub(super) async fn stream(
    State(context): State<Arc<Context>>,
    caller: Caller,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Answer<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>> {
    caller.may(Verb::View, Object::Nodes)?;
    let asked = match headers.get(LAST_EVENT_ID) {
        // A browser that connects again sends the URL as it was at first, and this with it.
        Some(id) => Some(last_event_id(id)?),
        None => filter.from,
    };
    let mut tx = context.store.read().await?;
    let seq = beginning(&mut tx, asked).await?;
    let nodes = match &filter.nodeset {
        Some(set) => {
            let nodes = nodeset::resolve(set, tx.nodes().await?)?;
            Some(nodes.into_iter().map(|node| node.name.to_string()).collect())
        }
        None => None,
    };
    drop(tx);
    let kinds = filter.kind.as_deref().map(|kinds| kinds.split(',').map(str::to_owned).collect());
    let state = Reader {
        news: context.events.subscribe(),
        context,
        seq,
        caller,
        peer,
        headers,
        wanted: Wanted { operation: filter.operation, nodes, kinds },
        follow: filter.follow.unwrap_or(true),
        has_begun: false,
        is_over: false,
        ready: Vec::new().into_iter(),
    };
    let stream = futures_util::stream::unfold(state, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

fn last_event_id(id: &axum::http::HeaderValue) -> Answer<i64> {
    let number = id.to_str().ok().and_then(|id| id.parse().ok());
    number.ok_or_else(|| Fail::bad("bad-header", "Last-Event-ID is the number of an event"))
}

/// The number after which the stream begins.
async fn beginning(tx: &mut Tx, asked: Option<i64>) -> Answer<i64> {
    let last = tx.last_event().await?;
    let Some(asked) = asked else { return Ok(last) };
    let first = tx.first_event().await?.unwrap_or(last + 1);
    if asked > last {
        let detail = format!(
            "the last event is number {last}: number {asked} is of another log, or this one was put back \
             from a backup; begin again with from=0"
        );
        return Err(Fail::conflict("events-ahead", detail));
    }
    if asked <= 0 {
        return Ok(first - 1);
    }
    if asked + 1 < first {
        let detail = format!(
            "the events {} to {} are forgotten, see [events] keep; begin again with from={}",
            asked + 1,
            first - 1,
            first - 1
        );
        return Err(Fail::new(StatusCode::GONE, "events-gone", detail));
    }
    Ok(asked)
}

/// Which events the caller wants.
struct Wanted {
    operation: Option<String>,
    nodes: Option<BTreeSet<String>>,
    kinds: Option<BTreeSet<String>>,
}

impl Wanted {
    fn has(&self, event: &Event) -> bool {
        let is_in = |set: &Option<BTreeSet<String>>, word: Option<&String>| {
            set.as_ref().is_none_or(|set| word.is_some_and(|word| set.contains(word)))
        };
        let operation = &self.operation;
        operation.as_ref().is_none_or(|id| event.operation.as_ref() == Some(id))
            && is_in(&self.nodes, event.node.as_ref())
            && is_in(&self.kinds, Some(&event.kind))
    }
}

struct Reader {
    caller: Caller,
    peer: SocketAddr,
    /// With the caller's token.
    headers: HeaderMap,
    context: Arc<Context>,
    news: tokio::sync::watch::Receiver<u64>,
    seq: i64,
    wanted: Wanted,
    follow: bool,
    /// Whether the stream has said where it begins.
    has_begun: bool,
    /// Whether the end was told.
    is_over: bool,
    ready: std::vec::IntoIter<EventRow>,
}

impl Reader {
    /// The next event that the caller wants; none when the stream must end.
    async fn next(&mut self) -> Option<SseEvent> {
        if !std::mem::replace(&mut self.has_begun, true) {
            // For whoever loses the stream before its first event.
            return Some(SseEvent::default().id(self.seq.to_string()));
        }
        loop {
            for EventRow { event, tenant, .. } in self.ready.by_ref() {
                if event.seq != self.seq + 1 {
                    // Forgotten before this slow reader came to them: it asks again, and is told.
                    return None;
                }
                self.seq = event.seq;
                let may = tenant.is_none_or(|tenant| {
                    let deed = Object::Deed { actor: None, tenant: &tenant };
                    self.caller.may(Verb::View, deed).is_ok()
                });
                if self.wanted.has(&event) && may {
                    return SseEvent::default().id(event.seq.to_string()).json_data(event).ok();
                }
            }
            if self.is_over {
                return None;
            }
            // A stream does not outlive its token, nor what its caller may.
            let principal = authenticate(&self.context, self.peer, &self.headers).await.ok()?;
            self.caller = Caller(principal, Deed::default());
            self.news.mark_unchanged();
            let events = match self.context.store.read().await {
                Ok(mut tx) => tx.events_after(self.seq, BATCH).await,
                Err(error) => Err(error),
            };
            match events {
                Ok(events) if events.is_empty() && !self.follow => {
                    self.is_over = true;
                    return Some(SseEvent::default().event("end").data(self.seq.to_string()));
                }
                Ok(events) if events.is_empty() => self.news.changed().await.ok()?,
                Ok(events) => self.ready = events.into_iter(),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot read events");
                    return None;
                }
            }
        }
    }
}
