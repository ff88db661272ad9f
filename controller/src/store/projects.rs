//! Projects, their members, and which image names are theirs. A project's name, and what it owns,
//! hang on its account in `users`.

use haas_api::{
    names::{GroupName, ImageName, UserName},
    project::{Access, Limits, MemberRole},
    user::Role,
};
use sqlx::{query, query_as, query_scalar};

use super::{Result, StoreError, Tx, changed, from_text, from_word, on, word};
use crate::model::{AccountKind, Micros};

/// A project as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectRow {
    /// Immutable.
    pub id: String,
    /// Its name.
    pub name: UserName,
    /// What members are on its nodes.
    pub access: Access,
    /// How much it may have.
    pub limits: Limits,
    /// When it was made, wall clock.
    pub created_at: Micros,
}

/// A member of a project, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberId {
    /// A user.
    User(String),
    /// A group.
    Group(String),
}

/// A member of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRow {
    /// The user's name; none for a group.
    pub user: Option<UserName>,
    /// The group's name; none for a user.
    pub group: Option<GroupName>,
    /// What it may do.
    pub role: MemberRole,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    access: String,
    max_nodes: Option<i64>,
    max_overlays: Option<i64>,
    max_images: Option<i64>,
    created_at: i64,
}

impl Row {
    fn parse(self) -> Result<ProjectRow> {
        let limit = |limit: Option<i64>| limit.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Ok(ProjectRow {
            id: self.id,
            name: from_text("users", &self.name)?,
            access: from_word("projects", &self.access)?,
            limits: Limits {
                nodes: limit(self.max_nodes),
                overlays: limit(self.max_overlays),
                images: limit(self.max_images),
            },
            created_at: self.created_at,
        })
    }
}

impl Tx {
    /// Adds a project without members and answers its id.
    pub async fn add_project(
        &mut self,
        name: &UserName,
        access: Access,
        limits: Limits,
        at: Micros,
    ) -> Result<String> {
        let account = self.add_account(name, AccountKind::Project, Role::User, &[], at).await?;
        changed!(
            self,
            query(
                "insert into projects (id, access, max_nodes, max_overlays, max_images)
                 values ($1, $2, $3, $4, $5)",
            )
            .bind(&account.id)
            .bind(word(&access))
            .bind(limits.nodes.map(i64::from))
            .bind(limits.overlays.map(i64::from))
            .bind(limits.images.map(i64::from))
        )?;
        Ok(account.id)
    }

