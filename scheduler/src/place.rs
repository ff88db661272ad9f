//! Which nodes of those that serve: where an overlay's data lies, where a new shard disturbs least,
//! which nodes are on.

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
/// many and none of those that are taken, and puts each on its rank.
pub(crate) fn choose_within(
    planner: &Planner<'_>,
    claim: &Claim,
    request: usize,
    limits: &[Share],
    count: u32,
    taken: &RoaringBitmap,
) -> Vec<NodeId> {
    let mut view = View::new(planner, claim, request);
    let enough = count as usize * CHOICE + CHOICE_MORE;
    let mut candidates: Vec<(NodeId, usize)> = Vec::new();
    for (place, (cell, _)) in limits.iter().enumerate() {
        let free = &planner.cells.all[*cell].free;
        let is_home = || view.homes.as_ref().is_some_and(|homes| !homes.is_disjoint(free));
        if candidates.len() < enough || is_home() {
            let free = free.iter().filter(|node| !taken.contains(*node));
            candidates.extend(free.map(|node| (NodeId(node), place)));
        }
    }
    view.can_meet = view.holders_among(&candidates) >= count as usize;
    let with_cost = |(node, place): (NodeId, usize)| (view.cost(node), node, place);
    let mut candidates: Vec<(Cost, NodeId, usize)> =
        candidates.into_iter().map(with_cost).collect();
    candidates.sort_unstable();
    let mut left: Vec<u32> = limits.iter().map(|(_, limit)| *limit).collect();
    let mut chosen = Vec::with_capacity(count as usize);
    for (_, node, place) in candidates {
        if left[place] > 0 && chosen.len() < count as usize {
            left[place] -= 1;
            chosen.push(node);
        }
    }
    by_rank(planner.snapshot, claim, request, chosen)
}

/// As [`choose_within`], with as many nodes of each cell as it says.
pub(crate) fn choose(
    planner: &Planner<'_>,
    claim: &Claim,
    request: usize,
    shares: &[Share],
    taken: &RoaringBitmap,
) -> Vec<NodeId> {
    let mut limits: Vec<Share> = Vec::with_capacity(shares.len());
    for (cell, count) in shares {
        match limits.iter_mut().find(|(known, _)| known == cell) {
            Some((_, limit)) => *limit += count,
            None => limits.push((*cell, *count)),
        }
    }
    let count = shares.iter().map(|(_, count)| count).sum();
    choose_within(planner, claim, request, &limits, count, taken)
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

/// What is known of an overlay that might have to give way.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Standing {
    /// When any of its shards was last attached.
    used: Time,
    /// How many ranks it has, if each of them has its data.
    whole: Option<u32>,
}

/// How all overlays stand.
pub(crate) fn standings(snapshot: &Snapshot) -> Vec<Standing> {
    let whole = |overlay: &crate::Overlay| {
        let is_whole = !overlay.homes.is_empty() && overlay.homes.iter().all(Option::is_some);
        is_whole.then_some(overlay.homes.len() as u32)
    };
    let overlays = snapshot.overlays.iter();
    let mut all: Vec<Standing> =
        overlays.map(|overlay| Standing { used: Time::MIN / 2, whole: whole(overlay) }).collect();
    for shard in snapshot.nodes.iter().flat_map(|node| &node.shards) {
        let standing = &mut all[shard.overlay.0 as usize];
        standing.used = standing.used.max(shard.used);
    }
    all
}

/// What it costs to take a node; the least is taken first. The fields count in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    /// It is not where the claim would like to be.
    is_away: bool,
    /// It is of the second choice with regard to the overlay.
    is_second: bool,
    /// 0 on, 1 booting, 2 off.
    power: u8,
    /// It runs something else.
    is_other: bool,
    /// How likely it is that somebody misses it, as a logarithm.
    harm: u32,
    /// Since when it is not needed, as far as that matters.
    since: Time,
}

/// The nodes as one request sees them.
struct View<'a> {
    planner: &'a Planner<'a>,
    claim: &'a Claim,
    preferred: Preferred<'a>,
    /// The overlay whose data matters.
    overlay: Option<OverlayId>,
    /// The nodes that hold the request's ranks.
    homes: Option<RoaringBitmap>,
    /// Enough of the overlay's nodes are free.
    can_meet: bool,
}

enum Preferred<'a> {
    Any,
    Nodes(&'a RoaringBitmap),
    Rack(crate::RackId),
}

