//! What nodes are made of, and how well they are.
//!
//! An agent tells once in each boot, before any code of a user runs; what is said in its name later is
//! not believed. BMCs are asked now and then, by [`run`]. What was told last is in the store; what is
//! different from before becomes an event.

mod changes;
mod health;
mod poll;
#[cfg(test)]
mod tests;

use haas_api::{agent::BootStage, hardware::Inventory};
use serde_json::json;
use tracing::{info, warn};

pub(crate) use self::health::shown_sel;
pub use self::poll::run;

use crate::{
    clock,
    context::Context,
    model::{Attempt, AttemptState, Node, Power},
    power::BmcReport,
    store::{NewEvent, Result, Tx},
};

/// Notes what an attempt's agent has found.
pub async fn found(context: &Context, attempt: &str, inventory: Inventory) -> Result<()> {
    let inventory = inventory.bounded();
    let mut tx = context.store.write().await?;
    let Some(attempt) = tx.attempt(attempt).await?.filter(is_before_users) else {
        warn!(
            boot = attempt,
            "an inventory comes after users may be on the node: it is not believed"
        );
        return Ok(());
    };
    let Some(node) = tx.node_by_id(&attempt.node_id).await? else { return Ok(()) };
    if let Some((before, at)) = tx.hardware(&node.id).await?.inventory {
        let since = clock::rfc3339(at);
        for change in changes::changes(&before, &inventory) {
            warn!(node = %node.name, boot = %attempt.id, since, "hardware changed: {}", change.what);
            let data = json!({ "boot": attempt.id, "part": change.part, "what": change.what,
                "since": since });
            event(&mut tx, &node, "hardware-changed", "haasd", data).await?;
        }
    }
    tx.set_inventory(&node.id, &inventory, &attempt.id, clock::wall()).await?;
    reckon(&mut tx, &node).await?;
    tx.commit().await?;
    context.told();
    Ok(())
}

/// From the overlay on users are on the node, and may speak in its agent's name.
fn is_before_users(attempt: &Attempt) -> bool {
    attempt.state == AttemptState::Open && attempt.stage < BootStage::Overlay
}

/// Notes what a node's BMC has told, or why it told nothing.
async fn asked(
    context: &Context,
    node: &Node,
    told: std::result::Result<BmcReport, String>,
) -> Result<()> {
    let mut tx = context.store.write().await?;
    match told {
        Ok(report) => tx.set_bmc(&node.id, &report, clock::wall()).await?,
        Err(error) => tx.set_bmc_error(&node.id, &error, clock::wall()).await?,
    }
    let is_news = reckon(&mut tx, node).await?;
    tx.commit().await?;
    if is_news {
        context.told();
    }
    Ok(())
}

/// Notes that the log of a node's BMC was cleared for `by`.
async fn cleared(context: &Context, node: &Node, by: &str) -> Result<()> {
    let mut tx = context.store.write().await?;
    tx.set_clear(&node.id, None).await?;
    event(&mut tx, node, "sel-cleared", by, json!({})).await?;
    tx.commit().await?;
    info!(node = %node.name, by, "the BMC's log was cleared");
    context.told();
    Ok(())
}

/// Finds out anew how well a node is. Whether that is another level than before, which is an event.
pub(crate) async fn reckon(tx: &mut Tx, node: &Node) -> Result<bool> {
    let row = tx.hardware(&node.id).await?;
    let health = health::roll_up(&row, node.power == Power::Off, clock::wall());
    let is_news = health.level != row.health.level;
    if is_news {
        let data = json!({ "before": row.health.level, "health": health.level,
            "reasons": health.reasons });
        event(tx, node, "health-changed", "haasd", data).await?;
    }
    if health != row.health {
        tx.set_health(&node.id, &health).await?;
    }
    Ok(is_news)
}

/// How well the node of this name is.
#[cfg(test)]
pub(crate) async fn health_of(context: &Context, name: &str) -> haas_api::hardware::Health {
    let mut tx = context.store.read().await.unwrap();
    let node = tx.node(name).await.unwrap().unwrap();
    tx.hardware(&node.id).await.unwrap().health
}

async fn event(
    tx: &mut Tx,
    node: &Node,
    kind: &str,
    actor: &str,
    data: serde_json::Value,
) -> Result<()> {
    let event = NewEvent {
        at: clock::wall(),
        kind,
        node: Some(node.name.as_str()),
        operation: None,
        actor,
        data,
        tenant: None,
    };
    tx.add_event(event).await.map(drop)
}
