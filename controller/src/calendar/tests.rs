//! The calendar on a store of its own: requests come by the API, passes are made at times of the test's
//! choice, and nodes boot when the test says so.

mod life;
mod losses;
mod month;
mod rights;
mod times;
mod windows;

use haas_api::agent::BootStage;
use haas_api::user::Role;
use serde_json::{Value, json};

use crate::{
    clock,
    config::Config,
    model::{Cause, Desired, Micros, Power, SECOND, Silence},
    reconcile,
    testing::{Answered, Bench},
};

const MINUTE: Micros = 60 * SECOND;
const HOUR: Micros = 60 * MINUTE;

/// A cluster with nodes that are off, the image `a`, and alice and bob, who may use the queue `default`.
struct Rig {
    bench: Bench,
    bob: String,
    /// When the test began.
    begun: Micros,
}

impl Rig {
    async fn new(nodes: u8) -> Self {
        Self::with(nodes, |_| ()).await
    }

    async fn with(nodes: u8, change: impl FnOnce(&mut Config)) -> Self {
        let bench = Bench::with(change).await;
        super::at_start(&bench.context).await.unwrap();
        bench.add_nodes(1..=nodes).await;
        bench.add_image("a").await;
        let bob = bench.add_user("bob", Role::User).await;
        let begun = bench.context.clock.now();
        let mut tx = bench.context.store.write().await.unwrap();
        for node in tx.nodes().await.unwrap() {
            tx.set_power(&node.id, Ok(Power::Off), begun).await.unwrap();
        }
        tx.commit().await.unwrap();
        Self { bench, bob, begun }
    }

    async fn ask(&self, token: &str, body: Value) -> Answered {
        self.bench.call(token, "POST", "/v1/reservations", body).await
    }

    /// Reserves as alice and answers the number.
    async fn reserve(&self, body: Value) -> i64 {
        id(&self.ask(&self.bench.alice, body).await)
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Answered {
        self.bench.call(token, "POST", path, body).await
    }

    /// A reservation as an admin sees it.
    async fn shown(&self, id: i64) -> Value {
        let path = format!("/v1/reservations/{id}");
        ok(self.bench.call(&self.bench.admin, "GET", &path, Value::Null).await)
    }

    async fn state(&self, id: i64) -> (String, String) {
        let shown = self.shown(id).await;
        (text(&shown["state"]), text(&shown["code"]))
    }

    /// The nodes that it has or is promised.
    async fn nodes(&self, id: i64) -> Vec<String> {
        let shown = self.shown(id).await;
        let assigned = shown["assigned"].as_array().unwrap();
        assigned.iter().filter(|n| n["state"] != "lost").map(|n| text(&n["node"])).collect()
    }

    /// What happened to it: what and why.
    async fn steps(&self, id: i64) -> Vec<String> {
        let shown = self.shown(id).await;
        let steps = shown["steps"].as_array().unwrap();
        steps
            .iter()
            .map(|step| format!("{} {}", text(&step["what"]), text(&step["code"])))
            .collect()
    }

    /// Plans as if it were so long after the begin.
    async fn pass(&self, after: Micros) {
        super::pass_at(&self.bench.context, self.begun + after).await.unwrap();
    }

    /// What is wanted of a node.
    async fn wanted(&self, number: u8) -> Desired {
        let node = self.bench.node(number).await;
        let mut tx = self.bench.context.store.read().await.unwrap();
        tx.desired(&node.id, node.generation).await.unwrap().expect("something is wanted of it")
    }

    /// A node boots what is wanted of it now, and is ready.
    async fn boots(&self, number: u8) {
        let node = self.bench.node(number).await;
        let mut tx = self.bench.context.store.read().await.unwrap();
        let last = tx.last_attempt(&node.id).await.unwrap();
        drop(tx);
        let context = &self.bench.context;
        let attempt = reconcile::open_attempt(context, &node, last.as_ref(), Cause::Desired);
        let attempt = attempt.await.unwrap();
        for stage in BootStage::ALL.into_iter().filter(|stage| *stage > BootStage::Power) {
            self.bench.advance(&attempt, stage).await;
        }
        let now = self.bench.context.clock.now();
        let mut tx = self.bench.context.store.write().await.unwrap();
        tx.set_power(&node.id, Ok(Power::On), now).await.unwrap();
        tx.agent_spoke(&node.id, &attempt.id, now).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// What ran on a node has ended, and it is off.
    async fn goes_off(&self, number: u8) {
        let node = self.bench.node(number).await;
        let now = self.bench.context.clock.now();
        let mut tx = self.bench.context.store.write().await.unwrap();
        tx.end_attempts(&node.id, now).await.unwrap();
        tx.set_power(&node.id, Ok(Power::Off), now).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Neither a node's agent nor its BMC answers any more.
    async fn is_lost(&self, number: u8) {
        self.is_silent(number, Some(Silence::Unreachable)).await;
    }

    async fn is_back(&self, number: u8) {
        self.is_silent(number, None).await;
    }

    async fn is_silent(&self, number: u8, silence: Option<Silence>) {
        let node = self.bench.node(number).await;
        // Whose agent is missed was on.
        let is_on = silence.is_some() || node.generation > 0;
        let power = if is_on { Power::On } else { Power::Off };
        let mut tx = self.bench.context.store.write().await.unwrap();
        tx.set_silence(&node.id, silence).await.unwrap();
        tx.set_power(&node.id, Ok(power), self.bench.context.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// So long after the begin as the API has it.
    fn at(&self, after: Micros) -> String {
        clock::rfc3339(self.bench.context.clock.to_wall(self.begun + after))
    }
}

fn wish(nodes: u32, walltime: Micros) -> Value {
    json!({ "nodes": nodes, "walltime_s": walltime / SECOND, "image": "a" })
}

/// The same from so long after the begin.
fn wish_at(rig: &Rig, nodes: u32, walltime: Micros, begin: Micros) -> Value {
    let mut body = wish(nodes, walltime);
    body["begin"] = json!(rig.at(begin));
    body
}

fn with(mut body: Value, key: &str, value: Value) -> Value {
    body[key] = value;
    body
}

/// Whether a time of the API is so long after the begin, but for how exactly clocks are read.
#[track_caller]
fn is_at(rig: &Rig, shown: &Value, after: Micros) {
    let time = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let (is, expected) = (time(&text(shown)), time(&rig.at(after)));
    assert!((is - expected).abs() < 2 * SECOND, "{shown} is not about {}", rig.at(after));
}

#[track_caller]
fn id(answer: &Answered) -> i64 {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_i64().unwrap()
}

#[track_caller]
fn ok(answer: Answered) -> Value {
    assert!(answer.status < 300, "{answer:?}");
    if answer.text.is_empty() { Value::Null } else { answer.json() }
}

#[track_caller]
fn refused(answer: &Answered) -> (u16, String, String) {
    let detail = text(&answer.json()["detail"]);
    (answer.status, answer.code(), detail)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is(state: &str, code: &str) -> (String, String) {
    (state.to_owned(), code.to_owned())
}
