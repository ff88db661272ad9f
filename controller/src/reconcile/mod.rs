//! The loop that makes nodes be as they are wanted.
//!
//! It takes no input: it reads the store, decides for each node (`lifecycle`), does one step
//! (`act`), records it and asks again, until the node must wait. Whoever changes something in the
//! store wakes it; a full pass runs every 30 s anyway. Nodes are worked on side by side, each by at
//! most one task, so that a slow BMC holds up nobody else.

mod act;
mod alone;
pub(crate) mod ask;
mod drain_hook;
mod hook;
mod idle;
mod kexec;
mod observe;
mod operations;
mod quarantine;
mod ramp;
#[cfg(test)]
mod testing;
mod turns;
mod verdict;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

pub use act::{open_attempt, open_started};
use haas_api::agent::{BootStage, DiskState, Failure};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use self::ramp::Ramp;
use crate::{
    api,
    busy::Busy,
    context::Context,
    lifecycle::{Action, Hook, Step, View, decide},
    metrics::{METRICS, Standings},
    model::{Attempt, AttemptState, Desired, HookCall, Micros, Node, Power},
    store::{DiskRow, Result, StoreError, Tx},
};

/// How often everything is looked at though nothing happened.
const FULL_PASS: Duration = Duration::from_secs(30);

/// Between two passes the loop rests so many times as long as the last one took.
const REST: u32 = 3;

/// And no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Steps that one node may take in a row before others get their turn.
const STEPS: usize = 12;

/// A node with all that a decision is taken on, read in one transaction.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The node.
    pub node: Node,
    /// What is wanted of it.
    pub desired: Option<Desired>,
    /// Its last attempt.
    pub attempt: Option<Attempt>,
    /// The attempt whose kernel the system of the last one is to start.
    pub next: Option<Attempt>,
    /// The desired state that the last attempt serves.
    pub serves: Option<Desired>,
    /// Why attempts of the present generation have failed.
    pub failures: Vec<Failure>,
    /// Whether nothing but what is ours can start from its disks, as far as its agent has told.
    pub disks_are_ours: bool,
    /// What the site's drain hook has said of it.
    pub hook_call: Option<HookCall>,
    /// Until when haasd does no power action by itself, since it has done so many.
    pub brake: Option<Micros>,
}

