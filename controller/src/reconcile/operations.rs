//! Operations: whose turn it is, and how each node of each stands.

use std::collections::HashMap;

use haas_api::operation::{NodeProgress, OperationState};
use serde_json::json;
use tracing::info;

use super::Loaded;
use crate::{
    clock,
    context::Context,
    lifecycle::{Standing, Step},
    model::{Micros, Operation, OperationNode, SECOND},
    store::{NewEvent, Result, Tx},
};

/// For each node of a running operation with `at_most`, whether it is among the first that are not
/// there yet. Nodes of no such operation are absent: nobody goes before them.
pub(super) async fn turns(tx: &mut Tx) -> Result<HashMap<String, bool>> {
    let mut turns = HashMap::new();
    for operation in tx.running_operations().await? {
        let Some(at_most) = operation.at_most else { continue };
        let unfinished = operation.nodes.iter().filter(|n| !is_over(n.state));
        for (position, node) in unfinished.enumerate() {
            turns.insert(node.node_id.clone(), position < at_most as usize);
        }
    }
    Ok(turns)
}

/// How long a running operation waits for an agent that is silent on a node which is on.
const SILENT_AGENT: Micros = 60 * SECOND;

fn is_over(state: NodeProgress) -> bool {
    match state {
        NodeProgress::Waiting | NodeProgress::Running => false,
        NodeProgress::Succeeded | NodeProgress::Failed | NodeProgress::Superseded => true,
    }
}

/// Brings every running operation up to date with its nodes, and ends those that are over.
pub(super) async fn update(
    context: &Context,
    nodes: &HashMap<String, (Loaded, Step)>,
) -> Result<()> {
    let mut tx = context.store.read().await?;
    let running = tx.running_operations().await?;
    drop(tx);
    for operation in running {
        // It began after this pass had read its nodes; the next one sees both.
        let is_ahead =
            |(loaded, _): &(Loaded, Step), generation| loaded.node.generation < generation;
        if operation
            .nodes
            .iter()
            .any(|n| nodes.get(&n.node_id).is_some_and(|node| is_ahead(node, n.generation)))
        {
            continue;
        }
        let news: Vec<_> = operation
            .nodes
            .iter()
            .map(|n| (n, progress(nodes.get(&n.node_id), n, &operation)))
            .filter(|(n, (state, reason))| n.state != *state || n.reason != *reason)
            .collect();
        let over = operation
            .nodes
            .iter()
            .all(|n| is_over(progress(nodes.get(&n.node_id), n, &operation).0));
        if news.is_empty() && !over {
            continue;
        }
        let mut tx = context.store.write().await?;
        for (node, (state, reason)) in &news {
            if tx.set_operation_node(&operation.id, &node.node_id, *state, reason).await? {
                let name = nodes.get(&node.node_id).map(|(l, _)| l.node.name.as_str());
                tx.add_event(NewEvent {
                    at: clock::wall(),
                    kind: "operation-progressed",
                    node: name,
                    operation: Some(&operation.id),
                    actor: "haasd",
                    data: json!({ "state": state, "reason": reason }),
                    tenant: None,
                })
                .await?;
            }
        }
        if over {
            end(&mut tx, &operation, nodes).await?;
        }
        tx.commit().await?;
        if operation.at_most.is_some() && news.iter().any(|(_, (state, _))| is_over(*state)) {
            // It is the next one's turn.
            context.changed();
        } else {
            context.told();
        }
    }
    Ok(())
}

async fn end(
    tx: &mut Tx,
    operation: &Operation,
    nodes: &HashMap<String, (Loaded, Step)>,
) -> Result<()> {
    let failed = operation
        .nodes
        .iter()
        .filter(|n| progress(nodes.get(&n.node_id), n, operation).0 != NodeProgress::Succeeded)
        .count();
    let state = if failed == 0 { OperationState::Succeeded } else { OperationState::Failed };
    if tx.end_operation(&operation.id, state, clock::wall()).await? {
        info!(operation = %operation.id, ?state, failed, "operation ended");
        tx.add_event(NewEvent {
            at: clock::wall(),
            kind: "operation-ended",
            node: None,
            operation: Some(&operation.id),
            actor: "haasd",
            data: json!({ "state": state, "failed": failed }),
            tenant: None,
        })
        .await?;
    }
    Ok(())
}

/// How one node stands towards the generation that an operation gave it.
fn progress(
    node: Option<&(Loaded, Step)>,
    known: &OperationNode,
    operation: &Operation,
) -> (NodeProgress, String) {
    let generation = known.generation;
    let Some((loaded, step)) = node else {
        return (NodeProgress::Failed, "the inventory no longer names it".to_owned());
    };
    if loaded.node.generation > generation {
        return (NodeProgress::Superseded, "a later request took it over".to_owned());
    }
    if loaded.node.generation < generation {
        // The operation was written after the node was read: the next pass sees both.
        return (NodeProgress::Waiting, "accepted".to_owned());
    }
    match step {
        Step::Converged(Standing::Unmanaged) => {
            (NodeProgress::Failed, "it was taken away from haasd".to_owned())
        }
        Step::Converged(Standing::Idle) => {
            (NodeProgress::Failed, "nothing is wanted of it".to_owned())
        }
        Step::Converged(Standing::Off) => (NodeProgress::Succeeded, "off".to_owned()),
        Step::Converged(Standing::HandedOver) => {
            (NodeProgress::Succeeded, "started, out of haasd's hands".to_owned())
        }
        Step::Converged(Standing::Ready | Standing::PoweredOff) => {
            (NodeProgress::Succeeded, "ready".to_owned())
        }
        // It was there, and what happens to it later is no matter of this operation.
        Step::Converged(Standing::Unreachable | Standing::Kexec)
            if known.state == NodeProgress::Succeeded =>
        {
            (NodeProgress::Succeeded, known.reason.clone())
        }
        Step::Converged(Standing::Unreachable)
            if clock::wall() - operation.created_at < SILENT_AGENT =>
        {
            (NodeProgress::Running, "it is on; waits for its agent to call".to_owned())
        }
        Step::Converged(Standing::Unreachable | Standing::Kexec) => {
            let reason = "it is on and its agent is silent; say --force to have it booted anew";
            (NodeProgress::Failed, reason.to_owned())
        }
        Step::Queued => (NodeProgress::Waiting, "waits for its turn".to_owned()),
        Step::Wait { reason, .. } => (NodeProgress::Running, reason.clone()),
        Step::Do(_) => {
            let works = loaded.node.power_error.clone().unwrap_or_else(|| "works".to_owned());
            (NodeProgress::Running, works)
        }
        Step::Fault(fault) => (NodeProgress::Failed, fault.reason.clone()),
    }
}
