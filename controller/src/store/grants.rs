//! Grants, and what a user may do by them.

use haas_api::{
    grant::GrantRole,
    names::{GroupName, ImageName, NodeGroupName, OverlayLabel, QueueName, UserName},
    project::MemberRole,
};
use sqlx::{query, query_as};

use super::{Result, StoreError, Tx, changed, from_text, from_word, on, word};
use crate::{
    auth::{Granted, Powers},
    model::Micros,
};

/// A grant as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRow {
    /// Its id.
    pub id: String,
    /// To whom, by name.
    pub to: GrantTo,
    /// Of what.
    pub object: Granted,
    /// The overlay's owner and name, where it is of one.
    pub overlay: Option<(UserName, OverlayLabel)>,
    /// What.
    pub role: GrantRole,
    /// Who granted it.
    pub actor: String,
    /// When, wall clock.
    pub created_at: Micros,
}

/// To whom something is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantTo {
    /// A user or a project.
    Account {
        /// Its id.
        id: String,
        /// Its name.
        name: UserName,
    },
    /// A group.
    Group {
        /// Its id.
        id: String,
        /// Its name.
        name: GroupName,
    },
}

/// A grant that is to be made.
#[derive(Debug, Clone)]
pub struct NewGrantRow<'a> {
    /// To whom.
    pub to: &'a GrantTo,
    /// Of what.
    pub object: &'a Granted,
    /// What.
    pub role: GrantRole,
    /// Who grants it.
    pub actor: &'a str,
    /// When, wall clock.
    pub at: Micros,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    user_id: Option<String>,
    user_name: Option<String>,
    group_id: Option<String>,
    group_name: Option<String>,
    node_group: Option<String>,
    image: Option<String>,
    overlay_id: Option<String>,
    queue: Option<String>,
    overlay_owner: Option<String>,
    overlay_name: Option<String>,
    role: String,
    actor: String,
    created_at: i64,
}

/// What a grant gives to whom it reaches.
#[derive(sqlx::FromRow)]
struct Reach {
    user_id: Option<String>,
    node_group: Option<String>,
    image: Option<String>,
    overlay_id: Option<String>,
    queue: Option<String>,
    role: String,
}

impl Row {
    fn parse(self) -> Result<GrantRow> {
        let corrupt = |problem: &str| StoreError::Corrupt {
            table: "grants",
            problem: format!("{problem} in {}", self.id),
        };
        let to = match (self.user_id, self.user_name, self.group_id, self.group_name) {
            (Some(id), Some(name), None, None) => {
                GrantTo::Account { id, name: from_text("users", &name)? }
            }
            (None, None, Some(id), Some(name)) => {
                GrantTo::Group { id, name: from_text("user_groups", &name)? }
            }
            _ => return Err(corrupt("no subject")),
        };
        let object = match (self.node_group, self.image, self.overlay_id, self.queue) {
            (Some(group), None, None, None) => Granted::NodeGroup(from_text("grants", &group)?),
            (None, Some(image), None, None) => Granted::Image(from_text("grants", &image)?),
            (None, None, Some(id), None) => Granted::Overlay(id),
            (None, None, None, Some(queue)) => Granted::Queue(from_text("grants", &queue)?),
            _ => return Err(corrupt("no object")),
        };
        let overlay = match (self.overlay_owner, self.overlay_name) {
            (Some(owner), Some(name)) => {
                Some((from_text("users", &owner)?, from_text("overlays", &name)?))
            }
            _ => None,
        };
        let role = from_word("grants", &self.role)?;
        let (actor, created_at) = (self.actor, self.created_at);
        Ok(GrantRow { id: self.id, to, object, overlay, role, actor, created_at })
    }
}

