//! The link against a simulated BMC, on a network whose every packet may be lost, late, doubled or
//! overtaken: with a clock that is made up, so that hours pass in milliseconds.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use ipmi_rs_core::connection::IpmiCommand;
use proptest::prelude::*;
use sim::bmc::{Bmc, Faults, Network, PowerState, Sent, Setup};

use crate::{
    account::Account,
    command::{ChassisControl, GetChassisStatus},
    error::Error,
    link::{Answer, Link, Output, Task},
    options::Options,
    suite::{CipherSuite, Suites},
};

const PASSWORD: &str = "s3cret";
/// How long a packet takes when nothing happens to it.
const WIRE: Duration = Duration::from_micros(200);

/// A link, a BMC, what is on its way between them, and the time.
struct World {
    now: Instant,
    link: Link,
    bmc: Bmc,
    network: Network,
    faults: Faults,
    flying: Vec<(Instant, Flight)>,
    done: Option<Result<Answer, Error>>,
    /// When the machine's power changed, and to what. The first is its beginning.
    powers: Vec<(Instant, PowerState)>,
    detour: Detour,
    held: Vec<Vec<u8>>,
}

/// What a test does to packets by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detour {
    None,
    /// The next packet of the BMC is held back.
    Hold,
    /// No packet of ours arrives.
    LoseRequests,
    /// What was held back comes before what the BMC sends.
    Release,
}

/// Where a packet is going.
enum Flight {
    There(Vec<u8>),
    Back(Vec<u8>),
}

impl World {
    fn new(setup: Setup, suites: Suites, seed: u64) -> Self {
        // The breaker would hide what this is to find.
        let options = Options { failures: u32::MAX, ..Options::default() };
        Self::with(options, setup, suites, seed)
    }

    fn with(options: Options, setup: Setup, suites: Suites, seed: u64) -> Self {
        let now = Instant::now();
        let account = Account::new("admin", PASSWORD).unwrap().with_suites(suites);
        Self {
            now,
            link: Link::new(account, (Ipv4Addr::LOCALHOST, 623).into(), options, now),
            bmc: Bmc::new(setup, 623),
            network: Network::new(seed),
            faults: Faults::default(),
            flying: Vec::new(),
            done: None,
            powers: vec![(now, PowerState::Off)],
            detour: Detour::None,
            held: Vec::new(),
        }
    }

    fn ask(&mut self) -> Result<PowerState, Error> {
        let Answer::Data(data) = self.call(Task::Ask(GetChassisStatus.into()))? else {
            panic!("no data");
        };
        let status = GetChassisStatus::parse_success_response(&data).unwrap();
        Ok(if status.power_on { PowerState::On } else { PowerState::Off })
    }

    fn call(&mut self, task: Task) -> Result<Answer, Error> {
        let deadline = self.now + Duration::from_secs(20);
        self.link.start(task, deadline, self.now);
        loop {
            if let Some(done) = self.done.take() {
                return done;
            }
            self.step();
            assert!(self.now <= deadline, "a call is over when its time is");
        }
    }

