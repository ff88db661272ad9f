//! Heartbeats on their way into the store. A fleet sends hundreds in a second, and each transaction waits
//! for the disk: those that come while one is written are written together in the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use haas_api::agent::Heartbeat;

use crate::{
    model::Micros,
    store::{Result, Store},
};

/// Those that are not written yet.
#[derive(Debug, Default)]
pub struct Heartbeats {
    queue: Mutex<Queue>,
    /// The last one that was written. Held while some are.
    written: tokio::sync::Mutex<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Counts all that ever came.
    count: u64,
    waiting: Vec<Beat>,
}

/// What an agent said.
#[derive(Debug)]
struct Beat {
    node: String,
    attempt: String,
    heartbeat: Heartbeat,
    at: Micros,
}

impl Heartbeats {
    /// Writes what the agent of an attempt has said, and comes back when it is written.
    pub async fn write(
        &self,
        store: &Store,
        node: &str,
        attempt: &str,
        heartbeat: &Heartbeat,
        at: Micros,
    ) -> Result<()> {
        let number = self.add(Beat {
            node: node.to_owned(),
            attempt: attempt.to_owned(),
            heartbeat: heartbeat.clone(),
            at,
        });
        let mut written = self.written.lock().await;
        if *written >= number {
            return Ok(());
        }
        let (last, beats) = {
            let mut queue = self.lock();
            (queue.count, std::mem::take(&mut queue.waiting))
        };
        // One that cannot be written is followed by another in a few seconds.
        *written = last;
        let mut tx = store.write().await?;
        for beat in beats {
            tx.agent_spoke(&beat.node, &beat.attempt, beat.at).await?;
            let Some(node) = tx.node_by_id(&beat.node).await? else { continue };
            let before = node.heartbeat.as_ref();
            let fell = before.is_some_and(|before| beat.heartbeat.dirty_kib < before.dirty_kib);
            tx.set_heartbeat(&node.id, &beat.heartbeat, fell, beat.at).await?;
        }
        tx.commit().await
    }

    fn add(&self, beat: Beat) -> u64 {
        let mut queue = self.lock();
        queue.waiting.push(beat);
        queue.count += 1;
        queue.count
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
