//! Unknown machines that were seen on the network.

use haas_api::names::Mac;
use sqlx::{query, query_as};

use super::{Result, Tx, changed, from_text, on};
use crate::model::Micros;

/// A machine that is in no inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredRow {
    /// Its address.
    pub mac: Mac,
    /// `node` or `bmc`.
    pub kind: String,
    /// What it said of itself.
    pub description: String,
    /// The network that it was seen in.
    pub network: String,
    /// When it was first seen, wall clock.
    pub first_seen: Micros,
    /// When it was last seen, wall clock.
    pub last_seen: Micros,
}

impl Tx {
    /// Notes an unknown machine.
    pub async fn seen(&mut self, seen: &DiscoveredRow) -> Result<()> {
        changed!(
            self,
            query(
                "insert into discovered (mac, kind, description, network, first_seen, last_seen)
                 values ($1, $2, $3, $4, $5, $6)
                 on conflict (mac) do update set kind = excluded.kind,
                   description = excluded.description, network = excluded.network,
                   last_seen = excluded.last_seen",
            )
            .bind(seen.mac.to_string())
            .bind(&seen.kind)
            .bind(&seen.description)
            .bind(&seen.network)
            .bind(seen.first_seen)
            .bind(seen.last_seen)
        )?;
        // A LAN with many strangers must not fill the disk.
        changed!(
            self,
            query(
                "delete from discovered where mac not in
                 (select mac from discovered order by last_seen desc limit 1000)",
            )
        )?;
        Ok(())
    }

    /// Unknown machines, last seen first, without those that the inventory knows by now.
    pub async fn discovered(&mut self) -> Result<Vec<DiscoveredRow>> {
        let rows: Vec<(String, String, String, String, i64, i64)> = on!(
            self,
            c => query_as(
                "select mac, kind, description, network, first_seen, last_seen from discovered
                 where mac not in (select boot_mac from nodes where present)
                 order by last_seen desc",
            )
            .fetch_all(c)
        )?;
        rows.into_iter()
            .map(|(mac, kind, description, network, first_seen, last_seen)| {
                Ok(DiscoveredRow {
                    mac: from_text("discovered", &mac)?,
                    kind,
                    description,
                    network,
                    first_seen,
                    last_seen,
                })
            })
            .collect()
    }
}
