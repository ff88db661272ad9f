//! Maintenance windows: when nothing is planned on which nodes.

use sqlx::{query, query_as};

use super::{Result, Tx, changed, from_json, on, to_json};
use crate::model::Micros;

/// A maintenance window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceRow {
    /// Its number.
    pub id: i64,
    /// Its nodes, by id.
    pub nodes: Vec<String>,
    /// From when, steady clock.
    pub begin_at: Micros,
    /// Until when, steady clock.
    pub end_at: Micros,
    /// Why.
    pub reason: String,
    /// The name of who has set it.
    pub actor: String,
}

impl Tx {
    /// Adds a window and answers its number; that in `new` does not count.
    pub async fn add_maintenance(&mut self, new: &MaintenanceRow) -> Result<i64> {
        self.count_up("calendar").await?;
        let id = self.count_up("maintenance").await?;
        changed!(
            self,
            query(
                "insert into maintenance (id, nodes, begin_at, end_at, reason, actor)
                 values ($1, $2, $3, $4, $5, $6)",
            )
            .bind(id)
            .bind(to_json(&new.nodes))
            .bind(new.begin_at)
            .bind(new.end_at)
            .bind(&new.reason)
            .bind(&new.actor)
        )?;
        Ok(id)
    }

    /// The windows that are not over at `now` (steady clock), by their begin.
    pub async fn maintenance(&mut self, now: Micros) -> Result<Vec<MaintenanceRow>> {
        let rows: Vec<(i64, String, i64, i64, String, String)> = on!(
            self,
            c => query_as(
                "select id, nodes, begin_at, end_at, reason, actor from maintenance
                 where end_at > $1 order by begin_at, id",
            )
            .bind(now)
            .fetch_all(c)
        )?;
        rows.into_iter()
            .map(|(id, nodes, begin_at, end_at, reason, actor)| {
                let nodes = from_json("maintenance", &nodes)?;
                Ok(MaintenanceRow { id, nodes, begin_at, end_at, reason, actor })
            })
            .collect()
    }

    /// Removes a window; false where there is none.
    pub async fn remove_maintenance(&mut self, id: i64) -> Result<bool> {
        self.count_up("calendar").await?;
        let done = changed!(self, query("delete from maintenance where id = $1").bind(id))?;
        Ok(done == 1)
    }
}
