//! What the checks of a request cost. A measurement: `cargo xtask bench auth`.

use std::net::SocketAddr;
use std::time::Instant;

use axum::http::{HeaderMap, HeaderValue, header};
use serde_json::json;

use crate::{
    api::guard::authenticate,
    auth::{Object, Verb, authorize, principals::Moment},
    testing::Bench,
};

/// Enough that a percentile stands still.
const ROUNDS: usize = 20_000;

#[tokio::test]
#[ignore = "a measurement; run: cargo xtask bench auth"]
#[expect(clippy::print_stdout, reason = "xtask reads it")]
async fn measure_what_the_checks_of_a_request_cost() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    // Alice is in fifty projects, each with a grant of its own, and one of the node's group.
    for number in 0..50 {
        let project = format!("p{number:02}");
        let made = bench.post("/v1/projects", json!({ "name": project, "owner": "alice" })).await;
        assert_eq!(made.status, 201, "{made:?}");
        bench.add_overlay("admin", &project).await;
        let overlay = format!("overlay:admin/{project}");
        let body = json!({ "subject": project, "object": overlay, "role": "use" });
        assert_eq!(bench.post("/v1/grants", body).await.status, 201);
    }
    let rack = json!({ "subject": "p49", "object": "node-group:rack1", "role": "use" });
    assert_eq!(bench.post("/v1/grants", rack).await.status, 201);
    let node = bench.node(1).await;
    let (name, groups) = (node.name.as_str(), &node.spec.groups);
    let mut headers = HeaderMap::new();
    let token = HeaderValue::from_str(&format!("Bearer {}", bench.alice)).unwrap();
    headers.insert(header::AUTHORIZATION, token);
    let peer = SocketAddr::from(([192, 0, 2, 7], 9));
    let is_slow = async || {
        let known = &bench.context.principals;
        let hash = crate::tokens::hash(&bench.alice);
        authenticate(&bench.context, peer, &headers).await.unwrap();
        let (age, wall) = (bench.context.store.powers_age(), crate::clock::wall());
        known.get(&hash, Moment { age, now: Instant::now(), wall }).is_none()
    };
    while is_slow().await {
        tokio::task::yield_now().await;
    }
    let mut told = serde_json::Map::new();
    for (kind, is_known) in [("known", true), ("looked_up", false)] {
        let rounds = if is_known { ROUNDS } else { ROUNDS / 20 };
        let mut took = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            if !is_known {
                bench.context.store.powers_changed();
            }
            let begun = Instant::now();
            let alice = authenticate(&bench.context, peer, &headers).await.unwrap();
            authorize(&alice, Verb::Use, Object::Node { name, groups, tenant: None }).unwrap();
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        for (percentile, at) in [("p50", rounds / 2), ("p99", rounds * 99 / 100)] {
            let us = took[at].as_secs_f64() * 1e6;
            told.insert(format!("token_{kind}_{percentile}_us"), json!((us * 10.0).round() / 10.0));
        }
    }
    println!("{}", serde_json::Value::Object(told));
}
