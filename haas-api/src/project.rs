//! Projects: tenants with members, images and overlays of their own, and limits. `/v1/projects`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{grant::Subject, names::UserName};

/// What a member may do in a project. Each may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Looks.
    Viewer,
    /// Switches the project's nodes, boots its images with its overlays, logs in on its nodes.
    User,
    /// Makes and removes its overlays and images; adds and removes viewers and users.
    Manager,
    /// Everything in the project, its managers and owners included.
    Owner,
}

/// What members are on the project's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Root, and themselves.
    Root,
    /// Themselves, and everything by sudo; managers and owners are root too.
    Sudo,
    /// Themselves; root are managers and owners only.
    User,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Immutable; a later project of the same name has another.
    pub id: String,
    /// Its name. It shares names with users: `NAME/OVERLAY` is of one or the other.
    pub name: UserName,
    /// What members are on its nodes.
    pub access: Access,
    /// How much it may have.
    pub limits: Limits,
    /// How much it has.
    pub used: Used,
    /// Its members.
    pub members: Vec<Member>,
    /// When it was made.
    pub created_at: String,
}

/// How much a project may have; none: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Nodes that are on for it at once.
    #[serde(default)]
    pub nodes: Option<u32>,
    /// Overlays.
    #[serde(default)]
    pub overlays: Option<u32>,
    /// Names of images.
    #[serde(default)]
    pub images: Option<u32>,
}

/// How much a project has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Used {
    /// Nodes that are to be on for it.
    pub nodes: u32,
    /// Overlays.
    pub overlays: u32,
    /// Names of images.
    pub images: u32,
}

/// A user or a group in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Who: `NAME` or `group:NAME`.
    pub member: Subject,
    /// What it may do.
    pub role: MemberRole,
}

/// `POST /v1/projects`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    /// Its name.
    pub name: UserName,
    /// Its first owner.
    pub owner: UserName,
    /// What members are on its nodes; root where nothing is said.
    #[serde(default)]
    pub access: Option<Access>,
    /// How much it may have.
    #[serde(default)]
    pub limits: Limits,
}

/// `PATCH /v1/projects/{name}`. What is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectChange {
    /// What members are on its nodes, from their next boot on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How much it may have from now on; what it has beyond that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

/// `PATCH /v1/projects/{name}/members`. All of it is done, or nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MembersChange {
    /// Who comes in, or gets another role.
    #[serde(default)]
    pub set: Vec<Member>,
    /// Who goes.
    #[serde(default)]
    pub remove: Vec<Subject>,
}
