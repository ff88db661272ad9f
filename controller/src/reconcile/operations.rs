//! Operations: how each node of each stands, and what is to become of the whole.

use std::collections::HashMap;

use haas_api::operation::{NodeProgress, OperationState};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{
    Loaded,
    verdict::{self, Verdict},
};
use crate::{
    clock,
    context::Context,
    lifecycle::{Action, Standing, Step},
    model::{Micros, Operation, OperationNode, SECOND},
    requests::{Which, send_back},
    store::{NewEvent, Result, Tx},
};

/// Who acts where nobody asked at that moment.
const SELF: &str = "haasd";

/// How long a running operation waits for an agent that is silent on a node which is on.
const SILENT_AGENT: Micros = 60 * SECOND;

/// Brings every operation that is not over up to date with its nodes, and does what is due with it:
/// commits it, takes it back, or ends it.
pub(super) async fn update(
    context: &Context,
    nodes: &HashMap<String, (Loaded, Step)>,
) -> Result<()> {
    let mut tx = context.store.read().await?;
    let running = tx.running_operations().await?;
    drop(tx);
    for known in running {
        // It began after this pass had read its nodes; the next one sees both.
        let is_ahead =
            |(loaded, _): &(Loaded, Step), generation| loaded.node.generation < generation;
        if known
            .nodes
            .iter()
            .any(|n| nodes.get(&n.node_id).is_some_and(|node| is_ahead(node, n.generation)))
        {
            continue;
        }
        let mut now = known.clone();
        for node in &mut now.nodes {
            (node.state, node.reason) = progress(nodes.get(&node.node_id), node, &known);
        }
        let news: Vec<&OperationNode> =
            now.nodes.iter().zip(&known.nodes).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
        let verdict = verdict::of(&now);
        if news.is_empty() && verdict == Verdict::GoOn {
            continue;
        }
        let mut tx = context.store.write().await?;
        for node in &news {
            let name = nodes.get(&node.node_id).map(|(l, _)| l.node.name.as_str());
            tell_of_node(&mut tx, &now, node, name).await?;
        }
        let mut released = Vec::new();
        if verdict != Verdict::GoOn {
            // Where somebody paused or aborted it meanwhile, the next pass judges it as it is then.
            let stored = tx.operation(&known.id).await?;
            if stored.is_some_and(|stored| is_same_but_for_states(&stored, &known)) {
                released = execute(context, &mut tx, &now, &verdict).await?;
            }
        }
        tx.commit().await?;
        for attempt in released {
            // One that is not connected now proves again when it calls, and is told then.
            context.agents.tell(&attempt, haas_api::agent::ToAgent::Admit);
        }
        if verdict != Verdict::GoOn || news.iter().any(|n| n.state.is_over() || is_held(n)) {
            // It is the next one's turn.
            context.changed();
        } else {
            context.told();
        }
    }
    Ok(())
}

fn is_held(node: &OperationNode) -> bool {
    node.state == NodeProgress::Prepared
}

/// Whether nobody has steered it since, nor sent nodes of it back.
fn is_same_but_for_states(a: &Operation, b: &Operation) -> bool {
    a.state == b.state
        && a.committed_at == b.committed_at
        && a.nodes.iter().zip(&b.nodes).all(|(a, b)| a.generation == b.generation)
}

async fn tell_of_node(
    tx: &mut Tx,
    operation: &Operation,
    node: &OperationNode,
    name: Option<&str>,
) -> Result<()> {
    let (id, state, reason) = (&operation.id, node.state, &node.reason);
    if tx.set_operation_node(id, &node.node_id, node.generation, state, reason).await? {
        tx.add_event(NewEvent {
            at: clock::wall(),
            kind: "operation-progressed",
            node: name,
            operation: Some(id),
            actor: SELF,
            data: json!({ "state": state, "reason": reason }),
            tenant: None,
        })
        .await?;
    }
    Ok(())
}

