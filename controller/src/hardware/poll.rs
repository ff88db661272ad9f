//! Asks BMCs how their machines are, gently: each now and then, a few at a time, one command at a time,
//! behind whatever power needs. A BMC that does not answer is asked less and less often.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::{asked, cleared};
use crate::{
    clock,
    context::Context,
    model::{Micros, Node},
    power,
    store::Result,
};

/// BMCs that are asked at the same time.
const AT_ONCE: usize = 16;
/// How often it is looked which nodes there are.
const LOOK: Duration = Duration::from_secs(10);
/// No look follows another sooner, nor sooner than so many times as long as it took.
const GATHER: Duration = Duration::from_secs(1);
const REST: u32 = 10;
/// A BMC that fails is asked up to so many intervals later.
const MOST_BACKOFF: u32 = 12;

/// What is known of one node's BMC.
#[derive(Debug, Default)]
struct Turn {
    /// When it is its turn.
    at: Option<Instant>,
    /// How often it has failed in a row.
    failures: u32,
    /// It is being asked.
    is_busy: bool,
}

/// Runs until `stop`. Does nothing where the configuration says that BMCs are not asked.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let Some(every) = context.config.health.poll else {
        stop.cancelled().await;
        return;
    };
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut turns: HashMap<String, Turn> = HashMap::new();
    let mut tasks = JoinSet::new();
    while !stop.is_cancelled() {
        let next = match pass(&context, &places, &mut turns, &mut tasks, every).await {
            Ok(next) => next,
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "a pass over the BMCs failed");
                Instant::now() + LOOK
            }
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(next) => break,
                () = context.bmc_wake.notified() => break,
                Some(ended) = tasks.join_next() => match ended {
                    Ok((node, is_well)) => turns.entry(node).or_default().ended(is_well, every),
                    Err(error) => error!(%error, "the task of a BMC panicked"),
                }
            }
        }
    }
    // A BMC that is slow must not hold up haasd's end.
    tasks.shutdown().await;
}

impl Turn {
    /// It was asked, and it is known when it is asked again.
    fn ended(&mut self, is_well: bool, every: Duration) {
        self.is_busy = false;
        self.failures = if is_well { 0 } else { self.failures + 1 };
        let backoff = (1 << self.failures.min(8)).min(MOST_BACKOFF);
        self.at = Some(Instant::now() + jittered(every * backoff));
    }
}

/// Starts a task for each BMC whose turn it is, and answers when to look again.
async fn pass(
    context: &Arc<Context>,
    places: &Arc<Semaphore>,
    turns: &mut HashMap<String, Turn>,
    tasks: &mut JoinSet<(String, bool)>,
    every: Duration,
) -> Result<Instant> {
    let begun = Instant::now();
    let mut tx = context.store.read().await?;
    let nodes = tx.nodes().await?;
    let asked = tx.bmcs_asked().await?;
    drop(tx);
    let now = Instant::now();
    let mut next = now + LOOK;
    let mut there = HashSet::new();
    for node in nodes
        .into_iter()
        .filter(|node| node.managed && power::health_driver(&node.spec.power).is_some())
    {
        let row = asked.get(&node.id).cloned().unwrap_or_default();
        there.insert(node.id.clone());
        let turn = turns.entry(node.id.clone()).or_default();
        let at = *turn.at.get_or_insert_with(|| now + first(row.asked_at, every));
        if turn.is_busy {
            continue;
        }
        // Whose log is to be cleared is asked at once, but for one that has just failed.
        if at > now && (row.clear_by.is_none() || turn.failures > 0) {
            next = next.min(at);
            continue;
        }
        turn.is_busy = true;
        let (context, places) = (context.clone(), places.clone());
        tasks.spawn(async move {
            // Nobody closes it.
            let _place = places.acquire_owned().await;
            let is_well = ask(&context, &node, row.clear_by.as_deref()).await.unwrap_or_else(|error| {
                error!(node = %node.name, error = &error as &dyn std::error::Error, "cannot note how it is");
                false
            });
            (node.id, is_well)
        });
    }
    turns.retain(|id, turn| turn.is_busy || there.contains(id));
    // Where one is due at every moment, those of a while are asked together.
    Ok(next.max(now + GATHER.max(REST * begun.elapsed()).min(LOOK)))
}

/// When a BMC is asked first by this haasd: spread over an interval, and not again so soon after a
/// restart.
fn first(asked_at: Option<Micros>, every: Duration) -> Duration {
    let Some(asked_at) = asked_at else {
        return jittered(every.mul_f64(rand::random_range(0.0..0.2)));
    };
    let since = Duration::from_micros(u64::try_from(clock::wall() - asked_at).unwrap_or(0));
    let left = every.saturating_sub(since);
    left.max(every.mul_f64(rand::random_range(0.0..0.2)))
}

/// Up to a fifth shorter or longer, so that BMCs that were asked together are not so again.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.8..1.2))
}

/// Asks one BMC, clears its log first if somebody wants that, and notes what came of it.
async fn ask(context: &Context, node: &Node, clear_by: Option<&str>) -> Result<bool> {
    let told = match power::health_driver(&node.spec.power) {
        Some(driver) => {
            let mut before = Ok(());
            if let Some(by) = clear_by {
                before = driver.clear_sel().await;
                if before.is_ok() {
                    cleared(context, node, by).await?;
                }
            }
            match before {
                Ok(()) => driver.look().await,
                Err(error) => Err(error),
            }
        }
        // Its power is switched in another way since.
        None => return Ok(true),
    };
    let told = told.map_err(|error| error.to_string());
    debug!(node = %node.name, error = told.as_ref().err(), "asked the BMC how the node is");
    let is_well = told.is_ok();
    asked(context, node, told).await?;
    Ok(is_well)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SECOND;

    const EVERY: Duration = Duration::from_secs(300);

    #[test]
    fn a_restart_asks_nobody_again_at_once() {
        let ago = |seconds: i64| Some(clock::wall() - seconds * SECOND);
        assert!(first(ago(10), EVERY) > Duration::from_secs(280));
        let overdue: Vec<_> = (0..50).map(|_| first(ago(100_000), EVERY)).collect();
        assert!(overdue.iter().all(|wait| *wait <= EVERY / 5));
        assert!(overdue.iter().any(|wait| *wait != overdue[0]), "not all at the same moment");
        assert!(first(None, EVERY) < EVERY);
        // A clock that was set back does not stop the asking for ever.
        assert!(first(ago(-100_000), EVERY) <= EVERY);
    }
}