    /// Nobody calls for a while.
    fn rest(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Somebody presses the machine's button.
    fn press(&mut self) {
        let power = match self.bmc.power(self.now) {
            PowerState::On => PowerState::Off,
            PowerState::Off => PowerState::On,
        };
        self.bmc.set_power(power, self.now);
        self.note_power();
    }

    fn note_power(&mut self) {
        let power = self.bmc.power(self.now);
        if self.powers.last().is_some_and(|(_, last)| *last != power) {
            self.powers.push((self.now, power));
        }
    }

    /// Whether the machine was so at some moment from `begin` until now.
    fn was(&self, power: PowerState, begin: Instant) -> bool {
        let at_begin = self.powers.iter().rev().find(|(at, _)| *at <= begin);
        let since = self.powers.iter().filter(|(at, _)| *at > begin);
        at_begin.into_iter().chain(since).any(|(_, was)| *was == power)
    }

    fn next(&self) -> Option<Instant> {
        let packets = self.flying.iter().map(|(at, _)| *at);
        packets.chain(self.link.wake_at(self.now)).chain(self.bmc.wake_at()).min()
    }

    /// Goes on to the next moment at which something happens.
    fn step(&mut self) {
        self.carry_out();
        if self.done.is_some() {
            return;
        }
        if self.link.wants_login(self.now) {
            self.link.begin(self.now);
            return;
        }
        let next = self.next().expect("a call ends by its deadline");
        self.now = self.now.max(next);
        // Of packets that arrive at the same moment the one that was sent first comes first.
        if let Some(index) = self.flying.iter().position(|(at, _)| *at <= self.now) {
            match self.flying.remove(index).1 {
                Flight::There(bytes) => {
                    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
                    let sent = self.bmc.receive(from, &bytes, self.now);
                    self.note_power();
                    self.fly_back(sent);
                }
                Flight::Back(bytes) => self.link.receive(&bytes, true, self.now),
            }
        } else {
            let sent = self.bmc.tick(self.now);
            self.fly_back(sent);
            self.link.tick(self.now);
        }
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.link.output() {
            match output {
                Output::Send(_) if self.detour == Detour::LoseRequests => {}
                Output::Send(bytes) => {
                    for delay in self.network.pass(&self.faults) {
                        self.flying.push((self.now + WIRE + delay, Flight::There(bytes.clone())));
                    }
                }
                Output::Done(outcome) => {
                    assert!(self.done.replace(outcome).is_none(), "a call ends once");
                }
                // What is on its way to an old socket still arrives here: it must not matter.
                Output::Connect => {}
                Output::Characters(_) | Output::ConsoleOver(_) => panic!("nobody has a console"),
            }
        }
    }

    fn fly_back(&mut self, sent: Vec<Sent>) {
        if self.detour == Detour::Release {
            let held = self.held.drain(..).map(|bytes| (self.now, Flight::Back(bytes)));
            self.flying.extend(held);
        }
        for Sent { bytes, .. } in sent {
            if self.detour == Detour::Hold {
                self.detour = Detour::None;
                self.held.push(bytes);
                continue;
            }
            for delay in self.network.pass(&self.faults) {
                self.flying.push((self.now + WIRE + delay, Flight::Back(bytes.clone())));
            }
        }
    }
}

fn setup(sloppy: bool) -> Setup {
    Setup { sloppy, sessions: 64, ..Setup::new("admin", PASSWORD) }
}

fn faults() -> impl Strategy<Value = Faults> {
    let share = |most: f64| prop_oneof![Just(0.0), 0.0..most];
    (share(0.3), share(0.5), share(0.6), 0..8000u64, share(0.5)).prop_map(
        |(lost, duplicated, delayed, delay_ms, reordered)| Faults {
            lost,
            duplicated,
            delayed,
            delay_ms,
            reordered,
            ..Faults::default()
        },
    )
}

fn suites() -> impl Strategy<Value = Suites> {
    prop_oneof![
        Just(Suites::Best),
        Just(Suites::Only(CipherSuite::Three)),
        Just(Suites::Only(CipherSuite::Seventeen)),
    ]
}

/// What happens between two calls.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The state is asked.
    Ask,
    /// Somebody presses the button, then the state is asked.
    PressAndAsk,
    /// An order.
    Order(ChassisControl),
    /// Milliseconds pass.
    Rest(u64),
    /// The BMC restarts and is away for milliseconds.
    Reboot(u64),
}

fn events(most: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Ask),
        8 => Just(Event::PressAndAsk),
        1 => Just(Event::Order(ChassisControl::PowerUp)),
        1 => Just(Event::Order(ChassisControl::PowerDown)),
        2 => (0..4000u64).prop_map(Event::Rest),
        1 => (0..90_000u64).prop_map(Event::Rest),
        1 => (0..9000u64).prop_map(Event::Reboot),
    ];
    prop::collection::vec(event, 1..most)
}

