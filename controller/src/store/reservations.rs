//! Reservations, their nodes, and what happened to each.

use std::collections::HashMap;

use haas_api::reservation::ReasonCode;
use sqlx::{query, query_as, query_scalar};

use super::{Result, StoreError, Tx, changed, from_json, from_text, from_word, on, to_json, word};
use crate::model::{Assigned, ImageWanted, Micros, Reservation};

/// Something that happened to a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRow {
    /// When, wall clock.
    pub at: Micros,
    /// A stable word.
    pub what: String,
    /// Why.
    pub code: ReasonCode,
    /// In words.
    pub detail: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    version: i64,
    state: String,
    code: String,
    reason: String,
    owner_id: String,
    tenant: String,
    queue: String,
    nodes: i64,
    walltime: i64,
    is_advance: bool,
    among: Option<String>,
    image_name: String,
    image_digest: String,
    follow_tag: bool,
    overlay_id: Option<String>,
    on_node_loss: String,
    submitted_at: i64,
    start_at: Option<i64>,
    end_at: Option<i64>,
    ready_at: Option<i64>,
    warned: bool,
    actor: String,
    key: Option<String>,
    request: String,
}

#[derive(sqlx::FromRow)]
struct AssignedRow {
    reservation_id: i64,
    node_id: String,
    rank: i64,
    generation: i64,
    lost: bool,
}

const TABLE: &str = "reservations";

impl Row {
    fn parse(self, nodes: Vec<Assigned>) -> Result<Reservation> {
        Ok(Reservation {
            id: self.id,
            version: self.version,
            state: from_word(TABLE, &self.state)?,
            code: from_word(TABLE, &self.code)?,
            reason: self.reason,
            owner_id: self.owner_id,
            tenant: self.tenant,
            queue: from_text(TABLE, &self.queue)?,
            count: small(self.nodes)?,
            walltime: self.walltime,
            is_advance: self.is_advance,
            among: self.among.map(|text| from_json(TABLE, &text)).transpose()?,
            image: ImageWanted {
                digest: from_text(TABLE, &self.image_digest)?,
                name: self.image_name,
            },
            follow_tag: self.follow_tag,
            overlay_id: self.overlay_id,
            on_node_loss: from_word(TABLE, &self.on_node_loss)?,
            submitted_at: self.submitted_at,
            start_at: self.start_at,
            end_at: self.end_at,
            ready_at: self.ready_at,
            warned: self.warned,
            actor: self.actor,
            key: self.key,
            request: self.request,
            nodes,
        })
    }
}

fn small(number: i64) -> Result<u32> {
    let corrupt =
        |e: std::num::TryFromIntError| StoreError::Corrupt { table: TABLE, problem: e.to_string() };
    u32::try_from(number).map_err(corrupt)
}

impl Tx {
    /// How often what plans are made from was changed.
    pub async fn calendar_changes(&mut self) -> Result<i64> {
        on!(
            self,
            c => query_scalar("select value from counters where name = 'calendar'").fetch_one(c)
        )
    }

