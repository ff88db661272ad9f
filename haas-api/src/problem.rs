//! Errors as RFC 9457 has them, `application/problem+json`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, for machines (`code`, `status`) and for people (`title`, `detail`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A stable word, such as `node-busy`. Callers branch on it and on nothing else.
    pub code: String,
    /// The code in words.
    pub title: String,
    /// What was wrong with this request, and what to do.
    pub detail: String,
    /// Per-node reasons, where a request names several nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeProblem>,
}

/// Why one node of a set was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeProblem {
    /// The node.
    pub node: String,
    /// A stable word.
    pub code: String,
    /// Why, in a sentence.
    pub reason: String,
}
