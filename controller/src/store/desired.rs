//! Desired states: only ever added, each with the node's next generation.

use std::collections::HashMap;

use sqlx::{query, query_as, query_scalar};

use super::{Result, StoreError, Tx, changed, from_text, on, update_nodes};
use crate::model::{BootOnce, Desired, ImageWanted, Micros, NewDesired, Node};

#[derive(sqlx::FromRow)]
struct Row {
    generation: i64,
    power_on: bool,
    image_digest: Option<String>,
    image_name: Option<String>,
    overlay_id: Option<String>,
    rank: i64,
    rescue: bool,
    forced: bool,
    reboot: bool,
    boot_once: Option<String>,
    kexec_from: Option<String>,
    cause: String,
    actor: String,
    actor_id: String,
    tenant: String,
    operation_id: Option<String>,
    created_at: i64,
}

/// A row, and whose it is.
#[derive(sqlx::FromRow)]
struct NodesRow {
    node_id: String,
    #[sqlx(flatten)]
    row: Row,
}

impl NodesRow {
    fn parse(self) -> Result<(String, Desired)> {
        Ok((self.node_id, self.row.parse()?))
    }
}

impl Row {
    fn parse(self) -> Result<Desired> {
        let image = match (self.image_digest, self.image_name) {
            (Some(digest), Some(name)) => {
                Some(ImageWanted { digest: from_text("desired", &digest)?, name })
            }
            _ => None,
        };
        Ok(Desired {
            generation: self.generation,
            created_at: self.created_at,
            wanted: NewDesired {
                power_on: self.power_on,
                image,
                overlay_id: self.overlay_id,
                rank: u32::try_from(self.rank).map_err(|e| StoreError::Corrupt {
                    table: "desired",
                    problem: e.to_string(),
                })?,
                rescue: self.rescue,
                forced: self.forced,
                reboot: self.reboot,
                boot_once: self.boot_once.map(|b| from_text("desired", &b)).transpose()?,
                kexec_from: self.kexec_from,
                cause: self.cause,
                actor: self.actor,
                actor_id: self.actor_id,
                tenant: self.tenant,
                operation_id: self.operation_id,
            },
        })
    }
}

