//! What must be so after every pass, and at the end.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use haas_api::reservation::{ReasonCode, ReservationState};

use super::{NODES, metal::Metal};
use crate::{
    model::{Micros, Reservation, SECOND},
    store::{StepRow, Tx},
};

/// Nodes have one reservation at a time but for the second to which the planner counts.
const ROUNDING: Micros = 2 * SECOND;

/// What was promised so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The start that each reservation was last promised.
    promised: HashMap<i64, Micros>,
    pub(super) looks: usize,
}

/// A node's time in a reservation.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Micros,
    until: Micros,
    id: i64,
}

impl Ledger {
    /// Looks whether every promise of the calendar is kept.
    pub(super) async fn look(&mut self, tx: &mut Tx, now: Micros) {
        self.looks += 1;
        let live = tx.live_reservations().await.unwrap();
        no_node_twice(&live, now);
        within_limits(tx, &live, now).await;
        for one in &live {
            is_whole(one, now);
            self.keeps_its_start(tx, &live, one, now).await;
        }
    }

    /// A start that was promised moves back only for something that nobody could foresee.
    async fn keeps_its_start(
        &mut self,
        tx: &mut Tx,
        live: &[Reservation],
        one: &Reservation,
        now: Micros,
    ) {
        if one.state != ReservationState::Planned {
            return;
        }
        let start = one.start_at.expect("a planned reservation has a start");
        let before = self.promised.insert(one.id, start);
        if before.is_none_or(|before| start <= before + ROUNDING) {
            return;
        }
        let steps = tx.steps(one.id).await.unwrap();
        let why =
            steps.iter().rev().find(|step| ["moved", "extended"].contains(&step.what.as_str()));
        let may = [
            ReasonCode::NodeLost,
            ReasonCode::Overdue,
            ReasonCode::Extended,
            ReasonCode::ProjectLimit,
        ];
        let is_told = why.is_some_and(|step| may.contains(&step.code));
        // What moves by less than a minute is nobody's news.
        let is_small = before.is_some_and(|before| start - before < 60 * SECOND);
        let others = live.iter().filter(|other| other.queue == one.queue);
        let others = others
            .map(|o| (o.id, o.state, o.code, o.start_at, o.end_at, o.is_advance, o.held().count()));
        assert!(
            is_told || is_small,
            "{one:#?} moved from {before:?} at {now}: {steps:#?}; in its queue: {:#?}",
            others.collect::<Vec<_>>()
        );
    }
}

fn spans(live: &[Reservation], now: Micros) -> HashMap<&str, Vec<Span>> {
    let mut spans: HashMap<&str, Vec<Span>> = HashMap::new();
    for one in live {
        let (Some(start), Some(end)) = (one.start_at, one.end_at) else { continue };
        if one.state == ReservationState::Ending {
            continue;
        }
        for held in one.held() {
            let from = if held.generation > 0 { start.min(now) } else { start };
            let span = Span { from, until: end, id: one.id };
            spans.entry(&held.node_id).or_default().push(span);
        }
    }
    spans
}

fn no_node_twice(live: &[Reservation], now: Micros) {
    for (node, mut spans) in spans(live, now) {
        spans.sort_by_key(|span| (span.from, span.until));
        for pair in spans.windows(2) {
            let [first, second] = pair else { continue };
            assert!(
                second.from + ROUNDING >= first.until,
                "{node} is given twice at {now}: {first:?} {second:?}\n{:#?}",
                live.iter()
                    .filter(|one| [first.id, second.id].contains(&one.id))
                    .collect::<Vec<_>>()
            );
        }
    }
}

/// At every moment that a plan speaks of, no queue and no user holds more than it may; now, no project.
async fn within_limits(tx: &mut Tx, live: &[Reservation], now: Micros) {
    let queues = tx.queues().await.unwrap();
    let held: Vec<(&Reservation, Micros, Micros, usize)> = live
        .iter()
        .filter(|one| one.state != ReservationState::Ending)
        .filter_map(|one| {
            let from = if one.state.has_nodes() { one.start_at?.min(now) } else { one.start_at? };
            Some((one, from, one.end_at?, one.held().count()))
        })
        .collect();
    for at in held.iter().map(|(_, from, ..)| *from + ROUNDING) {
        let mut by_queue: BTreeMap<&str, usize> = BTreeMap::new();
        let mut by_user: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (one, _, _, nodes) in
            held.iter().filter(|(_, from, until, _)| *from <= at && at < *until)
        {
            *by_queue.entry(one.queue.as_str()).or_default() += nodes;
            *by_user.entry((one.queue.as_str(), &one.owner_id)).or_default() += nodes;
        }
        for row in &queues {
            let name = row.spec.name.as_str();
            let max = NODES * row.spec.max as usize / 100;
            let has = by_queue.get(name).copied().unwrap_or_default();
            assert!(has <= max, "the queue {name} holds {has} nodes of {max} at {at}");
            let Some(part) = row.spec.user_max else { continue };
            let most = NODES * part as usize / 100;
            for ((_, user), has) in by_user.iter().filter(|((queue, _), _)| *queue == name) {
                assert!(*has <= most, "{user} holds {has} of {name}'s nodes at {at}, of {most}");
            }
        }
    }
    for project in tx.projects().await.unwrap() {
        let Some(limit) = project.limits.nodes else { continue };
        let its = live.iter().filter(|one| one.state.has_nodes() && one.tenant == project.id);
        let has: usize = its.map(|one| one.held().count()).sum();
        let its = live.iter().filter(|one| one.tenant == project.id);
        assert!(
            has <= limit as usize,
            "{} has {has} nodes of {limit} at {now}: {:#?}",
            project.name,
            its.collect::<Vec<_>>()
        );
    }
}

