//! What a claim needs, in terms of cells: which cells serve each of its requests, and which nodes each
//! rule takes away.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use roaring::RoaringBitmap;

use crate::{
    Affinity, Claim, Health, Location, Need, NodeId, OverlayId, ProjectId, RackId, Request, Rule,
    ShapeId, Share, Snapshot, cells::Cells,
};

/// One way to meet a claim: all of these parts at once.
pub(crate) type Way = Vec<Part>;

/// So many nodes out of some cells.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Of which request.
    pub(crate) request: usize,
    pub(crate) count: u32,
    /// The number of its set of cells; parts with the same number have the same cells.
    pub(crate) class: usize,
    /// Those that serve, in the order in which to take them.
    pub(crate) cells: Rc<[u32]>,
    /// How many nodes these cells have.
    pub(crate) nodes: u64,
    /// All nodes of the request must stand in so many racks.
    pub(crate) racks: Option<u32>,
    /// These are the homes of ranks that must meet them: all of the cells' nodes are needed.
    pub(crate) is_home: bool,
}

/// What makes two parts' cells the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    project: ProjectId,
    shape: Option<ShapeId>,
    labels: u64,
    /// In the rack.
    rack: Option<RackId>,
    /// In these named sets, and not in those.
    inside: [Option<usize>; 2],
    outside: [Option<usize>; 2],
    /// In so many racks.
    racks: Option<u32>,
    without: Option<Rule>,
}

/// Sets of nodes that claims name, each once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sets {
    pub(crate) all: Vec<RoaringBitmap>,
    index: BTreeMap<Vec<u32>, usize>,
    /// Nodes with room for a shard of that many GiB.
    room: HashMap<u32, RoaringBitmap>,
    holders: Option<HashMap<OverlayId, RoaringBitmap>>,
}

/// Finds the cells that serve, and remembers them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Classes {
    known: HashMap<Key, usize>,
    /// The cells of each class, and how many nodes they have.
    all: Vec<(Rc<[u32]>, u64)>,
    /// What was asked for last; neighbours often ask for the same.
    last: Option<(Key, usize)>,
    granted: HashMap<ProjectId, Rc<[bool]>>,
    /// The part of the cluster that a node of each shape is.
    weights: Vec<Share>,
}

impl Sets {
    /// The number of a set, which is new if nobody named it before.
    fn number(&mut self, nodes: RoaringBitmap) -> usize {
        let next = self.all.len();
        let number = *self.index.entry(nodes.iter().collect()).or_insert(next);
        if number == next {
            self.all.push(nodes);
        }
        number
    }

    /// Names all sets that a claim needs to be told apart.
    pub(crate) fn name(&mut self, snapshot: &Snapshot, claim: &Claim) {
        let mut ranks = 0;
        for request in &claim.requests {
            self.of_location(request);
            self.of_homes(snapshot, claim, ranks..ranks + request.count as usize);
            self.of_room(snapshot, claim);
            ranks += request.count as usize;
        }
        self.of_barred(claim);
    }

    fn of_barred(&mut self, claim: &Claim) -> Option<usize> {
        (!claim.barred.is_empty()).then(|| self.number(claim.barred.clone()))
    }

    fn of_location(&mut self, request: &Request) -> Option<usize> {
        match &request.location {
            Location::Nodes(nodes, Need::Required) => Some(self.number(nodes.clone())),
            Location::Nodes(_, Need::Preferred)
            | Location::Anywhere
            | Location::Rack(..)
            | Location::Racks(..) => None,
        }
    }

    /// The homes of these ranks, if the claim must meet them.
    fn of_homes(
        &mut self,
        snapshot: &Snapshot,
        claim: &Claim,
        ranks: std::ops::Range<usize>,
    ) -> Option<usize> {
        let wanted = claim.overlay.filter(|wanted| wanted.affinity == Affinity::Require)?;
        let homes = &snapshot.overlays[wanted.overlay.0 as usize].homes;
        let homes = homes.iter().take(ranks.end).skip(ranks.start).flatten();
        let homes: RoaringBitmap = homes.map(|home| home.0).collect();
        (!homes.is_empty()).then(|| self.number(homes))
    }

