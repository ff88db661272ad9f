//! What haasd does with the power of nodes by itself is bounded (invariant 14).

use super::*;

/// Everything with which haasd switches a node that nobody asked it to switch.
fn worlds() -> [World; 3] {
    let mut started = World::booting(BootStage::Dhcp, 1);
    started.attempt().cause = Cause::Unplanned;
    started.attempt().by_itself = true;
    [
        started,
        World::ready().goodbye(ShutdownHow::Reboot, 5),
        World::ready().agent_heard(30).power(Power::Off),
    ]
}

#[test]
fn when_auto_limit_is_reached_nothing_is_switched_by_itself_and_that_is_said() {
    for mut world in worlds() {
        alone(world.decide());
        world.brake = Some(NOW + 600 * SECOND);
        assert_waits(world.decide(), "auto_limit");
        assert_waits(world.decide(), "haasctl power cycle n01");
        world.brake = Some(NOW);
        alone(world.decide());
    }
}

#[test]
fn what_somebody_asked_for_is_done_whatever_haasd_did_by_itself() {
    for mut world in worlds() {
        world.brake = Some(NOW + 600 * SECOND);
        let asked = world.wants(|wanted| wanted.reboot = true);
        let step = format!("{:?}", asked.decide());
        assert!(!step.contains("auto_limit") && !step.contains("Alone"), "{step}");
    }
    let mut world = World::ready().wants_off();
    world.brake = Some(NOW + 600 * SECOND);
    assert_eq!(world.decide(), Step::Do(Action::EndByAgent(ShutdownHow::Poweroff)));
}
