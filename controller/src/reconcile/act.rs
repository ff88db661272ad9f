//! Doing what was decided. The only place that powers a node or changes what the target exports.
//!
//! Each action is safe to do twice, since haasd may die at any instant: an attempt is open before its
//! node is powered, an ending is noted after the BMC was told, and a BMC is only told "on" or "off"
//! after it has said that the node is not.

use std::time::Duration;

use haas_api::agent::{BootStage, Failure, ShutdownHow, ToAgent};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{Loaded, alone, drain_hook, hook, kexec, quarantine};
use crate::{
    baseline, clock, console,
    context::Context,
    errors::chain,
    exports,
    inventory::PowerSpec,
    lifecycle::Action,
    metrics::METRICS,
    model::{
        Attempt, AttemptState, BootOnce, Cause, Ending, Evidence, Fault, Micros, Node, Power,
        Silence, Tried,
    },
    power::{self, BootDevice, PowerAction, PowerError},
    store::{NewEvent, Result, StoreError, Tx},
    tokens,
};

/// The loop comes back at once; a BMC that is down is not asked more often than this.
pub(super) const BMC_PAUSE: Duration = Duration::from_secs(3);

/// How often a BMC is told to end a node before its silence is taken for an answer: a packet that is
/// lost must not become a power cut of which nobody was warned.
const END_TRIES: u32 = 3;

/// Why an action could not be done. It is decided again, so nothing is lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    /// The store said no.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// Does one action with one node.
pub(super) async fn act(
    context: &Context,
    loaded: &Loaded,
    action: Action,
) -> Result<(), ActError> {
    let node = &loaded.node;
    let action = match action {
        Action::Alone(action) => {
            if !alone::allows(context, node, &action).await? {
                return Ok(());
            }
            *action
        }
        action => action,
    };
    match action {
        Action::ObservePower => {
            if observe_power(context, node).await?.is_none() {
                tokio::time::sleep(BMC_PAUSE).await;
            }
        }
        Action::Adopt => adopt(context, loaded).await?,
        Action::OpenAttempt(cause) => {
            let attempt = open_attempt(context, node, loaded.attempt.as_ref(), cause).await?;
            // Nobody tells when a person switches it on.
            if node.spec.power == PowerSpec::Manual {
                let serves = loaded.desired.clone();
                let opened = Loaded { attempt: Some(attempt), serves, ..loaded.clone() };
                may_start(context, &opened).await?;
            }
        }
        Action::PowerOn => power_on(context, loaded).await?,
        Action::HandOver(device) => hand_over(context, loaded, device).await?,
        Action::OpenBeside => kexec::open(context, loaded).await?,
        Action::Kexec => kexec::tell(context, loaded).await?,
        Action::KexecBegun => kexec::begun(context, loaded).await?,
        Action::GiveKexecUp(failure) => kexec::give_up(context, loaded, &failure).await?,
        Action::AskHook => drain_hook::ask(context, loaded).await?,
        Action::KeepRunning { reason } => {
            drain_hook::keep_running(context, loaded, &reason).await?
        }
        Action::EndByAgent(how) => end_by_agent(context, loaded, how).await?,
        Action::EndByAcpi => end_by_acpi(context, node).await?,
        Action::EndHard { reason } => end_hard(context, node, &reason).await?,
        Action::EndAttempt => end_attempt(context, node).await?,
        Action::ResetBmc => reset_bmc(context, node).await?,
        Action::Alone(_) => unreachable!("what is done alone is none of these"),
        Action::NoteSilence(silence) => note_silence(context, node, silence).await?,
        Action::FailAttempt(failure) => fail_attempt(context, loaded, &failure).await?,
        Action::RecordFault(fault) => record_fault(context, loaded, fault).await?,
    }
    Ok(())
}

/// Asks the BMC, and notes what it said.
pub(super) async fn observe_power(context: &Context, node: &Node) -> Result<Option<Power>> {
    let seen = ask_power(node).await;
    note_power(context, node, seen).await
}

async fn note_power(
    context: &Context,
    node: &Node,
    seen: Result<Power, String>,
) -> Result<Option<Power>> {
    let power = seen.as_ref().ok().copied();
    let mut tx = context.store.write().await?;
    let news = set_power(&mut tx, node, seen, context.clock.now()).await?;
    tx.commit().await?;
    if news {
        context.told();
    }
    Ok(power)
}

