//! Asking BMCs how their nodes' power is because somebody wants to know it now.

use futures_util::future::join_all;

use super::act;
use crate::{context::Context, inventory::PowerSpec, model::Node, store::Result};

/// Asks the BMCs of these nodes, all at once, and notes what they said. Nodes that only a person can switch
/// have nobody to ask.
pub(crate) async fn power(context: &Context, nodes: &[Node]) -> Result<()> {
    let asked = nodes.iter().filter(|node| node.spec.power != PowerSpec::Manual);
    let told = join_all(asked.map(async |node| {
        let power = act::ask_power(node).await;
        (node, power, context.clock.now())
    }));
    let told = told.await;
    let mut tx = context.store.write().await?;
    let mut news = false;
    for (before, power, at) in told {
        // The loop may have asked meanwhile, and heard something newer.
        if let Some(node) = tx.node_by_id(&before.id).await?
            && node.power_asked_at.is_none_or(|asked_at| asked_at <= at)
        {
            news |= act::set_power(&mut tx, &node, power, at).await?;
        }
    }
    tx.commit().await?;
    if news {
        context.changed();
    }
    Ok(())
}
