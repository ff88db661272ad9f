//! Before what a node runs for somebody is ended because that was asked for, the site's drain hook is
//! called. It lets haasd go on, puts it off, or forbids it: the node then runs on as it was.
//!
//! What has begun to end, or has ended by itself, is nobody's to keep; and a boot that has let nobody in
//! runs for nobody.

use haas_api::agent::ShutdownHow;

use super::{Action, Step, View, seconds, wait};
use crate::{
    config::DrainHook,
    model::{Attempt, AttemptState, Desired, HookCall, Micros},
};

/// The site's drain hook, and what it has said of a node.
#[derive(Debug, Clone, Copy)]
pub struct Hook<'a> {
    /// How often and for how long it is asked.
    pub limits: &'a DrainHook,
    /// What it has said, of whichever generation that was.
    pub call: Option<&'a HookCall>,
}

/// What is due before the end of what `attempt` runs may begin; none: it may.
pub(super) fn step(
    view: View<'_>,
    desired: &Desired,
    attempt: &Attempt,
    now: Micros,
) -> Option<Step> {
    let Hook { limits, call } = view.drain_hook?;
    if !runs_for_somebody(view, attempt) {
        return None;
    }
    let Some(call) = call.filter(|call| call.generation == desired.generation) else {
        return Some(Step::Do(Action::AskHook));
    };
    if call.goes_on {
        return None;
    }
    let over = call.since + seconds(limits.limit_s);
    let again = (call.asked_at + seconds(limits.again_s)).min(over);
    if call.said.is_empty() {
        // Without an answer haasd has died meanwhile, and with it perhaps the program.
        return Some(Step::Do(Action::AskHook));
    }
    Some(if now >= over {
        Step::Do(Action::KeepRunning {
            reason: format!("drain_hook said \"not yet\" for {} s: {}", limits.limit_s, call.said),
        })
    } else if now >= again {
        Step::Do(Action::AskHook)
    } else {
        wait(format!("drain_hook says \"not yet\": {}", call.said), again)
    })
}

/// Whether users were let in there, and it lives as far as anybody knows.
fn runs_for_somebody(view: View<'_>, attempt: &Attempt) -> bool {
    let is_lent = view.serves.is_some_and(|serves| !serves.wanted.tenant.is_empty());
    let has_ended = match view.node.goodbye {
        Some(ShutdownHow::Poweroff | ShutdownHow::Reboot) => true,
        // Another kernel runs there, for the same tenant.
        Some(ShutdownHow::Kexec) | None => false,
    };
    is_lent && attempt.state == AttemptState::Ready && view.node.ending.is_none() && !has_ended
}
