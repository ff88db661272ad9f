//! Overlays and their shards.

use haas_api::names::OverlayLabel;
use sqlx::{query, query_as, query_scalar};

use super::{Result, StoreError, Tx, changed, from_text, on};
use crate::model::Micros;

/// An overlay as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRow {
    /// Immutable; names the folder on the nodes.
    pub id: String,
    /// The owner's immutable id.
    pub owner_id: String,
    /// The owner's name.
    pub owner: String,
    /// Its name.
    pub name: OverlayLabel,
    /// When it was made, wall clock.
    pub created_at: Micros,
    /// Whether others may be root on the nodes whose disks hold it.
    pub shares_disk: bool,
}

impl OverlayRow {
    /// `owner/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

/// An overlay's part on one node.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ShardRow {
    /// The overlay.
    pub overlay_id: String,
    /// The node.
    pub node_id: String,
    /// The node's place in the overlay, from 0.
    pub rank: i64,
    /// The store that holds it, once the node has made it.
    pub store_id: Option<String>,
    /// Bytes used, as the node last told.
    pub bytes: Option<i64>,
    /// The image that last ran under it.
    pub last_image: Option<String>,
    /// When it was last mounted, wall clock.
    pub last_used_at: Option<i64>,
}

/// What a node holds for somebody who does not want others to be root beside it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct CopyRow {
    /// The node.
    pub node_id: String,
    /// The overlay.
    pub overlay_id: String,
    /// Whose it is.
    pub owner_id: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    owner_id: String,
    owner: String,
    name: String,
    created_at: i64,
    shares_disk: bool,
}

impl Row {
    fn parse(self) -> Result<OverlayRow> {
        Ok(OverlayRow {
            name: from_text("overlays", &self.name)?,
            id: self.id,
            owner_id: self.owner_id,
            owner: self.owner,
            created_at: self.created_at,
            shares_disk: self.shares_disk,
        })
    }
}

impl Tx {
    /// Adds an overlay.
    pub async fn add_overlay(
        &mut self,
        owner_id: &str,
        name: &OverlayLabel,
        at: Micros,
    ) -> Result<String> {
        let id = ulid::Ulid::new().to_string();
        let done = changed!(
            self,
            query(
                "insert into overlays (id, owner_id, name, created_at) values ($1, $2, $3, $4)
                 on conflict (owner_id, name) do nothing",
            )
            .bind(&id)
            .bind(owner_id)
            .bind(name.as_str())
            .bind(at)
        )?;
        if done == 0 {
            return Err(StoreError::Taken(format!("the overlay name {name}")));
        }
        Ok(id)
    }

