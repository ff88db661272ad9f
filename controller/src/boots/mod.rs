//! Boot attempts as netboot and agents see them: which attempt a request belongs to, what it may
//! fetch, and what its agent must bring up.
//!
//! `netboot` and `api/agent` know packets and frames; what they mean for a node is here. An attempt
//! is opened here only for a node that boots by itself; every other is opened by the reconciler.

mod doors;
pub mod drift;
mod foreign;
mod kexec;
mod plan;
mod scratch;
mod ssh;
mod targets;
#[cfg(test)]
mod tests;

use haas_api::{
    agent::{BootPlan, BootStage, Failure, Proof, StoreReport},
    baseline::Fact,
    check::{CheckReport, CheckState, command_line},
};
use serde_json::{Value, json};
use tracing::{info, warn};

pub use doors::reaches;
pub use foreign::lease_seen;
pub use kexec::{kexec_begun, kexec_failed, next_kernel, note_begun};
pub use plan::{manifest_of, people, plan, preview};
pub use scratch::{erased, erasing};
pub use ssh::certify;
pub use targets::Targets;

use crate::{
    baseline, clock,
    config::Network,
    context::Context,
    exports,
    images::manifest::target_name,
    lend,
    lifecycle::{self, Expected},
    metrics::METRICS,
    model::{Attempt, AttemptState, Node},
    store::{NewEvent, Result, Tx},
};

/// Notes that an attempt has reached a stage; nothing where it was there already.
pub async fn reached(context: &Context, attempt: &str, stage: BootStage) -> Result<()> {
    loop {
        let mut tx = context.store.write().await?;
        let Some(attempt) = tx.attempt(attempt).await? else { return Ok(()) };
        if stage <= attempt.stage || attempt.state != AttemptState::Open {
            return Ok(());
        }
        if attempt.kexec_of.is_some() && stage < BootStage::Agent {
            // The system before has fetched that, and runs: see `kexec_begun`.
            return Ok(());
        }
        if attempt.stage < BootStage::Overlay
            && stage >= BootStage::Overlay
            && let Some(failure) = handed_over(context, &mut tx, &attempt).await?
        {
            drop(tx);
            return held(context, &attempt.id, &failure).await;
        }
        let now = context.clock.now();
        if !tx.advance(&attempt, stage, now).await? {
            // Another report of the same attempt was first; look again at what it left.
            continue;
        }
        if stage == BootStage::Ready {
            let bytes = context.exports.bytes_read(&attempt.initiator);
            tx.set_root_bytes(&attempt.id, i64::try_from(bytes).unwrap_or(i64::MAX)).await?;
            learn(&mut tx, &attempt.id).await?;
        }
        let data = json!({ "boot": attempt.id, "stage": stage });
        let node = event(&mut tx, &attempt, "boot-progressed", data).await?;
        tx.commit().await?;
        METRICS.boot_reached(&attempt, stage, now);
        info!(node, boot = %attempt.id, %stage, "boot progressed");
        context.changed();
        return Ok(());
    }
}

/// The tenant of an attempt comes on its node. The failure says why not.
async fn handed_over(context: &Context, tx: &mut Tx, attempt: &Attempt) -> Result<Option<Failure>> {
    if let Some(failure) = baseline::missed(context, tx, attempt).await? {
        return Ok(Some(failure));
    }
    if let Some(failure) = doors::failure(context, tx, attempt).await? {
        return Ok(Some(failure));
    }
    if let Some(failure) = lend::failure(context, tx, attempt).await? {
        return Ok(Some(failure));
    }
    scratch::hand_over(tx, attempt).await
}

/// Notes what an attempt's agent says of the machine, and answers the plan to go on with; none: the boot
/// is held.
pub async fn baseline_told(
    context: &Context,
    attempt: &str,
    facts: Vec<Fact>,
) -> Result<Option<BootPlan>> {
    if !baseline::told(context, attempt, facts).await? {
        return Ok(None);
    }
    let attempt = context.store.read().await?.attempt(attempt).await?;
    match attempt {
        Some(attempt) => plan(context, &attempt).await,
        None => Ok(None),
    }
}

/// Remembers how long a boot took that is at its end.
async fn learn(tx: &mut Tx, attempt: &str) -> Result<()> {
    let Some(attempt) = tx.attempt(attempt).await? else { return Ok(()) };
    let Some(node) = tx.node_by_id(&attempt.node_id).await? else { return Ok(()) };
    let mut times = node.boot_times;
    if attempt.kexec_of.is_none() {
        // Without firmware it says nothing about how long the next one takes.
        times.add(&attempt.stages);
    }
    tx.set_boot_times(&node.id, &times).await
}

