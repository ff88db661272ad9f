//! Why a claim waits, when it starts, and what would make it start earlier.

use crate::{
    Backfill, Claim, ClaimId, Excluded, Health, Reason, Rule, Snapshot, SnapshotError, Time,
    needs::excluded, order::Walk, planner::Planner,
};

/// Claims ahead are planned one by one while their number times that of the kinds of nodes is below
/// this, and so many in any case; of those behind only the work is counted.
const EXACT: usize = 200_000;
const EXACT_AT_LEAST: usize = 20;

/// What is known about a waiting claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// How many claims are before it.
    pub position: u32,
    /// So many are before it that not all of them were planned one by one: the times count the others'
    /// work, as if it could be spread over all nodes.
    pub is_rough: bool,
    /// When it starts if all before it take their whole time and nobody comes in between. None: never.
    pub start: Option<Time>,
    /// Around it.
    pub band: Band,
    /// Why it does not start now; none if it does.
    pub reason: Option<Reason>,
    /// How many nodes each rule keeps from it.
    pub excluded: Excluded,
    /// Nodes that serve but are in use now.
    pub busy: u32,
    /// When it would start without a rule, for each rule without which it starts earlier.
    pub without: Vec<(Rule, Time)>,
}

/// The times between which a start is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// If all before it run as long as such claims usually do.
    pub earliest: Option<Time>,
    /// What was promised. None: who comes later may go first.
    pub latest: Option<Time>,
}

/// Explains a waiting claim. None if it does not wait.
pub fn explain(
    snapshot: &Snapshot,
    now: Time,
    claim: ClaimId,
) -> Result<Option<Explanation>, SnapshotError> {
    snapshot.check()?;
    let Some(waiting) = snapshot.claims.iter().find(|one| one.id == claim) else {
        return Ok(None);
    };
    let mut planner = Planner::new(snapshot, now, &[]);
    let ahead = plan_ahead(&mut planner, claim);
    let promised = planner.release(claim).map(|hold| hold.start);
    let from = planner.not_before_others().max(ahead.not_before);
    let first = |planner: &mut Planner<'_>, rule: Option<Rule>| {
        let ways = planner.ways(waiting, rule);
        planner.find_first(waiting, &ways, from, rule).map(|(start, _)| start)
    };
    let start = first(&mut planner, None);
    let reason = planner.reason_now(waiting, from > now);
    let mut without = Vec::new();
    let mut note = |rule: Rule, time: Option<Time>| {
        if let Some(time) = time
            && start.is_none_or(|start| time < start)
        {
            without.push((rule, time));
        }
    };
    for rule in Rule::ALL {
        let time = match rule {
            Rule::Ahead => alone(snapshot, now, waiting),
            Rule::Health
            | Rule::Grant
            | Rule::Barred
            | Rule::Shape
            | Rule::Label
            | Rule::Location
            | Rule::OverlayHome
            | Rule::Disk
            | Rule::OverlayInUse
            | Rule::Maintenance
            | Rule::QueueMax
            | Rule::UserMax => first(&mut planner, Some(rule)),
        };
        note(rule, time);
    }
    let band = Band { earliest: usual(snapshot, now, claim).min(start), latest: promised };
    let busy = planner.busy(waiting);
    let excluded = excluded(snapshot, planner.sets(), waiting);
    let Ahead { position, is_rough, .. } = ahead;
    Ok(Some(Explanation { position, is_rough, start, band, reason, excluded, busy, without }))
}

/// What is before a claim.
struct Ahead {
    position: u32,
    is_rough: bool,
    /// The work of claims that were not planned is not done before.
    not_before: Time,
}

