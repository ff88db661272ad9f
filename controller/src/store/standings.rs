//! How all nodes stand, for those who plan with them.

use haas_api::names::Digest;
use sqlx::{query, query_as};

use super::{Result, Tx, changed, from_text, on};
use crate::model::{AttemptState, Micros};

/// What is wanted of a node and what it runs, as far as a plan needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingRow {
    /// Whether it is to be on.
    pub power_on: bool,
    /// Whose it then is, by the id of a user or project; empty for a spare.
    pub tenant: String,
    /// Whether it is out of haasd's hands, as was asked for.
    pub handed_over: bool,
    /// Its live attempt.
    pub runs: Option<RunsRow>,
}

impl StandingRow {
    /// Who has the node, by id; none: nobody, since it is to be off, or a spare.
    pub fn tenant(&self) -> Option<&str> {
        (self.power_on && !self.tenant.is_empty()).then_some(self.tenant.as_str())
    }
}

/// What a live attempt boots or runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsRow {
    /// Whether it is ready, or still boots.
    pub is_ready: bool,
    /// When the boot began, steady clock.
    pub opened_at: Micros,
    /// The generation that it serves.
    pub generation: i64,
    /// The image.
    pub image: Option<Digest>,
    /// The overlay.
    pub overlay_id: Option<String>,
    /// For whom.
    pub tenant: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    node_id: String,
    present: bool,
    power_on: bool,
    tenant: String,
    boot_once: Option<String>,
    state: Option<String>,
    opened_at: Option<i64>,
    generation: Option<i64>,
    image_digest: Option<String>,
    overlay_id: Option<String>,
    runs_for: Option<String>,
}

impl Row {
    fn parse(self) -> Result<(String, Option<StandingRow>)> {
        let runs = match (self.state, self.opened_at, self.generation) {
            (Some(state), Some(opened_at), Some(generation)) => {
                let state: AttemptState = from_text("attempts", &state)?;
                let image = self.image_digest.map(|text| from_text("desired", &text));
                Some(RunsRow {
                    is_ready: state == AttemptState::Ready,
                    opened_at,
                    generation,
                    image: image.transpose()?,
                    overlay_id: self.overlay_id,
                    tenant: self.runs_for.unwrap_or_default(),
                })
            }
            _ => None,
        };
        let standing = StandingRow {
            power_on: self.power_on,
            tenant: self.tenant,
            handed_over: self.boot_once.is_some(),
            runs,
        };
        Ok((self.node_id, self.present.then_some(standing)))
    }
}

impl Tx {
    /// How nodes stand that have a later stamp; those with none that the inventory no longer names.
    pub(super) async fn changed_standings(
        &mut self,
        stamp: i64,
    ) -> Result<Vec<(String, Option<StandingRow>)>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select nodes.id as node_id, nodes.present, desired.power_on, desired.tenant,
                   desired.boot_once, attempts.state, attempts.opened_at, attempts.generation,
                   serves.image_digest, serves.overlay_id, serves.tenant as runs_for
                 from nodes cross join desired
                 left join attempts on attempts.node_id = nodes.id
                   and attempts.state in ('open', 'ready') and not attempts.beside
                 left join desired as serves on serves.node_id = attempts.node_id
                   and serves.generation = attempts.generation
                 where nodes.stamp > $1 and desired.node_id = nodes.id
                   and desired.generation = nodes.generation",
            )
            .bind(stamp)
            .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// Forgets places in an overlay that nodes were given and never made, where nothing wants them there
    /// any more.
    pub async fn forget_unmade_shards(&mut self, overlay_id: &str) -> Result<()> {
        changed!(
            self,
            query(
                "delete from shards where overlay_id = $1 and store_id is null
                   and not exists (
                     select 1 from nodes join desired on desired.node_id = nodes.id
                       and desired.generation = nodes.generation
                     where nodes.id = shards.node_id and desired.power_on
                       and desired.overlay_id = shards.overlay_id)",
            )
            .bind(overlay_id)
        )?;
        Ok(())
    }
}
