//! What nodes are made of, and how well they are: what was told last. What changed is in the events.

use std::collections::HashMap;

use haas_api::hardware::{BmcInfo, DiskDrive, Health, Inventory, Sensor, Summary};
use sqlx::{query, query_as};

use super::{Result, StoreError, Tx, changed, from_json, on, to_json};
use crate::{
    model::Micros,
    power::{BmcReport, SelReport},
};

/// What is known of a node's hardware.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HardwareRow {
    /// What its agent has found, and when (wall clock).
    pub inventory: Option<(Inventory, Micros)>,
    /// The boot whose agent has told that.
    pub inventory_boot: Option<String>,
    /// What its BMC has told of itself.
    pub bmc: Option<BmcInfo>,
    /// What its sensors measured.
    pub sensors: Vec<Sensor>,
    /// What it draws, in watts; none once the BMC could not be asked.
    pub watts: Option<u32>,
    /// Its log.
    pub sel: SelReport,
    /// When it told that, wall clock.
    pub bmc_at: Option<Micros>,
    /// Why it could not be asked, when the last try failed.
    pub bmc_error: Option<String>,
    /// Who wants its log cleared, which is not done yet.
    pub clear_by: Option<String>,
    /// What the node reached that it must not, in words.
    pub reaches: Vec<String>,
    /// The boot whose agent has told that.
    pub reaches_boot: Option<String>,
    /// How well the node is by all of that.
    pub health: Health,
}

/// How a node is, as lists have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HealthRow {
    /// How well it is.
    pub health: Health,
    /// Its hardware in a few numbers.
    pub summary: Option<Summary>,
    /// What it draws, in watts.
    pub watts: Option<u32>,
}

/// When a BMC was last asked, and what is to be done with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskedRow {
    /// When it was last asked, wall clock.
    pub asked_at: Option<Micros>,
    /// Who wants its log cleared.
    pub clear_by: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    inventory: Option<String>,
    inventory_at: Option<i64>,
    inventory_boot: Option<String>,
    bmc: Option<String>,
    sensors: Option<String>,
    watts: Option<i64>,
    sel: Option<String>,
    bmc_at: Option<i64>,
    bmc_error: Option<String>,
    clear_by: Option<String>,
    reaches: Option<String>,
    reaches_boot: Option<String>,
    health: String,
}

impl Row {
    fn parse(self) -> Result<HardwareRow> {
        let inventory = self.inventory.map(|text| from_json("hardware", &text)).transpose()?;
        Ok(HardwareRow {
            inventory: inventory.zip(self.inventory_at),
            inventory_boot: self.inventory_boot,
            bmc: self.bmc.map(|text| from_json("hardware", &text)).transpose()?,
            sensors: optional(self.sensors)?,
            watts: self.watts.map(watts).transpose()?,
            sel: optional(self.sel)?,
            bmc_at: self.bmc_at,
            bmc_error: self.bmc_error,
            clear_by: self.clear_by,
            reaches: optional(self.reaches)?,
            reaches_boot: self.reaches_boot,
            health: from_json("hardware", &self.health)?,
        })
    }
}

fn watts(watts: i64) -> Result<u32> {
    u32::try_from(watts)
        .map_err(|e| StoreError::Corrupt { table: "hardware", problem: e.to_string() })
}

fn optional<T: serde::de::DeserializeOwned + Default>(text: Option<String>) -> Result<T> {
    text.map_or_else(|| Ok(T::default()), |text| from_json("hardware", &text))
}

