//! The public keys of the nodes' ssh servers, each as its boot attempt's agent has told it.

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
    key: String,
    names: String,
    certified_until: Option<i64>,
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
        rows.into_iter()
            .map(|row| {
                Ok(HostKeyRow {
                    key: row.key,
                    names: from_json("host_keys", &row.names)?,
                    certified_until: row.certified_until,
                })
            })
            .collect()
    }
}
