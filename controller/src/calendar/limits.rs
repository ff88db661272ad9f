//! How many nodes a project has at once: those that it has, by reservations or by hand, and those that it was
//! promised for an hour. PURE.

use haas_api::reservation::ReservationState;

use super::world::World;
use crate::model::{Micros, Reservation};

/// A moment at which a project would have more nodes than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) at: Micros,
    /// What it has then beside the one that is asked about.
    pub(super) has: usize,
    /// What it may have.
    pub(super) limit: usize,
}

/// That one is too much whenever it were.
pub(super) fn alone(world: &World, one: &Reservation) -> Option<Excess> {
    let limit = *world.limits.get(&one.tenant)? as usize;
    (one.count as usize > limit).then_some(Excess { at: one.submitted_at, has: 0, limit })
}

/// The first moment of a time at which the project of `one` would have more nodes than it may, if that had its nodes
/// then, among all of these.
pub(super) fn first_excess<'a>(
    world: &World,
    all: impl Iterator<Item = &'a Reservation>,
    one: &Reservation,
    (from, until): (Micros, Micros),
) -> Option<Excess> {
    let limit = *world.limits.get(&one.tenant)? as usize;
    let by_hand = world.by_hand().filter(|tenant| *tenant == one.tenant).count();
    let others = all.filter(|other| other.tenant == one.tenant && other.id != one.id);
    let spans = others.filter_map(|other| match other.state {
        // What it has now it has until its end.
        state if state.has_nodes() => {
            let until = other.end_at.unwrap_or(Micros::MAX);
            Some((Micros::MIN, until, other.held().count()))
        }
        ReservationState::Planned if other.is_advance => {
            let (from, until) = world.span(other)?;
            Some((from, until, other.count as usize))
        }
        _ => None,
    });
    let spans: Vec<_> = spans.collect();
    let mut times: Vec<Micros> = spans.iter().map(|(begin, ..)| *begin).collect();
    times.retain(|at| *at > from && *at < until);
    times.push(from);
    times.sort_unstable();
    times.into_iter().find_map(|at| {
        let then = spans.iter().filter(|(begin, end, _)| *begin <= at && at < *end);
        let has = by_hand + then.map(|(.., nodes)| nodes).sum::<usize>();
        (has + one.count as usize > limit).then_some(Excess { at, has, limit })
    })
}

/// Why one waits that would be too much.
pub(super) fn reason(excess: Excess) -> String {
    let Excess { has, limit, .. } = excess;
    format!(
        "its project may have {limit} nodes at once; beside these it has {has} within their time"
    )
}
