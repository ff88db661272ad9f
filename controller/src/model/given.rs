//! What a node was given to boot.

use haas_api::names::Digest;
use serde::{Deserialize, Serialize};

/// What a node is given to boot. Token and boot have placeholders, so that two boots of the same are
/// equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The image's digest.
    pub image: Digest,
    /// The kernel's.
    pub kernel: Digest,
    /// That of modules and agent together.
    pub initramfs: Digest,
    /// The agent's archive.
    pub agent: Digest,
    /// The kernel command line.
    pub cmdline: String,
    /// The script.
    pub script: String,
}