    /// All projects, by name.
    pub async fn projects(&mut self) -> Result<Vec<ProjectRow>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select projects.id, users.name, projects.access, projects.max_nodes,
                   projects.max_overlays, projects.max_images, users.created_at
                 from projects join users on users.id = projects.id order by users.name",
            )
            .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The project of this name.
    pub async fn project(&mut self, name: &str) -> Result<Option<ProjectRow>> {
        Ok(self.projects().await?.into_iter().find(|project| project.name.as_str() == name))
    }

    /// The project of this id.
    pub async fn project_by_id(&mut self, id: &str) -> Result<Option<ProjectRow>> {
        Ok(self.projects().await?.into_iter().find(|project| project.id == id))
    }

    /// Sets what a project may have and what its members are on its nodes.
    pub async fn set_project(&mut self, id: &str, access: Access, limits: Limits) -> Result<()> {
        changed!(
            self,
            query(
                "update projects set access = $2, max_nodes = $3, max_overlays = $4, max_images = $5
                 where id = $1",
            )
            .bind(id)
            .bind(word(&access))
            .bind(limits.nodes.map(i64::from))
            .bind(limits.overlays.map(i64::from))
            .bind(limits.images.map(i64::from))
        )?;
        Ok(())
    }

    /// Removes a project with its memberships and grants; false when it still owns overlays or
    /// images, or has nodes.
    pub async fn remove_project(&mut self, id: &str) -> Result<bool> {
        let nodes = self.nodes_of_tenant(id, &[]).await?;
        if nodes > 0 || !self.images_of(id).await?.is_empty() {
            return Ok(false);
        }
        self.remove_user(id).await
    }

    /// The members of a project, users first, by name.
    pub async fn members(&mut self, project_id: &str) -> Result<Vec<MemberRow>> {
        let rows: Vec<(Option<String>, Option<String>, String)> = on!(
            self,
            c => query_as(
                "select users.name, user_groups.name, project_members.role from project_members
                 left join users on users.id = project_members.user_id
                 left join user_groups on user_groups.id = project_members.group_id
                 where project_members.project_id = $1
                 order by case when users.name is null then 1 else 0 end, users.name,
                   user_groups.name",
            )
            .bind(project_id)
            .fetch_all(c)
        )?;
        rows.into_iter()
            .map(|(user, group, role)| {
                Ok(MemberRow {
                    user: user.map(|name| from_text("users", &name)).transpose()?,
                    group: group.map(|name| from_text("user_groups", &name)).transpose()?,
                    role: from_word("project_members", &role)?,
                })
            })
            .collect()
    }

    /// Everybody who is in a project, by itself or in a group, with its highest role there.
    pub async fn people_of(&mut self, project_id: &str) -> Result<Vec<(String, MemberRole)>> {
        let rows: Vec<(String, String)> = on!(
            self,
            c => query_as(
                "select user_id, role from project_members
                 where project_id = $1 and user_id is not null
                 union all
                 select group_members.user_id, project_members.role from project_members
                 join group_members on group_members.group_id = project_members.group_id
                 where project_members.project_id = $1",
            )
            .bind(project_id)
            .fetch_all(c)
        )?;
        highest(rows)
    }

    /// Those who own a project, by themselves or in a group, by their ids; none that were removed.
    pub async fn owners(&mut self, project_id: &str) -> Result<Vec<String>> {
        let mut owners = Vec::new();
        let people = self.people_of(project_id).await?.into_iter();
        for (id, _) in people.filter(|(_, role)| *role == MemberRole::Owner) {
            let user = self.user_by_id(&id).await?;
            owners.extend(user.filter(|user| user.destroy_at.is_none()).map(|_| id));
        }
        Ok(owners)
    }

    /// The projects that a user owns, by itself or in a group, by their ids.
    pub async fn owned_by(&mut self, user_id: &str) -> Result<Vec<String>> {
        let all = self.memberships(user_id).await?.into_iter();
        Ok(all.filter(|(_, role)| *role == MemberRole::Owner).map(|(id, _)| id).collect())
    }

    /// The projects that a user is in, by itself or in a group, with its highest role in each.
    pub async fn memberships(&mut self, user_id: &str) -> Result<Vec<(String, MemberRole)>> {
        let rows: Vec<(String, String)> = on!(
            self,
            c => query_as(
                "select project_id, role from project_members
                 where user_id = $1 or group_id in
                   (select group_id from group_members where group_members.user_id = $1)",
            )
            .bind(user_id)
            .fetch_all(c)
        )?;
        highest(rows)
    }

    /// Takes somebody into a project, or gives it another role there.
    pub async fn set_member(
        &mut self,
        project_id: &str,
        member: &MemberId,
        role: MemberRole,
    ) -> Result<()> {
        self.change_powers();
        self.remove_member(project_id, member).await?;
        let (user, group) = match member {
            MemberId::User(id) => (Some(id), None),
            MemberId::Group(id) => (None, Some(id)),
        };
        changed!(
            self,
            query(
                "insert into project_members (project_id, user_id, group_id, role)
                 values ($1, $2, $3, $4)",
            )
            .bind(project_id)
            .bind(user)
            .bind(group)
            .bind(word(&role))
        )?;
        Ok(())
    }

    /// Takes somebody out of a project; false when it was not in it.
    pub async fn remove_member(&mut self, project_id: &str, member: &MemberId) -> Result<bool> {
        self.change_powers();
        let (text, id) = match member {
            MemberId::User(id) => {
                ("delete from project_members where project_id = $1 and user_id = $2", id)
            }
            MemberId::Group(id) => {
                ("delete from project_members where project_id = $1 and group_id = $2", id)
            }
        };
        let done = changed!(self, query(text).bind(project_id).bind(id))?;
        Ok(done == 1)
    }

    /// The project whose an image's name is; none: the cluster's.
    pub async fn image_owner(&mut self, name: &ImageName) -> Result<Option<String>> {
        on!(
            self,
            c => query_scalar("select project_id from image_owners where name = $1")
                .bind(name.as_str())
                .fetch_optional(c)
        )
    }

    /// The image names that are a project's.
    pub async fn images_of(&mut self, project_id: &str) -> Result<Vec<String>> {
        on!(
            self,
            c => query_scalar("select name from image_owners where project_id = $1 order by name")
                .bind(project_id)
                .fetch_all(c)
        )
    }

    /// An image's name without tags is nobody's any more.
    pub async fn forget_image_owner(&mut self, name: &ImageName) -> Result<()> {
        changed!(
            self,
            query(
                "delete from image_owners where name = $1
                 and not exists (select 1 from image_tags where image_tags.name = $1)",
            )
            .bind(name.as_str())
        )?;
        Ok(())
    }

    /// Makes an image's name a project's. [`StoreError::Conflict`] where it is somebody's already.
    pub async fn set_image_owner(&mut self, name: &ImageName, project_id: &str) -> Result<()> {
        let done = changed!(
            self,
            query(
                "insert into image_owners (name, project_id) select $1, $2
                 where not exists (select 1 from image_tags where name = $1)
                 on conflict (name) do nothing",
            )
            .bind(name.as_str())
            .bind(project_id)
        )?;
        if done == 0 && self.image_owner(name).await?.as_deref() != Some(project_id) {
            return Err(StoreError::Taken(format!("the image name {name}")));
        }
        Ok(())
    }
}

/// The highest role for each id.
fn highest(rows: Vec<(String, String)>) -> Result<Vec<(String, MemberRole)>> {
    let mut highest = std::collections::BTreeMap::new();
    for (id, role) in rows {
        let role: MemberRole = from_word("project_members", &role)?;
        let entry = highest.entry(id).or_insert(role);
        *entry = role.max(*entry);
    }
    Ok(highest.into_iter().collect())
}
