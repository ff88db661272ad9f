//! The event log: what happened, gapless and in order.

use haas_api::event::Event;
use sqlx::{query, query_as, query_scalar};

use super::{Result, Tx, changed, from_json, on};
use crate::model::Micros;

/// An event before it has its number.
#[derive(Debug, Clone)]
pub struct NewEvent<'a> {
    /// When, wall clock.
    pub at: Micros,
    /// A stable word.
    pub kind: &'a str,
    /// The node's name.
    pub node: Option<&'a str>,
    /// The operation's id.
    pub operation: Option<&'a str>,
    /// Who caused it.
    pub actor: &'a str,
    /// The rest.
    pub data: serde_json::Value,
    /// Whose, where it is of no node and no operation: theirs are for who has the node, or asked.
    /// None: everybody's.
    pub tenant: Option<&'a str>,
}

/// An event, and for whose eyes it is.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// What happened.
    pub event: Event,
    /// When, wall clock.
    pub at: Micros,
    /// The id of a user or project; none: everybody's.
    pub tenant: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    at: i64,
    kind: String,
    node: Option<String>,
    operation: Option<String>,
    actor: String,
    data: String,
    tenant: Option<String>,
}

impl Tx {
    /// Adds an event. Its number is taken inside the transaction, so there are no gaps.
    pub async fn add_event(&mut self, event: NewEvent<'_>) -> Result<i64> {
        let seq = self.count_up("event").await?;
        changed!(
            self,
            query(
                "insert into events (seq, at, kind, node, operation, actor, data, tenant)
                 values ($1, $2, $3, $4, $5, $6, $7, coalesce(
                   (select desired.tenant from nodes join desired on desired.node_id = nodes.id
                    where nodes.name = $4 and desired.operation_id = $5),
                   (select desired.tenant from nodes join desired on desired.node_id = nodes.id
                      and desired.generation = nodes.generation and desired.power_on
                    where nodes.name = $4),
                   (select operations.tenant from operations where operations.id = $5),
                   $8))",
            )
            .bind(seq)
            .bind(event.at)
            .bind(event.kind)
            .bind(event.node)
            .bind(event.operation)
            .bind(event.actor)
            .bind(event.data.to_string())
            .bind(event.tenant)
        )?;
        Ok(seq)
    }

    /// The events after `seq`, oldest first, at most `limit`.
    pub async fn events_after(&mut self, seq: i64, limit: i64) -> Result<Vec<EventRow>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from events where seq > $1 order by seq limit $2")
                .bind(seq)
                .bind(limit)
                .fetch_all(c)
        )?;
        rows.into_iter()
            .map(|row| {
                let event = Event {
                    seq: row.seq,
                    at: crate::clock::rfc3339(row.at),
                    kind: row.kind,
                    node: row.node,
                    operation: row.operation,
                    actor: row.actor,
                    data: from_json("events", &row.data)?,
                };
                Ok(EventRow { event, at: row.at, tenant: row.tenant })
            })
            .collect()
    }

    /// The number of the last event, 0 before the first.
    pub async fn last_event(&mut self) -> Result<i64> {
        on!(
            self,
            c => query_scalar("select value from counters where name = 'event'").fetch_one(c)
        )
    }

    /// The number of the first event that is kept; none where there is no event at all.
    pub async fn first_event(&mut self) -> Result<Option<i64>> {
        on!(self, c => query_scalar("select min(seq) from events").fetch_one(c))
    }

    /// Forgets the events before the first one that is not older than `before`, but for the last one
    /// of all and for those that a webhook has yet to deliver. Answers how many.
    pub async fn forget_events(&mut self, before: Micros) -> Result<u64> {
        let slowest = self.slowest_webhook().await?.unwrap_or(i64::MAX);
        let gone = changed!(
            self,
            query(
                "delete from events where seq <= $2 and seq < coalesce(
                   (select min(seq) from events where at >= $1), (select max(seq) from events))",
            )
            .bind(before)
            .bind(slowest)
        )?;
        changed!(self, query("delete from dead_events where seq < (select min(seq) from events)"))?;
        Ok(gone)
    }

    /// How often it was changed who may do what.
    pub async fn powers_changes(&mut self) -> Result<i64> {
        on!(
            self,
            c => query_scalar("select value from counters where name = 'powers'").fetch_one(c)
        )
    }

    /// The next number of a counter.
    pub(super) async fn count_up(&mut self, counter: &str) -> Result<i64> {
        on!(
            self,
            c => query_scalar("update counters set value = value + 1 where name = $1 returning value")
                .bind(counter)
                .fetch_one(c)
        )
    }
}
