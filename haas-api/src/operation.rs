//! Switch, rollback, power: requests that change nodes, and the operation that follows each.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    agent::BootStage,
    check::CheckReport,
    names::{ImageRef, NameError, OverlayRef, UserName, string_schema},
    node::Node,
};

/// `POST /v1/switch`: move a set of nodes to an image and an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
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
    /// The nodes are nobody's: on, in RAM, to be had by others at once. For admins.
    #[serde(default)]
    pub spare: bool,
    /// Boot at most this many nodes at once.
    #[serde(default)]
    pub at_most: Option<u32>,
    /// In which order the nodes have their turn.
    #[serde(default)]
    pub strategy: Strategy,
    /// Make it one transaction: users are let in on all nodes at once, when as many as this are there,
    /// and if that cannot be any more, all go back to what they ran before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_success: Option<MinSuccess>,
    /// Boot also nodes that run this image and overlay already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reboot: bool,
    /// Start the next kernel in place of the firmware where that can be: on nodes that stay with whom
    /// they run for. The others are booted as ever, and the plan says why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fast: bool,
    /// Also nodes with logins or jobs.
    #[serde(default)]
    pub force: bool,
    /// Say what would happen, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// In which order the nodes of a switch have their turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// All at once, as far as `at_most` lets them.
    #[default]
    All,
    /// One after the other, or `at_most` at once; the first that fails is the last that is begun,
    /// unless `min_success` says otherwise.
    Rolling,
}

impl FromStr for Strategy {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        match s {
            "all" => Ok(Self::All),
            "rolling" => Ok(Self::Rolling),
            _ => {
                Err(NameError { what: "strategy", value: s.to_owned(), expected: "all or rolling" })
            }
        }
    }
}

/// How many nodes of a switch must get there: `95%`, or a number of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MinSuccess {
    /// This share of them, in percent, from 1 to 100.
    Percent(u8),
    /// This many, 1 or more.
    Nodes(u32),
}

impl MinSuccess {
    /// How many of `all` nodes that is; a share is rounded up.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Percent(percent) => (all * usize::from(percent)).div_ceil(100),
            Self::Nodes(nodes) => usize::try_from(nodes).unwrap_or(usize::MAX),
        }
    }
}

impl FromStr for MinSuccess {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let parsed = match s.strip_suffix('%') {
            Some(percent) => {
                percent.parse::<u8>().ok().filter(|p| (1..=100).contains(p)).map(Self::Percent)
            }
            None => s.parse::<u32>().ok().filter(|nodes| *nodes > 0).map(Self::Nodes),
        };
        parsed.ok_or_else(|| NameError {
            what: "least number of nodes",
            value: s.to_owned(),
            expected: "a share from 1% to 100%, or a number of nodes, 1 or more",
        })
    }
}

impl fmt::Display for MinSuccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Nodes(nodes) => write!(f, "{nodes}"),
        }
    }
}

impl TryFrom<String> for MinSuccess {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}

impl From<MinSuccess> for String {
    fn from(least: MinSuccess) -> Self {
        least.to_string()
    }
}

string_schema!(MinSuccess);

/// `POST /v1/rollback`: back to the desired state before the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
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

/// `POST /v1/power/status`: are these nodes on, as their BMCs say now?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PowerStatusRequest {
    /// The nodes.
    pub nodeset: String,
}

/// A question to the BMCs of nodes, which takes as long as the slowest of them. It is forgotten after ten minutes,
/// and when haasd ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PowerStatus {
    /// Its id.
    pub id: String,
    /// The nodes, once each BMC has answered or was given up; absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<Node>>,
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
    /// `boot`, `reboot`, `kexec`, `power-off`, `hand-over` or `nothing`.
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
    /// Why it goes back, or ended before its time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How many nodes must get there, where it is one transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_success: Option<MinSuccess>,
    /// When users were let in on all nodes, where it is one transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<String>,
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
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// Some node is not there yet.
    Running,
    /// Nodes that are under way go on, no other one begins, and nothing is committed or taken back.
    Paused,
    /// Too few nodes got there, or somebody aborted it: all go back to what they ran before.
    RollingBack,
    /// Every node is there, or as many as `min_success` demands.
    Succeeded,
    /// Over, and some nodes are not there.
    Failed,
    /// Over; the nodes run what they ran before, as far as they can.
    RolledBack,
}

impl OperationState {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::RollingBack => false,
            Self::Succeeded | Self::Failed | Self::RolledBack => true,
        }
    }
}

/// How one node of an operation stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationNode {
    /// The node.
    pub node: String,
    /// The generation that this operation gave it.
    pub generation: i64,
    /// `waiting`, `running`, `prepared`, `succeeded`, `failed`, `superseded` or `rolled-back`.
    pub state: NodeProgress,
    /// What it is doing or why it failed, in words.
    pub reason: String,
    /// Why it did not get there, where it went back since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The stage of its boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<BootStage>,
    /// Where its seconds went, once it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootReport>,
}

/// How one node of an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeProgress {
    /// Others go first (`at_most`).
    Waiting,
    /// On its way.
    Running,
    /// It runs what is wanted and has proved it. Its users are let in when all nodes of the operation
    /// have come so far, or as many as `min_success` demands.
    Prepared,
    /// There.
    Succeeded,
    /// Not there, and nothing more is tried.
    Failed,
    /// A later request took the node over.
    Superseded,
    /// It is what it was before the operation.
    RolledBack,
}

impl NodeProgress {
    /// Whether the operation has no more to do with it.
    pub fn is_over(self) -> bool {
        match self {
            Self::Waiting | Self::Running | Self::Prepared => false,
            Self::Succeeded | Self::Failed | Self::Superseded | Self::RolledBack => true,
        }
    }
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
    /// Why the node booted: `desired`, `kexec`, `retry`, `unplanned` or `handed-over`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_and_nonsense_is_refused() {
        let least = |text: &str| text.parse::<MinSuccess>();
        for (text, all, of) in [("95%", 20, 19), ("95%", 10, 10), ("1%", 3, 1), ("100%", 7, 7)] {
            assert_eq!(least(text).map(|least| least.of(all)), Ok(of), "{text} of {all}");
        }
        assert_eq!(
            least("12").map(|least| (least.of(5), least.to_string())),
            Ok((12, "12".into()))
        );
        for text in ["", "0", "0%", "101%", "-1", "95 %", "%", "1.5%", "all"] {
            assert!(least(text).is_err(), "{text:?}");
        }
    }
}
