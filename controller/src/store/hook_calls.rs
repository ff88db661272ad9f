//! What the site's drain hook has said, one row per node.

use std::collections::HashMap;

use sqlx::{query, query_as};

use super::{Result, Tx, changed, on};
use crate::model::{HookCall, Micros};

#[derive(sqlx::FromRow)]
struct Row {
    generation: i64,
    since: i64,
    asked_at: i64,
    goes_on: bool,
    said: String,
}

/// A row, and whose it is.
#[derive(sqlx::FromRow)]
struct NodesRow {
    node_id: String,
    #[sqlx(flatten)]
    call: Row,
}

impl Row {
    fn parse(self) -> HookCall {
        HookCall {
            generation: self.generation,
            since: self.since,
            asked_at: self.asked_at,
            goes_on: self.goes_on,
            said: self.said,
        }
    }
}

impl Tx {
    /// What the drain hook has said of a node, of whichever generation that was.
    pub async fn hook_call(&mut self, node_id: &str) -> Result<Option<HookCall>> {
        let row: Option<Row> = on!(
            self,
            c => query_as(
                "select generation, since, asked_at, goes_on, said from hook_calls
                 where node_id = $1",
            )
            .bind(node_id)
            .fetch_optional(c)
        )?;
        Ok(row.map(Row::parse))
    }

    /// The same of each node, by the node's id.
    pub async fn all_hook_calls(&mut self) -> Result<HashMap<String, HookCall>> {
        let rows: Vec<NodesRow> =
            on!(self, c => query_as("select * from hook_calls").fetch_all(c))?;
        Ok(rows.into_iter().map(|row| (row.node_id, row.call.parse())).collect())
    }

    /// Notes that the drain hook is about to be called. Its first call for a generation is remembered.
    pub async fn hook_asked(&mut self, node_id: &str, generation: i64, at: Micros) -> Result<()> {
        changed!(
            self,
            query(
                "insert into hook_calls (node_id, generation, since, asked_at, goes_on, said)
                 values ($1, $2, $3, $3, $4, '')
                 on conflict (node_id) do update set
                   since = case when hook_calls.generation = $2 then hook_calls.since else $3 end,
                   said = case when hook_calls.generation = $2 then hook_calls.said else '' end,
                   generation = $2, asked_at = $3, goes_on = $4",
            )
            .bind(node_id)
            .bind(generation)
            .bind(at)
            .bind(false)
        )?;
        Ok(())
    }

    /// Notes what the drain hook has answered for a generation.
    pub async fn hook_answered(
        &mut self,
        node_id: &str,
        generation: i64,
        goes_on: bool,
        said: &str,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "update hook_calls set goes_on = $3, said = $4
                 where node_id = $1 and generation = $2",
            )
            .bind(node_id)
            .bind(generation)
            .bind(goes_on)
            .bind(said)
        )?;
        Ok(())
    }
}
