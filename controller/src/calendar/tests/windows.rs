//! Maintenance windows, what was used, and the feed.

use axum::{body::Body, http::Request};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;

fn window(rig: &Rig, nodeset: &str, begin: Micros, end: Micros) -> Value {
    let (begin, end) = (rig.at(begin), rig.at(end));
    json!({ "nodeset": nodeset, "begin": begin, "end": end, "reason": "a fan" })
}

/// What nodes run must end, and nothing is known of their boots.
const BOOTS: Micros = 5 * MINUTE + 30 * SECOND;

#[tokio::test]
async fn nothing_is_planned_in_a_window() {
    let rig = Rig::new(2).await;
    let body = window(&rig, "n01", HOUR, 3 * HOUR);
    let by_alice = rig.post(&rig.bench.alice, "/v1/maintenance", body.clone()).await;
    assert_eq!(by_alice.code(), "denied");
    let made = ok(rig.bench.post("/v1/maintenance", body).await);
    assert_eq!((text(&made["nodes"]), text(&made["by"])), ("n01".into(), "admin".into()));

    let (both, one) = (rig.reserve(wish(2, 2 * HOUR)).await, rig.reserve(wish(1, 2 * HOUR)).await);
    rig.pass(SECOND).await;
    assert_eq!(rig.state(both).await, is("planned", "maintenance"));
    is_at(&rig, &rig.shown(both).await["start_at"], 3 * HOUR);
    assert_eq!(rig.nodes(one).await, ["n02"], "the other node is lent meanwhile");
    let hour = rig.ask(&rig.bench.alice, wish_at(&rig, 2, HOUR, 2 * HOUR)).await;
    assert_eq!(hour.code(), "no-slot");
    let path = "/v1/calendar?span_s=14400";
    let free = ok(rig.bench.call(&rig.bench.alice, "GET", path, Value::Null).await);
    let slots = free["slots"].as_array().unwrap();
    let at_two = slots.iter().find(|slot| text(&slot["until"]) > rig.at(2 * HOUR)).unwrap();
    assert_eq!(at_two["free"], 0, "{free}");

    let path = format!("/v1/maintenance/{}", made["id"]);
    let listed = ok(rig.bench.call(&rig.bob, "GET", "/v1/maintenance", Value::Null).await);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(rig.bench.call(&rig.bob, "DELETE", &path, Value::Null).await.code(), "denied");
    ok(rig.bench.call(&rig.bench.admin, "DELETE", &path, Value::Null).await);
    let again = rig.bench.call(&rig.bench.admin, "DELETE", &path, Value::Null).await;
    assert_eq!(again.code(), "no-maintenance");
    rig.pass(2 * SECOND).await;
    is_at(&rig, &rig.shown(both).await["start_at"], 2 * HOUR + 5 * MINUTE);
}

#[tokio::test]
async fn a_window_over_what_was_accepted_must_be_wanted_and_moves_it() {
    let rig = Rig::new(2).await;
    let only = with(wish_at(&rig, 1, HOUR, 2 * HOUR), "nodeset", json!("n01"));
    let (only, any) =
        (rig.reserve(only).await, rig.reserve(wish_at(&rig, 1, HOUR, 2 * HOUR)).await);
    let runs = rig.reserve(with(wish(1, 30 * MINUTE), "nodeset", json!("n02"))).await;
    rig.pass(SECOND).await;
    assert_eq!(
        (rig.nodes(only).await, rig.nodes(any).await),
        (vec!["n01".to_owned()], vec!["n02".to_owned()])
    );
    for (nodeset, met) in [("n01", vec![only]), ("n[01-02]", vec![only, any, runs])] {
        let answer =
            rig.bench.post("/v1/maintenance", window(&rig, nodeset, 10 * MINUTE, 4 * HOUR)).await;
        let (status, code, detail) = refused(&answer);
        assert_eq!((status, code.as_str()), (409, "reserved-then"));
        let met: Vec<String> = met.iter().map(ToString::to_string).collect();
        assert!(detail.contains(&format!(": {};", met.join(", "))), "{detail}");
    }
    let forced = with(window(&rig, "n01", 10 * MINUTE, 4 * HOUR), "force", json!(true));
    ok(rig.bench.post("/v1/maintenance", forced).await);
    rig.pass(2 * SECOND).await;
    assert_eq!(rig.state(only).await, is("planned", "maintenance"));
    is_at(&rig, &rig.shown(only).await["start_at"], 4 * HOUR + BOOTS);
    is_at(&rig, &rig.shown(any).await["start_at"], 2 * HOUR);
    // What runs is not touched, and cannot be extended into a window.
    assert_eq!(rig.state(runs).await.0, "starting");
    let forced = with(window(&rig, "n02", 3 * HOUR, 4 * HOUR), "force", json!(true));
    ok(rig.bench.post("/v1/maintenance", forced).await);
    ok(rig.post(&rig.bench.alice, &format!("/v1/reservations/{any}/release"), Value::Null).await);
    let path = format!("/v1/reservations/{runs}/extend");
    let longer = rig.post(&rig.bench.alice, &path, json!({ "by_s": 5 * 3_600 })).await;
    let (_, code, detail) = refused(&longer);
    assert_eq!(code, "cannot-extend");
    assert!(detail.contains("n02 is in maintenance from"), "{detail}");
}