/// Whether the node is on, or why that cannot be known.
pub(super) async fn ask_power(node: &Node) -> Result<Power, String> {
    let seen = match power::driver(&node.spec.power, node.spec.firmware) {
        Ok(driver) => driver.state().await,
        Err(error) => Err(error),
    };
    let seen = match seen {
        Ok(Power::Unknown) => Err("it says neither on nor off".to_owned()),
        Ok(power) => Ok(power),
        Err(error) => Err(chain(&error)),
    };
    if let Err(error) = &seen {
        warn!(node = %node.name, error, "the BMC cannot be asked");
    }
    seen
}

/// Writes what a BMC said at that time. Whether it is news, for which there is an event.
pub(super) async fn set_power(
    tx: &mut Tx,
    node: &Node,
    seen: Result<Power, String>,
    at: Micros,
) -> Result<bool> {
    let news = seen.as_ref().is_ok_and(|power| *power != node.power)
        || seen.as_ref().err() != node.power_error.as_ref();
    tx.set_power(&node.id, seen.clone(), at).await?;
    if news {
        let data = match &seen {
            Ok(power) => json!({ "power": power.as_str() }),
            Err(error) => json!({ "error": error }),
        };
        event(tx, node, "power-seen", data).await?;
    }
    Ok(news)
}

async fn adopt(context: &Context, loaded: &Loaded) -> Result<()> {
    let (Some(attempt), Some(desired)) = (&loaded.attempt, &loaded.desired) else { return Ok(()) };
    let mut tx = context.store.write().await?;
    tx.adopt_attempt(&attempt.id, desired.generation).await?;
    let tenant = console::tenant(&mut tx, &loaded.node).await?;
    event(&mut tx, &loaded.node, "already-so", json!({ "boot": attempt.id })).await?;
    tx.commit().await?;
    context.consoles.hand_over(&loaded.node.id, &tenant);
    context.changed();
    Ok(())
}

/// Opens a boot attempt for what is wanted of the node now, and lets its initiator log in. The node is
/// off, as its BMC says, or a person switches it. `after` is the node's last attempt as the caller
/// knows it; one that was opened since is answered in place of another.
pub async fn open_attempt(
    context: &Context,
    node: &Node,
    after: Option<&Attempt>,
    cause: Cause,
) -> Result<Attempt> {
    open(context, node, after, cause, false).await
}

/// The same for a node that has started by itself, and asks netboot.
pub async fn open_started(
    context: &Context,
    node: &Node,
    after: Option<&Attempt>,
    cause: Cause,
) -> Result<Attempt> {
    open(context, node, after, cause, true).await
}

async fn open(
    context: &Context,
    node: &Node,
    after: Option<&Attempt>,
    cause: Cause,
    by_itself: bool,
) -> Result<Attempt> {
    let attempt = Attempt { by_itself, ..new_attempt(context, node, cause) };
    let token = context.master_key.boot_token(&attempt.id);
    let mut tx = context.store.write().await?;
    let last = tx.last_attempt(&node.id).await?;
    if last.as_ref().map(|a| &a.id) != after.map(|a| &a.id) {
        return match last {
            Some(opened) if opened.state == AttemptState::Open => {
                // It may be of this moment, and not last yet.
                tx.commit().await?;
                Ok(opened)
            }
            Some(_) | None => Err(StoreError::Conflict(format!("node {}", node.name))),
        };
    }
    if tx.node_by_id(&node.id).await?.is_none_or(|now| now.generation != node.generation) {
        return Err(StoreError::Conflict(format!("node {}", node.name)));
    }
    tx.open_attempt(&attempt, &tokens::hash(token.expose())).await?;
    let tenant = console::tenant(&mut tx, node).await?;
    tx.set_silence(&node.id, None).await?;
    tx.set_ending(&node.id, None).await?;
    event(&mut tx, node, "boot-opened", json!({ "boot": attempt.id, "cause": cause.as_str() }))
        .await?;
    tx.commit().await?;
    METRICS.boot_started(cause);
    // The node is off: what it prints from here on is of what boots now.
    context.consoles.hand_over(&node.id, &tenant);
    info!(node = %node.name, boot = %attempt.id, generation = attempt.generation, %cause, "boot attempt opened");
    context.exports.reload(&context.store).await?;
    context.told();
    Ok(attempt)
}

/// An attempt for what is wanted of the node now, which is nowhere yet.
pub(super) fn new_attempt(context: &Context, node: &Node, cause: Cause) -> Attempt {
    let id = ulid::Ulid::new().to_string();
    let initiator = exports::initiator_name(&node.name, &id);
    Attempt::new(node, (id, initiator), cause, context.epoch, context.clock.now())
}

