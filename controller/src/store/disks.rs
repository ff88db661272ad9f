//! The disks of nodes, and which node has which overlay store.

use std::collections::HashMap;

use haas_api::agent::Disk;
use sqlx::{query, query_as, query_scalar};

use super::{Result, Tx, changed, from_json, on, overlays::ShardRow, to_json, update_nodes};
use crate::model::{Micros, Node};

/// A disk of a node, as its agent last saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRow {
    /// The node.
    pub node_id: String,
    /// What the agent said.
    pub disk: Disk,
    /// When, wall clock.
    pub seen_at: Micros,
    /// Whether an admin has claimed it to be wiped.
    pub claimed: bool,
}

fn parsed((node_id, disk, seen_at, claimed): (String, String, i64, bool)) -> Result<DiskRow> {
    Ok(DiskRow { node_id, disk: from_json("disks", &disk)?, seen_at, claimed })
}

impl Tx {
    /// Replaces what is known of a node's disks; claims by serial are kept.
    pub async fn set_disks(&mut self, node_id: &str, disks: &[Disk], at: Micros) -> Result<()> {
        let claimed: Vec<String> = self
            .disks(node_id)
            .await?
            .into_iter()
            .filter(|row| row.claimed)
            .filter_map(|row| row.disk.serial)
            .collect();
        changed!(self, query("delete from disks where node_id = $1").bind(node_id))?;
        for disk in disks {
            let claim = disk.serial.as_ref().is_some_and(|serial| claimed.contains(serial));
            changed!(
                self,
                query(
                    "insert into disks (node_id, name, serial, disk, seen_at, claimed)
                     values ($1, $2, $3, $4, $5, $6)",
                )
                .bind(node_id)
                .bind(&disk.name)
                .bind(&disk.serial)
                .bind(to_json(disk))
                .bind(at)
                .bind(claim)
            )?;
        }
        Ok(())
    }

    /// A node's disks, by name.
    pub async fn disks(&mut self, node_id: &str) -> Result<Vec<DiskRow>> {
        let rows: Vec<(String, String, i64, bool)> = on!(
            self,
            c => query_as("select node_id, disk, seen_at, claimed from disks where node_id = $1 order by name")
                .bind(node_id)
                .fetch_all(c)
        )?;
        rows.into_iter().map(parsed).collect()
    }

    /// The disks of each node that has told of any, by the node's id.
    pub async fn all_disks(&mut self) -> Result<HashMap<String, Vec<DiskRow>>> {
        let rows: Vec<(String, String, i64, bool)> = on!(
            self,
            c => query_as("select node_id, disk, seen_at, claimed from disks order by node_id, name")
                .fetch_all(c)
        )?;
        let mut disks: HashMap<String, Vec<DiskRow>> = HashMap::new();
        for row in rows {
            let row = parsed(row)?;
            disks.entry(row.node_id.clone()).or_default().push(row);
        }
        Ok(disks)
    }

    /// Claims (or, once wiped, no longer claims) a disk by its serial; how many matched.
    pub async fn claim_disk(&mut self, node_id: &str, serial: &str, claimed: bool) -> Result<u64> {
        changed!(
            self,
            query("update disks set claimed = $3 where node_id = $1 and serial = $2")
                .bind(node_id)
                .bind(serial)
                .bind(claimed)
        )
    }

    /// The overlay store that a node has opened, or that it is to open. What was accepted or allowed
    /// was so for this once.
    pub async fn set_store(
        &mut self,
        id: &str,
        store_id: Option<&str>,
        generation: i64,
    ) -> Result<()> {
        let before: Option<Option<String>> = on!(
            self,
            c => query_scalar("select store_id from nodes where id = $1").bind(id).fetch_optional(c)
        )?;
        // At most boots it is the one that it was.
        self.changes_places |= before.flatten().as_deref() != store_id;
        changed!(
            self,
            query(update_nodes!(
                "store_id = $2, store_generation = $3, store_accepted = false,
                 store_repair = false where id = $1"
            ))
            .bind(id)
            .bind(store_id)
            .bind(generation)
        )?;
        Ok(())
    }

