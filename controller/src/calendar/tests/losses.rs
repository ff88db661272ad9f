//! Nodes that are lost, or had by others.

use super::*;

/// A reservation of two nodes that is active, and one node that is free.
async fn active(rig: &Rig, on_node_loss: &str) -> i64 {
    let id = rig.reserve(with(wish(2, 10 * HOUR), "on_node_loss", json!(on_node_loss))).await;
    rig.pass(SECOND).await;
    rig.boots(1).await;
    rig.boots(2).await;
    rig.pass(MINUTE).await;
    assert_eq!(rig.state(id).await.0, "active");
    id
}

#[tokio::test]
async fn a_lost_node_is_replaced_and_what_it_may_still_run_is_ended() {
    let rig = Rig::new(3).await;
    let id = active(&rig, "replace").await;
    rig.is_lost(2).await;
    rig.pass(2 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("active", "replaced"));
    assert_eq!(rig.nodes(id).await, ["n01", "n03"]);
    let (lost, by) = (rig.wanted(2).await, rig.wanted(3).await);
    assert!(!lost.wanted.power_on, "should it come back, it is nobody's");
    assert_eq!((by.wanted.rank, by.wanted.power_on), (1, true));
    let shown = rig.shown(id).await;
    let detail = text(&shown["steps"].as_array().unwrap().last().unwrap()["detail"]);
    assert_eq!(detail, "rank 1 was on n02, which is lost; n03 takes its place");
    rig.pass(3 * MINUTE).await;
    assert_eq!(rig.steps(id).await.len(), 4, "it is told once");
}

#[tokio::test]
async fn without_another_node_it_goes_on_and_says_what_it_lacks() {
    let rig = Rig::new(2).await;
    let id = active(&rig, "replace").await;
    rig.is_lost(2).await;
    rig.pass(2 * MINUTE).await;
    rig.pass(3 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("active", "degraded"));
    assert_eq!(rig.steps(id).await[3..], ["node-lost degraded"]);
    rig.is_back(2).await;
    rig.pass(4 * MINUTE).await;
    assert_eq!(rig.nodes(id).await, ["n01", "n02"]);
}

#[tokio::test]
async fn a_node_that_was_lost_can_be_had_again_once_it_is_seen_to_be_off() {
    let rig = Rig::new(1).await;
    rig.is_lost(1).await;
    let id = rig.reserve(wish(1, HOUR)).await;
    rig.pass(SECOND).await;
    assert_eq!(rig.state(id).await.0, "pending");
    rig.goes_off(1).await;
    rig.pass(2 * SECOND).await;
    assert_eq!(rig.state(id).await.0, "starting");
}

#[tokio::test]
async fn a_reservation_shrinks_or_fails_where_it_says_so() {
    let rig = Rig::new(3).await;
    let id = active(&rig, "shrink").await;
    rig.is_lost(1).await;
    rig.pass(2 * MINUTE).await;
    assert_eq!(
        (rig.state(id).await, rig.nodes(id).await),
        (is("active", "shrunk"), vec!["n02".into()])
    );
    rig.is_lost(2).await;
    rig.pass(3 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("ending", "node-lost"));

    let rig = Rig::new(3).await;
    let id = active(&rig, "fail").await;
    rig.is_lost(1).await;
    rig.pass(2 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("ending", "node-lost"));
    assert!(!rig.wanted(1).await.wanted.power_on);
    rig.goes_off(1).await;
    rig.goes_off(2).await;
    rig.pass(3 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("failed", "node-lost"));
}

#[tokio::test]
async fn an_accepted_hour_outlives_that_its_nodes_cannot_be_had_for_a_while() {
    let rig = Rig::new(2).await;
    let wish = with(wish_at(&rig, 2, HOUR, 2 * HOUR), "on_node_loss", json!("fail"));
    let id = rig.reserve(wish).await;
    rig.is_lost(2).await;
    rig.pass(MINUTE).await;
    rig.pass(2 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("planned", "degraded"));
    let shown = rig.shown(id).await;
    let detail =
        "n02 cannot be had now, and no other node can at its hour; it is kept for it until then";
    assert_eq!(text(&shown["reason"]), detail);
    is_at(&rig, &shown["start_at"], 2 * HOUR);
    assert_eq!(rig.nodes(id).await, ["n01", "n02"]);
    rig.is_back(2).await;
    rig.pass(3 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("planned", "accepted"));
    let steps = rig.steps(id).await;
    assert_eq!(steps[steps.len() - 2..], ["at-risk degraded", "planned accepted"], "{steps:?}");
    // Also while the others boot for it.
    rig.is_lost(2).await;
    rig.pass(2 * HOUR - MINUTE).await;
    rig.pass(2 * HOUR - 50 * SECOND).await;
    assert_eq!(rig.state(id).await.0, "starting");
    assert_eq!(rig.nodes(id).await, ["n01", "n02"]);
}