/// Whether a node that is off may start for whom it is; else its attempt has failed.
async fn may_start(context: &Context, loaded: &Loaded) -> Result<bool> {
    let Err(fault) = hook::set_network(context, loaded).await? else { return Ok(true) };
    let failure = Failure::new(BootStage::Power, "network-hook", fault.to_string());
    fail_attempt(context, loaded, &failure).await?;
    Ok(false)
}

/// Whether the BMC of a node that is off is as it was before its last tenant; else the attempt is held.
async fn is_as_it_was(context: &Context, loaded: &Loaded) -> Result<bool> {
    let (Some(attempt), Some(serves)) = (&loaded.attempt, &loaded.serves) else { return Ok(true) };
    match baseline::ask_bmc(context, &loaded.node, attempt, serves).await? {
        Ok(is_as_it_was) => Ok(is_as_it_was),
        Err(error) => bmc_failed(context, &loaded.node, "baseline", error).await.map(|()| false),
    }
}

async fn power_on(context: &Context, loaded: &Loaded) -> Result<()> {
    let node = &loaded.node;
    let Some(attempt) = &loaded.attempt else { return Ok(()) };
    if !is_as_it_was(context, loaded).await? || !may_start(context, loaded).await? {
        return Ok(());
    }
    match set_on(node, attempt.cause).await {
        Ok(sent) => {
            let mut tx = context.store.write().await?;
            let now = context.clock.now();
            tx.set_power(&node.id, Ok(Power::On), now).await?;
            let is_news = tx.advance(attempt, BootStage::Firmware, now).await?;
            event(&mut tx, node, "power", json!({ "set": "on", "sent": sent, "boot": attempt.id }))
                .await?;
            tx.commit().await?;
            if is_news {
                METRICS.boot_reached(attempt, BootStage::Firmware, now);
            }
            info!(node = %node.name, boot = %attempt.id, sent, "power on");
            context.told();
        }
        Err(error) => bmc_failed(context, node, "power-on", error).await?,
    }
    Ok(())
}

/// Sets network boot and switches on; false when the node was on already.
async fn set_on(node: &Node, cause: Cause) -> Result<bool, PowerError> {
    let driver = power::driver(&node.spec.power, node.spec.firmware)?;
    if driver.state().await? == Power::On {
        if cause == Cause::Unplanned {
            // Its power has come back by itself since.
            driver.set_boot_device(BootDevice::Pxe).await?;
        }
        return Ok(false);
    }
    driver.set_boot_device(BootDevice::Pxe).await?;
    driver.set(PowerAction::On).await?;
    Ok(true)
}

/// Starts a node from something that is not ours. Its attempt ends with it: what the node asks the
/// network for from now on belongs to its next boot.
async fn hand_over(context: &Context, loaded: &Loaded, device: BootOnce) -> Result<()> {
    let node = &loaded.node;
    if !is_as_it_was(context, loaded).await? {
        return Ok(());
    }
    if let Err(error) = set_on_once(node, device).await {
        return bmc_failed(context, node, "power-on", error).await;
    }
    let now = context.clock.now();
    let mut tx = context.store.write().await?;
    tx.set_power(&node.id, Ok(Power::On), now).await?;
    tx.end_attempts(&node.id, now).await?;
    event(&mut tx, node, "handed-over", json!({ "to": device.as_str() })).await?;
    tx.commit().await?;
    info!(node = %node.name, to = %device, "handed over");
    context.exports.reload(&context.store).await?;
    context.changed();
    Ok(())
}

async fn set_on_once(node: &Node, device: BootOnce) -> Result<(), PowerError> {
    let driver = power::driver(&node.spec.power, node.spec.firmware)?;
    // It was off before its attempt was opened: if it is on, haasd died right after it switched it on.
    if driver.state().await? == Power::On {
        return Ok(());
    }
    driver
        .set_boot_device(match device {
            BootOnce::Bios => BootDevice::Bios,
            BootOnce::Disk => BootDevice::Disk,
        })
        .await?;
    driver.set(PowerAction::On).await
}

