//! What haasd counts and times, for Prometheus.
//!
//! There is one set of counters for the process. What happens is counted here, as it happens; what
//! only stands somewhere (sessions, webhooks, memory) is read at each scrape, in `snapshot`. Names
//! keep Prometheus' conventions: base units, `_total` for counters. No label has a node, a user or
//! anything else of which there can be any number; what nodes themselves can say is bounded by `Words`.

mod process;
mod snapshot;

use std::{
    collections::BTreeSet,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use haas_api::{agent::BootStage, node::NodeState};
use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    context::Context,
    model::{Attempt, Cause, Micros},
    store::Result,
};

/// The media type of [`text`].
pub use prometheus_text::CONTENT_TYPE;

/// The counters of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Distinct words of one label that are counted each; more are counted as `other`.
const MOST_WORDS: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseOf {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    driver: &'static str,
    call: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: String,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Delivery {
    webhook: String,
    outcome: &'static str,
}

type Timed<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// What is counted as it happens.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    nodes: Family<State, Gauge>,
    booting: Family<Stage, Gauge>,
    in_fault: Family<Code, Gauge>,
    boots_started: Family<CauseOf, Counter>,
    boots: Family<Outcome, Counter>,
    boots_failed: Family<Stage, Counter>,
    boot_time: Histogram,
    stage_time: Timed<Stage>,
    faults: Family<Code, Counter>,
    words: Words,
    bmc_time: Timed<Call>,
    store_wait: Timed<Kind>,
    store_time: Timed<Kind>,
    pass_time: Histogram,
    requests: Family<Answered, Counter>,
    request_time: Timed<Route>,
    deliveries: Family<Delivery, Counter>,
}

impl Metrics {
    fn new() -> Self {
        // The store opens before anything else, and counts.
        LazyLock::force(&process::STARTED);
        let metrics = Self {
            registry: Registry::with_prefix("haas"),
            nodes: Family::default(),
            booting: Family::default(),
            in_fault: Family::default(),
            boots_started: Family::default(),
            boots: Family::default(),
            boots_failed: Family::default(),
            boot_time: minutes(),
            stage_time: Family::new_with_constructor(minutes),
            faults: Family::default(),
            words: Words::default(),
            bmc_time: Family::new_with_constructor(calls),
            store_wait: Family::new_with_constructor(instants),
            store_time: Family::new_with_constructor(instants),
            pass_time: instants(),
            requests: Family::default(),
            request_time: Family::new_with_constructor(instants),
            deliveries: Family::default(),
        };
        metrics.begin_at_nothing();
        metrics.registered()
    }

