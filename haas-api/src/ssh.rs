//! What ssh trusts. `/v1/ssh-ca`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The public half of the key that signs the nodes' host keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SshCa {
    /// For a line `@cert-authority NAMES KEY` of `known_hosts`: `ssh-ed25519 AAAA…`.
    pub host_ca: String,
}