async fn end_by_agent(context: &Context, loaded: &Loaded, how: ShutdownHow) -> Result<()> {
    let Some(attempt) = &loaded.attempt else { return Ok(()) };
    // First the note, then the word: an agent that calls again is told again (api/agent.rs).
    set_ending(context, &loaded.node, Ending::Agent, "shutdown-asked", None).await?;
    info!(node = %loaded.node.name, boot = %attempt.id, ?how, "asks the agent to shut down");
    if !context.agents.tell(&attempt.id, ToAgent::Shutdown { how }) {
        warn!(node = %loaded.node.name, "its agent is not connected now; it is told when it calls");
    }
    Ok(())
}

async fn end_by_acpi(context: &Context, node: &Node) -> Result<()> {
    info!(node = %node.name, "asks the BMC for a soft off");
    let sent = insist(|| soft_off(node)).await;
    // First the word, then the note: a note without the word would end in a hard off that nobody
    // was warned of. Saying it twice does no harm.
    set_ending(context, node, Ending::Acpi, "soft-off", sent.as_ref().err()).await?;
    match sent {
        Ok(()) => Ok(()),
        Err(error) => bmc_failed(context, node, "soft-off", error).await,
    }
}

async fn end_hard(context: &Context, node: &Node, reason: &str) -> Result<()> {
    warn!(node = %node.name, reason, "switches off");
    let set = insist(|| set_off(node)).await;
    // First the word, then the note: who finds the note waits for the node to be off. After a crash
    // in between it is told again only if it is still on.
    set_ending(context, node, Ending::Hard, "hard-off", set.as_ref().err()).await?;
    match set {
        Ok(power) => note_power(context, node, Ok(power)).await.map(drop),
        Err(error) => bmc_failed(context, node, "hard-off", error).await,
    }
}

/// Starts the BMC anew. One that cannot is not waited for.
async fn reset_bmc(context: &Context, node: &Node) -> Result<()> {
    warn!(node = %node.name, "starts its BMC anew: it does not do what it is told");
    match start_bmc_anew(node).await {
        Ok(()) => set_ending(context, node, Ending::BmcReset, "bmc-reset", None).await,
        Err(error) => {
            let text = chain(&error);
            warn!(node = %node.name, error = text, "the BMC cannot be started anew");
            let mut tx = context.store.write().await?;
            note_tried(context, &mut tx, node, "bmc-reset", Some(text)).await?;
            tx.commit().await
        }
    }
}

async fn start_bmc_anew(node: &Node) -> Result<(), PowerError> {
    power::driver(&node.spec.power, node.spec.firmware)?.reset_bmc().await
}

/// What the BMC says of a node whose agent is silent, for those who follow what happens.
async fn note_silence(context: &Context, node: &Node, silence: Option<Silence>) -> Result<()> {
    let mut tx = context.store.write().await?;
    tx.set_silence(&node.id, silence).await?;
    match silence {
        Some(silence) => {
            warn!(node = %node.name, bmc_says = silence.as_str(), "its agent is silent");
            let data = json!({ "bmc": silence.as_str(), "error": node.power_error });
            event(&mut tx, node, "agent-silent", data).await?;
        }
        None => {
            info!(node = %node.name, "its agent is heard again");
            event(&mut tx, node, "agent-back", Value::Null).await?;
        }
    }
    tx.commit().await?;
    context.told();
    Ok(())
}

/// Tries again what a BMC did not do.
async fn insist<T, F>(tell: impl Fn() -> F) -> Result<T, PowerError>
where
    F: Future<Output = Result<T, PowerError>>,
{
    let mut tries = 1;
    loop {
        match tell().await {
            Err(error) if tries < END_TRIES => {
                warn!(error = chain(&error), tries, "the BMC did not do it, it is told again");
                tries += 1;
                tokio::time::sleep(BMC_PAUSE).await;
            }
            told => return told,
        }
    }
}

async fn soft_off(node: &Node) -> Result<(), PowerError> {
    power::driver(&node.spec.power, node.spec.firmware)?.set(PowerAction::Soft).await
}

/// Switches off, and answers what the BMC says afterwards.
async fn set_off(node: &Node) -> Result<Power, PowerError> {
    let driver = power::driver(&node.spec.power, node.spec.firmware)?;
    if driver.state().await? != Power::Off {
        driver.set(PowerAction::Off).await?;
    }
    driver.state().await
}

async fn set_ending(
    context: &Context,
    node: &Node,
    step: Ending,
    kind: &str,
    error: Option<&PowerError>,
) -> Result<()> {
    let mut tx = context.store.write().await?;
    tx.set_ending(&node.id, Some((step, context.clock.now()))).await?;
    note_tried(context, &mut tx, node, kind, error.map(|error| chain(error))).await?;
    event(&mut tx, node, kind, Value::Null).await?;
    tx.commit().await?;
    context.told();
    Ok(())
}

