//! In which order claims are looked at: queue, then claim.
//!
//! The tree is walked depth-first: among siblings with claims, those below their maximum first, then
//! by priority, then those that hold less than they are guaranteed, then by what they hold and lately
//! held against their weight, then by name. A chosen claim is charged at once, so that shares move
//! within a pass. Claims that have waited longer than the age limit go before all others, the oldest
//! first; so nobody starves.

use std::collections::{BTreeMap, VecDeque};

use crate::{Claim, Policy, QueueId, Share, Snapshot, Time, UserId, Vector, vector::remembered};

/// The claims of a snapshot in order. Each call of `next` takes one out.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    snapshot: &'a Snapshot,
    total: Vector,
    /// What a node has on average, for requests that take any shape.
    average: Vector,
    aged: VecDeque<u32>,
    queues: Vec<Standing>,
}

/// How a queue stands in the walk.
#[derive(Debug, Default)]
struct Standing {
    children: Vec<usize>,
    /// Place among all names.
    by_name: usize,
    /// Claims here and below that were not yet taken.
    pending: usize,
    /// Held now, and charged in this pass.
    held: Vector,
    load: Share,
    /// Held in the past, as a part of all that is remembered.
    past: Share,
    waiting: Waiting,
}

/// The claims of a leaf.
#[derive(Debug)]
enum Waiting {
    InOrder(VecDeque<u32>),
    ByUser(BTreeMap<UserId, User>),
}

/// A user's claims, and what he holds.
#[derive(Debug, Default)]
struct User {
    claims: VecDeque<u32>,
    held: Vector,
    past: Share,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting::InOrder(VecDeque::new())
    }
}

