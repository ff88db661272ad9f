//! Which nodes: overlays, places, power, loss, and nodes taken from others.

use scheduler::{
    Affinity, BootTime, Change, Claim, ClaimId, Health, ImageId, Location, Need, NodeId,
    OnNodeLoss, OverlayUse, Planner, Power, PowerAction, Preemption, Promise, Queue, QueueId,
    RackId, Reason, Request, ShapeId, Shard, Share, Snapshot, Vector, Why,
};

use crate::build::{
    claim, cluster, ids, nodes_of, plan_at, reserved, running, set, start_of, with_overlay,
};

#[test]
fn an_overlay_returns_to_its_nodes_rank_by_rank() {
    let mut snapshot = cluster(4);
    let overlay = with_overlay(&mut snapshot, &[3, 1]);
    snapshot.claims = vec![Claim { overlay: Some(overlay), ..claim(1, 3, 10) }];
    let plan = plan_at(&snapshot, 0);
    // The third rank has no data yet.
    assert_eq!(nodes_of(&plan, 1)[..2], [3, 1]);
}

#[test]
fn an_overlay_waits_for_its_nodes_unless_it_only_prefers_them() {
    let mut snapshot = cluster(4);
    let overlay = with_overlay(&mut snapshot, &[3, 1]);
    snapshot.assignments = vec![running(5, &[1], 70)];
    let wanted = |affinity| OverlayUse { affinity, ..overlay };
    let required = Some(wanted(Affinity::Require));
    snapshot.claims = vec![Claim { overlay: required, ..claim(1, 2, 10) }];
    let plan = plan_at(&snapshot, 0);
    assert_eq!(start_of(&plan, 0, 1), Some(70));
    assert_eq!(plan.planned[0].reason, Reason::OverlayHome);
    snapshot.claims[0].overlay = Some(wanted(Affinity::Prefer));
    assert_eq!(nodes_of(&plan_at(&snapshot, 0), 1), [3, 0]);
}

#[test]
fn two_claims_share_an_overlay_only_as_a_fork() {
    let mut snapshot = cluster(4);
    let overlay = with_overlay(&mut snapshot, &[]);
    let first = Claim { overlay: Some(overlay), ..claim(1, 1, 30) };
    let second = Claim { overlay: Some(overlay), ..claim(2, 1, 30) };
    snapshot.claims = vec![first, second];
    let plan = plan_at(&snapshot, 0);
    assert_eq!((start_of(&plan, 0, 1), start_of(&plan, 0, 2)), (Some(0), Some(30)));
    snapshot.claims[1].overlay = Some(OverlayUse { fork: true, ..overlay });
    assert_eq!(start_of(&plan_at(&snapshot, 0), 0, 2), Some(0));
}

#[test]
fn homes_are_spread_over_disks() {
    let mut snapshot = cluster(3);
    let other = with_overlay(&mut snapshot, &[0, 1]);
    let shard = |used| Shard { overlay: other.overlay, used, leased: false };
    snapshot.nodes[0].shards.push(shard(50));
    snapshot.nodes[1].shards.push(shard(50));
    let overlay = with_overlay(&mut snapshot, &[]);
    snapshot.claims = vec![Claim { overlay: Some(overlay), ..claim(1, 1, 10) }];
    assert_eq!(nodes_of(&plan_at(&snapshot, 100), 1), [2]);
}

#[test]
fn disk_is_leased_apart_from_node_time() {
    let mut snapshot = cluster(2);
    let other = with_overlay(&mut snapshot, &[0]);
    snapshot.overlays[0].disk_gib = 8;
    snapshot.nodes[0].shards.push(Shard { overlay: other.overlay, used: 0, leased: true });
    let overlay = with_overlay(&mut snapshot, &[]);
    snapshot.overlays[1].disk_gib = 4;
    // Nothing runs on node 0, but there is no room on its disk.
    snapshot.claims = vec![Claim { overlay: Some(overlay), ..claim(1, 2, 10) }];
    assert_eq!(plan_at(&snapshot, 0).waiting[0].reason, Reason::Never);
    snapshot.claims[0].requests[0].count = 1;
    assert_eq!(nodes_of(&plan_at(&snapshot, 0), 1), [1]);
}

