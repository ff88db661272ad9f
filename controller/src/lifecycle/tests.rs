//! What `decide` promises, each with the smallest input that shows it.

mod alone;
mod drain_hook;
mod ending;
mod held;
mod kexec;
mod out_of_hand;
mod out_of_service;
mod proof;
mod running;
mod silence;
mod walk;

use haas_api::{
    agent::DiskSelector,
    check::{CheckReport, CheckState},
    names::Digest,
};

use super::*;
use crate::{
    config::DrainHook,
    inventory::{Arch, Firmware, Nic, NicRole, NodeSpec, PowerSpec},
    model::{Ending, HookCall, ImageWanted, NewDesired},
};

/// Far from zero, so that "long ago" fits before it.
const NOW: Micros = 100_000 * SECOND;

/// All that a [`View`] borrows: by default a managed node with a BMC that says "off", and a system
/// that is wanted of it.
#[derive(Debug, Clone)]
struct World {
    node: Node,
    desired: Option<Desired>,
    attempt: Option<Attempt>,
    next: Option<Attempt>,
    serves: Option<Desired>,
    failures: Vec<Failure>,
    disks_are_ours: bool,
    turn: bool,
    limits: BootLimits,
    drain_hook: Option<DrainHook>,
    call: Option<HookCall>,
    brake: Option<Micros>,
}

impl World {
    fn new() -> Self {
        Self {
            node: node(),
            desired: Some(desired(1)),
            attempt: None,
            next: None,
            serves: None,
            failures: Vec::new(),
            disks_are_ours: false,
            turn: true,
            limits: BootLimits::default(),
            drain_hook: None,
            call: None,
            brake: None,
        }
    }

    /// An attempt of generation 1 at `stage` since `ago` seconds; the node is on.
    fn booting(stage: BootStage, ago: i64) -> Self {
        let mut world = Self::new().power(Power::On);
        world.attempt = Some(attempt(stage, NOW - ago * SECOND));
        world.serves = Some(desired(1));
        world
    }

    /// Generation 1 runs, and its agent was heard a second ago.
    fn ready() -> Self {
        let mut world = Self::booting(BootStage::Ready, 60);
        world.attempt().state = AttemptState::Ready;
        world.attempt().token_spent = true;
        world.agent_heard(1)
    }

    fn power(mut self, power: Power) -> Self {
        self.node.power = power;
        self.node.power_at = (power != Power::Unknown).then_some(NOW - SECOND);
        self
    }

    /// The attempt's agent was heard this many seconds ago.
    fn agent_heard(mut self, ago: i64) -> Self {
        self.node.agent_attempt = self.attempt.as_ref().map(|a| a.id.clone());
        self.node.agent_at = Some(NOW - ago * SECOND);
        self
    }

    fn goodbye(mut self, how: ShutdownHow, ago: i64) -> Self {
        self = self.agent_heard(ago);
        self.node.goodbye = Some(how);
        self
    }

    fn ending(mut self, step: Ending, ago: i64) -> Self {
        self.node.ending = Some((step, NOW - ago * SECOND));
        self
    }

    /// Something newer is wanted than what the attempt serves.
    fn wants(mut self, change: impl FnOnce(&mut NewDesired)) -> Self {
        let mut next = self.desired.clone().unwrap_or_else(|| desired(0));
        next.generation = self.node.generation + 1;
        change(&mut next.wanted);
        self.node.generation = next.generation;
        self.desired = Some(next);
        self
    }

    fn wants_off(self) -> Self {
        self.wants(|wanted| wanted.power_on = false)
    }

    fn by_hand(mut self) -> Self {
        self.node.spec.power = PowerSpec::Manual;
        self.node.power = Power::Unknown;
        self.node.power_at = None;
        self
    }

    fn failed(self, attempts: usize) -> Self {
        self.failed_by("boot-failed", attempts)
    }

