//! Nodes in drain, maintenance and quarantine.

use super::*;
use crate::model::{Drain, DrainState};

const HANDS_OFF: [DrainState; 2] = [DrainState::Maintenance, DrainState::Quarantine];

/// Out of service since this generation was wanted.
fn out(mut world: World, state: DrainState) -> World {
    world.node.drain = Some(Drain {
        state,
        reason: "bad DIMM".into(),
        actor: "admin".into(),
        since: 1,
        generation: world.node.generation,
    });
    world
}

fn started_by_itself() -> World {
    let mut world = World::booting(BootStage::Dhcp, 1);
    world.attempt().cause = Cause::Unplanned;
    world.attempt().by_itself = true;
    world
}

#[test]
fn a_drained_node_goes_on_as_ever() {
    for world in [World::new(), World::ready(), started_by_itself(), World::ready().wants_off()] {
        assert_eq!(out(world.clone(), DrainState::Drain).decide(), world.decide());
    }
}

#[test]
fn people_who_work_on_a_node_are_not_disturbed() {
    let off = World::ready().agent_heard(30).power(Power::Off);
    let rebooting = World::ready().goodbye(ShutdownHow::Reboot, 5);
    let half_ended = World::ready().wants_off().ending(Ending::Acpi, 500);
    let on_its_way = World::booting(BootStage::Firmware, 90_000);
    for state in HANDS_OFF {
        let idle = [World::new(), off.clone(), rebooting.clone(), started_by_itself()];
        for world in idle.into_iter().chain([half_ended.clone(), on_its_way.clone()]) {
            assert_eq!(out(world, state).decide(), Step::Converged(Standing::Held));
        }
        assert_eq!(out(World::ready(), state).decide(), Step::Converged(Standing::Ready));
    }
}

#[test]
fn what_an_admin_asks_for_is_done_once_and_nothing_after_it() {
    for state in HANDS_OFF {
        let asked = out(World::ready(), state).wants(|wanted| wanted.reboot = true);
        assert_eq!(asked.decide(), Step::Do(Action::EndByAgent(ShutdownHow::Poweroff)));
        // It was booted, and then somebody pulls its cable or presses its button.
        let mut booted = asked.power(Power::Off).agent_heard(40);
        booted.attempt().generation = booted.node.generation;
        assert_eq!(booted.decide(), Step::Converged(Standing::Held));
        let mut restarted = out(World::new(), state).wants(|_| ()).power(Power::On);
        restarted.attempt = started_by_itself().attempt;
        restarted.attempt().generation = restarted.node.generation;
        assert_eq!(restarted.decide(), Step::Converged(Standing::Held));
        // Off is off.
        let off = out(World::ready(), state).wants_off();
        assert_eq!(off.decide(), Step::Do(Action::EndByAgent(ShutdownHow::Poweroff)));
    }
}
