//! Asking BMCs how their nodes' power is, now and then, though nothing depends on it.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Loaded, act};
use crate::{
    busy::Busy,
    context::Context,
    inventory::PowerSpec,
    lifecycle::{ASK_AGAIN, Standing, Step},
    model::{Micros, Node, SECOND},
};

/// How old an answer may become, and how often a BMC that gives none is asked.
const EVERY: Micros = 60 * SECOND;

/// When this node's BMC should be asked again; none where there is none or it is not ours to ask.
pub(super) fn due(node: &Node, standing: Standing, now: Micros) -> Option<Micros> {
    if !node.managed || node.spec.power == PowerSpec::Manual {
        return None;
    }
    let every = if standing == Standing::Lost { ASK_AGAIN } else { EVERY };
    Some(node.power_asked_at.map_or(now, |at| at + every))
}

/// Asks in a task of its own, unless one is at work on the node.
pub(super) fn spawn(context: &Arc<Context>, busy: &Busy, tasks: &mut JoinSet<()>, node: Node) {
    let Some(mine) = busy.take(&node.id) else { return };
    let context = context.clone();
    tasks.spawn(async move {
        if let Err(error) = act::observe_power(&context, &node).await {
            tracing::error!(node = %node.name, error = &error as &dyn std::error::Error, "cannot note power");
        }
        drop(mine);
        context.wake.notify_one();
    });
}

/// The same of a node that is on its way. The loop looks at it again only if something comes of the answer:
/// a fleet that boots is asked a hundred times in a second.
pub(super) fn look(
    context: &Arc<Context>,
    busy: &Busy,
    tasks: &mut JoinSet<()>,
    entry: Loaded,
    turn: bool,
) {
    let Some(mine) = busy.take(&entry.node.id) else { return };
    let context = context.clone();
    tasks.spawn(async move {
        let asked = act::observe_power(&context, &entry.node).await;
        let goes_on = match asked {
            Ok(Some(power)) => {
                let now = context.clock.now();
                let step = entry.with_power(power, now).decide(&context, turn, now);
                matches!(step, Step::Wait { .. })
            }
            Ok(None) => {
                tokio::time::sleep(act::BMC_PAUSE).await;
                false
            }
            Err(error) => {
                tracing::error!(node = %entry.node.name, error = &error as &dyn std::error::Error, "cannot note power");
                false
            }
        };
        drop(mine);
        if !goes_on {
            context.wake.notify_one();
        }
    });
}