    fn failed_by(mut self, code: &str, attempts: usize) -> Self {
        let failure = Failure { code: code.into(), ..held(true) };
        self.failures.extend(vec![failure.clone(); attempts]);
        self.attempt().state = AttemptState::Failed;
        self.attempt().failure = Some(failure);
        self
    }

    fn attempt(&mut self) -> &mut Attempt {
        self.attempt.as_mut().expect("this world has an attempt")
    }

    fn decide(&self) -> Step {
        self.decide_at(NOW)
    }

    fn decide_at(&self, now: Micros) -> Step {
        decide(
            View {
                node: &self.node,
                desired: self.desired.as_ref(),
                attempt: self.attempt.as_ref(),
                next: self.next.as_ref(),
                serves: self.serves.as_ref(),
                failures: &self.failures,
                disks_are_ours: self.disks_are_ours,
                turn: self.turn,
                limits: &self.limits,
                drain_hook: self
                    .drain_hook
                    .as_ref()
                    .map(|limits| Hook { limits, call: self.call.as_ref() }),
                brake: self.brake,
            },
            now,
        )
    }
}

fn node() -> Node {
    Node {
        id: "node-id".into(),
        name: "n01".parse().unwrap(),
        boot_mac: "52:54:00:00:00:01".parse().unwrap(),
        spec: NodeSpec {
            name: "n01".parse().unwrap(),
            nics: vec![Nic { mac: "52:54:00:00:00:01".parse().unwrap(), role: NicRole::Boot }],
            address: None,
            groups: Default::default(),
            power: PowerSpec::Exec { command: vec!["/bin/false".into()] },
            firmware: Firmware::Bios,
            arch: Arch::X86_64,
            overlay_disk: DiskSelector::Auto,
            scratch_disks: Vec::new(),
            detached_disks: Vec::new(),
            cache_mib: 0,
            labels: Default::default(),
            kernel_args: Vec::new(),
            ipxe: None,
            secure_boot: false,
            ready_checks: Vec::new(),
        },
        address: None,
        managed: true,
        present: true,
        generation: 1,
        version: 1,
        power: Power::Off,
        power_at: Some(NOW - SECOND),
        power_error: None,
        power_failed_at: None,
        power_asked_at: None,
        agent_attempt: None,
        agent_at: None,
        goodbye: None,
        heartbeat: None,
        used_at: None,
        dirty_fell_at: None,
        ending: None,
        fault: None,
        drain: None,
        silence: None,
        boot_times: Default::default(),
        tried: Vec::new(),
        hardware_faults: 0,
        store_id: None,
        store_generation: 0,
        store_accepted: false,
        store_repair: false,
    }
}

fn desired(generation: i64) -> Desired {
    Desired {
        generation,
        created_at: 0,
        wanted: NewDesired {
            rescue: false,
            power_on: true,
            image: Some(image("a")),
            overlay_id: Some("alice-dev".into()),
            rank: 0,
            forced: false,
            reboot: false,
            boot_once: None,
            kexec_from: None,
            cause: "switch".into(),
            actor: "admin".into(),
            tenant: String::new(),
            actor_id: "admin-id".into(),
            operation_id: None,
        },
    }
}

fn image(name: &str) -> ImageWanted {
    ImageWanted { digest: Digest::of(name.as_bytes()), name: name.into() }
}

fn attempt(stage: BootStage, since: Micros) -> Attempt {
    Attempt {
        id: "boot-1".into(),
        node_id: "node-id".into(),
        generation: 1,
        cause: Cause::Desired,
        state: AttemptState::Open,
        stage,
        stage_since: since,
        stages: vec![(stage, since)],
        token_spent: stage >= BootStage::Agent,
        agent_address: None,
        agent_seq: 0,
        initiator: "iqn.x:boot-1".into(),
        chap: true,
        by_itself: false,
        kexec_of: None,
        can_kexec: None,
        opened_at: since,
        counted_from: since,
        ended_at: None,
        boot_bytes: 0,
        root_bytes: 0,
        held_since: None,
        failure: None,
        epoch: 0,
        checks: Vec::new(),
    }
}

