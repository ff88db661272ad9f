//! Who did what. `/v1/audit`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One request that changed something, or that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number; there are no gaps.
    pub seq: u64,
    /// When.
    pub at: String,
    /// The user's name then.
    pub actor: String,
    /// The user's immutable id; empty where nobody was logged in.
    pub actor_id: String,
    /// The token that was used.
    pub token_id: String,
    /// The address that the request came from.
    pub from: String,
    /// Method and path.
    pub action: String,
    /// The HTTP status that it was answered with.
    pub status: u16,
    /// What it came to, such as the operation that it started.
    pub detail: String,
}
