//! What it has brought that idle spares are switched off.

use super::Micros;

/// For how long nodes were off since nobody used them, and what they would have drawn in that time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdleOff {
    /// The time, all nodes' together.
    pub time: Micros,
    /// What they drew when they were idle last, times the time that they were off then; only as far as
    /// their BMCs have told what they drew.
    pub joules: i64,
}
