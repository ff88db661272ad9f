//! What runs starts the next kernel itself: where that may be, and what is done when it does not.

use haas_api::agent::Kexec;

use super::*;

/// Alice's system runs, and something else of hers is wanted without firmware.
fn fast() -> World {
    let mut world = World::ready();
    world.attempt().can_kexec = Some(able());
    for desired in [&mut world.desired, &mut world.serves].into_iter().flatten() {
        desired.wanted.tenant = "alice".into();
    }
    world.wants(|wanted| {
        wanted.image = Some(image("b"));
        wanted.kexec_from = Some("boot-1".into());
    })
}

fn able() -> Kexec {
    Kexec { machine: "x86_64".into(), memory_mib: 64_000, obstacle: None }
}

/// The attempt whose kernel is to be started was opened a second ago.
fn opened() -> World {
    let mut world = fast();
    world.next = Some(next());
    world
}

fn next() -> Attempt {
    Attempt {
        id: "boot-2".into(),
        generation: 2,
        cause: Cause::Kexec,
        kexec_of: Some("boot-1".into()),
        ..attempt(BootStage::Power, NOW - SECOND)
    }
}

/// What ran has started its kernel, these seconds ago.
fn begun(ago: i64) -> World {
    let mut world = fast().goodbye(ShutdownHow::Kexec, ago);
    world.attempt = Some(Attempt {
        stage: BootStage::Kernel,
        stage_since: NOW - ago * SECOND,
        counted_from: NOW - ago * SECOND,
        ..next()
    });
    world.serves = world.desired.clone();
    world
}

const ORDERLY: Step = Step::Do(Action::EndByAgent(ShutdownHow::Poweroff));

#[track_caller]
fn given_up(step: Step) -> Failure {
    match step {
        Step::Do(Action::GiveKexecUp(failure)) => failure,
        other => panic!("should be given up: {other:?}"),
    }
}

#[test]
fn what_runs_for_the_same_tenant_starts_the_next_kernel() {
    assert_eq!(fast().decide(), Step::Do(Action::OpenBeside));
    assert_eq!(opened().decide(), Step::Do(Action::Kexec));
    assert_waits(opened().ending(Ending::Kexec, 30).decide(), "next kernel");
    let said = opened().ending(Ending::Kexec, 30).goodbye(ShutdownHow::Kexec, 0);
    assert_eq!(said.decide(), Step::Do(Action::KexecBegun));
    assert_waits(begun(5).decide(), "kernel");
}

#[test]
fn nobody_elses_system_nor_one_that_cannot_starts_it() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 10] = [
        ("it was not asked for", |w| w.desired.as_mut().unwrap().wanted.kexec_from = None),
        ("it was asked of another boot", |w| w.attempt().id = "boot-0".into()),
        ("another tenant", |w| w.desired.as_mut().unwrap().wanted.tenant = "bob".into()),
        ("a spare", |w| {
            w.desired.as_mut().unwrap().wanted.tenant = String::new();
            w.serves.as_mut().unwrap().wanted.tenant = String::new();
        }),
        ("a rescue", |w| w.desired.as_mut().unwrap().wanted.rescue = true),
        ("out of a rescue", |w| w.serves.as_mut().unwrap().wanted.rescue = true),
        ("an old agent", |w| w.attempt().can_kexec = None),
        ("an obstacle", |w| w.attempt().can_kexec.as_mut().unwrap().obstacle = Some("no".into())),
        ("it was tried", |w| {
            w.failures = vec![Failure { code: KEXEC_NOT_DONE.into(), ..held(false) }];
        }),
        ("it is to be off", |w| w.desired.as_mut().unwrap().wanted.power_on = false),
    ];
    for (what, change) in cases {
        let mut world = fast();
        change(&mut world);
        world.node.agent_attempt = world.attempt.as_ref().map(|a| a.id.clone());
        assert_eq!(world.decide(), ORDERLY, "{what}");
    }
    assert_eq!(fast().agent_heard(30).decide(), Step::Do(Action::EndByAcpi));
    let by_hand = fast().by_hand().decide();
    assert_eq!(by_hand, Step::Do(Action::EndByAgent(ShutdownHow::Reboot)));
}

#[test]
fn a_node_whose_turn_has_not_come_starts_nothing() {
    let mut world = fast();
    world.turn = false;
    assert_eq!(world.decide(), Step::Queued);
}

