//! Switch, rollback and power: what is refused and why, and what is written.

use haas_api::agent::Heartbeat;
use serde_json::{Value, json};

use crate::{
    model::{Attempt, AttemptState, Cause},
    testing::Bench,
};

/// Five nodes, two images, and overlays of admin and alice.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.add_nodes(1..=5).await;
    bench.add_image("a").await;
    bench.add_image("b").await;
    bench.add_overlay("admin", "dev").await;
    bench.add_overlay("alice", "hers").await;
    bench
}

async fn refused(bench: &Bench, path: &str, body: Value) -> (u16, String) {
    let before = (bench.node(1).await, last_event(bench).await);
    let answer = bench.post(path, body).await;
    assert_eq!((bench.node(1).await, last_event(bench).await), before, "it was refused and wrote");
    (answer.status, answer.code())
}

async fn last_event(bench: &Bench) -> i64 {
    bench.context.store.read().await.unwrap().last_event().await.unwrap()
}

async fn switch(bench: &Bench, body: Value) -> Value {
    let answer = bench.post("/v1/switch", body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()
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

/// The node runs its desired state, and `alice` is logged in.
async fn busy(bench: &Bench, number: u8) {
    let node = bench.node(number).await;
    let now = bench.context.clock.now();
    let id = format!("boot-{number}");
    let stage = haas_api::agent::BootStage::Ready;
    let attempt = Attempt {
        state: AttemptState::Ready,
        stage,
        stages: vec![(stage, now)],
        token_spent: true,
        ..Attempt::new(&node, (id.clone(), id), Cause::Desired, 0, now)
    };
    let heartbeat = Heartbeat { logins: vec!["alice pts/0".into()], ..Heartbeat::default() };
    let mut tx = bench.context.store.write().await.unwrap();
    tx.open_attempt(&attempt, &attempt.id).await.unwrap();
    tx.agent_spoke(&node.id, &attempt.id, now).await.unwrap();
    tx.set_heartbeat(&node.id, &heartbeat, false, now).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_reason_and_nothing_is_written() {
    let bench = bench().await;
    for (body, status, code) in [
        (json!({ "nodeset": "" }), 422, "bad-nodeset"),
        (json!({ "nodeset": "  " }), 422, "bad-nodeset"),
        (json!({ "nodeset": "n01!n01" }), 422, "bad-nodeset"),
        (json!({ "nodeset": "n[1-99999999]" }), 422, "bad-nodeset"),
        (json!({ "nodeset": "n[1-9999]x[1-9999]" }), 422, "bad-nodeset"),
        (json!({ "nodeset": "n[01" }), 422, "bad-nodeset"),
        (json!({ "nodeset": "n01,n99", "image": "a" }), 404, "no-node"),
        (json!({ "nodeset": "@rack9", "image": "a" }), 404, "no-node"),
        (json!({ "nodeset": "n01", "image": "none" }), 404, "no-image"),
        (json!({ "nodeset": "n01" }), 409, "no-image"),
        (json!({ "nodeset": "n01", "image": "a" }), 409, "no-overlay"),
        (
            json!({ "nodeset": "n01", "image": "a", "overlay": "none", "rescue": true }),
            409,
            "nothing-to-rescue",
        ),
        (
            json!({ "nodeset": "n01", "image": "a", "overlay": "dev", "rescue": true }),
            409,
            "nothing-to-rescue",
        ),
        (json!({ "nodeset": "n01", "image": "a", "at_most": 0 }), 422, "bad-at-most"),
        (json!({ "nodeset": "n01", "image": "a", "overlay": "none-such" }), 404, "no-overlay"),
        (json!({ "nodeset": "n01", "image": "a", "overlay": "bob/dev" }), 404, "no-overlay"),
        (json!({ "nodeset": "n01", "image": "a", "overlay": "../dev" }), 422, "bad-json"),
        (json!({ "nodeset": "n01", "image": "a", "overlay": ".." }), 422, "bad-json"),
        (json!({ "nodeset": "n01", "image": "a", "overlay": "alice/../x" }), 422, "bad-json"),
        (json!({ "nodeset": "n01", "image": "../../etc" }), 422, "bad-json"),
    ] {
        let answer = refused(&bench, "/v1/switch", body.clone()).await;
        assert_eq!(answer, (status, code.to_owned()), "{body}");
    }
    let power = json!({ "nodeset": "n01", "action": "on" });
    assert_eq!(refused(&bench, "/v1/power", power).await, (409, "no-image".into()));
    let rollback = json!({ "nodeset": "n01" });
    assert_eq!(refused(&bench, "/v1/rollback", rollback).await, (409, "nothing-before".into()));
}

#[tokio::test]
async fn a_set_of_many_thousand_names_is_answered_shortly() {
    let bench = bench().await;
    let names: Vec<_> = (1..=99_999).map(|n| format!("n{n}")).collect();
    for set in ["n[1-99999]".to_owned(), names.join(",")] {
        let answer = bench.post("/v1/switch", json!({ "nodeset": set, "image": "a" })).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "no-node"));
        assert!(answer.text.len() < 1_000, "{} bytes", answer.text.len());
    }
}

#[tokio::test]
async fn one_node_that_cannot_refuses_the_whole_request_and_is_named() {
    let bench = bench().await;
    let id = bench.node(3).await.id;
    let mut tx = bench.context.store.write().await.unwrap();
    tx.set_managed(&id, false).await.unwrap();
    tx.commit().await.unwrap();
    let body = json!({ "nodeset": "@rack1", "image": "a", "overlay": "none", "force": true });
    let answer = bench.post("/v1/switch", body.clone()).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "unmanaged"));
    let nodes = answer.json()["nodes"].clone();
    assert_eq!((nodes.as_array().unwrap().len(), &nodes[0]["node"]), (1, &json!("n03")));
    assert!(nodes[0]["reason"].as_str().unwrap().contains("haasctl node manage n03"));
    assert_eq!(refused(&bench, "/v1/switch", body).await.0, 409);
}

