//! Maintenance windows: nodes and a time in which nothing is planned on them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/maintenance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMaintenance {
    /// Which nodes, as a node set.
    pub nodeset: String,
    /// From when (RFC 3339).
    pub begin: String,
    /// Until when (RFC 3339).
    pub end: String,
    /// Why, one line of up to 300 characters; reservations that wait for its end say so.
    pub reason: String,
    /// Also where reservations have nodes of it then: accepted hours go to other nodes or move, and what
    /// runs goes on until its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A maintenance window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Maintenance {
    /// Its number.
    pub id: i64,
    /// Its nodes, as a node set.
    pub nodes: String,
    /// From when (RFC 3339, UTC, to the second).
    pub begin: String,
    /// Until when (likewise).
    pub end: String,
    /// Why.
    pub reason: String,
    /// Who has set it.
    pub by: String,
}