    /// Nodes that have or can take a shard of the claim's overlay, unless all can.
    fn of_room(&mut self, snapshot: &Snapshot, claim: &Claim) -> Option<usize> {
        let overlay = claim.overlay?.overlay;
        let size = snapshot.overlays[overlay.0 as usize].disk_gib;
        let room = self.room.entry(size).or_insert_with(|| with_room(snapshot, size));
        if room.len() == snapshot.nodes.len() as u64 {
            return None;
        }
        let holders = self.holders.get_or_insert_with(|| holders(snapshot));
        let set = match holders.get(&overlay) {
            Some(holders) => &*room | holders,
            None => room.clone(),
        };
        Some(self.number(set))
    }
}

fn with_room(snapshot: &Snapshot, size: u32) -> RoaringBitmap {
    let overlays = &snapshot.overlays;
    let has_room = |node: &crate::Node| {
        let leased = node.shards.iter().filter(|shard| shard.leased);
        let taken: u32 = leased.map(|shard| overlays[shard.overlay.0 as usize].disk_gib).sum();
        node.disk_gib.saturating_sub(taken) >= size
    };
    let nodes = snapshot.nodes.iter().enumerate().filter(|(_, node)| has_room(node));
    let nodes = nodes.map(|(index, _)| index as u32);
    RoaringBitmap::from_sorted_iter(nodes).expect("nodes are in order")
}

fn holders(snapshot: &Snapshot) -> HashMap<OverlayId, RoaringBitmap> {
    let mut holders: HashMap<OverlayId, RoaringBitmap> = HashMap::new();
    for (index, node) in snapshot.nodes.iter().enumerate() {
        for shard in &node.shards {
            holders.entry(shard.overlay).or_default().insert(index as u32);
        }
    }
    holders
}

/// All ways to meet a claim, the best first.
pub(crate) fn ways(
    snapshot: &Snapshot,
    cells: &Cells,
    sets: &mut Sets,
    classes: &mut Classes,
    claim: &Claim,
    without: Option<Rule>,
) -> Vec<Way> {
    let mut order: Vec<usize> = (0..claim.requests.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(claim.requests[*index].priority));
    let mut first_rank = vec![0; claim.requests.len()];
    let mut ranks = 0;
    for (first, request) in first_rank.iter_mut().zip(&claim.requests) {
        *first = ranks;
        ranks += request.count as usize;
    }
    let mut ways: Vec<Way> = vec![Vec::new()];
    for index in order {
        let request = &claim.requests[index];
        let shapes: Vec<Option<ShapeId>> = match &request.shapes[..] {
            [] => vec![None],
            shapes if without == Some(Rule::Shape) && !shapes.is_empty() => vec![None],
            shapes => shapes.iter().map(|shape| Some(*shape)).collect(),
        };
        let ranks = first_rank[index]..first_rank[index] + request.count as usize;
        let mut longer = Vec::with_capacity(ways.len() * shapes.len());
        for way in &ways {
            for shape in &shapes {
                let mut way = way.clone();
                let mut find = Finder { snapshot, cells, sets, classes, claim, without };
                find.parts(index, request, *shape, ranks.clone(), &mut way);
                longer.push(way);
            }
        }
        ways = longer;
    }
    ways
}

impl Classes {
    /// The cells of a class, and how many nodes they have.
    pub(crate) fn cells_of(&self, class: usize) -> (Rc<[u32]>, u64) {
        self.all[class].clone()
    }
}

/// The class of cells of a claim with one plain request, without listing its ways.
pub(crate) fn lone_class(
    snapshot: &Snapshot,
    cells: &Cells,
    sets: &mut Sets,
    classes: &mut Classes,
    claim: &Claim,
) -> Option<usize> {
    let [request] = &claim.requests[..] else { return None };
    let shape = match request.shapes[..] {
        [] => None,
        [shape] => Some(shape),
        [..] => return None,
    };
    let must_meet = |wanted: crate::OverlayUse| wanted.affinity == Affinity::Require;
    if claim.overlay.is_some_and(must_meet) {
        return None;
    }
    let (rack, racks) = match &request.location {
        Location::Anywhere => (None, None),
        Location::Rack(rack, Need::Required) => (Some(*rack), None),
        Location::Racks(racks, Need::Required) => (None, Some(*racks)),
        Location::Rack(_, Need::Preferred) | Location::Racks(_, Need::Preferred) => (None, None),
        Location::Nodes(..) => return None,
    };
    let (room, barred) = (sets.of_room(snapshot, claim), sets.of_barred(claim));
    let mut find = Finder { snapshot, cells, sets, classes, claim, without: None };
    Some(find.class(Key {
        project: claim.project,
        shape,
        labels: request.labels,
        rack,
        inside: [None, room],
        outside: [None, barred],
        racks,
        without: None,
    }))
}

