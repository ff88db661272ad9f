//! Hours that are named, lead times, extensions, the calendar.

use super::*;

#[tokio::test]
async fn an_hour_is_accepted_or_refused_at_once_and_nodes_are_ready_by_then() {
    let rig = Rig::new(3).await;
    let id = rig.reserve(wish_at(&rig, 3, HOUR, 2 * HOUR)).await;
    assert_eq!(rig.state(id).await, is("planned", "accepted"));
    let other = rig.ask(&rig.bob, wish_at(&rig, 1, HOUR, 2 * HOUR + 30 * MINUTE)).await;
    let (status, code, detail) = refused(&other);
    assert_eq!((status, code.as_str()), (409, "no-slot"));
    assert!(detail.contains("the next starts are"), "{detail}");
    // Nothing is known of their boots: five minutes are enough.
    rig.pass(2 * HOUR - 6 * MINUTE).await;
    assert_eq!(rig.state(id).await.0, "planned");
    assert_eq!(rig.bench.node(1).await.generation, 0);
    rig.pass(2 * HOUR - 5 * MINUTE + SECOND).await;
    assert_eq!(rig.state(id).await, is("starting", "lead-time"));
    for number in 1..=3 {
        rig.boots(number).await;
    }
    rig.pass(2 * HOUR - 2 * MINUTE).await;
    assert_eq!(rig.state(id).await.0, "starting", "its hour has not come");
    rig.pass(2 * HOUR + SECOND).await;
    assert_eq!(rig.state(id).await, is("active", "ready"));
    assert_eq!(rig.shown(id).await["late_s"], Value::Null);
    is_at(&rig, &rig.shown(id).await["end_at"], 3 * HOUR);
}

#[tokio::test]
async fn the_lead_is_learned_from_the_nodes_own_boots() {
    let rig = Rig::new(1).await;
    let node = rig.bench.node(1).await;
    let mut times = crate::model::BootTimes::default();
    for _ in 0..3 {
        times.add(&[(BootStage::Power, 0), (BootStage::Ready, 40 * SECOND)]);
    }
    let mut tx = rig.bench.context.store.write().await.unwrap();
    tx.set_boot_times(&node.id, &times).await.unwrap();
    tx.commit().await.unwrap();
    let id = rig.reserve(wish_at(&rig, 1, HOUR, 2 * HOUR)).await;
    rig.pass(2 * HOUR - 41 * SECOND).await;
    assert_eq!(rig.state(id).await.0, "planned");
    rig.pass(2 * HOUR - 39 * SECOND).await;
    assert_eq!(rig.state(id).await.0, "starting");
    rig.pass(2 * HOUR + 20 * SECOND).await;
    assert_eq!(rig.state(id).await.0, "starting", "it is late");
    rig.boots(1).await;
    rig.pass(2 * HOUR + 25 * SECOND + SECOND / 2).await;
    assert_eq!(rig.state(id).await, is("active", "ready-late"));
    assert_eq!(rig.shown(id).await["late_s"], 25);
}

#[tokio::test]
async fn an_hour_is_so_far_behind_another_ones_end_that_nodes_are_ready_by_then() {
    let rig = Rig::new(2).await;
    let first = rig.reserve(with(wish_at(&rig, 1, HOUR, HOUR), "nodeset", json!("n01"))).await;
    // What the first runs must end, and nothing is known of boots: five and a half minutes.
    let soon = rig.ask(&rig.bob, wish_at(&rig, 2, HOUR, 2 * HOUR + 5 * MINUTE)).await;
    let (status, code, detail) = refused(&soon);
    assert_eq!((status, code.as_str()), (409, "no-slot"));
    assert!(detail.contains("1 could be had then; the next starts are "), "{detail}");
    let next = detail.split("starts are ").nth(1).unwrap().split(',').next().unwrap();
    is_at(&rig, &json!(next), 2 * HOUR + 5 * MINUTE + 30 * SECOND);
    let named = with(wish_at(&rig, 2, HOUR, 0), "begin", json!(next));
    let second = id(&rig.ask(&rig.bob, named).await);
    rig.pass(HOUR - 4 * MINUTE).await;
    rig.boots(1).await;
    rig.pass(HOUR + SECOND).await;
    assert_eq!(rig.state(first).await.0, "active");
    let longer = json!({ "by_s": 60 });
    let path = format!("/v1/reservations/{first}/extend");
    let (_, code, detail) = refused(&rig.post(&rig.bench.alice, &path, longer).await);
    assert_eq!(code, "cannot-extend", "{detail}");
    rig.pass(2 * HOUR - MINUTE).await;
    assert_eq!(rig.state(second).await.0, "planned");
    rig.pass(2 * HOUR + 2 * SECOND).await;
    assert_eq!(
        (rig.state(first).await.0, rig.state(second).await.0),
        ("ending".into(), "starting".into())
    );
    for number in [1, 2] {
        assert_eq!(rig.wanted(number).await.wanted.actor, "bob");
        rig.boots(number).await;
    }
    rig.pass(2 * HOUR + 5 * MINUTE).await;
    rig.pass(2 * HOUR + 5 * MINUTE + 32 * SECOND).await;
    assert_eq!(rig.state(second).await, is("active", "ready"));
}

