//! Nodes in drain, maintenance and quarantine, and the bound on what haasd does by itself.

use haas_api::agent::BootStage;
use serde_json::{Value, json};

use crate::{
    lifecycle::{Action, Step},
    model::{DrainState, Fault, Micros, Power, SECOND},
    reconcile,
    testing::Bench,
};

/// Three nodes, an image, and an overlay of alice's.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.add_nodes(1..=3).await;
    bench.add_image("a").await;
    bench.add_overlay("alice", "hers").await;
    bench
}

async fn drain(bench: &Bench, set: &str, state: &str) {
    let body = json!({ "nodeset": set, "state": state, "reason": "DIMM A3 fails" });
    let answer = bench.post("/v1/nodes/drain", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn to_a(set: &str) -> Value {
    json!({ "nodeset": set, "image": "a", "overlay": "none" })
}

/// Ends whatever is under way, as the reconciler would.
async fn finish(bench: &Bench) {
    let mut tx = bench.context.store.write().await.unwrap();
    for operation in tx.running_operations().await.unwrap() {
        let state = haas_api::operation::OperationState::Succeeded;
        tx.end_operation(&operation.id, state, 1).await.unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_drained_node_is_shown_with_who_why_and_since_when_and_told_of() {
    let bench = bench().await;
    drain(&bench, "n[01-02]", "drain").await;
    let shown = bench.call(&bench.alice, "GET", "/v1/nodes/n01", Value::Null).await.json();
    assert_eq!(shown["drain"]["state"], "drain");
    assert_eq!(shown["drain"]["reason"], "DIMM A3 fails");
    assert_eq!(shown["drain"]["actor"], "admin");
    assert!(shown["drain"]["since"].as_str().unwrap().ends_with('Z'), "{shown}");
    let resumed = bench.post("/v1/nodes/resume", json!({ "nodeset": "n01" })).await;
    assert_eq!(resumed.json()["items"][0].get("drain"), None);
    assert!(bench.node(2).await.drain.is_some(), "only n01 was resumed");
    let kinds = bench.event_kinds().await;
    let told: Vec<_> =
        kinds.iter().filter(|k| ["drained", "resumed"].contains(&k.as_str())).collect();
    assert_eq!(told, ["drained", "drained", "resumed"]);
    let audit = bench.call(&bench.admin, "GET", "/v1/audit", Value::Null).await.json();
    let details: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|e| e["detail"].as_str().unwrap()).collect();
    assert!(details.contains(&"drain n[01-02]: DIMM A3 fails"), "{details:?}");
}

#[tokio::test]
async fn a_node_goes_out_of_service_only_with_a_reason() {
    let bench = bench().await;
    for (reason, code) in [("", "no-reason"), (" \t", "no-reason"), ("a\nb", "bad-reason")] {
        let body = json!({ "nodeset": "n01", "state": "drain", "reason": reason });
        let answer = bench.post("/v1/nodes/drain", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code));
    }
    assert_eq!(bench.node(1).await.drain, None);
}

#[tokio::test]
async fn nobody_new_gets_a_drained_node_and_who_has_it_goes_on() {
    let bench = bench().await;
    let hers = json!({ "nodeset": "n01", "image": "a", "overlay": "alice/hers" });
    assert_eq!(bench.post("/v1/switch", hers).await.status, 202, "n01 is alice's now");
    finish(&bench).await;
    drain(&bench, "n[01-02]", "drain").await;
    let refused = bench.post("/v1/switch", to_a("n[02-03]")).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "node-drained"), "{refused:?}");
    assert!(refused.text.contains("drained by admin: DIMM A3 fails"), "{refused:?}");
    assert_eq!(bench.node(3).await.generation, 0, "a request is refused whole");
    let taken = bench.post("/v1/switch", to_a("n01")).await;
    assert_eq!(taken.code(), "node-drained", "an admin does not take it over either");
    let cycle = json!({ "nodeset": "n01", "action": "cycle" });
    let own = bench.call(&bench.alice, "POST", "/v1/power", cycle).await;
    assert_eq!(own.status, 202, "{own:?}");
    finish(&bench).await;
    let off = json!({ "nodeset": "n01", "action": "off" });
    assert_eq!(bench.call(&bench.alice, "POST", "/v1/power", off).await.status, 202);
    finish(&bench).await;
    let on = json!({ "nodeset": "n01", "action": "on" });
    assert_eq!(bench.post("/v1/power", on).await.code(), "node-drained", "it is nobody's now");
}

