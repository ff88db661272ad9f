//! Limits that are not nodes: the maximum of each queue and user, and one claim at a time per overlay.

use std::collections::HashMap;

use crate::{Claim, OverlayId, Policy, QueueId, Share, Snapshot, Time, UserId, Vector};

/// What keeps a claim from starting though nodes are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Barrier {
    Queue(QueueId),
    User(QueueId),
    Overlay(OverlayId),
}

/// Which limits to look at; explaining leaves one out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) queue: bool,
    pub(crate) user: bool,
    pub(crate) overlay: bool,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    vector: Vector,
    from: Time,
    until: Time,
}

/// What is held under one limit, over time.
#[derive(Debug, Clone, Default)]
struct Holds(Vec<Held>);

/// All limits, and what is held under them.
#[derive(Debug, Clone)]
pub(crate) struct Caps {
    total: Vector,
    /// For each queue: what limits it, itself included. Queues without a limit are left out.
    limited: Vec<Vec<QueueId>>,
    max: Vec<Share>,
    user_max: Vec<Option<Share>>,
    queues: Vec<Holds>,
    users: HashMap<(QueueId, UserId), Holds>,
    overlays: HashMap<OverlayId, Vec<(Time, Time)>>,
}

impl Caps {
    pub(crate) fn new(snapshot: &Snapshot, total: Vector) -> Caps {
        let queues = &snapshot.queues;
        let mut limited: Vec<Vec<QueueId>> = Vec::with_capacity(queues.len());
        for (index, queue) in queues.iter().enumerate() {
            let mut above =
                queue.parent.map_or(Vec::new(), |parent| limited[parent.index()].clone());
            if queue.max < Share::WHOLE {
                above.push(QueueId(index as u32));
            }
            limited.push(above);
        }
        Caps {
            total,
            limited,
            max: queues.iter().map(|queue| queue.max).collect(),
            user_max: user_maxima(snapshot),
            queues: vec![Holds::default(); queues.len()],
            users: HashMap::new(),
            overlays: HashMap::new(),
        }
    }

    /// Whether a claim may hold this much for this time.
    pub(crate) fn allow(
        &self,
        claim: &Claim,
        vector: Vector,
        (from, until): (Time, Time),
        asked: Asked,
    ) -> Result<(), Barrier> {
        if asked.queue {
            for queue in &self.limited[claim.queue.index()] {
                let (held, max) = (&self.queues[queue.index()], self.max[queue.index()]);
                if !held.leave_room(vector, from, until, max, self.total) {
                    return Err(Barrier::Queue(*queue));
                }
            }
        }
        if let Some(max) = self.user_max[claim.queue.index()]
            && asked.user
        {
            let nothing = Holds::default();
            let held = self.users.get(&(claim.queue, claim.user)).unwrap_or(&nothing);
            if !held.leave_room(vector, from, until, max, self.total) {
                return Err(Barrier::User(claim.queue));
            }
        }
        if let Some(overlay) = locked(claim)
            && asked.overlay
            && let Some(uses) = self.overlays.get(&overlay)
            && uses.iter().any(|(begin, end)| *begin < until && from < *end)
        {
            return Err(Barrier::Overlay(overlay));
        }
        Ok(())
    }

    /// Notes that a claim holds this much for this time.
    pub(crate) fn take(&mut self, claim: &Claim, vector: Vector, from: Time, until: Time) {
        let held = Held { vector, from, until };
        for queue in &self.limited[claim.queue.index()] {
            self.queues[queue.index()].0.push(held);
        }
        if self.user_max[claim.queue.index()].is_some() {
            self.users.entry((claim.queue, claim.user)).or_default().0.push(held);
        }
        if let Some(overlay) = locked(claim) {
            self.overlays.entry(overlay).or_default().push((from, until));
        }
    }

    /// Takes back what was noted with the same times.
    pub(crate) fn give_back(&mut self, claim: &Claim, vector: Vector, from: Time, until: Time) {
        for queue in &self.limited[claim.queue.index()] {
            self.queues[queue.index()].remove(vector, from, until);
        }
        if let Some(holds) = self.users.get_mut(&(claim.queue, claim.user)) {
            holds.remove(vector, from, until);
        }
        if let Some(uses) = locked(claim).and_then(|overlay| self.overlays.get_mut(&overlay))
            && let Some(index) = uses.iter().position(|one| *one == (from, until))
        {
            uses.swap_remove(index);
        }
    }

    /// The first time after `time` at which something is given back that may have been in the way.
    pub(crate) fn next_release(&self, claim: &Claim, time: Time) -> Option<Time> {
        let queues = self.limited[claim.queue.index()].iter().map(|q| &self.queues[q.index()]);
        let users = self.users.get(&(claim.queue, claim.user));
        let held = queues.chain(users).flat_map(|holds| &holds.0).map(|held| held.until);
        let uses = locked(claim).and_then(|overlay| self.overlays.get(&overlay));
        let uses = uses.into_iter().flatten().map(|(_, until)| *until);
        held.chain(uses).filter(|until| *until > time).min()
    }
}

impl Holds {
    fn leave_room(
        &self,
        vector: Vector,
        from: Time,
        until: Time,
        max: Share,
        total: Vector,
    ) -> bool {
        let meets = |held: &&Held| held.from < until && from < held.until;
        let sum_at = |time: Time| {
            let held = self.0.iter().filter(|held| held.from <= time && time < held.until);
            held.fold(vector, |sum, held| sum.plus(held.vector))
        };
        let all = self.0.iter().filter(meets).fold(vector, |sum, held| sum.plus(held.vector));
        if all.is_within(max, total) {
            return true;
        }
        // The sum is highest when something begins.
        let begins = self.0.iter().filter(meets).map(|held| held.from.max(from));
        sum_at(from).is_within(max, total)
            && begins.into_iter().all(|time| sum_at(time).is_within(max, total))
    }

    fn remove(&mut self, vector: Vector, from: Time, until: Time) {
        let same = |held: &Held| held.vector == vector && held.from == from && held.until == until;
        if let Some(index) = self.0.iter().position(same) {
            self.0.swap_remove(index);
        }
    }
}

/// The overlay that only one claim at a time may attach.
fn locked(claim: &Claim) -> Option<OverlayId> {
    claim.overlay.filter(|wanted| !wanted.fork).map(|wanted| wanted.overlay)
}

/// What one user may hold through each queue.
fn user_maxima(snapshot: &Snapshot) -> Vec<Option<Share>> {
    let mut users: Vec<std::collections::HashSet<UserId>> =
        vec![Default::default(); snapshot.queues.len()];
    let counted = |queue: &crate::Queue| matches!(queue.policy, Policy::Capacity { .. });
    if snapshot.queues.iter().any(counted) {
        let held = snapshot.assignments.iter().map(|assignment| &assignment.claim);
        for claim in snapshot.claims.iter().chain(held) {
            users[claim.queue.index()].insert(claim.user);
        }
    }
    let maximum = |(queue, users): (&crate::Queue, &std::collections::HashSet<UserId>)| {
        let part = match queue.policy {
            Policy::Fifo | Policy::Fair => None,
            Policy::Capacity { user_factor_percent } => {
                let part = Share::percent(user_factor_percent).0 / users.len().max(1) as u64;
                Some(Share(part).of(queue.max).min(queue.max))
            }
        };
        match (part, queue.user_max) {
            (Some(part), Some(max)) => Some(part.min(max)),
            (part, max) => part.or(max),
        }
    };
    snapshot.queues.iter().zip(&users).map(maximum).collect()
}
