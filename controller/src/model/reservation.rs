//! Reservations: who has which nodes from when until when, and what they run then.

use haas_api::{
    names::QueueName,
    reservation::{OnNodeLoss, ReasonCode, ReservationState},
};

use super::{ImageWanted, Micros};

/// A reservation as the store has it. Its times are of the steady clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its number.
    pub id: i64,
    /// Locks the row.
    pub version: i64,
    /// How it stands.
    pub state: ReservationState,
    /// Why.
    pub code: ReasonCode,
    /// The same in words.
    pub reason: String,
    /// Who asked for it, by the immutable id.
    pub owner_id: String,
    /// Whose its nodes are, by the id of a user or project.
    pub tenant: String,
    /// Where it waits.
    pub queue: QueueName,
    /// How many nodes it asks for.
    pub count: u32,
    /// For how long.
    pub walltime: Micros,
    /// Whether it names its hour.
    pub is_advance: bool,
    /// Only these nodes serve, by id; none: all of its queue.
    pub among: Option<Vec<String>>,
    /// What it boots.
    pub image: ImageWanted,
    /// Whether what the image's tag means at the start counts.
    pub follow_tag: bool,
    /// What is laid over it; none: RAM.
    pub overlay_id: Option<String>,
    /// What becomes of it when a node is lost.
    pub on_node_loss: OnNodeLoss,
    /// When it was asked for.
    pub submitted_at: Micros,
    /// When it starts at the latest, or started.
    pub start_at: Option<Micros>,
    /// When its time is over.
    pub end_at: Option<Micros>,
    /// When all its nodes were ready.
    pub ready_at: Option<Micros>,
    /// Whether its user was told that its time is over soon.
    pub warned: bool,
    /// The name of who asked for it.
    pub actor: String,
    /// The caller's Idempotency-Key.
    pub key: Option<String>,
    /// The SHA-256 of what was asked, which a key that comes again must stand for.
    pub request: String,
    /// Its nodes, by rank.
    pub nodes: Vec<Assigned>,
}

/// A node of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The node, by id.
    pub node_id: String,
    /// Its place.
    pub rank: u32,
    /// The desired state that it was given with; 0: it is only promised.
    pub generation: i64,
    /// It was lost, or is not needed any more.
    pub lost: bool,
}

impl Reservation {
    /// The nodes that it has, or that are promised to it.
    pub fn held(&self) -> impl Iterator<Item = &Assigned> {
        self.nodes.iter().filter(|node| !node.lost)
    }

    /// Whether it names an hour that is to come, also when its nodes boot for it already.
    pub fn is_before_its_hour(&self, now: Micros) -> bool {
        self.is_advance && self.start_at.is_some_and(|start| now < start)
    }

    /// Takes other nodes for those that are only promised.
    pub fn promise(&mut self, node_ids: impl IntoIterator<Item = String>) {
        let nodes = node_ids.into_iter().zip(0..);
        let promised =
            nodes.map(|(node_id, rank)| Assigned { node_id, rank, generation: 0, lost: false });
        self.nodes = promised.collect();
    }
}