fn held(retryable: bool) -> Failure {
    Failure {
        stage: BootStage::Overlay,
        code: "disk-not-blank".into(),
        cause: "vda holds ext4".into(),
        kernel_log: Vec::new(),
        retryable,
    }
}

#[track_caller]
fn assert_waits(step: Step, word: &str) {
    match step {
        Step::Wait { reason, until } => {
            assert!(reason.contains(word), "{reason:?} does not say {word:?}");
            assert!(until > NOW, "it would be decided again at once");
        }
        other => panic!("should wait: {other:?}"),
    }
}

#[track_caller]
fn assert_fault(step: Step, code: &str) -> String {
    match step {
        Step::Do(Action::RecordFault(fault)) | Step::Fault(fault) if fault.code == code => {
            fault.reason
        }
        other => panic!("should be the fault {code}: {other:?}"),
    }
}

#[track_caller]
fn assert_cuts_power(step: Step) {
    assert!(matches!(step, Step::Do(Action::EndHard { .. })), "should cut the power: {step:?}");
}

/// The power action that nobody asked for.
#[track_caller]
fn alone(step: Step) -> Step {
    match step {
        Step::Do(Action::Alone(action)) => Step::Do(*action),
        other => panic!("should be done alone: {other:?}"),
    }
}

// What is none of haasd's business.

#[test]
fn an_unmanaged_node_is_left_alone_whatever_is_wanted() {
    for mut world in [World::new(), World::ready().wants_off(), World::ready().power(Power::Off)] {
        world.node.managed = false;
        assert_eq!(world.decide(), Step::Converged(Standing::Unmanaged));
    }
}

#[test]
fn a_node_without_desired_state_is_left_alone_whatever_it_runs() {
    for power in [Power::On, Power::Off, Power::Unknown] {
        let mut world = World::new().power(power);
        world.desired = None;
        assert_eq!(world.decide(), Step::Converged(Standing::Idle));
    }
}

#[test]
fn a_node_that_runs_something_foreign_is_never_powered() {
    let on = World::new().power(Power::On);
    let reason = assert_fault(on.decide(), "runs-foreign");
    assert!(reason.contains("--force"), "{reason:?} does not say what to do");
    assert_fault(on.wants_off().decide(), "runs-foreign");
}

#[test]
fn a_node_that_was_seen_to_boot_something_else_is_ended_only_by_force_and_in_order() {
    for (code, state) in
        [("booted-elsewhere", AttemptState::Open), ("no-network-boot", AttemptState::Failed)]
    {
        let mut world = World::booting(BootStage::Firmware, 900);
        world.attempt().failure = Some(Failure { code: code.into(), ..held(false) });
        world.attempt().state = state;
        let mut off = world.clone().wants_off();
        off.node.power_at = Some(NOW);
        match off.decide() {
            Step::Do(Action::RecordFault(fault)) => {
                assert_eq!(fault.code, "runs-foreign", "{code}")
            }
            other => panic!("{code}: {other:?}"),
        }
        let forced = |wanted: &mut NewDesired| wanted.forced = true;
        assert_eq!(off.wants(forced).decide(), Step::Do(Action::EndByAcpi), "{code}");
        assert_eq!(world.wants(forced).decide(), Step::Do(Action::EndByAcpi), "{code}");
    }
}

#[test]
fn something_foreign_is_ended_in_order_when_forced() {
    let forced = World::new().power(Power::On).wants(|wanted| wanted.forced = true);
    assert_eq!(forced.decide(), Step::Do(Action::EndByAcpi));
    assert_waits(forced.clone().ending(Ending::Acpi, 5).decide(), "shut down");
    assert_cuts_power(forced.ending(Ending::Acpi, 121).decide());
}

