//! Power actions that nobody asked for, and which haasd it is that acts.

use sqlx::{query, query_scalar};

use super::{Result, Store, Tx, changed, on};
use crate::model::{Micros, SECOND};

/// How long they are kept.
const KEPT: Micros = 86_400 * SECOND;

impl Store {
    /// Begins a new epoch, this haasd's: one that was started before acts no more.
    pub async fn begin_epoch(&self) -> Result<i64> {
        let mut tx = self.write().await?;
        changed!(tx, query("update cluster set epoch = epoch + 1"))?;
        let epoch = tx.epoch().await?;
        tx.commit().await?;
        Ok(epoch)
    }
}

impl Tx {
    /// The epoch of the haasd that was started last.
    pub async fn epoch(&mut self) -> Result<i64> {
        on!(self, c => query_scalar("select coalesce(max(epoch), 0) from cluster").fetch_one(c))
    }

    /// Counts a power action that nobody asked for.
    pub async fn add_auto_action(
        &mut self,
        node_id: &str,
        what: &str,
        epoch: i64,
        at: Micros,
    ) -> Result<()> {
        changed!(self, query("delete from auto_actions where at < $1").bind(at - KEPT))?;
        changed!(
            self,
            query(
                "insert into auto_actions (id, node_id, at, what, epoch)
                 values ($1, $2, $3, $4, $5)"
            )
            .bind(ulid::Ulid::new().to_string())
            .bind(node_id)
            .bind(at)
            .bind(what)
            .bind(epoch)
        )?;
        Ok(())
    }

    /// When the last but `back - 1` was done; none where there are fewer.
    pub async fn auto_action_back(&mut self, back: u32) -> Result<Option<Micros>> {
        on!(
            self,
            c => query_scalar("select at from auto_actions order by at desc limit 1 offset $1")
                .bind(i64::from(back.saturating_sub(1)))
                .fetch_optional(c)
        )
    }
}
