//! From being asked for to the end.

use haas_api::agent::ToAgent;

use super::*;
use crate::config::IdleRule;

#[tokio::test]
async fn its_time_counts_from_when_its_nodes_are_ready_and_its_end_is_told_before() {
    let rig = Rig::new(3).await;
    let id = rig.reserve(wish(2, HOUR)).await;
    assert_eq!(rig.state(id).await, is("pending", "submitted"));
    rig.pass(SECOND).await;
    assert_eq!(rig.state(id).await, is("starting", "nodes-free"));
    assert_eq!(rig.nodes(id).await, ["n01", "n02"]);
    let wanted = rig.wanted(1).await;
    assert_eq!((wanted.tenant().is_some(), wanted.wanted.cause.as_str()), (true, "reservation"));
    assert_eq!((wanted.wanted.rank, rig.wanted(2).await.wanted.rank), (0, 1));

    rig.boots(1).await;
    rig.pass(2 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("starting", "nodes-free"), "one is not all");
    rig.boots(2).await;
    rig.pass(3 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("active", "ready"));
    is_at(&rig, &rig.shown(id).await["end_at"], 3 * MINUTE + HOUR);

    rig.pass(50 * MINUTE).await;
    rig.pass(54 * MINUTE).await;
    rig.pass(55 * MINUTE).await;
    rig.pass(3 * MINUTE + HOUR).await;
    assert_eq!(rig.state(id).await, is("ending", "time-over"));
    rig.pass(4 * MINUTE + HOUR).await;
    assert_eq!(rig.state(id).await, is("ending", "time-over"), "it is being shut down");
    let after = rig.wanted(1).await;
    assert!(after.wanted.power_on && after.tenant().is_none(), "no rule says that it goes off");
    assert_eq!(after.wanted.overlay_id, None);
    for number in [1, 2] {
        rig.goes_off(number).await;
    }
    rig.pass(5 * MINUTE + HOUR).await;
    assert_eq!(rig.state(id).await, is("ended", "time-over"));
    assert_eq!(
        rig.steps(id).await,
        [
            "submitted submitted",
            "starting nodes-free",
            "active ready",
            "warned ends-soon",
            "ending time-over",
            "ended time-over"
        ]
    );
    let kinds = rig.bench.event_kinds().await;
    for kind in ["reservation-submitted", "reservation-active", "reservation-warned"] {
        assert_eq!(kinds.iter().filter(|known| *known == kind).count(), 1, "{kind}: {kinds:?}");
    }
}

#[tokio::test]
async fn a_pass_that_changes_nothing_writes_nothing() {
    let rig = Rig::new(2).await;
    rig.reserve(wish(2, HOUR)).await;
    rig.reserve(wish_at(&rig, 1, HOUR, 5 * HOUR)).await;
    rig.reserve(wish(2, HOUR)).await;
    rig.pass(SECOND).await;
    rig.pass(2 * SECOND).await;
    let changes = async || {
        let mut tx = rig.bench.context.store.read().await.unwrap();
        (tx.calendar_changes().await.unwrap(), tx.last_event().await.unwrap())
    };
    let before = changes().await;
    for second in 3..9 {
        rig.pass(second * SECOND).await;
    }
    assert_eq!(changes().await, before);
}

#[tokio::test]
async fn where_a_rule_says_so_nodes_go_off_that_nobody_has() {
    let rule = |min_on| IdleRule { group: "rack1".parse().unwrap(), timeout: HOUR, min_on };
    let rig = Rig::with(3, |config| config.idle = vec![rule(1)]).await;
    let id = rig.reserve(wish(3, HOUR)).await;
    rig.pass(SECOND).await;
    for number in 1..=3 {
        rig.boots(number).await;
    }
    rig.pass(MINUTE).await;
    ok(rig.post(&rig.bench.alice, &format!("/v1/reservations/{id}/release"), Value::Null).await);
    rig.pass(2 * MINUTE).await;
    assert_eq!(rig.state(id).await, is("ending", "released"));
    let mut on = Vec::new();
    for number in 1..=3 {
        on.push(rig.wanted(number).await.wanted.power_on);
    }
    assert_eq!(on, [true, false, false], "one spare stays on");
}

#[tokio::test]
async fn whoever_is_next_gets_the_nodes_directly() {
    let rig = Rig::new(1).await;
    let first = rig.reserve(wish(1, HOUR)).await;
    rig.pass(SECOND).await;
    rig.boots(1).await;
    rig.pass(MINUTE).await;
    let second = id(&rig.ask(&rig.bob, wish(1, HOUR)).await);
    rig.pass(2 * MINUTE).await;
    assert_eq!(rig.state(second).await, is("planned", "busy"));
    let generation = rig.bench.node(1).await.generation;
    rig.pass(2 * HOUR).await;
    assert_eq!(rig.state(first).await.0, "ending");
    assert_eq!(rig.state(second).await, is("starting", "nodes-free"));
    let wanted = rig.wanted(1).await;
    assert_eq!(wanted.generation, generation + 1, "one change, from one to the other");
    assert_eq!(wanted.wanted.actor, "bob");
    rig.pass(2 * HOUR + SECOND).await;
    assert_eq!(rig.state(first).await.0, "ending", "what it ran is still there");
    rig.goes_off(1).await;
    rig.boots(1).await;
    rig.pass(2 * HOUR + MINUTE).await;
    assert_eq!(rig.state(first).await.0, "ended");
    assert_eq!(rig.state(second).await.0, "active");
}

