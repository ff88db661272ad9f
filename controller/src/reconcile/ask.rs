//! Asking BMCs how their nodes' power is because somebody wants to know it now.

use futures_util::{StreamExt, stream};

use super::act;
use crate::{
    context::Context,
    inventory::PowerSpec,
    model::{Micros, Node, Power},
    store::Result,
};

/// BMCs that are asked at a time, and programs that are run.
const AT_ONCE: usize = 512;

/// Answers that are noted together.
const TOGETHER: usize = 64;

/// What a node's BMC has said to a question, and when.
type Told = (Node, Result<Power, String>, Micros);

/// Asks the BMCs of these nodes and notes what they say as they say it. Nodes that only a person can switch have nobody
/// to ask.
pub(crate) async fn power(context: &Context, mut nodes: Vec<Node>) -> Result<()> {
    let begun = context.clock.now();
    nodes.retain(|node| node.spec.power != PowerSpec::Manual);
    let told = stream::iter(nodes).map(|node| async move {
        let power = act::ask_power(&node).await;
        (node, power, context.clock.now())
    });
    let mut told = Box::pin(told.buffer_unordered(AT_ONCE).ready_chunks(TOGETHER));
    while let Some(told) = told.next().await {
        note(context, told, begun).await?;
    }
    Ok(())
}

async fn note(context: &Context, told: Vec<Told>, begun: Micros) -> Result<()> {
    let mut tx = context.store.write().await?;
    let mut news = false;
    for (before, power, at) in told {
        let Some(node) = tx.node_by_id(&before.id).await? else { continue };
        // The loop may have asked meanwhile, and heard something newer; and the node may have another BMC.
        let is_newest = node.power_asked_at.is_none_or(|asked_at| asked_at <= begun);
        if is_newest && node.spec.power == before.spec.power {
            news |= act::set_power(&mut tx, &node, power, at).await?;
        }
    }
    tx.commit().await?;
    if news {
        // The loop has not asked itself, so it is told to look.
        context.changed();
    }
    Ok(())
}