struct Finder<'a> {
    snapshot: &'a Snapshot,
    cells: &'a Cells,
    sets: &'a mut Sets,
    classes: &'a mut Classes,
    claim: &'a Claim,
    without: Option<Rule>,
}

impl Finder<'_> {
    /// Adds the parts of a request: ranks that must meet their homes, and the others.
    fn parts(
        &mut self,
        index: usize,
        request: &Request,
        shape: Option<ShapeId>,
        ranks: std::ops::Range<usize>,
        way: &mut Way,
    ) {
        let location = self.without != Some(Rule::Location);
        let (rack, racks) = match &request.location {
            Location::Rack(rack, Need::Required) if location => (Some(*rack), None),
            Location::Racks(racks, Need::Required) if location => (None, Some(*racks)),
            Location::Rack(..) | Location::Racks(..) | Location::Nodes(..) | Location::Anywhere => {
                (None, None)
            }
        };
        let nodes = if location { self.sets.of_location(request) } else { None };
        let barred = match self.without {
            Some(Rule::Barred) => None,
            Some(_) | None => self.sets.of_barred(self.claim),
        };
        let mut key = Key {
            project: self.claim.project,
            shape,
            labels: if self.without == Some(Rule::Label) { 0 } else { request.labels },
            rack,
            inside: [nodes, None],
            outside: [None, barred],
            racks,
            without: self.without,
        };
        let homes = match self.without {
            Some(Rule::OverlayHome) => None,
            Some(_) | None => self.sets.of_homes(self.snapshot, self.claim, ranks),
        };
        let at_home = homes.map_or(0, |set| self.sets.all[set].len() as u32);
        if let Some(homes) = homes {
            key.inside[1] = Some(homes);
            let part = self.part(index, at_home.min(request.count), key.clone());
            way.push(Part { is_home: true, ..part });
        }
        if request.count > at_home {
            key.outside[0] = homes;
            key.inside[1] = match self.without {
                Some(Rule::Disk) => None,
                Some(_) | None => self.sets.of_room(self.snapshot, self.claim),
            };
            way.push(self.part(index, request.count - at_home, key));
        }
    }

    fn part(&mut self, request: usize, count: u32, key: Key) -> Part {
        let racks = key.racks;
        let class = self.class(key);
        let (cells, nodes) = self.classes.cells_of(class);
        Part { request, count, class, cells, nodes, racks, is_home: false }
    }

    fn class(&mut self, key: Key) -> usize {
        if let Some((last, class)) = &self.classes.last
            && *last == key
        {
            return *class;
        }
        let class = match self.classes.known.get(&key) {
            Some(class) => *class,
            None => {
                let cells = self.serving(&key);
                let nodes = cells.iter().map(|c| self.cells.all[*c as usize].nodes.len()).sum();
                self.classes.all.push((cells, nodes));
                let class = self.classes.all.len() - 1;
                self.classes.known.insert(key.clone(), class);
                class
            }
        };
        self.classes.last = Some((key, class));
        class
    }

    fn serving(&mut self, key: &Key) -> Rc<[u32]> {
        let all = &self.cells.all;
        let granted = match self.without {
            Some(Rule::Grant) => None,
            Some(_) | None => Some(self.granted(key.project)),
        };
        let sets = &self.sets.all;
        let serves = |index: &u32| {
            let cell = &all[*index as usize];
            // A cell lies in a set whole or not at all.
            let first = cell.nodes.min().expect("a cell has a node");
            let is_in = |set: &usize| sets[*set].contains(first);
            (cell.health == Health::Ready || self.without == Some(Rule::Health))
                && granted.as_ref().is_none_or(|granted| granted[*index as usize])
                && key.shape.is_none_or(|shape| shape == cell.shape)
                && cell.labels & key.labels == key.labels
                && key.rack.is_none_or(|rack| rack == cell.rack)
                && key.inside.iter().flatten().all(is_in)
                && !key.outside.iter().flatten().any(is_in)
        };
        let mut cells: Vec<u32> = (0..all.len() as u32).filter(serves).collect();
        if self.classes.weights.is_empty() {
            let total = self.snapshot.total();
            let weights = self.snapshot.shapes.iter().map(|shape| shape.dominant(total));
            self.classes.weights = weights.collect();
        }
        let weights = &self.classes.weights;
        // What others may need more is taken last.
        cells.sort_by_key(|index| {
            let cell = &all[*index as usize];
            let weight = weights[cell.shape.0 as usize];
            (weight, cell.named, cell.labels.count_ones(), *index)
        });
        cells.into()
    }

    fn granted(&mut self, project: ProjectId) -> Rc<[bool]> {
        let (snapshot, cells) = (self.snapshot, self.cells);
        let make = || {
            let mut granted = vec![false; cells.all.len()];
            for grant in snapshot.grants.iter().filter(|grant| grant.project == project) {
                for (granted, cell) in granted.iter_mut().zip(&cells.all) {
                    let first = cell.nodes.min().expect("a cell has a node");
                    *granted |= grant.nodes.contains(first);
                }
            }
            granted.into()
        };
        self.classes.granted.entry(project).or_insert_with(make).clone()
    }
}