#[tokio::test]
async fn an_hour_sooner_than_nodes_boot_is_ready_late() {
    let rig = Rig::new(1).await;
    let id = rig.reserve(wish_at(&rig, 1, HOUR, MINUTE)).await;
    rig.pass(SECOND).await;
    assert_eq!(rig.state(id).await.0, "starting");
    rig.pass(3 * MINUTE).await;
    rig.boots(1).await;
    rig.pass(3 * MINUTE + SECOND).await;
    assert_eq!(rig.state(id).await, is("active", "ready-late"));
    is_at(&rig, &rig.shown(id).await["end_at"], HOUR + MINUTE);
}

#[tokio::test]
async fn an_extension_is_refused_with_the_reason_and_the_longest_possible_one() {
    let rig = Rig::new(1).await;
    let id = rig.reserve(wish(1, HOUR)).await;
    rig.pass(0).await;
    rig.boots(1).await;
    rig.pass(0).await;
    let next = rig.ask(&rig.bob, wish_at(&rig, 1, HOUR, 3 * HOUR)).await;
    assert_eq!(next.status, 201, "{next:?}");
    let extend = async |by: Micros, far: bool| {
        let body = json!({ "by_s": by / SECOND, "as_far_as_possible": far });
        rig.post(&rig.bench.alice, &format!("/v1/reservations/{id}/extend"), body).await
    };
    let (status, code, detail) = refused(&extend(4 * HOUR, false).await);
    assert_eq!((status, code.as_str()), (409, "cannot-extend"));
    assert!(detail.starts_with("n01 is promised to another reservation from "), "{detail}");
    assert!(detail.contains("it could be extended by 1 h 54 min, until"), "{detail}");
    ok(extend(30 * MINUTE, false).await);
    assert_eq!(rig.shown(id).await["walltime_s"], 5_400);
    ok(extend(4 * HOUR, true).await);
    let (_, _, detail) = refused(&extend(HOUR, true).await);
    assert!(detail.ends_with("it cannot be extended at all"), "{detail}");
    assert_eq!(
        rig.steps(id).await[3..],
        ["extended extended", "extended extended"],
        "what was refused is no step"
    );
    // Nobody else may.
    let body = json!({ "by_s": 60 });
    let other = rig.post(&rig.bob, &format!("/v1/reservations/{id}/extend"), body).await;
    assert_eq!((other.status, other.code().as_str()), (404, "no-reservation"));
}

