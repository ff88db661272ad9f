//! Webhooks: where each is in the event log, and what it gave up.

use haas_api::names::WebhookName;
use sqlx::{query, query_as, query_scalar};

use super::{Result, Tx, changed, from_json, from_text, on, to_json};
use crate::model::Micros;

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRow {
    /// Immutable; a later webhook of the same name has another.
    pub id: String,
    /// Its name.
    pub name: WebhookName,
    /// Where events are sent to.
    pub url: String,
    /// Which kinds of events; none is all.
    pub kinds: Vec<String>,
    /// Who made it, by name.
    pub actor: String,
    /// When, wall clock.
    pub created_at: Micros,
    /// The last event that is done with.
    pub position: i64,
    /// When one was delivered last, wall clock.
    pub delivered_at: Option<Micros>,
    /// How often the next event was tried in vain.
    pub failures: i64,
    /// Since when tries fail, wall clock.
    pub failing_since: Option<Micros>,
    /// How the last try that failed did.
    pub last_error: Option<String>,
    /// How many events were given up.
    pub dead: i64,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct DeadEventRow {
    /// Its number.
    pub seq: i64,
    /// When, wall clock.
    pub given_up_at: Micros,
    /// How the last try failed.
    pub error: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    url: String,
    kinds: String,
    actor: String,
    created_at: i64,
    position: i64,
    delivered_at: Option<i64>,
    failures: i64,
    failing_since: Option<i64>,
    last_error: Option<String>,
    dead: i64,
}

impl Row {
    fn parse(self) -> Result<WebhookRow> {
        Ok(WebhookRow {
            id: self.id,
            name: from_text("webhooks", &self.name)?,
            url: self.url,
            kinds: from_json("webhooks", &self.kinds)?,
            actor: self.actor,
            created_at: self.created_at,
            position: self.position,
            delivered_at: self.delivered_at,
            failures: self.failures,
            failing_since: self.failing_since,
            last_error: self.last_error,
            dead: self.dead,
        })
    }
}

impl Tx {
    /// Adds a webhook.
    pub async fn add_webhook(&mut self, webhook: &WebhookRow) -> Result<()> {
        changed!(
            self,
            query(
                "insert into webhooks
                 (id, name, url, kinds, actor, created_at, position, failures)
                 values ($1, $2, $3, $4, $5, $6, $7, 0)",
            )
            .bind(&webhook.id)
            .bind(webhook.name.as_str())
            .bind(&webhook.url)
            .bind(to_json(&webhook.kinds))
            .bind(&webhook.actor)
            .bind(webhook.created_at)
            .bind(webhook.position)
        )?;
        Ok(())
    }

    /// All webhooks, by name.
    pub async fn webhooks(&mut self) -> Result<Vec<WebhookRow>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select webhooks.*, (select count(*) from dead_events
                   where dead_events.webhook_id = webhooks.id) as dead
                 from webhooks order by name",
            )
            .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// Removes a webhook with what it gave up; false where there is none.
    pub async fn remove_webhook(&mut self, id: &str) -> Result<bool> {
        Ok(changed!(self, query("delete from webhooks where id = $1").bind(id))? == 1)
    }

    /// The events up to `position` are done with, the last of them by a delivery at `at` if one is
    /// given. False where the webhook is gone.
    pub async fn webhook_at(
        &mut self,
        id: &str,
        position: i64,
        delivered_at: Option<Micros>,
    ) -> Result<bool> {
        let done = changed!(
            self,
            query(
                "update webhooks set position = $2, delivered_at = coalesce($3, delivered_at),
                   failures = case when $3 is null then failures else 0 end,
                   failing_since = case when $3 is null then failing_since end
                 where id = $1",
            )
            .bind(id)
            .bind(position)
            .bind(delivered_at)
        )?;
        Ok(done == 1)
    }

    /// A try has failed.
    pub async fn webhook_failed(&mut self, id: &str, error: &str, at: Micros) -> Result<()> {
        changed!(
            self,
            query(
                "update webhooks set failures = failures + 1, last_error = $2,
                   failing_since = coalesce(failing_since, $3)
                 where id = $1",
            )
            .bind(id)
            .bind(error)
            .bind(at)
        )?;
        Ok(())
    }

    /// Gives an event up and goes on behind it.
    pub async fn webhook_gave_up(&mut self, id: &str, dead: &DeadEventRow) -> Result<()> {
        changed!(
            self,
            query(
                "insert into dead_events (webhook_id, seq, given_up_at, error)
                 values ($1, $2, $3, $4)",
            )
            .bind(id)
            .bind(dead.seq)
            .bind(dead.given_up_at)
            .bind(&dead.error)
        )?;
        changed!(
            self,
            query("update webhooks set position = $2, failures = 0 where id = $1")
                .bind(id)
                .bind(dead.seq)
        )?;
        Ok(())
    }

    /// What a webhook gave up, the newest first, at most `limit`.
    pub async fn dead_events(&mut self, id: &str, limit: i64) -> Result<Vec<DeadEventRow>> {
        on!(
            self,
            c => query_as(
                "select seq, given_up_at, error from dead_events
                 where webhook_id = $1 order by seq desc limit $2",
            )
            .bind(id)
            .bind(limit)
            .fetch_all(c)
        )
    }

    /// The first event that a webhook is not done with, less one; none where there is no webhook.
    pub(super) async fn slowest_webhook(&mut self) -> Result<Option<i64>> {
        on!(self, c => query_scalar("select min(position) from webhooks").fetch_one(c))
    }
}