#[test]
fn places_are_kept_or_preferred() {
    let mut snapshot = cluster(4);
    snapshot.nodes[3].rack = RackId(7);
    let at = |location| {
        let mut snapshot = snapshot.clone();
        snapshot.claims = vec![claim(1, 1, 10)];
        snapshot.claims[0].requests[0].location = location;
        nodes_of(&plan_at(&snapshot, 0), 1)
    };
    assert_eq!(at(Location::Rack(RackId(7), Need::Required)), [3]);
    assert_eq!(at(Location::Rack(RackId(7), Need::Preferred)), [3]);
    assert_eq!(at(Location::Nodes(set(&[2]), Need::Required)), [2]);
    assert_eq!(at(Location::Nodes(set(&[2]), Need::Preferred)), [2]);
    // The smallest rack that is enough.
    assert_eq!(at(Location::Racks(1, Need::Required)), [3]);
    assert_eq!(at(Location::Racks(1, Need::Preferred)), [3]);
}

#[test]
fn requests_of_a_claim_are_all_met_or_none() {
    let mut snapshot = cluster(4);
    snapshot.nodes[3].shape = ShapeId(1);
    let gpu = Request { shapes: vec![ShapeId(1)], ..Request::of(1) };
    snapshot.claims = vec![claim(1, 3, 10)];
    snapshot.claims[0].requests.push(gpu);
    let plan = plan_at(&snapshot, 0);
    assert_eq!(plan.starts[0].nodes, [ids(&[0, 1, 2]), ids(&[3])]);
    snapshot.assignments = vec![running(5, &[0], 20)];
    let plan = plan_at(&snapshot, 0);
    assert_eq!(start_of(&plan, 0, 1), Some(20));
}

#[test]
fn the_first_shape_that_can_be_had_is_taken() {
    let mut snapshot = cluster(3);
    snapshot.nodes[2].shape = ShapeId(1);
    snapshot.claims = vec![claim(1, 1, 10)];
    snapshot.claims[0].requests[0].shapes = vec![ShapeId(1), ShapeId(0)];
    assert_eq!(nodes_of(&plan_at(&snapshot, 0), 1), [2]);
    snapshot.claims[0].requests[0].count = 2;
    assert_eq!(nodes_of(&plan_at(&snapshot, 0), 1), [0, 1]);
}

#[test]
fn nodes_that_are_on_and_run_the_image_go_first() {
    let mut snapshot = cluster(4);
    snapshot.nodes[0].power = Power::Off;
    snapshot.nodes[1].runs = Some((ImageId(5), None));
    snapshot.nodes[3].runs = Some((ImageId(0), None));
    snapshot.claims = vec![claim(1, 1, 10)];
    let plan = plan_at(&snapshot, 0);
    assert_eq!((nodes_of(&plan, 1), plan.starts[0].ready), (vec![3], 0));
    snapshot.claims[0].requests[0].count = 3;
    let plan = plan_at(&snapshot, 0);
    assert_eq!((nodes_of(&plan, 1), plan.starts[0].ready), (vec![1, 2, 3], 300));
}

#[test]
fn nodes_are_turned_on_so_that_they_are_ready() {
    let mut snapshot = cluster(2);
    snapshot.nodes[1].power = Power::Off;
    snapshot.assignments = vec![reserved(1, &[0, 1], 5_000, 6_000)];
    let on = |at| [PowerAction { at, node: NodeId(1), on: true }];
    assert_eq!(plan_at(&snapshot, 0).power, on(4_700));
    // What was learned of this shape and image counts.
    snapshot.boots = vec![BootTime { shape: ShapeId(0), image: ImageId(0), p95: 120 }];
    assert_eq!(plan_at(&snapshot, 0).power, on(4_880));
}

#[test]
fn a_rack_is_turned_on_a_few_nodes_at_a_time() {
    let mut snapshot = cluster(5);
    snapshot.settings.ramp_per_minute = 2;
    for node in &mut snapshot.nodes {
        node.power = Power::Off;
    }
    snapshot.assignments = vec![reserved(1, &[0, 1, 2, 3, 4], 6_000, 7_000)];
    let power = plan_at(&snapshot, 0).power;
    let mut minutes: Vec<i64> = power.iter().map(|action| action.at / 60).collect();
    minutes.sort_unstable();
    assert_eq!(minutes, [93, 94, 94, 95, 95]);
}

