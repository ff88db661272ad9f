//! Switch, rollback, power: requests that change nodes, and the operation that follows each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    agent::BootStage,
    check::CheckReport,
    names::{ImageRef, OverlayRef, UserName},
};

/// `POST /v1/switch`: move a set of nodes to an image and an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwitchRequest {
    /// The nodes, `n[01-16],@rack1`. The order is the rank where the overlay is new.
    pub nodeset: String,
    /// The image; the present one stays where none is given.
    #[serde(default)]
    pub image: Option<ImageRef>,
    /// The overlay; the present one stays where none is given, `none` is RAM.
    #[serde(default)]
    pub overlay: Option<OverlayRef>,
    /// The project that the nodes are for; the caller, or the overlay's owner, where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<UserName>,
    /// Run without the overlay, which is mounted at `/overlay` to be looked at and mended; what is
    /// written elsewhere is in RAM.
    #[serde(default)]
    pub rescue: bool,
    /// Boot at most this many nodes at once.
    #[serde(default)]
    pub at_most: Option<u32>,
    /// Also nodes with logins or jobs.
    #[serde(default)]
    pub force: bool,
    /// Say what would happen, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v1/rollback`: back to the desired state before the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackRequest {
    /// The nodes.
    pub nodeset: String,
    /// Also nodes with logins or jobs.
    #[serde(default)]
    pub force: bool,
    /// Say what would happen, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v1/power`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PowerRequest {
    /// The nodes.
    pub nodeset: String,
    /// What to do.
    pub action: PowerVerb,
    /// Also nodes with logins or jobs.
    #[serde(default)]
    pub force: bool,
    /// Say what would happen, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What to do with a node's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PowerVerb {
    /// On, into the image and overlay that the node has.
    On,
    /// Off, in order.
    Off,
    /// Off in order, then on.
    Cycle,
    /// Off in order, then on into the setup of the firmware, once.
    #[serde(rename = "boot-bios")]
    BootBios,
    /// Off in order, then on from the first disk, once.
    #[serde(rename = "boot-disk")]
    BootDisk,
}

/// What a request will do with each node; the answer of a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// One entry per node, in the order of the node set.
    pub nodes: Vec<PlannedNode>,
}

/// What a request will do with one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedNode {
    /// The node.
    pub node: String,
    /// What runs or is wanted now: `minimal:latest + alice/dev`, `off`, `nothing`.
    pub from: String,
    /// What will.
    pub to: String,
    /// Its place in the overlay.
    pub rank: Option<u32>,
    /// `boot`, `reboot`, `power-off`, `hand-over` or `nothing`.
    pub action: String,
    /// What the caller should know: `new shard`, `2 logins`.
    pub notes: Vec<String>,
}

/// A request in progress, or over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// `switch`, `rollback` or `power`.
    pub kind: String,
    /// Who asked.
    pub actor: String,
    /// What was asked, in words.
    pub summary: String,
    /// How it stands.
    pub state: OperationState,
    /// When it was asked.
    pub created_at: String,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How each node stands, in the order of the node set.
    pub nodes: Vec<OperationNode>,
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// Some node is not there yet.
    Running,
    /// Every node is there.
    Succeeded,
    /// Over, and some nodes are not there.
    Failed,
}

/// How one node of an operation stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationNode {
    /// The node.
    pub node: String,
    /// The generation that this operation gave it.
    pub generation: i64,
    /// `waiting`, `running`, `succeeded`, `failed` or `superseded`.
    pub state: NodeProgress,
    /// What it is doing or why it failed, in words.
    pub reason: String,
    /// The stage of its boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<BootStage>,
    /// Where its seconds went, once it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootReport>,
}

/// How one node of an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeProgress {
    /// Others go first (`at_most`).
    Waiting,
    /// On its way.
    Running,
    /// There.
    Succeeded,
    /// Not there, and nothing more is tried.
    Failed,
    /// A later request took the node over.
    Superseded,
}

/// One boot attempt: where its seconds and bytes went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BootReport {
    /// The attempt's id, the `boot` of the log lines.
    pub attempt: String,
    /// The node.
    pub node: String,
    /// The desired state that it served.
    pub generation: i64,
    /// Why the node booted: `desired`, `retry` or `unplanned`.
    pub cause: String,
    /// `running`, `ready`, `failed` or `ended`.
    pub state: String,
    /// What ran: `minimal:latest + alice/dev`.
    pub what: String,
    /// When it began.
    pub started_at: String,
    /// Seconds spent in each stage, in order; the last one may still run.
    pub stages: Vec<StageTime>,
    /// Bytes of kernel and initramfs sent.
    pub boot_bytes: i64,
    /// Bytes read from the image over iSCSI until the node was ready.
    pub root_bytes: i64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Its ready checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckReport>,
    /// The last lines of the node's kernel, where it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_log: Vec<String>,
}

/// How long a stage took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageTime {
    /// Which.
    pub stage: BootStage,
    /// Seconds from its beginning to the beginning of the next.
    pub seconds: f64,
}
