//! Operations and their per-node results.

use std::collections::HashMap;

use haas_api::operation::{NodeProgress, OperationState};
use sqlx::{query, query_as, query_scalar};

use super::{Result, Tx, changed, from_text, from_word, on, word};
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
    strategy: String,
    min_success: Option<String>,
    committed_at: Option<i64>,
    reason: String,
    state: String,
    created_at: i64,
    ended_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct NodeRow {
    node_id: String,
    generation: i64,
    goes_back: bool,
    state: String,
    reason: String,
    failure: Option<String>,
}

impl Tx {
    /// Adds an operation with its nodes.
    pub async fn add_operation(&mut self, operation: &Operation) -> Result<()> {
        changed!(
            self,
            query(
                "insert into operations (id, kind, actor, summary, key, request, at_most, state,
                   created_at, ended_at, actor_id, tenant, strategy, min_success, committed_at, reason)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
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
            .bind(word(&operation.strategy))
            .bind(operation.min_success.map(|least| least.to_string()))
            .bind(operation.committed_at)
            .bind(&operation.reason)
        )?;
        for (position, node) in operation.nodes.iter().enumerate() {
            changed!(
                self,
                query(
                    "insert into operation_nodes (operation_id, node_id, position, generation, state, reason,
                       failure, goes_back)
                     values ($1, $2, $3, $4, $5, $6, $7, $8)",
                )
                .bind(&operation.id)
                .bind(&node.node_id)
                .bind(i64::try_from(position).unwrap_or(i64::MAX))
                .bind(node.generation)
                .bind(word(&node.state))
                .bind(&node.reason)
                .bind(&node.failure)
                .bind(node.goes_back)
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
            c => query_as(
                "select * from operations where state in ('running', 'paused', 'rolling-back')
                 order by created_at, id",
            )
            .fetch_all(c)
        )?;
        let mut operations = Vec::with_capacity(rows.len());
        for row in rows {
            operations.push(self.with_nodes(row).await?);
        }
        Ok(operations)
    }

    /// The names of an operation's nodes, by their ids.
    pub async fn node_names_of_operation(&mut self, id: &str) -> Result<HashMap<String, String>> {
        let rows: Vec<(String, String)> = on!(
            self,
            c => query_as(
                "select nodes.id, nodes.name from operation_nodes
                 join nodes on nodes.id = operation_nodes.node_id
                 where operation_nodes.operation_id = $1",
            )
            .bind(id)
            .fetch_all(c)
        )?;
        Ok(rows.into_iter().collect())
    }

    /// How one node of an operation stands towards the generation that it was given; true if that is
    /// news.
    pub async fn set_operation_node(
        &mut self,
        operation: &str,
        node: &str,
        generation: i64,
        state: NodeProgress,
        reason: &str,
    ) -> Result<bool> {
        let done = changed!(
            self,
            query(
                "update operation_nodes set state = $3, reason = $4
                 where operation_id = $1 and node_id = $2 and generation = $5
                   and (state <> $3 or reason <> $4)",
            )
            .bind(operation)
            .bind(node)
            .bind(word(&state))
            .bind(reason)
            .bind(generation)
        )?;
        Ok(done == 1)
    }

    /// A node of an operation goes back: the generation that brings it there, and why it did not get
    /// where it was to go.
    pub async fn send_operation_node_back(
        &mut self,
        operation: &str,
        node: &str,
        generation: i64,
        failure: Option<&str>,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "update operation_nodes set generation = $3, failure = $4, goes_back = true,
                   state = 'waiting', reason = 'goes back'
                 where operation_id = $1 and node_id = $2",
            )
            .bind(operation)
            .bind(node)
            .bind(generation)
            .bind(failure)
        )?;
        Ok(())
    }

    /// Pauses an operation, lets it go on, or sends it back; true if it was in the state `from`.
    pub async fn turn_operation(
        &mut self,
        id: &str,
        from: OperationState,
        to: OperationState,
        reason: &str,
    ) -> Result<bool> {
        let done = changed!(
            self,
            query("update operations set state = $3, reason = $4 where id = $1 and state = $2")
                .bind(id)
                .bind(word(&from))
                .bind(word(&to))
                .bind(reason)
        )?;
        Ok(done == 1)
    }

    /// Enough nodes of an operation are there: from now on its users are let in. True if it ran and was
    /// not committed before.
    pub async fn commit_operation(&mut self, id: &str, at: Micros) -> Result<bool> {
        let done = changed!(
            self,
            query(
                "update operations set committed_at = $2
                 where id = $1 and state = 'running' and committed_at is null",
            )
            .bind(id)
            .bind(at)
        )?;
        Ok(done == 1)
    }

    /// Whether a node that boots this generation keeps users out: until all of its operation are there, and for
    /// good when the operation takes it back to what it was.
    pub async fn operation_holds_logins(
        &mut self,
        id: &str,
        node: &str,
        generation: i64,
    ) -> Result<bool> {
        let found: Option<i64> = on!(
            self,
            c => query_scalar(
                "select cast(1 as bigint) from operations
                 where id = $1 and min_success is not null and committed_at is null
                   and (state in ('running', 'paused')
                     or exists (select 1 from operation_nodes
                       where operation_nodes.operation_id = operations.id
                         and operation_nodes.node_id = $2
                         and operation_nodes.generation > $3))",
            )
            .bind(id)
            .bind(node)
            .bind(generation)
            .fetch_optional(c)
        )?;
        Ok(found.is_some())
    }

    /// Ends an operation; true if it was not over before.
    pub async fn end_operation(
        &mut self,
        id: &str,
        state: OperationState,
        at: Micros,
    ) -> Result<bool> {
        let done = changed!(
            self,
            query(
                "update operations set state = $2, ended_at = $3
                 where id = $1 and state in ('running', 'paused', 'rolling-back')",
            )
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
                "select node_id, generation, goes_back, state, reason, failure from operation_nodes
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
            strategy: from_word("operations", &row.strategy)?,
            min_success: row.min_success.map(|m| from_text("operations", &m)).transpose()?,
            committed_at: row.committed_at,
            reason: row.reason,
            created_at: row.created_at,
            ended_at: row.ended_at,
            nodes: nodes
                .into_iter()
                .map(|node| {
                    Ok(OperationNode {
                        node_id: node.node_id,
                        generation: node.generation,
                        goes_back: node.goes_back,
                        state: from_word("operation_nodes", &node.state)?,
                        reason: node.reason,
                        failure: node.failure,
                    })
                })
                .collect::<Result<_>>()?,
        })
    }
}