#[tokio::test]
async fn an_hour_whose_boots_begin_as_a_window_ends_is_accepted_and_stays() {
    let rig = Rig::new(1).await;
    ok(rig.bench.post("/v1/maintenance", window(&rig, "n01", HOUR, 2 * HOUR)).await);
    let soon = rig.ask(&rig.bench.alice, wish_at(&rig, 1, HOUR, 2 * HOUR)).await;
    assert_eq!(refused(&soon).1, "no-slot");
    let after = rig.reserve(wish_at(&rig, 1, 30 * MINUTE, 2 * HOUR + BOOTS)).await;
    rig.pass(SECOND).await;
    is_at(&rig, &rig.shown(after).await["start_at"], 2 * HOUR + BOOTS);
    ok(rig.bench.post("/v1/maintenance", window(&rig, "n01", 3 * HOUR, 4 * HOUR)).await);
    rig.pass(2 * SECOND).await;
    assert_eq!(rig.state(after).await, is("planned", "accepted"));
    is_at(&rig, &rig.shown(after).await["start_at"], 2 * HOUR + BOOTS);
}

#[tokio::test]
async fn what_was_given_back_before_its_hour_is_in_nobodys_calendar() {
    let rig = Rig::new(1).await;
    let id = rig.reserve(wish_at(&rig, 1, HOUR, HOUR)).await;
    rig.pass(HOUR - SECOND).await;
    assert_eq!(rig.state(id).await.0, "starting");
    let read = async || {
        let (token, path) = (&rig.bench.alice, "/v1/calendar.ics");
        rig.bench.call(token, "GET", path, Value::Null).await.text
    };
    assert!(read().await.contains("UID:reservation-"));
    ok(rig.post(&rig.bench.alice, &format!("/v1/reservations/{id}/release"), Value::Null).await);
    assert!(!read().await.contains("UID:reservation-"), "it ends before it begins");
}

#[tokio::test]
async fn windows_that_make_no_sense_are_refused() {
    let rig = Rig::new(1).await;
    for (body, code) in [
        (window(&rig, "n01", 2 * HOUR, HOUR), "bad-reservation"),
        (window(&rig, "n01", -2 * HOUR, -HOUR), "bad-reservation"),
        (with(window(&rig, "n01", 0, HOUR), "reason", json!(" ")), "no-reason"),
        (with(window(&rig, "n01", 0, HOUR), "reason", json!("a\u{7}fan")), "bad-reason"),
        (with(window(&rig, "n01", 0, HOUR), "begin", json!("soon")), "bad-reservation"),
        (window(&rig, "n77", 0, HOUR), "no-node"),
        (window(&rig, "", 0, HOUR), "bad-nodeset"),
    ] {
        let answer = rig.bench.post("/v1/maintenance", body.clone()).await;
        assert_eq!(answer.code(), code, "{body}");
    }
}