impl Tx {
    /// Gives `node`, as it was read, its next desired state and answers its generation. Any fault is
    /// lifted by it, and a BMC that was silent, or did not switch
    /// off, gets its time anew. [`StoreError::Conflict`] when the node has changed since it was read.
    pub async fn add_desired(
        &mut self,
        node: &Node,
        wanted: &NewDesired,
        at: Micros,
    ) -> Result<i64> {
        let generation = node.generation + 1;
        let done = changed!(
            self,
            query(update_nodes!(
                "generation = $2, version = version + 1, fault = null,
                 power_failed_at = null, tried = null,
                 ending = case when ending in ('hard', 'bmc-reset') then null else ending end,
                 ending_since = case when ending in ('hard', 'bmc-reset') then null
                   else ending_since end
                 where id = $1 and version = $3"
            ))
            .bind(&node.id)
            .bind(generation)
            .bind(node.version)
        )?;
        if done == 0 {
            return Err(StoreError::Conflict(format!("node {}", node.name)));
        }
        changed!(
            self,
            query(
                "insert into desired (node_id, generation, power_on, image_digest, image_name,
                   overlay_id, rank, rescue, forced, reboot, cause, actor, actor_id, operation_id,
                   created_at, boot_once, tenant, kexec_from)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
            )
            .bind(&node.id)
            .bind(generation)
            .bind(wanted.power_on)
            .bind(wanted.image.as_ref().map(|image| image.digest.as_str()))
            .bind(wanted.image.as_ref().map(|image| image.name.as_str()))
            .bind(&wanted.overlay_id)
            .bind(i64::from(wanted.rank))
            .bind(wanted.rescue)
            .bind(wanted.forced)
            .bind(wanted.reboot)
            .bind(&wanted.cause)
            .bind(&wanted.actor)
            .bind(&wanted.actor_id)
            .bind(&wanted.operation_id)
            .bind(at)
            .bind(wanted.boot_once.map(BootOnce::as_str))
            .bind(&wanted.tenant)
            .bind(&wanted.kexec_from)
        )?;
        Ok(generation)
    }

    /// A node's desired state of this generation.
    pub async fn desired(&mut self, node_id: &str, generation: i64) -> Result<Option<Desired>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from desired_states where node_id = $1 and generation = $2")
                .bind(node_id)
                .bind(generation)
                .fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// Which operation has asked for a node's desired state of this generation.
    pub async fn operation_of(&mut self, node_id: &str, generation: i64) -> Result<Option<String>> {
        let found: Option<Option<String>> = on!(
            self,
            c => query_scalar(
                "select operation_id from desired where node_id = $1 and generation = $2",
            )
            .bind(node_id)
            .bind(generation)
            .fetch_optional(c)
        )?;
        Ok(found.flatten())
    }

    /// What is wanted of each node now, by the node's id.
    pub async fn all_desired(&mut self) -> Result<HashMap<String, Desired>> {
        let rows: Vec<NodesRow> = on!(
            self,
            c => query_as(
                "select d.* from nodes n cross join desired_states d
                 where n.present and d.node_id = n.id and d.generation = n.generation",
            )
            .fetch_all(c)
        )?;
        rows.into_iter().map(NodesRow::parse).collect()
    }

    /// What an operation wants of its nodes, by the node's id.
    pub async fn desired_by_operation(&mut self, id: &str) -> Result<HashMap<String, Desired>> {
        let rows: Vec<NodesRow> = on!(
            self,
            c => query_as(
                "select d.* from operation_nodes o
                 join desired_states d on d.node_id = o.node_id and d.generation = o.generation
                 where o.operation_id = $1",
            )
            .bind(id)
            .fetch_all(c)
        )?;
        rows.into_iter().map(NodesRow::parse).collect()
    }

    /// What the last attempt of each node serves, where that is no longer what is wanted of it, by the
    /// node's id.
    pub async fn all_served_before(&mut self) -> Result<HashMap<String, Desired>> {
        let rows: Vec<NodesRow> = on!(
            self,
            c => query_as(
                "select d.* from nodes n cross join attempts a cross join desired_states d
                 where n.present and a.generation <> n.generation and a.id = (
                     select b.id from attempts b where b.node_id = n.id and not b.beside
                     order by b.opened_at desc, b.id desc limit 1)
                   and d.node_id = n.id and d.generation = a.generation",
            )
            .fetch_all(c)
        )?;
        rows.into_iter().map(NodesRow::parse).collect()
    }

    /// The desired state that a rollback from `generation` goes to: the last older one in which the
    /// node was to run something else.
    pub async fn desired_before(
        &mut self,
        node_id: &str,
        now: &Desired,
    ) -> Result<Option<Desired>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select * from desired_states where node_id = $1 and generation < $2 and power_on
                 order by generation desc",
            )
            .bind(node_id)
            .bind(now.generation)
            .fetch_all(c)
        )?;
        for row in rows {
            let older = row.parse()?;
            if older.wanted.image.as_ref().map(|i| &i.digest)
                != now.wanted.image.as_ref().map(|i| &i.digest)
                || older.wanted.overlay_id != now.wanted.overlay_id
                || older.wanted.rescue != now.wanted.rescue
            {
                return Ok(Some(older));
            }
        }
        Ok(None)
    }

    /// How many nodes, but for these, are to be on for this tenant.
    pub async fn nodes_of_tenant(&mut self, tenant: &str, but: &[String]) -> Result<usize> {
        let ids: Vec<String> = on!(
            self,
            c => query_scalar(
                "select nodes.id from nodes cross join desired
                 where desired.node_id = nodes.id and desired.generation = nodes.generation
                   and desired.tenant = $1 and desired.power_on",
            )
            .bind(tenant)
            .fetch_all(c)
        )?;
        Ok(ids.iter().filter(|id| !but.contains(id)).count())
    }

    /// The names of the nodes that run this overlay, or shall.
    pub async fn overlay_runs_on(&mut self, overlay_id: &str) -> Result<Vec<String>> {
        on!(
            self,
            c => query_scalar(
                "select distinct nodes.name from nodes join desired on desired.node_id = nodes.id
                 where desired.overlay_id = $1
                   and ((desired.generation = nodes.generation and desired.power_on)
                        or exists (select 1 from attempts where attempts.node_id = nodes.id
                                   and attempts.generation = desired.generation
                                   and attempts.state in ('open', 'ready')))
                 order by nodes.name",
            )
            .bind(overlay_id)
            .fetch_all(c)
        )
    }

    /// The names of the nodes that want this overlay now, that still run with it or that may go back
    /// to it.
    pub async fn overlay_users(&mut self, overlay_id: &str) -> Result<Vec<String>> {
        let rows: Vec<(String,)> = on!(
            self,
            c => query_as(
                "select distinct nodes.name from nodes join desired on desired.node_id = nodes.id
                 where desired.overlay_id = $1
                   and (desired.generation = nodes.generation
                        or exists (select 1 from operation_nodes
                                   join operations on operations.id = operation_nodes.operation_id
                                   where operation_nodes.node_id = nodes.id
                                   and operation_nodes.generation = desired.generation + 1
                                   and operations.committed_at is null
                                   and operations.state in ('running', 'paused'))
                        or exists (select 1 from attempts where attempts.node_id = nodes.id
                                   and attempts.generation = desired.generation
                                   and attempts.state in ('open', 'ready')))
                 order by nodes.name",
            )
            .bind(overlay_id)
            .fetch_all(c)
        )?;
        Ok(rows.into_iter().map(|(name,)| name).collect())
    }
}
