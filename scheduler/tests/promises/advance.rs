//! Advance claims, and changes of what was given out.

use scheduler::{
    AdvanceLimits, Affinity, Change, ChangeError, ClaimId, Extension, Health, NodeId, Planned,
    Promise, QueueId, Refused, Share, cancel, extend, reserve, shrink,
};

use crate::build::{claim, cluster, ids, plan_at, reserved, running, start_of, with_overlay};

#[test]
fn an_advance_claim_is_accepted_at_once_and_starts_on_time() {
    let mut snapshot = cluster(4);
    let accepted = reserve(&snapshot, 0, &claim(1, 3, 50), 100).unwrap().unwrap();
    assert_eq!((accepted.start, accepted.end, accepted.nodes[0].len()), (100, 150, 3));
    snapshot.assignments.push(accepted);
    // Who would be in its way waits; who ends before it does not.
    snapshot.claims = vec![claim(2, 4, 100), claim(3, 2, 101), claim(4, 1, 500)];
    let plan = plan_at(&snapshot, 0);
    assert_eq!(start_of(&plan, 0, 2), Some(0));
    assert_eq!(start_of(&plan, 0, 3), Some(150));
    assert_eq!(start_of(&plan, 0, 4), Some(100));
}

#[test]
fn a_refusal_names_later_starts_and_the_largest_count() {
    let mut snapshot = cluster(4);
    snapshot.assignments =
        vec![running(1, &[0], 30), running(2, &[1, 2], 60), reserved(3, &[3], 100, 200)];
    let refusal = reserve(&snapshot, 0, &claim(9, 3, 20), 10).unwrap().unwrap_err();
    assert_eq!(refusal.why, Refused::Nodes);
    assert_eq!(refusal.next_starts, [60, 200]);
    assert_eq!(refusal.largest, 1);
}

#[test]
fn nothing_that_is_promised_moves_for_an_advance_claim() {
    let mut snapshot = cluster(2);
    let mut waiting = claim(1, 2, 50);
    waiting.promise = Some(Promise { start: 40, nodes: vec![ids(&[0, 1])] });
    snapshot.claims = vec![waiting];
    snapshot.assignments = vec![running(2, &[0], 40)];
    let refusal = reserve(&snapshot, 0, &claim(9, 1, 20), 60).unwrap().unwrap_err();
    assert_eq!((refusal.why, &refusal.next_starts[..]), (Refused::Nodes, &[90][..]));
    assert!(reserve(&snapshot, 0, &claim(9, 1, 20), 20).unwrap().is_ok());
}

#[test]
fn who_is_looked_at_a_little_late_starts_and_ends_by_when_it_was_promised() {
    let mut snapshot = cluster(2);
    let mut promised = claim(1, 2, 50);
    promised.promise = Some(Promise { start: 40, nodes: vec![ids(&[0, 1])] });
    snapshot.claims = vec![promised];
    snapshot.assignments = vec![reserved(2, &[0], 90, 500)];
    for (now, end) in [(40, 90), (41, 90), (65, 90)] {
        let plan = plan_at(&snapshot, now);
        let [start] = &plan.starts[..] else { panic!("at {now}: {plan:#?}") };
        assert_eq!((start.claim, start.end), (ClaimId(1), end), "at {now}");
    }
    // Half of its time is too little.
    assert!(plan_at(&snapshot, 66).starts.is_empty());
    // Nor does it move what was promised to others for then.
    let mut next = claim(3, 2, 50);
    next.promise = Some(Promise { start: 90, nodes: vec![ids(&[0, 1])] });
    snapshot.assignments.clear();
    snapshot.claims.push(next);
    let plan = plan_at(&snapshot, 41);
    assert_eq!((plan.starts[0].end, plan.planned[0].start), (90, 90), "{plan:#?}");
}

#[test]
fn a_queues_limits_on_advance_claims_are_kept() {
    let mut snapshot = cluster(4);
    snapshot.queues[0].advance =
        AdvanceLimits { duration: 100, ahead: 1_000, reserved: Share::percent(50) };
    let ask = |snapshot: &_, count, walltime, start| {
        reserve(snapshot, 0, &claim(9, count, walltime), start).unwrap().map_err(|r| r.why)
    };
    assert_eq!(ask(&snapshot, 1, 101, 10), Err(Refused::TooLong { most: 100 }));
    assert_eq!(ask(&snapshot, 1, 10, 1_001), Err(Refused::TooFarAhead { most: 1_000 }));
    assert_eq!(ask(&snapshot, 1, 10, -1), Err(Refused::Past));
    assert_eq!(ask(&snapshot, 3, 10, 10), Err(Refused::TooMuchReserved(QueueId(0))));
    snapshot.assignments.push(ask(&snapshot, 2, 10, 10).unwrap());
    snapshot.assignments[0].claim.id = ClaimId(8);
    assert_eq!(ask(&snapshot, 1, 10, 10), Err(Refused::TooMuchReserved(QueueId(0))));
    assert!(ask(&snapshot, 1, 10, 20).is_ok());
}