#[tokio::test]
async fn the_same_system_for_the_same_tenant_is_not_booted_again() {
    let rig = Rig::new(2).await;
    let first = rig.reserve(wish(1, HOUR)).await;
    rig.pass(SECOND).await;
    rig.boots(1).await;
    rig.pass(MINUTE).await;
    let second = rig.reserve(with(wish(1, HOUR), "nodeset", json!("n01"))).await;
    rig.pass(2 * HOUR).await;
    assert_eq!(
        (rig.state(first).await.0, rig.state(second).await.0),
        ("ending".into(), "starting".into())
    );
    let node = rig.bench.node(1).await;
    let step = reconcile::step_at(&rig.bench.context, node, rig.bench.context.clock.now()).await;
    assert_eq!(step, crate::lifecycle::Step::Do(crate::lifecycle::Action::Adopt));
    rig.pass(2 * HOUR + SECOND).await;
    assert_eq!(
        (rig.state(first).await.0, rig.state(second).await.0),
        ("ended".into(), "active".into())
    );
}

#[tokio::test]
async fn who_takes_it_back_before_it_has_nodes_leaves_nothing_behind() {
    let rig = Rig::new(1).await;
    let id = rig.reserve(wish_at(&rig, 1, HOUR, 2 * HOUR)).await;
    let release = format!("/v1/reservations/{id}/release");
    ok(rig.post(&rig.bench.alice, &release, Value::Null).await);
    assert_eq!(rig.state(id).await, is("cancelled", "released"));
    assert_eq!(rig.nodes(id).await, Vec::<String>::new());
    let again = rig.post(&rig.bench.alice, &release, Value::Null).await;
    assert_eq!(refused(&again).1, "too-late");
    rig.pass(3 * HOUR).await;
    assert_eq!(rig.bench.node(1).await.generation, 0, "nobody touched it");
}

#[tokio::test]
async fn who_does_not_come_loses_the_nodes_where_the_queue_says_so() {
    let rig = Rig::new(2).await;
    let queue = json!({ "name": "quick", "open": true, "no_show_s": 900 });
    ok(rig.bench.post("/v1/queues", queue).await);
    let ask =
        |node: &str| with(with(wish(1, HOUR), "queue", json!("quick")), "nodeset", json!(node));
    let (absent, present) = (rig.reserve(ask("n01")).await, rig.reserve(ask("n02")).await);
    rig.pass(SECOND).await;
    rig.boots(1).await;
    rig.boots(2).await;
    rig.pass(MINUTE).await;
    let node = rig.bench.node(2).await;
    let mut tx = rig.bench.context.store.write().await.unwrap();
    let beat =
        haas_api::agent::Heartbeat { logins: vec!["alice pts/0".to_owned()], ..Default::default() };
    tx.set_heartbeat(&node.id, &beat, false, rig.begun + 2 * MINUTE).await.unwrap();
    tx.commit().await.unwrap();
    rig.pass(15 * MINUTE).await;
    assert_eq!(rig.state(absent).await.0, "active");
    rig.pass(17 * MINUTE).await;
    assert_eq!(rig.state(absent).await, is("ending", "no-show"));
    assert_eq!(rig.state(present).await.0, "active");
}

#[tokio::test]
async fn a_key_that_comes_again_is_the_same_reservation() {
    let rig = Rig::new(2).await;
    let ask = async |body: Value| {
        let request = axum::http::Request::post("/v1/reservations")
            .header("authorization", format!("Bearer {}", rig.bench.alice))
            .header("content-type", "application/json")
            .header("idempotency-key", "k1")
            .body(axum::body::Body::from(body.to_string()))
            .unwrap();
        rig.bench.send(request).await
    };
    let first = id(&ask(wish(1, HOUR)).await);
    assert_eq!(id(&ask(wish(1, HOUR)).await), first);
    assert_eq!(refused(&ask(wish(2, HOUR)).await).1, "key-reused");
}

#[tokio::test]
async fn who_is_logged_in_is_told_before_the_end() {
    let rig = Rig::new(2).await;
    rig.reserve(wish(2, HOUR)).await;
    rig.pass(SECOND).await;
    let mut inboxes = Vec::new();
    for number in [1, 2] {
        rig.boots(number).await;
        let node = rig.bench.node(number).await;
        let mut tx = rig.bench.context.store.read().await.unwrap();
        let attempt = tx.last_attempt(&node.id).await.unwrap().unwrap();
        // The agent of n02 is of an earlier version, which knows no notices.
        inboxes.push(rig.bench.context.agents.connect(&attempt.id, number == 1));
    }
    rig.pass(MINUTE).await;
    rig.pass(50 * MINUTE).await;
    assert!(inboxes[0].1.try_recv().is_err(), "its end is not near");
    rig.pass(52 * MINUTE).await;
    rig.pass(53 * MINUTE).await;
    match inboxes[0].1.try_recv() {
        Ok(ToAgent::Notice { text }) => {
            assert!(text.starts_with("reservation 1: its time is over in 9 min"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(inboxes[0].1.try_recv().is_err(), "it is told once");
    assert!(inboxes[1].1.try_recv().is_err(), "it would not understand");
}
