//! Nodes that are alike for everything that a pass can ask, gathered into cells.
//!
//! Two nodes share a cell if shape, rack, labels, health, grants and planned work on them are the
//! same, and every set of nodes that a waiting claim names has both or neither. Within a cell it does
//! not matter which node a later start gets, so planning needs only counts ([`Steps`]), and bitmaps say
//! which nodes they are. Docs: `docs/adr/0005-the-planner-counts-cells.md`.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use crate::{Health, NodeId, RackId, ShapeId, Snapshot, Time, steps::Steps};

/// Nodes that are alike.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) nodes: RoaringBitmap,
    /// Those on which nothing runs now.
    pub(crate) free: RoaringBitmap,
    /// How many are free over time.
    pub(crate) steps: Steps,
    pub(crate) shape: ShapeId,
    pub(crate) rack: RackId,
    pub(crate) labels: u64,
    pub(crate) health: Health,
    /// When they are worked on.
    pub(crate) maintenance: Vec<(Time, Time)>,
    /// When they are assigned to advance claims.
    fixed: Vec<(Time, Time)>,
    /// In how many named sets they are: what many name is given to others last.
    pub(crate) named: u32,
}

/// All cells.
#[derive(Debug, Clone)]
pub(crate) struct Cells {
    pub(crate) all: Vec<Cell>,
    /// The cell of each node.
    of: Vec<u32>,
}

/// Nodes that something takes for a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken<'a> {
    pub(crate) nodes: &'a RoaringBitmap,
    pub(crate) from: Time,
    pub(crate) until: Time,
}

/// What the cells are made from, beside the nodes.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    /// The node is in use until then.
    pub(crate) busy_until: &'a [Time],
    /// Accepted advance claims.
    pub(crate) fixed: &'a [Taken<'a>],
    /// Sets that tell nodes apart: of grants, and those that claims name.
    pub(crate) grants: &'a [&'a RoaringBitmap],
    pub(crate) named: &'a [RoaringBitmap],
}

impl Cell {
    /// Lays out what is free over time, but for starts that come.
    pub(crate) fn lay(&mut self, now: Time, busy_until: &[Time]) {
        let mut ends = Vec::with_capacity(self.nodes.len() as usize);
        let mut free = Vec::with_capacity(self.nodes.len() as usize);
        for node in &self.nodes {
            match busy_until[node as usize] {
                until if until > now => ends.push((until, 1)),
                _ => free.push(node),
            }
        }
        self.free = RoaringBitmap::from_sorted_iter(free).expect("nodes are in order");
        self.steps = Steps::new(now, self.free.len() as i32, &mut ends);
        for (from, until) in self.maintenance.iter().chain(&self.fixed) {
            self.steps.add(*from, *until, -(self.nodes.len() as i32));
        }
    }
}

impl Cells {
    /// Gathers all nodes.
    pub(crate) fn new(snapshot: &Snapshot, now: Time, ground: &Ground<'_>) -> Cells {
        let mut classes = Classes::new(snapshot);
        let maintenance = snapshot.maintenance.iter().filter(|window| window.until > now);
        let maintenance: Vec<Taken<'_>> = maintenance
            .map(|window| Taken { nodes: &window.nodes, from: window.from, until: window.until })
            .collect();
        for set in ground.grants {
            classes.split(set);
        }
        for taken in maintenance.iter().chain(ground.fixed) {
            classes.split(taken.nodes);
        }
        for set in ground.named {
            classes.split(set);
        }
        let (of, members) = classes.finish();
        let mut all: Vec<Cell> = Vec::with_capacity(members.len());
        for nodes in members {
            let model = &snapshot.nodes[nodes[0] as usize];
            let nodes = RoaringBitmap::from_sorted_iter(nodes);
            let mut cell = Cell {
                nodes: nodes.expect("nodes are in order"),
                free: RoaringBitmap::new(),
                steps: Steps::new(now, 0, &mut []),
                shape: model.shape,
                rack: model.rack,
                labels: model.labels,
                health: model.health,
                maintenance: Vec::new(),
                fixed: Vec::new(),
                named: 0,
            };
            cell.lay(now, ground.busy_until);
            all.push(cell);
        }
        let mut cells = Cells { all, of };
        for set in ground.named {
            for cell in cells.within(set) {
                cells.all[cell].named += 1;
            }
        }
        for taken in &maintenance {
            for cell in cells.within(taken.nodes) {
                let cell = &mut cells.all[cell];
                cell.maintenance.push((taken.from, taken.until));
                cell.steps.add(taken.from, taken.until, -(cell.nodes.len() as i32));
            }
        }
        for taken in ground.fixed {
            for cell in cells.within(taken.nodes) {
                let cell = &mut cells.all[cell];
                cell.fixed.push((taken.from, taken.until));
                cell.steps.add(taken.from, taken.until, -(cell.nodes.len() as i32));
            }
        }
        cells
    }

