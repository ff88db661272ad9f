//! For whom a node is set up, beside what is wanted of it: what must be done before another tenant gets
//! it is known by the difference.

use sqlx::{query, query_as};

use super::{Result, Tx, changed, on};

/// For whom a node is set up, each by the id of a user or project; none: nobody knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct TenancyRow {
    /// In whose network it is.
    pub network_of: Option<String>,
    /// Who may have written on its scratch disks.
    pub scratch_of: Option<String>,
    /// For whom the machine was last found to be as its baseline says.
    pub checked_for: Option<String>,
}

impl Tx {
    /// For whom a node is set up.
    pub async fn tenancy(&mut self, node_id: &str) -> Result<TenancyRow> {
        let row: Option<TenancyRow> = on!(
            self,
            c => query_as("select network_of, scratch_of, checked_for from tenancies where node_id = $1")
                .bind(node_id)
                .fetch_optional(c)
        )?;
        Ok(row.unwrap_or_default())
    }

    /// Notes in whose network a node is.
    pub async fn set_network_of(&mut self, node_id: &str, tenant: &str) -> Result<()> {
        changed!(
            self,
            query(
                "insert into tenancies (node_id, network_of) values ($1, $2)
                 on conflict (node_id) do update set network_of = $2",
            )
            .bind(node_id)
            .bind(tenant)
        )?;
        Ok(())
    }

    /// Notes who may write on a node's scratch disks from now on.
    pub async fn set_scratch_of(&mut self, node_id: &str, tenant: &str) -> Result<()> {
        changed!(
            self,
            query(
                "insert into tenancies (node_id, scratch_of) values ($1, $2)
                 on conflict (node_id) do update set scratch_of = $2",
            )
            .bind(node_id)
            .bind(tenant)
        )?;
        Ok(())
    }

    /// Notes for whom a node was found to be as its baseline says.
    pub async fn set_checked_for(&mut self, node_id: &str, tenant: &str) -> Result<()> {
        changed!(
            self,
            query(
                "insert into tenancies (node_id, checked_for) values ($1, $2)
                 on conflict (node_id) do update set checked_for = $2",
            )
            .bind(node_id)
            .bind(tenant)
        )?;
        Ok(())
    }
}
