//! Taking nodes of an operation back to what they were before it. Written like every other request: a
//! desired state with the next generation that copies the one before the operation.

use haas_api::{names::ImageRef, operation::NodeProgress};
use serde_json::json;

use super::plan;
use crate::{
    clock,
    model::{Desired, NewDesired, Node, Operation},
    store::{NewEvent, Result, Tx},
};

/// Which nodes of an operation go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// All of them.
    All,
    /// Those that have not begun: what they run goes on as if nothing had been asked.
    NotBegun,
}

/// Writes for the nodes of `operation`, as it is in this transaction, what was wanted of them before.
/// Nodes that a later request has taken over are left to it. Answers how many go back.
pub(crate) async fn send_back(
    tx: &mut Tx,
    operation: &Operation,
    which: Which,
    actor: &str,
    actor_id: &str,
) -> Result<usize> {
    let mut sent = 0;
    for entry in &operation.nodes {
        let node = tx.node_by_id(&entry.node_id).await?;
        let Some(node) = node.filter(|node| node.generation == entry.generation) else { continue };
        let is_meant = match which {
            Which::All => true,
            Which::NotBegun => !has_begun(tx, &node, entry.state).await?,
        };
        if !is_meant || entry.goes_back {
            continue;
        }
        let wanted = NewDesired {
            cause: "rollback".to_owned(),
            actor: actor.to_owned(),
            actor_id: actor_id.to_owned(),
            operation_id: Some(operation.id.clone()),
            ..before(tx, &node).await?
        };
        if is_gone(tx, &wanted).await? {
            let (state, why) =
                (NodeProgress::Failed, "the image or overlay that it had was removed");
            tx.set_operation_node(&operation.id, &node.id, entry.generation, state, why).await?;
            continue;
        }
        let generation = tx.add_desired(&node, &wanted, clock::wall()).await?;
        let failure = Some(entry.reason.as_str()).filter(|_| entry.state == NodeProgress::Failed);
        tx.send_operation_node_back(&operation.id, &node.id, generation, failure).await?;
        tx.add_event(NewEvent {
            at: clock::wall(),
            kind: "desired-changed",
            node: Some(node.name.as_str()),
            operation: Some(&operation.id),
            actor,
            data: json!({ "generation": generation, "back": true }),
            tenant: None,
        })
        .await?;
        sent += 1;
    }
    Ok(sent)
}

/// Wants again what a node runs, since that may not be ended: it has failed its operation, and goes
/// back. False where a later request has taken the node over.
pub(crate) async fn keep_running(
    tx: &mut Tx,
    node: &Node,
    (attempt, runs): (&str, &Desired),
    reason: &str,
) -> Result<bool> {
    let now = tx.node_by_id(&node.id).await?;
    let Some(now) = now.filter(|now| now.generation == node.generation) else {
        return Ok(false);
    };
    let asked = tx.desired(&node.id, node.generation).await?;
    let operation_id = asked.and_then(|asked| asked.wanted.operation_id);
    let wanted = NewDesired {
        forced: false,
        reboot: false,
        boot_once: None,
        kexec_from: None,
        cause: "rollback".to_owned(),
        // Who may log in there stays as it was.
        actor: "haasd".to_owned(),
        operation_id: operation_id.clone(),
        ..runs.wanted.clone()
    };
    let generation = tx.add_desired(&now, &wanted, clock::wall()).await?;
    // At once: a root that has started another kernel by itself would be asked for again and again.
    tx.adopt_attempt(attempt, generation).await?;
    if let Some(operation) = &operation_id {
        tx.send_operation_node_back(operation, &node.id, generation, Some(reason)).await?;
    }
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind: "desired-changed",
        node: Some(node.name.as_str()),
        operation: operation_id.as_deref(),
        actor: "haasd",
        data: json!({ "generation": generation, "back": true }),
        tenant: None,
    })
    .await?;
    Ok(true)
}

/// Whether a node has begun to end what it ran, or more.
async fn has_begun(tx: &mut Tx, node: &Node, known: NodeProgress) -> Result<bool> {
    let boot = tx.last_attempt(&node.id).await?;
    // One whose drain hook has yet to let haasd go on runs as it did.
    let call = tx.hook_call(&node.id).await?;
    let is_put_off = call.is_some_and(|c| c.generation == node.generation && !c.goes_on);
    Ok((known != NodeProgress::Waiting && !is_put_off)
        || node.ending.is_some()
        || boot.is_some_and(|boot| boot.generation == node.generation))
}

/// What was wanted of a node before its present generation. One of which nothing was ever wanted is to
/// be off.
async fn before(tx: &mut Tx, node: &Node) -> Result<NewDesired> {
    let Some(before) = tx.desired(&node.id, node.generation - 1).await? else {
        return Ok(plan::nothing());
    };
    let wanted = before.wanted;
    Ok(NewDesired {
        // What was started out of haasd's hands, once, has no image perhaps.
        power_on: wanted.power_on && wanted.image.is_some(),
        forced: false,
        reboot: false,
        boot_once: None,
        kexec_from: None,
        ..wanted
    })
}

/// Whether what was wanted cannot be any more.
async fn is_gone(tx: &mut Tx, wanted: &NewDesired) -> Result<bool> {
    if !wanted.power_on {
        return Ok(false);
    }
    if let Some(image) = &wanted.image
        && tx.resolve_image(&ImageRef::Digest(image.digest.clone())).await?.is_none()
    {
        return Ok(true);
    }
    match &wanted.overlay_id {
        Some(id) => Ok(tx.overlay_by_id(id).await?.is_none()),
        None => Ok(false),
    }
}