    /// What can be known beforehand is there from the first scrape on: a rate needs its zero.
    fn begin_at_nothing(&self) {
        for state in NodeState::ALL.map(NodeState::as_str) {
            drop(self.nodes.get_or_create(&State { state }));
        }
        for stage in BootStage::ALL.map(BootStage::as_str) {
            drop(self.booting.get_or_create(&Stage { stage }));
            drop(self.boots_failed.get_or_create(&Stage { stage }));
            drop(self.stage_time.get_or_create(&Stage { stage }));
        }
        drop(self.faults.get_or_create(&other()));
        drop(self.in_fault.get_or_create(&other()));
        for outcome in ["ready", "failed"] {
            drop(self.boots.get_or_create(&Outcome { outcome }));
        }
        let causes =
            [Cause::Desired, Cause::Kexec, Cause::Retry, Cause::Unplanned, Cause::HandedOver];
        for cause in causes.map(Cause::as_str) {
            drop(self.boots_started.get_or_create(&CauseOf { cause }));
        }
        for driver in ["ipmi", "redfish", "exec"] {
            for outcome in ["ok", "failed"] {
                drop(self.bmc_time.get_or_create(&Call { driver, call: "status", outcome }));
            }
        }
        for kind in ["read", "write"] {
            drop(self.store_wait.get_or_create(&Kind { kind }));
            drop(self.store_time.get_or_create(&Kind { kind }));
        }
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("nodes", "Nodes of the inventory by their state", self.nodes.clone());
        registry.register(
            "nodes_booting",
            "Nodes with a boot attempt under way, by the last stage that it reached",
            self.booting.clone(),
        );
        registry.register(
            "nodes_in_fault",
            "Nodes that wait for a person, by the code of their fault",
            self.in_fault.clone(),
        );
        registry.register(
            "boots_started",
            "Boot attempts that were opened, by why",
            self.boots_started.clone(),
        );
        registry.register(
            "boots",
            "Boot attempts that became ready or failed; the others gave way to something else",
            self.boots.clone(),
        );
        registry.register(
            "boots_failed",
            "Boot attempts that failed, by the last stage that they reached",
            self.boots_failed.clone(),
        );
        registry.register_with_unit(
            "boot_duration",
            "From power-on to ready, of boot attempts that became ready",
            Unit::Seconds,
            self.boot_time.clone(),
        );
        registry.register_with_unit(
            "boot_stage_duration",
            "How long a stage of a boot took, from its beginning to the beginning of the next",
            Unit::Seconds,
            self.stage_time.clone(),
        );
        registry.register("faults", "Faults so far, by code", self.faults.clone());
        registry.register_with_unit(
            "bmc_call_duration",
            "Calls to power drivers, retries included",
            Unit::Seconds,
            self.bmc_time.clone(),
        );
        registry.register_with_unit(
            "store_wait_duration",
            "How long a transaction waited for its beginning",
            Unit::Seconds,
            self.store_wait.clone(),
        );
        registry.register_with_unit(
            "store_transaction_duration",
            "From a transaction's beginning to its end",
            Unit::Seconds,
            self.store_time.clone(),
        );
        registry.register_with_unit(
            "reconcile_pass_duration",
            "One look of the reconciler at all nodes",
            Unit::Seconds,
            self.pass_time.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API by route and status; streams count when they begin",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "api_request_duration",
            "From a request to the beginning of its answer",
            Unit::Seconds,
            self.request_time.clone(),
        );
        registry.register(
            "webhook_deliveries",
            "Tries to deliver an event, by what came of them",
            self.deliveries.clone(),
        );
        self
    }

    /// A boot attempt was opened.
    pub fn boot_started(&self, cause: Cause) {
        self.boots_started.get_or_create(&CauseOf { cause: cause.as_str() }).inc();
    }

    /// An attempt, as it was before, has reached a later stage.
    pub fn boot_reached(&self, before: &Attempt, stage: BootStage, now: Micros) {
        let ended = Stage { stage: before.stage.as_str() };
        self.stage_time.get_or_create(&ended).observe(seconds(now - before.stage_since));
        if stage == BootStage::Ready {
            self.boots.get_or_create(&Outcome { outcome: "ready" }).inc();
            self.boot_time.observe(seconds(now - before.counted_from));
        }
    }

    /// An attempt was given up after this stage.
    pub fn boot_failed(&self, stage: BootStage) {
        self.boots.get_or_create(&Outcome { outcome: "failed" }).inc();
        self.boots_failed.get_or_create(&Stage { stage: stage.as_str() }).inc();
    }

    /// A person is needed.
    pub fn fault(&self, code: &str) {
        self.faults.get_or_create(&self.words.label(code)).inc();
    }

    /// A power driver was called.
    pub fn bmc_called(
        &self,
        driver: &'static str,
        call: &'static str,
        succeeded: bool,
        took: Duration,
    ) {
        let outcome = if succeeded { "ok" } else { "failed" };
        self.bmc_time.get_or_create(&Call { driver, call, outcome }).observe(took.as_secs_f64());
    }

    /// A transaction of the store has begun after `waited`; it ends when the answer is dropped.
    pub fn store_began(&self, kind: &'static str, waited: Duration) -> Held {
        self.store_wait.get_or_create(&Kind { kind }).observe(waited.as_secs_f64());
        Held { kind, since: Instant::now() }
    }

