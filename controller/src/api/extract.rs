//! What handlers take from a request: axum's own extractors, but for what they refuse. A caller gets
//! every error as problem+json, also for a body that is no JSON.

use std::time::Duration;

use axum::{
    extract::{
        FromRequest, FromRequestParts, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};

use super::Fail;

/// How long a body may take, whole. It is small: what is large is streamed.
const BODY: Duration = Duration::from_secs(30);

/// A body, or an answer, in JSON.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Fail;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fail> {
        within(BODY, axum::Json::from_request(request, state)).await
    }
}

async fn within<T>(
    limit: Duration,
    body: impl Future<Output = Result<axum::Json<T>, JsonRejection>>,
) -> Result<Json<T>, Fail> {
    match tokio::time::timeout(limit, body).await {
        Ok(body) => Ok(Json(body?.0)),
        Err(_) => {
            let detail = format!("the body did not come within {} s", limit.as_secs());
            Err(Fail::new(StatusCode::REQUEST_TIMEOUT, "too-slow", detail))
        }
    }
}

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

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>();
        let request = Request::post("/")
            .header("content-type", "application/json")
            .body(Body::from_stream(never))
            .unwrap();
        let body = axum::Json::<serde_json::Value>::from_request(request, &());
        let refused = within(Duration::from_millis(50), body).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
