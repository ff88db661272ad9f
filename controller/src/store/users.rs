//! Users, and the names that projects share with them.

use haas_api::{
    names::UserName,
    user::{Role, UserKind},
};
use sqlx::{query, query_as};

use super::{Result, StoreError, Tx, changed, from_json, from_text, on, to_json};
use crate::model::{AccountKind, Micros};

/// A user as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Immutable.
    pub id: String,
    /// The name.
    pub name: UserName,
    /// A person, a program or a project.
    pub kind: AccountKind,
    /// What it may do.
    pub role: Role,
    /// The Unix uid on the nodes.
    pub uid: u32,
    /// Public keys.
    pub ssh_keys: Vec<String>,
    /// When it was made, wall clock.
    pub created_at: Micros,
    /// Once it was removed: when it is destroyed with its overlays, wall clock.
    pub destroy_at: Option<Micros>,
}

impl UserRow {
    /// Whether it has an account on nodes.
    pub fn logs_in(&self) -> bool {
        self.kind == AccountKind::Person && self.destroy_at.is_none()
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    kind: String,
    role: String,
    uid: i64,
    ssh_keys: String,
    created_at: i64,
    destroy_at: Option<i64>,
}

impl Row {
    fn parse(self) -> Result<UserRow> {
        Ok(UserRow {
            id: self.id,
            name: from_text("users", &self.name)?,
            kind: from_text("users", &self.kind)?,
            role: if self.role == "admin" { Role::Admin } else { Role::User },
            uid: u32::try_from(self.uid)
                .map_err(|e| StoreError::Corrupt { table: "users", problem: e.to_string() })?,
            ssh_keys: from_json("users", &self.ssh_keys)?,
            created_at: self.created_at,
            destroy_at: self.destroy_at,
        })
    }
}

impl Tx {
    /// Adds a user with the next free uid, from 10000 on.
    pub async fn add_user(
        &mut self,
        name: &UserName,
        kind: UserKind,
        role: Role,
        ssh_keys: &[String],
        at: Micros,
    ) -> Result<UserRow> {
        let kind = match kind {
            UserKind::Person => AccountKind::Person,
            UserKind::Service => AccountKind::Service,
        };
        self.add_account(name, kind, role, ssh_keys, at).await
    }

    /// Adds an account of any kind.
    pub(super) async fn add_account(
        &mut self,
        name: &UserName,
        kind: AccountKind,
        role: Role,
        ssh_keys: &[String],
        at: Micros,
    ) -> Result<UserRow> {
        let uid = self.count_up("uid").await?;
        let id = ulid::Ulid::new().to_string();
        let done = changed!(
            self,
            query(
                "insert into users (id, name, kind, role, uid, ssh_keys, created_at)
                 values ($1, $2, $3, $4, $5, $6, $7) on conflict (name) do nothing",
            )
            .bind(&id)
            .bind(name.as_str())
            .bind(kind.as_str())
            .bind(if role == Role::Admin { "admin" } else { "user" })
            .bind(uid)
            .bind(to_json(&ssh_keys))
            .bind(at)
        )?;
        if done == 0 {
            return Err(StoreError::Taken(format!(
                "the name {name}, which users and projects share,"
            )));
        }
        self.account(name.as_str())
            .await?
            .ok_or_else(|| StoreError::Conflict(format!("user {name}")))
    }

    /// All users, by name, also those that were removed.
    pub async fn users(&mut self) -> Result<Vec<UserRow>> {
        let rows: Vec<Row> = on!(self, c => query_as("select * from users where kind <> 'project' order by name").fetch_all(c))?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The user of this name, unless it was removed.
    pub async fn user(&mut self, name: &str) -> Result<Option<UserRow>> {
        Ok(self.any_user(name).await?.filter(|row| row.destroy_at.is_none()))
    }

    /// The user of this name, also if it was removed.
    pub async fn any_user(&mut self, name: &str) -> Result<Option<UserRow>> {
        Ok(self.account(name).await?.filter(|row| row.kind != AccountKind::Project))
    }

    /// The user or project of this name, also if it was removed.
    pub async fn account(&mut self, name: &str) -> Result<Option<UserRow>> {
        let row: Option<Row> = on!(self, c => query_as("select * from users where name = $1").bind(name).fetch_optional(c))?;
        row.map(Row::parse).transpose()
    }

    /// The user or project of this id, also if it was removed.
    pub async fn user_by_id(&mut self, id: &str) -> Result<Option<UserRow>> {
        let row: Option<Row> = on!(self, c => query_as("select * from users where id = $1").bind(id).fetch_optional(c))?;
        row.map(Row::parse).transpose()
    }

    /// Replaces a user's ssh keys.
    pub async fn set_ssh_keys(&mut self, id: &str, keys: &[String]) -> Result<()> {
        changed!(
            self,
            query("update users set ssh_keys = $2 where id = $1").bind(id).bind(to_json(&keys))
        )?;
        Ok(())
    }

    /// Removes a user, which is destroyed later; none: takes that back.
    pub async fn set_destroy_at(&mut self, id: &str, at: Option<Micros>) -> Result<()> {
        self.change_powers();
        changed!(self, query("update users set destroy_at = $2 where id = $1").bind(id).bind(at))?;
        Ok(())
    }

    /// The removed users that are to be destroyed by now.
    pub async fn users_to_destroy(&mut self, now: Micros) -> Result<Vec<UserRow>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from users where destroy_at <= $1 order by destroy_at, id")
                .bind(now)
                .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// Destroys a user and its tokens; false when it owns overlays, which must go first.
    pub async fn remove_user(&mut self, id: &str) -> Result<bool> {
        self.change_powers();
        let done = changed!(
            self,
            query("delete from users where id = $1 and not exists (select 1 from overlays where owner_id = $1)")
                .bind(id)
        )?;
        Ok(done == 1)
    }
}