    /// The API has answered. `route` is the pattern, never the path.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let (method, route) = (method.to_owned(), route.to_owned());
        let of = Route { method: method.clone(), route: route.clone() };
        self.request_time.get_or_create(&of).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answered { method, route, status }).inc();
    }

    /// A webhook was tried, or gave an event up.
    pub fn delivery(&self, webhook: &str, outcome: &'static str) {
        let label = Delivery { webhook: webhook.to_owned(), outcome };
        self.deliveries.get_or_create(&label).inc();
    }

    /// A webhook was removed.
    pub fn forget_webhook(&self, webhook: &str) {
        for outcome in ["delivered", "failed", "gave-up"] {
            self.deliveries.remove(&Delivery { webhook: webhook.to_owned(), outcome });
        }
    }

    /// How all nodes stand, after a look at them that took so long.
    pub fn nodes(&self, standings: &Standings, took: Duration) {
        self.pass_time.observe(took.as_secs_f64());
        for state in NodeState::ALL {
            let count = standings.states.iter().filter(|one| **one == state).count();
            self.nodes.get_or_create(&State { state: state.as_str() }).set(gauge(count));
        }
        for stage in BootStage::ALL {
            let count = standings.booting.iter().filter(|one| **one == stage).count();
            self.booting.get_or_create(&Stage { stage: stage.as_str() }).set(gauge(count));
        }
        self.in_fault.clear();
        drop(self.in_fault.get_or_create(&other()));
        for code in &standings.faults {
            self.in_fault.get_or_create(&self.words.label(code)).inc();
        }
    }
}

/// How nodes stand, one entry for each that it is said of.
#[derive(Debug, Default)]
pub struct Standings {
    /// The state of each node.
    pub states: Vec<NodeState>,
    /// The stage of each boot under way.
    pub booting: Vec<BootStage>,
    /// The code of each fault.
    pub faults: Vec<String>,
}

/// A transaction that is under way.
#[derive(Debug)]
pub struct Held {
    kind: &'static str,
    since: Instant,
}

impl Drop for Held {
    fn drop(&mut self) {
        let time = METRICS.store_time.get_or_create(&Kind { kind: self.kind });
        time.observe(self.since.elapsed().as_secs_f64());
    }
}

/// All of it as Prometheus reads it.
pub async fn text(context: &Context) -> Result<String> {
    let now = snapshot::take(context).await?;
    let mut text = String::new();
    for registry in [&METRICS.registry, &now, &process::figures()] {
        prometheus_text::encode(&mut text, registry).expect("writing to a String does not fail");
    }
    Ok(text)
}

/// Codes of faults may come from a node, whose users can say anything there: the first words are
/// labels of their own, later ones and what is no word are not.
#[derive(Debug, Default)]
struct Words(Mutex<BTreeSet<String>>);

impl Words {
    fn label(&self, code: &str) -> Code {
        let is_word = (1..=40).contains(&code.len())
            && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_word && known.len() < MOST_WORDS {
            known.insert(code.to_owned());
        }
        if known.contains(code) { Code { code: code.to_owned() } } else { other() }
    }
}

fn other() -> Code {
    Code { code: "other".to_owned() }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn seconds(micros: Micros) -> f64 {
    // Less than 2^53 for 285 years.
    micros.max(0) as f64 / 1e6
}

/// 100 µs to 6.6 s: what waits for a disk or another transaction.
fn instants() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 9).map(rounded))
}

/// 1 ms to 33 s: what waits for a BMC.
fn calls() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16).map(rounded))
}

/// 250 ms to 34 min: what waits for firmware and kernels.
fn minutes() -> Histogram {
    Histogram::new(exponential_buckets(0.25, 2.0, 14).map(rounded))
}

/// Bounds are labels, and should look like numbers that a person wrote.
fn rounded(bound: f64) -> f64 {
    (bound * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests;
