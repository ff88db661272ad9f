//! What handlers take from a request: axum's own extractors, but for what they refuse. A caller gets
//! every error as problem+json, also for a body that is no JSON.

use axum::{
    extract::{
        FromRequest, FromRequestParts,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::Fail;

/// A body, or an answer, in JSON.
#[derive(Debug, FromRequest)]
#[from_request(via(axum::Json), rejection(Fail))]
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// What stands behind `?`.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Fail))]
pub(super) struct Query<T>(pub(super) T);

/// The variable parts of the path.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Fail))]
pub(super) struct Path<T>(pub(super) T);

impl From<JsonRejection> for Fail {
    fn from(refused: JsonRejection) -> Self {
        let code = if refused.status() == StatusCode::PAYLOAD_TOO_LARGE {
            "too-large"
        } else {
            "bad-json"
        };
        Self::new(refused.status(), code, refused.body_text())
    }
}

impl From<QueryRejection> for Fail {
    fn from(refused: QueryRejection) -> Self {
        Self::new(refused.status(), "bad-query", refused.body_text())
    }
}

impl From<PathRejection> for Fail {
    fn from(refused: PathRejection) -> Self {
        Self::new(refused.status(), "bad-path", refused.body_text())
    }
}
