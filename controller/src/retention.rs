//! Forgets events that are older than `[events] keep` says.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    clock,
    context::Context,
    errors::chain,
    model::{Micros, SECOND},
    store::Result,
};

/// How often.
const EVERY: Duration = Duration::from_secs(3600);

/// Runs until `stop`.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    loop {
        match forget(&context, clock::wall()).await {
            Ok(0) => {}
            Ok(events) => info!(events, "forgot old events"),
            Err(e) => error!(error = chain(&e), "cannot forget old events"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Forgets what is too old at this time; answers how many events that were.
async fn forget(context: &Context, now: Micros) -> Result<u64> {
    let keep = i64::try_from(context.config.events.keep_s).unwrap_or(i64::MAX);
    let before = now.saturating_sub(keep.saturating_mul(SECOND));
    let mut tx = context.store.read().await?;
    let oldest = tx.events_after(0, 1).await?.pop();
    drop(tx);
    if oldest.is_none_or(|row| row.at >= before) {
        return Ok(0);
    }
    let mut tx = context.store.write().await?;
    let gone = tx.forget_events(before).await?;
    tx.commit().await?;
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[tokio::test]
    async fn events_are_forgotten_by_age_from_the_oldest_on_but_never_all() {
        let bench = Bench::new().await;
        bench.add_nodes([1, 2]).await;
        for _ in 0..3 {
            let body = serde_json::json!({ "nodeset": "n01", "managed": true });
            bench.post("/v1/nodes/manage", body.clone()).await;
            let other = serde_json::json!({ "nodeset": "n01", "managed": false });
            bench.post("/v1/nodes/manage", other).await;
        }
        let kept = async || {
            let mut tx = bench.context.store.read().await.unwrap();
            let rows = tx.events_after(0, 100).await.unwrap();
            (
                tx.last_event().await.unwrap(),
                rows.iter().map(|row| row.event.seq).collect::<Vec<_>>(),
            )
        };
        let (last, all) = kept().await;
        assert_eq!(all, (1..=last).collect::<Vec<_>>());
        let now = clock::wall();
        assert_eq!(forget(&bench.context, now).await.unwrap(), 0);
        let much_later = now + 91 * 86_400 * SECOND;
        assert_eq!(
            forget(&bench.context, much_later).await.unwrap(),
            u64::try_from(last - 1).unwrap()
        );
        assert_eq!(kept().await, (last, vec![last]));
    }
}
