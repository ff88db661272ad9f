//! Webhooks: events that haasd sends to other programs. `/v1/webhooks`.
//!
//! Requests have the form of Standard Webhooks (standardwebhooks.com): a POST with an event as JSON
//! and the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::WebhookName;

/// A webhook, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its name.
    pub name: WebhookName,
    /// Where events are sent to.
    pub url: String,
    /// Which kinds of events; none is all.
    pub kinds: Vec<String>,
    /// Who made it.
    pub actor: String,
    /// When.
    pub created_at: String,
    /// The number of the last event that is done with: delivered, given up or not wanted.
    pub position: i64,
    /// How many events there are behind it.
    pub behind: i64,
    /// When one was delivered last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<String>,
    /// How often the next event was tried in vain.
    pub failures: i64,
    /// Since when tries fail; none while they succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<String>,
    /// How the last try that failed did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// How many events were given up.
    pub dead: i64,
}

/// `POST /v1/webhooks`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Its name.
    pub name: WebhookName,
    /// `https://…` or `http://…`, without a user.
    pub url: String,
    /// Which kinds of events; none is all.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Begin behind the event of this number; with what happens from now on where none is given.
    #[serde(default)]
    pub from: Option<i64>,
}

/// A webhook that was just made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct MadeWebhook {
    /// The webhook.
    pub webhook: Webhook,
    /// What its requests are signed with. Shown this once.
    pub secret: String,
}

impl std::fmt::Debug for MadeWebhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeWebhook").field("webhook", &self.webhook).finish_non_exhaustive()
    }
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadEvent {
    /// The event's number.
    pub seq: i64,
    /// When it was given up.
    pub given_up_at: String,
    /// How the last try failed.
    pub error: String,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookTest {
    /// Whether the receiver took it.
    pub delivered: bool,
    /// In words: the status of its answer, or why there was none.
    pub outcome: String,
    /// How long that took, milliseconds.
    pub took_ms: u64,
}
