//! The audit log: rows are added, read, and nothing else.

use haas_api::audit::AuditEntry;
use sqlx::{query, query_as};

use super::{Result, StoreError, Tx, changed, on};
use crate::{clock, model::Micros};

/// A row to be added.
#[derive(Debug, Clone)]
pub struct NewAudit {
    /// When, wall clock.
    pub at: Micros,
    /// The user's name, or what was claimed.
    pub actor: String,
    /// The user's id; empty where nobody was logged in.
    pub actor_id: String,
    /// The token that was used; empty for none.
    pub token_id: String,
    /// The address that the request came from.
    pub peer: String,
    /// Method and path.
    pub action: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// What it came to.
    pub detail: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    at: i64,
    actor: String,
    actor_id: String,
    token_id: String,
    peer: String,
    action: String,
    outcome: i64,
    detail: String,
}

impl Row {
    fn parse(self) -> Result<AuditEntry> {
        let corrupt = |e: std::num::TryFromIntError| StoreError::Corrupt {
            table: "audit",
            problem: e.to_string(),
        };
        Ok(AuditEntry {
            seq: u64::try_from(self.seq).map_err(corrupt)?,
            at: clock::rfc3339(self.at),
            actor: self.actor,
            actor_id: self.actor_id,
            token_id: self.token_id,
            from: self.peer,
            action: self.action,
            status: u16::try_from(self.outcome).map_err(corrupt)?,
            detail: self.detail,
        })
    }
}

impl Tx {
    /// Adds a row.
    pub async fn add_audit(&mut self, new: &NewAudit) -> Result<()> {
        let seq = self.count_up("audit").await?;
        changed!(
            self,
            query(
                "insert into audit
                 (seq, at, actor, actor_id, token_id, peer, action, outcome, detail)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(seq)
            .bind(new.at)
            .bind(&new.actor)
            .bind(&new.actor_id)
            .bind(&new.token_id)
            .bind(&new.peer)
            .bind(&new.action)
            .bind(i64::from(new.status))
            .bind(&new.detail)
        )?;
        Ok(())
    }

    /// Breaks the log, so that nothing can be added any more.
    #[cfg(test)]
    pub(crate) async fn break_audit(&mut self) -> Result<()> {
        changed!(self, query("drop table audit"))?;
        Ok(())
    }

    /// Rows after `seq` in their order, of this actor if one is named, at most `limit`.
    pub async fn audit(
        &mut self,
        after: u64,
        actor: Option<&str>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select * from audit where seq > $1 and ($2 = '' or actor = $2)
                 order by seq limit $3",
            )
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(actor.unwrap_or_default())
            .bind(limit)
            .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }
}
