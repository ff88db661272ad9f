//! Nodes that run, and that go down, start or reboot by themselves.

use super::*;

#[test]
fn a_node_whose_agent_is_heard_is_ready() {
    assert_eq!(World::ready().decide(), Step::Converged(Standing::Ready));
    assert_eq!(World::ready().agent_heard(19).decide(), Step::Converged(Standing::Ready));
}

#[test]
fn a_silent_agent_on_a_node_that_is_on_is_never_reset() {
    for silent in [20, 60, 3_600, 90_000] {
        let mut world = World::ready().agent_heard(silent);
        world.node.silence = Some(Silence::On);
        assert_eq!(world.decide(), Step::Converged(Standing::Unreachable));
    }
}

#[test]
fn a_node_whose_power_was_cut_boots_again() {
    let step = World::ready().agent_heard(30).power(Power::Off).decide();
    assert_eq!(alone(step), Step::Do(Action::OpenAttempt(Cause::Unplanned)));
}

#[test]
fn a_node_that_somebody_powered_off_from_inside_stays_off() {
    let step = World::ready().goodbye(ShutdownHow::Poweroff, 30).power(Power::Off).decide();
    assert_eq!(step, Step::Converged(Standing::PoweredOff));
}

#[test]
fn a_node_that_its_own_root_reboots_is_switched_off_and_on_on_the_way() {
    assert_waits(World::ready().goodbye(ShutdownHow::Reboot, 4).decide(), "reboots");
    let reboots = World::ready().goodbye(ShutdownHow::Reboot, 5);
    assert_cuts_power(alone(reboots.decide()));
    let cut = reboots.ending(Ending::Hard, 1);
    assert_waits(cut.decide(), "switched off");
    let off = cut.power(Power::Off);
    assert_eq!(off.decide(), Step::Do(Action::OpenAttempt(Cause::Unplanned)));
}

#[test]
fn a_node_that_started_by_itself_is_switched_off_and_on_before_it_gets_anything() {
    for stage in [BootStage::Power, BootStage::Dhcp, BootStage::Script, BootStage::Kernel] {
        let mut world = World::booting(stage, 1);
        world.attempt().cause = Cause::Unplanned;
        world.attempt().by_itself = true;
        assert_cuts_power(alone(world.decide()));
        assert_waits(world.clone().ending(Ending::Hard, 1).decide(), "switched off");
        let off = world.clone().ending(Ending::Hard, 2).power(Power::Off);
        assert_eq!(off.decide(), Step::Do(Action::OpenAttempt(Cause::Unplanned)), "{stage}");
        // However long its BMC is away, it is no failure of the node.
        world.attempt().stage_since = NOW - 90_000 * SECOND;
        world.attempt().counted_from = NOW - 90_000 * SECOND;
        world.node.power_at = None;
        world.node.power_error = Some("no answer".into());
        world.node.power_failed_at = Some(NOW - 90_000 * SECOND);
        assert_eq!(world.decide(), Step::Do(Action::ObservePower), "{stage}");
    }
    let mut elsewhere = World::booting(BootStage::Dhcp, 1);
    elsewhere.attempt().by_itself = true;
    elsewhere.attempt().failure = Some(Failure { code: "booted-elsewhere".into(), ..held(false) });
    assert_fault(elsewhere.decide(), "booted-elsewhere");
}

#[test]
fn a_node_that_nobody_can_switch_is_believed_when_it_starts_by_itself() {
    let mut world = World::booting(BootStage::Kernel, 1).by_hand();
    world.attempt().by_itself = true;
    assert_waits(world.decide(), "kernel");
    assert!(is_confirmed(&world.node, world.attempt.as_ref().unwrap()));
    // It was believed, and has its secrets: a BMC that it is given now changes nothing.
    let mut begun = World::booting(BootStage::Agent, 1);
    begun.attempt().by_itself = true;
    assert_waits(begun.decide(), "agent");
}

#[test]
fn a_node_that_goes_down_by_itself_is_waited_for_and_not_for_ever() {
    let gone = World::ready().goodbye(ShutdownHow::Poweroff, 30);
    assert_waits(gone.decide(), "goes down");
    let hangs = World::ready().goodbye(ShutdownHow::Poweroff, 600);
    assert_eq!(hangs.decide(), Step::Converged(Standing::Unreachable));
}

#[test]
fn a_node_that_runs_another_kernel_is_left_alone_and_ended_in_order() {
    let world = World::ready().goodbye(ShutdownHow::Kexec, 1);
    assert_eq!(world.decide(), Step::Converged(Standing::Kexec));
    let later = World::ready().goodbye(ShutdownHow::Kexec, 90_000);
    assert_eq!(later.decide(), Step::Converged(Standing::Kexec));
    let cut = later.clone().power(Power::Off);
    assert_eq!(alone(cut.decide()), Step::Do(Action::OpenAttempt(Cause::Unplanned)));
    let ended = later.wants_off();
    assert_eq!(ended.decide(), Step::Do(Action::EndByAcpi));
    assert_waits(ended.clone().ending(Ending::Acpi, 119).decide(), "asked by its BMC");
    assert_eq!(ended.ending(Ending::Agent, 5).decide(), Step::Do(Action::EndByAcpi));
}

#[test]
fn an_end_that_was_begun_is_seen_through_though_the_old_state_is_wanted_again() {
    assert_waits(World::ready().ending(Ending::Agent, 5).decide(), "shuts down");
    let off = World::ready().ending(Ending::Agent, 5).power(Power::Off);
    assert_eq!(off.decide(), Step::Do(Action::EndAttempt));
}
