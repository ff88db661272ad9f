//! The orderly end of what runs on a node: the agent, then ACPI, then the power, each with its
//! deadline, and never hard while the node is still writing its dirty pages back.

use haas_api::agent::{BootStage, ShutdownHow};

use super::{Action, Step, View, agent_is_live, has_no_bmc, seconds, wait};
use crate::{
    inventory::PowerSpec,
    model::{Attempt, Ending, Fault, Micros, Node, Power, SECOND},
};

/// Dirty pages that became fewer this lately are still falling.
const STILL_FALLING: Micros = 15 * SECOND;

/// How long a node may need from its agent's goodbye to being off.
const AFTER_GOODBYE: Micros = 30 * SECOND;

/// How long a BMC may need to switch a node off.
const HARD_OFF: Micros = 30 * SECOND;

/// What a BMC says this soon after it was started anew, it may have said before.
const BMC_GOES_DOWN: Micros = 5 * SECOND;

/// How long a BMC may need to start.
const BMC_STARTS: Micros = 180 * SECOND;

/// How often the BMC is asked meanwhile.
const POLL: Micros = 2 * SECOND;

/// The next step of ending what `attempt` runs. The node is on, or nobody can say.
pub(super) fn step(view: View<'_>, attempt: &Attempt, now: Micros) -> Step {
    let node = view.node;
    let nothing_runs = attempt.stage < BootStage::Agent && !attempt.token_spent;
    if nothing_runs && !has_no_bmc(view) {
        return hard(view, "it was still in its firmware or loader", now);
    }
    let wanted_on = view.desired.is_some_and(|d| d.wanted.power_on);
    match node.ending {
        None if agent_is_live(node, attempt, now) => {
            // Without a BMC nobody could switch the node on again, so it reboots.
            let how = if wanted_on && has_no_bmc(view) {
                ShutdownHow::Reboot
            } else {
                ShutdownHow::Poweroff
            };
            Step::Do(Action::EndByAgent(how))
        }
        // Another kernel runs there, and what it does is somebody's.
        None | Some((Ending::Agent, _))
            if node.goodbye == Some(ShutdownHow::Kexec) && !has_no_bmc(view) =>
        {
            Step::Do(Action::EndByAcpi)
        }
        // Another kernel was to be started, and is not to be waited for.
        Some((Ending::Kexec, _)) if node.goodbye == Some(ShutdownHow::Kexec) => {
            hard(view, "it has shut down in order, for a kernel that is no longer wanted", now)
        }
        Some((Ending::Kexec, _)) if node.goodbye.is_some() => after_goodbye(view, now),
        Some((Ending::Kexec, _)) if agent_is_live(node, attempt, now) => {
            Step::Do(Action::EndByAgent(ShutdownHow::Poweroff))
        }
        None if node.goodbye.is_some() => after_goodbye(view, now),
        None if has_no_bmc(view) => wait("waits for a person to switch it off", now + 60 * SECOND),
        None | Some((Ending::Kexec, _)) => Step::Do(Action::EndByAcpi),
        Some((Ending::Agent, _)) if node.goodbye.is_some() => after_goodbye(view, now),
        Some((Ending::Agent, since)) => {
            if still_alive(view, now, since) {
                wait("shuts down in order", now + POLL)
            } else if has_no_bmc(view) {
                wait("waits for a person to switch it off", now + 60 * SECOND)
            } else {
                Step::Do(Action::EndByAcpi)
            }
        }
        // It had a BMC when that was begun.
        Some((Ending::Acpi | Ending::Hard | Ending::BmcReset, _)) if has_no_bmc(view) => {
            wait("waits for a person to switch it off", now + 60 * SECOND)
        }
        Some((Ending::Acpi | Ending::Hard | Ending::BmcReset, _)) => foreign(view, now),
    }
}

