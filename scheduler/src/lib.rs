//! The planner: who gets which whole nodes, when, and why.
//!
//! [`plan`] takes a [`Snapshot`] of the cluster and the time, and answers a [`Plan`]: who starts now and
//! where, who starts when, what everybody else waits for, and which nodes to turn on and off.
//! [`explain`] says of one claim why it waits and what would help. [`reserve`] accepts or refuses a claim
//! for a time that comes; [`extend`], [`shrink`] and [`cancel`] change what is there.
//!
//! It is pure: no clock, no I/O, no threads, no randomness. The same snapshot at the same time gives
//! the same plan. It knows nothing of HTTP, SQL or power drivers; names are numbers that the caller gives.
//! `docs/planner.md` is the guide, `docs/adr/0005-the-planner-counts-cells.md` the main choice.

mod advance;
mod caps;
mod cells;
mod explain;
mod ids;
mod matching;
mod needs;
mod order;
mod pass;
mod place;
mod plan;
mod planner;
mod power;
mod preempt;
mod settings;
mod snapshot;
mod steps;
mod vector;

pub use advance::{ChangeError, Extension, Refusal, Refused, cancel, extend, reserve, shrink};
pub use explain::{Band, Explanation, explain};
pub use ids::*;
pub use needs::Excluded;
pub use pass::{Outcome, plan};
pub use plan::*;
pub use planner::Planner;
pub use settings::*;
pub use snapshot::*;
pub use vector::{Share, Vector};