/// A reservation has all of its nodes, unless it says why not, and none after its time.
fn is_whole(one: &Reservation, now: Micros) {
    let is_over = one.end_at.is_some_and(|end| end < now);
    match one.state {
        ReservationState::Planned => {
            assert_eq!(one.held().count(), one.count as usize, "{one:#?}");
        }
        ReservationState::Starting | ReservationState::Active => {
            assert!(!is_over, "{now}: {one:#?}");
            let lost = one.nodes.iter().filter(|node| node.lost).count();
            let held = one.held().count();
            assert!(held == one.count as usize || lost > 0, "{one:#?}");
            assert!(held > 0, "{one:#?}");
        }
        ReservationState::Pending => assert_eq!(one.held().count(), 0, "{one:#?}"),
        ReservationState::Ending
        | ReservationState::Ended
        | ReservationState::Cancelled
        | ReservationState::Failed => {}
    }
}

/// How all reservations came out.
#[derive(Debug, Default)]
pub(super) struct Tally {
    ended: usize,
    failed: usize,
    cancelled: usize,
    /// Those that named their hour and came to be active, and how many of them were late.
    hours: usize,
    late: usize,
    /// Late though nothing had happened to their nodes: which, by how many seconds, and what they went through.
    late_without_loss: Vec<(i64, i64, Vec<String>)>,
    /// Failed for another reason than lost nodes.
    failed_unforeseen: Vec<(i64, ReasonCode, String)>,
    /// From being asked for to being ready, of those that waited in a queue, seconds.
    waits: Vec<i64>,
    node_hours: f64,
}

impl Tally {
    pub(super) async fn of(tx: &mut Tx, count: usize) -> Self {
        let mut tally = Self::default();
        let rows = tx.reservations(i64::MAX).await.unwrap();
        assert_eq!(rows.len(), count);
        for one in rows {
            match one.state {
                ReservationState::Ended => tally.ended += 1,
                ReservationState::Cancelled => tally.cancelled += 1,
                ReservationState::Failed => {
                    tally.failed += 1;
                    if ![ReasonCode::NodeLost, ReasonCode::NeverReady].contains(&one.code) {
                        tally.failed_unforeseen.push((one.id, one.code, one.reason.clone()));
                    }
                }
                state => panic!("{state:?} at the end: {one:#?}"),
            }
            let (Some(start), Some(ready), Some(end)) = (one.start_at, one.ready_at, one.end_at)
            else {
                continue;
            };
            tally.node_hours += (end - ready) as f64 / 3.6e9 * f64::from(one.count);
            if !one.is_advance {
                tally.waits.push((ready - one.submitted_at) / SECOND);
                continue;
            }
            tally.hours += 1;
            let late = (ready - start) / SECOND;
            if late > 0 {
                tally.late += 1;
                let steps = tx.steps(one.id).await.unwrap();
                let has_lost = one.nodes.iter().any(|node| node.lost)
                    || steps.iter().any(|step| step.what == "node-lost" || step.what == "moved");
                if !has_lost {
                    let told = |step: StepRow| {
                        let after = (step.at - one.submitted_at) / SECOND;
                        format!("{after} s: {} {:?} {}", step.what, step.code, step.detail)
                    };
                    let steps = steps.into_iter().map(told).collect();
                    tally.late_without_loss.push((one.id, late, steps));
                }
            }
        }
        tally.waits.sort_unstable();
        tally
    }

    /// What was promised was kept.
    pub(super) fn check(&self, metal: &Metal) {
        assert!(self.late_without_loss.is_empty(), "late: {:#?}", self.late_without_loss);
        assert!(self.failed_unforeseen.is_empty(), "{:?}", self.failed_unforeseen);
        assert!(metal.failed > 0 && metal.died > 0, "nothing failed: nothing was tried");
        assert!(self.hours > 0 && self.cancelled > 0 && self.ended > self.failed, "{self:?}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let middle = self.waits.get(self.waits.len() / 2).copied().unwrap_or_default();
        write!(
            f,
            "{} ended, {} failed, {} taken back; {} of {} hours were late; in queues half were ready \
             within {middle} s; {:.0} node-hours",
            self.ended, self.failed, self.cancelled, self.late, self.hours, self.node_hours
        )
    }
}
