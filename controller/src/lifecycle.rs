//! What to do next with one node. PURE: no I/O, no clock, no store.
//!
//! [`decide`] looks at what is wanted, what is seen and what time it is, and answers one [`Step`].
//! The reconciler does it, records what came of it, and asks again. Whatever the next decision needs
//! is in the store, so haasd may die between any two steps.
//!
//! Four rules that the order below keeps: a node that runs something which we did not boot is left
//! alone; what people run is ended in order, and hard only after every deadline; a boot attempt is
//! opened only when the node is known to be off (or boots by itself), so that whatever boots next is
//! that attempt; a node that booted by itself is switched off and on before it gets anything, so that
//! its BMC vouches for the boot.

mod deadline;
mod drain_hook;
mod ending;
mod kexec;
mod proof;
mod silence;

use haas_api::agent::{BootStage, Failure, ShutdownHow};

pub use drain_hook::Hook;
pub use kexec::{LOST as KEXEC_LOST, NOT_DONE as KEXEC_NOT_DONE};
pub use proof::{Expected, check_proof};
pub use silence::ASK_AGAIN;

use crate::{
    config::BootLimits,
    model::{
        Attempt, AttemptState, BootOnce, Cause, Desired, Fault, Micros, Node, Power, SECOND,
        Silence,
    },
};

/// An agent that was silent for this long is gone (heartbeats come every 5 s).
pub const AGENT_SILENT: Micros = 20 * SECOND;

/// A BMC's answer is believed for this long while something depends on it.
const POWER_FRESH: Micros = 10 * SECOND;

/// As good as now, where a person would have to clear up after a wrong belief.
const POWER_NOW: Micros = 2 * SECOND;

/// And for this long while nothing does; BMCs are asked every minute.
const POWER_STANDS: Micros = 150 * SECOND;

/// From its agent's goodbye until a node that its own root reboots is in its firmware again: its kernel
/// has then let go of its disks.
const RESTARTS: Micros = 5 * SECOND;

/// How often a BMC is asked while a node boots.
const POWER_POLL: Micros = 15 * SECOND;

/// "Off" is believed only of a node that was switched on this long ago: BMCs tell the state that was
/// before for some seconds.
const OFF_BELIEVED: Micros = 8 * SECOND;

/// The code of an attempt whose node went off by itself.
const POWERED_OFF: &str = "powered-off";

/// The code of an attempt whose node its BMC did not switch on.
const BMC_POWER_ON: &str = "bmc-power-on";

/// So many attempts whose node went off by itself do not count: lost power says nothing about what the
/// node boots. An image that switches its node off gets no further than this.
const POWER_LOSSES: usize = 3;

/// All that a decision is taken on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The node.
    pub node: &'a Node,
    /// What is wanted of it.
    pub desired: Option<&'a Desired>,
    /// Its last attempt.
    pub attempt: Option<&'a Attempt>,
    /// The attempt whose kernel the system of the last one is to start, as long as it has not.
    pub next: Option<&'a Attempt>,
    /// The desired state that the last attempt serves.
    pub serves: Option<&'a Desired>,
    /// Why attempts of the present generation have failed.
    pub failures: &'a [Failure],
    /// Whether nothing but what is ours can start from the node's disks.
    pub disks_are_ours: bool,
    /// False while other nodes of the same operation go first.
    pub turn: bool,
    /// How long things may take.
    pub limits: &'a BootLimits,
    /// What the site's drain hook has said, where there is one.
    pub drain_hook: Option<Hook<'a>>,
    /// Until when no power action is done that nobody asked for, since so many were.
    pub brake: Option<Micros>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing: it is as it should be, or haasd has no business with it.
    Converged(Standing),
    /// Nothing yet.
    Wait {
        /// What for, in words.
        reason: String,
        /// When to look again though nothing happened.
        until: Micros,
    },
    /// Nothing while other nodes of the same operation go first.
    Queued,
    /// This.
    Do(Action),
    /// Nothing more without a person.
    Fault(Fault),
}

