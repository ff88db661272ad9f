//! Whether a machine is as it was before its last tenant: accounts and network of its BMC, firmware, and
//! what it starts from.
//!
//! It is looked at when a node goes from one tenant to another: at the BMC before the node is switched on,
//! and by the agent before it is given the boot's secrets and anything of the tenant's is there. What is
//! told first is recorded; what differs later quarantines the node until an admin has accepted or mended
//! it. Where and when, and why so: docs/adr/0012.

mod differences;
#[cfg(test)]
mod tests;

use haas_api::{
    agent::{BootStage, Failure},
    baseline::{self as api, Difference, Fact, Facts, NodeBaseline, Source},
};
use serde_json::json;
use tracing::{info, warn};

pub(crate) use differences::differences;

use crate::{
    clock,
    context::Context,
    errors::chain,
    model::{Attempt, AttemptState, Desired, Drain, DrainState, Node},
    power::{self, PowerError},
    store::{BaselineRow, NewEvent, Result, Tx},
};

/// The code of a boot that is held since the machine is not as it was.
pub(crate) const DIFFERS: &str = "baseline-differs";

/// What the reason of such a quarantine begins with.
const REASON: &str = "not as its baseline: ";

/// Differences that are told in a sentence; all stand in the event.
const TOLD: usize = 3;

/// What is still to be looked at in a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// How it is, to be recorded: nothing is known to compare it with.
    First,
    /// Whether it is as it was, before anybody gets the node.
    Comparison,
}

/// What is still to be looked at by this source before the tenant of this desired state gets the node.
pub(crate) async fn due(
    context: &Context,
    tx: &mut Tx,
    node: &Node,
    desired: &Desired,
    source: Source,
) -> Result<Due> {
    // Whoever has a node booted that is out of service is an admin, and mends it perhaps.
    let is_out = node.drain.as_ref().is_some_and(|drain| {
        drain.state.keeps_hands_off() && desired.generation > drain.generation
    });
    if !context.config.baseline.check || is_out {
        return Ok(Due::Nothing);
    }
    if tx.tenancy(&node.id).await?.checked_for.as_ref() == Some(&desired.wanted.tenant) {
        return Ok(Due::Nothing);
    }
    let recorded = tx.baseline(&node.id).await?.recorded;
    Ok(if knows(&recorded, source) { Due::Comparison } else { Due::First })
}

fn knows(facts: &Facts, source: Source) -> bool {
    facts.keys().any(|part| part.source() == source)
}

/// Looks at the BMC of a node that is off and shall start. Whether it may.
pub(crate) async fn ask_bmc(
    context: &Context,
    node: &Node,
    attempt: &Attempt,
    desired: &Desired,
) -> Result<std::result::Result<bool, PowerError>> {
    let mut tx = context.store.read().await?;
    let due = due(context, &mut tx, node, desired, Source::Bmc).await?;
    drop(tx);
    if due == Due::Nothing {
        return Ok(Ok(true));
    }
    let facts = match power::baseline(&node.spec.power).await {
        Ok(Some(facts)) => facts,
        Ok(None) => return Ok(Ok(true)),
        // There is nothing to compare with; it is tried again with the next start.
        Err(error) if due == Due::First => {
            warn!(node = %node.name, error = chain(&error), "the BMC does not tell its baseline");
            return Ok(Ok(true));
        }
        Err(error) => return Ok(Err(error)),
    };
    let mut tx = context.store.write().await?;
    // The BMC has taken its time: something else may be wanted by now.
    let Some(node) = tx.node_by_id(&node.id).await? else { return Ok(Ok(false)) };
    let is_open = |a: &Attempt| a.state == AttemptState::Open;
    if node.generation != desired.generation
        || !tx.attempt(&attempt.id).await?.is_some_and(|a| is_open(&a))
    {
        return Ok(Ok(false));
    }
    tx.set_baseline_asked(&node.id, clock::wall(), None).await?;
    let is_as_it_was = seen(&mut tx, &node, attempt, api::bounded(facts), Source::Bmc).await?;
    tx.commit().await?;
    context.changed();
    Ok(Ok(is_as_it_was))
}

