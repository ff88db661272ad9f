//! One webhook's way through the event log.
//!
//! An event that is not taken is tried again, later and later. Nothing overtakes it, so that a
//! receiver sees events in their order. What cannot be delivered is given up, and kept as a number
//! and a reason: one event that the receiver itself refuses, after a few tries; and, while the
//! receiver has failed for a while, all events that have become too old.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use haas_api::event::Event;
use tracing::{error, info, warn};

use super::{
    PAUSE,
    send::{Failure, Sender},
};
use crate::{
    clock,
    context::Context,
    errors::chain,
    metrics::METRICS,
    model::Micros,
    store::{DeadEventRow, EventRow, Result, WebhookRow},
};

/// Events read from the store at once.
const BATCH: i64 = 200;

/// How far a webhook may have come without a note in the store. After a crash so much is sent again.
const UNNOTED: Duration = Duration::from_secs(1);

/// How long is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The pause after the first failure; each next one is twice as long.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// A receiver that fails gets no event that is older.
    pub oldest: Duration,
    /// If it has failed for so long. One that has not may get what it has missed.
    pub failing_for: Duration,
    /// How often one event may be refused.
    pub refusals: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(300),
            oldest: Duration::from_secs(24 * 3600),
            failing_for: Duration::from_secs(600),
            refusals: 5,
        }
    }
}