#[tokio::test]
async fn of_two_admins_the_second_gets_the_reason() {
    let bench = bench().await;
    switch(&bench, json!({ "nodeset": "n[01-02]", "image": "a", "overlay": "none" })).await;
    let second = json!({ "nodeset": "n[02-03]", "image": "b", "overlay": "none" });
    let answer = bench.post("/v1/switch", second).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "node-switching"));
    assert!(answer.text.contains("switch n[01-02] to a"), "{}", answer.text);
    assert!(answer.text.contains("asked for by admin"), "{}", answer.text);
    assert_eq!(bench.node(3).await.generation, 0);
}

#[tokio::test]
async fn of_many_admins_at_once_exactly_one_is_accepted() {
    let bench = bench().await;
    let request = || json!({ "nodeset": "@rack1", "image": "a", "overlay": "dev" });
    let answers =
        futures_util::future::join_all((0..10).map(|_| bench.post("/v1/switch", request()))).await;
    let mut statuses: Vec<_> = answers.iter().map(|a| a.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [&[202][..], &[409; 9]].concat());
    assert_eq!(bench.node(1).await.generation, 1);
}

#[tokio::test]
async fn people_who_are_logged_in_are_named_and_end_only_by_force() {
    let bench = bench().await;
    switch(&bench, json!({ "nodeset": "n01", "image": "a", "overlay": "none" })).await;
    finish(&bench).await;
    busy(&bench, 1).await;
    let other = json!({ "nodeset": "n01", "image": "b" });
    let answer = bench.post("/v1/switch", other.clone()).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "node-busy"));
    assert!(answer.text.contains("alice pts/0"), "{}", answer.text);
    for verb in ["off", "cycle"] {
        let power = json!({ "nodeset": "n01", "action": verb });
        assert_eq!(refused(&bench, "/v1/power", power).await, (409, "node-busy".into()));
    }
    // What ends nobody is nobody's harm.
    switch(&bench, json!({ "nodeset": "n01", "image": "a" })).await;
    finish(&bench).await;
    let mut forced = other;
    forced["force"] = json!(true);
    switch(&bench, forced).await;
}

