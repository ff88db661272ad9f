//! Names of things as the planner knows them: small numbers, given by whoever makes the snapshot.

use serde::{Deserialize, Serialize};

/// A time, or a length of time, in whole seconds.
pub type Time = i64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($number:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $number);
    };
}

id! {
    /// A node: its place in [`Snapshot::nodes`](crate::Snapshot::nodes).
    NodeId(u32)
}
id! {
    /// A shape: its place in [`Snapshot::shapes`](crate::Snapshot::shapes).
    ShapeId(u32)
}
id! {
    /// A rack.
    RackId(u32)
}
id! {
    /// A queue: its place in [`Snapshot::queues`](crate::Snapshot::queues).
    QueueId(u32)
}
id! {
    /// An overlay: its place in [`Snapshot::overlays`](crate::Snapshot::overlays).
    OverlayId(u32)
}
id! {
    /// A user.
    UserId(u32)
}
id! {
    /// A project, which is charged and which holds grants.
    ProjectId(u32)
}
id! {
    /// An image, by digest.
    ImageId(u32)
}
id! {
    /// A claim, which is what users see as a reservation.
    ClaimId(u64)
}

impl NodeId {
    /// The place in a list of nodes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl QueueId {
    /// The place in a list of queues.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
