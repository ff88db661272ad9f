//! What the site's drain hook has said of a node.

use super::Micros;

/// The calls of the drain hook before what a node runs is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    /// The desired state that wants it ended.
    pub generation: i64,
    /// When the hook was first called for it, on the steady clock.
    pub since: Micros,
    /// When it was last called, on the steady clock.
    pub asked_at: Micros,
    /// Whether it has let haasd go on.
    pub goes_on: bool,
    /// What it said with its last "not yet"; empty where it has not answered.
    pub said: String,
}
