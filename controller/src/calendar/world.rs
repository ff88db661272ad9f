//! What a plan is made from, as the store has it: nodes, queues, reservations, overlays, past use.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use haas_api::hardware::Summary;
use scheduler::{Health, Vector};

use crate::{
    config::{IdleRule, Reservations},
    context::Context,
    inventory::PowerSpec,
    lend::Obstacles,
    model::{DrainState, Micros, Node, Power, Reservation, SECOND, Silence},
    requests,
    store::{MaintenanceRow, QueueRow, Result, ShardRow, StandingRow, Tx, Used},
};

/// Past use is remembered for five of its half-lives.
const REMEMBERED: Micros = 35 * 86_400 * SECOND;

/// What must end on a node that is on before it boots something else takes about so long.
const ENDS_WITHIN: Micros = 30 * SECOND;

/// All that a plan is made from, at one moment.
#[derive(Debug, Clone)]
pub(super) struct World {
    /// The nodes; a place in this list is the planner's name of one.
    pub(super) nodes: Vec<Seen>,
    /// The queues, each behind the one above it.
    pub(super) queues: Vec<QueueRow>,
    /// The reservations that are not over, by number.
    pub(super) live: Vec<Reservation>,
    /// The shards of the overlays that these want.
    pub(super) shards: HashMap<String, Vec<ShardRow>>,
    /// How many nodes projects may have at once, where that is limited.
    pub(super) limits: HashMap<String, u32>,
    /// What was held in the past.
    pub(super) past: Vec<Arc<Used>>,
    /// Which nodes are switched off when nobody has them.
    pub(super) idle: Vec<IdleRule>,
    /// What the site says of reservations.
    pub(super) config: Reservations,
    /// When nothing is planned on which nodes.
    pub(super) windows: Vec<MaintenanceRow>,
    /// What keeps nodes from being lent with root.
    obstacles: Obstacles,
    /// The nodes that cannot be lent, by id and with why, for each that asks with the same overlay for the
    /// same tenant.
    barred: HashMap<Asker, HashMap<String, &'static str>>,
    /// How long nodes of a kind take to boot, as far as that is known: as long as the slowest.
    usual: HashMap<Vector, Micros>,
    /// How long any node takes to boot at most.
    slowest: Micros,
    /// The place of each node, by its id.
    places: HashMap<String, usize>,
    /// Whose reservation has a node now, by the node's id.
    lent: HashMap<String, String>,
}

/// A node, and how it stands.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) node: Arc<Node>,
    /// None: nothing was ever wanted of it.
    pub(super) standing: Option<Arc<StandingRow>>,
    /// What it has.
    pub(super) vector: Vector,
}

/// Who asks, for which tenant, with which overlay.
type Asker = (String, String, Option<String>);

fn asker(one: &Reservation) -> Asker {
    (one.owner_id.clone(), one.tenant.clone(), one.overlay_id.clone())
}

impl World {
    /// Reads it.
    pub(super) async fn load(context: &Context, tx: &mut Tx) -> Result<Self> {
        let live = tx.live_reservations().await?;
        let mut shards: HashMap<String, Vec<ShardRow>> = HashMap::new();
        for shard in tx.shards_of_reservations().await? {
            shards.entry(shard.overlay_id.clone()).or_default().push(shard);
        }
        let projects = tx.projects().await?.into_iter();
        let limits = projects.filter_map(|one| Some((one.id, one.limits.nodes?)));
        let past = tx.held_before(context.clock.now() - REMEMBERED).await?;
        let (standings, summaries) = (tx.standings().await?, tx.summaries().await?);
        let nodes = tx.shared_nodes().await?.into_iter();
        let nodes = nodes.map(|node| Seen {
            standing: standings.get(&node.id).cloned(),
            vector: vector(summaries.get(&node.id).map(|told| &**told)),
            node,
        });
        let nodes: Vec<Seen> = nodes.collect();
        let mut usual: HashMap<Vector, Micros> = HashMap::new();
        for seen in &nodes {
            if let Some(known) = seen.node.boot_times.usual_whole() {
                let slowest = usual.entry(seen.vector).or_default();
                *slowest = known.max(*slowest);
            }
        }
        let config = context.config.reservations;
        let of_each = nodes.iter().map(|seen| usual.get(&seen.vector).copied());
        let slowest = of_each.map(|known| known.unwrap_or(config.boot_time())).max().unwrap_or(0);
        let places = nodes.iter().enumerate();
        let places = places.map(|(place, seen)| (seen.node.id.clone(), place)).collect();
        let with_nodes = live.iter().filter(|one| one.state.has_nodes());
        let lent = with_nodes.flat_map(|one| {
            let held = one.held().filter(|held| held.generation > 0);
            held.map(|held| (held.node_id.clone(), one.tenant.clone()))
        });
        let lent = lent.collect();
        let obstacles = Obstacles::load(context, tx, nodes.iter().map(|seen| &*seen.node)).await?;
        let mut world = Self {
            nodes,
            queues: tx.queues().await?,
            live,
            shards,
            limits: limits.collect(),
            past,
            idle: context.config.idle.clone(),
            config,
            windows: tx.maintenance(context.clock.now()).await?,
            obstacles,
            barred: HashMap::new(),
            usual,
            slowest,
            places,
            lent,
        };
        if !world.obstacles.is_empty() {
            for one in world.live.clone() {
                world.know_barred(tx, &one).await?;
            }
        }
        Ok(world)
    }