#[test]
fn the_drain_hook_is_asked_first() {
    let mut world = fast();
    let command = vec!["/bin/true".to_owned()];
    world.drain_hook = Some(DrainHook { command, timeout_s: 60, again_s: 30, limit_s: 600 });
    assert_eq!(world.decide(), Step::Do(Action::AskHook));
}

#[test]
fn one_that_cannot_after_all_is_ended_and_booted_as_ever() {
    let mut told = opened().ending(Ending::Kexec, 1);
    let failure = Failure { code: KEXEC_NOT_DONE.into(), ..held(false) };
    told.next.as_mut().unwrap().failure = Some(failure.clone());
    assert_eq!(given_up(told.decide()), failure);
    // As it is noted then.
    let mut after = fast();
    after.failures = vec![failure];
    assert_eq!(after.decide(), ORDERLY);
}

#[test]
fn one_that_comes_to_no_end_is_ended_as_ever() {
    // 300 s to load, 120 s to shut down.
    assert_waits(opened().ending(Ending::Kexec, 419).decide(), "next kernel");
    let failure = given_up(opened().ending(Ending::Kexec, 420).decide());
    assert_eq!(failure.code, KEXEC_NOT_DONE);
    let writing = |since| {
        let mut fleet = opened().ending(Ending::Kexec, since);
        fleet.node.dirty_fell_at = Some(NOW - 10 * SECOND);
        fleet.decide()
    };
    assert_waits(writing(539), "next kernel");
    assert_eq!(given_up(writing(540)).code, KEXEC_NOT_DONE);
    let mut after = fast().ending(Ending::Kexec, 420);
    after.failures = vec![failure];
    assert_eq!(after.decide(), ORDERLY);
    assert_eq!(after.clone().agent_heard(30).decide(), Step::Do(Action::EndByAcpi));
    // It comes too late: nobody waits for its kernel any more.
    assert_cuts_power(after.goodbye(ShutdownHow::Kexec, 1).decide());
}

#[test]
fn a_last_word_that_was_lost_is_no_failure_until_the_next_agent_is_late() {
    let silent = |ago| opened().ending(Ending::Kexec, ago).agent_heard(ago);
    assert_waits(silent(299).decide(), "next kernel");
    given_up(silent(300).decide());
    assert!(given_up(silent(30).power(Power::Off).decide()).cause.contains("off"));
    assert_eq!(silent(30).power(Power::Unknown).decide(), Step::Do(Action::ObservePower));
}

#[test]
fn one_that_is_shut_down_by_its_owner_meanwhile_is_booted_by_its_bmc() {
    for how in [ShutdownHow::Poweroff, ShutdownHow::Reboot] {
        given_up(opened().ending(Ending::Kexec, 9).goodbye(how, 1).decide());
        let after = fast().ending(Ending::Kexec, 9).goodbye(how, 1);
        assert_waits(after.decide(), "goes off");
        let off = after.power(Power::Off);
        assert_eq!(off.decide(), Step::Do(Action::OpenAttempt(Cause::Desired)));
    }
}

#[test]
fn who_wants_something_else_meanwhile_gets_it_and_what_was_begun_ends_in_order() {
    let changed = opened().ending(Ending::Kexec, 9).wants(|wanted| wanted.image = Some(image("c")));
    given_up(changed.decide());
    given_up(opened().ending(Ending::Kexec, 9).wants_off().decide());
    // It was too late for that: what starts there is nothing that is wanted.
    let late = changed.goodbye(ShutdownHow::Kexec, 0);
    assert_eq!(late.decide(), Step::Do(Action::KexecBegun));
    assert_cuts_power(begun(1).wants(|wanted| wanted.image = Some(image("c"))).decide());
}

#[test]
fn a_kernel_whose_agent_does_not_call_is_a_boot_that_failed_and_counts_for_nothing() {
    match begun(300).decide() {
        Step::Do(Action::FailAttempt(failure)) => assert_eq!(failure.code, KEXEC_LOST),
        other => panic!("{other:?}"),
    }
    let mut lost = begun(300).failed_by(KEXEC_LOST, 1);
    lost.limits.attempts = 1;
    assert_cuts_power(lost.decide());
    let off = lost.clone().ending(Ending::Hard, 2).power(Power::Off);
    assert_eq!(off.decide(), Step::Do(Action::OpenAttempt(Cause::Retry)));
    lost.failures.push(held(false));
    lost.attempt().failure = Some(held(false));
    assert_fault(lost.decide(), "disk-not-blank");
}
