//! Nodes: the inventory's truth, and what is seen of them.

use std::{collections::HashSet, net::Ipv4Addr, sync::Arc};

use haas_api::{
    agent::{Heartbeat, ShutdownHow},
    names::{Mac, NodeName},
};
use sqlx::{query, query_as, query_scalar};

use super::{Result, Tx, changed, from_json, from_text, on, places::Seen, to_json, update_nodes};
use crate::{
    inventory::NodeSpec,
    model::{BootTimes, Drain, Ending, Fault, Micros, Node, Power, Silence, Tried},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    spec: String,
    address: Option<String>,
    managed: bool,
    present: bool,
    generation: i64,
    version: i64,
    power: String,
    power_at: Option<i64>,
    power_error: Option<String>,
    power_failed_at: Option<i64>,
    power_asked_at: Option<i64>,
    agent_attempt: Option<String>,
    agent_at: Option<i64>,
    goodbye: Option<String>,
    heartbeat: Option<String>,
    used_at: Option<i64>,
    dirty_fell_at: Option<i64>,
    ending: Option<String>,
    ending_since: Option<i64>,
    fault: Option<String>,
    drain: Option<String>,
    drain_reason: Option<String>,
    drain_actor: Option<String>,
    drain_since: Option<i64>,
    drain_generation: Option<i64>,
    silence: Option<String>,
    boot_times: Option<String>,
    tried: Option<String>,
    hardware_faults: i64,
    store_id: Option<String>,
    store_generation: i64,
    store_accepted: bool,
    store_repair: bool,
}

impl Row {
    fn parse(self) -> Result<Node> {
        let drain = match self.drain {
            Some(state) => Some(Drain {
                state: from_text("nodes", &state)?,
                reason: self.drain_reason.unwrap_or_default(),
                actor: self.drain_actor.unwrap_or_default(),
                since: self.drain_since.unwrap_or_default(),
                generation: self.drain_generation.unwrap_or_default(),
            }),
            None => None,
        };
        let ending = match (self.ending, self.ending_since) {
            (Some(step), Some(since)) => Some((from_text::<Ending>("nodes", &step)?, since)),
            _ => None,
        };
        let spec: NodeSpec = from_json("nodes", &self.spec)?;
        Ok(Node {
            id: self.id,
            name: from_text("nodes", &self.name)?,
            // The column is the key to find nodes by; that of a node which is gone is parked.
            boot_mac: spec.boot_mac(),
            spec,
            address: self.address.map(|a| from_text("nodes", &a)).transpose()?,
            managed: self.managed,
            present: self.present,
            generation: self.generation,
            version: self.version,
            power: from_text("nodes", &self.power)?,
            power_at: self.power_at,
            power_error: self.power_error,
            power_failed_at: self.power_failed_at,
            power_asked_at: self.power_asked_at,
            agent_attempt: self.agent_attempt,
            agent_at: self.agent_at,
            goodbye: self.goodbye.map(|g| from_json("nodes", &g)).transpose()?,
            heartbeat: self.heartbeat.map(|h| from_json("nodes", &h)).transpose()?,
            used_at: self.used_at,
            dirty_fell_at: self.dirty_fell_at,
            ending,
            fault: self.fault.map(|f| from_json::<Fault>("nodes", &f)).transpose()?,
            drain,
            silence: self.silence.map(|s| from_text("nodes", &s)).transpose()?,
            boot_times: self
                .boot_times
                .map_or_else(|| Ok(BootTimes::default()), |t| from_json("nodes", &t))?,
            tried: self.tried.map_or_else(|| Ok(Vec::new()), |t| from_json("nodes", &t))?,
            hardware_faults: self.hardware_faults,
            store_id: self.store_id,
            store_generation: self.store_generation,
            store_accepted: self.store_accepted,
            store_repair: self.store_repair,
        })
    }
}

/// What all other nodes are told of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// The node's id.
    pub id: String,
    /// Its name.
    pub name: NodeName,
    /// Where it is in its boot network.
    pub address: Option<Ipv4Addr>,
    /// The overlay store that it has.
    pub store_id: Option<String>,
    /// Whether the inventory names it.
    pub present: bool,
}

type PlaceRow = (String, String, Option<String>, Option<String>, bool);

fn place((id, name, address, store_id, present): PlaceRow) -> Result<NodePlace> {
    let name = from_text("nodes", &name)?;
    let address = address.map(|a| from_text("nodes", &a)).transpose()?;
    Ok(NodePlace { id, name, address, store_id, present })
}