/// Why the loop has ended.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// Another haasd was started on the same database, and acts.
    #[error(
        "another haasd was started on this database (start {theirs}, this one is {ours}); only the last one acts"
    )]
    Superseded {
        /// This haasd's place among the starts.
        ours: i64,
        /// The other one's.
        theirs: i64,
    },
    /// The store said no.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl Loaded {
    /// Reads it.
    pub async fn read(context: &Context, tx: &mut Tx, node: Node) -> Result<Self> {
        let desired = tx.desired(&node.id, node.generation).await?;
        let attempt = tx.last_attempt(&node.id).await?;
        let next = match attempt.as_ref().is_some_and(has_next) {
            true => tx.next_attempt(&node.id).await?,
            false => None,
        };
        let serves = match &attempt {
            Some(attempt) => tx.desired(&node.id, attempt.generation).await?,
            None => None,
        };
        let failures = tx.failures(&node.id, node.generation).await?;
        let disks_are_ours = are_ours(&tx.disks(&node.id).await?);
        let hook_call = match &context.config.drain_hook {
            Some(_) => tx.hook_call(&node.id).await?,
            None => None,
        };
        let brake = alone::brake(context, tx).await?;
        Ok(Self {
            node,
            desired,
            attempt,
            next,
            serves,
            failures,
            disks_are_ours,
            hook_call,
            brake,
        })
    }

    /// Reads all nodes that the inventory names: the same of each, and as few queries for a thousand as for one.
    pub async fn read_all(context: &Context, tx: &mut Tx) -> Result<Vec<Self>> {
        let nodes = tx.nodes().await?;
        Self::read_many(context, tx, nodes).await
    }

    /// The same of some of them, which were read already.
    pub async fn read_many(context: &Context, tx: &mut Tx, nodes: Vec<Node>) -> Result<Vec<Self>> {
        let brake = alone::brake(context, tx).await?;
        let mut all_desired = tx.all_desired().await?;
        let mut attempts = tx.all_last_attempts().await?;
        let mut next = tx.all_next_attempts().await?;
        let mut served_before = tx.all_served_before().await?;
        let mut failures = tx.all_failures().await?;
        let disks = tx.all_disks().await?;
        let mut hook_calls = match &context.config.drain_hook {
            Some(_) => tx.all_hook_calls().await?,
            None => HashMap::new(),
        };
        let whole = |node: Node| {
            let desired = all_desired.remove(&node.id);
            let attempt = attempts.remove(&node.id);
            let serves = match &attempt {
                Some(attempt) if attempt.generation == node.generation => desired.clone(),
                Some(_) => served_before.remove(&node.id),
                None => None,
            };
            Self {
                next: next.remove(&node.id).filter(|_| attempt.as_ref().is_some_and(has_next)),
                failures: failures.remove(&node.id).unwrap_or_default(),
                disks_are_ours: disks.get(&node.id).is_some_and(|rows| are_ours(rows)),
                hook_call: hook_calls.remove(&node.id),
                node,
                desired,
                attempt,
                serves,
                brake,
            }
        };
        Ok(nodes.into_iter().map(whole).collect())
    }

    /// Whether it is on its way: its BMC is asked now and then, and mostly nothing comes of it.
    fn is_under_way(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| {
            attempt.state == AttemptState::Open && attempt.stage > BootStage::Power
        })
    }

    /// The same when its BMC has just said so.
    fn with_power(&self, power: Power, at: Micros) -> Self {
        let at = Some(at);
        let node = Node {
            power,
            power_at: at,
            power_asked_at: at,
            power_error: None,
            power_failed_at: None,
            ..self.node.clone()
        };
        Self { node, ..self.clone() }
    }

    /// The step that is due at `now`.
    pub fn decide(&self, context: &Context, turn: bool, now: Micros) -> Step {
        decide(
            View {
                node: &self.node,
                desired: self.desired.as_ref(),
                attempt: self.attempt.as_ref(),
                next: self.next.as_ref(),
                serves: self.serves.as_ref(),
                failures: &self.failures,
                disks_are_ours: self.disks_are_ours,
                turn,
                limits: &context.config.boot,
                drain_hook: context
                    .config
                    .drain_hook
                    .as_ref()
                    .map(|limits| Hook { limits, call: self.hook_call.as_ref() }),
                brake: self.brake,
            },
            now,
        )
    }
}

/// Whether the system of an attempt can start the kernel of another.
fn has_next(attempt: &Attempt) -> bool {
    attempt.state == AttemptState::Ready
}

/// Whether disks are known, and no system can start from any.
fn are_ours(disks: &[DiskRow]) -> bool {
    !disks.is_empty() && disks.iter().all(|row| is_ours(&row.disk.state))
}

fn is_ours(state: &DiskState) -> bool {
    match state {
        DiskState::Blank | DiskState::Ours { .. } => true,
        DiskState::Foreign { .. } | DiskState::Other { .. } | DiskState::Unusable { .. } => false,
    }
}

/// Runs until `stop`, or until another haasd acts.
pub async fn run(context: Arc<Context>, stop: CancellationToken) -> Result<(), LoopError> {
    let busy = Busy::default();
    let ramp = Arc::new(Ramp::new(context.config.power_ramp.clone()));
    let mut tasks = JoinSet::new();
    let mut result = Ok(());
    loop {
        let begun = Instant::now();
        let next = match pass(&context, &busy, &ramp, &mut tasks).await {
            Ok(next) => next,
            Err(superseded @ LoopError::Superseded { .. }) => {
                result = Err(superseded);
                break;
            }
            Err(LoopError::Store(error)) => {
                error!(error = &error as &dyn std::error::Error, "a pass over the nodes failed");
                context.clock.now() + 5 * crate::model::SECOND
            }
        };
        // What changes all the time, as when a thousand nodes boot, must not have haasd do nothing but look.
        let rest = tokio::time::sleep((REST * begun.elapsed()).min(LONGEST_REST));
        tokio::select! {
            () = stop.cancelled() => break,
            () = rest => {}
        }
        let pause = u64::try_from(next - context.clock.now()).unwrap_or(0);
        let pause = Duration::from_micros(pause).clamp(Duration::from_millis(50), FULL_PASS);
        tokio::select! {
            () = stop.cancelled() => break,
            () = context.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                error!(%error, "the task of a node panicked");
            }
        }
    }
    // A step that has begun is finished and recorded; what it could not do is decided again later.
    while tasks.join_next().await.is_some() {}
    result
}

