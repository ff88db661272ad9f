//! Pausing, resuming and aborting an operation that is under way.

use haas_api::operation::OperationState;
use serde_json::json;
use tracing::info;

use super::{RequestError, Which, send_back};
use crate::{
    auth::{Object, Principal, Verb, authorize},
    clock,
    context::Context,
    model::{Desired, Operation},
    store::{NewEvent, Tx},
};

/// What to do with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// Nodes that are under way go on, no other one begins, and nothing is committed or taken back.
    Pause,
    /// It goes on after a pause.
    Resume,
    /// Where it is one transaction, all nodes go back to what they ran before; else those stay as they
    /// were that have not begun.
    Abort,
}

/// Pauses, resumes or aborts the operation of this id, if the caller may switch its nodes. What is so
/// already is no error.
pub async fn steer(
    context: &Context,
    principal: &Principal,
    id: &str,
    steer: Steer,
) -> Result<Operation, RequestError> {
    let mut tx = context.store.write().await?;
    let absent = || RequestError::NoOperation(id.to_owned());
    let operation = tx.operation(id).await?.ok_or_else(absent)?;
    let deed = Object::Deed { actor: Some(&operation.actor_id), tenant: &operation.tenant };
    authorize(principal, Verb::View, deed).map_err(|_| absent())?;
    may_switch(&mut tx, principal, &operation).await?;
    let Some(kind) = write(&mut tx, principal, &operation, steer).await? else {
        return Ok(operation);
    };
    let operation = tx.operation(id).await?.ok_or_else(absent)?;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind,
        node: None,
        operation: Some(id),
        actor: principal.name.as_str(),
        data: json!({ "state": operation.state, "reason": operation.reason }),
        tenant: None,
    })
    .await?;
    tx.commit().await?;
    info!(operation = id, actor = %principal.name, ?steer, "operation steered");
    context.changed();
    Ok(operation)
}

/// Whoever may switch the nodes of an operation may steer it.
async fn may_switch(
    tx: &mut Tx,
    principal: &Principal,
    operation: &Operation,
) -> Result<(), RequestError> {
    for entry in &operation.nodes {
        let Some(node) = tx.node_by_id(&entry.node_id).await? else { continue };
        let desired = tx.desired(&node.id, node.generation).await?;
        let tenant = desired.as_ref().and_then(Desired::tenant);
        let (name, groups) = (node.name.as_str(), &node.spec.groups);
        authorize(principal, Verb::Use, Object::Node { name, groups, tenant })?;
    }
    Ok(())
}

/// Writes it, and answers the kind of its event; none if it is so already.
async fn write(
    tx: &mut Tx,
    principal: &Principal,
    operation: &Operation,
    steer: Steer,
) -> Result<Option<&'static str>, RequestError> {
    use OperationState::{Failed, Paused, RolledBack, RollingBack, Running, Succeeded};
    let late = |why: &str| Err(RequestError::TooLate(format!("{}: {why}", operation.id)));
    let (id, from) = (&operation.id, operation.state);
    match (steer, from) {
        (_, Succeeded | Failed | RolledBack) => late("the operation is over"),
        (Steer::Pause, Paused) | (Steer::Resume, Running) | (Steer::Abort, RollingBack) => Ok(None),
        (Steer::Pause | Steer::Resume, RollingBack) => {
            late("it goes back already, which ends by itself")
        }
        (Steer::Pause, Running) => {
            tx.turn_operation(id, from, Paused, &operation.reason).await?;
            Ok(Some("operation-paused"))
        }
        (Steer::Resume, Paused) => {
            tx.turn_operation(id, from, Running, &operation.reason).await?;
            Ok(Some("operation-resumed"))
        }
        (Steer::Abort, Running | Paused) if operation.committed_at.is_some() => {
            late("it is committed, and users are let in; `haasctl rollback` takes the nodes back")
        }
        (Steer::Abort, Running | Paused) => {
            let (which, to) = match operation.min_success {
                Some(_) => (Which::All, RollingBack),
                None => (Which::NotBegun, Running),
            };
            let (actor, actor_id) = (principal.name.as_str(), &principal.user_id);
            send_back(tx, operation, which, actor, actor_id).await?;
            tx.turn_operation(id, from, to, &format!("aborted by {actor}")).await?;
            Ok(Some("operation-aborted"))
        }
    }
}
