//! What agents say every few seconds, on its way into the store. A fleet says hundreds of such things in a
//! second: what comes while some of it is written is written together in the next transaction.

use std::sync::{Mutex, MutexGuard, PoisonError};

use haas_api::agent::Heartbeat;
use tokio::sync::oneshot;

use crate::{
    model::Micros,
    store::{Result, Store, StoreError, Tx},
};

/// What is not written yet.
#[derive(Debug, Default)]
pub struct Heartbeats {
    waiting: Mutex<Vec<(Beat, oneshot::Sender<bool>)>>,
    /// Held while some is written.
    writing: tokio::sync::Mutex<()>,
}

/// What the agent of an attempt has said at a moment.
#[derive(Debug)]
pub struct Beat {
    /// Its node, by id.
    pub node: String,
    /// The attempt.
    pub attempt: String,
    /// When, on the steady clock.
    pub at: Micros,
    /// The number of the frame up to which all that it said was taken, where that is news.
    pub taken: Option<u64>,
    /// How the node is, where that was said, and whether it has fewer dirty pages than before.
    pub heartbeat: Option<(Heartbeat, bool)>,
}

impl Heartbeats {
    /// Comes back when it is written. False: the attempt is over, and nothing was. Where somebody else was to
    /// write it together with his own, and failed, only what the agent would not say again is an error.
    pub async fn write(&self, store: &Store, beat: Beat) -> Result<bool> {
        let (tell, mut told) = oneshot::channel();
        let is_lost = beat.taken.is_some();
        let heard = |told: Result<bool, oneshot::error::RecvError>| match told {
            Ok(lives) => Ok(lives),
            Err(_) if is_lost => Err(StoreError::of_another()),
            // Another one follows in a few seconds.
            Err(_) => Ok(true),
        };
        self.lock().push((beat, tell));
        let writing = tokio::select! {
            biased;
            lives = &mut told => return heard(lives),
            writing = self.writing.lock() => writing,
        };
        let waiting = std::mem::take(&mut *self.lock());
        if waiting.is_empty() {
            return heard(told.await);
        }
        let mut tx = store.write().await?;
        let mut lives = Vec::with_capacity(waiting.len());
        for (beat, _) in &waiting {
            lives.push(note(&mut tx, beat).await?);
        }
        tx.commit().await?;
        drop(writing);
        for ((_, tell), lives) in waiting.into_iter().zip(lives) {
            let _ = tell.send(lives);
        }
        heard(told.await)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Beat, oneshot::Sender<bool>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn note(tx: &mut Tx, beat: &Beat) -> Result<bool> {
    if !tx.attempt_lives(&beat.attempt).await? {
        return Ok(false);
    }
    tx.agent_spoke(&beat.node, &beat.attempt, beat.at).await?;
    if let Some(taken) = beat.taken {
        tx.set_agent_seq(&beat.attempt, taken).await?;
    }
    if let Some((heartbeat, dirty_fell)) = &beat.heartbeat {
        tx.set_heartbeat(&beat.node, heartbeat, *dirty_fell, beat.at).await?;
    }
    Ok(true)
}