/// Why there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has given the node to haasd.
    Unmanaged,
    /// Nothing is wanted of it yet.
    Idle,
    /// Off, as is wanted.
    Off,
    /// What is wanted runs, and its agent has proved it.
    Ready,
    /// What is wanted runs, and its users wait for the other nodes of its operation.
    Prepared,
    /// It was ready and is on, but its agent is silent. Running nodes are never reset for that.
    Unreachable,
    /// It was ready, and now neither its agent nor its BMC answers: nobody knows anything of it.
    Lost,
    /// Out of service, and haasd does only what an admin asks for.
    Held,
    /// It was ready and somebody powered it off from inside.
    PoweredOff,
    /// It was ready and its root started another kernel, which haasd knows nothing of.
    Kexec,
    /// It was started into its firmware's setup or from its disk, as was asked. haasd has it again
    /// when it boots from the network, or when something else is wanted of it.
    HandedOver,
}

/// Something that changes the world or the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask the BMC.
    ObservePower,
    /// What runs is what is wanted: let its attempt serve the present generation.
    Adopt,
    /// Open a boot attempt; the node is off, or is switched on by a person.
    OpenAttempt(Cause),
    /// Set network boot, then switch on, unless it is on.
    PowerOn,
    /// Set this boot device, switch on, and end the attempt.
    HandOver(BootOnce),
    /// Open the attempt whose kernel what runs is to start.
    OpenBeside,
    /// Tell the agent to load that kernel, to end everything in order, and to start it.
    Kexec,
    /// It starts it now: what ran is over, and the next attempt is the node's own.
    KexecBegun,
    /// It does not start it: the node is ended and booted as ever.
    GiveKexecUp(Failure),
    /// Ask the site's drain hook whether what runs may be ended.
    AskHook,
    /// It may not: want again what runs, which fails its operation.
    KeepRunning {
        /// Why.
        reason: String,
    },
    /// Ask the agent to end everything in order.
    EndByAgent(ShutdownHow),
    /// Ask the BMC for ACPI's soft off.
    EndByAcpi,
    /// Cut the power, unless it is off.
    EndHard {
        /// Why, for the event.
        reason: String,
    },
    /// The node is down: its attempt is over.
    EndAttempt,
    /// Start the BMC anew: it does not do what it is told.
    ResetBmc,
    /// This power action, which nobody asked for: only so many are done in an hour.
    Alone(Box<Action>),
    /// Note what the BMC says of a node whose agent is silent, or that the agent is back.
    NoteSilence(Option<Silence>),
    /// Give the open attempt up.
    FailAttempt(Failure),
    /// Note that a person is needed.
    RecordFault(Fault),
}

/// What to do next with a node at `now`, a time of the steady clock.
pub fn decide(view: View<'_>, now: Micros) -> Step {
    let node = view.node;
    if !node.managed {
        return Step::Converged(Standing::Unmanaged);
    }
    let Some(desired) = view.desired else {
        return Step::Converged(Standing::Idle);
    };
    if let Some(fault) = node.fault.as_ref().filter(|f| f.generation == desired.generation) {
        return Step::Fault(fault.clone());
    }
    if let (Some(attempt), Some(next)) = (view.attempt, view.next) {
        return kexec::step(view, attempt, next, now);
    }
    if is_held(view, desired) {
        return held_step(view, desired, now);
    }
    let live = view.attempt.filter(|a| matches!(a.state, AttemptState::Open | AttemptState::Ready));
    if !desired.wanted.power_on {
        return off_step(view, desired, live, now);
    }
    match view.attempt {
        Some(a) if a.generation == desired.generation => match a.state {
            AttemptState::Open if a.cause == Cause::HandedOver => {
                hand_over_step(view, desired, a, now)
            }
            AttemptState::Ended if a.cause == Cause::HandedOver => {
                Step::Converged(Standing::HandedOver)
            }
            AttemptState::Open => boot_step(view, a, now),
            AttemptState::Ready => ready_step(view, a, now),
            AttemptState::Failed => retry_step(view, desired, a, now),
            AttemptState::Ended => start_step(view, desired, live, now),
        },
        _ => start_step(view, desired, live, now),
    }
}

