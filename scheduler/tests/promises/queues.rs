//! Whose turn it is.

use scheduler::{
    Backfill, Claim, ClaimId, Policy, ProjectId, Promises, Queue, QueueId, Reason, ShapeId, Share,
    Snapshot, SnapshotError, Usage, UserId, Vector, plan,
};

use crate::build::{claim, cluster, plan_at, running, start_of};

/// Who starts on a cluster of so many nodes, in the order of the claims' numbers.
fn starts(snapshot: &Snapshot) -> Vec<u64> {
    let mut starts: Vec<u64> = plan_at(snapshot, 0).starts.iter().map(|one| one.claim.0).collect();
    starts.sort_unstable();
    starts
}

fn in_queue(id: u64, queue: u32, user: u32) -> Claim {
    Claim { queue: QueueId(queue), user: UserId(user), ..claim(id, 1, 10) }
}

/// Two queues below the root, and a claim for each of two nodes in both.
fn two_queues(change: impl FnOnce(&mut Queue, &mut Queue)) -> Snapshot {
    let mut snapshot = cluster(2);
    let mut a = Queue::below(QueueId(0), "a");
    let mut b = Queue::below(QueueId(0), "b");
    change(&mut a, &mut b);
    snapshot.queues.extend([a, b]);
    snapshot.claims =
        vec![in_queue(1, 1, 0), in_queue(2, 1, 0), in_queue(3, 2, 1), in_queue(4, 2, 1)];
    snapshot
}

#[test]
fn equal_queues_share_within_one_pass() {
    assert_eq!(starts(&two_queues(|_, _| {})), [1, 3]);
}

#[test]
fn higher_priority_goes_first() {
    assert_eq!(starts(&two_queues(|_, b| b.priority = 1)), [3, 4]);
}

#[test]
fn who_has_less_than_guaranteed_goes_first() {
    assert_eq!(starts(&two_queues(|_, b| b.guaranteed = Share::WHOLE)), [3, 4]);
}

#[test]
fn weight_counts() {
    let mut snapshot = two_queues(|_, b| b.weight = 4);
    snapshot.nodes.extend(vec![crate::build::node(); 3]);
    snapshot.grants[0].nodes.insert_range(0..5);
    for id in 5..9 {
        snapshot.claims.push(in_queue(id, 1 + id as u32 % 2, 0));
    }
    // Of five nodes four for the one with four times the weight.
    let of_b = |id: &u64| [3, 4, 5, 7].contains(id);
    assert_eq!(starts(&snapshot).iter().filter(|id| of_b(id)).count(), 4);
}

#[test]
fn past_usage_counts_and_fades() {
    let mut snapshot = two_queues(|_, _| {});
    let spent = Vector { nodes: 5_000_000, ..Vector::default() };
    snapshot.usage = vec![Usage { queue: QueueId(1), user: UserId(0), spent, at: 0 }];
    assert_eq!(starts(&snapshot), [3, 4]);
    snapshot.usage[0].at = -100 * snapshot.settings.half_life;
    assert_eq!(starts(&snapshot), [1, 3]);
}

#[test]
fn a_maximum_is_never_exceeded_and_said() {
    let mut snapshot = two_queues(|a, _| a.max = Share::percent(50));
    snapshot.claims.truncate(2);
    let plan = plan_at(&snapshot, 0);
    assert_eq!(start_of(&plan, 0, 2), Some(10));
    assert_eq!(plan.planned[0].reason, Reason::QueueMax(QueueId(1)));
}

#[test]
fn the_scarce_dimension_is_what_counts() {
    let mut snapshot = two_queues(|_, _| {});
    // One node in ten has GPUs; who holds it holds all of them.
    snapshot.nodes = vec![crate::build::node(); 10];
    snapshot.nodes[0].shape = ShapeId(1);
    snapshot.grants[0].nodes.insert_range(0..10);
    let mut gpu = running(7, &[0], 100);
    gpu.claim.queue = QueueId(1);
    let mut many = running(8, &[1, 2, 3, 4, 5, 6, 7, 8], 100);
    many.claim.queue = QueueId(2);
    snapshot.assignments = vec![gpu, many];
    assert_eq!(starts(&snapshot), [3]);
}

#[test]
fn fifo_is_by_submission_and_fair_by_usage() {
    let mut snapshot = cluster(2);
    snapshot.claims = vec![in_queue(1, 0, 0), in_queue(2, 0, 0), in_queue(3, 0, 1)];
    assert_eq!(starts(&snapshot), [1, 2]);
    snapshot.queues[0].policy = Policy::Fair;
    assert_eq!(starts(&snapshot), [1, 3]);
}

