//! Whether haasd can do its work. `/readyz`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `/readyz` answers, with status 200 if it is ready and 503 if not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether nothing is lacking.
    pub ready: bool,
    /// What is.
    pub lacks: Vec<Lack>,
}

/// Something without which haasd cannot do all of its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lack {
    /// `database`, `listeners`, `images` or `reconciler`.
    pub part: String,
    /// What is wrong with it, without names: anybody may ask.
    pub detail: String,
}
