//! The words that haasd, haasctl and the agent speak to each other.
//!
//! Plain data only: names that are checked once when they are parsed ([`names`]), the JSON of the
//! HTTP API, one module per noun, and the frames of the agent's channel ([`agent`]). Nothing here
//! knows SQL, hardware or how a decision is taken. The HTTP client is behind the feature `client`.
//!
//! Conventions of the API: times are RFC 3339 text in UTC, durations are numbers with their unit in
//! the field's name, sizes are bytes, lists are `{"items": […]}`, errors are
//! [`problem::Problem`]s. `v1` only grows: fields and routes are added, never changed or removed.

pub mod agent;
pub mod audit;
pub mod baseline;
pub mod bmc;
pub mod check;
pub mod console;
pub mod doctor;
pub mod event;
pub mod grant;
pub mod group;
pub mod hardware;
pub mod image;
pub mod maintenance;
pub mod names;
pub mod node;
pub mod operation;
pub mod overlay;
pub mod pin;
pub mod problem;
pub mod project;
pub mod queue;
pub mod reservation;
pub mod ssh;
pub mod usage;
pub mod user;
pub mod watch;
pub mod webhook;

#[cfg(feature = "client")]
pub mod client;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A list, as every listing route answers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The entries.
    pub items: Vec<T>,
    /// For `?page_token=`, where `?limit=` left entries out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

impl<T> List<T> {
    /// All there is.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_page_token: None }
    }
}
