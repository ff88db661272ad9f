//! Being watched: who may read what, what is told of haasd's health, streams that go on where they
//! broke off.

use http_body_util::BodyExt as _;

use super::*;
use crate::{model::SECOND, testing::called_from};

async fn get(bench: &Bench, token: &str, path: &str) -> crate::testing::Answered {
    bench.call(token, "GET", path, Value::Null).await
}

#[tokio::test]
async fn metrics_are_for_admins_and_for_the_addresses_that_are_allowed() {
    let bench = Bench::new().await;
    for (token, status) in [("", 401), (bench.alice.as_str(), 403), (bench.admin.as_str(), 200)] {
        let answer = get(&bench, token, "/metrics").await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    for (peer, status) in [([127, 0, 0, 1], 200), ([10, 0, 0, 9], 403)] {
        let router = called_from(watch_router(bench.context.clone()), peer.into());
        for path in ["/metrics", "/healthz"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = bench.send_to(&router, request).await;
            assert_eq!(answer.status, status, "{peer:?} {path} {answer:?}");
        }
    }
    let answer = get(&bench, &bench.admin, "/metrics").await;
    assert_eq!(answer.media_type, "text/plain; version=0.0.4; charset=utf-8");
    for secret in [&bench.admin, &bench.alice] {
        assert!(!answer.text.contains(secret.as_str()));
    }
}

#[tokio::test]
async fn readyz_says_what_is_lacking_and_names_nothing() {
    let bench = Bench::new().await;
    let parts = async || {
        let answer = get(&bench, "", "/readyz").await;
        let ready: haas_api::watch::Readiness = serde_json::from_value(answer.json()).unwrap();
        assert_eq!(ready.ready, ready.lacks.is_empty());
        assert_eq!(answer.status, if ready.ready { 200 } else { 503 });
        ready.lacks.into_iter().map(|lack| lack.part).collect::<Vec<_>>()
    };
    assert_eq!(parts().await, ["listeners", "reconciler"]);
    bench.context.health.listens();
    bench.context.health.passed();
    assert_eq!(parts().await, [""; 0]);
    // It is there by its manifest alone.
    bench.add_image("secret-project").await;
    bench.context.exports.reload(&bench.context.store).await.unwrap();
    assert_eq!(parts().await, ["images"]);
    let text = get(&bench, "", "/readyz").await.text;
    assert!(text.contains("1 of 1") && !text.contains("secret-project"), "{text}");
    bench.give_disks().await;
    assert_eq!(parts().await, [""; 0]);
    bench.context.store.close().await;
    assert_eq!(parts().await, ["database"]);
    assert_eq!(get(&bench, "", "/healthz").await.status, 200);
}

/// A stream's frames so far, as far as they come by themselves.
async fn frames(bench: &Bench, path: &str, last: Option<&str>) -> (u16, Vec<String>) {
    let mut request = Request::builder()
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {}", bench.admin));
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let response = bench.open(request.body(Body::empty()).unwrap()).await;
    let status = response.status().as_u16();
    let mut text = Vec::new();
    let mut body = response.into_body();
    let wait = std::time::Duration::from_secs(20);
    while let Some(frame) = tokio::time::timeout(wait, body.frame()).await.expect("it ends") {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
    }
    let text = String::from_utf8(text).unwrap();
    (status, text.split("\n\n").filter(|f| !f.is_empty()).map(str::to_owned).collect())
}

/// The numbers of the events in frames.
fn numbers(frames: &[String]) -> Vec<i64> {
    let data =
        frames.iter().filter_map(|frame| frame.split_once("data: ")?.1.parse::<Value>().ok());
    data.filter_map(|event| event["seq"].as_i64()).collect()
}

#[tokio::test]
async fn a_stream_goes_on_where_the_reader_says_or_tells_why_it_cannot() {
    let bench = Bench::new().await;
    bench.add_nodes([1, 2]).await;
    for managed in [false, true, false, true] {
        let body = json!({ "nodeset": "n[01-02]", "managed": managed });
        assert_eq!(bench.post("/v1/nodes/manage", body).await.status, 200);
    }
    let stream = async |path: &str, last| frames(&bench, path, last).await;
    let (status, all) = stream("/v1/events?from=0&follow=false", None).await;
    assert_eq!((status, numbers(&all)), (200, (1..=8).collect()));
    assert_eq!(all[0], "id: 0", "where it begins comes first");
    assert_eq!(all.last().unwrap(), "event: end\ndata: 8");
    // What a browser says when it connects again goes before its URL.
    let (_, again) = stream("/v1/events?from=0&follow=false", Some("6")).await;
    assert_eq!(numbers(&again), [7, 8]);
    let (_, node) =
        stream("/v1/events?from=0&follow=false&nodeset=n02&kind=managed,fault", None).await;
    assert_eq!(numbers(&node), [4, 8]);
    let (_, none) = stream("/v1/events?follow=false", None).await;
    assert_eq!(numbers(&none), [0; 0]);
    assert_eq!(none[0], "id: 8");
    assert_eq!(stream("/v1/events?follow=false", Some("x")).await.0, 422);

    let codes = async |path: &str| {
        let answer = get(&bench, &bench.admin, path).await;
        (answer.status, answer.code())
    };
    assert_eq!(codes("/v1/events?from=9").await, (409, "events-ahead".to_owned()));
    let mut tx = bench.context.store.write().await.unwrap();
    tx.forget_events(clock_after_all()).await.unwrap();
    tx.commit().await.unwrap();
    // Only the last one is left.
    assert_eq!(codes("/v1/events?from=3").await, (410, "events-gone".to_owned()));
    let (_, kept) = stream("/v1/events?from=0&follow=false", None).await;
    assert_eq!(numbers(&kept), [8], "from the beginning is from the first that is kept");
    assert_eq!(numbers(&stream("/v1/events?from=7&follow=false", None).await.1), [8]);
}

fn clock_after_all() -> i64 {
    crate::clock::wall() + SECOND
}

#[tokio::test]
async fn events_that_a_webhook_has_yet_to_deliver_are_not_forgotten() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    let hook = json!({ "name": "chat", "url": "http://hooks.example/" });
    assert_eq!(bench.post("/v1/webhooks", hook).await.status, 201);
    let manage = async |managed: bool| {
        let body = json!({ "nodeset": "n01", "managed": managed });
        bench.post("/v1/nodes/manage", body).await;
    };
    manage(false).await;
    manage(true).await;
    let forget = async || {
        let mut tx = bench.context.store.write().await.unwrap();
        tx.forget_events(clock_after_all()).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = bench.context.store.read().await.unwrap();
        (tx.first_event().await.unwrap(), tx.last_event().await.unwrap())
    };
    // It stands where it was made; its own event is the first behind that.
    assert_eq!(forget().await, (Some(1), 3));
    let removed = bench.call(&bench.admin, "DELETE", "/v1/webhooks/chat", Value::Null).await;
    assert_eq!(removed.status, 204);
    assert_eq!(forget().await, (Some(4), 4));
}