/// Whether this attempt's agent was heard lately and has not said goodbye.
pub fn agent_is_live(node: &Node, attempt: &Attempt, now: Micros) -> bool {
    node.agent_attempt.as_deref() == Some(&attempt.id)
        && node.goodbye.is_none()
        && node.agent_at.is_some_and(|at| now - at < AGENT_SILENT)
}

/// Whether a boot is one that haasd began: only such a one gets its plan and its secrets. Of any other
/// nobody knows who asks in the node's name. Where there is no BMC to ask, the node is believed.
pub fn is_confirmed(node: &Node, attempt: &Attempt) -> bool {
    let is_by_hand = node.spec.power == crate::inventory::PowerSpec::Manual;
    !attempt.by_itself || attempt.token_spent || is_by_hand
}

/// Whether the node is out of service and what is wanted of it is none that an admin has asked for
/// since, or was carried out: what happens to it now, people do.
fn is_held(view: View<'_>, desired: &Desired) -> bool {
    let Some(drain) = view.node.drain.as_ref().filter(|d| d.state.keeps_hands_off()) else {
        return false;
    };
    let is_done = view.attempt.is_some_and(|a| {
        a.generation == desired.generation
            && (a.state == AttemptState::Ready || !is_confirmed(view.node, a))
    });
    desired.generation <= drain.generation || is_done
}

fn held_step(view: View<'_>, desired: &Desired, now: Micros) -> Step {
    let runs = view.attempt.is_some_and(|a| {
        a.generation == desired.generation
            && a.state == AttemptState::Ready
            && agent_is_live(view.node, a, now)
    });
    Step::Converged(if runs { Standing::Ready } else { Standing::Held })
}

/// An action with a node's power that nobody asked for, or a wait until more of them may be done.
fn alone(view: View<'_>, action: Action, now: Micros) -> Step {
    match view.brake.filter(|until| *until > now) {
        None => Step::Do(Action::Alone(Box::new(action))),
        Some(until) => wait(
            format!(
                "haasd has done as many power actions by itself in the last hour as auto_limit allows; \
                 `haasctl power cycle {}` goes on now",
                view.node.name
            ),
            until,
        ),
    }
}

/// The node should be off.
fn off_step(view: View<'_>, desired: &Desired, live: Option<&Attempt>, now: Micros) -> Step {
    match known_power(view, now) {
        // A node that is off stays so: the BMC is asked now and then (reconcile/observe.rs).
        Known::Ask if live.is_none() && was_off(view.node, now) => Step::Converged(Standing::Off),
        Known::Ask => ask(view, now),
        Known::Off if live.is_some() || view.node.ending.is_some() => Step::Do(Action::EndAttempt),
        Known::Off => Step::Converged(Standing::Off),
        Known::Nobody if live.is_none() => Step::Converged(Standing::Off),
        Known::On | Known::Nobody => end_step(view, desired, live, now),
    }
}

/// The node is on, or nobody can say, and what runs there is to end.
fn end_step(view: View<'_>, desired: &Desired, live: Option<&Attempt>, now: Micros) -> Step {
    match live {
        Some(attempt) if !may_run_foreign(view, attempt) => {
            match drain_hook::step(view, desired, attempt, now) {
                Some(step) => step,
                None if kexec::may(view, desired, attempt, now) => Step::Do(Action::OpenBeside),
                None => ending::step(view, attempt, now),
            }
        }
        Some(_) | None => foreign_step(view, desired, now),
    }
}

