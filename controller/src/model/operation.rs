//! Operations: a request that changes nodes, with a result for each of them.

use haas_api::operation::{NodeProgress, OperationState};

use super::Micros;

/// A request in progress, or over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// `switch`, `rollback` or `power`.
    pub kind: String,
    /// Who asked.
    pub actor: String,
    /// Who asked, by the immutable id.
    pub actor_id: String,
    /// For whom its nodes are, by the id of a user or project.
    pub tenant: String,
    /// What was asked, in words.
    pub summary: String,
    /// The caller's Idempotency-Key.
    pub key: Option<String>,
    /// The SHA-256 of what was asked, which a key that comes again must stand for.
    pub request: String,
    /// At most this many nodes under way at once.
    pub at_most: Option<u32>,
    /// How it stands.
    pub state: OperationState,
    /// When it was asked, wall clock.
    pub created_at: Micros,
    /// When it was over, wall clock.
    pub ended_at: Option<Micros>,
    /// Its nodes, in the order of the node set.
    pub nodes: Vec<OperationNode>,
}

impl Operation {
    /// Whether this node of it is not there yet.
    pub fn is_under_way(&self, node_id: &str) -> bool {
        self.nodes.iter().any(|n| {
            n.node_id == node_id && matches!(n.state, NodeProgress::Waiting | NodeProgress::Running)
        })
    }
}

/// How one node of an operation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationNode {
    /// The node.
    pub node_id: String,
    /// The generation that the operation gave it.
    pub generation: i64,
    /// How it stands.
    pub state: NodeProgress,
    /// What it is doing or why it failed.
    pub reason: String,
}