#[test]
fn a_system_of_ours_that_ended_and_was_started_again_by_others_is_foreign() {
    let mut world = World::ready().wants(|_| ());
    world.attempt().state = AttemptState::Ended;
    assert_fault(world.decide(), "runs-foreign");
}

#[test]
fn a_fault_holds_until_something_else_is_wanted() {
    let mut world = World::new();
    let fault = Fault::new(1, "x", "y");
    world.node.fault = Some(fault.clone());
    assert_eq!(world.decide(), Step::Fault(fault));
    assert_eq!(world.wants(|_| ()).decide(), Step::Do(Action::OpenAttempt(Cause::Desired)));
}

// Starting.

#[test]
fn a_node_that_is_off_gets_an_attempt_and_only_then_power() {
    let mut world = World::new();
    assert_eq!(world.decide(), Step::Do(Action::OpenAttempt(Cause::Desired)));
    world.attempt = Some(attempt(BootStage::Power, NOW));
    assert_eq!(world.decide(), Step::Do(Action::PowerOn));
}

#[test]
fn nothing_is_opened_before_the_bmc_has_said_lately_that_the_node_is_off() {
    assert_eq!(World::new().power(Power::Unknown).decide(), Step::Do(Action::ObservePower));
    let mut stale = World::new();
    stale.node.power_at = Some(NOW - 11 * SECOND);
    assert_eq!(stale.decide(), Step::Do(Action::ObservePower));
}

#[test]
fn a_node_whose_turn_has_not_come_is_not_even_asked() {
    let mut world = World::new().power(Power::Unknown);
    world.turn = false;
    assert_eq!(world.decide(), Step::Queued);
}

#[test]
fn a_running_node_of_the_wanted_system_is_adopted_not_rebooted() {
    assert_eq!(World::ready().wants(|_| ()).decide(), Step::Do(Action::Adopt));
}

#[test]
fn a_running_node_whose_agent_is_silent_is_adopted_and_never_ended() {
    let silent = World::ready().agent_heard(600);
    let world = silent.clone().wants(|_| {});
    assert_eq!(world.decide(), Step::Do(Action::Adopt));
    let unseen = world.clone().power(Power::Unknown);
    assert_eq!(unseen.decide(), Step::Do(Action::ObservePower));
    let off = world.power(Power::Off);
    assert_eq!(off.decide(), Step::Do(Action::OpenAttempt(Cause::Desired)));
    let mut by_hand = silent.by_hand().wants(|_| {});
    by_hand.node.agent_at = Some(NOW - 600 * SECOND);
    assert_eq!(by_hand.decide(), Step::Do(Action::Adopt));
}

#[test]
fn a_running_node_is_adopted_though_its_turn_has_not_come() {
    let mut world = World::ready().wants(|_| ());
    world.turn = false;
    assert_eq!(world.decide(), Step::Do(Action::Adopt));
}

#[test]
fn another_image_overlay_rank_or_tenant_or_a_reboot_is_not_adopted() {
    let changes: [fn(&mut NewDesired); 6] = [
        |wanted| wanted.image = Some(image("b")),
        |wanted| wanted.overlay_id = Some("bob-dev".into()),
        |wanted| wanted.overlay_id = None,
        |wanted| wanted.rank = 1,
        |wanted| wanted.tenant = "another".into(),
        |wanted| wanted.reboot = true,
    ];
    for change in changes {
        let step = World::ready().wants(change).decide();
        assert_eq!(step, Step::Do(Action::EndByAgent(ShutdownHow::Poweroff)));
    }
}

#[test]
fn a_new_name_for_the_same_image_is_adopted() {
    let step =
        World::ready().wants(|wanted| wanted.image.as_mut().unwrap().name = "b".into()).decide();
    assert_eq!(step, Step::Do(Action::Adopt));
}

#[test]
fn what_is_already_ending_is_not_adopted() {
    let world = World::ready().wants(|_| ()).ending(Ending::Agent, 1);
    assert_waits(world.decide(), "shuts down");
}

// Booting.

