//! Boot attempts.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use haas_api::{
    agent::{BootStage, Failure, Kexec},
    check::CheckReport,
    names::{Digest, NodeName},
};
use sqlx::{query, query_as};

use super::{Result, StoreError, Tx, changed, from_json, from_text, on, to_json, update_nodes};
use crate::model::{Attempt, AttemptState, Given, Micros};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    node_id: String,
    generation: i64,
    cause: String,
    state: String,
    stage: String,
    stage_since: i64,
    stages: String,
    credential_hash: Option<String>,
    agent_address: Option<String>,
    agent_seq: i64,
    initiator: String,
    chap: bool,
    by_itself: bool,
    kexec_of: Option<String>,
    can_kexec: Option<String>,
    opened_at: i64,
    counted_from: i64,
    ended_at: Option<i64>,
    boot_bytes: i64,
    root_bytes: i64,
    held_since: Option<i64>,
    failure: Option<String>,
    epoch: i64,
    checks: Option<String>,
}

/// An attempt whose node may have its root, and what that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveBoot {
    /// The attempt's id.
    pub id: String,
    /// By which name it logs in.
    pub initiator: String,
    /// Whether it proves itself.
    pub chap: bool,
    /// Whether it has yet to prove that it runs.
    pub is_open: bool,
    /// Its node.
    pub node: NodeName,
    /// The node's address, where it has one.
    pub address: Option<Ipv4Addr>,
    /// The image that it boots.
    pub image: Digest,
    /// Who has the node, by id; empty: nobody.
    pub tenant: String,
    /// The same by name.
    pub tenant_name: Option<String>,
}

#[derive(sqlx::FromRow)]
struct LiveRow {
    id: String,
    initiator: String,
    chap: bool,
    state: String,
    node: String,
    address: Option<String>,
    image: String,
    tenant: String,
    tenant_name: Option<String>,
}

impl LiveRow {
    fn parse(self) -> Result<LiveBoot> {
        let Self { id, initiator, chap, state, node, address, image, tenant, tenant_name } = self;
        let state: AttemptState = from_text("attempts", &state)?;
        Ok(LiveBoot {
            id,
            initiator,
            chap,
            is_open: state == AttemptState::Open,
            node: from_text("nodes", &node)?,
            address: address.map(|a| from_text("nodes", &a)).transpose()?,
            image: from_text("desired", &image)?,
            tenant,
            tenant_name,
        })
    }
}

fn by_node(rows: Vec<Row>) -> Result<HashMap<String, Attempt>> {
    rows.into_iter().map(|row| Ok((row.node_id.clone(), row.parse()?))).collect()
}

impl Row {
    fn parse(self) -> Result<Attempt> {
        Ok(Attempt {
            id: self.id,
            node_id: self.node_id,
            generation: self.generation,
            cause: from_text("attempts", &self.cause)?,
            state: from_text("attempts", &self.state)?,
            stage: stage(&self.stage)?,
            stage_since: self.stage_since,
            stages: from_json("attempts", &self.stages)?,
            token_spent: self.credential_hash.is_some(),
            agent_address: self.agent_address.map(|a| from_text("attempts", &a)).transpose()?,
            agent_seq: u64::try_from(self.agent_seq)
                .map_err(|e| StoreError::Corrupt { table: "attempts", problem: e.to_string() })?,
            initiator: self.initiator,
            chap: self.chap,
            by_itself: self.by_itself,
            kexec_of: self.kexec_of,
            can_kexec: self.can_kexec.map(|k| from_json("attempts", &k)).transpose()?,
            opened_at: self.opened_at,
            counted_from: self.counted_from,
            ended_at: self.ended_at,
            boot_bytes: self.boot_bytes,
            root_bytes: self.root_bytes,
            held_since: self.held_since,
            failure: self.failure.map(|f| from_json("attempts", &f)).transpose()?,
            epoch: self.epoch,
            checks: self.checks.map_or(Ok(Vec::new()), |c| from_json("attempts", &c))?,
        })
    }
}

fn stage(word: &str) -> Result<BootStage> {
    BootStage::ALL.into_iter().find(|stage| stage.as_str() == word).ok_or_else(|| {
        StoreError::Corrupt { table: "attempts", problem: format!("stage {word:?}") }
    })
}

