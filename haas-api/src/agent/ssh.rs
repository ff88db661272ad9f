//! What ssh on a node trusts, and the keys that haasd signs.

use serde::{Deserialize, Serialize};

use crate::names::UserName;

/// The authorities that ssh on a node trusts. There is no secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshPlan {
    /// Signs the host keys of this cluster's nodes: `ssh-ed25519 AAAA…`.
    pub host_ca: String,
    /// Signs the keys with which users go from node to node: `ssh-ed25519 AAAA…`.
    pub user_ca: String,
    /// The nodes that belong together: a certificate with the principal `SET/NAME` opens the account
    /// NAME on each node of the set. None in a rescue.
    pub set: Option<String>,
}

/// The public keys of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKeys {
    /// Its ssh server's.
    pub host: Vec<SshHostKey>,
    /// Those that its users go to other nodes with.
    pub users: Vec<SshUserKey>,
}

/// A public key of a node's ssh server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshHostKey {
    /// As `authorized_keys` has it.
    pub key: String,
    /// Whether its server can show a certificate. dropbear cannot.
    pub certify: bool,
}

/// A public key of an account on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshUserKey {
    /// The account, which has the same name on each node of the set.
    pub login: UserName,
    /// As `authorized_keys` has it.
    pub key: String,
}

/// The answer to [`SshKeys`]: a certificate for each key, in the same order, or none where there can
/// be none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshCertificates {
    /// For the ssh server's keys.
    pub host: Vec<Option<String>>,
    /// For the users' keys.
    pub users: Vec<Option<String>>,
    /// Seconds after which the agent shall ask for new ones, long before these end.
    pub renew_in_s: u64,
}
