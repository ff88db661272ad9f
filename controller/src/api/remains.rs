//! What is left of a request's body once it is answered. HTTP/1.1 closes a connection on which something of
//! a request was never read, and a client that is still sending then hears of a broken connection in place
//! of its answer. So a little more is taken in, and thrown away, first.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::header,
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

/// So much of it at most, bytes: a body of JSON, and not an image's.
const MOST: usize = 4 << 20;
/// And for so long at most.
const WITHIN: Duration = Duration::from_secs(2);

/// Answers, and takes in what the answer left.
pub(super) async fn take_in(request: Request, next: Next) -> Response {
    // Who waits to be told to go on has not sent it.
    if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let mut body = Shared(Arc::new(Mutex::new(body)));
    let rest = body.clone();
    let response = next.run(Request::from_parts(head, Body::new(rest))).await;
    let drain = async {
        let mut taken = 0;
        while taken < MOST
            && let Some(Ok(frame)) = body.frame().await
        {
            taken += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Late is as good as never.
    let _ = tokio::time::timeout(WITHIN, drain).await;
    response
}

/// A body that outlives whoever was to read it.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}