impl Tx {
    /// What nodes are told of each other, of every node that there ever was, by name. Each boot asks for
    /// it, so that it is kept in memory until a transaction changes it.
    pub async fn node_places(&mut self) -> Result<Arc<[NodePlace]>> {
        if let Some(known) = self.places_seen.as_ref().and_then(Seen::known) {
            return Ok(known);
        }
        let rows: Vec<PlaceRow> = on!(
            self,
            c => query_as("select id, name, address, store_id, present from nodes order by name")
                .fetch_all(c)
        )?;
        let read: Arc<[NodePlace]> = rows.into_iter().map(place).collect::<Result<_>>()?;
        if let Some(seen) = &self.places_seen {
            seen.keep(&read);
        }
        Ok(read)
    }

    /// The node that has this overlay store.
    pub async fn node_with_store(&mut self, store_id: &str) -> Result<Option<Node>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from nodes where store_id = $1").bind(store_id).fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// Every node that the inventory names, by name.
    pub async fn nodes(&mut self) -> Result<Vec<Node>> {
        let nodes = self.shared_nodes().await?;
        Ok(nodes.iter().map(|node| (**node).clone()).collect())
    }

    /// The same for those who only look.
    pub async fn shared_nodes(&mut self) -> Result<Vec<Arc<Node>>> {
        let mut nodes = self.all_shared_nodes().await?;
        nodes.retain(|node| node.present);
        Ok(nodes)
    }

    /// Every node, also those that the inventory no longer names.
    pub async fn all_nodes(&mut self) -> Result<Vec<Node>> {
        let nodes = self.all_shared_nodes().await?;
        Ok(nodes.iter().map(|node| (**node).clone()).collect())
    }

    async fn all_shared_nodes(&mut self) -> Result<Vec<Arc<Node>>> {
        let nodes = self.known_nodes().await?;
        let mut nodes: Vec<_> = nodes.values().cloned().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    /// Has all who know the node from before look at it again: how it stands has changed, or what is known of it.
    pub(super) async fn stamp_node(&mut self, id: &str) -> Result<()> {
        changed!(self, query(update_nodes!("present = present where id = $1")).bind(id))?;
        Ok(())
    }

    /// The last stamp that a node has.
    pub(super) async fn last_stamp(&mut self) -> Result<i64> {
        let last: Option<i64> =
            on!(self, c => query_scalar("select max(stamp) from nodes").fetch_one(c))?;
        Ok(last.unwrap_or(0))
    }

    /// The nodes that were changed since this stamp, in no order.
    pub(super) async fn changed_nodes(&mut self, stamp: i64) -> Result<Vec<Node>> {
        let rows: Vec<Row> = on!(
            self,
            c => query_as("select * from nodes where stamp > $1").bind(stamp).fetch_all(c)
        )?;
        rows.into_iter().map(Row::parse).collect()
    }

    /// The node of this name.
    pub async fn node(&mut self, name: &str) -> Result<Option<Node>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from nodes where name = $1 and present").bind(name).fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// The node of this id.
    pub async fn node_by_id(&mut self, id: &str) -> Result<Option<Node>> {
        let row: Option<Row> = on!(self, c => query_as("select * from nodes where id = $1").bind(id).fetch_optional(c))?;
        row.map(Row::parse).transpose()
    }

    /// The name of the node of this id.
    pub async fn node_name(&mut self, id: &str) -> Result<Option<String>> {
        on!(
            self,
            c => query_scalar("select name from nodes where id = $1").bind(id).fetch_optional(c)
        )
    }

    /// The node whose boot NIC this is.
    pub async fn node_by_mac(&mut self, mac: Mac) -> Result<Option<Node>> {
        let row: Option<Row> = on!(
            self,
            c => query_as("select * from nodes where boot_mac = $1 and present")
                .bind(mac.to_string())
                .fetch_optional(c)
        )?;
        row.map(Row::parse).transpose()
    }

    /// The MACs by which managed nodes boot.
    pub async fn boot_macs(&mut self) -> Result<HashSet<Mac>> {
        let rows: Vec<(String,)> = on!(
            self,
            c => query_as("select boot_mac from nodes where present and managed").fetch_all(c)
        )?;
        rows.into_iter().map(|(mac,)| from_text("nodes", &mac)).collect()
    }

    /// Adds a node that is new in the inventory: unmanaged, with nothing wanted of it.
    pub async fn add_node(&mut self, spec: &NodeSpec, at: Micros) -> Result<()> {
        self.changes_places = true;
        changed!(
            self,
            query(
                "insert into nodes (id, name, boot_mac, spec, address, managed, present, created_at,
                   generation, version, power, store_generation, stamp)
                 values ($1, $2, $3, $4, $5, false, true, $6, 0, 1, 'unknown', 0,
                   (select coalesce(max(stamp), 0) + 1 from nodes))",
            )
            .bind(ulid::Ulid::new().to_string())
            .bind(spec.name.as_str())
            .bind(spec.boot_mac().to_string())
            .bind(to_json(spec))
            .bind(spec.address.map(|a| a.to_string()))
            .bind(at)
        )?;
        Ok(())
    }

