//! Random walks: a node with firmware, agent and BMC that behave as real ones do, driven by
//! `decide`, while people change their minds, power is cut and haasd dies at any instant. Whatever
//! happens, the node ends as it is wanted, and its BMC is never told what it has already done.
//!
//! The model repeats what `reconcile::act` writes, and in which order; a crash falls between any
//! write and the word to the hardware.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

/// What the hardware really does.
#[derive(Debug, Clone, PartialEq)]
enum Truth {
    Off,
    /// Says "on" until then; by itself, or because the BMC was told.
    GoingOff {
        at: Micros,
        told: bool,
    },
    /// On its way: the attempt that it boots and when it reaches its next stage.
    Booting {
        attempt: String,
        next: Micros,
    },
    /// Runs our system of this attempt.
    Runs {
        attempt: String,
    },
    /// Shuts down in order, and reboots or goes off at this time.
    Ending {
        at: Micros,
        attempt: Option<String>,
        how: ShutdownHow,
    },
    /// Runs something that we did not boot.
    Foreign,
}

struct Model {
    world: World,
    now: Micros,
    truth: Truth,
    /// The BMC answers.
    bmc: bool,
    /// The agent's connection stands.
    linked: bool,
    rng: StdRng,
    opened: u32,
    history: Vec<Desired>,
    attempts: Vec<Attempt>,
    log: Vec<String>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        world.desired = None;
        world.node.generation = 0;
        world.node.power = Power::Unknown;
        world.node.power_at = None;
        Self {
            world,
            now: NOW,
            truth: Truth::Off,
            bmc: true,
            linked: true,
            rng: StdRng::seed_from_u64(seed),
            opened: 0,
            history: Vec::new(),
            attempts: Vec::new(),
            log: Vec::new(),
        }
    }

    /// What a BMC says.
    fn is_on(&self) -> bool {
        self.truth != Truth::Off
    }

    /// The BMC has said "off" in the last seconds; somebody may have pressed the button since.
    fn seen_off(&self) -> bool {
        let node = &self.world.node;
        node.power == Power::Off && node.power_at.is_some_and(|at| self.now - at < 10 * SECOND)
    }

    /// Since the walk began.
    fn seconds(&self) -> i64 {
        (self.now - NOW) / SECOND
    }

    fn live(&mut self) -> Option<&mut Attempt> {
        self.world
            .attempt
            .as_mut()
            .filter(|a| matches!(a.state, AttemptState::Open | AttemptState::Ready))
    }

    /// A person wants something.
    fn want(&mut self, change: impl FnOnce(&mut NewDesired)) {
        let mut wanted =
            self.world.desired.as_ref().map_or_else(|| desired(0).wanted, |now| now.wanted.clone());
        wanted.power_on = true;
        wanted.reboot = false;
        wanted.forced = false;
        change(&mut wanted);
        let generation = self.world.node.generation + 1;
        let next = Desired { generation, wanted, created_at: 0 };
        let image = next.wanted.image.as_ref().map(|i| i.name.clone());
        let (on, overlay) = (next.wanted.power_on, &next.wanted.overlay_id);
        let wants = format!("{generation}: on {on}, {image:?}, {overlay:?}");
        self.log.push(format!("{} wants {wants}", self.seconds()));
        self.world.node.generation = generation;
        self.world.node.fault = None;
        self.world.node.power_failed_at = None;
        self.world.node.ending = self
            .world
            .node
            .ending
            .filter(|(step, _)| !matches!(step, Ending::Hard | Ending::BmcReset));
        self.world.node.tried.clear();
        self.history.push(next.clone());
        self.world.desired = Some(next);
    }

    /// Decides and does one step; `crash` ends haasd between its two halves.
    fn step(&mut self, crash: bool) -> Step {
        self.world.serves = self
            .world
            .attempt
            .as_ref()
            .and_then(|a| self.history.iter().find(|d| d.generation == a.generation).cloned());
        self.world.failures = self
            .attempts
            .iter()
            .chain(&self.world.attempt)
            .filter(|a| {
                a.state == AttemptState::Failed && a.generation == self.world.node.generation
            })
            .filter_map(|a| a.failure.clone())
            .collect();
        let step = self.world.decide_at(self.now);
        if let Step::Do(action) = &step {
            if *action != Action::ObservePower {
                self.log.push(format!(
                    "{} {action:?}{}",
                    self.seconds(),
                    if crash { " †" } else { "" }
                ));
            }
            self.act(action.clone(), crash);
        }
        step
    }

    fn act(&mut self, action: Action, crash: bool) {
        match action {
            Action::ObservePower => self.note_power(),
            Action::Adopt => {
                let generation = self.world.node.generation;
                let attempt = self.live().expect("only what lives is adopted");
                assert_eq!(attempt.state, AttemptState::Ready);
                attempt.generation = generation;
            }
            Action::OpenAttempt(cause) => {
                assert!(
                    self.seen_off(),
                    "an attempt is opened and nobody knows that the node is off"
                );
                self.opened += 1;
                let mut next = attempt(BootStage::Power, self.now);
                next.id = format!("boot-{}", self.opened);
                next.generation = self.world.node.generation;
                next.cause = cause;
                self.end_attempt();
                self.attempts.extend(self.world.attempt.replace(next));
                self.world.node.ending = None;
                self.world.node.silence = None;
            }
            Action::PowerOn => {
                let open = self.live().expect("power only with an open attempt").clone();
                assert_eq!(open.state, AttemptState::Open);
                assert_eq!(open.generation, self.world.node.generation);
                if !self.bmc {
                    return self.note_power();
                }
                if !self.is_on() {
                    let next = self.now + 5 * SECOND;
                    self.truth = Truth::Booting { attempt: open.id, next };
                }
                if !crash {
                    self.note_power();
                    self.reach(BootStage::Firmware);
                }
            }
            Action::HandOver(_) => unreachable!("nobody here asks for it"),
            Action::AskHook | Action::KeepRunning { .. } => unreachable!("there is no drain hook"),
            Action::OpenBeside | Action::Kexec | Action::KexecBegun | Action::GiveKexecUp(_) => {
                unreachable!("nobody asks for what is fast")
            }
            Action::EndByAgent(how) => {
                self.world.node.ending = Some((Ending::Agent, self.now));
                if let Truth::Runs { attempt } = self.truth.clone()
                    && self.linked
                    && !crash
                {
                    let at = self.now + 10 * SECOND;
                    self.truth = Truth::Ending { at, attempt: Some(attempt), how };
                }
            }
            Action::EndByAcpi => {
                if self.bmc {
                    let at = self.now + self.rng.random_range(1..200) * SECOND;
                    match self.truth.clone() {
                        Truth::Runs { attempt } => {
                            let how = ShutdownHow::Poweroff;
                            self.truth = Truth::Ending { at, attempt: Some(attempt), how };
                        }
                        Truth::Foreign if self.rng.random_bool(0.5) => {
                            let how = ShutdownHow::Poweroff;
                            self.truth = Truth::Ending { at, attempt: None, how };
                        }
                        _ => {}
                    }
                }
                if !crash {
                    self.world.node.ending = Some((Ending::Acpi, self.now));
                }
            }
            Action::EndHard { .. } => {
                let falling = self.world.node.dirty_fell_at;
                assert!(
                    falling.is_none_or(|at| self.now - at >= 15 * SECOND)
                        || self.world.node.goodbye.is_some()
                        || self.world.attempt.as_ref().is_none_or(|a| !a.token_spent)
                        || self
                            .world
                            .attempt
                            .as_ref()
                            .is_some_and(|a| a.state == AttemptState::Failed),
                    "the power is cut while dirty pages are falling"
                );
                if self.bmc && self.is_on() {
                    assert!(
                        may_repeat(&self.log)
                            || !matches!(self.truth, Truth::GoingOff { told: true, .. }),
                        "told off twice\n{}",
                        self.story()
                    );
                    let at = self.now + self.rng.random_range(0..6) * SECOND;
                    self.truth = Truth::GoingOff { at, told: true };
                }
                if !crash {
                    self.world.node.ending = Some((Ending::Hard, self.now));
                    self.note_power();
                }
            }
            Action::ResetBmc => {
                if !crash {
                    let what = "bmc-reset".to_owned();
                    let tried = crate::model::Tried { what, at: self.now, error: None };
                    self.world.node.tried.push(tried);
                    if self.bmc {
                        self.world.node.ending = Some((Ending::BmcReset, self.now));
                    }
                }
            }
            Action::Alone(action) => self.act(*action, crash),
            Action::NoteSilence(silence) => self.world.node.silence = silence,
            Action::EndAttempt => {
                assert!(
                    self.seen_off(),
                    "an attempt is ended and nobody knows that the node is off"
                );
                self.end_attempt();
                self.world.node.ending = None;
            }
            Action::FailAttempt(failure) => {
                let attempt = self.live().expect("only an open attempt fails");
                assert_eq!(attempt.state, AttemptState::Open);
                attempt.state = AttemptState::Failed;
                attempt.failure = Some(failure);
            }
            Action::RecordFault(fault) => {
                self.world.node.fault = Some(fault);
                self.world.node.ending = None;
            }
        }
    }

    fn note_power(&mut self) {
        let node = &mut self.world.node;
        node.power_asked_at = Some(self.now);
        if self.bmc {
            node.power = if self.truth == Truth::Off { Power::Off } else { Power::On };
            node.power_at = Some(self.now);
            node.power_error = None;
            node.power_failed_at = None;
        } else {
            node.power_error = Some("no answer".into());
            node.power_failed_at = node.power_failed_at.or(Some(self.now));
            self.now += 3 * SECOND;
        }
    }

    fn end_attempt(&mut self) {
        if let Some(attempt) = self.live() {
            attempt.state = AttemptState::Ended;
        }
    }

    fn reach(&mut self, stage: BootStage) {
        let now = self.now;
        if let Some(attempt) =
            self.live().filter(|a| a.state == AttemptState::Open && a.stage < stage)
        {
            attempt.stage = stage;
            attempt.stage_since = now;
            attempt.token_spent |= stage >= BootStage::Agent;
            if stage == BootStage::Ready {
                attempt.state = AttemptState::Ready;
            }
        }
    }

    fn heard(&mut self, attempt: &str) {
        self.world.node.agent_attempt = Some(attempt.to_owned());
        self.world.node.agent_at = Some(self.now);
        self.world.node.goodbye = None;
    }

    /// A node whose firmware asks the network: `boots::Targets::attempt_of`.
    fn asks_to_boot(&mut self) -> Truth {
        let next = self.now + 5 * SECOND;
        let wants_on = self.world.desired.as_ref().is_some_and(|d| d.wanted.power_on);
        if !wants_on || self.world.node.fault.is_some() {
            return Truth::Foreign;
        }
        let generation = self.world.node.generation;
        // An agent that has said goodbye for a reboot is about to be cut.
        let spoke = self.world.node.goodbye != Some(ShutdownHow::Poweroff)
            && self.world.node.agent_at.is_some_and(|at| self.now - at < 8 * SECOND);
        match self.world.attempt.clone() {
            Some(a) if a.state == AttemptState::Open && !a.token_spent => {
                Truth::Booting { attempt: a.id, next }
            }
            Some(a) if a.state == AttemptState::Ready && !spoke => {
                self.opened += 1;
                let mut fresh = attempt(BootStage::Power, self.now);
                fresh.id = format!("boot-{}", self.opened);
                fresh.generation = generation;
                fresh.cause = Cause::Unplanned;
                fresh.by_itself = true;
                self.end_attempt();
                self.attempts.extend(self.world.attempt.replace(fresh.clone()));
                self.world.node.ending = None;
                Truth::Booting { attempt: fresh.id, next }
            }
            _ => Truth::Foreign,
        }
    }

    /// Time passes, and the hardware goes on.
    fn pass(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.now += SECOND;
            match self.truth.clone() {
                Truth::Off | Truth::Foreign => {}
                Truth::GoingOff { at, .. } if self.now >= at => self.truth = Truth::Off,
                Truth::GoingOff { .. } => {}
                Truth::Booting { attempt, next } if self.now >= next => self.boots(attempt),
                Truth::Booting { .. } => {}
                Truth::Runs { attempt } => {
                    if self.linked && self.current() == Some(attempt.as_str()) {
                        self.heard(&attempt);
                        // An agent that calls again is told again (api/agent.rs).
                        if matches!(self.world.node.ending, Some((Ending::Agent, _))) {
                            let at = self.now + 10 * SECOND;
                            let how = ShutdownHow::Poweroff;
                            self.truth = Truth::Ending { at, attempt: Some(attempt), how };
                        }
                    }
                }
                Truth::Ending { at, attempt, how } if self.now >= at => {
                    if self.linked && attempt.as_deref() == self.current() && attempt.is_some() {
                        self.world.node.agent_at = Some(self.now);
                        self.world.node.goodbye = Some(how);
                    }
                    self.truth = match how {
                        ShutdownHow::Poweroff => {
                            Truth::GoingOff { at: self.now + 2 * SECOND, told: false }
                        }
                        ShutdownHow::Reboot => self.asks_to_boot(),
                        ShutdownHow::Kexec => Truth::Foreign,
                    };
                }
                Truth::Ending { attempt, .. } => {
                    if self.linked && attempt.is_some() && self.rng.random_bool(0.3) {
                        self.world.node.dirty_fell_at = Some(self.now);
                    }
                }
            }
        }
    }

    fn current(&self) -> Option<&str> {
        self.world
            .attempt
            .as_ref()
            .filter(|a| matches!(a.state, AttemptState::Open | AttemptState::Ready))
            .map(|a| a.id.as_str())
    }

    fn boots(&mut self, attempt: String) {
        if self.current() != Some(attempt.as_str()) {
            // Its requests are refused, so it falls to its own disk.
            self.truth = Truth::Foreign;
            return;
        }
        let (stage, by_itself) =
            self.world.attempt.as_ref().map(|a| (a.stage, a.by_itself)).expect("it is current");
        let next = BootStage::ALL.into_iter().find(|s| *s > stage).unwrap_or(BootStage::Ready);
        if by_itself && next >= BootStage::Agent {
            // Its agent is refused (api/agent.rs), and waits.
            self.truth = Truth::Booting { attempt, next: self.now + 20 * SECOND };
            return;
        }
        self.reach(next);
        if next >= BootStage::Agent {
            self.heard(&attempt);
        }
        let at = self.now + self.rng.random_range(1..20) * SECOND;
        self.truth = if next == BootStage::Ready {
            Truth::Runs { attempt }
        } else {
            Truth::Booting { attempt, next: at }
        };
    }

    /// Something happens that nobody planned.
    fn disturb(&mut self) {
        let what = self.rng.random_range(0..12);
        self.log.push(format!("{} disturbance {what}", self.seconds()));
        match what {
            0 => self.want(|w| w.image = Some(image("a"))),
            1 => self.want(|w| w.image = Some(image("b"))),
            2 => self.want(|w| w.overlay_id = None),
            3 => self.want(|w| w.overlay_id = Some("alice-dev".into())),
            4 => self.want(|w| w.power_on = false),
            5 => self.want(|w| w.reboot = true),
            // The power is cut.
            6 => self.truth = Truth::Off,
            // The power comes back, or somebody presses reset.
            7 => self.truth = self.asks_to_boot(),
            8 => self.bmc = false,
            9 => self.linked = false,
            10 => {
                if let Truth::Runs { attempt } = self.truth.clone() {
                    let how = if self.rng.random_bool(0.5) {
                        ShutdownHow::Reboot
                    } else {
                        ShutdownHow::Poweroff
                    };
                    let at = self.now + 5 * SECOND;
                    self.truth = Truth::Ending { at, attempt: Some(attempt), how };
                }
            }
            _ => {
                let limit = self.rng.random_range(1..100);
                self.pass(limit);
            }
        }
    }

    /// Decides until nothing is to be done for two minutes, in which the BMC is asked now and then
    /// (`reconcile::observe`). Panics if that takes for ever.
    fn settle(&mut self) -> Step {
        let mut calm = 0;
        for _ in 0..20_000 {
            match self.step(false) {
                step @ Step::Fault(_) => return step,
                step @ Step::Converged(_) if calm > 130 => return step,
                Step::Converged(_) => {
                    calm += 1;
                    self.pass(1);
                    if self.world.node.power_at.is_none_or(|at| self.now - at >= 60 * SECOND) {
                        self.note_power();
                    }
                    continue;
                }
                Step::Wait { until, .. } => {
                    assert!(until > self.now, "waits for the past\n{}", self.story());
                    self.pass(((until - self.now) / SECOND).clamp(1, 30));
                }
                Step::Queued => panic!("nobody goes before it\n{}", self.story()),
                Step::Do(Action::ObservePower) if calm > 0 => continue,
                // A step takes some time, or none.
                Step::Do(_) => {
                    let seconds = self.rng.random_range(0..2);
                    self.pass(seconds);
                }
            }
            calm = 0;
        }
        panic!("it never settles: {:?}\n{}", self.truth, self.story());
    }

    fn story(&self) -> String {
        self.log.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n")
    }
}

