//! What runs starts the next kernel itself, in place of the firmware (ADR 0011).
//!
//! The next attempt is opened beside the one that runs, which stays the node's own until its agent has
//! said that it starts the next kernel. Whatever goes wrong before, the node is ended and booted as
//! ever; whatever goes wrong later is a boot that has failed, and is tried again by the BMC.

use haas_api::agent::{BootStage, Failure, ShutdownHow};

use super::{Action, Known, Step, View, agent_is_live, has_no_bmc, known_power, seconds, wait};
use crate::model::{Attempt, AttemptState, Desired, Ending, Micros, SECOND};

/// The code of an attempt whose kernel was not started by what ran.
pub const NOT_DONE: &str = "kexec-failed";

/// The code of an attempt whose kernel was started, and whose agent did not call.
pub const LOST: &str = "kexec-lost";

/// How often it is looked how far the end of what runs has come.
const POLL: Micros = 2 * SECOND;

/// Whether a failure is one of the way without firmware, which says nothing about what the node boots.
pub(super) fn is_of(failure: &Failure) -> bool {
    failure.code == NOT_DONE || failure.code == LOST
}

/// Whether what `attempt` runs may start the kernel of what is wanted. Whoever had it would have had
/// his hand in that kernel's memory, so it is for the same tenant only.
pub(super) fn may(view: View<'_>, desired: &Desired, attempt: &Attempt, now: Micros) -> bool {
    let (node, wanted) = (view.node, &desired.wanted);
    let is_same_tenants = view.serves.is_some_and(|serves| {
        let runs = &serves.wanted;
        runs.tenant == wanted.tenant && !wanted.tenant.is_empty() && !runs.rescue
    });
    let is_a_boot = wanted.power_on && wanted.boot_once.is_none() && !wanted.rescue;
    wanted.kexec_from.as_ref() == Some(&attempt.id)
        && is_same_tenants
        && is_a_boot
        && attempt.state == AttemptState::Ready
        && attempt.can_kexec.as_ref().is_some_and(|kexec| kexec.obstacle.is_none())
        && agent_is_live(node, attempt, now)
        && node.ending.is_none()
        && !has_no_bmc(view)
        && !view.failures.iter().any(is_of)
}

/// The next step with what runs, `attempt`, and with `next`, whose kernel it is to start.
pub(super) fn step(view: View<'_>, attempt: &Attempt, next: &Attempt, now: Micros) -> Step {
    let node = view.node;
    match node.goodbye {
        // All has ended in order, also where something else is wanted by now.
        Some(ShutdownHow::Kexec) => return Step::Do(Action::KexecBegun),
        Some(ShutdownHow::Poweroff | ShutdownHow::Reboot) => {
            return give_up("it has shut down, and not for its next kernel".to_owned());
        }
        None => {}
    }
    let is_wanted = view
        .desired
        .is_some_and(|desired| desired.generation == next.generation && desired.wanted.power_on);
    if !is_wanted {
        return give_up("something else is wanted of the node".to_owned());
    }
    if let Some(failure) = &next.failure {
        let why = Failure { code: NOT_DONE.to_owned(), retryable: false, ..failure.clone() };
        return Step::Do(Action::GiveKexecUp(why));
    }
    let is_live = agent_is_live(node, attempt, now);
    let stage = seconds(view.limits.stage_s);
    let (since, most) = match node.ending {
        Some((Ending::Kexec, since)) => (since, stage + seconds(view.limits.shutdown_s)),
        None if is_live => return Step::Do(Action::Kexec),
        None => (next.opened_at, stage),
        Some((Ending::Agent | Ending::Acpi | Ending::Hard | Ending::BmcReset, _)) => {
            return give_up("what ran was ended by other means".to_owned());
        }
    };
    if !is_live {
        match known_power(view, now) {
            Known::Ask if node.power_error.is_none() => return Step::Do(Action::ObservePower),
            Known::Off => return give_up("it went off".to_owned()),
            Known::Ask | Known::On | Known::Nobody => {}
        }
    }
    // Its last word may be lost, so that the next kernel's agent is the next to call.
    let silent_since = node.agent_at.filter(|_| !is_live);
    let deadline = (since + most).min(silent_since.map_or(Micros::MAX, |at| at + stage));
    let is_writing = node.dirty_fell_at.is_some_and(|at| now - at < 15 * SECOND);
    // What its users write while it only loads must not put it off for ever.
    let is_put_off = is_live && is_writing && now < deadline + seconds(view.limits.shutdown_s);
    if now >= deadline && !is_put_off {
        return give_up(format!(
            "after {} s it has not come to its end for the next kernel",
            (now - since) / SECOND
        ));
    }
    wait("loads its next kernel and shuts down in order", now + POLL)
}

fn give_up(cause: String) -> Step {
    Step::Do(Action::GiveKexecUp(Failure::new(BootStage::Power, NOT_DONE, cause)))
}
