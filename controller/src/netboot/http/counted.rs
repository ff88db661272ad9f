//! A response body that counts what went out and says so when it is over, also when it broke off.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};

/// Wraps `body`; `report` is called once with the number of bytes that the connection took.
pub(super) fn counted(body: Body, report: impl FnOnce(u64) + Send + 'static) -> Body {
    Body::new(Counted { body, bytes: 0, report: Some(Box::new(report)) })
}

struct Counted {
    body: Body,
    bytes: u64,
    report: Option<Box<dyn FnOnce(u64) + Send>>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.bytes += data.len() as u64;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(self.bytes);
        }
    }
}