/// The node should be on, and no attempt of the present generation is under way.
fn start_step(view: View<'_>, desired: &Desired, live: Option<&Attempt>, now: Micros) -> Step {
    if let (Some(attempt), Some(serves)) = (live, view.serves)
        && attempt.state == AttemptState::Ready
        && view.node.goodbye.is_none()
        && view.node.ending.is_none()
        && !desired.wanted.reboot
        && desired.wanted.boot_once.is_none()
        && serves.wanted.is_same_system(&desired.wanted)
        // Another tenant could not log in as it is, and would get what the first has left in memory.
        && serves.wanted.tenant == desired.wanted.tenant
    {
        // An agent that is silent, perhaps since haasd was away, does not mean that nobody works
        // there: only a node that is off has ended.
        match known_power(view, now) {
            _ if agent_is_live(view.node, attempt, now) => return Step::Do(Action::Adopt),
            Known::Ask => return ask(view, now),
            Known::On | Known::Nobody => return Step::Do(Action::Adopt),
            Known::Off => {}
        }
    }
    // What has begun to end is seen through, also when its operation was paused meanwhile.
    if !view.turn && view.node.ending.is_none() {
        return Step::Queued;
    }
    let cause = match desired.wanted.boot_once {
        Some(BootOnce::Bios | BootOnce::Disk) => Cause::HandedOver,
        None => Cause::Desired,
    };
    match known_power(view, now) {
        Known::Ask => ask(view, now),
        Known::Off => Step::Do(Action::OpenAttempt(cause)),
        Known::Nobody if live.is_none() => Step::Do(Action::OpenAttempt(cause)),
        Known::On | Known::Nobody => end_step(view, desired, live, now),
    }
}

/// The node is on and no attempt of ours lives on it, or none that is known to run.
fn foreign_step(view: View<'_>, desired: &Desired, now: Micros) -> Step {
    match view.attempt {
        Some(attempt)
            if (may_run_foreign(view, attempt) || attempt.cause == Cause::HandedOver)
                && desired.wanted.forced =>
        {
            ending::foreign(view, now)
        }
        // Our own boot that failed hangs there; nobody was let in.
        Some(attempt)
            if attempt.state == AttemptState::Failed && !may_run_foreign(view, attempt) =>
        {
            ending::hard(view, "a boot that failed is still on", now)
        }
        Some(attempt) if desired.wanted.forced => ending::step(view, attempt, now),
        None if desired.wanted.forced => ending::foreign(view, now),
        // Somebody may have switched it off by hand a moment ago; a fault would have to be cleared.
        Some(_) | None if view.node.power_at.is_some_and(|at| now - at > POWER_NOW) => {
            Step::Do(Action::ObservePower)
        }
        Some(_) | None => Step::Do(Action::RecordFault(Fault::new(
            desired.generation,
            "runs-foreign",
            format!(
                "{} is on and runs something that haas did not boot; shut it down, or say --force to \
                 have it switched off",
                view.node.name
            ),
        ))),
    }
}