impl<'a> View<'a> {
    fn new(planner: &'a Planner<'a>, claim: &'a Claim, request: usize) -> View<'a> {
        let preferred = match &claim.requests[request].location {
            Location::Nodes(nodes, Need::Preferred) => Preferred::Nodes(nodes),
            Location::Rack(rack, Need::Preferred) => Preferred::Rack(*rack),
            Location::Nodes(_, Need::Required)
            | Location::Rack(_, Need::Required)
            | Location::Racks(..)
            | Location::Anywhere => Preferred::Any,
        };
        let matters = claim.overlay.filter(|wanted| wanted.affinity != Affinity::Any);
        let homes = matters.and_then(|_| homes(planner.snapshot, claim, request));
        let homes = homes.map(|homes| homes.iter().flatten().map(|home| home.0).collect());
        let homes = homes.filter(|homes: &RoaringBitmap| !homes.is_empty());
        let overlay = matters.map(|wanted| wanted.overlay);
        View { planner, claim, preferred, overlay, homes, can_meet: false }
    }

    fn holders_among(&self, candidates: &[(NodeId, usize)]) -> usize {
        match self.planner.snapshot.settings.placement {
            Placement::FirstFit | Placement::NaiveSort => 0,
            Placement::OverlayAware => {
                candidates.iter().filter(|(node, _)| self.holds(*node)).count()
            }
        }
    }

    fn node(&self, id: NodeId) -> &'a Node {
        &self.planner.snapshot.nodes[id.index()]
    }

    /// Whether the node has data that the request wants to meet.
    fn holds(&self, id: NodeId) -> bool {
        match (&self.homes, self.overlay) {
            (Some(homes), _) => homes.contains(id.0),
            (None, Some(overlay)) => self.node(id).shards.iter().any(|s| s.overlay == overlay),
            (None, None) => false,
        }
    }

    fn cost(&self, id: NodeId) -> Cost {
        let node = self.node(id);
        let is_away = match self.preferred {
            Preferred::Any => false,
            Preferred::Nodes(nodes) => !nodes.contains(id.0),
            Preferred::Rack(rack) => node.rack != rack,
        };
        let power = match node.power {
            Power::On { .. } => 0,
            Power::Booting { .. } => 1,
            Power::Off => 2,
        };
        let runs = node.runs.filter(|_| power == 0);
        let plain = Cost { is_away, is_second: false, power, is_other: false, harm: 0, since: 0 };
        match self.planner.snapshot.settings.placement {
            Placement::FirstFit => Cost { power: 0, ..plain },
            Placement::NaiveSort => {
                let wanted = self.overlay.is_some();
                let runs_it = wanted && runs.is_some_and(|(_, overlay)| overlay == self.overlay);
                let holds = self.holds(id);
                Cost { is_second: !runs_it, is_other: power > 0, power: u8::from(!holds), ..plain }
            }
            Placement::OverlayAware => self.aware(id, node, plain),
        }
    }

    /// Ranks that have a home meet it. Without homes a job that cannot meet its overlay on all nodes
    /// keeps off those that hold it, which serves the next one. Nodes are taken that are on; then those
    /// that are least likely to be missed by an overlay whose ranks are all in place; then those whose
    /// oldest shard is the longest unused, for that shard gives way.
    fn aware(&self, id: NodeId, node: &Node, plain: Cost) -> Cost {
        let Some(overlay) = self.overlay else {
            let same = (self.claim.image, self.claim.overlay.map(|wanted| wanted.overlay));
            return Cost { is_other: node.runs != Some(same), ..plain };
        };
        let holds = self.holds(id);
        let keeps_off = self.homes.is_none() && !self.can_meet;
        let plain = Cost { is_second: holds == keeps_off, ..plain };
        if holds && !keeps_off {
            // Of those that hold it the ones that were in use last: the others can fall asleep.
            let used = match node.power {
                Power::On { idle_since } => idle_since,
                Power::Booting { .. } | Power::Off => {
                    node.shards.last().map_or(0, |shard| shard.used)
                }
            };
            return Cost { since: -used, ..plain };
        }
        let others = node.shards.iter().filter(|shard| shard.overlay != overlay);
        let harm = others.map(|shard| self.harm(shard.overlay)).max().unwrap_or(0);
        let since = node.shards.first().map_or(Time::MIN, |shard| shard.used);
        Cost { harm, since, ..plain }
    }

    /// How much an overlay would miss one of its nodes. It is the likelier to come back the shorter it
    /// has been away, and one node lost loses all of its ranks' matches, so that of two overlays the one
    /// with fewer ranks is worth more per node.
    fn harm(&self, overlay: OverlayId) -> u32 {
        let standing = self.planner.standings()[overlay.0 as usize];
        let Some(ranks) = standing.whole else { return 0 };
        let unused = (self.planner.now - standing.used).max(0) as u64;
        let weight = unused.saturating_add(600).saturating_mul(u64::from(ranks));
        // In steps of a sixteenth of a doubling.
        let log = u64::from(weight.ilog2());
        let rest = (u128::from(weight) << 4 >> log) as u64 & 15;
        2048 - (log << 4 | rest) as u32
    }
}
