//! All that a plan is made from: plain data, filled by the caller.
//!
//! Names of things are places in lists ([`NodeId`], [`QueueId`], [`ShapeId`], [`OverlayId`]) or numbers
//! that only have to be the same each time. Times are whole seconds of one steady clock. [`check`]
//! finds what cannot be planned with; a snapshot that passes never makes the planner panic.
//!
//! [`check`]: Snapshot::check

use roaring::RoaringBitmap;

use crate::{
    ClaimId, ImageId, NodeId, OverlayId, ProjectId, QueueId, RackId, Settings, ShapeId, Share,
    Time, UserId, Vector,
};

/// The cluster, what is promised, and who waits, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Kinds of nodes.
    pub shapes: Vec<Vector>,
    /// All nodes, also those that cannot be used now.
    pub nodes: Vec<Node>,
    /// The tree of queues; the first one is the root, and each stands behind its parent.
    pub queues: Vec<Queue>,
    /// Which projects may use which nodes. What no grant names is nobody's.
    pub grants: Vec<Grant>,
    /// What runs, and advance claims that were accepted and have not begun.
    pub assignments: Vec<Assignment>,
    /// When nodes are kept free for work on them.
    pub maintenance: Vec<Maintenance>,
    /// Who waits. The order does not matter.
    pub claims: Vec<Claim>,
    /// Overlays that claims may ask for.
    pub overlays: Vec<Overlay>,
    /// How long nodes take to be ready.
    pub boots: Vec<BootTime>,
    /// What was used in the past.
    pub usage: Vec<Usage>,
    /// How to plan.
    pub settings: Settings,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it has.
    pub shape: ShapeId,
    /// Where it stands.
    pub rack: RackId,
    /// Its labels, one bit each.
    pub labels: u64,
    /// Whether it can be given out.
    pub health: Health,
    /// Whether it is on.
    pub power: Power,
    /// The image and overlay that it runs or ran last.
    pub runs: Option<(ImageId, Option<OverlayId>)>,
    /// Which overlays have data on its disk, the longest unused first.
    pub shards: Vec<Shard>,
    /// Disk for overlays, in GiB.
    pub disk_gib: u32,
}

/// Whether a node can be given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Yes.
    Ready,
    /// What runs there goes on, nothing new begins.
    Draining,
    /// It is lost; what ran there is lost too.
    Down,
}

/// Whether a node is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// On, and idle since then if nothing runs on it.
    On {
        /// When it was last in use, or was powered on.
        idle_since: Time,
    },
    /// On its way.
    Booting {
        /// When it should be ready.
        ready_at: Time,
    },
    /// Off.
    Off,
}

/// An overlay's data on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Whose.
    pub overlay: OverlayId,
    /// When it was last attached.
    pub used: Time,
    /// Whether its disk is leased, apart from node time. Leased shards are never put out; others make
    /// room for new ones, the longest unused first.
    pub leased: bool,
}

/// An overlay: its ranks live on nodes' disks.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// What one shard takes on its node's disk, in GiB.
    pub disk_gib: u32,
    /// The node of each rank; a rank that has no data yet has none.
    pub homes: Vec<Option<NodeId>>,
}

/// A queue.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Its name, which decides between queues that are otherwise equal.
    pub name: String,
    /// The queue above; only the first has none.
    pub parent: Option<QueueId>,
    /// What it can count on.
    pub guaranteed: Share,
    /// What it may hold at any time.
    pub max: Share,
    /// Its weight against its siblings.
    pub weight: u32,
    /// Siblings of higher priority go first.
    pub priority: i32,
    /// In which order its own claims go; only queues without children have claims.
    pub policy: Policy,
    /// What one user may hold of the cluster through this queue.
    pub user_max: Option<Share>,
    /// What advance claims may ask for.
    pub advance: AdvanceLimits,
}

/// In which order a queue's claims go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// By the time of submission.
    Fifo,
    /// By the time of submission, and no user holds more than his part of the queue's maximum.
    Capacity {
        /// A user's part, where 1 divided by the number of users with claims or nodes is 100.
        user_factor_percent: u32,
    },
    /// Whoever used least goes first.
    Fair,
}

