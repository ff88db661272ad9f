//! Webhooks: the event log, sent to other programs by HTTP.
//!
//! Each webhook has a task of its own that goes through the log from where the webhook is: one event
//! at a time, in order, each until the receiver has taken it or it is given up (`deliver`). Where it
//! is stands in the store, so that a restart goes on there; what was sent within the last second
//! before a crash is sent again. The secret that requests are signed with is derived from the master
//! key and the webhook's id, and is stored nowhere. Receivers' addresses are checked for each
//! connection (`address`), and nothing of what a receiver answers but its status is looked at.

mod address;
mod deliver;
mod send;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use haas_api::webhook::WebhookTest;
use serde_json::json;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::send::Sender;
pub use self::{address::check_url, deliver::Patience};
use crate::{
    clock,
    context::Context,
    errors::chain,
    secret::Secret,
    store::{Result, WebhookRow},
};

/// How long to wait where the store cannot be read.
const PAUSE: Duration = Duration::from_secs(5);

/// Runs until `stop`: a task for each webhook that there is.
pub async fn run(context: Arc<Context>, patience: Patience, stop: CancellationToken) {
    let mut tasks: HashMap<String, AbortHandle> = HashMap::new();
    let mut set = tokio::task::JoinSet::new();
    let mut news = context.events.subscribe();
    loop {
        news.mark_unchanged();
        match webhooks(&context).await {
            Ok(rows) => {
                tasks.retain(|id, task| {
                    let is_there = rows.iter().any(|row| row.id == *id) && !task.is_finished();
                    if !is_there {
                        task.abort();
                    }
                    is_there
                });
                for row in rows {
                    if !tasks.contains_key(&row.id) {
                        let id = row.id.clone();
                        tasks.insert(id, set.spawn(deliver::run(context.clone(), row, patience)));
                    }
                }
            }
            Err(e) => {
                error!(error = chain(&e), "cannot read the webhooks");
                tokio::time::sleep(PAUSE).await;
                news.mark_changed();
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            // Its sender lives as long as the context.
            _ = news.changed() => {}
            Some(_) = set.join_next(), if !set.is_empty() => {}
        }
    }
    set.shutdown().await;
}

async fn webhooks(context: &Context) -> Result<Vec<WebhookRow>> {
    context.store.read().await?.webhooks().await
}

/// What a webhook's requests are signed with.
pub fn secret(context: &Context, id: &str) -> Secret<String> {
    Secret::new(send::secret_of(context.master_key.webhook_key(id).expose()))
}

/// Sends a test to a webhook's receiver, at once and once.
pub async fn test(context: &Context, row: &WebhookRow, actor: &str) -> WebhookTest {
    let since = Instant::now();
    let body = json!({ "seq": 0, "at": clock::rfc3339(clock::wall()), "kind": "test",
        "actor": actor, "data": { "webhook": row.name } });
    let id = format!("test-{}", ulid::Ulid::new());
    let sent = match Sender::new(context, row) {
        Ok(sender) => sender.send(&id, body.to_string()).await,
        Err(failure) => Err(failure),
    };
    let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    match sent {
        Ok(status) => WebhookTest { delivered: true, outcome: status.to_string(), took_ms },
        Err(failure) => WebhookTest { delivered: false, outcome: failure.what, took_ms },
    }
}

#[cfg(test)]
mod tests;