    /// All overlays, by owner and name.
    pub async fn overlays(&mut self) -> Result<Vec<OverlayRow>> {
        let rows: Vec<Row> = on!(self, c => query_as("select * from owned_overlays order by owner, name").fetch_all(c))?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The overlays of this owner, by name.
    pub async fn overlays_of(&mut self, owner_id: &str) -> Result<Vec<OverlayRow>> {
        let rows: Vec<Row> = on!(self, c => query_as("select * from owned_overlays where owner_id = $1 order by name").bind(owner_id).fetch_all(c))?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The overlay of this owner and name.
    pub async fn overlay(
        &mut self,
        owner_id: &str,
        name: &OverlayLabel,
    ) -> Result<Option<OverlayRow>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from owned_overlays where owner_id = $1 and name = $2").bind(owner_id).bind(name.as_str()).fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// The overlay of this id.
    pub async fn overlay_by_id(&mut self, id: &str) -> Result<Option<OverlayRow>> {
        let row: Option<Row> = on!(self, c => query_as("select * from owned_overlays where id = $1").bind(id).fetch_optional(c))?;
        row.map(Row::parse).transpose()
    }

    /// Notes whether others may be root on the nodes whose disks hold an overlay.
    pub async fn set_shares_disk(&mut self, id: &str, shares_disk: bool) -> Result<()> {
        changed!(
            self,
            query("update overlays set shares_disk = $2 where id = $1").bind(id).bind(shares_disk)
        )?;
        Ok(())
    }

    /// Removes an overlay. What its shards hold goes when their nodes next open their stores.
    pub async fn remove_overlay(&mut self, id: &str) -> Result<()> {
        changed!(
            self,
            query(
                "insert into removed_shards (overlay_id, node_id)
                 select overlay_id, node_id from shards
                 where overlay_id = $1 and store_id is not null",
            )
            .bind(id)
        )?;
        changed!(self, query("delete from shards where overlay_id = $1").bind(id))?;
        changed!(self, query("delete from overlays where id = $1").bind(id))?;
        Ok(())
    }

    /// The shards of an overlay, by rank.
    pub async fn shards(&mut self, overlay_id: &str) -> Result<Vec<ShardRow>> {
        on!(
            self,
            c => query_as("select * from shards where overlay_id = $1 order by rank")
                .bind(overlay_id)
                .fetch_all(c)
        )
    }

    /// The shards of all overlays that reservations want which are not over, by rank.
    pub async fn shards_of_reservations(&mut self) -> Result<Vec<ShardRow>> {
        on!(
            self,
            c => query_as(
                "select * from shards where overlay_id in (
                   select overlay_id from reservations
                   where state in ('pending', 'planned', 'starting', 'active', 'ending'))
                 order by rank",
            )
            .fetch_all(c)
        )
    }

    /// What nodes hold whose owners have not agreed that others are root beside it: of one node, or of
    /// all.
    pub async fn copies(&mut self, node_id: Option<&str>) -> Result<Vec<CopyRow>> {
        on!(
            self,
            c => query_as(
                "select shards.node_id, shards.overlay_id, overlays.owner_id
                 from shards join overlays on overlays.id = shards.overlay_id
                 where shards.store_id is not null and not overlays.shares_disk
                   and ($1 is null or shards.node_id = $1)
                 order by shards.node_id, shards.overlay_id",
            )
            .bind(node_id)
            .fetch_all(c)
        )
    }

    /// The removed overlays whose data a node still has.
    pub async fn removed_shards(&mut self, node_id: &str) -> Result<Vec<String>> {
        on!(
            self,
            c => query_scalar("select overlay_id from removed_shards where node_id = $1 order by overlay_id")
                .bind(node_id)
                .fetch_all(c)
        )
    }

    /// Notes that a node has deleted what a removed overlay's shard held.
    pub async fn removed_shard_gone(&mut self, overlay_id: &str, node_id: &str) -> Result<()> {
        changed!(
            self,
            query("delete from removed_shards where overlay_id = $1 and node_id = $2")
                .bind(overlay_id)
                .bind(node_id)
        )?;
        Ok(())
    }

    /// Gives a node its rank in an overlay. From then on the rank goes with the data (M26).
    pub async fn add_shard(&mut self, overlay_id: &str, node_id: &str, rank: u32) -> Result<()> {
        changed!(
            self,
            query("insert into shards (overlay_id, node_id, rank) values ($1, $2, $3)")
                .bind(overlay_id)
                .bind(node_id)
                .bind(i64::from(rank))
        )?;
        Ok(())
    }

    /// Notes that a node has this shard in this store, and what ran over it.
    pub async fn shard_mounted(
        &mut self,
        overlay_id: &str,
        node_id: &str,
        store_id: &str,
        bytes: i64,
        image: Option<&str>,
        at: Micros,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "update shards set store_id = $3, bytes = $4, last_image = coalesce($5, last_image),
                 last_used_at = case when $5 is null then last_used_at else $6 end
                 where overlay_id = $1 and node_id = $2",
            )
            .bind(overlay_id)
            .bind(node_id)
            .bind(store_id)
            .bind(bytes)
            .bind(image)
            .bind(at)
        )?;
        Ok(())
    }

    /// Forgets that a node ever had its shards: their disk is given up. Ranks are kept.
    pub async fn forget_shards(&mut self, node_id: &str) -> Result<()> {
        changed!(
            self,
            query("update shards set store_id = null, bytes = null where node_id = $1")
                .bind(node_id)
        )?;
        Ok(())
    }
}
