//! Boot attempts: one row, one token and one `boot` field in every log line for each.

use std::net::IpAddr;

use haas_api::{
    agent::{BootStage, Failure, Kexec},
    check::CheckReport,
};

use super::{Micros, Node};

words! {
    /// How an attempt stands.
    AttemptState {
        /// The node is on its way; only its requests are answered with boot files.
        Open = "open",
        /// The agent has proved what runs. The attempt lives on until the node goes down, since
        /// its initiator and its agent's credential do.
        Ready = "ready",
        /// The node went down, or another attempt took its place.
        Ended = "ended",
        /// It did not get there.
        Failed = "failed",
    }
}

words! {
    /// Why a node boots.
    Cause {
        /// A new desired state.
        Desired = "desired",
        /// A new desired state, to which the system before starts the kernel itself.
        Kexec = "kexec",
        /// The attempt before failed.
        Retry = "retry",
        /// The node booted by itself: somebody typed `reboot`, or its power came back.
        Unplanned = "unplanned",
        /// Somebody asked for its firmware's setup or its disk, once. The attempt ends as the node is
        /// switched on: what runs then is out of haasd's hands until the node boots again.
        HandedOver = "handed-over",
    }
}

/// One boot of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Its id, the `boot` of log lines.
    pub id: String,
    /// The node.
    pub node_id: String,
    /// The desired state that it serves.
    pub generation: i64,
    /// Why the node boots.
    pub cause: Cause,
    /// How it stands.
    pub state: AttemptState,
    /// The last stage that was reached.
    pub stage: BootStage,
    /// Since when, on the steady clock.
    pub stage_since: Micros,
    /// Every stage with its beginning, on the steady clock.
    pub stages: Vec<(BootStage, Micros)>,
    /// Whether the boot token was exchanged.
    pub token_spent: bool,
    /// Where it was exchanged from: the credential for it opens nothing from elsewhere. None: it was not
    /// exchanged, or by a haasd that did not note it.
    pub agent_address: Option<IpAddr>,
    /// The last frame of its agent that was taken.
    pub agent_seq: u64,
    /// The iSCSI initiator name that only this attempt has.
    pub initiator: String,
    /// Whether its node must prove itself to the target. Attempts that were open before haasd knew of
    /// it need not, since their nodes cannot.
    pub chap: bool,
    /// Whether the node started by itself: nobody switched it on for this attempt.
    pub by_itself: bool,
    /// The attempt whose system starts this one's kernel, in place of the firmware. As long as that one
    /// is ready, it is the node's last.
    pub kexec_of: Option<String>,
    /// What its agent says of its node's kexec; none: it does not know how.
    pub can_kexec: Option<Kexec>,
    /// When it was opened, on the steady clock.
    pub opened_at: Micros,
    /// Where the time of the whole boot is counted from, on the steady clock.
    pub counted_from: Micros,
    /// When it was over, on the steady clock.
    pub ended_at: Option<Micros>,
    /// Bytes of kernel and initramfs sent.
    pub boot_bytes: i64,
    /// Bytes read from the image until the node was ready.
    pub root_bytes: i64,
    /// Since when it is proved and its users wait for the other nodes of its operation, on the steady
    /// clock. The commit of the operation lifts it.
    pub held_since: Option<Micros>,
    /// Why it failed, or why its agent holds the node.
    pub failure: Option<Failure>,
    /// The haasd that opened it: its place among all starts of haasd.
    pub epoch: i64,
    /// Its ready checks as far as they were begun, in their order.
    pub checks: Vec<CheckReport>,
}

impl Attempt {
    /// One for what is wanted of the node now, which is nowhere yet.
    pub fn new(
        node: &Node,
        (id, initiator): (String, String),
        cause: Cause,
        epoch: i64,
        now: Micros,
    ) -> Self {
        Self {
            id,
            node_id: node.id.clone(),
            generation: node.generation,
            cause,
            state: AttemptState::Open,
            stage: BootStage::Power,
            stage_since: now,
            stages: vec![(BootStage::Power, now)],
            token_spent: false,
            agent_address: None,
            agent_seq: 0,
            initiator,
            chap: true,
            by_itself: false,
            kexec_of: None,
            can_kexec: None,
            opened_at: now,
            counted_from: now,
            ended_at: None,
            boot_bytes: 0,
            root_bytes: 0,
            held_since: None,
            failure: None,
            epoch,
            checks: Vec::new(),
        }
    }
}
