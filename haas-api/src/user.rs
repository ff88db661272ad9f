//! Users, their ssh keys, passwords and tokens. `/v1/users`, `/v1/whoami`, `/v1/login`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{names::UserName, overlay::Overlay};

/// What a user may do everywhere. Finer grants come on top of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Sees nodes and images; has overlays of its own. Projects and grants give more.
    User,
}

/// Who is behind an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UserKind {
    /// A person.
    #[default]
    Person,
    /// A program: it has tokens, and neither a password nor logins on nodes.
    Service,
}

/// A person, or a program that acts like one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Immutable; a later user of the same name has another.
    pub id: String,
    /// The name, also on the nodes.
    pub name: UserName,
    /// A person or a program.
    #[serde(default)]
    pub kind: UserKind,
    /// What it may do.
    pub role: Role,
    /// The Unix uid and gid on the nodes.
    pub uid: u32,
    /// Public keys, as `authorized_keys` has them.
    pub ssh_keys: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// Once it was removed: when it is destroyed with its overlays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed_at: Option<String>,
}

/// What `DELETE /v1/users/{name}` keeps of a user until it is destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedUser {
    /// The user.
    pub user: User,
    /// Its overlays, and on which nodes they lie.
    pub overlays: Vec<Overlay>,
}

/// `POST /v1/users`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The name.
    pub name: UserName,
    /// A person or a program.
    #[serde(default)]
    pub kind: UserKind,
    /// What it may do.
    pub role: Role,
    /// Public keys, as `authorized_keys` has them.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
}

/// `PATCH /v1/users/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// The keys that replace the present ones.
    pub ssh_keys: Vec<String>,
}

/// A password on its way to haasd, of 10 to 1024 bytes. It is never printed.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[schema(format = Password)]
pub struct Password(String);

impl Password {
    /// Wraps one.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever hashes or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// `POST /v1/login`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Who.
    pub name: UserName,
    /// Its password.
    pub password: Password,
    /// The token that is wanted.
    #[serde(default)]
    pub token: TokenRequest,
}

/// `POST /v1/register`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The name.
    pub name: UserName,
    /// The password.
    pub password: Password,
    /// Public keys, as `authorized_keys` has them.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
}

/// `PUT /v1/users/{name}/password`. All tokens of the user end with it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The present one. Admins need none for others, and nobody who has none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Password>,
    /// The new one.
    pub new: Password,
}

/// `POST /v1/users/{name}/tokens`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What it is for, in its owner's words.
    #[serde(default)]
    pub name: String,
    /// It only looks.
    #[serde(default)]
    pub read_only: bool,
    /// It is good for the calendar's feed only, for programs that show calendars.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub feed_only: bool,
    /// Seconds until it ends, at most a year; none: it stays until it is revoked, and that of a
    /// login 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its id, safe to log.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// It only looks.
    pub read_only: bool,
    /// It is good for the calendar's feed only.
    #[serde(default)]
    pub feed_only: bool,
    /// When it was made.
    pub created_at: String,
    /// When it ends.
    pub expires_at: Option<String>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<String>,
}

/// A token, whole. Shown once, when it is made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// The token's id, safe to log.
    pub id: String,
    /// For `Authorization: Bearer`.
    pub token: String,
    /// When it ends.
    #[serde(default)]
    pub expires_at: Option<String>,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}