/// Notes that an agent, or what was seen of the node, holds an attempt.
pub async fn held(context: &Context, attempt: &str, failure: &Failure) -> Result<()> {
    let mut tx = context.store.write().await?;
    let Some(attempt) = tx.attempt(attempt).await?.filter(|a| a.state == AttemptState::Open) else {
        return Ok(());
    };
    if attempt.failure.as_ref() == Some(failure) {
        // It was told so before.
        return Ok(());
    }
    tx.set_failure(&attempt.id, Some(failure)).await?;
    let node = event(
        &mut tx,
        &attempt,
        "boot-held",
        json!({ "boot": attempt.id, "stage": failure.stage, "code": failure.code,
            "cause": failure.cause, "retryable": failure.retryable }),
    )
    .await?;
    tx.commit().await?;
    warn!(node, boot = %attempt.id, stage = %failure.stage, code = failure.code, cause = failure.cause, "boot is held");
    context.changed();
    Ok(())
}

/// Notes the overlay store that an attempt's agent has opened.
pub async fn store_opened(context: &Context, attempt: &str, report: &StoreReport) -> Result<()> {
    let mut tx = context.store.write().await?;
    let Some(attempt) = tx.attempt(attempt).await? else { return Ok(()) };
    if attempt.stage >= BootStage::Overlay {
        // From here on users are on the node, and may speak in its agent's name.
        return Ok(());
    }
    let holder = tx.node_with_store(&report.store_id).await?;
    if let Some(holder) = holder.filter(|holder| holder.id != attempt.node_id) {
        // Its agent is told of it before it opens one; an old agent does not look. Nobody was let in
        // yet, and what failed is switched off.
        let failure = Failure::new(
            BootStage::Overlay,
            "store-copied",
            format!(
                "the store {} is node {}'s: what is on the disk here is a copy of it",
                report.store_id, holder.name
            ),
        );
        tx.fail_attempt(&attempt.id, &failure, context.clock.now()).await?;
        tx.commit().await?;
        METRICS.boot_failed(attempt.stage);
        context.exports.reload(&context.store).await?;
        warn!(boot = %attempt.id, cause = failure.cause, "boot has failed");
        context.changed();
        return Ok(());
    }
    if let Some(repaired) = &report.repaired {
        let data =
            json!({ "boot": attempt.id, "store": report.store_id, "e2fsck": shortened(repaired) });
        event(&mut tx, &attempt, "store-repaired", data).await?;
    }
    if report.created {
        // A store that was lost or claimed is given up with what it held, now that another is there.
        tx.forget_shards(&attempt.node_id).await?;
    }
    tx.set_store(&attempt.node_id, Some(&report.store_id), report.generation).await?;
    if let Some(serial) = &report.disk_serial {
        // A claim is for one wipe; what is a store now is not to be wiped by it later.
        tx.claim_disk(&attempt.node_id, serial, false).await?;
    }
    let desired = tx.desired(&attempt.node_id, attempt.generation).await?;
    let (overlay, image) = match desired {
        Some(desired) => (desired.wanted.overlay_id, desired.wanted.image.map(|i| i.name)),
        None => (None, None),
    };
    for shard in &report.shards {
        let image = image.as_deref().filter(|_| overlay.as_deref() == Some(&shard.overlay_id));
        let bytes = i64::try_from(shard.bytes).unwrap_or(i64::MAX);
        tx.shard_mounted(
            &shard.overlay_id,
            &attempt.node_id,
            &report.store_id,
            bytes,
            image,
            clock::wall(),
        )
        .await?;
    }
    for removed in tx.removed_shards(&attempt.node_id).await? {
        if !report.shards.iter().any(|shard| shard.overlay_id == removed) {
            tx.removed_shard_gone(&removed, &attempt.node_id).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// Notes how one of an attempt's ready checks stands.
pub async fn checked(context: &Context, attempt: &str, report: CheckReport) -> Result<()> {
    let mut tx = context.store.write().await?;
    let Some(attempt) = tx.attempt(attempt).await?.filter(|a| a.state == AttemptState::Open) else {
        return Ok(());
    };
    let mut checks = attempt.checks.clone();
    checks.retain(|known| known.position != report.position);
    checks.push(report.clone());
    checks.sort_by_key(|check| check.position);
    tx.set_checks(&attempt.id, &checks).await?;
    let line = command_line(&report.command);
    let is_news = match report.state {
        CheckState::Running => false,
        CheckState::Passed | CheckState::Failed => true,
    };
    if is_news {
        let data = json!({ "boot": attempt.id, "check": line, "state": report.state,
            "outcome": report.outcome, "runs": report.runs });
        event(&mut tx, &attempt, "boot-checked", data).await?;
    }
    tx.commit().await?;
    info!(boot = %attempt.id, check = line, state = ?report.state, outcome = report.outcome, "ready check");
    context.changed();
    Ok(())
}

/// What a proof comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Users are let in.
    Admit,
    /// It is right, and users wait for the other nodes of the operation.
    Hold,
    /// Nobody is let in, and why.
    Refuse(String),
}

/// Compares a proof with what was wanted. A right one makes the attempt ready, unless its agent says
/// itself when users can log in, or they wait for other nodes.
pub async fn proved(context: &Context, attempt: &str, proof: &Proof) -> Result<Judgement> {
    let refuse = |reason: &str| Ok(Judgement::Refuse(reason.to_owned()));
    let mut tx = context.store.read().await?;
    let Some(attempt) = tx.attempt(attempt).await? else {
        return refuse("the attempt is gone");
    };
    if !matches!(attempt.state, AttemptState::Open | AttemptState::Ready) {
        // Its time was up, or the node was given something else: nobody is let in any more.
        return refuse("its boot attempt is over");
    }
    let (Some(node), Some(desired)) = (
        tx.node_by_id(&attempt.node_id).await?,
        tx.desired(&attempt.node_id, attempt.generation).await?,
    ) else {
        return refuse("nothing is wanted of the node");
    };
    drop(tx);
    let Some(image) = desired.wanted.image else {
        return refuse("no image is wanted");
    };
    let expected = Expected {
        // An agent that calls again after its attempt was adopted knows the older generation.
        generation: if attempt.state == AttemptState::Ready {
            proof.generation
        } else {
            attempt.generation
        },
        wwid: exports::wwid(&image.digest),
        target: target_name(&image.digest),
        // In a rescue nothing of the overlay is in use.
        overlay_id: desired.wanted.overlay_id.filter(|_| !desired.wanted.rescue),
        rank: desired.wanted.rank,
        hostname: node.name.clone(),
        address: node.address,
    };
    if attempt.state == AttemptState::Open && attempt.stage < BootStage::Overlay {
        // What its tenant's coming depends on was not so: see `handed_over`.
        let why = attempt.failure.as_ref().map_or("its overlay is not mounted yet", |f| &f.cause);
        return Ok(Judgement::Refuse(why.to_owned()));
    }
    match lifecycle::check_proof(proof, &expected) {
        Ok(()) => {
            if let Some(operation) = &desired.wanted.operation_id
                && is_held(context, &attempt, operation).await?
            {
                return Ok(Judgement::Hold);
            }
            if !proof.says_ready {
                reached(context, &attempt.id, BootStage::Ready).await?;
            }
            Ok(Judgement::Admit)
        }
        Err(differences) => {
            let reason = differences.join("; ");
            let failure =
                Failure::new(BootStage::Userspace, "wrong-proof", format!("not ready: {reason}"));
            held(context, &attempt.id, &failure).await?;
            Ok(Judgement::Refuse(reason))
        }
    }
}

/// Whether the users of a boot that is proved wait for the other nodes of its operation. That they do is
/// noted in the transaction that looks, so that the commit, whenever it comes, finds the boot.
async fn is_held(context: &Context, attempt: &Attempt, operation: &str) -> Result<bool> {
    let mut tx = context.store.write().await?;
    if !tx.operation_holds_logins(operation, &attempt.node_id, attempt.generation).await? {
        return Ok(false);
    }
    // Where the wanted system ran already, its users are in.
    let Some(attempt) = tx.attempt(&attempt.id).await?.filter(|a| a.state == AttemptState::Open)
    else {
        return Ok(false);
    };
    if tx.hold_attempt(&attempt.id, context.clock.now()).await? {
        let node = event(&mut tx, &attempt, "boot-prepared", json!({ "boot": attempt.id })).await?;
        tx.commit().await?;
        info!(node, boot = %attempt.id, "boot is proved and waits for the others of its operation");
        context.changed();
    }
    Ok(true)
}

/// Whoever speaks on the node must not fill the controller's disk.
fn shortened(text: &str) -> String {
    text.chars().take(1_000).collect()
}

/// The network that a node boots from.
pub fn network_of<'a>(context: &'a Context, node: &Node) -> Option<&'a Network> {
    let address = node.address?;
    context.config.networks.iter().find(|network| network.cidr.contains(&address))
}

/// Adds an event about an attempt, and answers its node's name.
async fn event(tx: &mut Tx, attempt: &Attempt, kind: &str, data: Value) -> Result<String> {
    let node = tx.node_name(&attempt.node_id).await?.unwrap_or_else(|| attempt.node_id.clone());
    let operation = tx.operation_of(&attempt.node_id, attempt.generation).await?;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind,
        node: Some(&node),
        operation: operation.as_deref(),
        actor: "haasd",
        data,
        tenant: None,
    })
    .await?;
    Ok(node)
}