/// Plans the claims before this one, each as early as it can, and counts them.
fn plan_ahead(planner: &mut Planner<'_>, claim: ClaimId) -> Ahead {
    let snapshot = planner.snapshot;
    planner.keep_promises();
    let exact = (EXACT / planner.cells.all.len().max(1)).max(EXACT_AT_LEAST);
    let mut walk = Walk::new(snapshot, planner.total, planner.now);
    let mut position = 0;
    let mut work: i128 = 0;
    while let Some(index) = walk.next() {
        let next = &snapshot.claims[index];
        if next.id == claim {
            break;
        }
        if (position as usize) < exact {
            planner.decide_in_turn(next);
        } else {
            work += i128::from(next.count()) * i128::from(next.walltime);
        }
        position += 1;
    }
    let is_rough = work > 0;
    let mut not_before = planner.now;
    if is_rough {
        let ends = planner.holds.values().map(|hold| (hold.start, hold.end, hold.vector.nodes));
        let held = ends.map(|(start, end, nodes)| i128::from(end - start) * i128::from(nodes));
        let busy = planner.busy_until.iter().map(|until| until.saturating_sub(planner.now).max(0));
        work += held.sum::<i128>() + busy.map(i128::from).sum::<i128>();
        let nodes = planner.cells.all.iter().map(|cell| match cell.health {
            Health::Ready => cell.nodes.len(),
            Health::Draining | Health::Down => 0,
        });
        let spread = work / i128::from(nodes.sum::<u64>().max(1));
        not_before = planner.now.saturating_add(Time::try_from(spread).unwrap_or(Time::MAX));
    }
    Ahead { position, is_rough, not_before }
}

/// When the claim would start if it were the only one.
fn alone(snapshot: &Snapshot, now: Time, claim: &Claim) -> Option<Time> {
    let mut planner = Planner::new(snapshot, now, &[]);
    let ways = planner.ways(claim, None);
    planner.find_first(claim, &ways, now, None).map(|(start, _)| start)
}

/// When it would start if all before it ran as long as claims usually do.
fn usual(snapshot: &Snapshot, now: Time, claim: ClaimId) -> Option<Time> {
    let percent = Time::from(snapshot.settings.usual_run_percent.clamp(1, 100));
    let mut shorter = snapshot.clone();
    for one in &mut shorter.assignments {
        let usual = (one.end - one.start) * percent / 100;
        one.end = (one.start + usual.max(1)).max(now + 1).min(one.end.max(now + 1));
    }
    for one in shorter.claims.iter_mut().filter(|one| one.id != claim) {
        one.walltime = (one.walltime * percent / 100).max(1);
    }
    let mut planner = Planner::new(&shorter, now, &[]);
    let ahead = plan_ahead(&mut planner, claim);
    planner.release(claim);
    let from = planner.not_before_others().max(ahead.not_before);
    let waiting = shorter.claims.iter().find(|one| one.id == claim)?;
    let ways = planner.ways(waiting, None);
    planner.find_first(waiting, &ways, from, None).map(|(start, _)| start)
}

impl Planner<'_> {
    /// Where nobody may pass, no start is before those of the claims ahead.
    fn not_before_others(&self) -> Time {
        match self.snapshot.settings.backfill {
            Backfill::Off => {
                self.holds.values().map(|hold| hold.start).max().unwrap_or(self.now).max(self.now)
            }
            Backfill::Easy | Backfill::Protect(_) | Backfill::ProtectAll => self.now,
        }
    }

    /// As [`decide`](Planner::decide), but whoever cannot start is planned.
    fn decide_in_turn(&mut self, claim: &Claim) {
        let promised = self.release(claim.id);
        let ways = self.ways(claim, None);
        let from = self.not_before_others();
        if from == self.now
            && let Ok(found) = self.find_at(claim, &ways, from, None)
        {
            return self.start_by(claim, &ways, &found);
        }
        match (self.find_first(claim, &ways, from, None), promised) {
            (Some((start, _)), Some(hold)) if hold.start < start => self.insert(hold),
            (Some((start, found)), _) => self.hold(claim.clone(), &ways, start, found),
            (None, Some(hold)) => self.insert(hold),
            (None, None) => {}
        }
    }
}