/// Whether this haasd is still the one that acts.
pub(crate) async fn is_last(context: &Context, tx: &mut Tx) -> Result<(), LoopError> {
    let theirs = tx.epoch().await?;
    let ours = context.epoch;
    if theirs == ours { Ok(()) } else { Err(LoopError::Superseded { ours, theirs }) }
}

/// One look at every node: starts a task for each that has something to do, and answers when to
/// look again.
async fn pass(
    context: &Arc<Context>,
    busy: &Busy,
    ramp: &Arc<Ramp>,
    tasks: &mut JoinSet<()>,
) -> Result<Micros, LoopError> {
    let (since, now) = (Instant::now(), context.clock.now());
    let mut tx = context.store.read().await?;
    is_last(context, &mut tx).await?;
    let turns = turns::of(&tx.running_operations().await?);
    let loaded = Loaded::read_all(context, &mut tx).await?;
    drop(tx);
    ramp.learn(&loaded);

    let mut next = now + Micros::try_from(FULL_PASS.as_micros()).unwrap_or(Micros::MAX);
    let mut standings = HashMap::new();
    for entry in loaded {
        let turn = turns.get(&entry.node.id).copied().unwrap_or(true);
        let step = ramp.gate(&entry.node, entry.decide(context, turn, now), now);
        match &step {
            Step::Wait { until, .. } => next = next.min(*until),
            Step::Converged(_) | Step::Queued | Step::Fault(_) => {}
            Step::Do(Action::ObservePower) if entry.is_under_way() => {
                let as_before = entry.with_power(entry.node.power, now);
                if let Step::Wait { until, .. } = as_before.decide(context, turn, now) {
                    next = next.min(until);
                }
                observe::look(context, busy, tasks, entry.clone(), turn);
            }
            Step::Do(_) => match busy.take(&entry.node.id) {
                // A look at its power ends without a word where nothing comes of it.
                None => next = next.min(now + crate::model::SECOND),
                Some(mine) => {
                    let may_start = ramp.is_limited(&entry.node, &step);
                    if may_start {
                        ramp.take(&entry.node, now);
                    }
                    let (context, ramp, id) =
                        (context.clone(), ramp.clone(), entry.node.id.clone());
                    tasks.spawn(async move {
                        work(&context, &ramp, &id, turn, may_start).await;
                        // Free before the loop looks again.
                        drop(mine);
                        context.wake.notify_one();
                    });
                }
            },
        }
        if let Step::Converged(standing) = step
            && let Some(at) = observe::due(&entry.node, standing, now)
        {
            if at > now {
                next = next.min(at);
            } else {
                observe::spawn(context, busy, tasks, entry.node.clone());
            }
        }
        standings.insert(entry.node.id.clone(), (entry, step));
    }
    operations::update(context, &standings).await?;
    METRICS.nodes(&counted(standings.values()), since.elapsed());
    context.health.passed();
    let nodes: Vec<_> = standings.values().map(|(loaded, step)| (loaded, step)).collect();
    let idle = idle::pass(context, &nodes, now).await?;
    Ok(idle.map_or(next, |at| next.min(at)))
}

/// How nodes stand, for the metrics.
fn counted<'a>(nodes: impl Iterator<Item = &'a (Loaded, Step)>) -> Standings {
    let mut standings = Standings::default();
    for (loaded, step) in nodes {
        standings.states.push(api::in_words(step, loaded).0);
        let attempt = loaded.attempt.as_ref().filter(|one| one.state == AttemptState::Open);
        standings.booting.extend(attempt.map(|attempt| attempt.stage));
        if let Step::Fault(fault) = step {
            standings.faults.push(fault.code.clone());
        }
    }
    standings
}