    /// Adds a reservation with its nodes and answers its number; that in `new` does not count.
    pub async fn add_reservation(&mut self, new: &Reservation) -> Result<i64> {
        self.count_up("calendar").await?;
        let id = self.count_up("reservation").await?;
        changed!(
            self,
            query(
                "insert into reservations (id, version, state, code, reason, owner_id, tenant, queue,
                   nodes, walltime, is_advance, among, image_name, image_digest, follow_tag,
                   overlay_id, on_node_loss, submitted_at, start_at, end_at, ready_at, warned, actor,
                   key, request)
                 values ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                   $18, $19, $20, $21, $22, $23, $24)",
            )
            .bind(id)
            .bind(word(&new.state))
            .bind(word(&new.code))
            .bind(&new.reason)
            .bind(&new.owner_id)
            .bind(&new.tenant)
            .bind(new.queue.as_str())
            .bind(i64::from(new.count))
            .bind(new.walltime)
            .bind(new.is_advance)
            .bind(new.among.as_ref().map(to_json))
            .bind(&new.image.name)
            .bind(new.image.digest.as_str())
            .bind(new.follow_tag)
            .bind(&new.overlay_id)
            .bind(word(&new.on_node_loss))
            .bind(new.submitted_at)
            .bind(new.start_at)
            .bind(new.end_at)
            .bind(new.ready_at)
            .bind(new.warned)
            .bind(&new.actor)
            .bind(&new.key)
            .bind(&new.request)
        )?;
        self.set_assigned(id, &new.nodes).await?;
        Ok(id)
    }

    /// Writes what may change of a reservation, as it was read, with its nodes.
    /// [`StoreError::Conflict`] when somebody has changed it since, or it is over.
    pub async fn set_reservation(&mut self, now: &Reservation) -> Result<()> {
        self.count_up("calendar").await?;
        let done = changed!(
            self,
            query(
                "update reservations set version = version + 1, state = $3, code = $4, reason = $5,
                   walltime = $6, image_digest = $7, start_at = $8, end_at = $9, ready_at = $10,
                   warned = $11
                 where id = $1 and version = $2
                   and state not in ('ended', 'cancelled', 'failed')",
            )
            .bind(now.id)
            .bind(now.version)
            .bind(word(&now.state))
            .bind(word(&now.code))
            .bind(&now.reason)
            .bind(now.walltime)
            .bind(now.image.digest.as_str())
            .bind(now.start_at)
            .bind(now.end_at)
            .bind(now.ready_at)
            .bind(now.warned)
        )?;
        if done == 0 {
            return Err(StoreError::Conflict(format!("reservation {}", now.id)));
        }
        changed!(self, query("delete from assignments where reservation_id = $1").bind(now.id))?;
        self.set_assigned(now.id, &now.nodes).await
    }

    async fn set_assigned(&mut self, id: i64, nodes: &[Assigned]) -> Result<()> {
        for node in nodes {
            changed!(
                self,
                query(
                    "insert into assignments (reservation_id, node_id, rank, generation, lost)
                     values ($1, $2, $3, $4, $5)",
                )
                .bind(id)
                .bind(&node.node_id)
                .bind(i64::from(node.rank))
                .bind(node.generation)
                .bind(node.lost)
            )?;
        }
        Ok(())
    }

    /// The reservation of this number.
    pub async fn reservation(&mut self, id: i64) -> Result<Option<Reservation>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from reservations where id = $1").bind(id).fetch_optional(c)
        )?;
        Ok(self.with_assigned(row.into_iter().collect()).await?.pop())
    }

    /// The reservation that a caller's request with this key has made.
    pub async fn reservation_by_key(
        &mut self,
        owner_id: &str,
        key: &str,
    ) -> Result<Option<Reservation>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from reservations where owner_id = $1 and key = $2")
                .bind(owner_id)
                .bind(key)
                .fetch_optional(c)
        )?;
        Ok(self.with_assigned(row.into_iter().collect()).await?.pop())
    }

    /// Those that are not over, in the order of their numbers, all read anew.
    pub(super) async fn read_live(&mut self) -> Result<Vec<Reservation>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select * from reservations
                 where state in ('pending', 'planned', 'starting', 'active', 'ending') order by id",
            )
            .fetch_all(c)
        )?;
        self.with_assigned(rows).await
    }

    /// The last `limit` reservations, the newest first.
    pub async fn reservations(&mut self, limit: i64) -> Result<Vec<Reservation>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from reservations order by id desc limit $1")
                .bind(limit)
                .fetch_all(c)
        )?;
        self.with_assigned(rows).await
    }

    async fn with_assigned(&mut self, rows: Vec<Row>) -> Result<Vec<Reservation>> {
        let (Some(first), Some(last)) =
            (rows.iter().map(|row| row.id).min(), rows.iter().map(|row| row.id).max())
        else {
            return Ok(Vec::new());
        };
        let assigned: Vec<AssignedRow> = on!(
            self,
            c => query_as(
                "select * from assignments where reservation_id >= $1 and reservation_id <= $2
                 order by reservation_id, rank, lost desc, node_id",
            )
            .bind(first)
            .bind(last)
            .fetch_all(c)
        )?;
        let mut by_id: HashMap<i64, Vec<Assigned>> = HashMap::new();
        for row in assigned {
            by_id.entry(row.reservation_id).or_default().push(Assigned {
                node_id: row.node_id,
                rank: small(row.rank)?,
                generation: row.generation,
                lost: row.lost,
            });
        }
        rows.into_iter()
            .map(|row| {
                let nodes = by_id.remove(&row.id).unwrap_or_default();
                row.parse(nodes)
            })
            .collect()
    }

    /// The tenant whose reservation has a node now, whatever is wanted of it.
    pub async fn lent_to(&mut self, node_id: &str) -> Result<Option<String>> {
        on!(
            self,
            c => query_scalar(
                "select reservations.tenant from assignments
                 join reservations on reservations.id = assignments.reservation_id
                 where assignments.node_id = $1 and not assignments.lost
                   and assignments.generation > 0
                   and reservations.state in ('starting', 'active')",
            )
            .bind(node_id)
            .fetch_optional(c)
        )
    }

    /// Notes what happened to a reservation.
    pub async fn add_step(&mut self, id: i64, step: &StepRow) -> Result<()> {
        changed!(
            self,
            query(
                "insert into reservation_steps (reservation_id, seq, at, what, code, detail)
                 select $1, coalesce(max(seq), 0) + 1, $2, $3, $4, $5
                 from reservation_steps where reservation_id = $1",
            )
            .bind(id)
            .bind(step.at)
            .bind(&step.what)
            .bind(word(&step.code))
            .bind(&step.detail)
        )?;
        Ok(())
    }

    /// What happened to a reservation, the oldest first.
    pub async fn steps(&mut self, id: i64) -> Result<Vec<StepRow>> {
        let rows: Vec<(i64, String, String, String)> = on!(
            self,
            c => query_as(
                "select at, what, code, detail from reservation_steps
                 where reservation_id = $1 order by seq",
            )
            .bind(id)
            .fetch_all(c)
        )?;
        let rows = rows.into_iter();
        rows.map(|(at, what, code, detail)| {
            Ok(StepRow { at, what, code: from_word("reservation_steps", &code)?, detail })
        })
        .collect()
    }
}
