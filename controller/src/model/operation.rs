//! Operations: a request that changes nodes, with a result for each of them.

use haas_api::operation::{MinSuccess, NodeProgress, OperationState, Strategy};

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
    /// In which order its nodes have their turn.
    pub strategy: Strategy,
    /// How many of its nodes must get there, or all go back; none: each is on its own.
    pub min_success: Option<MinSuccess>,
    /// When users were let in on all of its nodes, wall clock; only where there is a `min_success`.
    pub committed_at: Option<Micros>,
    /// How it stands.
    pub state: OperationState,
    /// Why it goes back, or ended before its time; else empty.
    pub reason: String,
    /// When it was asked, wall clock.
    pub created_at: Micros,
    /// When it was over, wall clock.
    pub ended_at: Option<Micros>,
    /// Its nodes, in the order of the node set.
    pub nodes: Vec<OperationNode>,
}

impl Operation {
    /// Whether its nodes keep users out until all of them are there.
    pub fn holds_logins(&self) -> bool {
        self.min_success.is_some()
            && self.committed_at.is_none()
            && matches!(self.state, OperationState::Running | OperationState::Paused)
    }

    /// Whether this node of it is not there yet.
    pub fn is_under_way(&self, node_id: &str) -> bool {
        self.nodes.iter().any(|n| n.node_id == node_id && !n.state.is_over())
    }
}

/// How one node of an operation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationNode {
    /// The node.
    pub node_id: String,
    /// The generation that the operation gave it.
    pub generation: i64,
    /// Whether that generation takes it back to what it was before the operation.
    pub goes_back: bool,
    /// How it stands.
    pub state: NodeProgress,
    /// What it is doing or why it failed.
    pub reason: String,
    /// Why it did not get where the operation wanted it, kept while it goes back.
    pub failure: Option<String>,
}