impl<'a> Walk<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, total: Vector, now: Time) -> Walk<'a> {
        let nodes = total.nodes.max(1);
        let average = Vector {
            nodes: 1,
            cores: total.cores / nodes,
            gpus: total.gpus / nodes,
            memory_gib: total.memory_gib / nodes,
            disk_gib: total.disk_gib / nodes,
            network_gbit: total.network_gbit / nodes,
        };
        let mut walk = Walk {
            snapshot,
            total,
            average,
            aged: VecDeque::new(),
            queues: snapshot.queues.iter().map(|_| Standing::default()).collect(),
        };
        let mut names: Vec<usize> = (0..snapshot.queues.len()).collect();
        names.sort_by(|a, b| snapshot.queues[*a].name.cmp(&snapshot.queues[*b].name));
        for (place, index) in names.into_iter().enumerate() {
            walk.queues[index].by_name = place;
        }
        for (index, queue) in snapshot.queues.iter().enumerate() {
            if let Some(parent) = queue.parent {
                walk.queues[parent.index()].children.push(index);
            }
            if queue.policy == Policy::Fair {
                walk.queues[index].waiting = Waiting::ByUser(BTreeMap::new());
            }
        }
        walk.fill(now);
        walk.charge_past(now);
        walk.charge_present(now);
        for index in 0..walk.queues.len() {
            walk.weigh(index);
        }
        walk
    }

    fn fill(&mut self, now: Time) {
        let claims = &self.snapshot.claims;
        let mut sorted: Vec<u32> = (0..claims.len() as u32).collect();
        sorted.sort_by_key(|index| age(&claims[*index as usize]));
        for index in sorted {
            let claim = &claims[index as usize];
            if now - claim.submitted >= self.snapshot.settings.age_limit {
                self.aged.push_back(index);
                continue;
            }
            match &mut self.queues[claim.queue.index()].waiting {
                Waiting::InOrder(claims) => claims.push_back(index),
                Waiting::ByUser(users) => {
                    users.entry(claim.user).or_default().claims.push_back(index);
                }
            }
            self.up(claim.queue, |standing| standing.pending += 1);
        }
    }

    fn charge_past(&mut self, now: Time) {
        let half_life = self.snapshot.settings.half_life;
        let all = self.total.times(remembered(half_life));
        let mut spent = vec![Vector::default(); self.queues.len()];
        for usage in &self.snapshot.usage {
            let left = usage.spent.decayed(now - usage.at, half_life);
            let mut queue = Some(usage.queue);
            while let Some(id) = queue {
                spent[id.index()] = spent[id.index()].plus(left);
                queue = self.snapshot.queues[id.index()].parent;
            }
            if let Waiting::ByUser(users) = &mut self.queues[usage.queue.index()].waiting
                && let Some(user) = users.get_mut(&usage.user)
            {
                user.past = Share(user.past.0 + left.dominant(all).0);
            }
        }
        for (standing, spent) in self.queues.iter_mut().zip(spent) {
            standing.past = spent.dominant(all);
        }
    }

    fn charge_present(&mut self, now: Time) {
        let snapshot = self.snapshot;
        for assignment in snapshot.assignments.iter().filter(|one| one.has_begun(now)) {
            let nodes = assignment.all_nodes();
            let vector = nodes.fold(Vector::default(), |sum, n| sum.plus(snapshot.vector(n)));
            self.charge(&assignment.claim, vector);
        }
    }

    fn charge(&mut self, claim: &Claim, vector: Vector) {
        self.up(claim.queue, |standing| standing.held = standing.held.plus(vector));
        if let Waiting::ByUser(users) = &mut self.queues[claim.queue.index()].waiting
            && let Some(user) = users.get_mut(&claim.user)
        {
            user.held = user.held.plus(vector);
        }
    }

    fn up(&mut self, queue: QueueId, mut change: impl FnMut(&mut Standing)) {
        let mut next = Some(queue);
        while let Some(id) = next {
            change(&mut self.queues[id.index()]);
            next = self.snapshot.queues[id.index()].parent;
        }
    }

    fn weigh(&mut self, index: usize) {
        self.queues[index].load = self.queues[index].held.dominant(self.total);
    }

    /// What a claim will about hold.
    fn about(&self, claim: &Claim) -> Vector {
        claim.requests.iter().fold(Vector::default(), |sum, request| {
            let shape = request.shapes.first();
            let one = shape.map_or(self.average, |shape| self.snapshot.shapes[shape.0 as usize]);
            sum.plus(one.times(u64::from(request.count)))
        })
    }

    /// The place of the next claim in the snapshot's list.
    pub(crate) fn next(&mut self) -> Option<usize> {
        let index = match self.aged.pop_front() {
            Some(index) => index as usize,
            None => {
                let index = self.descend()? as usize;
                let queue = self.snapshot.claims[index].queue;
                self.up(queue, |standing| standing.pending -= 1);
                index
            }
        };
        // A lone queue needs no weighing.
        if self.queues.len() > 1 || self.snapshot.queues[0].policy == Policy::Fair {
            let claim = &self.snapshot.claims[index];
            self.charge(claim, self.about(claim));
            let mut next = Some(claim.queue);
            while let Some(id) = next {
                self.weigh(id.index());
                next = self.snapshot.queues[id.index()].parent;
            }
        }
        Some(index)
    }

    fn descend(&mut self) -> Option<u32> {
        let mut at = 0;
        if self.queues[at].pending == 0 {
            return None;
        }
        while !self.queues[at].children.is_empty() {
            let open = self.queues[at].children.iter().copied();
            let open = open.filter(|child| self.queues[*child].pending > 0);
            at = open.min_by_key(|child| self.rank(*child))?;
        }
        let total = self.total;
        match &mut self.queues[at].waiting {
            Waiting::InOrder(claims) => claims.pop_front(),
            Waiting::ByUser(users) => {
                let claims = &self.snapshot.claims;
                let open = users.iter_mut().filter_map(|(_, user)| {
                    let first = *user.claims.front()?;
                    let load = Share(user.held.dominant(total).0 + user.past.0);
                    Some(((load, age(&claims[first as usize])), user))
                });
                let (_, user) = open.min_by_key(|(key, _)| *key)?;
                user.claims.pop_front()
            }
        }
    }

    /// The least goes first.
    fn rank(&self, index: usize) -> impl Ord + use<> {
        let (queue, standing) = (&self.snapshot.queues[index], &self.queues[index]);
        let load = u128::from(standing.load.0) + u128::from(standing.past.0);
        (
            standing.load >= queue.max,
            std::cmp::Reverse(queue.priority),
            standing.load >= queue.guaranteed,
            load * 1_000_000 / u128::from(queue.weight.max(1)),
            standing.by_name,
        )
    }
}

/// The older claim goes first.
fn age(claim: &Claim) -> (Time, crate::ClaimId) {
    (claim.submitted, claim.id)
}