#[test]
fn idle_nodes_are_turned_off_unless_they_are_needed_soon() {
    let mut snapshot = cluster(4);
    let off = |snapshot: &Snapshot, now| -> Vec<u32> {
        let power = plan_at(snapshot, now).power;
        power.iter().filter(|action| !action.on).map(|action| action.node.0).collect()
    };
    assert_eq!(off(&snapshot, 500), []);
    snapshot.assignments = vec![reserved(1, &[1], 2_000, 3_000), reserved(2, &[2], 9_000, 9_500)];
    snapshot.nodes[3].power = Power::On { idle_since: 900 };
    assert_eq!(off(&snapshot, 1_200), [0, 2]);
}

#[test]
fn spares_stay_on() {
    let mut snapshot = cluster(3);
    snapshot.nodes[1].power = Power::On { idle_since: 10 };
    snapshot.settings.idle = scheduler::Idle::Planned { pays_after: 600, after: 900, spares: 1 };
    let power = plan_at(&snapshot, 5_000).power;
    let nodes: Vec<u32> = power.iter().map(|action| action.node.0).collect();
    assert_eq!(nodes, [0, 2]);
}

#[test]
fn a_lost_node_is_replaced_given_up_or_the_end() {
    let mut snapshot = cluster(4);
    snapshot.assignments = vec![running(1, &[0, 1], 100)];
    snapshot.nodes[1].health = Health::Down;
    let changes = |on_node_loss: OnNodeLoss, free: bool| {
        let mut snapshot = snapshot.clone();
        snapshot.assignments[0].claim.on_node_loss = on_node_loss;
        if !free {
            snapshot.assignments.push(running(2, &[2, 3], 100));
        }
        plan_at(&snapshot, 10).changes
    };
    let (claim, lost) = (ClaimId(1), vec![NodeId(1)]);
    let replaced = Change::Replaced { claim, lost: NodeId(1), by: NodeId(2) };
    assert_eq!(changes(OnNodeLoss::Replace, true), [replaced]);
    let degraded = Change::Degraded { claim, lost: lost.clone() };
    assert_eq!(changes(OnNodeLoss::Replace, false), [degraded]);
    let shrunk = Change::Shrunk { claim, lost: lost.clone() };
    assert_eq!(changes(OnNodeLoss::Shrink, true), [shrunk]);
    assert_eq!(changes(OnNodeLoss::Fail, true), [Change::Failed { claim, lost }]);
}

#[test]
fn a_promise_that_moves_says_why() {
    let mut snapshot = cluster(2);
    snapshot.assignments = vec![running(1, &[0, 1], 100)];
    snapshot.claims = vec![claim(2, 2, 50)];
    let nodes = plan_at(&snapshot, 0).planned[0].nodes.clone();
    snapshot.claims[0].promise = Some(Promise { start: 100, nodes });
    assert_eq!(plan_at(&snapshot, 10).changes, []);
    let moved = |snapshot: &Snapshot, now| {
        let changes = plan_at(snapshot, now).changes;
        match changes[..] {
            [Change::Moved { claim: ClaimId(2), from: 100, to, why }] => (to, why),
            _ => panic!("{changes:?}"),
        }
    };
    let mut freed = snapshot.clone();
    freed.assignments.clear();
    assert_eq!(moved(&freed, 10), (10, Why::Freed));
    assert_eq!(moved(&snapshot, 100), (160, Why::Overdue(ClaimId(1))));
    let mut worked_on = snapshot.clone();
    let window = scheduler::Maintenance { nodes: set(&[1]), from: 120, until: 170 };
    worked_on.maintenance.push(window);
    assert_eq!(moved(&worked_on, 10), (170, Why::Maintenance(NodeId(1))));
}

#[test]
fn an_accepted_hour_goes_to_other_nodes_where_its_own_may_not_be_had_any_more() {
    let mut accepted = cluster(3);
    accepted.assignments = vec![reserved(1, &[0], 100, 150)];
    let moved = |snapshot: &Snapshot| {
        let plan = plan_at(snapshot, 10);
        let nodes = plan.planned.first().map(|one| one.nodes.concat());
        match plan.changes[..] {
            [Change::Moved { claim: ClaimId(1), from: 100, to, why }] => (to, why, nodes),
            _ => panic!("{plan:?}"),
        }
    };
    let mut barred = accepted.clone();
    barred.assignments[0].claim.barred = set(&[0, 1]);
    assert_eq!(moved(&barred), (100, Why::Barred(NodeId(0)), Some(ids(&[2]))));
    let mut worked_on = accepted.clone();
    let window = scheduler::Maintenance { nodes: set(&[0, 2]), from: 120, until: 130 };
    worked_on.maintenance.push(window);
    let why = Why::Maintenance(NodeId(0));
    assert_eq!(moved(&worked_on), (100, why, Some(ids(&[1]))));
    worked_on.maintenance[0].nodes.insert(1);
    assert_eq!((moved(&worked_on).0, moved(&worked_on).1), (130, why));
}