#[tokio::test]
async fn node_hours_are_counted_from_when_nodes_are_given_until_they_are_back() {
    let rig = Rig::new(3).await;
    ok(rig.bench.post("/v1/projects", json!({ "name": "vision", "owner": "alice" })).await);
    rig.reserve(with(wish(2, HOUR), "project", json!("vision"))).await;
    let bobs = super::id(&rig.ask(&rig.bob, wish(1, 10 * HOUR)).await);
    rig.pass(SECOND).await;
    for number in 1..=3 {
        rig.boots(number).await;
    }
    rig.pass(MINUTE).await;
    rig.pass(2 * HOUR).await;
    ok(rig.post(&rig.bob, &format!("/v1/reservations/{bobs}/release"), Value::Null).await);
    rig.pass(3 * HOUR).await;
    let used = async |token: &str, query: &str| {
        let path = format!("/v1/usage?{query}");
        rig.bench.call(token, "GET", &path, Value::Null).await
    };
    let lines = async |token: &str, query: &str| {
        let list = ok(used(token, query).await);
        let items = list["items"].as_array().unwrap().clone();
        let line = |one: &Value| {
            let hours = one["node_hours"].as_f64().unwrap();
            (text(&one["project"]), text(&one["user"]), (hours * 100.0).round() / 100.0)
        };
        items.iter().map(line).collect::<Vec<_>>()
    };
    let line = |project: &str, user: &str, hours: f64| (project.to_owned(), user.to_owned(), hours);
    let (alices, bobs) = (line("vision", "alice", 4.0), line("bob", "bob", 3.0));
    let whole = format!("end={}", rig.at(9 * HOUR));
    assert_eq!(lines(&rig.bench.admin, &whole).await, [bobs.clone(), alices.clone()]);
    assert_eq!(lines(&rig.bench.alice, &whole).await, [alices]);
    assert_eq!(lines(&rig.bob, &whole).await, [bobs]);
    let hour = format!("begin={}&end={}", rig.at(HOUR), rig.at(2 * HOUR));
    assert_eq!(lines(&rig.bob, &hour).await, [line("bob", "bob", 1.0)]);
    let csv = used(&rig.bob, &format!("{whole}&format=csv")).await;
    assert!(csv.media_type.starts_with("text/csv"), "{csv:?}");
    assert!(csv.text.ends_with("\r\nbob,bob,default,1,2.9997\r\n"), "{csv:?}");
    assert_eq!(used(&rig.bob, "begin=soon").await.code(), "bad-time");
    let reversed = format!("begin={}&end={}", rig.at(2 * HOUR), rig.at(HOUR));
    assert_eq!(used(&rig.bob, &reversed).await.code(), "bad-time");
    assert_eq!(used(&rig.bob, "format=xml").await.code(), "bad-format");
}

/// Reads the feed with this user and password.
async fn feed(rig: &Rig, user: &str, password: &str) -> Answered {
    let pair = STANDARD.encode(format!("{user}:{password}"));
    let request =
        Request::builder().uri("/v1/calendar.ics").header("authorization", format!("Basic {pair}"));
    rig.bench.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn programs_that_show_calendars_read_the_feed_with_a_token_for_nothing_else() {
    let rig = Rig::new(2).await;
    rig.reserve(wish_at(&rig, 1, HOUR, 2 * HOUR)).await;
    ok(rig.bench.post("/v1/maintenance", window(&rig, "n02", 5 * HOUR, 6 * HOUR)).await);
    let token = async |user: &str, whose: &str| {
        let body = json!({ "name": "phone", "feed_only": true });
        ok(rig.post(whose, &format!("/v1/users/{user}/tokens"), body).await)
    };
    let alices = token("alice", &rig.bench.alice).await;
    let secret = text(&alices["token"]);
    let read = feed(&rig, "alice", &secret).await;
    assert!(read.media_type.starts_with("text/calendar"), "{read:?}");
    for line in [
        "BEGIN:VCALENDAR",
        "UID:reservation-1@",
        "SUMMARY:1 node with a:latest (planned)",
        "SUMMARY:Maintenance: a fan",
    ] {
        assert!(read.text.contains(line), "{line}: {}", read.text);
    }
    let bobs = token("bob", &rig.bob).await;
    let read = feed(&rig, "bob", &text(&bobs["token"])).await;
    assert!(!read.text.contains("reservation-1@"), "{}", read.text);

    // It opens nothing else, and no other token is one for a program.
    let elsewhere = rig.bench.call(&secret, "GET", "/v1/reservations", Value::Null).await;
    assert_eq!((elsewhere.status, elsewhere.code()), (403, "feed-token".into()));
    for (user, password) in [("bob", &secret), ("alice", &rig.bench.alice), ("alice", &rig.bob)] {
        assert_eq!(feed(&rig, user, password).await.status, 401);
    }
    let ours = rig.bench.call(&rig.bench.alice, "GET", "/v1/calendar.ics", Value::Null).await;
    assert_eq!(ours.status, 200);
    let asked = Request::builder().uri("/v1/calendar.ics").body(Body::empty()).unwrap();
    let asked = rig.bench.open(asked).await;
    let challenges: Vec<_> = asked.headers().get_all("www-authenticate").iter().collect();
    assert!(challenges.iter().any(|value| value.to_str().unwrap().starts_with("Basic ")));

    let path = format!("/v1/users/alice/tokens/{}", text(&alices["id"]));
    ok(rig.bench.call(&rig.bench.alice, "DELETE", &path, Value::Null).await);
    assert_eq!(feed(&rig, "alice", &secret).await.status, 401);
}
