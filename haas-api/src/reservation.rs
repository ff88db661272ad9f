//! Reservations: nodes for a time, with an image and an overlay on them. `/v1/reservations`, and what
//! is free when: `/v1/calendar`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{ImageRef, OverlayRef, QueueName, UserName};

/// How a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReservationState {
    /// It waits for nodes, and nobody can say yet until when.
    Pending,
    /// It has its hour, and nodes for it.
    Planned,
    /// Its nodes are being switched to what it runs.
    Starting,
    /// Its nodes are its user's.
    Active,
    /// Its time is over; what ran there is being ended in order.
    Ending,
    /// Over.
    Ended,
    /// Taken back before it had nodes.
    Cancelled,
    /// It came to nothing, or lost its nodes.
    Failed,
}

impl ReservationState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Planned => "planned",
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Ending => "ending",
            Self::Ended => "ended",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        match self {
            Self::Pending | Self::Planned | Self::Starting | Self::Active | Self::Ending => false,
            Self::Ended | Self::Cancelled | Self::Failed => true,
        }
    }

    /// Whether it has nodes now.
    pub fn has_nodes(self) -> bool {
        match self {
            Self::Starting | Self::Active => true,
            Self::Pending
            | Self::Planned
            | Self::Ending
            | Self::Ended
            | Self::Cancelled
            | Self::Failed => false,
        }
    }
}

/// Why a reservation is in its state, or why something happened to it. The words never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonCode {
    /// It was asked for.
    Submitted,
    /// It cannot start on the cluster as it is.
    Never,
    /// Nodes that serve are in use.
    Busy,
    /// Nodes are free, but not for long enough: they are promised to others.
    Reserved,
    /// A node that holds the overlay's data is in use, promised or lost.
    OverlayHome,
    /// Another reservation has the overlay.
    OverlayInUse,
    /// Its queue would hold more than its maximum.
    QueueMax,
    /// Its user would hold more than his part of the queue.
    UserMax,
    /// Its project would have more nodes than it may.
    ProjectLimit,
    /// Others are before it.
    Turn,
    /// It was accepted for the hour that it names.
    Accepted,
    /// Its start moved forward: something ended early.
    Freed,
    /// A node was lost or taken out of service.
    NodeLost,
    /// Another reservation still has a node whose time should have been over.
    Overdue,
    /// Its time passed without a plan: haasd was away.
    Late,
    /// Nodes are worked on then: a maintenance window.
    Maintenance,
    /// Limits were changed.
    Limits,
    /// Its nodes are free.
    NodesFree,
    /// Nodes have to be begun now to be ready at its hour.
    LeadTime,
    /// All its nodes are ready.
    Ready,
    /// Its nodes were ready later than its hour.
    ReadyLate,
    /// Its time is over soon.
    EndsSoon,
    /// Its end was moved.
    Extended,
    /// Its time is over.
    TimeOver,
    /// Its user gave it back.
    Released,
    /// Nobody came.
    NoShow,
    /// Another node took the place of one that was lost.
    Replaced,
    /// It goes on with fewer nodes.
    Shrunk,
    /// It lacks a node, or would at its hour, and there is none yet to take its place.
    Degraded,
    /// Its nodes were not ready within its whole time.
    NeverReady,
    /// Who asked for it may not use its queue, project, image or overlay any more.
    NotAllowed,
    /// Its image or overlay was removed.
    Gone,
}

impl ReasonCode {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Never => "never",
            Self::Busy => "busy",
            Self::Reserved => "reserved",
            Self::OverlayHome => "overlay-home",
            Self::OverlayInUse => "overlay-in-use",
            Self::QueueMax => "queue-max",
            Self::UserMax => "user-max",
            Self::ProjectLimit => "project-limit",
            Self::Turn => "turn",
            Self::Accepted => "accepted",
            Self::Freed => "freed",
            Self::NodeLost => "node-lost",
            Self::Overdue => "overdue",
            Self::Late => "late",
            Self::Maintenance => "maintenance",
            Self::Limits => "limits",
            Self::NodesFree => "nodes-free",
            Self::LeadTime => "lead-time",
            Self::Ready => "ready",
            Self::ReadyLate => "ready-late",
            Self::EndsSoon => "ends-soon",
            Self::Extended => "extended",
            Self::TimeOver => "time-over",
            Self::Released => "released",
            Self::NoShow => "no-show",
            Self::Replaced => "replaced",
            Self::Shrunk => "shrunk",
            Self::Degraded => "degraded",
            Self::NeverReady => "never-ready",
            Self::NotAllowed => "not-allowed",
            Self::Gone => "gone",
        }
    }
}

/// What becomes of a reservation of which a node is lost while it is active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnNodeLoss {
    /// Another node takes its place if there is one.
    #[default]
    Replace,
    /// It goes on with the others.
    Shrink,
    /// It ends.
    Fail,
}

/// What new ranks of an overlay begin with, where a reservation has more nodes than the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Grow {
    /// Nothing.
    Empty,
}

