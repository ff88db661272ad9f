//! Operations for the tests of what is decided about them.

use haas_api::operation::{NodeProgress, OperationState, Strategy};

use crate::model::{Operation, OperationNode};

/// A switch whose nodes stand like this.
pub(super) fn operation(states: &[NodeProgress]) -> Operation {
    let node = |(number, state): (usize, &NodeProgress)| OperationNode {
        node_id: format!("n{number}"),
        generation: 2,
        goes_back: false,
        state: *state,
        reason: String::new(),
        failure: None,
    };
    Operation {
        id: "operation".into(),
        kind: "switch".into(),
        actor: "admin".into(),
        actor_id: "admin-id".into(),
        tenant: "admin-id".into(),
        summary: "switch".into(),
        key: None,
        request: String::new(),
        at_most: None,
        strategy: Strategy::All,
        min_success: None,
        committed_at: None,
        state: OperationState::Running,
        reason: String::new(),
        created_at: 1,
        ended_at: None,
        nodes: states.iter().enumerate().map(node).collect(),
    }
}
