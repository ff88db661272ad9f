//! Queues: where reservations wait, in a tree. `/v1/queues`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{NodeGroupName, QueueName};

/// In which order a queue's reservations have their turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueuePolicy {
    /// Whoever was first.
    Fifo,
    /// Whoever used least lately.
    #[default]
    Fair,
    /// Whoever was first, and no user holds more than his part.
    Capacity,
}

/// What a queue is like. Shares are of all nodes, in percent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueSpec {
    /// Its name.
    pub name: QueueName,
    /// The queue above; none: it is at the top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<QueueName>,
    /// In which order its reservations have their turn; only queues with none below have any.
    #[serde(default)]
    pub policy: QueuePolicy,
    /// The node groups whose nodes it gives; none: those of the queue above, at the top all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_groups: Vec<NodeGroupName>,
    /// Whether everybody may use it; else only those whom it was granted to.
    #[serde(default)]
    pub open: bool,
    /// What it can count on.
    #[serde(default)]
    pub guaranteed: u32,
    /// What it may hold at any time.
    #[serde(default = "whole")]
    pub max: u32,
    /// What one user may hold of it; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_max: Option<u32>,
    /// Its weight against the queues beside it.
    #[serde(default = "one")]
    pub weight: u32,
    /// Of queues beside each other the one of higher priority goes first.
    #[serde(default)]
    pub priority: i32,
    /// How long a reservation is that does not say it, in seconds.
    #[serde(default = "hour")]
    pub walltime_s: u64,
    /// The longest, in seconds.
    #[serde(default = "fortnight")]
    pub max_walltime_s: u64,
    /// How far ahead a reservation may begin that names its hour, in seconds.
    #[serde(default = "quarter")]
    pub max_ahead_s: u64,
    /// How much may be reserved ahead at any time.
    #[serde(default = "whole")]
    pub max_reserved: u32,
    /// Nobody who logged in on a reservation's nodes within so many seconds: it ends. None: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_show_s: Option<u64>,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// What it is like.
    pub spec: QueueSpec,
    /// Whether it stands in haasd.toml, and is changed there only.
    pub from_file: bool,
    /// Whether the caller may use it.
    pub may_use: bool,
    /// How many nodes it can give.
    pub nodes: u32,
    /// How many of them its reservations and those of queues below have now.
    pub held: u32,
    /// How many reservations wait in it.
    pub waiting: u32,
}

fn whole() -> u32 {
    100
}

fn one() -> u32 {
    1
}

fn hour() -> u64 {
    3_600
}

fn fortnight() -> u64 {
    14 * 86_400
}

fn quarter() -> u64 {
    90 * 86_400
}

impl QueueSpec {
    /// A queue of this name with nothing said about it.
    pub fn named(name: QueueName) -> Self {
        Self {
            name,
            parent: None,
            policy: QueuePolicy::default(),
            node_groups: Vec::new(),
            open: false,
            guaranteed: 0,
            max: whole(),
            user_max: None,
            weight: one(),
            priority: 0,
            walltime_s: hour(),
            max_walltime_s: fortnight(),
            max_ahead_s: quarter(),
            max_reserved: whole(),
            no_show_s: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_of_a_queue_is_the_same_in_json_and_in_code() {
        let read: QueueSpec = serde_json::from_str(r#"{ "name": "gpu" }"#).unwrap();
        assert_eq!(read, QueueSpec::named("gpu".parse().unwrap()));
        assert!(serde_json::from_str::<QueueSpec>(r#"{ "name": "gpu", "wieght": 2 }"#).is_err());
    }
}
