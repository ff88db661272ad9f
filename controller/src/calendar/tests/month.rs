//! A month of a large cluster in half an hour: tenants ask by the API, the calendar makes its passes at the
//! hours of a clock that jumps from one event to the next, and nodes boot, end and die as told.
//!
//! After every pass that changed something the promises of the calendar are looked at anew.

mod metal;
mod promises;

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Instant,
};

use haas_api::{names::QueueName, queue::QueueSpec};

use self::{
    metal::Metal,
    promises::{Ledger, Tally},
};
use super::*;

/// The size of it; a debug build takes a twentieth.
const NODES: usize = if cfg!(debug_assertions) { 50 } else { 1_000 };
const RESERVATIONS: usize = if cfg!(debug_assertions) { 250 } else { 5_000 };
const DAYS: i64 = if cfg!(debug_assertions) { 5 } else { 30 };

/// Nodes of one node group, of which the queue `special` has the last ones.
const GROUP: usize = NODES / 10;

/// How often the loop plans though nothing happens.
const HALF_A_MINUTE: Micros = 30 * SECOND;

/// How many tenants there are.
const TENANTS: usize = 20;

/// Numbers that look like chance, the same in every run.
struct Dice(u64);

impl Dice {
    /// Less than `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are good enough to roll dice with.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.roll(100) < chance
    }

    /// How many nodes somebody wants: mostly few, sometimes a quarter of all.
    fn width(&mut self) -> u64 {
        let most = NODES as u64;
        match self.roll(20) {
            0..8 => 1,
            8..15 => 1 + self.roll(8),
            15..19 => 1 + self.roll((most / 20).max(8)),
            _ => most / 16 + self.roll(most * 3 / 16),
        }
    }
}

/// What a tenant will do later.
#[derive(Debug, Clone, Copy)]
enum Later {
    Extend,
    Release,
}

/// The cluster, its tenants, and what was seen.
struct Month {
    bench: Bench,
    clock: &'static AtomicI64,
    dice: Dice,
    tenants: Vec<String>,
    metal: Metal,
    ledger: Ledger,
    /// What tenants will do when: the time, the reservation, whose it is.
    later: Vec<(Micros, i64, usize, Later)>,
    /// How long each call took.
    calls: Vec<std::time::Duration>,
    passes: usize,
}

