//! The calendar: who gets which nodes when, and that they are ready then.
//!
//! A loop like the reconciler's: it takes no input, reads the store, decides, and writes. It never
//! touches a node: lending one writes what is wanted of it, by the code of `requests` that every switch
//! goes through, and the reconciler does the rest.
//!
//! ```text
//! ask ──> reservations ──> world ──> decide ──(snapshot)──> scheduler
//!         (store)                      │
//!            ^                         v
//!            └──── one transaction ── carry_out ──> requests::lend ──> desired states
//! ```
//!
//! | State | Entered when | Left when |
//! |---|---|---|
//! | `pending` | it was asked for | the planner gives it an hour or nodes |
//! | `planned` | it has an hour: promised, or accepted for the one that it names | its lead time begins, its nodes are free |
//! | `starting` | the first node is lent to it | all nodes are ready and its hour has come |
//! | `active` | so | its time is over, it is released, nobody came, its nodes are lost |
//! | `ending` | what runs is being ended in order; the nodes are free for others at once | nothing of it runs any more |
//! | `ended`, `cancelled`, `failed` | it is over | |
//!
//! What the next decision needs is in the store, so haasd may die between any two passes: a pass writes
//! all of its decisions or nothing, and only on what it was made from.

mod ask;
mod carry_out;
mod decide;
mod draft;
mod free;
pub mod ical;
mod limits;
mod release;
mod snapshot;
#[cfg(test)]
mod tests;
mod windows;
mod words;
mod world;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub(crate) use ask::from_s;
pub use ask::{AskError, Asked, Wish, check_queue, explain, extend, leaf_queues, reserve};
pub use free::calendar;
pub use release::{cancel_or_release, take_back_all_of};
pub use windows::{add_window, remove_window, windows};

use self::world::World;
use crate::{
    context::Context,
    model::{Micros, SECOND},
    reconcile::{LoopError, is_last},
    store::{QueueRow, Result, StoreError},
};

/// How often everything is planned though nothing happened.
const FULL_PASS: Duration = Duration::from_secs(30);

/// Events come in bursts; one pass serves many.
const GATHER: Duration = Duration::from_millis(300);

/// Has the store know the queues of haasd.toml. One that is gone from the file stays as long as
/// reservations wait in it.
pub(crate) async fn at_start(context: &Context) -> Result<()> {
    let mut tx = context.store.write().await?;
    let known = tx.queues().await?;
    for spec in &context.config.queues {
        let row = QueueRow { spec: spec.clone(), from_file: true };
        if !known.contains(&row) {
            info!(queue = %spec.name, "the queue is as haasd.toml says");
            tx.set_queue(&row).await?;
        }
    }
    let live = tx.live_reservations().await?;
    let named = |name| context.config.queues.iter().any(|spec| spec.name == name);
    // The ones below go first.
    for row in known.into_iter().rev().filter(|row| row.from_file) {
        let name = row.spec.name;
        if named(name.clone()) {
            continue;
        }
        let is_used = live.iter().any(|one| one.queue == name);
        let has_below =
            tx.queues().await?.iter().any(|other| other.spec.parent.as_ref() == Some(&name));
        if is_used || has_below {
            warn!(queue = %name, "the queue stands no longer in haasd.toml and is still in use");
        } else {
            info!(queue = %name, "the queue is gone from haasd.toml");
            tx.remove_queue(&name).await?;
        }
    }
    let specs: Vec<_> = tx.queues().await?.into_iter().map(|row| row.spec).collect();
    if let Err(problem) = crate::config::check_queues(&specs) {
        error!(problem, "nothing can be planned with these queues; mend haasd.toml");
    }
    tx.commit().await
}

/// Plans until `stop`, or until another haasd acts.
pub async fn run(context: Arc<Context>, stop: CancellationToken) -> Result<(), LoopError> {
    let mut events = context.events.subscribe();
    loop {
        let begun = Instant::now();
        let next = match pass(&context).await {
            Ok(next) => next,
            Err(superseded @ LoopError::Superseded { .. }) => return Err(superseded),
            Err(LoopError::Store(StoreError::Conflict(what))) => {
                info!(what, "changed while a plan was made; it is made anew");
                Some(context.clock.now())
            }
            Err(LoopError::Store(error)) => {
                error!(error = &error as &dyn std::error::Error, "a pass over the calendar failed");
                Some(context.clock.now() + 5 * SECOND)
            }
        };
        let took = begun.elapsed();
        let pause = next.map_or(FULL_PASS, |next| {
            let pause = u64::try_from(next - context.clock.now()).unwrap_or(0);
            Duration::from_micros(pause).clamp(Duration::from_millis(50), FULL_PASS)
        });
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = context.calendar_wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
            // Where events come all the time, a plan is made no more than half of it.
            Ok(()) = events.changed() => tokio::time::sleep(GATHER.max(took)).await,
        }
        events.mark_unchanged();
    }
}

/// One look at all reservations. Answers when to look again.
pub(crate) async fn pass(context: &Context) -> Result<Option<Micros>, LoopError> {
    let now = context.clock.now();
    pass_at(context, now).await
}

/// The same as if it were `now`.
pub(crate) async fn pass_at(context: &Context, now: Micros) -> Result<Option<Micros>, LoopError> {
    let mut tx = context.store.read().await?;
    is_last(context, &mut tx).await?;
    let made_from = tx.calendar_changes().await?;
    if !tx.has_reservations().await? {
        return Ok(None);
    }
    let world = World::load(context, &mut tx).await?;
    drop(tx);
    let decision = decide::decide(&world, now);
    if let Some(error) = &decision.problem {
        error!(%error, "nothing can be planned");
    }
    let next = decision.next;
    if decision.drafts.is_empty() {
        return Ok(next);
    }
    let mut tx = context.store.write().await?;
    is_last(context, &mut tx).await?;
    if tx.calendar_changes().await? != made_from {
        return Err(StoreError::Conflict("the calendar".to_owned()).into());
    }
    let at = context.clock.to_wall(now);
    let notices = carry_out::carry_out(context, &mut tx, &world, decision.drafts, at).await?;
    tx.commit().await?;
    for notice in notices {
        context.agents.notify(&notice.attempt, &notice.text);
    }
    context.changed();
    Ok(next)
}