/// Delivers events until the task is ended: with haasd, or with its webhook.
pub(super) async fn run(context: Arc<Context>, row: WebhookRow, patience: Patience) {
    let mut news = context.events.subscribe();
    let position = row.position;
    let mut way = Way {
        context,
        row,
        patience,
        position,
        delivered_at: None,
        noted: Instant::now(),
        sender: None,
    };
    loop {
        news.mark_unchanged();
        match way.pass().await {
            Ok(true) => {}
            // The sender lives as long as the context.
            Ok(false) => drop(news.changed().await),
            Err(e) => {
                error!(webhook = %way.row.name, error = chain(&e), "a webhook waits for the store");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Way {
    context: Arc<Context>,
    /// As it was in the store, and goes on from there.
    row: WebhookRow,
    patience: Patience,
    /// The last event that is done with.
    position: i64,
    /// When one was delivered that is not in the store yet.
    delivered_at: Option<Micros>,
    /// When the position was noted in the store.
    noted: Instant,
    sender: Option<Sender>,
}

impl Way {
    /// Goes through the next events; false where there are none.
    async fn pass(&mut self) -> Result<bool> {
        let events = self.context.store.read().await?.events_after(self.position, BATCH).await?;
        if events.is_empty() {
            self.note().await?;
            return Ok(false);
        }
        for EventRow { event, at, .. } in events {
            if is_wanted(&self.row, &event) && !self.deliver(&event, at).await? {
                // It is elsewhere in the log now.
                return Ok(true);
            }
            self.position = event.seq;
            if self.noted.elapsed() >= UNNOTED {
                self.note().await?;
            }
        }
        Ok(true)
    }

    /// Tries until the event is delivered (true), or given up, perhaps with others (false).
    async fn deliver(&mut self, event: &Event, at: Micros) -> Result<bool> {
        let mut refusals = 0;
        loop {
            let failure = match self.send(event).await {
                Ok(()) => {
                    METRICS.delivery(self.row.name.as_str(), "delivered");
                    if self.row.failing_since.is_some() {
                        info!(webhook = %self.row.name, "a webhook's receiver takes events again");
                    }
                    (self.row.failures, self.row.failing_since) = (0, None);
                    self.delivered_at = Some(clock::wall());
                    return Ok(true);
                }
                Err(failure) => failure,
            };
            let now = clock::wall();
            METRICS.delivery(self.row.name.as_str(), "failed");
            self.failed(&failure, now).await?;
            refusals += u32::from(failure.is_refusal);
            if refusals >= self.patience.refusals {
                let dead = DeadEventRow { seq: event.seq, given_up_at: now, error: failure.what };
                self.give_up(&[dead]).await?;
                return Ok(false);
            }
            let since = self.row.failing_since.unwrap_or(now);
            let too_old = now - micros(self.patience.oldest);
            if now - since >= micros(self.patience.failing_for) && at < too_old {
                self.give_up_older(too_old, &failure.what, now).await?;
                return Ok(false);
            }
            tokio::time::sleep(self.pause().max(failure.again_in.unwrap_or_default())).await;
        }
    }

    async fn send(&mut self, event: &Event) -> Result<(), Failure> {
        let sender = match self.sender.take() {
            Some(sender) => sender,
            None => Sender::new(&self.context, &self.row)?,
        };
        let body = serde_json::to_string(event).expect("an event is plain data");
        let id = format!("{}-{}", self.context.cluster_id, event.seq);
        let sent = sender.send(&id, body).await;
        self.sender = Some(sender);
        sent.map(drop)
    }

    async fn failed(&mut self, failure: &Failure, now: Micros) -> Result<()> {
        self.note().await?;
        if self.row.failing_since.is_none() {
            warn!(webhook = %self.row.name, error = failure.what, "a webhook's receiver fails; it is tried again");
        }
        self.row.failures += 1;
        self.row.failing_since.get_or_insert(now);
        let mut tx = self.context.store.write().await?;
        tx.webhook_failed(&self.row.id, &failure.what, now).await?;
        tx.commit().await
    }

    async fn give_up(&mut self, dead: &[DeadEventRow]) -> Result<()> {
        let mut tx = self.context.store.write().await?;
        for event in dead {
            tx.webhook_gave_up(&self.row.id, event).await?;
        }
        tx.commit().await?;
        for event in dead {
            METRICS.delivery(self.row.name.as_str(), "gave-up");
            self.position = event.seq;
        }
        self.row.failures = 0;
        let (first, last) = (dead.first(), dead.last());
        if let (Some(first), Some(last)) = (first, last) {
            error!(webhook = %self.row.name, from = first.seq, to = last.seq, events = dead.len(),
                error = last.error, "a webhook gave events up");
        }
        Ok(())
    }

    /// Gives up all that is older. What is not wanted in between is given up by nobody.
    async fn give_up_older(&mut self, too_old: Micros, why: &str, now: Micros) -> Result<()> {
        loop {
            let rows = self.context.store.read().await?.events_after(self.position, BATCH).await?;
            let old = rows.iter().take_while(|row| row.at < too_old);
            let dead: Vec<_> = old
                .filter(|row| is_wanted(&self.row, &row.event))
                .map(|row| DeadEventRow {
                    seq: row.event.seq,
                    given_up_at: now,
                    error: why.to_owned(),
                })
                .collect();
            if dead.is_empty() {
                return Ok(());
            }
            self.give_up(&dead).await?;
        }
    }

    /// Notes in the store how far it has come.
    async fn note(&mut self) -> Result<()> {
        if self.position != self.row.position || self.delivered_at.is_some() {
            let mut tx = self.context.store.write().await?;
            tx.webhook_at(&self.row.id, self.position, self.delivered_at).await?;
            tx.commit().await?;
            (self.row.position, self.delivered_at) = (self.position, None);
        }
        self.noted = Instant::now();
        Ok(())
    }

    /// Between half and all of what is due, so that many do not come at once.
    fn pause(&self) -> Duration {
        let doublings = u32::try_from(self.row.failures.clamp(1, 20) - 1).unwrap_or(0);
        let pause = self.patience.first_pause.saturating_mul(1 << doublings);
        let pause = pause.min(self.patience.longest_pause);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

fn is_wanted(row: &WebhookRow, event: &Event) -> bool {
    row.kinds.is_empty() || row.kinds.contains(&event.kind)
}

fn micros(time: Duration) -> Micros {
    Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX / 2)
}