#[tokio::test]
async fn the_audit_log_says_what_each_deed_came_to() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    bench.add_image("a").await;
    let deeds = [
        ("POST", "/v1/overlays", json!({ "name": "dev" }), "overlay admin/dev"),
        ("POST", "/v1/overlays", json!({ "name": "dev" }), "conflict"),
        (
            "POST",
            "/v1/nodes/manage",
            json!({ "nodeset": "n01", "managed": false }),
            "unmanaged n01 (1 nodes)",
        ),
        (
            "POST",
            "/v1/users",
            json!({ "name": "eve", "role": "user", "ssh_keys": [] }),
            "user eve (",
        ),
        ("POST", "/v1/users/eve/tokens", json!({}), "token "),
        ("DELETE", "/v1/users/eve", Value::Null, "removed user eve ("),
        ("DELETE", "/v1/users/eve?now=true", Value::Null, "destroyed: id "),
        ("DELETE", "/v1/users/eve", Value::Null, "no-user"),
        (
            "POST",
            "/v1/images/tags",
            json!({ "image": "a:latest", "name": "b", "tag": "x" }),
            "b:x is ",
        ),
        ("DELETE", "/v1/images/b:x", Value::Null, "removed the name b:x of "),
        (
            "POST",
            "/v1/webhooks",
            json!({ "name": "w", "url": "http://h.example/t0ken" }),
            "webhook w (",
        ),
        ("DELETE", "/v1/webhooks/w", Value::Null, "removed webhook w ("),
    ];
    for (method, path, body, _) in &deeds {
        bench.call(&bench.admin, method, path, body.clone()).await;
    }
    let log = get(&bench, &bench.admin, "/v1/audit").await;
    let items = log.json()["items"].as_array().unwrap().clone();
    assert_eq!(items.len(), deeds.len());
    for (entry, (method, path, _, came_to)) in items.iter().zip(deeds) {
        let path = path.split('?').next().unwrap();
        assert_eq!(entry["action"], format!("{method} {path}"));
        let detail = entry["detail"].as_str().unwrap();
        assert!(detail.starts_with(came_to), "{method} {path}: {detail:?}, not {came_to:?}");
    }
    assert!(!log.text.contains("t0ken") && !log.text.contains("whsec_"));
}
