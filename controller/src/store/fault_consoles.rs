//! What nodes had printed last when they came to be in fault.

use sqlx::{query, query_as};

use super::{Result, Tx, changed, from_json, on, to_json};

impl Tx {
    /// Keeps the last lines of a node's console for a fault of this generation, in place of those of an
    /// older one. They were printed while the node was `tenant`'s.
    pub async fn set_fault_console(
        &mut self,
        node_id: &str,
        generation: i64,
        tenant: &str,
        lines: &[String],
    ) -> Result<()> {
        changed!(
            self,
            query(
                "insert into fault_consoles (node_id, generation, tenant, lines)
                 values ($1, $2, $3, $4)
                 on conflict (node_id) do update set generation = excluded.generation,
                   tenant = excluded.tenant, lines = excluded.lines",
            )
            .bind(node_id)
            .bind(generation)
            .bind(tenant)
            .bind(to_json(&lines))
        )?;
        Ok(())
    }

    /// The lines for a fault of this generation, and whose they are; none where there are none.
    pub async fn fault_console(
        &mut self,
        node_id: &str,
        generation: i64,
    ) -> Result<Option<(String, Vec<String>)>> {
        let row: Option<(String, String)> = on!(
            self,
            c => query_as(
                "select tenant, lines from fault_consoles where node_id = $1 and generation = $2",
            )
            .bind(node_id)
            .bind(generation)
            .fetch_optional(c)
        )?;
        row.map(|(tenant, lines)| Ok((tenant, from_json("fault_consoles", &lines)?))).transpose()
    }
}