#[tokio::test]
async fn no_reservation_is_longer_than_its_queue_allows_also_by_extensions() {
    let rig = Rig::new(1).await;
    let queue =
        json!({ "name": "short", "open": true, "walltime_s": 600, "max_walltime_s": 7_200 });
    ok(rig.bench.post("/v1/queues", queue).await);
    let ask = |walltime| with(wish(1, walltime), "queue", json!("short"));
    let (status, code, detail) = refused(&rig.ask(&rig.bench.alice, ask(3 * HOUR)).await);
    assert_eq!((status, code.as_str()), (409, "quota"));
    assert!(detail.contains("at most 2 h"), "{detail}");
    let id = rig.reserve(ask(HOUR)).await;
    let body = json!({ "by_s": 7_200 });
    let longer = rig.post(&rig.bench.alice, &format!("/v1/reservations/{id}/extend"), body).await;
    let (_, code, detail) = refused(&longer);
    assert_eq!(code, "cannot-extend");
    assert!(detail.contains("at most 2 h; it could be extended by 1 h"), "{detail}");
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let rig = Rig::new(2).await;
    let dry = |body: Value| with(body, "dry_run", json!(true));
    let now = ok(rig.ask(&rig.bench.alice, dry(wish(2, HOUR))).await);
    assert_eq!((&now["state"], &now["nodes"]), (&json!("starting"), &json!(["n01", "n02"])));
    rig.reserve(wish(2, HOUR)).await;
    rig.pass(SECOND).await;
    let later = ok(rig.ask(&rig.bob, dry(wish(1, HOUR))).await);
    assert_eq!((&later["state"], &later["code"]), (&json!("planned"), &json!("busy")));
    let then = ok(rig.ask(&rig.bob, dry(wish_at(&rig, 1, HOUR, 5 * HOUR))).await);
    assert_eq!((&then["state"], &then["code"]), (&json!("planned"), &json!("accepted")));
    let list = ok(rig.bench.call(&rig.bench.admin, "GET", "/v1/reservations", Value::Null).await);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_calendar_tells_what_is_free_and_the_next_start() {
    let rig = Rig::new(3).await;
    rig.reserve(wish_at(&rig, 2, HOUR, 2 * HOUR)).await;
    let path = "/v1/calendar?nodes=2&walltime_s=10800&span_s=86400";
    let told = ok(rig.bench.call(&rig.bob, "GET", path, Value::Null).await);
    let slots = told["slots"].as_array().unwrap();
    let free: Vec<_> = slots.iter().map(|slot| slot["free"].as_u64().unwrap()).collect();
    assert_eq!((free, &told["nodes"]), (vec![3, 1, 3], &json!(3)));
    // Boots come before an hour.
    is_at(&rig, &slots[1]["from"], 2 * HOUR - 5 * MINUTE - 30 * SECOND);
    is_at(&rig, &told["next_starts"][0], 3 * HOUR + 5 * MINUTE + 30 * SECOND);
    for path in [
        "/v1/calendar?span_s=9223372036854775808",
        "/v1/calendar?nodes=1&walltime_s=9223372036854775807",
    ] {
        let (status, code, detail) =
            refused(&rig.bench.call(&rig.bob, "GET", path, Value::Null).await);
        assert_eq!((status, code.as_str()), (422, "bad-time"), "{detail}");
    }
    let queue = json!({ "name": "ever", "max_walltime_s": u64::MAX });
    let (status, code, detail) = refused(&rig.bench.post("/v1/queues", queue).await);
    assert_eq!((status, code.as_str()), (422, "bad-reservation"), "{detail}");
}

#[tokio::test]
async fn what_never_could_start_is_refused_and_what_waits_is_explained() {
    let rig = Rig::new(2).await;
    let (status, code, detail) = refused(&rig.ask(&rig.bench.alice, wish(3, HOUR)).await);
    assert_eq!((status, code.as_str()), (409, "too-few-nodes"));
    assert_eq!(detail, "the queue default has 2 nodes, and 3 are asked for");
    for (body, code) in [
        (with(wish(1, HOUR), "nodeset", json!("n09")), "no-node"),
        (
            with(with(wish(1, HOUR), "nodeset", json!("n01")), "exclude", json!("n01")),
            "too-few-nodes",
        ),
        (with(wish(1, HOUR), "where", json!("memory>=64G")), "too-few-nodes"),
        (with(wish(1, HOUR), "queue", json!("nowhere")), "no-queue"),
        (with(wish(1, HOUR), "image", json!("b")), "no-image"),
        (with(wish(1, HOUR), "overlay", json!("dev")), "no-overlay"),
        (with(wish(1, HOUR), "begin", json!("soon")), "bad-reservation"),
        (with(wish(1, HOUR), "begin", json!("2001-01-01T00:00:00Z")), "bad-reservation"),
        (wish(0, HOUR), "bad-reservation"),
        (wish(1, 0), "bad-reservation"),
    ] {
        assert_eq!(rig.ask(&rig.bench.alice, body.clone()).await.code(), code, "{body}");
    }
    rig.reserve(wish(2, HOUR)).await;
    rig.pass(SECOND).await;
    let second = rig.reserve(wish(1, HOUR)).await;
    let third = id(&rig.ask(&rig.bob, wish(2, HOUR)).await);
    rig.pass(2 * SECOND).await;
    let path = format!("/v1/reservations/{third}/explain");
    let told = ok(rig.bench.call(&rig.bob, "GET", &path, Value::Null).await);
    assert_eq!((&told["code"], &told["busy"]), (&json!("busy"), &json!(2)), "{told}");
    assert!(told["start_at"].is_string() && told["promised_at"].is_string(), "{told}");
    let hidden = format!("/v1/reservations/{second}/explain");
    assert_eq!(rig.bench.call(&rig.bob, "GET", &hidden, Value::Null).await.status, 404);
}
