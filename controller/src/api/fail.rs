//! Errors as callers see them: a stable code and a sentence, nothing internal. What is internal goes
//! to the log, once, here.

use std::time::Duration;

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use haas_api::problem::{MEDIA_TYPE, NodeProblem, Problem};
use tracing::error;

use crate::{
    auth::{Denied, passwords::Crowded},
    calendar::AskError,
    condition::ConditionError,
    enroll::EnrollError,
    nodeset::NodeSetError,
    requests::RequestError,
    store::StoreError,
};

/// What every handler answers.
pub(super) type Answer<T> = Result<T, Fail>;

/// An error on its way to a caller.
#[derive(Debug)]
pub(super) struct Fail {
    problem: Problem,
    /// When the caller may ask again.
    retry_after: Option<Duration>,
}

impl Fail {
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let problem = Problem {
            status: status.as_u16(),
            code: code.to_owned(),
            title: code.replace('-', " "),
            detail: detail.into(),
            nodes: Vec::new(),
        };
        Self { problem, retry_after: None }
    }

    pub(super) fn not_found(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    pub(super) fn bad(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    pub(super) fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// Something that the caller can do nothing about.
    pub(super) fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        error!(error = cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "haasd could not do this; its log says why",
        )
    }

    /// To whoever asks too often: when it may ask again.
    pub(super) fn too_often(code: &str, wait: Duration) -> Self {
        let wait = wait.max(Duration::from_secs(1));
        let detail = format!("too many tries; try again in {} s", wait.as_secs());
        let fail = Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail);
        Self { retry_after: Some(wait), ..fail }
    }

    fn with_nodes(mut self, nodes: Vec<NodeProblem>) -> Self {
        self.problem.nodes = nodes;
        self
    }

    /// The problem itself, for answers that are streams.
    pub(super) fn into_problem(self) -> Problem {
        self.problem
    }
}

/// The code of a problem, for the audit log; in the answer's extensions.
#[derive(Debug, Clone)]
pub(super) struct Code(pub(super) String);

impl IntoResponse for Fail {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self.problem).expect("a problem is plain data");
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        response.extensions_mut().insert(Code(self.problem.code));
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().into());
        }
        response
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Taken(what) => {
                Self::conflict("conflict", format!("{what} is taken; choose another name"))
            }
            StoreError::Conflict(what) => Self::conflict(
                "conflict",
                format!("{what}; look again and repeat if it is still right"),
            ),
            StoreError::Sql(_)
            | StoreError::Commit(_)
            | StoreError::Migrate(_)
            | StoreError::Corrupt { .. }
            | StoreError::UnknownDatabase => Self::internal(&error),
        }
    }
}

impl From<Crowded> for Fail {
    fn from(crowded: Crowded) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "crowded", crowded.to_string())
    }
}

impl From<Denied> for Fail {
    fn from(denied: Denied) -> Self {
        Self::new(StatusCode::FORBIDDEN, "denied", denied.to_string())
    }
}

impl From<ConditionError> for Fail {
    fn from(error: ConditionError) -> Self {
        Self::bad("bad-where", error.to_string())
    }
}

impl From<NodeSetError> for Fail {
    fn from(error: NodeSetError) -> Self {
        let text = error.to_string();
        match error {
            NodeSetError::Empty | NodeSetError::Syntax(_) | NodeSetError::TooMany => {
                Self::bad("bad-nodeset", text)
            }
            NodeSetError::UnknownGroup(..) | NodeSetError::UnknownNodes(_) => {
                Self::not_found("no-node", text)
            }
        }
    }
}

impl From<RequestError> for Fail {
    fn from(error: RequestError) -> Self {
        let text = error.to_string();
        match error {
            RequestError::NodeSet(error) => error.into(),
            RequestError::NoImage(_) => Self::not_found("no-image", text),
            RequestError::NoOverlay(_) => Self::not_found("no-overlay", text),
            RequestError::Denied(denied) => denied.into(),
            RequestError::WhichProject(_) => Self::bad("which-project", text),
            RequestError::OverlayOfProject(_) => Self::conflict("overlay-of-project", text),
            RequestError::NoProject(_) => Self::not_found("no-project", text),
            RequestError::TooManyNodes { .. } => Self::conflict("quota", text),
            RequestError::Nodes(nodes) => {
                let code = match nodes.as_slice() {
                    [one] => one.code.clone(),
                    _ => "nodes-refused".to_owned(),
                };
                Self::conflict(&code, text).with_nodes(nodes)
            }
            RequestError::MinSuccess { .. } => Self::bad("bad-min-success", text),
            RequestError::NoOperation(_) => Self::not_found("no-operation", text),
            RequestError::TooLate(_) => Self::conflict("too-late", text),
            RequestError::KeyReused => Self::bad("key-reused", text),
            RequestError::Store(error) => error.into(),
        }
    }
}

impl From<AskError> for Fail {
    fn from(error: AskError) -> Self {
        let text = error.to_string();
        match error {
            AskError::Request(error) => error.into(),
            AskError::Denied(denied) => denied.into(),
            AskError::NodeSet(error) => error.into(),
            AskError::NoQueue(_) => Self::not_found("no-queue", text),
            AskError::WhichQueue(_) => Self::bad("which-queue", text),
            AskError::Bad(_) => Self::bad("bad-reservation", text),
            AskError::Quota(_) => Self::conflict("quota", text),
            AskError::TooFew(_) => Self::conflict("too-few-nodes", text),
            AskError::NoSlot(_) => Self::conflict("no-slot", text),
            AskError::CannotExtend(_) => Self::conflict("cannot-extend", text),
            AskError::TooLate(_) => Self::conflict("too-late", text),
            AskError::Reserved(_) => Self::conflict("reserved-then", text),
            AskError::KeyReused => Self::bad("key-reused", text),
            AskError::Snapshot(error) => Self::internal(&error),
            AskError::Store(error) => error.into(),
        }
    }
}

impl From<EnrollError> for Fail {
    fn from(error: EnrollError) -> Self {
        let text = error.to_string();
        match error {
            EnrollError::Inventory(_) => Self::bad("bad-inventory", text),
            EnrollError::InUse(_) => Self::conflict("node-in-use", text),
            EnrollError::Store(error) => error.into(),
        }
    }
}
