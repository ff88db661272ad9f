//! What a pass says: who starts, who starts when, who waits why, and what else should be done.

use crate::{ClaimId, NodeId, OverlayId, QueueId, Time};

/// The outcome of a pass. Each claim of the snapshot is in `starts`, in `planned` or in `waiting`, once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Who starts now.
    pub starts: Vec<Start>,
    /// Who has a start that nobody behind can delay, and advance claims that got other nodes.
    pub planned: Vec<Planned>,
    /// Who waits for what.
    pub waiting: Vec<Waiting>,
    /// What is not as the last plan or the assignments say, and why.
    pub changes: Vec<Change>,
    /// Nodes to turn on and off.
    pub power: Vec<PowerAction>,
}

/// A claim that starts now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Which.
    pub claim: ClaimId,
    /// The nodes of each request, by rank.
    pub nodes: Vec<Vec<NodeId>>,
    /// When its time is over.
    pub end: Time,
    /// When all its nodes should be ready.
    pub ready: Time,
}

/// A claim with a planned start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Which.
    pub claim: ClaimId,
    /// When it starts at the latest.
    pub start: Time,
    /// When its time is over then.
    pub end: Time,
    /// Nodes for each request that make it possible, by rank. Others may serve in the end.
    pub nodes: Vec<Vec<NodeId>>,
    /// Why it does not start now.
    pub reason: Reason,
}

/// A claim that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub claim: ClaimId,
    /// For what.
    pub reason: Reason,
}

/// Why a claim does not start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It cannot start on this cluster as it is; [`explain`](crate::explain) says which rules keep how
    /// many nodes from it.
    Never,
    /// Nodes that serve are in use.
    Busy,
    /// Nodes are free, but not for long enough: they are promised to others.
    Reserved,
    /// Nodes are free, but not for long enough: they will be worked on.
    Maintenance,
    /// A node that holds the overlay's data is in use, promised or lost.
    OverlayHome,
    /// Another claim has the overlay.
    OverlayInUse(OverlayId),
    /// This queue would hold more than its maximum.
    QueueMax(QueueId),
    /// The user would hold more than his part in this queue.
    UserMax(QueueId),
    /// Others are before it, and nobody may pass.
    Turn,
    /// Nodes are being freed for it.
    Preempting,
}

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A promised start moved.
    Moved {
        /// Of which claim.
        claim: ClaimId,
        /// When it would have started.
        from: Time,
        /// When it starts now.
        to: Time,
        /// Why.
        why: Why,
    },
    /// Nobody came: the nodes are free again.
    NoShow {
        /// For which claim.
        claim: ClaimId,
    },
    /// A node was lost; another one takes its place and rank.
    Replaced {
        /// In which claim.
        claim: ClaimId,
        /// The one that is lost.
        lost: NodeId,
        /// The one that takes its place.
        by: NodeId,
    },
    /// Nodes were lost; the claim goes on with the others.
    Shrunk {
        /// Which claim.
        claim: ClaimId,
        /// The ones that are lost.
        lost: Vec<NodeId>,
    },
    /// Nodes were lost, or do not serve now a claim whose time is to come, and there are no others yet.
    Degraded {
        /// Which claim.
        claim: ClaimId,
        /// The ones that are lost.
        lost: Vec<NodeId>,
    },
    /// Nodes were lost, and with them the claim.
    Failed {
        /// Which claim.
        claim: ClaimId,
        /// The ones that are lost.
        lost: Vec<NodeId>,
    },
    /// A running claim is ended for another one.
    Preempted {
        /// Which.
        claim: ClaimId,
        /// For which.
        by: ClaimId,
        /// When its nodes are taken.
        at: Time,
    },
}

/// Why a promised start moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Forward: something ended early, or gave way.
    Freed,
    /// Back: a node was lost or drains.
    NodeLost(NodeId),
    /// Back: a node is worked on then, as was not known before.
    Maintenance(NodeId),
    /// Back: a node is barred to it, as was not known before.
    Barred(NodeId),
    /// Back: a claim still has a node whose time should have been over.
    Overdue(ClaimId),
    /// Back: its time, or that of one before it, passed without a plan.
    Late,
    /// Back: the queue's or user's maximum, or the grants, were changed.
    Limits,
}

/// Something to do to a node's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PowerAction {
    /// When.
    pub at: Time,
    /// Which node.
    pub node: NodeId,
    /// On or off.
    pub on: bool,
}

/// A rule that keeps nodes or a start from a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Lost and draining nodes are not used.
    Health,
    /// Only nodes that the project has a grant for.
    Grant,
    /// Nodes that the claim names as barred to it.
    Barred,
    /// The shapes that the claim names.
    Shape,
    /// The labels that it names.
    Label,
    /// The nodes or racks that it names.
    Location,
    /// An overlay's data is met where it is.
    OverlayHome,
    /// A shard needs room on the disk.
    Disk,
    /// One claim at a time has an overlay.
    OverlayInUse,
    /// Planned work on nodes.
    Maintenance,
    /// The maximum of its queue and those above.
    QueueMax,
    /// The user's part of the queue.
    UserMax,
    /// Claims before it and what was promised to them.
    Ahead,
}

impl Rule {
    /// All rules.
    pub const ALL: [Rule; 13] = [
        Rule::Health,
        Rule::Grant,
        Rule::Barred,
        Rule::Shape,
        Rule::Label,
        Rule::Location,
        Rule::OverlayHome,
        Rule::Disk,
        Rule::OverlayInUse,
        Rule::Maintenance,
        Rule::QueueMax,
        Rule::UserMax,
        Rule::Ahead,
    ];
}