    /// Notes that an admin has accepted the node's store, whatever mark its disk bears.
    pub async fn accept_store(&mut self, id: &str) -> Result<()> {
        changed!(self, query(update_nodes!("store_accepted = true where id = $1")).bind(id))?;
        Ok(())
    }

    /// Notes that an admin lets the node's next boot repair its store.
    pub async fn allow_repair(&mut self, id: &str) -> Result<()> {
        changed!(self, query(update_nodes!("store_repair = true where id = $1")).bind(id))?;
        Ok(())
    }

    /// Two nodes' stores change places, as their disks did; either may have none. What lies in a store
    /// goes with it: shards with their ranks, and what is still to be deleted.
    pub async fn exchange_stores(&mut self, a: &Node, b: &Node) -> Result<()> {
        // One store is never two nodes', not for a moment.
        self.set_store(&a.id, None, 0).await?;
        self.set_store(&b.id, a.store_id.as_deref(), a.store_generation).await?;
        self.set_store(&a.id, b.store_id.as_deref(), b.store_generation).await?;
        let (of_a, of_b) = (self.shards_of(&a.id).await?, self.shards_of(&b.id).await?);
        let mut moved = Vec::new();
        for (shards, others, to) in [(&of_a, &of_b, b), (&of_b, &of_a, a)] {
            for shard in shards {
                let other = others.iter().find(|other| other.overlay_id == shard.overlay_id);
                // Where neither node has data, each keeps the rank that it was given.
                if shard.store_id.is_some() || other.is_some_and(|other| other.store_id.is_some()) {
                    moved.push((shard, to));
                }
            }
        }
        for (shard, _) in &moved {
            changed!(
                self,
                query("delete from shards where overlay_id = $1 and node_id = $2")
                    .bind(&shard.overlay_id)
                    .bind(&shard.node_id)
            )?;
        }
        for (shard, to) in moved {
            self.put_shard(&ShardRow { node_id: to.id.clone(), ..shard.clone() }).await?;
        }
        for node in [a, b] {
            self.keep_a_rank(node).await?;
        }
        self.exchange_removed_shards(&a.id, &b.id).await
    }

    async fn shards_of(&mut self, node_id: &str) -> Result<Vec<ShardRow>> {
        on!(
            self,
            c => query_as("select * from shards where node_id = $1").bind(node_id).fetch_all(c)
        )
    }

    async fn put_shard(&mut self, shard: &ShardRow) -> Result<()> {
        changed!(
            self,
            query(
                "insert into shards (overlay_id, node_id, rank, store_id, bytes, last_image,
                   last_used_at)
                 values ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(&shard.overlay_id)
            .bind(&shard.node_id)
            .bind(shard.rank)
            .bind(&shard.store_id)
            .bind(shard.bytes)
            .bind(&shard.last_image)
            .bind(shard.last_used_at)
        )?;
        Ok(())
    }

    /// A node that is to run with an overlay, of which it has lost its part with the rank, gets the
    /// next free rank: it may begin empty.
    async fn keep_a_rank(&mut self, node: &Node) -> Result<()> {
        let desired = self.desired(&node.id, node.generation).await?;
        let Some(overlay_id) = desired.and_then(|desired| desired.wanted.overlay_id) else {
            return Ok(());
        };
        let shards = self.shards(&overlay_id).await?;
        if shards.iter().any(|shard| shard.node_id == node.id) {
            return Ok(());
        }
        let next = shards.iter().map(|shard| shard.rank + 1).max().unwrap_or(0);
        self.add_shard(&overlay_id, &node.id, u32::try_from(next).unwrap_or(u32::MAX)).await
    }

    async fn exchange_removed_shards(&mut self, a: &str, b: &str) -> Result<()> {
        let (of_a, of_b) = (self.removed_shards(a).await?, self.removed_shards(b).await?);
        changed!(
            self,
            query("delete from removed_shards where node_id = $1 or node_id = $2").bind(a).bind(b)
        )?;
        for (overlays, to) in [(of_a, b), (of_b, a)] {
            for overlay_id in overlays {
                changed!(
                    self,
                    query("insert into removed_shards (overlay_id, node_id) values ($1, $2)")
                        .bind(overlay_id)
                        .bind(to)
                )?;
            }
        }
        Ok(())
    }
}
