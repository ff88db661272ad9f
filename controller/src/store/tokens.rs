//! Users' tokens and passwords, as far as the store has them: hashes.

use sqlx::{query, query_as, query_scalar};

use super::{Result, Tx, UserRow, changed, on};
use crate::model::Micros;

/// A token as the store has it, without its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// It only looks.
    pub read_only: bool,
    /// It is good for the calendar's feed only.
    pub feed_only: bool,
    /// When it was made, wall clock.
    pub created_at: Micros,
    /// When it ends, wall clock; none: it does not.
    pub expires_at: Option<Micros>,
    /// When it was last used, wall clock, not to the second.
    pub last_used_at: Option<Micros>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    user_id: String,
    name: String,
    read_only: bool,
    feed_only: bool,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
}

impl Row {
    fn token(self) -> TokenRow {
        TokenRow {
            id: self.id,
            name: self.name,
            read_only: self.read_only,
            feed_only: self.feed_only,
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: self.last_used_at,
        }
    }
}

impl Tx {
    /// Adds a token of a user by the SHA-256 of its text.
    pub async fn add_token(&mut self, user: &str, token: &TokenRow, hash: &str) -> Result<()> {
        changed!(
            self,
            query(
                "insert into tokens (id, user_id, hash, name, read_only, feed_only, created_at,
                   expires_at)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(&token.id)
            .bind(user)
            .bind(hash)
            .bind(&token.name)
            .bind(token.read_only)
            .bind(token.feed_only)
            .bind(token.created_at)
            .bind(token.expires_at)
        )?;
        Ok(())
    }

    /// The token with this SHA-256 and its user, unless it has ended by `now` or its user was removed.
    pub async fn token_by_hash(
        &mut self,
        hash: &str,
        now: Micros,
    ) -> Result<Option<(UserRow, TokenRow)>> {
        let row: Option<Row> = on!(
            self,
            c => query_as(
                "select * from tokens where hash = $1 and (expires_at is null or expires_at > $2)",
            )
            .bind(hash)
            .bind(now)
            .fetch_optional(c)
        )?;
        let Some(row) = row else { return Ok(None) };
        let user = self.user_by_id(&row.user_id).await?;
        let user = user.filter(|user| user.destroy_at.is_none());
        Ok(user.map(|user| (user, row.token())))
    }

    /// A user's tokens, the oldest first.
    pub async fn tokens(&mut self, user: &str) -> Result<Vec<TokenRow>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from tokens where user_id = $1 order by created_at, id")
                .bind(user)
                .fetch_all(c)
        )?;
        Ok(rows.into_iter().map(Row::token).collect())
    }

    /// Notes that a token was used.
    pub async fn touch_token(&mut self, id: &str, at: Micros) -> Result<()> {
        changed!(
            self,
            query("update tokens set last_used_at = $2 where id = $1").bind(id).bind(at)
        )?;
        Ok(())
    }

    /// Ends a token of a user; false when there is none.
    pub async fn remove_token(&mut self, user: &str, id: &str) -> Result<bool> {
        self.change_powers();
        let done = changed!(
            self,
            query("delete from tokens where user_id = $1 and id = $2").bind(user).bind(id)
        )?;
        Ok(done == 1)
    }

    /// Ends all tokens of a user.
    pub async fn remove_tokens(&mut self, user: &str) -> Result<()> {
        self.change_powers();
        changed!(self, query("delete from tokens where user_id = $1").bind(user))?;
        Ok(())
    }

    /// Deletes the tokens that had ended by then, and counts them.
    pub async fn remove_tokens_over(&mut self, by: Micros) -> Result<u64> {
        changed!(self, query("delete from tokens where expires_at <= $1").bind(by))
    }

    /// The hash of a user's password; none when there is no such user or it has no password.
    pub async fn password(&mut self, user: &str) -> Result<Option<String>> {
        let row: Option<Option<String>> = on!(
            self,
            c => query_scalar("select password from users where id = $1").bind(user).fetch_optional(c)
        )?;
        Ok(row.flatten())
    }

    /// Sets the hash of a user's password.
    pub async fn set_password(&mut self, user: &str, hash: &str) -> Result<()> {
        changed!(
            self,
            query("update users set password = $2 where id = $1").bind(user).bind(hash)
        )?;
        Ok(())
    }
}