    /// The cell of a node.
    pub(crate) fn of(&self, node: NodeId) -> usize {
        self.of[node.index()] as usize
    }

    /// The cells of a set of nodes, each of which is in it whole.
    pub(crate) fn within(&self, nodes: &RoaringBitmap) -> Vec<usize> {
        let mut cells: Vec<usize> =
            nodes.iter().map(|node| self.of[node as usize] as usize).collect();
        cells.sort_unstable();
        cells.dedup();
        cells
    }

    /// Parts cells that lie partly in a set. What is held for starts that come has to be laid anew.
    pub(crate) fn part(&mut self, nodes: &RoaringBitmap, now: Time, busy_until: &[Time]) {
        for index in self.within(nodes) {
            let cell = &self.all[index];
            let inside = &cell.nodes & nodes;
            if inside.len() == cell.nodes.len() {
                continue;
            }
            let mut other = Cell { nodes: inside, named: cell.named + 1, ..cell.clone() };
            for node in &other.nodes {
                self.of[node as usize] = self.all.len() as u32;
            }
            self.all[index].nodes -= &other.nodes;
            self.all[index].lay(now, busy_until);
            other.lay(now, busy_until);
            self.all.push(other);
        }
    }

    /// Whether each cell lies in the set whole or not at all.
    pub(crate) fn tell_apart(&self, nodes: &RoaringBitmap) -> bool {
        self.within(nodes).into_iter().all(|cell| self.all[cell].nodes.is_subset(nodes))
    }
}

/// Nodes by class, refined set by set.
struct Classes {
    of: Vec<u32>,
    count: u32,
}

impl Classes {
    fn new(snapshot: &Snapshot) -> Classes {
        let mut known = HashMap::new();
        let mut last = None;
        let mut of = Vec::with_capacity(snapshot.nodes.len());
        for node in &snapshot.nodes {
            let key = (node.shape, node.rack, node.labels, node.health);
            // Neighbours are mostly alike.
            if let Some((before, class)) = last
                && before == key
            {
                of.push(class);
                continue;
            }
            let next = known.len() as u32;
            let class = *known.entry(key).or_insert(next);
            last = Some((key, class));
            of.push(class);
        }
        Classes { of, count: known.len() as u32 }
    }

    /// Parts each class into what is in the set and what is not.
    fn split(&mut self, nodes: &RoaringBitmap) {
        if nodes.len() == self.of.len() as u64 {
            return;
        }
        let mut parted: HashMap<u32, u32> = HashMap::new();
        for node in nodes {
            let class = &mut self.of[node as usize];
            *class = *parted.entry(*class).or_insert_with(|| {
                self.count += 1;
                self.count - 1
            });
        }
    }

    /// The class of each node and the nodes of each class, numbered by their first nodes.
    fn finish(self) -> (Vec<u32>, Vec<Vec<u32>>) {
        let mut number = vec![u32::MAX; self.count as usize];
        let mut members: Vec<Vec<u32>> = Vec::new();
        let mut of = self.of;
        for (node, class) in of.iter_mut().enumerate() {
            let number = &mut number[*class as usize];
            if *number == u32::MAX {
                *number = members.len() as u32;
                members.push(Vec::new());
            }
            members[*number as usize].push(node as u32);
            *class = *number;
        }
        (of, members)
    }
}
