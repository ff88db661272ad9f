//! The planner's reasons as codes and in words. Pure.

use haas_api::reservation::ReasonCode;
use scheduler::{QueueId, Reason, Rule, Why};

use super::{snapshot::Taken, world::World};

/// Why a reservation does not start now.
pub(super) fn reason(taken: &Taken, reason: Reason) -> (ReasonCode, String) {
    let queue = |id: QueueId| match taken.queue(id) {
        Some(name) => format!("the queue {name}"),
        None => "the top of the queues".to_owned(),
    };
    let (code, text) = match reason {
        Reason::Never => {
            (ReasonCode::Never, "too few nodes serve; `haasctl explain` says what keeps the others")
        }
        Reason::Busy => (ReasonCode::Busy, "nodes that serve are in use"),
        Reason::Reserved => (
            ReasonCode::Reserved,
            "nodes are free, but others have them before its time would be over",
        ),
        Reason::Maintenance => (
            ReasonCode::Maintenance,
            "nodes are free, but they are in maintenance before its time would be over",
        ),
        Reason::OverlayHome => (
            ReasonCode::OverlayHome,
            "a node that holds the overlay's data is in use, promised or lost",
        ),
        Reason::OverlayInUse(_) => {
            (ReasonCode::OverlayInUse, "another reservation has the overlay")
        }
        Reason::Turn | Reason::Preempting => (ReasonCode::Turn, "others are before it"),
        Reason::QueueMax(id) => {
            return (
                ReasonCode::QueueMax,
                format!("{} would hold more than its maximum", queue(id)),
            );
        }
        Reason::UserMax(id) => {
            let text = format!("you would hold more of {} than one user may", queue(id));
            return (ReasonCode::UserMax, text);
        }
    };
    (code, text.to_owned())
}

/// Why a start moved.
pub(super) fn why(world: &World, why: Why) -> (ReasonCode, String) {
    let name = |node: scheduler::NodeId| {
        world.nodes.get(node.index()).map_or("a node", |seen| seen.node.name.as_str())
    };
    match why {
        Why::Freed => (ReasonCode::Freed, "something before it ended early".to_owned()),
        Why::NodeLost(node) => {
            (ReasonCode::NodeLost, format!("{} is lost or out of service", name(node)))
        }
        Why::Maintenance(node) => {
            (ReasonCode::Maintenance, format!("{} is in maintenance then", name(node)))
        }
        Why::Barred(node) => {
            (ReasonCode::NotAllowed, format!("{} may not be lent to you any more", name(node)))
        }
        Why::Overdue(_) => (
            ReasonCode::Overdue,
            "a node whose time should have been over is still in use".to_owned(),
        ),
        Why::Late => {
            (ReasonCode::Late, "its time passed without a plan: haasd was away".to_owned())
        }
        Why::Limits => {
            (ReasonCode::Limits, "limits or the nodes of its queue were changed".to_owned())
        }
    }
}

/// A rule's word.
pub(super) fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Health => "health",
        Rule::Grant => "queue-nodes",
        Rule::Barred => "may-not-be-lent",
        Rule::Shape => "shape",
        Rule::Label => "label",
        Rule::Location => "named-nodes",
        Rule::OverlayHome => "overlay-home",
        Rule::Disk => "disk",
        Rule::OverlayInUse => "overlay-in-use",
        Rule::Maintenance => "maintenance",
        Rule::QueueMax => "queue-max",
        Rule::UserMax => "user-max",
        Rule::Ahead => "ahead",
    }
}