/// Cuts the power and waits until the BMC says so. The BMC is told once: many say "on" for some
/// seconds after they were told "off". If it goes on saying so, it is started anew and told again;
/// then haasd gives up.
pub(super) fn hard(view: View<'_>, reason: &str, now: Micros) -> Step {
    match view.node.ending {
        Some((Ending::Hard, since)) if now - since < HARD_OFF => {
            poll_or_wait(view.node, "was switched off", now)
        }
        Some((Ending::Hard, _)) => reset_bmc(view, true, now).unwrap_or_else(|| {
            let reason = format!(
                "the BMC was told to switch {} off and still says that it is on",
                view.node.name
            );
            let fault = Fault::new(view.node.generation, "bmc-power-stuck", reason);
            Step::Do(Action::RecordFault(fault))
        }),
        Some((Ending::BmcReset, since)) if is_starting(view, since, now) => {
            poll_or_wait(view.node, "waits for its BMC, which was started anew", now)
        }
        Some((Ending::Kexec | Ending::Agent | Ending::Acpi | Ending::BmcReset, _)) | None => {
            Step::Do(Action::EndHard { reason: reason.to_owned() })
        }
    }
}

/// Starts a BMC anew that does not do what it is told, once for each generation, and waits until it
/// answers again. None where that was done, or is no remedy.
pub(super) fn reset_bmc(view: View<'_>, is_deaf: bool, now: Micros) -> Option<Step> {
    match view.node.ending {
        Some((Ending::BmcReset, since)) if is_starting(view, since, now) => {
            Some(poll_or_wait(view.node, "waits for its BMC, which was started anew", now))
        }
        Some((Ending::BmcReset, _)) => None,
        Some((Ending::Kexec | Ending::Agent | Ending::Acpi | Ending::Hard, _)) | None => {
            let was_reset = view.node.tried.iter().any(|tried| tried.what == "bmc-reset");
            let can = is_deaf && !was_reset && view.node.spec.power != PowerSpec::Manual;
            can.then_some(Step::Do(Action::ResetBmc))
        }
    }
}

/// Whether a BMC that was started anew at `since` has not answered since.
fn is_starting(view: View<'_>, since: Micros, now: Micros) -> bool {
    let answered = view.node.power_at.is_some_and(|at| at >= since + BMC_GOES_DOWN);
    !answered && now - since < BMC_STARTS
}

/// The next step of ending something that has no agent of ours, or whose agent could not.
pub(super) fn foreign(view: View<'_>, now: Micros) -> Step {
    match view.node.ending {
        None | Some((Ending::Kexec | Ending::Agent, _)) => Step::Do(Action::EndByAcpi),
        Some((Ending::Acpi, since)) if still_alive(view, now, since) => {
            poll_or_wait(view.node, "was asked by its BMC to shut down", now)
        }
        Some((Ending::Acpi | Ending::Hard | Ending::BmcReset, _)) => {
            hard(view, "it did not shut down when asked", now)
        }
    }
}

/// The agent has ended everything; the power should go any moment.
fn after_goodbye(view: View<'_>, now: Micros) -> Step {
    let said = view.node.agent_at.unwrap_or(now);
    let wanted_on = view.desired.is_some_and(|d| d.wanted.power_on);
    if has_no_bmc(view) {
        if !wanted_on && view.node.goodbye == Some(ShutdownHow::Poweroff) {
            // Nobody can see that it is off, so its agent is believed.
            return Step::Do(Action::EndAttempt);
        }
        wait("has shut down", now + 60 * SECOND)
    } else if now - said < AFTER_GOODBYE {
        poll_or_wait(view.node, "has shut down, goes off", now)
    } else {
        hard(view, "it has shut down in order and did not go off", now)
    }
}

/// Within its deadline, or still writing its dirty pages back.
fn still_alive(view: View<'_>, now: Micros, since: Micros) -> bool {
    let falling = view.node.dirty_fell_at.is_some_and(|at| now - at < STILL_FALLING);
    now - since < seconds(view.limits.shutdown_s) || falling
}

fn poll_or_wait(node: &Node, reason: &str, now: Micros) -> Step {
    match node.power_at {
        Some(at) if now - at < POLL && node.power != Power::Unknown => wait(reason, at + POLL),
        _ if node.power_error.is_some() => wait(reason, now + POLL),
        _ => Step::Do(Action::ObservePower),
    }
}
