//! Agents that say nothing any more.

use super::*;

fn silent(seconds: i64) -> World {
    World::ready().agent_heard(seconds)
}

/// The BMC was asked this many seconds ago and did not answer; its last answer is old.
fn without_bmc(mut world: World, asked_ago: i64) -> World {
    world.node.power_at = Some(NOW - 900 * SECOND);
    world.node.power_error = Some("no answer".into());
    world.node.power_failed_at = Some(NOW - 800 * SECOND);
    world.node.power_asked_at = Some(NOW - asked_ago * SECOND);
    world
}

#[test]
fn after_a_minute_of_silence_it_is_told_once_what_the_bmc_says() {
    assert_eq!(silent(59).decide(), Step::Converged(Standing::Unreachable));
    let mut world = silent(60);
    assert_eq!(world.decide(), Step::Do(Action::NoteSilence(Some(Silence::On))));
    world.node.silence = Some(Silence::On);
    assert_eq!(world.decide(), Step::Converged(Standing::Unreachable));
    let back = world.agent_heard(1);
    assert_eq!(back.decide(), Step::Do(Action::NoteSilence(None)));
}

#[test]
fn a_silent_node_that_is_off_boots_the_same_again() {
    let off = silent(61).power(Power::Off);
    assert_eq!(alone(off.decide()), Step::Do(Action::OpenAttempt(Cause::Unplanned)));
}

#[test]
fn where_the_bmc_is_silent_too_nothing_is_done_and_it_is_asked_again() {
    let mut world = without_bmc(silent(900), 14);
    assert_eq!(world.decide(), Step::Do(Action::NoteSilence(Some(Silence::Unreachable))));
    world.node.silence = Some(Silence::Unreachable);
    assert_eq!(world.decide(), Step::Converged(Standing::Lost));
    assert_eq!(without_bmc(world.clone(), 15).decide(), Step::Do(Action::ObservePower));
    // It answers: only then is it known what has happened.
    world.node.power_error = None;
    let off = world.clone().power(Power::Off);
    assert_eq!(alone(off.decide()), Step::Do(Action::OpenAttempt(Cause::Unplanned)));
    let on = world.power(Power::On);
    assert_eq!(on.decide(), Step::Do(Action::NoteSilence(Some(Silence::On))));
}

#[test]
fn a_silent_node_without_a_bmc_is_told_as_such() {
    let world = silent(60).by_hand();
    assert_eq!(world.decide(), Step::Do(Action::NoteSilence(Some(Silence::NoBmc))));
}