    /// Gives a known node what the inventory now says of it, and brings it back if it was gone.
    ///
    /// A pool address that it was given before is kept: it may be running with it.
    pub async fn set_spec(&mut self, node: &Node, spec: &NodeSpec) -> Result<()> {
        self.changes_places = true;
        if node.spec.power != spec.power {
            // What another BMC said is nothing to go by.
            changed!(
                self,
                query(update_nodes!(
                    "power_error = null, power_failed_at = null,
                     power_asked_at = null where id = $1"
                ))
                .bind(&node.id)
            )?;
        }
        changed!(
            self,
            query(update_nodes!(
                "spec = $2, boot_mac = $3, address = $4,
                 present = true, version = version + 1 where id = $1"
            ))
            .bind(&node.id)
            .bind(to_json(spec))
            .bind(spec.boot_mac().to_string())
            .bind(spec.address.or(node.address).map(|a| a.to_string()))
        )?;
        Ok(())
    }

    /// Takes a node out of the inventory: it is unmanaged and gets nothing any more. Its row stays,
    /// with what is known of its shards.
    pub async fn remove_node(&mut self, id: &str) -> Result<()> {
        self.changes_places = true;
        changed!(
            self,
            query(update_nodes!(
                "present = false, managed = false, version = version + 1 where id = $1"
            ))
            .bind(id)
        )?;
        Ok(())
    }

    /// Frees every unique key of nodes that are about to change, so that two nodes of one file can
    /// swap names, addresses or NICs.
    pub async fn park_node(&mut self, id: &str) -> Result<()> {
        self.changes_places = true;
        changed!(
            self,
            query(update_nodes!("boot_mac = $2, address = null where id = $1"))
                .bind(id)
                .bind(format!("parked-{id}"))
        )?;
        Ok(())
    }

    /// Lets haasd have a node, or takes it away.
    pub async fn set_managed(&mut self, id: &str, managed: bool) -> Result<()> {
        changed!(
            self,
            query(update_nodes!("managed = $2, version = version + 1 where id = $1"))
                .bind(id)
                .bind(managed)
        )?;
        Ok(())
    }

    /// Keeps the address that a node got, from the pool or of another server; none: it is another
    /// node's now.
    pub async fn set_address(&mut self, id: &str, address: Option<Ipv4Addr>) -> Result<()> {
        self.changes_places = true;
        changed!(
            self,
            query(update_nodes!("address = $2, version = version + 1 where id = $1"))
                .bind(id)
                .bind(address.map(|a| a.to_string()))
        )?;
        Ok(())
    }

    /// What the BMC said at `at`, or why it could not be asked.
    pub async fn set_power(
        &mut self,
        id: &str,
        seen: Result<Power, String>,
        at: Micros,
    ) -> Result<()> {
        match seen {
            Ok(power) => changed!(
                self,
                query(update_nodes!(
                    "power = $2, power_at = $3, power_asked_at = $3,
                     power_error = null, power_failed_at = null where id = $1"
                ))
                .bind(id)
                .bind(power.as_str())
                .bind(at)
            )?,
            Err(error) => changed!(
                self,
                query(update_nodes!(
                    "power_error = $2, power_asked_at = $3,
                     power_failed_at = coalesce(power_failed_at, $3) where id = $1"
                ))
                .bind(id)
                .bind(error)
                .bind(at)
            )?,
        };
        Ok(())
    }

    /// An agent spoke. A goodbye of the same attempt stands: what its agent says behind it was
    /// under way.
    pub async fn agent_spoke(&mut self, id: &str, attempt: &str, at: Micros) -> Result<()> {
        changed!(
            self,
            query(update_nodes!(
                "agent_attempt = $2, agent_at = $3,
                 goodbye = case when agent_attempt = $2 then goodbye end where id = $1"
            ))
            .bind(id)
            .bind(attempt)
            .bind(at)
        )?;
        Ok(())
    }

    /// An agent's heartbeat. `dirty_fell` when it had fewer dirty pages than before.
    pub async fn set_heartbeat(
        &mut self,
        id: &str,
        heartbeat: &Heartbeat,
        dirty_fell: bool,
        at: Micros,
    ) -> Result<()> {
        changed!(
            self,
            query(update_nodes!(
                "heartbeat = $2,
                 dirty_fell_at = case when $3 then $4 else dirty_fell_at end,
                 used_at = case when $5 then $4 else used_at end where id = $1"
            ))
            .bind(id)
            .bind(to_json(heartbeat))
            .bind(dirty_fell)
            .bind(at)
            .bind(!heartbeat.logins.is_empty())
        )?;
        Ok(())
    }

