//! What was seen of the networks that nodes boot from.

use sqlx::{query, query_scalar};

use super::{Result, Tx, changed, on};
use crate::model::Micros;

impl Tx {
    /// Notes that haasd was the network's only DHCP server at this time, steady clock.
    pub async fn set_alone(&mut self, network: &str, at: Micros) -> Result<()> {
        changed!(
            self,
            query(
                "insert into networks (name, alone_at) values ($1, $2)
                 on conflict (name) do update set alone_at = excluded.alone_at",
            )
            .bind(network)
            .bind(at)
        )?;
        Ok(())
    }

    /// It is not alone any more.
    pub async fn set_not_alone(&mut self, network: &str) -> Result<()> {
        changed!(self, query("delete from networks where name = $1").bind(network))?;
        Ok(())
    }

    /// When haasd was last known to be the network's only DHCP server, steady clock.
    pub async fn alone_at(&mut self, network: &str) -> Result<Option<Micros>> {
        on!(
            self,
            c => query_scalar("select alone_at from networks where name = $1")
                .bind(network)
                .fetch_optional(c)
        )
    }
}
