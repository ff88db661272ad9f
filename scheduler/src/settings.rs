//! How to plan: the cluster's policy, apart from its state.

use serde::{Deserialize, Serialize};

use crate::Time;

/// How to plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Which claims may pass others.
    pub backfill: Backfill,
    /// What a promise binds.
    pub promises: Promises,
    /// How nodes are chosen among those that serve.
    pub placement: Placement,
    /// A claim that has waited for so long goes before all that have not, in seconds. It is why no
    /// claim starves.
    pub age_limit: Time,
    /// Past usage weighs half after so many seconds.
    pub half_life: Time,
    /// How long a node takes to be ready where nothing was learned yet, in seconds.
    pub boot_time: Time,
    /// What part of their walltime claims usually run, learned from those that ended.
    pub usual_run_percent: u32,
    /// How many nodes of one rack may be powered on per minute.
    pub ramp_per_minute: u32,
    /// When idle nodes are turned off.
    pub idle: Idle,
    /// Whether claims may be ended for others.
    pub preemption: Option<Preemption>,
}

/// Which claims may pass others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backfill {
    /// None: first come, first served.
    Off,
    /// Those that delay not the first claim that has to wait: EASY in its classic form. It looks at the
    /// ends of running claims one by one, and of nodes that come free in the same second as the last one
    /// that the first claim needs, it lets nobody who runs longer count on those of later ends.
    Easy,
    /// Those that delay none of the first so many claims that have to wait.
    Protect(u32),
    /// Those that delay nobody before them: conservative.
    ProtectAll,
}

/// What a promise binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Promises {
    /// Later plans: a start that was promised moves only forward.
    Kept,
    /// Only the plan that gives it; the next plan begins anew from the claims' order. A start may move
    /// back when a claim before it moves forward.
    Renewed,
}

/// How nodes are chosen among those that serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// By number. For comparison.
    FirstFit,
    /// Those on which the overlay still runs, then those that hold it, then those that are on, then by
    /// number. For comparison.
    NaiveSort,
    /// Those that hold the overlay's ranks, then those where it disturbs least.
    OverlayAware,
}

/// When idle nodes are turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Idle {
    /// Never.
    Never,
    /// After so many seconds without use, whatever is planned. For comparison.
    Timeout {
        /// In seconds.
        after: Time,
    },
    /// After a while without use, but for nodes that a plan needs soon. Those that it needs later are
    /// turned on before.
    Planned {
        /// How long a node must be off, beside its boot, for turning it off to pay, in seconds.
        pays_after: Time,
        /// After so many seconds without use.
        after: Time,
        /// So many of each shape that are not needed stay on: those that were in use last.
        spares: u32,
    },
}

/// Ending claims for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preemption {
    /// From the notice to the end, in seconds.
    pub grace: Time,
    /// Nothing is ended that has run for less, in seconds.
    pub min_run: Time,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            backfill: Backfill::Protect(20),
            promises: Promises::Kept,
            placement: Placement::OverlayAware,
            age_limit: 7 * 86_400,
            half_life: 7 * 86_400,
            boot_time: 300,
            usual_run_percent: 100,
            ramp_per_minute: 300,
            idle: Idle::Planned { pays_after: 600, after: 840, spares: 0 },
            preemption: None,
        }
    }
}
