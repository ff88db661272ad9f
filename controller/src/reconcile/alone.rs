//! Power actions that nobody asked for (invariant 14): haasd does `auto_limit` of them in an hour, over
//! all nodes. Then it says so, and waits until the oldest is an hour ago.

use serde_json::json;
use tracing::{error, warn};

use crate::{
    clock,
    context::Context,
    lifecycle::Action,
    model::{Micros, Node, SECOND},
    store::{NewEvent, Result, Tx},
};

/// The time in which they are counted.
const HOUR: Micros = 3_600 * SECOND;

/// Until when none may be done; none where one may be done now.
pub(super) async fn brake(context: &Context, tx: &mut Tx) -> Result<Option<Micros>> {
    let limit = context.config.power.auto_limit;
    if limit == 0 {
        return Ok(Some(context.clock.now() + HOUR));
    }
    let at = tx.auto_action_back(limit).await?;
    Ok(at.map(|at| at + HOUR))
}

/// Whether this one may be done; it then counts.
pub(super) async fn allows(context: &Context, node: &Node, action: &Action) -> Result<bool> {
    let now = context.clock.now();
    let limit = context.config.power.auto_limit;
    let what = match action {
        Action::EndHard { .. } => "hard-off",
        Action::EndByAgent(_) => "shutdown",
        _ => "power-on",
    };
    let mut tx = context.store.write().await?;
    if brake(context, &mut tx).await?.is_some_and(|until| until > now) {
        warn!(node = %node.name, what, limit, "nothing is done: auto_limit is reached");
        return Ok(false);
    }
    tx.add_auto_action(&node.id, what, context.epoch, now).await?;
    if let Some(until) = brake(context, &mut tx).await?.filter(|until| *until > now) {
        error!(limit, "auto_limit is reached: no more power actions by itself for now");
        let until = clock::rfc3339(context.clock.to_wall(until));
        tx.add_event(NewEvent {
            at: clock::wall(),
            kind: "auto-limit-reached",
            node: None,
            operation: None,
            actor: "haasd",
            data: json!({ "limit": limit, "until": until }),
            tenant: Some(""),
        })
        .await?;
    }
    tx.commit().await?;
    context.told();
    Ok(true)
}
