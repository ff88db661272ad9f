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
    assert_eq!(world.ending(Ending::Hard, 30).decide(), Step::Do(Action::ResetBmc));
}

#[test]
fn a_bmc_that_does_not_switch_off_is_started_anew_and_told_once_more() {
    let stuck = World::ready().wants_off().ending(Ending::Hard, 30);
    assert_eq!(stuck.decide(), Step::Do(Action::ResetBmc));
    let mut reset = stuck.ending(Ending::BmcReset, 3);
    reset.node.tried = vec![tried("bmc-reset")];
    assert_waits(reset.decide(), "started anew");
    // What it said before it went down is not believed, and it may need minutes.
    reset.node.power_at = Some(NOW - 3 * SECOND);
    assert_eq!(reset.decide(), Step::Do(Action::ObservePower));
    // It is back.
    let mut back = reset.ending(Ending::BmcReset, 40);
    back.node.power_at = Some(NOW - SECOND);
    assert_cuts_power(back.decide());
    let off = back.clone().power(Power::Off);
    assert_eq!(off.decide(), Step::Do(Action::EndAttempt));
    assert_waits(back.clone().ending(Ending::Hard, 29).decide(), "switched off");
    assert_fault(back.ending(Ending::Hard, 30).decide(), "bmc-power-stuck");
}

#[test]
fn a_bmc_that_does_not_switch_on_is_started_anew_before_the_next_try() {
    let mut world = World::booting(BootStage::Power, 400).power(Power::Off);
    world = world.failed_by("bmc-power-on", 1);
    assert_eq!(world.decide(), Step::Do(Action::ResetBmc));
    world.node.tried = vec![tried("bmc-reset")];
    assert_waits(world.clone().ending(Ending::BmcReset, 2).decide(), "started anew");
    let retry = Step::Do(Action::OpenAttempt(Cause::Retry));
    assert_eq!(world.clone().ending(Ending::BmcReset, 60).decide(), retry);
    // One that cannot be started anew is told again as it is.
    assert_eq!(world.decide(), retry);
    // It may also say that it did, and the node stays off.
    let mut said_so = World::booting(BootStage::Firmware, 20).power(Power::Off);
    said_so = said_so.failed_by("powered-off", 1);
    said_so.attempt().failure.as_mut().expect("it failed").stage = BootStage::Firmware;
    assert_eq!(said_so.decide(), Step::Do(Action::ResetBmc));
}

fn tried(what: &str) -> crate::model::Tried {
    crate::model::Tried { what: what.to_owned(), at: NOW - 60 * SECOND, error: None }
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
    assert_eq!(world.ending(Ending::Hard, 31).decide(), Step::Do(Action::ResetBmc));
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