#[test]
fn capacity_gives_each_user_his_part() {
    let mut snapshot = cluster(4);
    snapshot.queues[0].policy = Policy::Capacity { user_factor_percent: 100 };
    snapshot.claims = (1..5).map(|id| in_queue(id, 0, 0)).collect();
    // Alone he may have all of it.
    assert_eq!(starts(&snapshot).len(), 4);
    snapshot.claims.push(in_queue(5, 0, 1));
    let plan = plan_at(&snapshot, 0);
    assert_eq!(plan.starts.len(), 3);
    assert_eq!(start_of(&plan, 0, 5), Some(0));
    assert_eq!(plan.planned[0].reason, Reason::UserMax(QueueId(0)));
}

#[test]
fn backfill_passes_whom_it_does_not_delay() {
    let mut snapshot = cluster(3);
    snapshot.assignments = vec![running(1, &[0], 100)];
    snapshot.claims = vec![claim(2, 3, 50), claim(3, 1, 100), claim(4, 1, 101)];
    let at = |backfill, id| {
        let mut snapshot = snapshot.clone();
        snapshot.settings.backfill = backfill;
        start_of(&plan_at(&snapshot, 0), 0, id)
    };
    assert_eq!((at(Backfill::Off, 2), at(Backfill::Off, 3)), (Some(100), None));
    for backfill in [Backfill::Easy, Backfill::Protect(1), Backfill::ProtectAll] {
        assert_eq!((at(backfill, 2), at(backfill, 3)), (Some(100), Some(0)));
    }
    assert_eq!(at(Backfill::Protect(1), 4), None);
    assert_eq!(at(Backfill::ProtectAll, 4), Some(150));
}

#[test]
fn a_promise_is_kept_where_a_plan_from_scratch_would_move_it() {
    // Claim 1 ends early: claim 2 then fits where it delays claim 3, which had a place before.
    let mut snapshot = cluster(2);
    snapshot.settings.backfill = Backfill::ProtectAll;
    snapshot.assignments = vec![running(1, &[0], 50), running(9, &[1], 100)];
    snapshot.claims = vec![claim(2, 1, 200), claim(3, 2, 100), claim(4, 1, 50)];
    let plan = plan_at(&snapshot, 0);
    let before: Vec<_> = (2..5).map(|id| start_of(&plan, 0, id)).collect();
    for planned in &plan.planned {
        let claim = snapshot.claims.iter_mut().find(|one| one.id == planned.claim).unwrap();
        let nodes = planned.nodes.clone();
        claim.promise = Some(scheduler::Promise { start: planned.start, nodes });
    }
    snapshot.assignments.pop();
    let kept = plan_at(&snapshot, 10);
    let after: Vec<_> = (2..5).map(|id| start_of(&kept, 10, id)).collect();
    assert!(after.iter().zip(&before).all(|(after, before)| after <= before));
    snapshot.settings.promises = Promises::Renewed;
    let renewed = plan_at(&snapshot, 10);
    assert!((2..5).all(|id| start_of(&renewed, 10, id).is_some()));
}

#[test]
fn a_claim_without_a_grant_never_starts() {
    let mut snapshot = cluster(2);
    snapshot.claims = vec![Claim { project: ProjectId(4), ..claim(1, 1, 10) }];
    assert_eq!(plan_at(&snapshot, 0).waiting[0].reason, Reason::Never);
}

#[test]
fn a_snapshot_with_mistakes_is_refused() {
    let refused = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = two_queues(|_, _| {});
        change(&mut snapshot);
        plan(&snapshot, 0).unwrap_err()
    };
    assert_eq!(refused(&|s| s.queues.clear()), SnapshotError::Root);
    let swap = |s: &mut Snapshot| s.queues[1].parent = Some(QueueId(2));
    assert_eq!(refused(&swap), SnapshotError::Parent(QueueId(1)));
    let promised = |s: &mut Snapshot| {
        s.queues[1].guaranteed = Share::percent(60);
        s.queues[2].guaranteed = Share::percent(60);
    };
    assert_eq!(refused(&promised), SnapshotError::Guarantee(QueueId(0)));
    let more = |s: &mut Snapshot| {
        s.queues[1].guaranteed = Share::percent(20);
        s.queues[1].max = Share::percent(10);
    };
    assert_eq!(refused(&more), SnapshotError::Maximum(QueueId(1)));
    let inner = |s: &mut Snapshot| s.claims[0].queue = QueueId(0);
    assert_eq!(refused(&inner), SnapshotError::Queue(ClaimId(1)));
    let nothing = |s: &mut Snapshot| s.claims[0].requests.clear();
    assert_eq!(refused(&nothing), SnapshotError::Empty(ClaimId(1)));
    let twice = |s: &mut Snapshot| s.claims[0].id = ClaimId(2);
    assert_eq!(refused(&twice), SnapshotError::Twice(ClaimId(2)));
    let unknown = |s: &mut Snapshot| s.nodes[0].shape = ShapeId(9);
    assert!(matches!(refused(&unknown), SnapshotError::Unknown(_)));
}