/// What advance claims of a queue may ask for.
#[derive(Debug, Clone, Copy)]
pub struct AdvanceLimits {
    /// The longest, in seconds.
    pub duration: Time,
    /// How far ahead, in seconds.
    pub ahead: Time,
    /// How much of the cluster may be reserved ahead by the queue at any time.
    pub reserved: Share,
}

/// Leave of a project to use nodes.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Whose.
    pub project: ProjectId,
    /// Which nodes.
    pub nodes: RoaringBitmap,
}

/// A wish for nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Its name.
    pub id: ClaimId,
    /// Where it waits.
    pub queue: QueueId,
    /// Who asks.
    pub user: UserId,
    /// Who is charged, and whose grants count.
    pub project: ProjectId,
    /// When it was submitted.
    pub submitted: Time,
    /// For how long, in seconds.
    pub walltime: Time,
    /// What for. All of them are met at once, or none.
    pub requests: Vec<Request>,
    /// What to boot.
    pub image: ImageId,
    /// What to lay over it.
    pub overlay: Option<OverlayUse>,
    /// Nodes that it must not have, for a reason of the site's.
    pub barred: RoaringBitmap,
    /// Whether it may be ended for others, where preemption is on.
    pub preemptible: bool,
    /// What to do when one of its nodes is lost.
    pub on_node_loss: OnNodeLoss,
    /// What the last plan promised. None if it promised nothing: an older promise is over.
    pub promise: Option<Promise>,
}

/// A number of like nodes within a claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// How many.
    pub count: u32,
    /// Requests of higher priority choose first.
    pub priority: i32,
    /// The shapes that serve, the best first; all nodes of a request have one. None named: any, mixed.
    pub shapes: Vec<ShapeId>,
    /// The labels that each node must have.
    pub labels: u64,
    /// Where.
    pub location: Location,
}

/// Where nodes should be.
#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    /// Anywhere.
    Anywhere,
    /// These nodes.
    Nodes(RoaringBitmap, Need),
    /// This rack.
    Rack(RackId, Need),
    /// In at most so many racks, whichever.
    Racks(u32, Need),
}

/// How much a wish weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// The claim waits for it.
    Required,
    /// The claim starts without it rather than wait.
    Preferred,
}

/// An overlay, and how much its data matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayUse {
    /// Which.
    pub overlay: OverlayId,
    /// How much.
    pub affinity: Affinity,
    /// The user asked for a fork: a second live shard of a rank. Without it an overlay serves one claim
    /// at a time.
    pub fork: bool,
}

/// How much it matters to meet an overlay's data again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Affinity {
    /// Each rank that has data meets it; the claim waits for those nodes. The default.
    Require,
    /// As many ranks as can without waiting; the others begin with an empty shard. Where such a rank was
    /// before it is no longer live, which is for the caller to see to.
    Prefer,
    /// The data does not matter.
    Any,
}

/// What to do with a claim of which a node is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNodeLoss {
    /// Give it another node if there is one.
    Replace,
    /// Go on with the others.
    Shrink,
    /// End it.
    Fail,
}

/// What a plan promised to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// The latest start.
    pub start: Time,
    /// Nodes for each request that make it possible. Others may serve in the end.
    pub nodes: Vec<Vec<NodeId>>,
}

/// A claim with nodes: it runs, or it is an advance claim that will.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The claim.
    pub claim: Claim,
    /// The nodes of each request, by rank.
    pub nodes: Vec<Vec<NodeId>>,
    /// When it began or begins.
    pub start: Time,
    /// When its nodes are free again.
    pub end: Time,
    /// Until when its user must have come, if he has not yet.
    pub claim_by: Option<Time>,
    /// It was reserved ahead; it is never ended for others.
    pub is_advance: bool,
}

/// A time in which nodes are worked on.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// Which nodes.
    pub nodes: RoaringBitmap,
    /// From when.
    pub from: Time,
    /// Until when.
    pub until: Time,
}

