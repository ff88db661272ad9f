//! When the site's drain hook is asked, and when not.

use super::*;

const ASKS: Step = Step::Do(Action::AskHook);

fn hooked(mut world: World) -> World {
    let command = vec!["/bin/true".to_owned()];
    world.drain_hook = Some(DrainHook { command, timeout_s: 60, again_s: 30, limit_s: 600 });
    for desired in [&mut world.desired, &mut world.serves].into_iter().flatten() {
        desired.wanted.tenant = "alice".into();
    }
    world
}

/// The hook was called first and last these seconds ago for what is wanted now.
fn called(mut world: World, first: i64, last: i64, said: &str) -> World {
    world.call = Some(HookCall {
        generation: world.node.generation,
        since: NOW - first * SECOND,
        asked_at: NOW - last * SECOND,
        goes_on: false,
        said: said.into(),
    });
    world
}

fn another(wanted: &mut NewDesired) {
    wanted.image = Some(image("b"));
}

#[test]
fn it_is_asked_before_anything_of_somebodys_is_ended_whoever_forces_that() {
    assert_eq!(hooked(World::ready()).wants(another).decide(), ASKS);
    assert_eq!(hooked(World::ready()).wants_off().decide(), ASKS);
    assert_eq!(hooked(World::ready()).wants(|wanted| wanted.reboot = true).decide(), ASKS);
    let forced = |wanted: &mut NewDesired| {
        another(wanted);
        wanted.forced = true;
    };
    assert_eq!(hooked(World::ready()).wants(forced).decide(), ASKS);
    // Nobody has heard of its agent for long, and its jobs may run all the same.
    assert_eq!(hooked(World::ready()).agent_heard(600).wants(forced).decide(), ASKS);
    assert_eq!(hooked(World::ready()).goodbye(ShutdownHow::Kexec, 60).wants(forced).decide(), ASKS);
}

#[test]
fn it_is_not_asked_where_nothing_of_anybodys_is_ended() {
    let not_asked = |world: World| {
        let step = world.decide();
        assert_ne!(step, ASKS, "{world:?}");
        step
    };
    let spare = |mut world: World| {
        world.serves.as_mut().unwrap().wanted.tenant = String::new();
        world
    };
    not_asked(spare(hooked(World::ready())).wants(another));
    not_asked(hooked(World::ready()).wants(|_| ()));
    not_asked(hooked(World::ready()).power(Power::Off).wants(another));
    not_asked(hooked(World::ready()).goodbye(ShutdownHow::Poweroff, 3).wants(another));
    not_asked(hooked(World::ready()).ending(Ending::Acpi, 3).wants(another));
    not_asked(hooked(World::booting(BootStage::Userspace, 3)).wants(another));
    not_asked(hooked(World::booting(BootStage::Dhcp, 400).failed(1)));
    let mut unhooked = hooked(World::ready()).wants(another);
    unhooked.drain_hook = None;
    not_asked(unhooked);
}

#[test]
fn a_node_whose_turn_has_not_come_is_not_asked_about() {
    let mut world = hooked(World::ready()).wants(another);
    world.turn = false;
    assert_eq!(world.decide(), Step::Queued);
}

#[test]
fn not_yet_is_asked_again_in_time_and_ends_at_its_limit() {
    let world = || hooked(World::ready()).wants(another);
    assert_waits(called(world(), 100, 29, "2 jobs").decide(), "\"not yet\": 2 jobs");
    assert_eq!(called(world(), 100, 30, "2 jobs").decide(), ASKS);
    let kept = called(world(), 600, 1, "2 jobs").decide();
    assert!(matches!(kept, Step::Do(Action::KeepRunning { .. })), "{kept:?}");
    // haasd died while the program ran.
    assert_eq!(called(world(), 3, 3, "").decide(), ASKS);
}

#[test]
fn what_it_has_let_go_is_ended_and_what_it_said_of_another_state_counts_for_nothing() {
    let end = Step::Do(Action::EndByAgent(ShutdownHow::Poweroff));
    let mut world = called(hooked(World::ready()).wants(another), 60, 60, "");
    world.call.as_mut().unwrap().goes_on = true;
    assert_eq!(world.decide(), end);
    assert_eq!(world.wants(another).decide(), ASKS);
}