#[test]
fn an_accepted_hour_is_kept_until_it_comes_though_no_node_serves_now() {
    let mut snapshot = cluster(2);
    snapshot.assignments = vec![reserved(1, &[0, 1], 100, 150)];
    snapshot.claims = vec![claim(2, 1, 60), claim(3, 1, 100)];
    let kept = |snapshot: &Snapshot, lost: &[u32]| {
        let plan = plan_at(snapshot, 10);
        let degraded = Change::Degraded { claim: ClaimId(1), lost: ids(lost) };
        assert_eq!(plan.changes, [degraded]);
        // Others begin before it if they end before it, and behind it.
        assert_eq!((start_of(&plan, 10, 2), start_of(&plan, 10, 3)), (Some(10), Some(150)));
    };
    for health in [Health::Down, Health::Draining] {
        snapshot.nodes[1].health = health;
        kept(&snapshot, &[1]);
    }
    snapshot.nodes[1].health = Health::Ready;
    assert_eq!(plan_at(&snapshot, 10).changes, []);
    let mut barred = snapshot.clone();
    barred.assignments[0].claim.barred = set(&[1]);
    kept(&barred, &[1]);
    // At its hour it is as with those that run.
    snapshot.nodes[1].health = Health::Down;
    snapshot.assignments[0].claim.on_node_loss = OnNodeLoss::Fail;
    let failed = Change::Failed { claim: ClaimId(1), lost: ids(&[1]) };
    assert_eq!(plan_at(&snapshot, 100).changes, [failed]);
}

#[test]
fn hours_that_are_moved_are_each_looked_for_from_their_own() {
    let mut snapshot = cluster(2);
    // The later hour has the smaller number.
    snapshot.assignments = vec![reserved(1, &[0], 5_000, 5_100), reserved(2, &[0], 1_000, 1_100)];
    let window = |from, until| scheduler::Maintenance { nodes: set(&[0, 1]), from, until };
    snapshot.maintenance = vec![window(990, 1_010), window(4_990, 5_010)];
    let mut moved: Vec<_> = plan_at(&snapshot, 10).changes;
    moved.sort_unstable_by_key(|change| match change {
        Change::Moved { claim, .. } => claim.0,
        _ => u64::MAX,
    });
    match moved[..] {
        [
            Change::Moved { claim: ClaimId(1), from: 5_000, to: 5_010, .. },
            Change::Moved { claim: ClaimId(2), from: 1_000, to: 1_010, .. },
        ] => {}
        _ => panic!("{moved:?}"),
    }
}

#[test]
fn an_hour_that_is_kept_keeps_its_nodes_from_others_too() {
    let mut snapshot = cluster(6);
    for lost in [3, 4, 5] {
        snapshot.nodes[lost].health = Health::Down;
    }
    snapshot.assignments =
        vec![reserved(1, &[0, 4], 100, 150), reserved(2, &[1, 2, 3, 5], 120, 200)];
    let degraded =
        |claim, lost: &[u32]| Change::Degraded { claim: ClaimId(claim), lost: ids(lost) };
    let kept = [degraded(1, &[4]), degraded(2, &[3, 5])];
    assert_eq!(plan_at(&snapshot, 10).changes, kept);
}

/// Queue 1 has its guarantee and more, queue 2 is guaranteed what it lends.
fn lent() -> Snapshot {
    let mut snapshot = cluster(4);
    for name in ["borrower", "lender"] {
        let guaranteed = Share::percent(50);
        snapshot.queues.push(Queue { guaranteed, ..Queue::below(QueueId(0), name) });
    }
    for (id, nodes) in [(1, &[0, 1][..]), (2, &[2][..]), (3, &[3][..])] {
        let mut one = running(id, nodes, 1_000);
        one.claim.queue = QueueId(1);
        one.claim.preemptible = true;
        one.start = -100 * id as i64;
        snapshot.assignments.push(one);
    }
    snapshot.claims = vec![Claim { queue: QueueId(2), ..claim(9, 1, 50) }];
    snapshot
}