/// Does what was judged. Answers the attempts whose users are let in by it.
async fn execute(
    context: &Context,
    tx: &mut Tx,
    operation: &Operation,
    verdict: &Verdict,
) -> Result<Vec<String>> {
    let id = &operation.id;
    match verdict {
        Verdict::GoOn => {}
        Verdict::Commit => {
            if tx.commit_operation(id, clock::wall()).await? {
                info!(operation = %id, "operation committed");
                tell(tx, id, "operation-committed", Value::Null).await?;
                return tx.release_attempts(id, context.clock.now()).await;
            }
        }
        Verdict::GoBack(reason) => {
            send_back(tx, operation, Which::All, SELF, "").await?;
            tx.turn_operation(id, operation.state, OperationState::RollingBack, reason).await?;
            warn!(operation = %id, reason, "operation goes back");
            tell(tx, id, "operation-rolling-back", json!({ "reason": reason })).await?;
        }
        Verdict::Stop(reason) => {
            send_back(tx, operation, Which::NotBegun, SELF, "").await?;
            tx.turn_operation(id, operation.state, operation.state, reason).await?;
            warn!(operation = %id, reason, "operation stops");
            tell(tx, id, "operation-stopped", json!({ "reason": reason })).await?;
        }
        Verdict::End(state) => {
            let there = |n: &&OperationNode| n.state == NodeProgress::Succeeded;
            let failed = operation.nodes.len() - operation.nodes.iter().filter(there).count();
            if tx.end_operation(id, *state, clock::wall()).await? {
                info!(operation = %id, ?state, failed, "operation ended");
                let data = json!({ "state": state, "failed": failed });
                tell(tx, id, "operation-ended", data).await?;
            }
        }
    }
    Ok(Vec::new())
}

async fn tell(tx: &mut Tx, operation: &str, kind: &str, data: Value) -> Result<()> {
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind,
        node: None,
        operation: Some(operation),
        actor: SELF,
        data,
        tenant: None,
    })
    .await?;
    Ok(())
}

/// How one node stands towards the generation that an operation gave it.
fn progress(
    node: Option<&(Loaded, Step)>,
    known: &OperationNode,
    operation: &Operation,
) -> (NodeProgress, String) {
    let (state, reason) = towards(node, known, operation);
    match state {
        NodeProgress::Succeeded if known.goes_back => {
            (NodeProgress::RolledBack, "as it was before".to_owned())
        }
        state => (state, reason),
    }
}

fn towards(
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
        Step::Converged(Standing::Prepared) => {
            (NodeProgress::Prepared, "ready; waits for the others".to_owned())
        }
        // It was there, or was so before, and what happens to it later is no matter of this operation.
        Step::Converged(
            Standing::Unreachable | Standing::Lost | Standing::Held | Standing::Kexec,
        ) if known.state == NodeProgress::Succeeded || known.goes_back => {
            (NodeProgress::Succeeded, known.reason.clone())
        }
        Step::Converged(Standing::Unreachable | Standing::Lost)
            if clock::wall() - operation.created_at < SILENT_AGENT =>
        {
            (NodeProgress::Running, "it is on; waits for its agent to call".to_owned())
        }
        Step::Converged(Standing::Held) => {
            let why = loaded.node.drain.as_ref().map(|drain| format!(": {}", drain.reason));
            let why = why.unwrap_or_default();
            (NodeProgress::Failed, format!("it was taken out of service{why}"))
        }
        Step::Converged(Standing::Lost) => {
            (NodeProgress::Failed, "neither its agent nor its BMC answers".to_owned())
        }
        Step::Converged(Standing::Unreachable | Standing::Kexec) => {
            let reason = "it is on and its agent is silent; say --force to have it booted anew";
            (NodeProgress::Failed, reason.to_owned())
        }
        Step::Queued => (NodeProgress::Waiting, "waits for its turn".to_owned()),
        Step::Wait { reason, .. } => (NodeProgress::Running, reason.clone()),
        Step::Do(Action::AskHook) => (NodeProgress::Running, "asks the drain hook".to_owned()),
        Step::Do(_) => {
            let works = loaded.node.power_error.clone().unwrap_or_else(|| "works".to_owned());
            (NodeProgress::Running, works)
        }
        Step::Fault(fault) => (NodeProgress::Failed, fault.reason.clone()),
    }
}
