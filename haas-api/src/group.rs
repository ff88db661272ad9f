//! Groups of users. `/v1/groups`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{GroupName, UserName};

/// Users under one name, so that they are granted something, or join a project, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Immutable; a later group of the same name has another.
    pub id: String,
    /// Its name.
    pub name: GroupName,
    /// Who changes it, beside admins; none once that user was removed.
    pub owner: Option<UserName>,
    /// Who is in it.
    pub members: Vec<UserName>,
    /// When it was made.
    pub created_at: String,
}

/// `POST /v1/groups`. The caller owns it and is its first member.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    /// Its name.
    pub name: GroupName,
}

/// `PATCH /v1/groups/{name}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupChange {
    /// Who comes in.
    #[serde(default)]
    pub add: Vec<UserName>,
    /// Who goes.
    #[serde(default)]
    pub remove: Vec<UserName>,
}