#[tokio::test]
async fn in_maintenance_and_quarantine_a_node_runs_only_what_admins_ask_for() {
    for state in ["maintenance", "quarantine"] {
        let bench = bench().await;
        let hers = json!({ "nodeset": "n01", "image": "a", "overlay": "alice/hers" });
        assert_eq!(bench.post("/v1/switch", hers).await.status, 202);
        finish(&bench).await;
        drain(&bench, "n[01-02]", state).await;
        let power = |action: &str| json!({ "nodeset": "n01", "action": action });
        let refused = bench.call(&bench.alice, "POST", "/v1/power", power("cycle")).await;
        assert_eq!(refused.code(), "node-drained", "{refused:?}");
        assert!(refused.text.contains(&format!("in {state} by admin")), "{refused:?}");
        let off = bench.call(&bench.alice, "POST", "/v1/power", power("off")).await;
        assert_eq!(off.status, 202, "{off:?}");
        assert_eq!(bench.post("/v1/switch", to_a("n02")).await.status, 202, "for a test");
    }
}

#[tokio::test]
async fn three_faults_in_a_row_that_no_image_can_cause_quarantine_a_node() {
    let bench = bench().await;
    bench.post("/v1/switch", to_a("n01")).await;
    for round in 1..=3 {
        assert_eq!(bench.node(1).await.drain, None, "round {round}");
        // Its BMC is silent for longer than a stage may take.
        let mut tx = bench.context.store.write().await.unwrap();
        let node = bench.node(1).await;
        let long_ago = bench.context.clock.now() - 400 * SECOND;
        tx.set_power(&node.id, Err("no answer".into()), long_ago).await.unwrap();
        tx.commit().await.unwrap();
        let node = bench.node(1).await;
        reconcile::step_at(&bench.context, node, bench.context.clock.now()).await;
        let fault: Fault = bench.node(1).await.fault.expect("its BMC is silent");
        assert_eq!(fault.code, "bmc-silent");
        finish(&bench).await;
        bench.post("/v1/switch", to_a("n01")).await;
    }
    let drain = bench.node(1).await.drain.expect("it has failed three times");
    assert_eq!((drain.state, drain.actor.as_str()), (DrainState::Quarantine, "haasd"));
    assert!(drain.reason.contains("3 faults in a row"), "{drain:?}");
}

/// A node that was ready, whose agent is silent and which its BMC says is off.
async fn lose_power(bench: &Bench, number: u8, now: Micros) {
    let attempt = bench.begin_boot(number).await;
    finish(bench).await;
    for stage in BootStage::ALL {
        if stage > BootStage::Power {
            bench.advance(&attempt, stage).await;
        }
    }
    let mut tx = bench.context.store.write().await.unwrap();
    tx.agent_spoke(&attempt.node_id, &attempt.id, now - 100 * SECOND).await.unwrap();
    tx.set_power(&attempt.node_id, Ok(Power::Off), now).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn after_auto_limit_power_actions_haasd_stops_for_an_hour_and_says_so_once() {
    let bench = Bench::with(|config| config.power.auto_limit = 2).await;
    bench.add_nodes(1..=4).await;
    bench.add_image("a").await;
    let now = bench.context.clock.now();
    for number in 1..=4 {
        lose_power(&bench, number, now).await;
    }
    let mut steps = Vec::new();
    for number in 1..=4 {
        let node = bench.node(number).await;
        steps.push(reconcile::step_at(&bench.context, node, now).await);
    }
    assert!(steps[..2].iter().all(|step| matches!(step, Step::Do(Action::Alone(_)))), "{steps:?}");
    for step in &steps[2..] {
        let Step::Wait { reason, until } = step else { panic!("{steps:?}") };
        assert!(reason.contains("auto_limit"), "{reason}");
        assert!((*until - now - 3_600 * SECOND).abs() < 60 * SECOND, "for an hour");
    }
    let kinds = bench.event_kinds().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "auto-limit-reached").count(), 1, "{kinds:?}");
    // An hour later the next two have their turn.
    let later = now + 3_700 * SECOND;
    let mut tx = bench.context.store.write().await.unwrap();
    let node = bench.node(3).await;
    tx.set_power(&node.id, Ok(Power::Off), later).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = bench.context.store.read().await.unwrap();
    let loaded =
        reconcile::Loaded::read(&bench.context, &mut tx, bench.node(3).await).await.unwrap();
    assert!(matches!(loaded.decide(&bench.context, true, later), Step::Do(Action::Alone(_))));
}

#[tokio::test]
async fn of_two_haasd_on_one_database_only_the_last_one_acts() {
    let bench = bench().await;
    let attempt = bench.begin_boot(1).await;
    assert_eq!(attempt.epoch, bench.context.epoch, "what was done says by whom");
    assert_eq!(bench.context.store.begin_epoch().await.unwrap(), bench.context.epoch + 1);
    let stop = tokio_util::sync::CancellationToken::new();
    let ended = reconcile::run(bench.context.clone(), stop).await.unwrap_err().to_string();
    assert!(ended.contains("another haasd was started on this database"), "{ended}");
}