/// How long nodes of a shape take to be ready with an image, learned from their boots.
#[derive(Debug, Clone, Copy)]
pub struct BootTime {
    /// The shape.
    pub shape: ShapeId,
    /// The image.
    pub image: ImageId,
    /// 95 of 100 boots took at most so many seconds.
    pub p95: Time,
}

/// What a user held through a queue in the past.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Through which.
    pub queue: QueueId,
    /// Who.
    pub user: UserId,
    /// Amounts times seconds, decayed until `at`.
    pub spent: Vector,
    /// As of when.
    pub at: Time,
}

/// What cannot be planned with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The first queue is the root.
    #[error("the first queue must be the root, and only it has no parent")]
    Root,
    /// Parents come first.
    #[error("queue {0:?} does not stand behind its parent")]
    Parent(QueueId),
    /// Nobody can count on what is not there.
    #[error("the queues below {0:?} are guaranteed more than it is")]
    Guarantee(QueueId),
    /// A queue's guarantee is within its maximum.
    #[error("queue {0:?} is guaranteed more than its maximum")]
    Maximum(QueueId),
    /// Claims wait in leaves.
    #[error("{0:?} waits in a queue that does not exist or has queues below it")]
    Queue(ClaimId),
    /// A claim asks for something for some time.
    #[error("{0:?} asks for no node or no time")]
    Empty(ClaimId),
    /// One claim, one name.
    #[error("{0:?} is there twice")]
    Twice(ClaimId),
    /// A name of something that is not there.
    #[error("{0} is not in the snapshot")]
    Unknown(String),
}

impl Queue {
    /// The root, which may use everything.
    pub fn root() -> Queue {
        Queue {
            name: "root".to_owned(),
            parent: None,
            guaranteed: Share::WHOLE,
            max: Share::WHOLE,
            weight: 1,
            priority: 0,
            policy: Policy::Fifo,
            user_max: None,
            advance: AdvanceLimits::default(),
        }
    }

    /// A queue below another, with nothing guaranteed and no limit.
    pub fn below(parent: QueueId, name: impl Into<String>) -> Queue {
        Queue { name: name.into(), parent: Some(parent), guaranteed: Share::NONE, ..Queue::root() }
    }
}

impl Default for AdvanceLimits {
    fn default() -> AdvanceLimits {
        AdvanceLimits { duration: 14 * 86_400, ahead: 90 * 86_400, reserved: Share::WHOLE }
    }
}

impl Request {
    /// So many nodes of any kind, anywhere.
    pub fn of(count: u32) -> Request {
        Request { count, priority: 0, shapes: Vec::new(), labels: 0, location: Location::Anywhere }
    }
}

impl Claim {
    /// How many nodes it asks for.
    pub fn count(&self) -> u32 {
        self.requests.iter().map(|request| request.count).sum()
    }
}

impl Assignment {
    /// Whether it runs. Only an advance claim can have nodes before its time, whatever the clock says.
    pub fn has_begun(&self, now: Time) -> bool {
        !self.is_advance || self.start <= now
    }

    /// All its nodes.
    pub fn all_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().flatten().copied()
    }
}

impl Snapshot {
    /// What all nodes have together.
    pub fn total(&self) -> Vector {
        let shapes = self.nodes.iter().filter_map(|node| self.shapes.get(node.shape.0 as usize));
        shapes.fold(Vector::default(), |sum, shape| sum.plus(*shape))
    }

    /// What a node has.
    pub(crate) fn vector(&self, node: NodeId) -> Vector {
        self.shapes[self.nodes[node.index()].shape.0 as usize]
    }