impl Tx {
    /// Adds a grant and answers its id. An earlier one of the same to the same gives way to it.
    pub async fn add_grant(&mut self, new: NewGrantRow<'_>) -> Result<String> {
        self.change_powers();
        let (user, group) = match new.to {
            GrantTo::Account { id, .. } => (Some(id), None),
            GrantTo::Group { id, .. } => (None, Some(id)),
        };
        let (node_group, image, overlay, queue) = match new.object {
            Granted::NodeGroup(name) => (Some(name.as_str()), None, None, None),
            Granted::Image(name) => (None, Some(name.as_str()), None, None),
            Granted::Overlay(id) => (None, None, Some(id.as_str()), None),
            Granted::Queue(name) => (None, None, None, Some(name.as_str())),
        };
        for same in self.grants().await? {
            if same.to == *new.to && same.object == *new.object {
                self.remove_grant(&same.id).await?;
            }
        }
        let id = ulid::Ulid::new().to_string();
        changed!(
            self,
            query(
                "insert into grants (id, user_id, group_id, node_group, image, overlay_id, role,
                   actor, created_at, queue)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .bind(&id)
            .bind(user)
            .bind(group)
            .bind(node_group)
            .bind(image)
            .bind(overlay)
            .bind(word(&new.role))
            .bind(new.actor)
            .bind(new.at)
            .bind(queue)
        )?;
        Ok(id)
    }

    /// All grants, the oldest first.
    pub async fn grants(&mut self) -> Result<Vec<GrantRow>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select grants.id, grants.user_id, users.name as user_name, grants.group_id,
                   user_groups.name as group_name, grants.node_group, grants.image,
                   grants.overlay_id, grants.queue, owned_overlays.owner as overlay_owner,
                   owned_overlays.name as overlay_name, grants.role, grants.actor,
                   grants.created_at
                 from grants
                 left join users on users.id = grants.user_id
                 left join user_groups on user_groups.id = grants.group_id
                 left join owned_overlays on owned_overlays.id = grants.overlay_id
                 order by grants.created_at, grants.id",
            )
            .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// Ends a grant; false when there is none.
    pub async fn remove_grant(&mut self, id: &str) -> Result<bool> {
        self.change_powers();
        let done = changed!(self, query("delete from grants where id = $1").bind(id))?;
        Ok(done == 1)
    }

    /// What a user may do as a member of projects and by grants. What was granted to a project
    /// reaches a member as far as its role there goes.
    pub async fn powers(&mut self, user_id: &str) -> Result<Powers> {
        let mut powers = Powers {
            projects: self.memberships(user_id).await?.into_iter().collect(),
            ..Powers::default()
        };
        let rows: Vec<Reach> = on!(
            self,
            c => query_as(
                "select user_id, node_group, image, overlay_id, queue, role from grants
                 where user_id = $1
                   or group_id in
                     (select group_id from group_members where group_members.user_id = $1)
                   or user_id in
                     (select project_id from project_members where project_members.user_id = $1
                        or project_members.group_id in
                          (select group_id from group_members where group_members.user_id = $1))",
            )
            .bind(user_id)
            .fetch_all(c)
        )?;
        for row in rows {
            let what = match (row.node_group, row.image, row.overlay_id, row.queue) {
                (Some(name), ..) => {
                    Granted::NodeGroup(from_text::<NodeGroupName>("grants", &name)?)
                }
                (_, Some(name), ..) => Granted::Image(from_text::<ImageName>("grants", &name)?),
                (.., Some(id), None) => Granted::Overlay(id),
                (.., Some(name)) => Granted::Queue(from_text::<QueueName>("grants", &name)?),
                (None, None, None, None) => continue,
            };
            let mut role: GrantRole = from_word("grants", &row.role)?;
            if let Some(member) = row.user_id.and_then(|id| powers.projects.get(&id).copied()) {
                role = role.min(reach(member));
            }
            let entry = powers.grants.entry(what).or_insert(role);
            *entry = role.max(*entry);
        }
        Ok(powers)
    }
}

/// How much of what was granted to a project a member has.
fn reach(member: MemberRole) -> GrantRole {
    match member {
        MemberRole::Viewer => GrantRole::View,
        MemberRole::User => GrantRole::Use,
        MemberRole::Manager | MemberRole::Owner => GrantRole::Manage,
    }
}