#[test]
fn every_stage_has_a_deadline_and_the_failure_names_the_stage() {
    for stage in BootStage::ALL.into_iter().filter(|stage| *stage < BootStage::Ready) {
        let limit = if stage == BootStage::Firmware { 600 } else { 300 };
        let early = World::booting(stage, limit - 1).decide();
        assert!(!matches!(early, Step::Do(Action::FailAttempt(_))), "{stage}: {early:?}");
        match World::booting(stage, limit).decide() {
            Step::Do(Action::FailAttempt(failure)) => {
                assert_eq!(failure.stage, stage);
                assert!(!failure.retryable && !failure.cause.is_empty());
            }
            other => panic!("{stage} has no deadline: {other:?}"),
        }
    }
}

#[test]
fn ready_checks_have_their_time_beside_the_stage() {
    let mut world = World::booting(BootStage::Userspace, 900);
    world.attempt().checks = vec![CheckReport {
        position: 0,
        command: vec!["ibstat".into()],
        within_s: 700,
        state: CheckState::Running,
        runs: 1,
        outcome: "exit code 1".into(),
        exit_code: Some(1),
        took_ms: 5,
        output: String::new(),
    }];
    assert!(!matches!(world.decide(), Step::Do(Action::FailAttempt(_))), "{:?}", world.decide());
    let late = world.decide_at(NOW + 100 * SECOND);
    assert!(matches!(late, Step::Do(Action::FailAttempt(_))), "{late:?}");
}

#[test]
fn a_whole_boot_has_a_deadline() {
    let mut world = World::booting(BootStage::Root, 1);
    world.attempt().counted_from = NOW - 900 * SECOND;
    assert!(matches!(world.decide(), Step::Do(Action::FailAttempt(_))));
}

#[test]
fn a_person_who_helps_gives_the_boot_its_time_anew() {
    let mut world = World::booting(BootStage::Root, 1);
    world.attempt().opened_at = NOW - 9_000 * SECOND;
    world.attempt().counted_from = NOW - SECOND;
    assert!(!matches!(world.decide(), Step::Do(Action::FailAttempt(_))));
}

