//! Groups of users.

use haas_api::names::{GroupName, UserName};
use sqlx::{query, query_as, query_scalar};

use super::{Result, StoreError, Tx, changed, from_text, on};
use crate::model::Micros;

/// A group as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    /// Immutable.
    pub id: String,
    /// Its name.
    pub name: GroupName,
    /// The owner's immutable id; none once that user was removed.
    pub owner_id: Option<String>,
    /// The owner's name.
    pub owner: Option<UserName>,
    /// When it was made, wall clock.
    pub created_at: Micros,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    owner_id: Option<String>,
    owner: Option<String>,
    created_at: i64,
}

impl Row {
    fn parse(self) -> Result<GroupRow> {
        Ok(GroupRow {
            id: self.id,
            name: from_text("user_groups", &self.name)?,
            owner_id: self.owner_id,
            owner: self.owner.map(|name| from_text("users", &name)).transpose()?,
            created_at: self.created_at,
        })
    }
}

impl Tx {
    /// Adds a group and answers its id.
    pub async fn add_group(
        &mut self,
        name: &GroupName,
        owner_id: &str,
        at: Micros,
    ) -> Result<String> {
        let id = ulid::Ulid::new().to_string();
        let done = changed!(
            self,
            query(
                "insert into user_groups (id, name, owner_id, created_at) values ($1, $2, $3, $4)
                 on conflict (name) do nothing",
            )
            .bind(&id)
            .bind(name.as_str())
            .bind(owner_id)
            .bind(at)
        )?;
        if done == 0 {
            return Err(StoreError::Taken(format!("the group name {name}")));
        }
        Ok(id)
    }

    /// All groups, by name.
    pub async fn groups(&mut self) -> Result<Vec<GroupRow>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select user_groups.id, user_groups.name, user_groups.owner_id,
                   users.name as owner, user_groups.created_at
                 from user_groups left join users on users.id = user_groups.owner_id
                 order by user_groups.name",
            )
            .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The group of this name.
    pub async fn group(&mut self, name: &str) -> Result<Option<GroupRow>> {
        Ok(self.groups().await?.into_iter().find(|group| group.name.as_str() == name))
    }

    /// The ids and names of a group's members, by name.
    pub async fn group_members(&mut self, group_id: &str) -> Result<Vec<(String, UserName)>> {
        let rows: Vec<(String, String)> = on!(
            self,
            c => query_as(
                "select users.id, users.name from group_members
                 join users on users.id = group_members.user_id
                 where group_members.group_id = $1 order by users.name",
            )
            .bind(group_id)
            .fetch_all(c)
        )?;
        rows.into_iter().map(|(id, name)| Ok((id, from_text("users", &name)?))).collect()
    }

    /// The ids of the groups that a user is in.
    pub async fn groups_of(&mut self, user_id: &str) -> Result<Vec<String>> {
        on!(
            self,
            c => query_scalar("select group_id from group_members where user_id = $1 order by group_id")
                .bind(user_id)
                .fetch_all(c)
        )
    }

    /// Takes a user into a group, or leaves it there.
    pub async fn add_group_member(&mut self, group_id: &str, user_id: &str) -> Result<()> {
        self.change_powers();
        changed!(
            self,
            query(
                "insert into group_members (group_id, user_id) values ($1, $2)
                 on conflict (group_id, user_id) do nothing",
            )
            .bind(group_id)
            .bind(user_id)
        )?;
        Ok(())
    }

    /// Takes a user out of a group; false when it was not in it.
    pub async fn remove_group_member(&mut self, group_id: &str, user_id: &str) -> Result<bool> {
        self.change_powers();
        let done = changed!(
            self,
            query("delete from group_members where group_id = $1 and user_id = $2")
                .bind(group_id)
                .bind(user_id)
        )?;
        Ok(done == 1)
    }

    /// Removes a group, and what was granted to it.
    pub async fn remove_group(&mut self, id: &str) -> Result<()> {
        self.change_powers();
        changed!(self, query("delete from user_groups where id = $1").bind(id))?;
        Ok(())
    }
}
