//! Baselines: how nodes were when that was recorded, and how they were seen last.

use haas_api::baseline::Facts;
use sqlx::{query, query_as};

use super::{Result, Tx, changed, from_json, on, to_json};
use crate::model::Micros;

/// A node's baseline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaselineRow {
    /// How it was.
    pub recorded: Facts,
    /// When that was last recorded (wall clock), and by whom.
    pub recorded_at: Option<(Micros, String)>,
    /// How it was seen last.
    pub seen: Facts,
    /// When its BMC was last asked, wall clock.
    pub asked_at: Option<Micros>,
    /// Why it told nothing then.
    pub asked_error: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    recorded: Option<String>,
    recorded_at: Option<i64>,
    recorded_by: Option<String>,
    seen: Option<String>,
    asked_at: Option<i64>,
    asked_error: Option<String>,
}

impl Row {
    fn parse(self) -> Result<BaselineRow> {
        let facts = |text: Option<String>| {
            text.map_or_else(|| Ok(Facts::new()), |text| from_json("baselines", &text))
        };
        Ok(BaselineRow {
            recorded: facts(self.recorded)?,
            recorded_at: self.recorded_at.zip(self.recorded_by),
            seen: facts(self.seen)?,
            asked_at: self.asked_at,
            asked_error: self.asked_error,
        })
    }
}

impl Tx {
    /// A node's baseline; empty where nothing is recorded.
    pub async fn baseline(&mut self, node_id: &str) -> Result<BaselineRow> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from baselines where node_id = $1").bind(node_id).fetch_optional(c)
        )?;
        row.map_or_else(|| Ok(BaselineRow::default()), Row::parse)
    }

    /// Records how a node is, in place of what was recorded.
    pub async fn record_baseline(
        &mut self,
        node_id: &str,
        recorded: &Facts,
        by: &str,
        at: Micros,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "insert into baselines (node_id, recorded, recorded_by, recorded_at)
                 values ($1, $2, $3, $4) on conflict (node_id) do update
                 set recorded = $2, recorded_by = $3, recorded_at = $4",
            )
            .bind(node_id)
            .bind(to_json(recorded))
            .bind(by)
            .bind(at)
        )?;
        Ok(())
    }

    /// Forgets how a node was and is: it is recorded anew in its next boot.
    pub async fn forget_baseline(&mut self, node_id: &str) -> Result<()> {
        changed!(self, query("delete from baselines where node_id = $1").bind(node_id))?;
        changed!(
            self,
            query("update tenancies set checked_for = null where node_id = $1").bind(node_id)
        )?;
        Ok(())
    }

    /// Notes how a node was seen.
    pub async fn set_baseline_seen(&mut self, node_id: &str, seen: &Facts) -> Result<()> {
        changed!(
            self,
            query(
                "insert into baselines (node_id, seen) values ($1, $2)
                 on conflict (node_id) do update set seen = $2",
            )
            .bind(node_id)
            .bind(to_json(seen))
        )?;
        Ok(())
    }

    /// Notes that a node's BMC was asked, and why it told nothing.
    pub async fn set_baseline_asked(
        &mut self,
        node_id: &str,
        at: Micros,
        error: Option<&str>,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "insert into baselines (node_id, asked_at, asked_error) values ($1, $2, $3)
                 on conflict (node_id) do update set asked_at = $2, asked_error = $3",
            )
            .bind(node_id)
            .bind(at)
            .bind(error)
        )?;
        Ok(())
    }
}