#[test]
fn a_deadline_that_is_near_is_not_slept_through() {
    let mut world = World::booting(BootStage::Root, 298);
    world.node.power_at = Some(NOW);
    match world.decide() {
        Step::Wait { until, .. } => assert_eq!(until, NOW + 2 * SECOND),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_agent_said_is_the_reason_when_its_time_is_up() {
    let mut world = World::booting(BootStage::Root, 300);
    world.attempt().failure = Some(held(true));
    match world.decide() {
        Step::Do(Action::FailAttempt(failure)) => {
            assert_eq!((failure.code.as_str(), failure.retryable), ("disk-not-blank", false));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failure_that_needs_a_person_is_a_fault_and_the_node_stays_as_it_is() {
    let mut world = World::booting(BootStage::Root, 3_000);
    world.attempt().failure = Some(held(false));
    let reason = assert_fault(world.decide(), "disk-not-blank");
    assert!(reason.starts_with("overlay: "), "{reason:?} does not name the stage");
    world.attempt().failure = Some(held(true));
    world.attempt().stage_since = NOW - SECOND;
    world.attempt().counted_from = NOW - SECOND;
    assert_waits(world.decide(), "tries again");
}

#[test]
fn a_node_that_goes_off_while_it_boots_has_failed() {
    let world = World::booting(BootStage::Kernel, 60).power(Power::Off);
    match world.decide() {
        Step::Do(Action::FailAttempt(failure)) => assert_eq!(failure.code, "powered-off"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn off_is_not_believed_right_after_power_on() {
    let world = World::booting(BootStage::Firmware, 3).power(Power::Off);
    assert_waits(world.decide(), "firmware");
}

#[test]
fn the_bmc_is_asked_now_and_then_while_a_node_boots_unless_it_is_away() {
    let mut world = World::booting(BootStage::Kernel, 60);
    world.node.power_at = Some(NOW - 15 * SECOND);
    assert_eq!(world.decide(), Step::Do(Action::ObservePower));
    world.node.power_error = Some("no answer".into());
    assert_waits(world.decide(), "kernel");
}

#[test]
fn a_bmc_that_does_not_switch_on_is_told_with_its_own_words() {
    let mut world = World::booting(BootStage::Power, 300).power(Power::Off);
    world.node.power_error = Some("wrong password".into());
    match world.decide() {
        Step::Do(Action::FailAttempt(failure)) => {
            assert!(failure.cause.contains("wrong password"), "{}", failure.cause);
        }
        other => panic!("{other:?}"),
    }
}

// After a boot that failed.

#[test]
fn a_failed_boot_is_tried_again_once_the_node_is_off() {
    let world = World::booting(BootStage::Dhcp, 400).failed(1);
    assert_cuts_power(world.decide());
    assert_waits(world.clone().ending(Ending::Hard, 1).decide(), "switched off");
    let off = world.ending(Ending::Hard, 2).power(Power::Off);
    assert_eq!(off.decide(), Step::Do(Action::OpenAttempt(Cause::Retry)));
}

#[test]
fn tries_end_in_a_fault_that_says_why_and_how_often() {
    let mut world = World::booting(BootStage::Dhcp, 400).failed(2);
    world.attempt().failure = Some(held(false));
    let reason = assert_fault(world.decide(), "disk-not-blank");
    assert!(reason.contains("overlay") && reason.contains("2 attempts"), "{reason}");
}

#[test]
fn lost_power_does_not_count_as_a_try_but_for_ever() {
    let again = Step::Do(Action::OpenAttempt(Cause::Retry));
    let world = World::booting(BootStage::Dhcp, 400).failed(1).power(Power::Off);
    assert_eq!(world.clone().failed_by("powered-off", 3).decide(), again);
    assert_fault(world.clone().failed_by("powered-off", 4).decide(), "powered-off");
    assert_fault(world.failed_by("powered-off", 1).failed(1).decide(), "boot-failed");
}

#[test]
fn a_node_that_did_not_boot_from_the_network_is_tried_again_only_where_its_disks_hold_no_system() {
    let mut world = World::booting(BootStage::Firmware, 700).failed_by("no-network-boot", 1);
    assert_fault(world.decide(), "no-network-boot");
    world.disks_are_ours = true;
    assert_cuts_power(world.decide());
    let off = world.power(Power::Off);
    assert_eq!(off.decide(), Step::Do(Action::OpenAttempt(Cause::Retry)));
}

#[test]
fn what_a_failed_boot_left_on_is_cut_when_something_else_is_wanted() {
    assert_cuts_power(World::booting(BootStage::Dhcp, 9).failed(1).wants(|_| ()).decide());
    assert_cuts_power(World::booting(BootStage::Dhcp, 9).failed(1).wants_off().decide());
}

// A BMC that is away.

#[test]
fn a_bmc_that_stays_silent_is_a_fault_with_its_own_words() {
    let mut world = World::new().power(Power::Unknown);
    world.node.power_error = Some("no answer from 10.0.0.1".into());
    world.node.power_failed_at = Some(NOW - 299 * SECOND);
    assert_eq!(world.decide(), Step::Do(Action::ObservePower));
    world.node.power_failed_at = Some(NOW - 300 * SECOND);
    assert!(assert_fault(world.decide(), "bmc-silent").contains("10.0.0.1"));
    assert_fault(world.wants_off().decide(), "bmc-silent");
}

#[test]
fn a_silent_bmc_is_no_fault_of_a_node_that_runs() {
    let mut world = World::ready().agent_heard(900).power(Power::Unknown);
    world.node.power_error = Some("no answer".into());
    world.node.power_failed_at = Some(NOW - 900 * SECOND);
    assert_eq!(world.decide(), Step::Do(Action::ObservePower));
}