/// The attempt is open: the node is on its way.
fn boot_step(view: View<'_>, attempt: &Attempt, now: Micros) -> Step {
    let node = view.node;
    let limits = view.limits;
    if let Some(failure) = attempt.failure.as_ref().filter(|f| !f.retryable) {
        let reason = format!("{}: {}", failure.stage, failure.cause);
        return Step::Fault(Fault::new(attempt.generation, failure.code.clone(), reason));
    }
    if !is_confirmed(node, attempt) {
        return confirm_step(view, now);
    }
    if let Some(since) = attempt.held_since {
        return prepared_step(view, attempt, since, now);
    }
    let by_hand = has_no_bmc(view);
    if attempt.stage == BootStage::Power {
        if by_hand {
            return wait(
                "waits for a person to switch it on, into network boot",
                now + 60 * SECOND,
            );
        }
        return power_on_step(view, attempt, Action::PowerOn, now);
    }

    let checks_s: u64 = attempt.checks.iter().map(|check| check.within_s).sum();
    // The checks of the last stage have time limits of their own.
    let checks = seconds(checks_s);
    let stage_limit = deadline::of_stage(limits, &node.boot_times, attempt.stage);
    let mut deadline = attempt.stage_since + stage_limit.saturating_add(checks);
    // Nobody knows when a person will press the button; what follows has its deadlines.
    if !by_hand {
        let whole = deadline::of_whole(limits, &node.boot_times);
        deadline = deadline.min(attempt.counted_from + whole.saturating_add(checks));
    }
    if now >= deadline {
        return Step::Do(Action::FailAttempt(deadline::passed(node, attempt, now)));
    }
    if !by_hand {
        let seen = node.power_at.filter(|at| *at > attempt.stage_since + OFF_BELIEVED);
        if node.power == Power::Off && seen.is_some_and(|at| now - at < POWER_FRESH) {
            return Step::Do(Action::FailAttempt(Failure::new(
                attempt.stage,
                POWERED_OFF,
                format!("{} went off in the stage '{}'", node.name, attempt.stage),
            )));
        }
        if node.power_at.is_none_or(|at| now - at >= POWER_POLL) && node.power_error.is_none() {
            return Step::Do(Action::ObservePower);
        }
    }
    let reason = match &attempt.failure {
        Some(held) => format!("{}: {} (tries again by itself)", held.stage, held.cause),
        None => format!("boots, stage '{}'", attempt.stage),
    };
    wait(reason, deadline.min(now + POWER_POLL))
}

/// The attempt is proved, and waits for others as long as they need. It must live meanwhile.
fn prepared_step(view: View<'_>, attempt: &Attempt, since: Micros, now: Micros) -> Step {
    let node = view.node;
    if agent_is_live(node, attempt, now) {
        return Step::Converged(Standing::Prepared);
    }
    match known_power(view, now) {
        Known::Ask => return Step::Do(Action::ObservePower),
        Known::Off => {
            return Step::Do(Action::FailAttempt(Failure::new(
                attempt.stage,
                POWERED_OFF,
                format!("{} went off before the others of its operation were there", node.name),
            )));
        }
        Known::On | Known::Nobody => {}
    }
    // haasd may have been away, so that it was not heard: it calls again at once.
    let deadline = node.agent_at.unwrap_or(since).max(since) + seconds(view.limits.stage_s);
    if now >= deadline {
        return Step::Do(Action::FailAttempt(Failure::new(
            attempt.stage,
            "agent-silent",
            format!(
                "it was proved, and its agent has been silent for {} s since",
                view.limits.stage_s
            ),
        )));
    }
    wait("was proved; waits for its agent to call", deadline.min(now + POWER_POLL))
}

/// The node has started by itself, or somebody says so in its name. It runs nothing of anybody's, and
/// waits as long as its BMC is away.
fn confirm_step(view: View<'_>, now: Micros) -> Step {
    match known_power(view, now) {
        Known::Ask => Step::Do(Action::ObservePower),
        Known::Off => Step::Do(Action::OpenAttempt(Cause::Unplanned)),
        Known::On | Known::Nobody => {
            cut_alone(view, "it started by itself, and haasd begins its boots", now)
        }
    }
}

/// Cuts the power of a node that nobody asked to be cut.
fn cut_alone(view: View<'_>, reason: &str, now: Micros) -> Step {
    match ending::hard(view, reason, now) {
        Step::Do(action @ Action::EndHard { .. }) => alone(view, action, now),
        step => step,
    }
}