    /// Reads also what matters to a reservation that is only asked for: the shards of its overlay, and the
    /// nodes that it may not have.
    pub(super) async fn know(&mut self, tx: &mut Tx, one: &Reservation) -> Result<()> {
        if let Some(id) = &one.overlay_id {
            self.shards.insert(id.clone(), tx.shards(id).await?);
        }
        self.know_barred(tx, one).await
    }

    async fn know_barred(&mut self, tx: &mut Tx, one: &Reservation) -> Result<()> {
        let asker = asker(one);
        if !self.barred.contains_key(&asker) {
            let barred = self.obstacles.bar(tx, &requests::wanted_of(one)).await?;
            self.barred.insert(asker, barred);
        }
        Ok(())
    }

    /// The nodes that a reservation may not have, by id, each with the code of why.
    pub(super) fn barred(&self, one: &Reservation) -> impl Iterator<Item = (&str, &'static str)> {
        let barred = self.barred.get(&asker(one)).into_iter().flatten();
        barred.map(|(id, code)| (id.as_str(), *code))
    }

    /// The place of a node in the list.
    pub(super) fn place(&self, node_id: &str) -> Option<usize> {
        self.places.get(node_id).copied()
    }

    /// The node of this id.
    pub(super) fn seen(&self, node_id: &str) -> Option<&Seen> {
        self.place(node_id).map(|place| &self.nodes[place])
    }

    /// A node's name; its id where the inventory no longer names it.
    pub(super) fn name<'a>(&'a self, node_id: &'a str) -> &'a str {
        self.seen(node_id).map_or(node_id, |seen| seen.node.name.as_str())
    }

    /// How long this node takes to be ready with something new, learned from its boots and else from
    /// those of nodes like it.
    pub(super) fn lead(&self, seen: &Seen) -> Micros {
        let usual = seen.node.boot_times.usual_whole();
        let boot = usual.or_else(|| self.usual_of(seen.vector)).unwrap_or(self.config.boot_time());
        let is_on = seen.standing.as_ref().is_some_and(|standing| standing.runs.is_some());
        boot + if is_on { ENDS_WITHIN } else { 0 }
    }

    /// How long nodes of this kind take to boot, as far as that is known.
    pub(super) fn usual_of(&self, vector: Vector) -> Option<Micros> {
        self.usual.get(&vector).copied()
    }

    /// How long any node takes to boot at most.
    pub(super) fn usual(&self) -> Micros {
        self.slowest
    }

    /// So long before its hour a reservation's nodes are nobody else's: what they run ends then, and they boot.
    pub(super) fn ahead(&self) -> Micros {
        self.slowest + ENDS_WITHIN
    }

    /// From when to when a reservation with an hour, or a planned start, has its nodes.
    pub(super) fn span(&self, one: &Reservation) -> Option<(Micros, Micros)> {
        let ahead = if one.is_advance { self.ahead() } else { 0 };
        Some((one.start_at? - ahead, one.end_at?))
    }

    /// The nodes that a queue gives.
    pub(super) fn nodes_of(&self, queue: &QueueRow) -> impl Iterator<Item = usize> + '_ {
        let mut at = Some(queue);
        let mut groups = None;
        while let Some(row) = at.filter(|_| groups.is_none()) {
            if !row.spec.node_groups.is_empty() {
                groups = Some(row.spec.node_groups.iter().cloned().collect::<BTreeSet<_>>());
            }
            let parent = row.spec.parent.as_ref();
            at = parent.and_then(|name| self.queues.iter().find(|row| row.spec.name == *name));
        }
        let serves = move |seen: &Seen| {
            let is_in = |groups: &BTreeSet<_>| !seen.node.spec.groups.is_disjoint(groups);
            seen.node.managed && groups.as_ref().is_none_or(is_in)
        };
        let all = self.nodes.iter().enumerate();
        all.filter(move |(_, seen)| serves(seen)).map(|(place, _)| place)
    }

    /// For each node that somebody has by hand, who that is.
    pub(super) fn by_hand(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter_map(|seen| {
            let tenant = seen.standing.as_deref().and_then(StandingRow::tenant);
            tenant.filter(|_| !self.lent.contains_key(&seen.node.id))
        })
    }

    /// Whether the planner may give a node to somebody.
    pub(super) fn health(&self, seen: &Seen) -> Health {
        let Seen { node, standing, .. } = seen;
        let has_fault = node.fault.as_ref().is_some_and(|f| f.generation == node.generation);
        // Of a node that is seen to be off no agent is missed.
        let is_lost = node.silence == Some(Silence::Unreachable) && node.power != Power::Off;
        if has_fault || is_lost {
            return Health::Down;
        }
        let drained = node.drain.as_ref().map(|drain| drain.state);
        match drained {
            Some(DrainState::Drain | DrainState::Maintenance | DrainState::Quarantine) => {
                return Health::Draining;
            }
            None if !node.managed => return Health::Draining,
            None => {}
        }
        let is_its_own = match standing.as_deref() {
            // Whatever a node runs that haasd never booted is somebody's.
            None => node.power == Power::Off || node.spec.power == PowerSpec::Manual,
            Some(standing) if standing.handed_over && standing.power_on => false,
            Some(standing) if !standing.power_on || standing.tenant.is_empty() => true,
            // Who has a node by hand goes before the calendar.
            Some(standing) => self.lent.get(&node.id) == Some(&standing.tenant),
        };
        if is_its_own { Health::Ready } else { Health::Draining }
    }
}

/// What a node has, as far as its agent has told.
fn vector(summary: Option<&Summary>) -> Vector {
    let (cores, memory) = summary.map_or((0, 0), |told| (told.cores, told.memory));
    Vector { nodes: 1, cores: cores.into(), memory_gib: memory >> 30, ..Vector::default() }
}