impl Tx {
    /// Adds an attempt, open at its first stage, and ends the node's others.
    pub async fn open_attempt(&mut self, attempt: &Attempt, token_hash: &str) -> Result<()> {
        self.end_attempts(&attempt.node_id, attempt.opened_at).await?;
        self.add_attempt(attempt, token_hash).await?;
        // What the agent of an older boot said of logins is over with it.
        changed!(
            self,
            query(update_nodes!("heartbeat = null where id = $1")).bind(&attempt.node_id)
        )?;
        Ok(())
    }

    /// Adds an attempt beside the one whose system starts its kernel, and which lives on until it has.
    pub async fn open_beside(&mut self, attempt: &Attempt, token_hash: &str) -> Result<()> {
        self.add_attempt(attempt, token_hash).await
    }

    async fn add_attempt(&mut self, attempt: &Attempt, token_hash: &str) -> Result<()> {
        changed!(
            self,
            query(
                "insert into attempts (id, node_id, generation, cause, state, stage, stage_since, stages,
                   token_hash, agent_seq, initiator, opened_at, counted_from, boot_bytes, root_bytes,
                   chap, by_itself, epoch, kexec_of, beside)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, $12, 0, 0, $13, $14, $15, $16, $17)",
            )
            .bind(&attempt.id)
            .bind(&attempt.node_id)
            .bind(attempt.generation)
            .bind(attempt.cause.as_str())
            .bind(attempt.state.as_str())
            .bind(attempt.stage.as_str())
            .bind(attempt.stage_since)
            .bind(to_json(&attempt.stages))
            .bind(token_hash)
            .bind(&attempt.initiator)
            .bind(attempt.opened_at)
            .bind(attempt.counted_from)
            .bind(attempt.chap)
            .bind(attempt.by_itself)
            .bind(attempt.epoch)
            .bind(&attempt.kexec_of)
            .bind(attempt.kexec_of.is_some())
        )?;
        Ok(())
    }

    /// The node's last attempt, whatever its state. One whose kernel the system before is to start, or
    /// was, is it only when that system has ended.
    pub async fn last_attempt(&mut self, node_id: &str) -> Result<Option<Attempt>> {
        let row: Option<Row> = on!(
            self,
            c => query_as(
                "select * from attempts where node_id = $1 and not beside
                 order by opened_at desc, id desc limit 1",
            )
            .bind(node_id)
            .fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// The open attempt whose kernel the system of the node's last attempt is to start.
    pub async fn next_attempt(&mut self, node_id: &str) -> Result<Option<Attempt>> {
        let row: Option<Row> = on!(
            self,
            c => query_as(
                "select * from attempts where node_id = $1 and beside and state = 'open'",
            )
            .bind(node_id)
            .fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// What [`Tx::last_attempt`] is of each node, by the node's id.
    pub async fn all_last_attempts(&mut self) -> Result<HashMap<String, Attempt>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select a.* from nodes n cross join attempts a
                 where n.present and a.id = (
                   select b.id from attempts b where b.node_id = n.id and not b.beside
                   order by b.opened_at desc, b.id desc limit 1)",
            )
            .fetch_all(c)
        )?;
        by_node(rows)
    }

    /// What [`Tx::next_attempt`] is of each node that has one, by the node's id.
    pub async fn all_next_attempts(&mut self) -> Result<HashMap<String, Attempt>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                // By the index of those that live.
                "select * from attempts
                 where state in ('open', 'ready') and beside and state = 'open'",
            )
            .fetch_all(c)
        )?;
        by_node(rows)
    }

    /// What [`Tx::failures`] are of each node in its present generation, by the node's id.
    pub async fn all_failures(&mut self) -> Result<HashMap<String, Vec<Failure>>> {
        let rows: Vec<(String, String)> = on!(
            self,
            c => query_as(
                "select a.node_id, a.failure from nodes n cross join attempts a
                 where n.present and a.node_id = n.id and a.generation = n.generation
                   and a.state = 'failed' and a.failure is not null
                   and a.opened_at > coalesce(
                     (select max(b.opened_at) from attempts b
                      where b.node_id = n.id and b.stage = 'ready'), 0)
                 order by a.opened_at",
            )
            .fetch_all(c)
        )?;
        let mut failures: HashMap<String, Vec<Failure>> = HashMap::new();
        for (node_id, failure) in rows {
            failures.entry(node_id).or_default().push(from_json("attempts", &failure)?);
        }
        Ok(failures)
    }

    /// What an attempt's agent says of its node's kexec.
    pub async fn set_can_kexec(&mut self, id: &str, kexec: Option<&Kexec>) -> Result<()> {
        changed!(
            self,
            query("update attempts set can_kexec = $2 where id = $1")
                .bind(id)
                .bind(kexec.map(to_json))
        )?;
        Ok(())
    }

    /// The system of the attempt before has ended, and has started this one's kernel: its time is
    /// counted from here.
    pub async fn kexec_begun(&mut self, next: &Attempt, at: Micros) -> Result<bool> {
        changed!(
            self,
            query(
                "update attempts set state = 'ended', ended_at = $2
                 where id = $1 and state = 'ready'
                   and exists (select 1 from attempts as other
                     where other.id = $3 and other.beside and other.state = 'open')",
            )
            .bind(&next.kexec_of)
            .bind(at)
            .bind(&next.id)
        )?;
        let done = changed!(
            self,
            query(
                "update attempts set beside = $2, stage_since = $3, counted_from = $3, failure = null
                 where id = $1 and beside and state = 'open'",
            )
            .bind(&next.id)
            .bind(false)
            .bind(at)
        )?;
        if done == 0 {
            return Ok(false);
        }
        self.set_ending(&next.node_id, None).await?;
        self.set_silence(&next.node_id, None).await?;
        changed!(self, query(update_nodes!("heartbeat = null where id = $1")).bind(&next.node_id))?;
        Ok(true)
    }

    /// The node's attempts, newest first, at most `limit`.
    pub async fn attempts_of(&mut self, node_id: &str, limit: i64) -> Result<Vec<Attempt>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select * from attempts where node_id = $1 order by opened_at desc, id desc limit $2",
            )
            .bind(node_id)
            .bind(limit)
            .fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The last attempt of each node of an operation to serve what that wants of it, by the node's id.
    pub async fn attempts_of_operation(&mut self, id: &str) -> Result<HashMap<String, Attempt>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as(
                "select a.* from operation_nodes o
                 join attempts a on a.id = (
                   select b.id from attempts b
                   where b.node_id = o.node_id and b.generation = o.generation
                   order by b.opened_at desc, b.id desc limit 1)
                 where o.operation_id = $1",
            )
            .bind(id)
            .fetch_all(c)
        )?;
        by_node(rows)
    }

    /// Attempts whose initiator may log in: open ones and those that run.
    pub async fn live_attempts(&mut self) -> Result<Vec<Attempt>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from attempts where state in ('open', 'ready')").fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The same with what they boot; those are left out that boot no image.
    pub async fn live_boots(&mut self) -> Result<Vec<LiveBoot>> {
        let rows: Vec<LiveRow> = on!(
            self,
            c => query_as(
                "select a.id, a.initiator, a.chap, a.state, n.name as node, n.address, d.image_digest as image,
                   d.tenant, u.name as tenant_name
                 from attempts a
                 join nodes n on n.id = a.node_id
                 join desired d on d.node_id = a.node_id and d.generation = a.generation
                 left join users u on u.id = d.tenant
                 where a.state in ('open', 'ready') and d.image_digest is not null",
            )
            .fetch_all(c)
        )?;
        rows.into_iter().map(LiveRow::parse).collect()
    }

    /// Why attempts of a generation have failed since the node was last ready, the oldest first.
    pub async fn failures(&mut self, node_id: &str, generation: i64) -> Result<Vec<Failure>> {
        let rows: Vec<String> = on!(
            self,
            c => sqlx::query_scalar(
                "select failure from attempts where node_id = $1 and generation = $2
                   and state = 'failed' and failure is not null and opened_at > coalesce(
                     (select max(opened_at) from attempts where node_id = $1 and stage = 'ready'), 0)
                 order by opened_at",
            )
            .bind(node_id)
            .bind(generation)
            .fetch_all(c)
        )?;
        rows.iter().map(|row| from_json("attempts", row)).collect()
    }

    /// The attempt of this id.
    pub async fn attempt(&mut self, id: &str) -> Result<Option<Attempt>> {
        let row: Option<Row> = on!(self, c => query_as("select * from attempts where id = $1").bind(id).fetch_optional(c))?;
        row.map(Row::parse).transpose()
    }

    /// Whether an attempt is open or runs.
    pub async fn attempt_lives(&mut self, id: &str) -> Result<bool> {
        let found: Option<i64> = on!(
            self,
            c => sqlx::query_scalar(
                "select cast(1 as bigint) from attempts where id = $1 and state in ('open', 'ready')",
            )
            .bind(id)
            .fetch_optional(c)
        )?;
        Ok(found.is_some())
    }

    /// The attempt behind a boot token's SHA-256.
    pub async fn attempt_by_token(&mut self, hash: &str) -> Result<Option<Attempt>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from attempts where token_hash = $1").bind(hash).fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// The attempt behind a credential's SHA-256.
    pub async fn attempt_by_credential(&mut self, hash: &str) -> Result<Option<Attempt>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from attempts where credential_hash = $1").bind(hash).fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// Exchanges an open attempt's token for a credential; false when it was spent already.
    ///
    /// It is spent once the agent has said something with the credential. Until then the answer that
    /// carried the credential may have been lost, with its connection or with haasd, and the agent
    /// asks again: the newer credential replaces the lost one. `from` is where the agent called from.
    pub async fn spend_token(
        &mut self,
        id: &str,
        credential_hash: &str,
        from: IpAddr,
    ) -> Result<bool> {
        let done = changed!(
            self,
            query(
                "update attempts set credential_hash = $2, agent_address = $3
                 where id = $1 and agent_seq = 0 and state = 'open'",
            )
            .bind(id)
            .bind(credential_hash)
            .bind(from.to_string())
        )?;
        Ok(done == 1)
    }

    /// Notes that an attempt has reached a later stage; false when it was there already. `held` is
    /// what an agent that cannot go on has said; a stage that is reached lifts it.
    pub async fn advance(
        &mut self,
        attempt: &Attempt,
        stage: BootStage,
        at: Micros,
    ) -> Result<bool> {
        if stage <= attempt.stage {
            return Ok(false);
        }
        let mut stages = attempt.stages.clone();
        stages.push((stage, at));
        let state =
            if stage == BootStage::Ready { AttemptState::Ready } else { AttemptState::Open };
        let done = changed!(
            self,
            query(
                "update attempts set stage = $2, stage_since = $3, stages = $4, state = $5,
                   held_since = null, failure = null
                 where id = $1 and stage = $6 and state = 'open'",
            )
            .bind(&attempt.id)
            .bind(stage.as_str())
            .bind(at)
            .bind(to_json(&stages))
            .bind(state.as_str())
            .bind(attempt.stage.as_str())
        )?;
        if state == AttemptState::Ready {
            self.stamp_node(&attempt.node_id).await?;
        }
        Ok(done == 1)
    }

    /// An open attempt is proved, and its users wait for the other nodes of its operation; true if that
    /// is news.
    pub async fn hold_attempt(&mut self, id: &str, at: Micros) -> Result<bool> {
        let done = changed!(
            self,
            query(
                "update attempts set held_since = $2, failure = null
                 where id = $1 and state = 'open' and held_since is null",
            )
            .bind(id)
            .bind(at)
        )?;
        Ok(done == 1)
    }

    /// The operation is committed: the attempts of its nodes go on, and the time of their stage starts
    /// anew. Answers their ids.
    pub async fn release_attempts(&mut self, operation: &str, at: Micros) -> Result<Vec<String>> {
        on!(
            self,
            c => sqlx::query_scalar(
                // By the index of those that live.
                "update attempts set held_since = null, stage_since = $2, counted_from = $2
                 where state in ('open', 'ready') and held_since is not null and state = 'open'
                   and exists (select 1 from operation_nodes
                     where operation_nodes.operation_id = $1
                       and operation_nodes.node_id = attempts.node_id
                       and operation_nodes.generation = attempts.generation)
                 returning id",
            )
            .bind(operation)
            .bind(at)
            .fetch_all(c)
        )
    }

    /// Lets a running attempt serve a newer generation that wants the same.
    pub async fn adopt_attempt(&mut self, id: &str, generation: i64) -> Result<()> {
        changed!(
            self,
            query("update attempts set generation = $2 where id = $1 and state = 'ready'")
                .bind(id)
                .bind(generation)
        )?;
        self.stamp_node_of(id).await
    }

    /// Notes the last frame of an attempt's agent that was taken.
    pub async fn set_agent_seq(&mut self, id: &str, seq: u64) -> Result<()> {
        changed!(
            self,
            query("update attempts set agent_seq = $2 where id = $1")
                .bind(id)
                .bind(i64::try_from(seq).unwrap_or(i64::MAX))
        )?;
        Ok(())
    }

    /// Adds to the bytes of kernel and initramfs that were sent.
    pub async fn add_boot_bytes(&mut self, id: &str, bytes: i64) -> Result<()> {
        changed!(
            self,
            query("update attempts set boot_bytes = boot_bytes + $2 where id = $1")
                .bind(id)
                .bind(bytes)
        )?;
        Ok(())
    }

    /// The bytes that were read from the image so far.
    pub async fn set_root_bytes(&mut self, id: &str, bytes: i64) -> Result<()> {
        changed!(
            self,
            query("update attempts set root_bytes = $2 where id = $1").bind(id).bind(bytes)
        )?;
        Ok(())
    }

    /// What an agent that cannot go on has said; none once it may try again.
    pub async fn set_failure(&mut self, id: &str, failure: Option<&Failure>) -> Result<()> {
        changed!(
            self,
            query("update attempts set failure = $2 where id = $1")
                .bind(id)
                .bind(failure.map(to_json))
        )?;
        Ok(())
    }

    /// Keeps what an attempt's node was given to boot.
    pub async fn set_given(&mut self, id: &str, given: &Given) -> Result<()> {
        changed!(
            self,
            query("update attempts set given = $2 where id = $1").bind(id).bind(to_json(given))
        )?;
        Ok(())
    }

    /// What an attempt's node was given to boot, where that is known.
    pub async fn given(&mut self, id: &str) -> Result<Option<Given>> {
        let row: Option<Option<String>> = on!(
            self,
            c => sqlx::query_scalar("select given from attempts where id = $1")
                .bind(id)
                .fetch_optional(c)
        )?;
        row.flatten().map(|given| from_json("attempts", &given)).transpose()
    }

    /// Notes how the attempt's ready checks stand.
    pub async fn set_checks(&mut self, id: &str, checks: &[CheckReport]) -> Result<()> {
        changed!(
            self,
            query("update attempts set checks = $2 where id = $1").bind(id).bind(to_json(&checks))
        )?;
        Ok(())
    }

    /// Starts the time of a stage and of the boot anew: a person helped, and the agent tries again.
    pub async fn restart_stage(&mut self, id: &str, at: Micros) -> Result<()> {
        changed!(
            self,
            query(
                "update attempts set stage_since = $2, counted_from = $2, failure = null
                 where id = $1",
            )
            .bind(id)
            .bind(at)
        )?;
        Ok(())
    }

    /// Gives an open attempt up.
    pub async fn fail_attempt(&mut self, id: &str, failure: &Failure, at: Micros) -> Result<()> {
        changed!(
            self,
            query(
                "update attempts set state = 'failed', failure = $2, ended_at = $3
                 where id = $1 and state = 'open'",
            )
            .bind(id)
            .bind(to_json(failure))
            .bind(at)
        )?;
        self.stamp_node_of(id).await
    }

    /// The same for one whose kernel what runs has not started yet; false if it has.
    pub async fn fail_beside(&mut self, id: &str, failure: &Failure, at: Micros) -> Result<bool> {
        let done = changed!(
            self,
            query(
                "update attempts set state = 'failed', failure = $2, ended_at = $3
                 where id = $1 and state = 'open' and beside",
            )
            .bind(id)
            .bind(to_json(failure))
            .bind(at)
        )?;
        Ok(done == 1)
    }

    /// Ends whatever attempts of a node are live: it went down, or another takes their place.
    pub async fn end_attempts(&mut self, node_id: &str, at: Micros) -> Result<()> {
        let ended = changed!(
            self,
            query(
                "update attempts set state = 'ended', ended_at = $2
                 where node_id = $1 and state in ('open', 'ready')",
            )
            .bind(node_id)
            .bind(at)
        )?;
        if ended > 0 {
            self.stamp_node(node_id).await?;
        }
        Ok(())
    }
    /// How the node of this attempt stands has changed.
    async fn stamp_node_of(&mut self, attempt_id: &str) -> Result<()> {
        changed!(
            self,
            query(update_nodes!(
                "present = present where id = (select node_id from attempts where attempts.id = $1)"
            ))
            .bind(attempt_id)
        )?;
        Ok(())
    }
}
