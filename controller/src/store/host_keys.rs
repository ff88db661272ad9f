//! The public keys of the nodes' ssh servers, each as its boot attempt's agent has told it.

use std::collections::HashMap;

use sqlx::{query, query_as};

use super::{Result, Tx, changed, from_json, on, to_json};
use crate::model::Micros;

/// A public key of a node's ssh server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeyRow {
    /// As `known_hosts` has it.
    pub key: String,
    /// The names and addresses of the node.
    pub names: Vec<String>,
    /// Until when a certificate for these names holds, wall clock; none where there is none.
    pub certified_until: Option<Micros>,
}

#[derive(sqlx::FromRow)]
struct Row {
    attempt_id: String,
    key: String,
    names: String,
    certified_until: Option<i64>,
}

impl Row {
    fn parse(self) -> Result<HostKeyRow> {
        Ok(HostKeyRow {
            key: self.key,
            names: from_json("host_keys", &self.names)?,
            certified_until: self.certified_until,
        })
    }
}

impl Tx {
    /// Replaces the keys of an attempt's ssh server.
    pub async fn set_host_keys(&mut self, attempt: &str, keys: &[HostKeyRow]) -> Result<()> {
        changed!(self, query("delete from host_keys where attempt_id = $1").bind(attempt))?;
        for (position, row) in (0_i64..).zip(keys) {
            changed!(
                self,
                query(
                    "insert into host_keys (attempt_id, position, key, names, certified_until)
                     values ($1, $2, $3, $4, $5)",
                )
                .bind(attempt)
                .bind(position)
                .bind(&row.key)
                .bind(to_json(&row.names))
                .bind(row.certified_until)
            )?;
        }
        Ok(())
    }

    /// The keys of an attempt's ssh server.
    pub async fn host_keys(&mut self, attempt: &str) -> Result<Vec<HostKeyRow>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from host_keys where attempt_id = $1 order by position")
                .bind(attempt)
                .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The same of each attempt that is open or runs, by its id.
    pub async fn live_host_keys(&mut self) -> Result<HashMap<String, Vec<HostKeyRow>>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select host_keys.* from attempts
                 join host_keys on host_keys.attempt_id = attempts.id
                 where attempts.state in ('open', 'ready') order by host_keys.position",
            )
            .fetch_all(c)
        )?;
        let mut keys: HashMap<String, Vec<HostKeyRow>> = HashMap::new();
        for row in rows {
            keys.entry(row.attempt_id.clone()).or_default().push(row.parse()?);
        }
        Ok(keys)
    }
}