impl Tx {
    /// What is known of a node's hardware.
    pub async fn hardware(&mut self, node_id: &str) -> Result<HardwareRow> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from hardware where node_id = $1").bind(node_id).fetch_optional(c)
        )?;
        row.map_or_else(|| Ok(HardwareRow::default()), Row::parse)
    }

    /// How all nodes are, by node. Nodes that nothing is known of are not in it.
    pub async fn healths(&mut self) -> Result<HashMap<String, HealthRow>> {
        let rows: Vec<(String, String, Option<String>, Option<i64>)> = on!(
            self,
            c => query_as("select node_id, health, summary, watts from hardware").fetch_all(c)
        )?;
        rows.into_iter()
            .map(|(node, health, summary, drawn)| {
                let row = HealthRow {
                    health: from_json("hardware", &health)?,
                    summary: summary.map(|text| from_json("hardware", &text)).transpose()?,
                    watts: drawn.map(watts).transpose()?,
                };
                Ok((node, row))
            })
            .collect()
    }

    /// The hardware of nodes that have a later stamp, in a few numbers.
    pub(super) async fn changed_summaries(
        &mut self,
        stamp: i64,
    ) -> Result<Vec<(String, Option<Summary>)>> {
        let rows: Vec<(String, String)> = on!(
            self,
            c => query_as(
                "select nodes.id, hardware.summary from nodes cross join hardware
                 where nodes.stamp > $1 and hardware.node_id = nodes.id
                   and hardware.summary is not null",
            )
            .bind(stamp)
            .fetch_all(c)
        )?;
        rows.into_iter()
            .map(|(node, text)| Ok((node, Some(from_json("hardware", &text)?))))
            .collect()
    }

    /// The disks that each node's agent has found in it, by node. Nodes that nothing is known of are not
    /// in it.
    pub async fn drives(&mut self) -> Result<HashMap<String, Vec<DiskDrive>>> {
        /// Of an inventory nothing else is looked at.
        #[derive(serde::Deserialize)]
        struct Drives {
            #[serde(default)]
            disks: Vec<DiskDrive>,
        }
        let rows: Vec<(String, String)> = on!(
            self,
            c => query_as("select node_id, inventory from hardware where inventory is not null")
                .fetch_all(c)
        )?;
        rows.into_iter()
            .map(|(node, text)| Ok((node, from_json::<Drives>("hardware", &text)?.disks)))
            .collect()
    }

    /// What nodes draw together, in watts, and how many have told that since a moment (wall clock).
    pub async fn drawn_since(&mut self, since: Micros) -> Result<(i64, i64)> {
        on!(
            self,
            c => query_as(
                "select cast(coalesce(sum(watts), 0) as bigint), count(watts) from hardware
                 where bmc_at >= $1"
            )
            .bind(since)
            .fetch_one(c)
        )
    }

    /// When BMCs were last asked, and which logs are to be cleared, by node.
    pub async fn bmcs_asked(&mut self) -> Result<HashMap<String, AskedRow>> {
        let rows: Vec<(String, Option<i64>, Option<String>)> = on!(
            self,
            c => query_as("select node_id, asked_at, clear_by from hardware").fetch_all(c)
        )?;
        let row = |(node, asked_at, clear_by)| (node, AskedRow { asked_at, clear_by });
        Ok(rows.into_iter().map(row).collect())
    }

    /// What a node's agent has found in this boot.
    pub async fn set_inventory(
        &mut self,
        node_id: &str,
        inventory: &Inventory,
        boot: &str,
        at: Micros,
    ) -> Result<()> {
        self.begin_hardware(node_id).await?;
        changed!(
            self,
            query(
                "update hardware set inventory = $2, summary = $3, inventory_at = $4, inventory_boot = $5
                 where node_id = $1",
            )
            .bind(node_id)
            .bind(to_json(inventory))
            .bind(to_json(&inventory.summary()))
            .bind(at)
            .bind(boot)
        )?;
        self.stamp_node(node_id).await
    }

    /// What a node's BMC has told.
    pub async fn set_bmc(&mut self, node_id: &str, told: &BmcReport, at: Micros) -> Result<()> {
        self.begin_hardware(node_id).await?;
        changed!(
            self,
            query(
                "update hardware set bmc = $2, sensors = $3, watts = $4, sel = $5, bmc_at = $6,
                 asked_at = $6, bmc_error = null where node_id = $1",
            )
            .bind(node_id)
            .bind(to_json(&told.info))
            .bind(to_json(&told.sensors))
            .bind(told.watts.map(i64::from))
            .bind(to_json(&told.sel))
            .bind(at)
        )?;
        Ok(())
    }

    /// Why a node's BMC could not be asked. What the node draws is not known then.
    pub async fn set_bmc_error(&mut self, node_id: &str, error: &str, at: Micros) -> Result<()> {
        self.begin_hardware(node_id).await?;
        changed!(
            self,
            query(
                "update hardware set bmc_error = $2, asked_at = $3, watts = null where node_id = $1"
            )
            .bind(node_id)
            .bind(error)
            .bind(at)
        )?;
        Ok(())
    }

    /// How well a node is.
    pub async fn set_health(&mut self, node_id: &str, health: &Health) -> Result<()> {
        changed!(
            self,
            query("update hardware set health = $2 where node_id = $1")
                .bind(node_id)
                .bind(to_json(health))
        )?;
        Ok(())
    }

    /// Notes who wants the log of a node's BMC cleared; none: it is done.
    pub async fn set_clear(&mut self, node_id: &str, by: Option<&str>) -> Result<()> {
        self.begin_hardware(node_id).await?;
        changed!(
            self,
            query("update hardware set clear_by = $2 where node_id = $1").bind(node_id).bind(by)
        )?;
        Ok(())
    }

    /// What a node reached that it must not, as the agent of this boot has told.
    pub async fn set_reaches(
        &mut self,
        node_id: &str,
        reaches: &[String],
        attempt: &str,
    ) -> Result<()> {
        self.begin_hardware(node_id).await?;
        changed!(
            self,
            query("update hardware set reaches = $2, reaches_boot = $3 where node_id = $1")
                .bind(node_id)
                .bind(to_json(&reaches))
                .bind(attempt)
        )?;
        Ok(())
    }

    async fn begin_hardware(&mut self, node_id: &str) -> Result<()> {
        changed!(
            self,
            query(
                "insert into hardware (node_id, health) values ($1, $2) on conflict (node_id) do nothing"
            )
            .bind(node_id)
            .bind(to_json(&Health::default()))
        )?;
        Ok(())
    }
}
