//! What reservations have used: which node each was given, from when until when.

use sqlx::{query, query_as};

use super::{Result, StoreError, Tx, changed, on};
use crate::model::{Micros, Reservation};

/// What a user has used for a tenant through a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedRow {
    /// Who had reserved, by id.
    pub owner_id: String,
    /// Whose the nodes were, by id of a user or project.
    pub tenant: String,
    /// The user's name then.
    pub user: String,
    /// The tenant's.
    pub project: String,
    /// Through which queue.
    pub queue: String,
    /// How many reservations these were.
    pub reservations: u64,
    /// For how long nodes were held, each counted.
    pub held: Micros,
}

impl Tx {
    /// Notes that a reservation is given a node. `who` are the names of its user and its tenant;
    /// `at` is of the wall clock.
    pub async fn node_given(
        &mut self,
        to: &Reservation,
        node_id: &str,
        who: (&str, &str),
        at: Micros,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "insert into given_nodes (reservation_id, node_id, owner_id, tenant, user_name,
                   project_name, queue, from_at)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(to.id)
            .bind(node_id)
            .bind(&to.owner_id)
            .bind(&to.tenant)
            .bind(who.0)
            .bind(who.1)
            .bind(to.queue.as_str())
            .bind(at)
        )?;
        Ok(())
    }

    /// Notes that a reservation has a node no more since `at`, of the wall clock.
    pub async fn node_back(&mut self, from: i64, node_id: &str, at: Micros) -> Result<()> {
        changed!(
            self,
            query(
                "update given_nodes set until_at = $3
                 where reservation_id = $1 and node_id = $2 and until_at is null",
            )
            .bind(from)
            .bind(node_id)
            .bind(at)
        )?;
        Ok(())
    }

    /// What was used between two moments of the wall clock; what is still held was until `now`.
    pub async fn used(&mut self, begin: Micros, end: Micros, now: Micros) -> Result<Vec<UsedRow>> {
        let rows: Vec<(String, String, String, String, String, i64, i64)> = on!(
            self,
            c => query_as(
                "select owner_id, tenant, max(user_name), max(project_name), queue,
                   count(distinct reservation_id),
                   cast(sum(
                     case when coalesce(until_at, $3) > $2 then $2 else coalesce(until_at, $3) end
                     - case when from_at < $1 then $1 else from_at end
                   ) as bigint)
                 from given_nodes
                 where from_at < $2 and (until_at > $1 or until_at is null and $3 > $1)
                 group by owner_id, tenant, queue
                 order by max(project_name), max(user_name), queue, owner_id, tenant",
            )
            .bind(begin)
            .bind(end)
            .bind(now)
            .fetch_all(c)
        )?;
        let corrupt = |e: std::num::TryFromIntError| StoreError::Corrupt {
            table: "given_nodes",
            problem: e.to_string(),
        };
        rows.into_iter()
            .map(|(owner_id, tenant, user, project, queue, reservations, held)| {
                let reservations = u64::try_from(reservations).map_err(corrupt)?;
                Ok(UsedRow { owner_id, tenant, user, project, queue, reservations, held })
            })
            .collect()
    }
}