/// How many nodes each rule keeps from a claim, each rule looked at alone. A node counts if it serves
/// none of the claim's requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excluded {
    /// Lost or draining.
    pub health: u32,
    /// Not granted to the project.
    pub grant: u32,
    /// Barred to the claim.
    pub barred: u32,
    /// Of another shape.
    pub shape: u32,
    /// Without the labels.
    pub label: u32,
    /// Elsewhere.
    pub location: u32,
    /// Not the home of the overlay's data.
    pub overlay_home: u32,
    /// Without room for a shard.
    pub disk: u32,
}

/// Counts for each rule the nodes that it takes away.
pub(crate) fn excluded(snapshot: &Snapshot, sets: &mut Sets, claim: &Claim) -> Excluded {
    let mut granted = RoaringBitmap::new();
    for grant in snapshot.grants.iter().filter(|grant| grant.project == claim.project) {
        granted |= &grant.nodes;
    }
    let room = sets.of_room(snapshot, claim);
    let homes = homes_only(snapshot, claim);
    let mut excluded = Excluded::default();
    for (index, node) in snapshot.nodes.iter().enumerate() {
        let id = NodeId(index as u32);
        let none = |serves: &dyn Fn(&Request) -> bool| !claim.requests.iter().any(serves);
        let count = |rule: &mut u32, out: bool| *rule += u32::from(out);
        count(&mut excluded.health, node.health != Health::Ready);
        count(&mut excluded.grant, !granted.contains(id.0));
        count(&mut excluded.barred, claim.barred.contains(id.0));
        let shape = |r: &Request| r.shapes.is_empty() || r.shapes.contains(&node.shape);
        count(&mut excluded.shape, none(&shape));
        count(&mut excluded.label, none(&|r| node.labels & r.labels == r.labels));
        let place = |request: &Request| match &request.location {
            Location::Nodes(nodes, Need::Required) => nodes.contains(id.0),
            Location::Rack(rack, Need::Required) => node.rack == *rack,
            Location::Nodes(_, Need::Preferred)
            | Location::Rack(_, Need::Preferred)
            | Location::Racks(..)
            | Location::Anywhere => true,
        };
        count(&mut excluded.location, none(&place));
        count(&mut excluded.overlay_home, homes.as_ref().is_some_and(|h| !h.contains(id.0)));
        let is_home = homes.as_ref().is_some_and(|homes| homes.contains(id.0));
        let full = room.is_some_and(|set| !sets.all[set].contains(id.0));
        count(&mut excluded.disk, full && !is_home);
    }
    excluded
}

/// The homes of a claim's ranks, if each rank has one and must meet it.
fn homes_only(snapshot: &Snapshot, claim: &Claim) -> Option<RoaringBitmap> {
    let wanted = claim.overlay.filter(|wanted| wanted.affinity == Affinity::Require)?;
    let count = claim.count() as usize;
    let homes = snapshot.overlays[wanted.overlay.0 as usize].homes.iter().take(count).flatten();
    let homes: RoaringBitmap = homes.map(|home| home.0).collect();
    (homes.len() == count as u64).then_some(homes)
}
