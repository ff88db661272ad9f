//! What happened, in order. `GET /v1/events` streams it as server-sent events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts up by one, with no gap. The `id` of the server-sent event; `?from=` takes it.
    pub seq: i64,
    /// When, RFC 3339.
    pub at: String,
    /// A stable word: `desired-changed`, `boot-progressed`, `boot-failed`, `power`, `operation-ended`…
    pub kind: String,
    /// The node, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The operation, where it belongs to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Who caused it: a user's name, or `haasd`.
    pub actor: String,
    /// The rest, by kind.
    pub data: serde_json::Value,
}
