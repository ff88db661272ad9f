//! Ending what runs, in order, and hard only where nothing else helps.

use super::*;

#[test]
fn what_runs_is_ended_by_its_agent_then_acpi_then_hard_each_with_its_deadline() {
    let world = World::ready().wants_off();
    assert_eq!(world.decide(), Step::Do(Action::EndByAgent(ShutdownHow::Poweroff)));
    assert_waits(world.clone().ending(Ending::Agent, 119).decide(), "in order");
    assert_eq!(world.clone().ending(Ending::Agent, 120).decide(), Step::Do(Action::EndByAcpi));
    assert_waits(world.clone().ending(Ending::Acpi, 119).decide(), "asked by its BMC");
    assert_cuts_power(world.clone().ending(Ending::Acpi, 120).decide());
    assert_waits(world.clone().ending(Ending::Hard, 29).decide(), "switched off");
    assert_fault(world.ending(Ending::Hard, 30).decide(), "bmc-power-stuck");
}

#[test]
fn never_hard_off_while_dirty_pages_are_falling() {
    let mut world = World::ready().wants_off().ending(Ending::Acpi, 10_000);
    world.node.dirty_fell_at = Some(NOW - 14 * SECOND);
    assert_waits(world.decide(), "asked by its BMC");
    world.node.dirty_fell_at = Some(NOW - 15 * SECOND);
    assert_cuts_power(world.decide());
    let mut world = World::ready().wants_off().ending(Ending::Agent, 10_000);
    world.node.dirty_fell_at = Some(NOW - SECOND);
    assert_waits(world.decide(), "in order");
}

#[test]
fn a_silent_agent_is_not_asked_but_acpi_is() {
    assert_eq!(World::ready().agent_heard(60).wants_off().decide(), Step::Do(Action::EndByAcpi));
}

#[test]
fn after_goodbye_the_power_has_half_a_minute_to_go() {
    let world = World::ready().wants_off().ending(Ending::Agent, 40);
    let said = |ago| world.clone().goodbye(ShutdownHow::Poweroff, ago);
    assert_waits(said(29).decide(), "goes off");
    assert_cuts_power(said(30).decide());
    assert_eq!(said(5).power(Power::Off).decide(), Step::Do(Action::EndAttempt));
}

#[test]
fn a_node_in_its_firmware_is_switched_off_at_once_and_told_once() {
    let world = World::booting(BootStage::Dhcp, 5).wants_off();
    assert_cuts_power(world.decide());
    // Many BMCs say "on" for some seconds after they were told.
    assert_waits(world.clone().ending(Ending::Hard, 4).decide(), "switched off");
    assert_fault(world.ending(Ending::Hard, 31).decide(), "bmc-power-stuck");
}

#[test]
fn a_node_whose_token_was_spent_is_not_taken_for_one_in_its_firmware() {
    let mut world = World::booting(BootStage::Kernel, 5).wants_off();
    world.attempt().token_spent = true;
    assert_eq!(world.decide(), Step::Do(Action::EndByAcpi));
}

#[test]
fn off_is_off_and_nothing_more_is_done() {
    let mut world = World::new().wants_off();
    assert_eq!(world.decide(), Step::Converged(Standing::Off));
    world.attempt = World::ready().attempt;
    assert_eq!(world.decide(), Step::Do(Action::EndAttempt));
    world.attempt().state = AttemptState::Ended;
    assert_eq!(world.decide(), Step::Converged(Standing::Off));
}
