//! Having what runs start the next kernel in place of the firmware (ADR 0011). When is decided in
//! `lifecycle/kexec.rs`; what the agent is told is made in `boots/kexec.rs`.
//!
//! The attempt is open before its kernel is spoken of, and that its agent was told is noted before it
//! is: an agent that calls again is told again (api/agent.rs), and loads the same once.

use haas_api::agent::{Failure, ToAgent};
use serde_json::json;
use tracing::{info, warn};

use super::{
    Loaded,
    act::{event, new_attempt},
};
use crate::{
    boots,
    context::Context,
    lifecycle,
    metrics::METRICS,
    model::{Attempt, AttemptState, Cause, Ending},
    store::{Result, StoreError},
    tokens,
};

/// Opens the attempt whose kernel is to be started, beside the one that runs.
pub(super) async fn open(context: &Context, loaded: &Loaded) -> Result<()> {
    let (node, Some(runs)) = (&loaded.node, &loaded.attempt) else { return Ok(()) };
    let attempt =
        Attempt { kexec_of: Some(runs.id.clone()), ..new_attempt(context, node, Cause::Kexec) };
    let token = context.master_key.boot_token(&attempt.id);
    let mut tx = context.store.write().await?;
    let last = tx.last_attempt(&node.id).await?;
    let is_same = last.is_some_and(|a| a.id == runs.id && a.state == AttemptState::Ready);
    let now = tx.node_by_id(&node.id).await?;
    if !is_same || now.is_none_or(|now| now.generation != node.generation) {
        return Err(StoreError::Conflict(format!("node {}", node.name)));
    }
    tx.open_beside(&attempt, &tokens::hash(token.expose())).await?;
    let data = json!({ "boot": attempt.id, "cause": attempt.cause.as_str() });
    event(&mut tx, node, "boot-opened", data).await?;
    tx.commit().await?;
    METRICS.boot_started(attempt.cause);
    info!(node = %node.name, boot = %attempt.id, before = %runs.id, generation = attempt.generation,
        "boot attempt opened, for what runs to start its kernel");
    // Its initiator logs in once the old one's session is closed.
    context.exports.reload(&context.store).await?;
    context.told();
    Ok(())
}

/// Has the agent start the kernel of the next attempt.
pub(super) async fn tell(context: &Context, loaded: &Loaded) -> Result<()> {
    let (node, Some(runs), Some(next)) = (&loaded.node, &loaded.attempt, &loaded.next) else {
        return Ok(());
    };
    let kernel = match boots::next_kernel(context, node, next).await? {
        Ok(kernel) => kernel,
        Err(cause) => {
            let code = lifecycle::KEXEC_NOT_DONE.to_owned();
            let (stage, kernel_log) = (next.stage, Vec::new());
            let failure = Failure { stage, code, cause, kernel_log, retryable: false };
            return give_up(context, loaded, &failure).await;
        }
    };
    let mut tx = context.store.write().await?;
    tx.set_ending(&node.id, Some((Ending::Kexec, context.clock.now()))).await?;
    event(&mut tx, node, "kexec-asked", json!({ "boot": next.id })).await?;
    tx.commit().await?;
    info!(node = %node.name, boot = %next.id, before = %runs.id, "asks the agent to start the next kernel");
    if !context.agents.tell(&runs.id, ToAgent::Kexec(Box::new(kernel))) {
        warn!(node = %node.name, "its agent is not connected now; it is told when it calls");
    }
    context.told();
    Ok(())
}

/// What ran has said that it starts the next kernel.
pub(super) async fn begun(context: &Context, loaded: &Loaded) -> Result<()> {
    let Some(next) = &loaded.next else { return Ok(()) };
    boots::kexec_begun(context, next).await
}

/// What runs does not start the kernel of the next attempt, which has failed.
pub(super) async fn give_up(context: &Context, loaded: &Loaded, failure: &Failure) -> Result<()> {
    let (node, Some(next)) = (&loaded.node, &loaded.next) else { return Ok(()) };
    let mut tx = context.store.write().await?;
    if !tx.fail_beside(&next.id, failure, context.clock.now()).await? {
        // Its kernel has begun meanwhile.
        return Ok(());
    }
    let refused = |said: &Failure| said.code == lifecycle::KEXEC_NOT_DONE;
    if next.failure.as_ref().is_some_and(refused) && node.goodbye.is_none() {
        // Its agent said so, and has ended nothing.
        tx.set_ending(&node.id, None).await?;
    }
    let data = json!({ "boot": next.id, "stage": failure.stage, "code": failure.code, "cause": failure.cause });
    event(&mut tx, node, "boot-failed", data).await?;
    tx.commit().await?;
    METRICS.boot_failed(next.stage);
    warn!(node = %node.name, boot = %next.id, cause = failure.cause,
        "what runs does not start the next kernel: the node is ended and booted as ever");
    context.exports.reload(&context.store).await?;
    context.told();
    Ok(())
}