#[test]
fn nothing_is_preempted_unless_it_is_switched_on() {
    let plan = plan_at(&lent(), 500);
    assert_eq!((plan.changes.len(), start_of(&plan, 500, 9)), (0, Some(1_000)));
}

#[test]
fn preemption_frees_a_set_that_its_beneficiary_can_use() {
    let mut snapshot = lent();
    snapshot.settings.preemption = Some(Preemption { grace: 120, min_run: 60 });
    // The cheapest to end would be claim 2, but that would not help.
    snapshot.nodes[3].shape = ShapeId(1);
    snapshot.shapes[1] = Vector { ..snapshot.shapes[0] };
    snapshot.claims[0].requests[0].shapes = vec![ShapeId(1)];
    let plan = plan_at(&snapshot, 500);
    let preempted = Change::Preempted { claim: ClaimId(3), by: ClaimId(9), at: 620 };
    assert_eq!(plan.changes, [preempted]);
    assert_eq!(plan.planned[0].nodes, [ids(&[3])]);
    assert_eq!((plan.planned[0].start, plan.planned[0].reason), (620, Reason::Preempting));
}

#[test]
fn who_was_preempted_cannot_preempt_in_return() {
    let mut snapshot = lent();
    snapshot.settings.preemption = Some(Preemption { grace: 10, min_run: 0 });
    let plan = plan_at(&snapshot, 500);
    let [Change::Preempted { claim: ended, at, .. }] = plan.changes[..] else {
        panic!("{:?}", plan.changes)
    };
    // It ends, the beneficiary runs, and it waits again.
    let index = snapshot.assignments.iter().position(|one| one.claim.id == ended).unwrap();
    let again = snapshot.assignments.remove(index).claim;
    let beneficiary = snapshot.claims.remove(0);
    let nodes = plan.planned[0].nodes[0].iter().map(|node| node.0).collect::<Vec<_>>();
    let mut one = running(9, &nodes, 2_000);
    one.claim = Claim { preemptible: true, ..beneficiary };
    snapshot.assignments.push(one);
    snapshot.claims.push(again);
    let plan = plan_at(&snapshot, at + 1);
    assert_eq!(plan.changes, []);
    assert_eq!(plan.starts, []);
}

#[test]
fn preemption_takes_no_more_than_was_borrowed() {
    let mut snapshot = lent();
    snapshot.settings.preemption = Some(Preemption { grace: 10, min_run: 0 });
    // More than the lender is guaranteed.
    snapshot.claims[0].requests[0].count = 3;
    assert_eq!(plan_at(&snapshot, 500).changes, []);
    snapshot.claims[0].requests[0].count = 2;
    let plan = plan_at(&snapshot, 500);
    assert_eq!((plan.changes.len(), plan.planned[0].nodes[0].len()), (2, 2));
}

#[test]
fn one_claim_more_is_planned_behind_all_others() {
    let mut snapshot = cluster(4);
    let overlay = with_overlay(&mut snapshot, &[3]);
    snapshot.assignments = vec![running(1, &[0], 50)];
    snapshot.claims = vec![claim(2, 4, 100)];
    let mut planner = Planner::run(&snapshot, 0);
    let start = |outcome: scheduler::Outcome| match outcome {
        scheduler::Outcome::Start(_) => Some(0),
        scheduler::Outcome::Planned(planned) => Some(planned.start),
        scheduler::Outcome::Waiting(_) => None,
    };
    assert_eq!(start(planner.add(&claim(3, 2, 50)).unwrap()), Some(0));
    // It names nodes that were told apart from nobody so far.
    let third = Claim { overlay: Some(overlay), ..claim(4, 1, 60) };
    assert_eq!(start(planner.add(&third).unwrap()), Some(150));
    let mut there = claim(5, 1, 50);
    there.requests[0].location = Location::Nodes(set(&[2, 3]), Need::Required);
    let first_free = start(planner.add(&there).unwrap());
    assert!(matches!(first_free, Some(0 | 150)), "{first_free:?}");
}
