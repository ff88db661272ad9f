//! Asking BMCs how their nodes' power is, now and then, though nothing depends on it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use tokio::task::JoinSet;

use crate::{
    context::Context,
    inventory::PowerSpec,
    model::{Micros, Node, SECOND},
};

/// How old an answer may become.
const EVERY: Micros = 60 * SECOND;

/// When this node's BMC should be asked again; none where there is none or it is not ours to ask.
pub(super) fn due(node: &Node, now: Micros) -> Option<Micros> {
    if !node.managed || node.spec.power == PowerSpec::Manual {
        return None;
    }
    Some(node.power_at.map_or(now, |at| at + EVERY))
        .filter(|at| *at > now || node.power_error.is_none())
}

/// Asks in a task of its own, unless one is at work on the node.
pub(super) fn spawn(
    context: &Arc<Context>,
    busy: &Arc<Mutex<HashSet<String>>>,
    tasks: &mut JoinSet<()>,
    node: Node,
) {
    if !busy.lock().expect("no task panics while it holds this").insert(node.id.clone()) {
        return;
    }
    let (context, busy) = (context.clone(), busy.clone());
    tasks.spawn(async move {
        if let Err(error) = super::act::observe_power(&context, &node).await {
            tracing::error!(node = %node.name, error = &error as &dyn std::error::Error, "cannot note power");
        }
        busy.lock().expect("no task panics while it holds this").remove(&node.id);
    });
}