    /// Whether a plan can be made from this.
    pub fn check(&self) -> Result<(), SnapshotError> {
        self.check_queues()?;
        let unknown = |what: String| Err(SnapshotError::Unknown(what));
        let known = |node: &NodeId| node.index() < self.nodes.len();
        let all_known = |nodes: &RoaringBitmap| {
            nodes.max().is_none_or(|last| (last as usize) < self.nodes.len())
        };
        for node in &self.nodes {
            if node.shape.0 as usize >= self.shapes.len() {
                return unknown(format!("{:?}", node.shape));
            }
            if let Some(shard) =
                node.shards.iter().find(|s| s.overlay.0 as usize >= self.overlays.len())
            {
                return unknown(format!("{:?}", shard.overlay));
            }
        }
        if let Some(home) =
            self.overlays.iter().flat_map(|o| o.homes.iter().flatten()).find(|home| !known(home))
        {
            return unknown(format!("{home:?}"));
        }
        if !self.grants.iter().all(|grant| all_known(&grant.nodes))
            || !self.maintenance.iter().all(|window| all_known(&window.nodes))
        {
            return unknown("a node of a grant or of maintenance".to_owned());
        }
        let mut names = std::collections::HashSet::new();
        let leaf = self.leaves();
        let held = self.assignments.iter().map(|assignment| &assignment.claim);
        for claim in self.claims.iter().chain(held) {
            if !names.insert(claim.id) {
                return Err(SnapshotError::Twice(claim.id));
            }
            self.check_claim(claim, &leaf)?;
        }
        for assignment in &self.assignments {
            if let Some(node) = assignment.all_nodes().find(|node| !known(node)) {
                return unknown(format!("{node:?}"));
            }
        }
        Ok(())
    }

    /// Which queues have none below them.
    pub(crate) fn leaves(&self) -> Vec<bool> {
        let mut leaf = vec![true; self.queues.len()];
        for parent in self.queues.iter().filter_map(|queue| queue.parent) {
            leaf[parent.index()] = false;
        }
        leaf
    }

    pub(crate) fn check_claim(&self, claim: &Claim, leaf: &[bool]) -> Result<(), SnapshotError> {
        if leaf.get(claim.queue.index()) != Some(&true) {
            return Err(SnapshotError::Queue(claim.id));
        }
        if claim.walltime <= 0 || claim.requests.is_empty() {
            return Err(SnapshotError::Empty(claim.id));
        }
        if claim.requests.iter().any(|request| request.count == 0) {
            return Err(SnapshotError::Empty(claim.id));
        }
        if let Some(wanted) = claim.overlay
            && wanted.overlay.0 as usize >= self.overlays.len()
        {
            return Err(SnapshotError::Unknown(format!("{:?}", wanted.overlay)));
        }
        let promised = claim.promise.iter().flat_map(|promise| promise.nodes.iter().flatten());
        if let Some(node) = promised.into_iter().find(|node| node.index() >= self.nodes.len()) {
            return Err(SnapshotError::Unknown(format!("{node:?}")));
        }
        if let Some(last) = claim.barred.max().filter(|last| *last as usize >= self.nodes.len()) {
            return Err(SnapshotError::Unknown(format!("{:?}", NodeId(last))));
        }
        let shapes = claim.requests.iter().flat_map(|request| &request.shapes);
        match shapes.into_iter().find(|shape| shape.0 as usize >= self.shapes.len()) {
            Some(shape) => Err(SnapshotError::Unknown(format!("{shape:?}"))),
            None => Ok(()),
        }
    }

    fn check_queues(&self) -> Result<(), SnapshotError> {
        if self.queues.first().is_none_or(|root| root.parent.is_some()) {
            return Err(SnapshotError::Root);
        }
        let mut below = vec![0u64; self.queues.len()];
        for (index, queue) in self.queues.iter().enumerate() {
            let id = QueueId(index as u32);
            match queue.parent {
                None if index > 0 => return Err(SnapshotError::Root),
                None => {}
                Some(parent) if parent.index() >= index => return Err(SnapshotError::Parent(id)),
                Some(parent) => below[parent.index()] += queue.guaranteed.0,
            }
            if queue.guaranteed > queue.max {
                return Err(SnapshotError::Maximum(id));
            }
        }
        let over = |(queue, below): (&Queue, &u64)| *below > queue.guaranteed.0;
        match self.queues.iter().zip(&below).position(over) {
            Some(index) => Err(SnapshotError::Guarantee(QueueId(index as u32))),
            None => Ok(()),
        }
    }
}