/// Notes what an attempt's agent has found. Whether the boot may go on.
pub(crate) async fn told(context: &Context, attempt: &str, facts: Vec<Fact>) -> Result<bool> {
    let mut tx = context.store.write().await?;
    // Later there may be users on the node, who speak in its name.
    let is_early = |a: &Attempt| a.state == AttemptState::Open && a.stage < BootStage::Root;
    let Some(attempt) = tx.attempt(attempt).await?.filter(is_early) else { return Ok(true) };
    let node = tx.node_by_id(&attempt.node_id).await?;
    let desired = tx.desired(&attempt.node_id, attempt.generation).await?;
    let (Some(node), Some(desired)) = (node, desired) else { return Ok(true) };
    if is_held_for_it(&node, attempt.generation) {
        return Ok(false);
    }
    if due(context, &mut tx, &node, &desired, Source::Agent).await? == Due::Nothing {
        return Ok(attempt.failure.is_none_or(|failure| failure.code != DIFFERS));
    }
    let is_as_it_was = seen(&mut tx, &node, &attempt, api::told(facts), Source::Agent).await?;
    if is_as_it_was {
        tx.set_checked_for(&node.id, &desired.wanted.tenant).await?;
    }
    tx.commit().await?;
    context.changed();
    Ok(is_as_it_was)
}

/// The failure of a boot that has come so far without the comparison that is due: its agent is not ours, or
/// older than this haasd.
pub(crate) async fn missed(
    context: &Context,
    tx: &mut Tx,
    attempt: &Attempt,
) -> Result<Option<Failure>> {
    let node = tx.node_by_id(&attempt.node_id).await?;
    let desired = tx.desired(&attempt.node_id, attempt.generation).await?;
    let (Some(node), Some(desired)) = (node, desired) else { return Ok(None) };
    let due = due(context, tx, &node, &desired, Source::Agent).await?;
    let cause = "its agent goes on, and has not told whether the machine is as it was before its last \
                 tenant";
    Ok((due == Due::Comparison)
        .then(|| Failure::new(BootStage::Overlay, "baseline-not-told", cause)))
}

/// Records what is told first, and compares what is told later. Whether all is as it was; else the node is
/// in quarantine, and its boot held.
async fn seen(
    tx: &mut Tx,
    node: &Node,
    attempt: &Attempt,
    facts: Facts,
    source: Source,
) -> Result<bool> {
    let row = note_seen(tx, node, facts, source).await?;
    if !knows(&row.recorded, source) {
        let told = row.seen.iter().filter(|(part, _)| part.source() == source);
        let mut recorded = row.recorded.clone();
        recorded.extend(told.map(|(part, facts)| (*part, facts.clone())));
        if recorded != row.recorded {
            tx.record_baseline(&node.id, &recorded, "haasd", clock::wall()).await?;
            let data = json!({ "boot": attempt.id, "parts": recorded.keys().collect::<Vec<_>>() });
            event(tx, node, "baseline-recorded", "haasd", data).await?;
            info!(node = %node.name, boot = %attempt.id, "baseline recorded");
        }
        return Ok(true);
    }
    let found = differences(&row.recorded, &row.seen, source);
    if found.is_empty() {
        // What could not be seen before, by another image or from another BMC.
        let mut recorded = row.recorded.clone();
        for (part, facts) in row.seen.iter().filter(|(part, _)| part.source() == source) {
            recorded.entry(*part).or_insert_with(|| facts.clone());
        }
        if recorded != row.recorded {
            tx.record_baseline(&node.id, &recorded, "haasd", clock::wall()).await?;
        }
        return Ok(true);
    }
    quarantine(tx, node, attempt, &found).await?;
    Ok(false)
}

/// Notes how a node is seen, in place of what the same source told before.
async fn note_seen(tx: &mut Tx, node: &Node, facts: Facts, source: Source) -> Result<BaselineRow> {
    let mut row = tx.baseline(&node.id).await?;
    row.seen.retain(|part, _| part.source() != source);
    row.seen.extend(facts.into_iter().filter(|(part, _)| part.source() == source));
    tx.set_baseline_seen(&node.id, &row.seen).await?;
    Ok(row)
}

async fn quarantine(
    tx: &mut Tx,
    node: &Node,
    attempt: &Attempt,
    found: &[Difference],
) -> Result<()> {
    let reason = format!("{REASON}{}", sentence(found));
    warn!(node = %node.name, boot = %attempt.id, reason, "quarantined");
    let words: Vec<_> = found.iter().map(ToString::to_string).collect();
    let data = json!({ "boot": attempt.id, "differences": found, "words": words });
    event(tx, node, "baseline-differs", "haasd", data).await?;
    let failure = Failure::new(
        attempt.stage,
        DIFFERS,
        format!(
            "{reason}. Mend it and `haasctl node resume {0}`, or take it as it is: `haasctl node baseline \
             accept {0}`",
            node.name
        ),
    );
    tx.set_failure(&attempt.id, Some(&failure)).await?;
    let drain = Drain {
        state: DrainState::Quarantine,
        reason,
        actor: "haasd".to_owned(),
        since: clock::wall(),
        generation: node.generation,
    };
    let data = json!({ "state": drain.state.as_str(), "reason": drain.reason });
    event(tx, node, "drained", "haasd", data).await?;
    tx.set_drain(&node.id, Some(&drain)).await
}

