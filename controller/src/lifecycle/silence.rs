//! A node that was ready and whose agent says nothing any more: its BMC is asked what that means. One
//! that is off boots the same again; one that is on is never reset; and where the BMC is silent too,
//! nothing is known and nothing done.

use super::{Action, Known, Standing, Step, View, alone, known_power};
use crate::model::{Cause, Micros, SECOND, Silence};

/// Silence is told of after this long.
const TOLD_AFTER: Micros = 60 * SECOND;

/// How often a BMC that does not answer is asked while an agent is silent.
pub const ASK_AGAIN: Micros = 15 * SECOND;

/// The next step with a node whose agent is silent and has not said goodbye.
pub(super) fn step(view: View<'_>, now: Micros) -> Step {
    let node = view.node;
    match known_power(view, now) {
        // Its power was cut: it should be on.
        Known::Off => alone(view, Action::OpenAttempt(Cause::Unplanned), now),
        Known::On => told(view, Silence::On, Standing::Unreachable, now),
        Known::Nobody => told(view, Silence::NoBmc, Standing::Unreachable, now),
        // A BMC that is away is asked on: the node's power may have been cut with it.
        Known::Ask
            if node.power_error.is_some()
                && node.power_asked_at.is_some_and(|at| now - at < ASK_AGAIN) =>
        {
            told(view, Silence::Unreachable, Standing::Lost, now)
        }
        Known::Ask => Step::Do(Action::ObservePower),
    }
}

fn told(view: View<'_>, silence: Silence, standing: Standing, now: Micros) -> Step {
    let is_long = view.node.agent_at.is_some_and(|at| now - at >= TOLD_AFTER);
    if is_long && view.node.silence != Some(silence) {
        return Step::Do(Action::NoteSilence(Some(silence)));
    }
    Step::Converged(standing)
}
