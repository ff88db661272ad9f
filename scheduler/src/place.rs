//! Which nodes of those that serve: where an overlay's data lies, where a new shard disturbs least,
//! which nodes are on.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use crate::{
    Affinity, Claim, Location, Need, Node, NodeId, OverlayId, Placement, Power, Snapshot, Time,
    matching::Share, planner::Planner,
};

/// So many candidates are looked at for each node that is wanted, at least.
const CHOICE: usize = 4;
/// And so many more.
const CHOICE_MORE: usize = 256;

/// Chooses `count` nodes for a request out of the free ones of some cells, of each cell at most so
/// many, and puts each on its rank.
pub(crate) fn choose_within(
    planner: &Planner<'_>,
    claim: &Claim,
    request: usize,
    limits: &[Share],
    count: u32,
) -> Vec<NodeId> {
    let snapshot = planner.snapshot;
    let costs = Costs::new(snapshot, claim, request);
    let enough = count as usize * CHOICE + CHOICE_MORE;
    let mut candidates: Vec<(u64, u32, usize)> = Vec::new();
    for (place, (cell, _)) in limits.iter().enumerate() {
        let free = &planner.cells.all[*cell].free;
        let holds_some = |homes: &RoaringBitmap| !homes.is_disjoint(free);
        if candidates.len() >= enough && !costs.homes.as_ref().is_some_and(holds_some) {
            continue;
        }
        candidates
            .extend(free.iter().map(|node| (costs.of(planner.now, NodeId(node)), node, place)));
    }
    candidates.sort_unstable();
    let mut left: Vec<u32> = limits.iter().map(|(_, limit)| *limit).collect();
    let mut chosen = Vec::with_capacity(count as usize);
    for (_, node, place) in candidates {
        if left[place] > 0 && chosen.len() < count as usize {
            left[place] -= 1;
            chosen.push(NodeId(node));
        }
    }
    by_rank(snapshot, claim, request, chosen)
}

/// As [`choose_within`], with as many nodes of each cell as it says.
pub(crate) fn choose(
    planner: &Planner<'_>,
    claim: &Claim,
    request: usize,
    shares: &[Share],
) -> Vec<NodeId> {
    let count = shares.iter().map(|(_, count)| count).sum();
    choose_within(planner, claim, request, shares, count)
}

/// Puts nodes in the order of ranks: whoever holds a rank's data gets that rank, the others fill up.
pub(crate) fn by_rank(
    snapshot: &Snapshot,
    claim: &Claim,
    request: usize,
    mut nodes: Vec<NodeId>,
) -> Vec<NodeId> {
    nodes.sort_unstable();
    let Some(homes) = homes(snapshot, claim, request) else { return nodes };
    let mut ranks: Vec<Option<NodeId>> = vec![None; nodes.len()];
    for (rank, home) in ranks.iter_mut().zip(homes) {
        if let Some(index) = home.and_then(|home| nodes.iter().position(|node| *node == home)) {
            *rank = Some(nodes.remove(index));
        }
    }
    let mut others = nodes.into_iter();
    ranks.into_iter().filter_map(|rank| rank.or_else(|| others.next())).collect()
}

/// The homes of a request's ranks.
fn homes<'a>(
    snapshot: &'a Snapshot,
    claim: &Claim,
    request: usize,
) -> Option<&'a [Option<NodeId>]> {
    let overlay = claim.overlay?.overlay;
    let homes = &snapshot.overlays[overlay.0 as usize].homes[..];
    let first: u32 = claim.requests[..request].iter().map(|request| request.count).sum();
    let last = first + claim.requests[request].count;
    homes.get((first as usize).min(homes.len())..(last as usize).min(homes.len()))
}

/// What it costs to take a node, for one request.
struct Costs<'a> {
    snapshot: &'a Snapshot,
    claim: &'a Claim,
    preferred: Preferred<'a>,
    /// The nodes that hold the request's ranks.
    homes: Option<RoaringBitmap>,
    /// What is known of overlays that might have to give way.
    known: HashMap<OverlayId, Known>,
}

enum Preferred<'a> {
    Any,
    Nodes(&'a RoaringBitmap),
    Rack(crate::RackId),
}

/// Where an overlay stands.
#[derive(Default, Clone, Copy)]
struct Known {
    /// When any of its shards was last attached.
    used: Time,
    /// How many shards it has.
    shards: u32,
}

