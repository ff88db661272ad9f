//! Boots that are proved and wait for the other nodes of their operation.

use super::*;

/// Proved an hour ago, and its agent was heard a second ago.
fn held() -> World {
    let mut world = World::booting(BootStage::Userspace, 3_700);
    world.attempt().held_since = Some(NOW - 3_600 * SECOND);
    world.agent_heard(1)
}

#[test]
fn a_held_boot_waits_for_others_as_long_as_they_need() {
    assert_eq!(held().decide(), Step::Converged(Standing::Prepared));
    let mut let_in = held();
    let_in.attempt().held_since = None;
    assert!(
        matches!(let_in.decide(), Step::Do(Action::FailAttempt(_))),
        "its deadline counts again"
    );
}

#[test]
fn a_held_boot_whose_node_goes_off_has_failed() {
    let step = held().agent_heard(40).power(Power::Off).decide();
    let Step::Do(Action::FailAttempt(failure)) = step else { panic!("{step:?}") };
    assert_eq!(failure.code, POWERED_OFF);
}

#[test]
fn a_held_boot_whose_agent_is_silent_is_waited_for_and_then_has_failed() {
    assert_waits(held().agent_heard(60).decide(), "waits for its agent");
    let step = held().agent_heard(301).decide();
    let Step::Do(Action::FailAttempt(failure)) = step else { panic!("{step:?}") };
    assert_eq!(failure.code, "agent-silent");
}

#[test]
fn what_has_begun_to_end_is_seen_through_though_its_turn_is_over() {
    let mut world = World::ready().wants(|wanted| wanted.image = Some(image("b")));
    world.turn = false;
    assert_eq!(world.decide(), Step::Queued);
    world = world.ending(Ending::Agent, 5);
    assert_waits(world.decide(), "shuts down in order");
}
