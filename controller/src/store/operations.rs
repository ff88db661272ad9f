//! Operations and their per-node results.

use haas_api::operation::{NodeProgress, OperationState};
use sqlx::{query, query_as};

use super::{Result, Tx, changed, from_word, on, word};
use crate::model::{Micros, Operation, OperationNode};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    kind: String,
    actor: String,
    actor_id: String,
    tenant: String,
    summary: String,
    key: Option<String>,
    request: String,
    at_most: Option<i64>,
    state: String,
    created_at: i64,
    ended_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct NodeRow {
    node_id: String,
    generation: i64,
    state: String,
    reason: String,
}

impl Tx {
    /// Adds an operation with its nodes.
    pub async fn add_operation(&mut self, operation: &Operation) -> Result<()> {
        changed!(
            self,
            query(
                "insert into operations (id, kind, actor, summary, key, request, at_most, state,
                   created_at, ended_at, actor_id, tenant)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            )
            .bind(&operation.id)
            .bind(&operation.kind)
            .bind(&operation.actor)
            .bind(&operation.summary)
            .bind(&operation.key)
            .bind(&operation.request)
            .bind(operation.at_most.map(i64::from))
            .bind(word(&operation.state))
            .bind(operation.created_at)
            .bind(operation.ended_at)
            .bind(&operation.actor_id)
            .bind(&operation.tenant)
        )?;
        for (position, node) in operation.nodes.iter().enumerate() {
            changed!(
                self,
                query(
                    "insert into operation_nodes (operation_id, node_id, position, generation, state, reason)
                     values ($1, $2, $3, $4, $5, $6)",
                )
                .bind(&operation.id)
                .bind(&node.node_id)
                .bind(i64::try_from(position).unwrap_or(i64::MAX))
                .bind(node.generation)
                .bind(word(&node.state))
                .bind(&node.reason)
            )?;
        }
        Ok(())
    }

    /// The operation of this id.
    pub async fn operation(&mut self, id: &str) -> Result<Option<Operation>> {
        let row: Option<Row> = on!(self, c => query_as("select * from operations where id = $1").bind(id).fetch_optional(c))?;
        match row {
            Some(row) => Ok(Some(self.with_nodes(row).await?)),
            None => Ok(None),
        }
    }

    /// The operation that a caller's request with this key has started.
    pub async fn operation_by_key(&mut self, actor: &str, key: &str) -> Result<Option<Operation>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from operations where actor = $1 and key = $2")
                .bind(actor)
                .bind(key)
                .fetch_optional(c)
        )?;
        match row {
            Some(row) => Ok(Some(self.with_nodes(row).await?)),
            None => Ok(None),
        }
    }

    /// The last `limit` operations, newest first.
    pub async fn operations(&mut self, limit: i64) -> Result<Vec<Operation>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from operations order by created_at desc, id desc limit $1")
                .bind(limit)
                .fetch_all(c)
        )?;
        let mut operations = Vec::with_capacity(rows.len());
        for row in rows {
            operations.push(self.with_nodes(row).await?);
        }
        Ok(operations)
    }

    /// Every operation that is not over, oldest first.
    pub async fn running_operations(&mut self) -> Result<Vec<Operation>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from operations where state = 'running' order by created_at, id")
                .fetch_all(c)
        )?;
        let mut operations = Vec::with_capacity(rows.len());
        for row in rows {
            operations.push(self.with_nodes(row).await?);
        }
        Ok(operations)
    }

    /// How one node of an operation stands; true if that is news.
    pub async fn set_operation_node(
        &mut self,
        operation: &str,
        node: &str,
        state: NodeProgress,
        reason: &str,
    ) -> Result<bool> {
        let done = changed!(
            self,
            query(
                "update operation_nodes set state = $3, reason = $4
                 where operation_id = $1 and node_id = $2 and (state <> $3 or reason <> $4)",
            )
            .bind(operation)
            .bind(node)
            .bind(word(&state))
            .bind(reason)
        )?;
        Ok(done == 1)
    }

    /// Ends an operation; true if it was running.
    pub async fn end_operation(
        &mut self,
        id: &str,
        state: OperationState,
        at: Micros,
    ) -> Result<bool> {
        let done = changed!(
            self,
            query("update operations set state = $2, ended_at = $3 where id = $1 and state = 'running'")
                .bind(id)
                .bind(word(&state))
                .bind(at)
        )?;
        Ok(done == 1)
    }

    async fn with_nodes(&mut self, row: Row) -> Result<Operation> {
        let nodes: Vec<NodeRow> = on!(
            self,
            c => query_as(
                "select node_id, generation, state, reason from operation_nodes
                 where operation_id = $1 order by position",
            )
            .bind(&row.id)
            .fetch_all(c)
        )?;
        Ok(Operation {
            state: from_word("operations", &row.state)?,
            id: row.id,
            kind: row.kind,
            actor: row.actor,
            actor_id: row.actor_id,
            tenant: row.tenant,
            summary: row.summary,
            key: row.key,
            request: row.request,
            at_most: row.at_most.and_then(|n| u32::try_from(n).ok()),
            created_at: row.created_at,
            ended_at: row.ended_at,
            nodes: nodes
                .into_iter()
                .map(|node| {
                    Ok(OperationNode {
                        node_id: node.node_id,
                        generation: node.generation,
                        state: from_word("operation_nodes", &node.state)?,
                        reason: node.reason,
                    })
                })
                .collect::<Result<_>>()?,
        })
    }
}