/// The node is off and is to be switched on, by this action.
fn power_on_step(view: View<'_>, attempt: &Attempt, action: Action, now: Micros) -> Step {
    let (node, limits) = (view.node, view.limits);
    if now < attempt.stage_since + seconds(limits.stage_s) {
        return Step::Do(action);
    }
    Step::Do(Action::FailAttempt(Failure::new(
        BootStage::Power,
        BMC_POWER_ON,
        format!(
            "the BMC did not switch {} on within {} s{}",
            node.name,
            limits.stage_s,
            node.power_error.as_deref().map(|e| format!(": {e}")).unwrap_or_default()
        ),
    )))
}

/// The node is about to be started out of haasd's hands.
fn hand_over_step(view: View<'_>, desired: &Desired, attempt: &Attempt, now: Micros) -> Step {
    match desired.wanted.boot_once {
        Some(device) if !has_no_bmc(view) => {
            power_on_step(view, attempt, Action::HandOver(device), now)
        }
        // Its BMC was taken out of the inventory meanwhile.
        Some(BootOnce::Bios | BootOnce::Disk) | None => Step::Do(Action::EndAttempt),
    }
}

/// The attempt has proved itself once.
fn ready_step(view: View<'_>, attempt: &Attempt, now: Micros) -> Step {
    let node = view.node;
    if node.ending.is_some() {
        // The end of what ran was begun for a state that is no longer wanted: see it through.
        return match known_power(view, now) {
            Known::Ask => ask(view, now),
            Known::Off if node.goodbye == Some(ShutdownHow::Reboot) => {
                Step::Do(Action::OpenAttempt(Cause::Unplanned))
            }
            Known::Off => Step::Do(Action::EndAttempt),
            Known::On | Known::Nobody => ending::step(view, attempt, now),
        };
    }
    if agent_is_live(node, attempt, now) {
        return match node.silence {
            Some(_) => Step::Do(Action::NoteSilence(None)),
            None => Step::Converged(Standing::Ready),
        };
    }
    let Some(goodbye) = node.goodbye else { return silence::step(view, now) };
    match (known_power(view, now), goodbye) {
        (Known::Ask, _) => Step::Do(Action::ObservePower),
        (Known::Off | Known::Nobody, ShutdownHow::Poweroff) => {
            Step::Converged(Standing::PoweredOff)
        }
        // It should be on.
        (Known::Off, ShutdownHow::Reboot | ShutdownHow::Kexec) => {
            alone(view, Action::OpenAttempt(Cause::Unplanned), now)
        }
        // Somebody typed `reboot`, and all has ended in order: haasd begins the boot that follows.
        (Known::On, ShutdownHow::Reboot) => match node.agent_at {
            Some(said) if now - said < RESTARTS => wait("reboots", said + RESTARTS),
            Some(_) | None => cut_alone(view, "it reboots, and haasd begins its boots", now),
        },
        // What runs there is its owner's, and is not to be reset. When it reboots, it boots as ever.
        (Known::On | Known::Nobody, ShutdownHow::Kexec) => Step::Converged(Standing::Kexec),
        (Known::On | Known::Nobody, ShutdownHow::Poweroff | ShutdownHow::Reboot)
            if node.agent_at.is_some_and(|at| now - at < seconds(view.limits.firmware_s)) =>
        {
            wait("goes down or reboots by itself", now + POWER_POLL)
        }
        (Known::On | Known::Nobody, ShutdownHow::Poweroff | ShutdownHow::Reboot) => {
            Step::Converged(Standing::Unreachable)
        }
    }
}

