//! What happens, as server-sent events (the HTML standard, section 9.2).

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{ConnectInfo, State},
    http::HeaderMap,
    response::sse::{Event as SseEvent, KeepAlive, Sse},
};
use futures_util::Stream;
use serde::Deserialize;

use super::{Answer, Caller, Query, guard::authenticate};
use crate::{
    auth::{Object, Verb},
    context::Context,
    store::EventRow,
};

/// Events read from the store at once.
const BATCH: i64 = 200;

/// Which events.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Filter {
    /// After this event's number; from now on where none is given.
    from: Option<i64>,
    /// Only of this operation.
    operation: Option<String>,
}

/// A stream of events that the caller may know of: first those after `from`, then each as it happens.
#[utoipa::path(get, path = "/v1/events", params(Filter),
    responses((status = 200, content_type = "text/event-stream", body = haas_api::event::Event)))]
pub(super) async fn stream(
    State(context): State<Arc<Context>>,
    caller: Caller,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Answer<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>> {
    caller.may(Verb::View, Object::Nodes)?;
    let from = match filter.from {
        Some(from) => from,
        None => context.store.read().await?.last_event().await?,
    };
    let state = Reader {
        news: context.events.subscribe(),
        context,
        seq: from,
        caller,
        peer,
        headers,
        operation: filter.operation,
        ready: Vec::new().into_iter(),
    };
    let stream = futures_util::stream::unfold(state, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

struct Reader {
    caller: Caller,
    peer: SocketAddr,
    /// With the caller's token.
    headers: HeaderMap,
    context: Arc<Context>,
    news: tokio::sync::watch::Receiver<u64>,
    seq: i64,
    operation: Option<String>,
    ready: std::vec::IntoIter<EventRow>,
}

impl Reader {
    /// The next event that the caller wants; none when the stream must end.
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            for EventRow { event, tenant } in self.ready.by_ref() {
                self.seq = event.seq;
                let wanted =
                    self.operation.as_ref().is_none_or(|id| event.operation.as_ref() == Some(id));
                let may = tenant.is_none_or(|tenant| {
                    let deed = Object::Deed { actor: None, tenant: &tenant };
                    self.caller.may(Verb::View, deed).is_ok()
                });
                if wanted && may {
                    return SseEvent::default().id(event.seq.to_string()).json_data(event).ok();
                }
            }
            // A stream does not outlive its token, nor what its caller may.
            self.caller = Caller(authenticate(&self.context, self.peer, &self.headers).await.ok()?);
            self.news.mark_unchanged();
            let events = match self.context.store.read().await {
                Ok(mut tx) => tx.events_after(self.seq, BATCH).await,
                Err(error) => Err(error),
            };
            match events {
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