/// Whether haasd died in one of its last steps, or somebody asked again: a BMC that still says "on"
/// may then be told what it was told before.
fn may_repeat(log: &[String]) -> bool {
    log.iter().rev().take(6).any(|line| line.ends_with('†') || line.contains(" wants "))
}

#[test]
fn whatever_happens_a_node_ends_as_it_is_wanted() {
    for seed in 0..3_000 {
        let mut model = Model::new(seed);
        model.want(|_| ());
        for _ in 0..25 {
            for _ in 0..model.rng.random_range(0..12) {
                let crash = model.rng.random_bool(0.1);
                model.step(crash);
                let seconds = model.rng.random_range(0..8);
                model.pass(seconds);
            }
            model.disturb();
        }
        // What was broken is mended, and a person says once more what is wanted.
        model.bmc = true;
        model.linked = true;
        let power_on = model.rng.random_bool(0.7);
        model.want(|wanted| {
            wanted.power_on = power_on;
            wanted.forced = true;
            wanted.image = Some(image("last"));
            wanted.overlay_id = None;
        });
        let step = model.settle();
        let story = || format!("seed {seed}: {step:?}, {:?}\n{}", model.truth, model.story());
        if power_on {
            assert_eq!(step, Step::Converged(Standing::Ready), "{}", story());
            let attempt = model.world.attempt.as_ref().expect("it booted");
            let runs = Truth::Runs { attempt: attempt.id.clone() };
            assert_eq!(model.truth, runs, "{}", story());
            assert_eq!(attempt.generation, model.world.node.generation, "{}", story());
        } else {
            assert_eq!(step, Step::Converged(Standing::Off), "{}", story());
            assert_eq!(model.truth, Truth::Off, "{}", story());
        }
    }
}