fn sentence(found: &[Difference]) -> String {
    let mut words: Vec<_> = found.iter().take(TOLD).map(ToString::to_string).collect();
    if found.len() > TOLD {
        words.push(format!("{} more", found.len() - TOLD));
    }
    words.join("; ")
}

/// Asks a node's BMC how it is, and notes that.
pub(crate) async fn look(context: &Context, node: &Node) -> Result<()> {
    let told = power::baseline(&node.spec.power).await;
    let mut tx = context.store.write().await?;
    let error = match told {
        Ok(Some(facts)) => {
            note_seen(&mut tx, node, api::bounded(facts), Source::Bmc).await?;
            None
        }
        Ok(None) => Some("it has no BMC that could be asked".to_owned()),
        Err(error) => Some(chain(&error)),
    };
    tx.set_baseline_asked(&node.id, clock::wall(), error.as_deref()).await?;
    tx.commit().await
}

/// Takes a node as it was seen last for what it shall be. What was seen of it; none: nothing.
pub(crate) async fn accept(tx: &mut Tx, node: &Node, by: &str) -> Result<Option<Facts>> {
    let BaselineRow { mut recorded, seen, .. } = tx.baseline(&node.id).await?;
    if seen.is_empty() {
        return Ok(None);
    }
    // What an agent has not told its image could not see; a BMC tells all that it has.
    if knows(&seen, Source::Bmc) {
        recorded.retain(|part, _| part.source() != Source::Bmc);
    }
    recorded.extend(seen.clone());
    tx.record_baseline(&node.id, &recorded, by, clock::wall()).await?;
    if is_quarantined_for_it(node) {
        tx.set_drain(&node.id, None).await?;
    }
    Ok(Some(seen))
}

/// Whether a node is out of service since it is not as it was.
fn is_quarantined_for_it(node: &Node) -> bool {
    node.drain.as_ref().is_some_and(|drain| {
        drain.state == DrainState::Quarantine
            && drain.actor == "haasd"
            && drain.reason.starts_with(REASON)
    })
}

/// The open boot of a node that was held since the machine was not as it was: it goes on, and is looked at
/// again. Its agent has to be told of it.
pub(crate) async fn go_on(context: &Context, tx: &mut Tx, node: &Node) -> Result<Option<Attempt>> {
    let held = tx.last_attempt(&node.id).await?.filter(|attempt| {
        let code = attempt.failure.as_ref().map(|failure| failure.code.as_str());
        attempt.state == AttemptState::Open && code == Some(DIFFERS)
    });
    if let Some(attempt) = &held {
        tx.restart_stage(&attempt.id, context.clock.now()).await?;
    }
    Ok(held)
}

/// Whether a boot of this generation is held since the machine is not as it was: nobody gets anything by it.
pub(crate) fn is_held_for_it(node: &Node, generation: i64) -> bool {
    let held = node.drain.as_ref().map_or(i64::MIN, |drain| drain.generation);
    is_quarantined_for_it(node) && generation <= held
}

/// A node's baseline as it is shown.
pub(crate) async fn shown(tx: &mut Tx, node: &Node) -> Result<NodeBaseline> {
    let row = tx.baseline(&node.id).await?;
    let (recorded_at, recorded_by) = row.recorded_at.unzip();
    let differences = [Source::Bmc, Source::Agent]
        .into_iter()
        .filter(|source| knows(&row.recorded, *source) && knows(&row.seen, *source))
        .flat_map(|source| differences(&row.recorded, &row.seen, source))
        .collect();
    Ok(NodeBaseline {
        node: node.name.to_string(),
        recorded: row.recorded,
        recorded_at: recorded_at.map(clock::rfc3339),
        recorded_by,
        seen: row.seen,
        asked_at: row.asked_at.map(clock::rfc3339),
        error: row.asked_error,
        differences,
    })
}

async fn event(
    tx: &mut Tx,
    node: &Node,
    kind: &str,
    actor: &str,
    data: serde_json::Value,
) -> Result<()> {
    let operation = tx.operation_of(&node.id, node.generation).await?;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind,
        node: Some(node.name.as_str()),
        operation: operation.as_deref(),
        actor,
        data,
        tenant: None,
    })
    .await
    .map(drop)
}
