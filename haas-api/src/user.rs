//! Users, their ssh keys and their tokens. `/v1/users`, `/v1/whoami`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::UserName;

/// What a user may do everywhere. Finer grants come on top of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Sees nodes and images; has overlays of its own.
    User,
}

/// A person, or a program that acts like one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Immutable; a later user of the same name has another.
    pub id: String,
    /// The name, also on the nodes.
    pub name: UserName,
    /// What it may do.
    pub role: Role,
    /// The Unix uid and gid on the nodes.
    pub uid: u32,
    /// Public keys, as `authorized_keys` has them.
    pub ssh_keys: Vec<String>,
    /// When it was made.
    pub created_at: String,
}

/// `POST /v1/users`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NewUser {
    /// The name.
    pub name: UserName,
    /// What it may do.
    pub role: Role,
    /// Public keys, as `authorized_keys` has them.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
}

/// `PATCH /v1/users/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UserChange {
    /// The keys that replace the present ones.
    pub ssh_keys: Vec<String>,
}

/// A token, whole. Shown once, when it is made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// The token's id, safe to log.
    pub id: String,
    /// For `Authorization: Bearer`.
    pub token: String,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}