#[test]
fn nodes_that_nobody_comes_for_are_free_again() {
    let mut snapshot = cluster(2);
    let mut late = reserved(1, &[0, 1], 0, 500);
    late.claim_by = Some(60);
    snapshot.assignments = vec![late];
    snapshot.claims = vec![claim(2, 2, 10)];
    assert_eq!(start_of(&plan_at(&snapshot, 59), 59, 2), Some(500));
    let plan = plan_at(&snapshot, 60);
    assert_eq!(plan.changes, [Change::NoShow { claim: ClaimId(1) }]);
    assert_eq!(start_of(&plan, 60, 2), Some(60));
}

#[test]
fn an_advance_claim_that_loses_a_node_gets_another_and_its_time() {
    let mut snapshot = cluster(3);
    snapshot.assignments = vec![reserved(1, &[0, 1], 100, 200)];
    snapshot.nodes[1].health = Health::Down;
    snapshot.claims = vec![claim(2, 1, 150)];
    let plan = plan_at(&snapshot, 0);
    let planned = plan.planned.iter().find(|one| one.claim == ClaimId(1));
    let Some(Planned { start: 100, nodes, .. }) = planned else { panic!("{planned:?}") };
    assert_eq!(nodes[0], ids(&[0, 2]));
    assert_eq!(start_of(&plan, 0, 2), Some(200));
}

#[test]
fn an_extension_goes_as_far_as_nothing_is_in_the_way() {
    let mut snapshot = cluster(3);
    snapshot.assignments = vec![running(1, &[0, 1], 50), reserved(2, &[1], 80, 90)];
    let granted = |until| extend(&snapshot, 0, ClaimId(1), until);
    assert_eq!(granted(70), Ok(Extension { end: 70, is_cut: false }));
    assert_eq!(granted(500), Ok(Extension { end: 80, is_cut: true }));
    assert_eq!(extend(&snapshot, 0, ClaimId(7), 99), Err(ChangeError::NotAssigned(ClaimId(7))));
}

#[test]
fn an_extension_stays_within_limits_and_behind_promises() {
    let mut snapshot = cluster(2);
    snapshot.queues[0].user_max = Some(Share::percent(50));
    snapshot.assignments = vec![running(1, &[0], 50), reserved(2, &[1], 70, 90)];
    let cut = Extension { end: 70, is_cut: true };
    assert_eq!(extend(&snapshot, 0, ClaimId(1), 100), Ok(cut));
    snapshot.queues[0].user_max = None;
    let mut waiting = claim(3, 2, 10);
    waiting.promise = Some(Promise { start: 90, nodes: vec![ids(&[0, 1])] });
    snapshot.claims = vec![waiting];
    let cut = Extension { end: 90, is_cut: true };
    assert_eq!(extend(&snapshot, 0, ClaimId(1), 100), Ok(cut));
}

#[test]
fn shrinking_gives_back_the_last_ranks() {
    let mut snapshot = cluster(3);
    snapshot.assignments = vec![running(1, &[2, 0, 1], 50)];
    assert_eq!(shrink(&snapshot, ClaimId(1), 0, 1), Ok(ids(&[0, 1])));
    assert_eq!(shrink(&snapshot, ClaimId(1), 0, 0), Err(ChangeError::Count(ClaimId(1))));
    assert_eq!(shrink(&snapshot, ClaimId(1), 0, 4), Err(ChangeError::Count(ClaimId(1))));
}

#[test]
fn cancelling_frees_nodes_and_places_in_the_queue() {
    let mut snapshot = cluster(2);
    snapshot.assignments = vec![running(1, &[0, 1], 50)];
    snapshot.claims = vec![claim(2, 1, 10), claim(3, 2, 10)];
    assert_eq!(cancel(&mut snapshot, ClaimId(2)), Some(Vec::new()));
    assert_eq!(cancel(&mut snapshot, ClaimId(1)), Some(vec![NodeId(0), NodeId(1)]));
    assert_eq!(cancel(&mut snapshot, ClaimId(1)), None);
    assert_eq!(start_of(&plan_at(&snapshot, 0), 0, 3), Some(0));
}

#[test]
fn an_advance_claim_meets_its_overlay_and_keeps_it() {
    let mut snapshot = cluster(3);
    let overlay = with_overlay(&mut snapshot, &[2]);
    let mut wanted = claim(1, 1, 50);
    wanted.overlay = Some(overlay);
    let accepted = reserve(&snapshot, 0, &wanted, 100).unwrap().unwrap();
    assert_eq!(accepted.nodes[0], ids(&[2]));
    snapshot.assignments.push(accepted);
    // Nobody else attaches the overlay at that time, be it on other nodes.
    let mut other = claim(2, 1, 120);
    other.overlay = Some(scheduler::OverlayUse { affinity: Affinity::Prefer, ..overlay });
    snapshot.claims = vec![other];
    assert_eq!(start_of(&plan_at(&snapshot, 0), 0, 2), Some(150));
}