/// `POST /v1/reservations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReservation {
    /// How many nodes.
    pub nodes: u32,
    /// For how long, in seconds; as the queue says where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walltime_s: Option<u64>,
    /// From when; as soon as can be where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<String>,
    /// The queue; the only one that the caller may use where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// The project that is charged; the only one that the caller works in, or himself, where none is
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<UserName>,
    /// Only nodes for which this holds now: `memory>=64G and rack==r1`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Only nodes of this set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodeset: Option<String>,
    /// No node of this set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<String>,
    /// What to boot.
    pub image: ImageRef,
    /// What to lay over it; RAM where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayRef>,
    /// What new ranks begin with, where the overlay has data on fewer nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grow: Option<Grow>,
    /// Boot what the image's tag means at the start; else what the overlay last ran on, or what the tag
    /// means now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow_tag: bool,
    /// What becomes of it when a node is lost.
    #[serde(default)]
    pub on_node_loss: OnNodeLoss,
    /// Say what would happen, change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reservation {
    /// Its number.
    pub id: i64,
    /// How it stands.
    pub state: ReservationState,
    /// Why.
    pub code: ReasonCode,
    /// The same in words.
    pub reason: String,
    /// Who asked for it.
    pub user: String,
    /// Whose its nodes are: a project, or the user.
    pub project: String,
    /// Where it waits, or waited.
    pub queue: QueueName,
    /// How many nodes it asked for.
    pub nodes: u32,
    /// For how long, in seconds.
    pub walltime_s: u64,
    /// The image as it was asked for.
    pub image: String,
    /// What it boots.
    pub image_digest: String,
    /// `owner/name` of the overlay; none: RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    /// What becomes of it when a node is lost.
    pub on_node_loss: OnNodeLoss,
    /// Whether it named its hour.
    pub is_advance: bool,
    /// When it was asked for.
    pub submitted_at: String,
    /// When it starts or started; none while nobody can say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<String>,
    /// When its time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<String>,
    /// When all its nodes were ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<String>,
    /// How much later than its start they were ready, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_s: Option<u64>,
    /// Its nodes by rank, as they were given, are promised, or would be.
    pub assigned: Vec<AssignedNode>,
    /// What happened to it, the oldest first; only of one reservation, not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<ReservationStep>,
}

/// A node of a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssignedNode {
    /// Its place.
    pub rank: u32,
    /// The node.
    pub node: String,
    /// `promised`, `switching`, `ready`, `lost` or `given-back`.
    pub state: String,
}

/// Something that happened to a reservation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReservationStep {
    /// When.
    pub at: String,
    /// Seconds since it was asked for.
    pub after_s: f64,
    /// What: `submitted`, `planned`, `moved`, `starting`, `active`, `warned`, `extended`, `node-lost`,
    /// `ending`, `ended`, `cancelled` or `failed`.
    pub what: String,
    /// Why.
    pub code: ReasonCode,
    /// In words.
    pub detail: String,
}

/// What a reservation would come to; the answer of a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReservationPlan {
    /// Whether it would start now, be planned, or wait.
    pub state: ReservationState,
    /// Why not now.
    pub code: ReasonCode,
    /// The same in words.
    pub reason: String,
    /// When it would start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<String>,
    /// When its time would be over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<String>,
    /// Nodes that it would have, by rank. Others may serve in the end.
    pub nodes: Vec<String>,
    /// What it would boot.
    pub image_digest: String,
}

/// `POST /v1/reservations/{id}/extend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendReservation {
    /// By how many seconds.
    pub by_s: u64,
    /// Take what can be had, if that is less.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_far_as_possible: bool,
}

/// Why a reservation waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// Why it does not start now.
    pub code: ReasonCode,
    /// The same in words.
    pub reason: String,
    /// How many are before it.
    pub ahead: u32,
    /// So many are before it that the times are rough.
    pub is_rough: bool,
    /// When it starts if all before it take their whole time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<String>,
    /// When it starts at the latest, where that was promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised_at: Option<String>,
    /// How many nodes serve it but are in use.
    pub busy: u32,
    /// How many nodes each rule keeps from it.
    pub excluded: Vec<Excluded>,
    /// What would let it start earlier.
    pub without: Vec<Without>,
}

/// How many nodes a rule keeps from a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Excluded {
    /// The rule.
    pub rule: String,
    /// How many.
    pub nodes: u32,
}

/// When a reservation would start without a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Without {
    /// The rule.
    pub rule: String,
    /// Then.
    pub start_at: String,
}

/// `GET /v1/calendar`: how many nodes of a queue are free when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Calendar {
    /// The queue.
    pub queue: QueueName,
    /// How many nodes it can give.
    pub nodes: u32,
    /// Times, one behind the other.
    pub slots: Vec<Slot>,
    /// The next starts for the nodes and the time that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_starts: Vec<String>,
}

/// A time in which as many nodes are free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Slot {
    /// From when.
    pub from: String,
    /// Until when.
    pub until: String,
    /// How many are free.
    pub free: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_code_are_the_words_of_json() {
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        for state in [
            ReservationState::Pending,
            ReservationState::Planned,
            ReservationState::Starting,
            ReservationState::Active,
            ReservationState::Ending,
            ReservationState::Ended,
            ReservationState::Cancelled,
            ReservationState::Failed,
        ] {
            assert_eq!(word(serde_json::to_value(state).unwrap()), state.as_str());
        }
        for code in [ReasonCode::OverlayInUse, ReasonCode::NoShow, ReasonCode::ReadyLate] {
            assert_eq!(word(serde_json::to_value(code).unwrap()), code.as_str());
        }
    }
}