#[tokio::test]
async fn an_accepted_hour_is_not_moved_for_a_node_that_may_be_back_by_then() {
    let rig = Rig::new(3).await;
    let first = rig.reserve(wish_at(&rig, 2, HOUR, 2 * HOUR)).await;
    let other = rig.reserve(wish_at(&rig, 1, HOUR, 2 * HOUR)).await;
    assert_eq!((rig.nodes(first).await.len(), rig.nodes(other).await.len()), (2, 1));
    rig.is_lost(2).await;
    rig.pass(MINUTE).await;
    rig.is_back(2).await;
    rig.pass(2 * MINUTE).await;
    for id in [first, other] {
        assert_eq!(rig.state(id).await, is("planned", "accepted"));
        is_at(&rig, &rig.shown(id).await["start_at"], 2 * HOUR);
    }
}

#[tokio::test]
async fn before_its_hour_it_gets_other_nodes_for_lost_ones() {
    let rig = Rig::new(3).await;
    let id =
        rig.reserve(with(wish_at(&rig, 2, HOUR, 2 * HOUR), "on_node_loss", json!("fail"))).await;
    assert_eq!(rig.nodes(id).await, ["n01", "n02"]);
    rig.is_lost(1).await;
    rig.pass(MINUTE).await;
    assert_eq!(rig.nodes(id).await, ["n02", "n03"]);
    assert_eq!(rig.state(id).await, is("planned", "node-lost"));
    // And while they boot.
    rig.pass(2 * HOUR - MINUTE).await;
    assert_eq!(rig.state(id).await.0, "starting");
    rig.is_back(1).await;
    let mut tx = rig.bench.context.store.write().await.unwrap();
    let node = tx.node("n03").await.unwrap().unwrap();
    let fault = crate::model::Fault::new(node.generation, "no-boot", "it does not boot");
    tx.set_fault(&node.id, &fault).await.unwrap();
    tx.commit().await.unwrap();
    rig.pass(2 * HOUR - 30 * SECOND).await;
    assert_eq!(rig.nodes(id).await, ["n02", "n01"], "{:?}", rig.shown(id).await);
}

#[tokio::test]
async fn nodes_that_somebody_has_by_hand_or_that_are_out_of_service_are_not_given() {
    let rig = Rig::new(3).await;
    let by_hand = json!({ "nodeset": "n01", "image": "a", "overlay": "none" });
    ok(rig.bench.post("/v1/switch", by_hand).await);
    let drain = json!({ "nodeset": "n02", "state": "drain", "reason": "bad DIMM" });
    ok(rig.bench.post("/v1/nodes/drain", drain).await);
    let one = rig.reserve(wish(1, HOUR)).await;
    let two = rig.reserve(wish(2, HOUR)).await;
    rig.pass(SECOND).await;
    assert_eq!(rig.nodes(one).await, ["n03"]);
    assert_eq!(rig.state(two).await.0, "pending");
    // What runs that haasd has never booted is somebody's too.
    let rig = Rig::new(1).await;
    let node = rig.bench.node(1).await;
    let mut tx = rig.bench.context.store.write().await.unwrap();
    tx.set_power(&node.id, Ok(Power::On), rig.begun).await.unwrap();
    tx.commit().await.unwrap();
    let id = rig.reserve(wish(1, HOUR)).await;
    rig.pass(SECOND).await;
    assert_eq!(rig.state(id).await.0, "pending");
    assert_eq!(rig.bench.node(1).await.generation, 0);
}

#[tokio::test]
async fn a_node_stays_its_tenants_also_while_it_is_off_and_an_admin_may_take_it() {
    let rig = Rig::new(1).await;
    let grant = json!({ "subject": "bob", "object": "node-group:rack1", "role": "use" });
    ok(rig.bench.post("/v1/grants", grant).await);
    let id = rig.reserve(wish(1, HOUR)).await;
    rig.pass(SECOND).await;
    rig.boots(1).await;
    rig.pass(MINUTE).await;
    let off = json!({ "nodeset": "n01", "action": "off", "force": true });
    ok(rig.post(&rig.bench.alice, "/v1/power", off).await);
    let take =
        json!({ "nodeset": "n01", "image": "a", "overlay": "none", "force": true, "reboot": true });
    let taken = rig.post(&rig.bob, "/v1/switch", take.clone()).await;
    assert_eq!((taken.status, taken.code().as_str()), (403, "denied"));
    ok(rig.bench.post("/v1/switch", take).await);
    let generation = rig.bench.node(1).await.generation;
    rig.pass(2 * HOUR).await;
    assert_eq!(rig.state(id).await.0, "ending");
    assert_eq!(rig.bench.node(1).await.generation, generation, "it is the admin's now");
}