/// Takes steps with one node until it must wait. `may_start`: its groups let it be switched on now.
async fn work(context: &Context, ramp: &Ramp, id: &str, turn: bool, mut may_start: bool) {
    for _ in 0..STEPS {
        let loaded = match load(context, id).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return,
            Err(error) => {
                error!(node = id, error = &error as &dyn std::error::Error, "cannot read a node");
                return;
            }
        };
        let step = loaded.decide(context, turn, context.clock.now());
        if ramp.is_limited(&loaded.node, &step) && !std::mem::take(&mut may_start) {
            return;
        }
        let Step::Do(action) = step else { return };
        debug!(node = %loaded.node.name, ?action, "acts");
        if let Err(error) = act::act(context, &loaded, action).await {
            error!(
                node = %loaded.node.name,
                error = &error as &dyn std::error::Error,
                "a step failed and is decided again"
            );
            tokio::time::sleep(Duration::from_secs(2)).await;
            return;
        }
    }
}

/// Decides and does one step, as if it were `now`.
#[cfg(test)]
pub(crate) async fn step_at(context: &Context, node: Node, now: Micros) -> Step {
    let mut tx = context.store.read().await.unwrap();
    let loaded = Loaded::read(context, &mut tx, node).await.unwrap();
    drop(tx);
    let step = loaded.decide(context, true, now);
    if let Step::Do(action) = &step {
        act::act(context, &loaded, action.clone()).await.unwrap();
    }
    step
}

/// Brings the operations up to date with all nodes, as a pass does.
#[cfg(test)]
pub(crate) async fn update_operations(context: &Context) {
    let mut tx = context.store.read().await.unwrap();
    let mut standings = HashMap::new();
    for loaded in Loaded::read_all(context, &mut tx).await.unwrap() {
        let step = loaded.decide(context, true, context.clock.now());
        standings.insert(loaded.node.id.clone(), (loaded, step));
    }
    drop(tx);
    operations::update(context, &standings).await.unwrap();
}

async fn load(context: &Context, id: &str) -> Result<Option<Loaded>, LoopError> {
    let mut tx = context.store.read().await?;
    is_last(context, &mut tx).await?;
    match tx.node_by_id(id).await? {
        Some(node) => Ok(Some(Loaded::read(context, &mut tx, node).await?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use haas_api::operation::OperationState;
    use serde_json::json;

    use super::*;
    use crate::{
        model::{Cause, SECOND},
        testing::Bench,
    };

    #[tokio::test]
    async fn all_nodes_are_read_as_each_of_them_is() {
        let bench = Bench::new().await;
        let context = &bench.context;
        bench.add_nodes(1..=5).await;
        bench.add_image("a").await;
        bench.add_image("b").await;
        // Nothing is wanted of n05. n01 boots, n02 runs what is wanted and n03 what was, n04 has failed.
        let mut boots = Vec::new();
        for number in 1..=4 {
            boots.push(bench.begin_boot(number).await);
        }
        bench.advance(&boots[1], BootStage::Ready).await;
        bench.advance(&boots[2], BootStage::Ready).await;
        let mut tx = context.store.write().await.unwrap();
        for operation in tx.running_operations().await.unwrap() {
            tx.end_operation(&operation.id, OperationState::Succeeded, 1).await.unwrap();
        }
        tx.commit().await.unwrap();
        let wanted = json!({ "nodeset": "n03", "image": "b", "overlay": "none" });
        assert_eq!(bench.post("/v1/switch", wanted).await.status, 202);
        let mut tx = context.store.write().await.unwrap();
        let failure = Failure::new(BootStage::Kernel, "no-agent", "nobody called");
        tx.fail_attempt(&boots[3].id, &failure, context.clock.now() + SECOND).await.unwrap();
        tx.commit().await.unwrap();
        open_attempt(context, &bench.node(4).await, Some(&boots[3]), Cause::Retry).await.unwrap();

        let mut tx = context.store.read().await.unwrap();
        let mut each = Vec::new();
        for node in tx.nodes().await.unwrap() {
            each.push(Loaded::read(context, &mut tx, node).await.unwrap());
        }
        let all = Loaded::read_all(context, &mut tx).await.unwrap();
        assert_eq!(format!("{all:#?}"), format!("{each:#?}"));
        assert_eq!(all[3].failures, [failure]);
        assert!(all[2].serves != all[2].desired && all[2].serves.is_some());
    }
}