    /// An agent's last words.
    pub async fn set_goodbye(&mut self, id: &str, how: ShutdownHow) -> Result<()> {
        changed!(
            self,
            query(update_nodes!("goodbye = $2, heartbeat = null where id = $1"))
                .bind(id)
                .bind(to_json(&how))
        )?;
        Ok(())
    }

    /// How far the orderly end of what runs has come.
    pub async fn set_ending(&mut self, id: &str, ending: Option<(Ending, Micros)>) -> Result<()> {
        changed!(
            self,
            query(update_nodes!("ending = $2, ending_since = $3 where id = $1"))
                .bind(id)
                .bind(ending.map(|(step, _)| step.as_str()))
                .bind(ending.map(|(_, since)| since))
        )?;
        Ok(())
    }

    /// Notes that a node's present generation needs a person. Nothing where it has a newer one.
    pub async fn set_fault(&mut self, id: &str, fault: &Fault) -> Result<()> {
        changed!(
            self,
            query(update_nodes!("fault = $2 where id = $1 and generation = $3"))
                .bind(id)
                .bind(to_json(fault))
                .bind(fault.generation)
        )?;
        Ok(())
    }

    /// Takes a node out of service, or back into it.
    pub async fn set_drain(&mut self, id: &str, drain: Option<&Drain>) -> Result<()> {
        changed!(
            self,
            query(update_nodes!(
                "drain = $2, drain_reason = $3, drain_actor = $4, drain_since = $5,
                 drain_generation = $6, version = version + 1 where id = $1"
            ))
            .bind(id)
            .bind(drain.map(|drain| drain.state.as_str()))
            .bind(drain.map(|drain| drain.reason.as_str()))
            .bind(drain.map(|drain| drain.actor.as_str()))
            .bind(drain.map(|drain| drain.since))
            .bind(drain.map(|drain| drain.generation))
        )?;
        Ok(())
    }

    /// What was told of a node whose agent is silent.
    pub async fn set_silence(&mut self, id: &str, silence: Option<Silence>) -> Result<()> {
        changed!(
            self,
            query(update_nodes!("silence = $2 where id = $1"))
                .bind(id)
                .bind(silence.map(Silence::as_str))
        )?;
        Ok(())
    }

    /// What was tried with a node for its present generation.
    pub async fn set_tried(&mut self, id: &str, tried: &[Tried]) -> Result<()> {
        changed!(
            self,
            query(update_nodes!("tried = $2 where id = $1")).bind(id).bind(to_json(&tried))
        )?;
        Ok(())
    }

    /// Faults in a row that no image can cause.
    pub async fn set_hardware_faults(&mut self, id: &str, faults: i64) -> Result<()> {
        changed!(
            self,
            query(update_nodes!("hardware_faults = $2 where id = $1")).bind(id).bind(faults)
        )?;
        Ok(())
    }

    /// A node is ready: how long its boots took, and nothing that went wrong before counts any more.
    pub async fn set_boot_times(&mut self, id: &str, times: &BootTimes) -> Result<()> {
        changed!(
            self,
            query(update_nodes!(
                "boot_times = $2, tried = null, hardware_faults = 0 where id = $1"
            ))
            .bind(id)
            .bind(to_json(times))
        )?;
        Ok(())
    }

    /// The latest moment of the steady clock that anything was noted with, 0 where there is none.
    pub async fn latest_steady(&mut self) -> Result<Micros> {
        on!(
            self,
            c => sqlx::query_scalar(
                "select coalesce(max(at), 0) from (
                   select max(stage_since) as at from attempts
                   union all select max(ended_at) from attempts
                   union all select max(power_asked_at) from nodes
                   union all select max(agent_at) from nodes
                   union all select max(ending_since) from nodes
                   union all select max(asked_at) from hook_calls
                   union all select max(at) from auto_actions
                   union all select max(submitted_at) from reservations
                   union all select max(ready_at) from reservations
                   union all select max(alone_at) from networks) as noted",
            )
            .fetch_one(c)
        )
    }

    /// The cluster's id and its steady clock's offset, made at the first start.
    pub async fn cluster(&mut self) -> Result<Option<(String, String, i64)>> {
        on!(self, c => query_as("select id, boot_id, offset_us from cluster").fetch_optional(c))
    }

    /// Writes the cluster's id and its steady clock's offset.
    pub async fn set_cluster(
        &mut self,
        id: &str,
        boot_id: &str,
        offset_us: i64,
        at: Micros,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "insert into cluster (id, created_at, boot_id, offset_us) values ($1, $2, $3, $4)
                 on conflict (id) do update set boot_id = excluded.boot_id, offset_us = excluded.offset_us",
            )
            .bind(id)
            .bind(at)
            .bind(boot_id)
            .bind(offset_us)
        )?;
        Ok(())
    }
}
