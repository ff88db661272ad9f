//! Nodes that are not in haasd's hands: started once into something else, or switched by a person only.

use super::*;

// Nodes that are started out of haasd's hands, once.

#[test]
fn a_node_is_handed_over_once_it_is_off_and_then_left_alone() {
    let running = World::ready().wants(|w| w.boot_once = Some(BootOnce::Disk));
    let ends = Step::Do(Action::EndByAgent(ShutdownHow::Poweroff));
    assert_eq!(running.decide(), ends, "what runs is ended in order, though the image is the same");
    let mut world = World::new();
    world.desired.as_mut().unwrap().wanted.boot_once = Some(BootOnce::Bios);
    assert_eq!(world.decide(), Step::Do(Action::OpenAttempt(Cause::HandedOver)));
    let mut begun = attempt(BootStage::Power, NOW - SECOND);
    begun.cause = Cause::HandedOver;
    world.attempt = Some(begun);
    assert_eq!(world.decide(), Step::Do(Action::HandOver(BootOnce::Bios)));
    let late = world.decide_at(NOW + 300 * SECOND);
    assert!(matches!(late, Step::Do(Action::FailAttempt(_))), "{late:?}");
    let failed = world.clone().failed(1);
    assert_fault(failed.decide(), "boot-failed");
    world.attempt().state = AttemptState::Ended;
    for power in [Power::On, Power::Off] {
        let world = world.clone().power(power);
        assert_eq!(world.decide(), Step::Converged(Standing::HandedOver));
    }
}

#[test]
fn what_a_node_was_handed_over_to_is_ended_only_by_force_and_in_order() {
    let mut world = World::new().power(Power::On);
    let mut begun = attempt(BootStage::Power, NOW - 600 * SECOND);
    begun.cause = Cause::HandedOver;
    begun.state = AttemptState::Ended;
    world.attempt = Some(begun);
    let world = world.wants(|_| ());
    assert_fault(world.decide(), "runs-foreign");
    assert_eq!(world.wants(|w| w.forced = true).decide(), Step::Do(Action::EndByAcpi));
}

// Nodes that only a person can switch.

#[test]
fn a_manual_node_gets_no_bmc_action_in_any_state() {
    let attempts = [World::new(), World::ready(), World::booting(BootStage::Power, 9)]
        .into_iter()
        .chain(BootStage::ALL.map(|stage| World::booting(stage, 400)))
        .chain([World::booting(BootStage::Dhcp, 9).failed(1)]);
    for world in attempts {
        for world in [world.clone(), world.clone().wants_off(), world.wants(|w| w.reboot = true)] {
            for ending in [
                None,
                Some(Ending::Agent),
                Some(Ending::Acpi),
                Some(Ending::Hard),
                Some(Ending::BmcReset),
            ] {
                for heard in [1, 1_000] {
                    let mut world = world.clone().agent_heard(heard).by_hand();
                    world.node.ending = ending.map(|step| (step, NOW - 10_000 * SECOND));
                    let step = world.decide();
                    let powers = matches!(
                        step,
                        Step::Do(
                            Action::ObservePower
                                | Action::PowerOn
                                | Action::HandOver(_)
                                | Action::EndByAcpi
                                | Action::EndHard { .. }
                                | Action::ResetBmc
                                | Action::Alone(_)
                        )
                    );
                    assert!(!powers, "{step:?} with {world:?}");
                }
            }
        }
    }
}

#[test]
fn a_manual_node_waits_for_its_person_as_long_as_it_takes() {
    let world = World::booting(BootStage::Power, 90_000).by_hand();
    assert_waits(world.decide(), "person");
}

#[test]
fn a_manual_node_that_got_stuck_on_its_way_is_a_fault() {
    let mut world = World::booting(BootStage::Kernel, 300).by_hand();
    world.attempt().counted_from = NOW - 90_000 * SECOND;
    assert!(matches!(world.decide(), Step::Do(Action::FailAttempt(_))));
    assert_fault(world.failed(1).decide(), "boot-failed");
}

#[test]
fn a_manual_node_reboots_when_it_is_wanted_on_since_nobody_could_switch_it_on() {
    let world = World::ready().by_hand().wants(|wanted| wanted.reboot = true);
    assert_eq!(world.decide(), Step::Do(Action::EndByAgent(ShutdownHow::Reboot)));
    let off = World::ready().by_hand().wants_off();
    assert_eq!(off.decide(), Step::Do(Action::EndByAgent(ShutdownHow::Poweroff)));
}

#[test]
fn a_manual_node_that_said_it_powers_off_is_off() {
    let world = World::ready().goodbye(ShutdownHow::Poweroff, 5).by_hand().wants_off();
    assert_eq!(world.clone().ending(Ending::Agent, 9).decide(), Step::Do(Action::EndAttempt));
}