impl<'a> Costs<'a> {
    fn new(snapshot: &'a Snapshot, claim: &'a Claim, request: usize) -> Costs<'a> {
        let preferred = match &claim.requests[request].location {
            Location::Nodes(nodes, Need::Preferred) => Preferred::Nodes(nodes),
            Location::Rack(rack, Need::Preferred) => Preferred::Rack(*rack),
            Location::Nodes(_, Need::Required)
            | Location::Rack(_, Need::Required)
            | Location::Racks(..)
            | Location::Anywhere => Preferred::Any,
        };
        let matters = claim.overlay.filter(|wanted| wanted.affinity != Affinity::Any);
        let homes = matters.and_then(|_| homes(snapshot, claim, request));
        let homes = homes.map(|homes| homes.iter().flatten().map(|home| home.0).collect());
        let mut known: HashMap<OverlayId, Known> = HashMap::new();
        if claim.overlay.is_some() && snapshot.settings.placement == Placement::OverlayAware {
            for shard in snapshot.nodes.iter().flat_map(|node| &node.shards) {
                let known = known.entry(shard.overlay).or_default();
                known.used = known.used.max(shard.used);
                known.shards += 1;
            }
        }
        Costs { snapshot, claim, preferred, homes, known }
    }

    /// The least is taken first.
    fn of(&self, now: Time, id: NodeId) -> u64 {
        let node = &self.snapshot.nodes[id.index()];
        let away = match self.preferred {
            Preferred::Any => false,
            Preferred::Nodes(nodes) => !nodes.contains(id.0),
            Preferred::Rack(rack) => node.rack != rack,
        };
        let away = u64::from(away) << 60;
        match self.snapshot.settings.placement {
            Placement::FirstFit => away,
            Placement::NaiveSort => {
                let is_on = matches!(node.power, Power::On { .. });
                let runs_it = self.claim.overlay.is_some_and(|wanted| {
                    is_on && node.runs.is_some_and(|(_, overlay)| overlay == Some(wanted.overlay))
                });
                let holds = self.holds(node, id);
                away | u64::from(!runs_it) << 59 | u64::from(!holds) << 58 | u64::from(!is_on) << 57
            }
            Placement::OverlayAware => {
                let miss = if self.holds(node, id) { 0 } else { self.miss(now, node) };
                away | miss | self.power(node)
            }
        }
    }

    /// Whether the node has data that the request wants to meet.
    fn holds(&self, node: &Node, id: NodeId) -> bool {
        let Some(wanted) = self.claim.overlay else { return false };
        match (&self.homes, wanted.affinity) {
            (_, Affinity::Any) => false,
            (Some(homes), _) if !homes.is_empty() => homes.contains(id.0),
            (Some(_) | None, Affinity::Require | Affinity::Prefer) => {
                node.shards.iter().any(|shard| shard.overlay == wanted.overlay)
            }
        }
    }

    /// What a new shard costs there: more if another overlay has to give way that is likely to be
    /// wanted again.
    fn miss(&self, now: Time, node: &Node) -> u64 {
        let miss = 1 << 59;
        let Some(wanted) = self.claim.overlay else { return 0 };
        let size = |overlay: OverlayId| self.snapshot.overlays[overlay.0 as usize].disk_gib;
        let taken: u32 = node.shards.iter().map(|shard| size(shard.overlay)).sum();
        if taken + size(wanted.overlay) <= node.disk_gib {
            return miss;
        }
        let Some(victim) = node.shards.iter().find(|shard| !shard.leased) else { return miss };
        let known = self.known.get(&victim.overlay).copied().unwrap_or_default();
        // Twice as long unused, half as likely to be wanted: the logarithm is enough to compare.
        let unused = (now - known.used).max(1) as u64;
        let recent = u64::from(unused.leading_zeros());
        let _ = known.shards;
        miss | recent << 40
    }

    fn power(&self, node: &Node) -> u64 {
        let state = match node.power {
            Power::On { .. } => 0,
            Power::Booting { .. } => 1,
            Power::Off => 2,
        };
        let same = (self.claim.image, self.claim.overlay.map(|wanted| wanted.overlay));
        let other = node.runs.is_none_or(|runs| runs != same);
        state << 8 | u64::from(other)
    }
}