/// Lets all that happen; answers how many calls had an answer, and how many there were.
fn run(world: &mut World, events: &[Event]) -> (usize, usize) {
    let (mut answered, mut calls, mut orders) = (0, 0, 0);
    for event in events {
        match event {
            Event::Rest(millis) => world.rest(Duration::from_millis(*millis)),
            Event::Reboot(millis) => world.bmc.reboot(Duration::from_millis(*millis), world.now),
            Event::Order(order) => {
                orders += 1;
                calls += 1;
                let outcome = world.call(Task::Order((*order).into()));
                answered += usize::from(outcome.is_ok());
            }
            Event::Ask | Event::PressAndAsk => {
                if matches!(event, Event::PressAndAsk) {
                    world.press();
                }
                calls += 1;
                let begin = world.now;
                if let Ok(told) = world.ask() {
                    answered += 1;
                    assert!(
                        world.was(told, begin),
                        "told {told:?}, which it has not been since the call"
                    );
                }
            }
        }
    }
    let obeyed = world.bmc.orders().len();
    assert!(obeyed <= orders, "{orders} orders were given, and {obeyed} obeyed");
    (answered, calls)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_power_state_is_never_wrong_because_of_a_late_or_doubled_packet(
        faults in faults(),
        suites in suites(),
        seed: u64,
        events in events(40),
    ) {
        let mut world = World::new(setup(false), suites, seed);
        world.faults = faults;
        run(&mut world, &events);
    }

    // A BMC that looks at no sequence number answers every copy of a request.
    #[test]
    fn nor_if_the_bmc_answers_every_copy_of_a_request(
        faults in faults(),
        seed: u64,
        presses in prop::collection::vec(any::<bool>(), 1..60),
    ) {
        let mut world = World::new(setup(true), Suites::Best, seed);
        world.faults = faults;
        let event = |press| if press { Event::PressAndAsk } else { Event::Ask };
        let events: Vec<Event> = presses.into_iter().map(event).collect();
        run(&mut world, &events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    // Requests have 64 numbers; here hundreds of calls are over before a late packet comes.
    #[test]
    fn nor_if_numbers_of_requests_come_again_while_a_packet_is_on_its_way(
        delay_ms in 1..500u64,
        duplicated in 0.0..0.2f64,
        sloppy: bool,
        seed: u64,
    ) {
        let mut world = World::new(setup(sloppy), Suites::Best, seed);
        world.faults = Faults { delayed: 0.02, delay_ms, duplicated, ..Faults::default() };
        let (answered, calls) = run(&mut world, &vec![Event::PressAndAsk; 400]);
        prop_assert_eq!(answered, calls, "late packets alone keep no call from its answer");
    }
}

// The last rule of `session.rs`, alone: the window would still take this packet.
#[test]
fn an_answer_that_was_held_back_for_64_requests_is_not_taken() {
    let mut world = World::new(setup(false), Suites::Only(CipherSuite::Seventeen), 1);
    world.ask().unwrap();
    // The answer to this one is held back; the request comes again, and that answer counts.
    world.detour = Detour::Hold;
    world.ask().unwrap();
    // 63 more requests of which every other one is lost, so that few packets have come since.
    for _ in 0..31 {
        world.detour = Detour::LoseRequests;
        let lost = world.call(Task::Order(ChassisControl::HardReset.into()));
        assert!(matches!(lost, Err(Error::Unanswered)), "{lost:?}");
        world.detour = Detour::None;
        world.ask().unwrap();
    }
    world.detour = Detour::LoseRequests;
    world.call(Task::Order(ChassisControl::HardReset.into())).unwrap_err();
    // This one has the held one's number, and the held answer comes before its own.
    world.press();
    world.detour = Detour::Release;
    assert_eq!(world.ask().unwrap(), PowerState::On);
    assert_eq!(world.bmc.counts().logins, 1, "all in one session");
}

#[test]
fn one_call_in_ten_thousand_at_most_fails_where_a_tenth_is_lost_each_way() {
    let (mut answered, mut calls) = (0, 0);
    for seed in 0..100 {
        let mut world = World::new(setup(false), Suites::Best, seed);
        world.faults.lost = 0.1;
        let mut events = vec![Event::PressAndAsk; 100];
        // Also long after one another, so that keepalives are lost too.
        events.extend([Event::Rest(45_000), Event::PressAndAsk].repeat(10));
        let (a, c) = run(&mut world, &events);
        (answered, calls) = (answered + a, calls + c);
    }
    assert!(calls - answered <= calls / 10_000, "{answered} of {calls}");
}

#[test]
fn a_session_lives_for_hours_with_nobody_calling_and_one_login() {
    let options = Options { idle: Duration::from_secs(86_400), ..Options::default() };
    let mut world = World::with(options, setup(false), Suites::Best, 1);
    world.ask().unwrap();
    world.rest(Duration::from_secs(4 * 3600));
    world.ask().unwrap();
    assert_eq!(world.bmc.counts().logins, 1, "{:?}", world.bmc.counts());
}

#[test]
fn a_session_that_nobody_needs_is_closed() {
    let mut world = World::new(setup(false), Suites::Best, 1);
    world.ask().unwrap();
    assert_eq!(world.bmc.open_sessions(world.now), 1);
    world.rest(Options::default().idle + Duration::from_secs(1));
    assert_eq!(world.bmc.open_sessions(world.now), 0);
    assert_eq!(world.bmc.counts().closed, 1);
}