/// So much of what was tried is kept for a fault's evidence.
const TRIED: usize = 20;

/// Adds to what was tried with a node; the same again only takes the place of the last.
async fn note_tried(
    context: &Context,
    tx: &mut Tx,
    node: &Node,
    what: &str,
    error: Option<String>,
) -> Result<()> {
    let Some(now) = tx.node_by_id(&node.id).await? else { return Ok(()) };
    let mut tried = now.tried;
    tried.pop_if(|last| last.what == what && last.error == error);
    tried.push(Tried { what: what.to_owned(), at: context.clock.now(), error });
    let older = tried.len().saturating_sub(TRIED);
    tx.set_tried(&node.id, &tried[older..]).await
}

async fn end_attempt(context: &Context, node: &Node) -> Result<()> {
    let mut tx = context.store.write().await?;
    tx.end_attempts(&node.id, context.clock.now()).await?;
    tx.set_ending(&node.id, None).await?;
    event(&mut tx, node, "boot-ended", Value::Null).await?;
    tx.commit().await?;
    context.exports.reload(&context.store).await?;
    context.told();
    Ok(())
}

async fn fail_attempt(context: &Context, loaded: &Loaded, failure: &Failure) -> Result<()> {
    let Some(attempt) = &loaded.attempt else { return Ok(()) };
    let mut tx = context.store.write().await?;
    tx.fail_attempt(&attempt.id, failure, context.clock.now()).await?;
    event(
        &mut tx,
        &loaded.node,
        "boot-failed",
        json!({ "boot": attempt.id, "stage": failure.stage, "code": failure.code, "cause": failure.cause }),
    )
    .await?;
    let error = Some(format!("{}: {}", failure.stage, failure.cause));
    let what = "boot";
    note_tried(context, &mut tx, &loaded.node, what, error).await?;
    tx.commit().await?;
    METRICS.boot_failed(attempt.stage);
    warn!(node = %loaded.node.name, boot = %attempt.id, stage = %failure.stage, code = failure.code,
        cause = failure.cause, "boot attempt failed");
    context.exports.reload(&context.store).await?;
    context.told();
    Ok(())
}

async fn record_fault(context: &Context, loaded: &Loaded, fault: Fault) -> Result<()> {
    let node = &loaded.node;
    let stages = loaded.attempt.as_ref().map(|attempt| attempt.stages.clone());
    let evidence = Evidence {
        at: context.clock.now(),
        stages: stages.unwrap_or_default(),
        tried: node.tried.clone(),
    };
    let fault = Fault { evidence: Some(evidence), ..fault };
    let mut tx = context.store.write().await?;
    tx.set_fault(&node.id, &fault).await?;
    if let Some((tenant, lines)) = context.consoles.evidence(&node.id) {
        tx.set_fault_console(&node.id, fault.generation, &tenant, &lines).await?;
    }
    // What was tried is over: the next desired state begins anew.
    tx.set_ending(&node.id, None).await?;
    event(&mut tx, node, "fault", json!({ "code": fault.code, "reason": fault.reason })).await?;
    quarantine::after_fault(&mut tx, node, &fault).await?;
    tx.commit().await?;
    METRICS.fault(&fault.code);
    tracing::error!(node = %node.name, code = fault.code, reason = fault.reason, "fault: a person is needed");
    context.told();
    Ok(())
}

/// A BMC did not do as it was told: note it; the stage's deadline ends the tries.
async fn bmc_failed(context: &Context, node: &Node, what: &str, error: PowerError) -> Result<()> {
    let text = chain(&error);
    warn!(node = %node.name, what, error = text, "the BMC did not do it");
    note_power(context, node, Err(text.clone())).await?;
    let mut tx = context.store.write().await?;
    note_tried(context, &mut tx, node, what, Some(text)).await?;
    tx.commit().await?;
    tokio::time::sleep(BMC_PAUSE).await;
    Ok(())
}

pub(super) async fn event(tx: &mut Tx, node: &Node, kind: &str, data: Value) -> Result<()> {
    let operation = tx.operation_of(&node.id, node.generation).await?;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind,
        node: Some(node.name.as_str()),
        operation: operation.as_deref(),
        actor: "haasd",
        data,
        tenant: None,
    })
    .await?;
    Ok(())
}