#[tokio::test]
async fn what_runs_for_one_is_never_handed_to_another_as_it_is() {
    let bench = bench().await;
    switch(&bench, json!({ "nodeset": "n01", "image": "a", "overlay": "none" })).await;
    finish(&bench).await;
    busy(&bench, 1).await;
    let project = json!({ "name": "vision", "owner": "alice" });
    assert_eq!(bench.post("/v1/projects", project).await.status, 201);
    let lent = json!({ "nodeset": "n01", "image": "a", "overlay": "none", "project": "vision" });
    assert_eq!(refused(&bench, "/v1/switch", lent.clone()).await, (409, "node-lent".into()));
    let mut anew = lent;
    anew["reboot"] = json!(true);
    // And then whoever works there is asked for as ever.
    assert_eq!(refused(&bench, "/v1/switch", anew.clone()).await, (409, "node-busy".into()));
    anew["force"] = json!(true);
    switch(&bench, anew).await;
}

#[tokio::test]
async fn a_node_whose_agent_is_silent_keeps_its_logins_and_ends_only_by_force() {
    let bench = bench().await;
    switch(&bench, json!({ "nodeset": "n[01-02]", "image": "a", "overlay": "none" })).await;
    finish(&bench).await;
    busy(&bench, 1).await;
    busy(&bench, 2).await;
    // haasd was away: both agents were heard long ago, and on n02 nobody was logged in then.
    let (n01, n02) = (bench.node(1).await, bench.node(2).await);
    let long_ago = bench.context.clock.now() - 600 * crate::model::SECOND;
    let mut tx = bench.context.store.write().await.unwrap();
    tx.agent_spoke(&n01.id, "boot-1", long_ago).await.unwrap();
    tx.agent_spoke(&n02.id, "boot-2", long_ago).await.unwrap();
    tx.set_heartbeat(&n02.id, &Heartbeat::default(), false, long_ago).await.unwrap();
    tx.commit().await.unwrap();
    let other = |node: &str| json!({ "nodeset": node, "image": "b" });
    assert_eq!(refused(&bench, "/v1/switch", other("n01")).await, (409, "node-busy".into()));
    assert_eq!(refused(&bench, "/v1/switch", other("n02")).await, (409, "node-silent".into()));
    // What runs already is no reason to end it.
    let same = json!({ "nodeset": "n[01-02]", "image": "a", "dry_run": true });
    let answer = bench.post("/v1/switch", same).await.json();
    assert_eq!(answer["nodes"][1]["action"], json!("nothing"), "{answer}");
    // Its power was cut: nobody works there.
    let mut tx = bench.context.store.write().await.unwrap();
    let now = bench.context.clock.now();
    tx.set_power(&n02.id, Ok(crate::model::Power::Off), now).await.unwrap();
    tx.commit().await.unwrap();
    switch(&bench, other("n02")).await;
}