impl Month {
    async fn new() -> Self {
        let clock: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(86_400 * SECOND)));
        let queue =
            |name: &str| QueueSpec { open: true, ..QueueSpec::named(name.parse().unwrap()) };
        let queues = vec![
            QueueSpec {
                guaranteed: 50,
                policy: haas_api::queue::QueuePolicy::Fair,
                ..queue("batch")
            },
            QueueSpec { max: 40, user_max: Some(20), ..queue("short") },
            QueueSpec {
                node_groups: vec!["rack9".parse().unwrap()],
                max_reserved: 50,
                ..queue("special")
            },
        ];
        let bench = Bench::at_time(clock, |config| config.queues = queues).await;
        super::super::at_start(&bench.context).await.unwrap();
        bench.add_image("a").await;
        let mut tx = bench.context.store.write().await.unwrap();
        tx.remove_queue(&"default".parse::<QueueName>().unwrap()).await.unwrap();
        for number in 0..NODES {
            let mut spec = crate::testing::spec(1);
            spec.name = format!("n{number:04}").parse().unwrap();
            spec.nics[0].mac =
                format!("52:54:00:00:{:02x}:{:02x}", number >> 8, number & 255).parse().unwrap();
            spec.address = None;
            spec.groups = [format!("rack{}", number / GROUP).parse().unwrap()].into();
            tx.add_node(&spec, 1).await.unwrap();
            let node = tx.node(spec.name.as_str()).await.unwrap().unwrap();
            tx.set_managed(&node.id, true).await.unwrap();
            tx.set_power(&node.id, Ok(Power::Off), clock.load(Ordering::Relaxed)).await.unwrap();
        }
        tx.commit().await.unwrap();
        let mut tenants = Vec::new();
        for number in 0..TENANTS {
            tenants.push(bench.add_user(&format!("t{number:02}"), Role::User).await);
        }
        for (number, nodes) in [(0, NODES / 4), (1, NODES / 2)] {
            let project = json!({ "name": format!("p{number}"), "owner": format!("t{number:02}") });
            ok(bench.post("/v1/projects", project).await);
            let limits = json!({ "limits": { "nodes": nodes } });
            ok(bench.call(&bench.admin, "PATCH", &format!("/v1/projects/p{number}"), limits).await);
        }
        Self {
            bench,
            clock,
            dice: Dice(1),
            tenants,
            metal: Metal::default(),
            ledger: Ledger::default(),
            later: Vec::new(),
            calls: Vec::new(),
            passes: 0,
        }
    }

    fn now(&self) -> Micros {
        self.clock.load(Ordering::Relaxed)
    }

    /// A tenant calls, and the time that it takes is noted.
    async fn call(&mut self, tenant: usize, method: &str, path: &str, body: Value) -> Answered {
        let begun = Instant::now();
        let answer = self.bench.call(&self.tenants[tenant], method, path, body).await;
        self.calls.push(begun.elapsed());
        assert!(answer.status < 500, "{method} {path}: {answer:?}");
        answer
    }

    /// Somebody asks for nodes, and looks at what came of it. Whether it is in the calendar.
    async fn ask(&mut self) -> bool {
        let tenant = self.dice.roll(TENANTS as u64) as usize;
        let (queue, most) = match self.dice.roll(10) {
            0..6 => ("batch", NODES as u64 / 2),
            6..9 => ("short", NODES as u64 / 5),
            _ => ("special", GROUP as u64 / 2),
        };
        let nodes = self.dice.width().min(most).max(1);
        let minutes = match queue {
            "short" => 10 + self.dice.roll(110),
            _ => 30 + self.dice.roll(450),
        };
        let on_node_loss = ["replace", "replace", "shrink", "fail"][self.dice.roll(4) as usize];
        let mut body = json!({
            "nodes": nodes, "walltime_s": minutes * 60, "image": "a", "queue": queue,
            "on_node_loss": on_node_loss,
        });
        if tenant < 2 && self.dice.percent(50) {
            body["project"] = json!(format!("p{tenant}"));
        }
        let is_advance = self.dice.percent(20);
        if is_advance {
            let begin = self.now() + (60 + self.dice.roll(48 * 60)) as i64 * MINUTE;
            let at = self.bench.context.clock.to_wall(begin);
            body["begin"] = json!(clock::rfc3339(at));
        }
        let answer = self.call(tenant, "POST", "/v1/reservations", body).await;
        if answer.status != 201 {
            let code = answer.code();
            assert!(["no-slot", "quota", "too-few-nodes"].contains(&code.as_str()), "{answer:?}");
            return false;
        }
        let id = super::id(&answer);
        let path = format!("/v1/reservations/{id}");
        self.call(tenant, "GET", &path, Value::Null).await;
        match self.dice.roll(5) {
            0 => drop(self.call(tenant, "GET", &format!("{path}/explain"), Value::Null).await),
            1 => drop(self.call(tenant, "GET", "/v1/reservations?mine=true", Value::Null).await),
            2 => {
                let path = format!("/v1/calendar?queue={queue}&nodes={nodes}&walltime_s=3600");
                drop(self.call(tenant, "GET", &path, Value::Null).await);
            }
            _ => {}
        }
        let then = self.now() + (10 + self.dice.roll(600)) as i64 * MINUTE;
        match self.dice.roll(10) {
            0 => self.later.push((then, id, tenant, Later::Extend)),
            1 => self.later.push((then, id, tenant, Later::Release)),
            _ => {}
        }
        true
    }

    /// What tenants want now.
    async fn act(&mut self) {
        let now = self.now();
        let due = self.later.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>();
        for (_, id, tenant, what) in due {
            let path = format!("/v1/reservations/{id}");
            let answer = match what {
                Later::Extend => {
                    let body = json!({ "by_s": 3_600, "as_far_as_possible": true });
                    self.call(tenant, "POST", &format!("{path}/extend"), body).await
                }
                Later::Release => {
                    self.call(tenant, "POST", &format!("{path}/release"), Value::Null).await
                }
            };
            assert!(answer.status < 300 || answer.status == 409, "{answer:?}");
        }
    }

    /// A pass of the calendar, and a look at what it has done. When the next is due.
    async fn pass(&mut self) -> Option<Micros> {
        let context = &self.bench.context;
        let mut tx = context.store.read().await.unwrap();
        let before = tx.calendar_changes().await.unwrap();
        drop(tx);
        let next = super::super::pass(context).await.unwrap();
        self.passes += 1;
        let mut tx = context.store.read().await.unwrap();
        if tx.calendar_changes().await.unwrap() != before {
            let now = self.now();
            self.ledger.look(&mut tx, now).await;
            self.metal.hear(&mut tx, now, &mut self.dice).await;
            // As the loop does, which looks again soon.
            return Some(next.map_or(now + HALF_A_MINUTE, |next| next.min(now + HALF_A_MINUTE)));
        }
        next
    }

    /// From one event to the next, until all is over.
    #[expect(clippy::print_stdout, reason = "it takes long, and this is for the one who waits")]
    async fn run(&mut self) {
        let (begun, started) = (self.now(), Instant::now());
        let mut days = 0;
        let gap = (DAYS * 86_400 / RESERVATIONS as i64) as u64;
        let (mut asks_at, mut made) = (begun, 0);
        loop {
            let now = self.now();
            while days < (now - begun) / SECOND / 86_400 {
                days += 1;
                let passes = self.passes;
                println!("day {days}: {made} asked, {passes} passes, {:?}", started.elapsed());
            }
            self.metal.live(&self.bench.context, now, &mut self.dice).await;
            while made < RESERVATIONS && asks_at <= now {
                made += usize::from(self.ask().await);
                asks_at += 1 + self.dice.roll(2 * gap / 60) as i64 * MINUTE;
            }
            self.act().await;
            let next = self.pass().await;
            let asks = (made < RESERVATIONS).then_some(asks_at);
            let later = self.later.iter().map(|(at, ..)| *at).min();
            let times = [next, asks, later, self.metal.next()];
            let Some(next) = times.into_iter().flatten().min() else { break };
            // To whole seconds, so that what comes at about the same time is one event.
            let next = next.max(now + 1).div_euclid(SECOND) * SECOND + SECOND;
            self.clock.store(next, Ordering::Relaxed);
            assert!(now - begun < 2 * DAYS * 24 * HOUR, "reservations do not end");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half an hour; run: cargo test --release -p controller --lib -- --ignored --nocapture a_month"]
#[expect(clippy::print_stdout, reason = "what was measured is for the one who runs it")]
async fn slow_a_month_of_a_large_cluster_keeps_every_promise() {
    let mut month = Month::new().await;
    let (begun, started) = (Instant::now(), month.now());
    month.run().await;
    let took = begun.elapsed().as_secs_f64();
    let lasted = ((month.now() - started) / SECOND) as f64;
    let mut calls = std::mem::take(&mut month.calls);
    calls.sort_unstable();
    let call =
        |part: usize| calls[(calls.len() * part / 1_000).min(calls.len() - 1)].as_secs_f64() * 1e3;
    let mut tx = month.bench.context.store.read().await.unwrap();
    let tally = Tally::of(&mut tx, RESERVATIONS).await;
    println!(
        "{NODES} nodes, {RESERVATIONS} reservations, {:.1} days in {took:.0} s: {:.0} times real time",
        lasted / 86_400.0,
        lasted / took
    );
    println!(
        "{} passes, {} looks, {} calls: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        month.passes,
        month.ledger.looks,
        calls.len(),
        call(500),
        call(990),
        call(1_000)
    );
    println!(
        "{} of {} boots failed, {} nodes died in use; {tally}",
        month.metal.failed, month.metal.boots, month.metal.died
    );
    tally.check(&month.metal);
    assert!(took < lasted, "a month takes more than a month");
}