#[test]
fn a_node_that_its_root_reboots_comes_back_by_one_power_cycle() {
    for seed in 0..50 {
        let mut model = Model::new(seed);
        model.want(|_| ());
        assert_eq!(model.settle(), Step::Converged(Standing::Ready));
        let Truth::Runs { attempt } = model.truth.clone() else { panic!("{:?}", model.truth) };
        let (opened, how) = (model.opened, ShutdownHow::Reboot);
        model.truth = Truth::Ending { at: model.now + 5 * SECOND, attempt: Some(attempt), how };
        model.pass(6);
        assert_eq!(model.settle(), Step::Converged(Standing::Ready), "{}", model.story());
        let now = model.world.attempt.clone().expect("it runs");
        assert_eq!(model.truth, Truth::Runs { attempt: now.id.clone() }, "{}", model.story());
        assert_eq!((now.cause, model.opened), (Cause::Unplanned, opened + 1), "{}", model.story());
        let cuts = model.log.iter().filter(|line| line.contains("EndHard")).count();
        assert_eq!(cuts, 1, "{}", model.story());
    }
}

#[test]
fn a_node_that_restarts_by_itself_runs_only_what_its_bmc_has_begun() {
    for seed in 0..50 {
        let mut model = Model::new(seed);
        model.want(|_| ());
        assert_eq!(model.settle(), Step::Converged(Standing::Ready));
        // It crashes, and its firmware asks a while later.
        model.linked = false;
        model.pass(30);
        model.truth = model.asks_to_boot();
        assert!(matches!(model.truth, Truth::Booting { .. }), "{:?}", model.truth);
        model.linked = true;
        assert_eq!(model.settle(), Step::Converged(Standing::Ready), "{}", model.story());
        let now = model.world.attempt.clone().expect("it runs");
        assert!(!now.by_itself, "{}", model.story());
        assert_eq!(model.truth, Truth::Runs { attempt: now.id }, "{}", model.story());
    }
}

#[test]
fn a_node_that_is_as_wanted_is_left_alone_for_ever() {
    for seed in 0..50 {
        let mut model = Model::new(seed);
        model.want(|_| ());
        assert_eq!(model.settle(), Step::Converged(Standing::Ready));
        let before = model.log.len();
        for _ in 0..500 {
            model.pass(7);
            assert_eq!(model.step(false), Step::Converged(Standing::Ready));
        }
        assert_eq!(model.log.len(), before, "{}", model.story());
    }
}