#[tokio::test]
async fn ranks_follow_the_set_are_kept_and_new_nodes_get_the_next() {
    let bench = bench().await;
    let ranks = async |set: &str| {
        let body = json!({ "nodeset": set, "image": "a", "overlay": "dev", "dry_run": true });
        let answer = bench.post("/v1/switch", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let nodes = answer.json()["nodes"].as_array().unwrap().clone();
        nodes
            .iter()
            .map(|n| format!("{}={}", n["node"].as_str().unwrap(), n["rank"]))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let go = async |set: &str| {
        switch(&bench, json!({ "nodeset": set, "image": "a", "overlay": "dev" })).await;
        finish(&bench).await;
    };
    assert_eq!(ranks("n[02-04]").await, "n02=0 n03=1 n04=2");
    go("n[02-04]").await;
    assert_eq!(ranks("n[01-05]").await, "n01=3 n02=0 n03=1 n04=2 n05=4");
    go("n05").await;
    assert_eq!(ranks("n[01-05]").await, "n01=4 n02=0 n03=1 n04=2 n05=3");
}

#[tokio::test]
async fn somebody_elses_overlay_is_for_its_owner_and_admins() {
    let bench = bench().await;
    let body = json!({ "nodeset": "n01", "image": "a", "overlay": "alice/hers" });
    switch(&bench, body.clone()).await;
    // It was switched for alice, who has the node now; bob has neither.
    let bob = bench.add_user("bob", haas_api::user::Role::User).await;
    let answer = bench.call(&bob, "POST", "/v1/switch", body.clone()).await;
    assert_eq!(answer.status, 403, "a plain user switches nothing of others: {answer:?}");
    let answer = bench.call(&bench.alice, "POST", "/v1/switch", body).await;
    assert_eq!(answer.code(), "node-switching");
}

#[tokio::test]
async fn a_dry_run_tells_all_and_writes_nothing() {
    let bench = bench().await;
    let body = json!({ "nodeset": "n01", "image": "a", "overlay": "dev", "dry_run": true });
    let before = (bench.node(1).await, last_event(&bench).await);
    let answer = bench.post("/v1/switch", body).await;
    assert_eq!(answer.status, 200);
    let plan = &answer.json()["nodes"][0];
    assert_eq!((&plan["from"], &plan["action"]), (&json!("nothing"), &json!("boot")));
    assert_eq!(plan["to"], json!("a:latest + admin/dev"));
    assert!(plan["notes"][0].as_str().unwrap().contains("rank 0"), "{plan}");
    assert_eq!((bench.node(1).await, last_event(&bench).await), before);
    let mut tx = bench.context.store.read().await.unwrap();
    assert!(tx.operations(9).await.unwrap().is_empty());
    let dev = &tx.overlays().await.unwrap()[0];
    assert!(tx.shards(&dev.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rollback_goes_back_and_forth_and_refuses_what_is_gone() {
    let bench = bench().await;
    for (image, overlay) in [("a", "dev"), ("b", "none")] {
        switch(&bench, json!({ "nodeset": "n01", "image": image, "overlay": overlay })).await;
        finish(&bench).await;
    }
    for image in ["a:latest", "b:latest", "a:latest"] {
        let answer = bench.post("/v1/rollback", json!({ "nodeset": "n01" })).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        finish(&bench).await;
        let node = bench.node(1).await;
        let mut tx = bench.context.store.read().await.unwrap();
        let desired = tx.desired(&node.id, node.generation).await.unwrap().unwrap();
        // Names are kept as they were asked for.
        assert_eq!(desired.wanted.image.unwrap().name, image);
        assert_eq!(desired.wanted.overlay_id.is_some(), image == "a:latest");
    }
    let gone = crate::testing::Bench::add_image(&bench, "b").await;
    let mut tx = bench.context.store.write().await.unwrap();
    tx.remove_image(&gone).await.unwrap();
    tx.commit().await.unwrap();
    let rollback = json!({ "nodeset": "n01" });
    assert_eq!(refused(&bench, "/v1/rollback", rollback).await, (409, "image-gone".into()));
}

#[tokio::test]
async fn an_operation_is_written_with_its_nodes_and_events() {
    let bench = bench().await;
    let body = json!({ "nodeset": "n[01-02]", "image": "a", "overlay": "none", "at_most": 1 });
    let operation = switch(&bench, body).await;
    assert_eq!(operation["summary"], json!("switch n[01-02] to a:latest with overlay none"));
    assert_eq!(operation["nodes"][1]["state"], json!("waiting"));
    let id = operation["id"].as_str().unwrap();
    let mut tx = bench.context.store.read().await.unwrap();
    assert_eq!(tx.operation(id).await.unwrap().unwrap().at_most, Some(1));
    let kinds: Vec<_> =
        tx.events_after(0, 9).await.unwrap().into_iter().map(|e| e.event.kind).collect();
    assert_eq!(kinds, ["desired-changed", "desired-changed", "operation-started"]);
}

async fn steer(bench: &Bench, id: &str, how: &str) -> (u16, Value) {
    let answer = bench.post(&format!("/v1/operations/{id}/{how}"), Value::Null).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn an_aborted_transaction_wants_of_every_node_what_was_wanted_before() {
    let bench = bench().await;
    switch(&bench, json!({ "nodeset": "n[01-02]", "image": "a", "overlay": "none" })).await;
    finish(&bench).await;
    let body =
        json!({ "nodeset": "n[01-03]", "image": "b", "overlay": "none", "min_success": "2" });
    let id = switch(&bench, body).await["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/operations/{id}/pause");
    let stranger = bench.call(&bench.alice, "POST", &path, Value::Null).await;
    assert_eq!((stranger.status, stranger.code().as_str()), (404, "no-operation"));
    for (how, state) in
        [("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("resume", "running")]
    {
        let (status, operation) = steer(&bench, &id, how).await;
        assert_eq!((status, &operation["state"]), (200, &json!(state)), "{how}");
    }
    // What nodes may go back to stays.
    let removal = bench.call(&bench.admin, "DELETE", "/v1/images/a:latest", Value::Null).await;
    assert_eq!((removal.status, removal.code().as_str()), (409, "image-in-use"));

    let (_, operation) = steer(&bench, &id, "abort").await;
    assert_eq!(operation["state"], "rolling-back");
    assert_eq!(operation["reason"], "aborted by admin");
    assert_eq!(steer(&bench, &id, "abort").await.0, 200, "it is so already");
    assert_eq!(steer(&bench, &id, "pause").await.1["code"], "too-late");
    let mut tx = bench.context.store.read().await.unwrap();
    for (number, expected) in [(1, Some("a:latest")), (2, Some("a:latest")), (3, None)] {
        let node = bench.node(number).await;
        let desired = tx.desired(&node.id, node.generation).await.unwrap().unwrap().wanted;
        assert_eq!(desired.power_on, expected.is_some(), "n0{number}");
        assert_eq!(desired.image.as_ref().map(|i| i.name.as_str()), expected, "n0{number}");
        assert_eq!(desired.operation_id.as_deref(), Some(id.as_str()));
    }
    drop(tx);
    finish(&bench).await;
    assert_eq!(steer(&bench, &id, "abort").await.0, 409, "it is over");
}

#[tokio::test]
async fn without_a_transaction_an_abort_is_for_those_that_have_not_begun() {
    let bench = bench().await;
    let body = json!({ "nodeset": "n[01-02]", "image": "a", "overlay": "none" });
    let id = switch(&bench, body).await["id"].as_str().unwrap().to_owned();
    let begun = bench.node(1).await;
    // Its image has no files to export, and nothing here reads them.
    let cause = Cause::Desired;
    let _ = crate::reconcile::open_attempt(&bench.context, &begun, None, cause).await;
    let (_, operation) = steer(&bench, &id, "abort").await;
    assert_eq!(
        (&operation["state"], &operation["reason"]),
        (&json!("running"), &json!("aborted by admin"))
    );
    assert_eq!((bench.node(1).await.generation, bench.node(2).await.generation), (1, 2));
}

#[tokio::test]
async fn more_nodes_than_there_are_cannot_be_demanded() {
    let bench = bench().await;
    for (least, code) in [("3", "bad-min-success"), ("0", "bad-json"), ("101%", "bad-json")] {
        let body =
            json!({ "nodeset": "n[01-02]", "image": "a", "overlay": "none", "min_success": least });
        assert_eq!(refused(&bench, "/v1/switch", body).await, (422, code.to_owned()), "{least}");
    }
}