/// The last attempt of this generation failed.
fn retry_step(view: View<'_>, desired: &Desired, attempt: &Attempt, now: Micros) -> Step {
    // What a person asked for once is not tried again by itself.
    let once = attempt.cause == Cause::HandedOver;
    let lost_power = view.failures.iter().filter(|f| f.code == POWERED_OFF).count();
    let kexecs = view.failures.iter().filter(|failure| kexec::is_of(failure)).count();
    let count = view.failures.len() - lost_power.min(POWER_LOSSES) - kexecs;
    let is_tried = count >= usize::try_from(view.limits.attempts).unwrap_or(usize::MAX);
    if is_tried || has_no_bmc(view) || may_run_foreign(view, attempt) || once {
        let (code, cause) = match &attempt.failure {
            Some(f) => (f.code.clone(), format!("{}: {}", f.stage, f.cause)),
            None => ("boot-failed".to_owned(), format!("stage '{}'", attempt.stage)),
        };
        let reason = match view.failures.len() {
            0 | 1 => format!("{cause} (1 attempt)"),
            several => format!("{cause} ({several} attempts)"),
        };
        return Step::Do(Action::RecordFault(Fault::new(desired.generation, code, reason)));
    }

    match known_power(view, now) {
        Known::Ask => ask(view, now),
        Known::Off | Known::Nobody => {
            // It said that it switched the node on, and the network has heard nothing of it.
            let never_on = |f: &Failure| f.code == POWERED_OFF && f.stage == BootStage::Firmware;
            let failure = attempt.failure.as_ref();
            let is_deaf = failure.is_some_and(|f| f.code == BMC_POWER_ON || never_on(f));
            ending::reset_bmc(view, is_deaf, now)
                .unwrap_or(Step::Do(Action::OpenAttempt(Cause::Retry)))
        }
        Known::On => ending::hard(view, "the boot before failed", now),
    }
}

/// The node was switched on and nobody saw it boot from the network, or something else was seen to
/// boot: what runs there now may be somebody's old system, which is not to be switched off only to
/// try again. Where its disks hold no system, its firmware has found nothing and stands there.
fn may_run_foreign(view: View<'_>, attempt: &Attempt) -> bool {
    let foreign = |code: &str| match code {
        "no-network-boot" => !view.disks_are_ours,
        "booted-elsewhere" => true,
        _ => false,
    };
    attempt.failure.as_ref().is_some_and(|f| foreign(&f.code))
}

/// What is known of a node's power, for a step that depends on it.
enum Known {
    /// Nothing fresh: ask.
    Ask,
    On,
    Off,
    /// It has no BMC to ask.
    Nobody,
}

fn known_power(view: View<'_>, now: Micros) -> Known {
    if has_no_bmc(view) {
        return Known::Nobody;
    }
    match (view.node.power, view.node.power_at) {
        (Power::On, Some(at)) if now - at < POWER_FRESH => Known::On,
        (Power::Off, Some(at)) if now - at < POWER_FRESH => Known::Off,
        _ => Known::Ask,
    }
}

/// Asks the BMC, up to a deadline.
fn ask(view: View<'_>, now: Micros) -> Step {
    let node = view.node;
    match (node.power_failed_at, &node.power_error) {
        (Some(since), Some(error)) if now - since >= seconds(view.limits.stage_s) => {
            let reason = format!(
                "the BMC of {} does not say whether the node is on, for {} s: {error}",
                node.name,
                (now - since) / SECOND
            );
            Step::Do(Action::RecordFault(Fault::new(node.generation, "bmc-silent", reason)))
        }
        (Some(_) | None, _) => Step::Do(Action::ObservePower),
    }
}

/// Whether the BMC said "off" when it was last asked, which is not long ago.
fn was_off(node: &Node, now: Micros) -> bool {
    node.power == Power::Off
        && node.ending.is_none()
        && node.power_error.is_none()
        && node.power_at.is_some_and(|at| now - at < POWER_STANDS)
}

fn has_no_bmc(view: View<'_>) -> bool {
    view.node.spec.power == crate::inventory::PowerSpec::Manual
}

fn wait(reason: impl Into<String>, until: Micros) -> Step {
    Step::Wait { reason: reason.into(), until }
}

fn seconds(s: u64) -> Micros {
    Micros::try_from(s).unwrap_or(Micros::MAX / SECOND).saturating_mul(SECOND)
}

#[cfg(test)]
mod tests;
