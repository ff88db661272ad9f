//! The API's conventions, kept by every route, and what requests promise; through the whole router.

mod access;
mod attacks;
mod boot_path;
mod channel;
mod checks;
mod consoles;
mod disks;
mod initiator;
mod kexec;
mod out_of_service;
mod power_status;
mod probes;
mod requests;
mod roles;
mod sessions;
mod slow;
mod tenants;
mod watch;

use axum::{
    body::Body,
    http::{Request, header},
};
use serde_json::{Value, json};

use super::*;
use crate::testing::Bench;

/// Every method and path of the API's description, with something in place of each variable.
fn every_route() -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{image}", "minimal:latest").replace("{owner}", "bob");
        let path = path.split('/').map(|s| if s.starts_with('{') { "n01" } else { s });
        let path = path.collect::<Vec<_>>().join("/");
        for method in methods.as_object().unwrap().keys() {
            routes.push((method.to_uppercase(), path.clone()));
        }
    }
    assert!(routes.len() > 25, "the description lacks routes: {routes:?}");
    routes
}

/// The routes for those who have no token yet.
const OPEN: [&str; 2] = ["/v1/login", "/v1/register"];

#[tokio::test]
async fn no_route_answers_without_a_token() {
    let mut bench = Bench::new().await;
    for (number, (method, path)) in every_route().into_iter().enumerate() {
        // So many wrong tokens from one address would be stopped.
        if number % 15 == 14 {
            bench = Bench::new().await;
        }
        for header in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic YTpi")] {
            let mut request = Request::builder().method(method.as_str()).uri(&path);
            if let Some(header) = header {
                request = request.header(header::AUTHORIZATION, header);
            }
            let answer = bench.send(request.body(Body::empty()).unwrap()).await;
            if OPEN.contains(&path.as_str()) {
                assert_eq!((answer.status, answer.code().as_str()), (415, "bad-json"), "{path}");
                continue;
            }
            assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{path}");
        }
    }
}

#[tokio::test]
async fn a_plain_user_changes_what_is_its_own() {
    let bench = Bench::new().await;
    let own = bench.call(&bench.alice, "POST", "/v1/overlays", json!({ "name": "dev" })).await;
    assert_eq!(own.status, 201, "{own:?}");
    let key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmY a@b";
    let set = async |keys: Value| {
        bench.call(&bench.alice, "PATCH", "/v1/users/alice", json!({ "ssh_keys": keys })).await
    };
    assert_eq!(set(json!([key])).await.status, 200);
    let long = format!("{key}{}", "x".repeat(8 << 10));
    for bad in ["ssh-ed25519 AAAA alice", &key[..60], "", &long, "two\nlines", &key[1..]] {
        assert_eq!(set(json!([key, bad])).await.code(), "bad-ssh-key", "{bad}");
    }
    assert_eq!(set(json!(vec![key; 65])).await.code(), "bad-ssh-key");
}

#[tokio::test]
async fn what_a_request_should_not_have_is_told_and_nothing_is_done() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    bench.add_image("a").await;
    for (path, body) in [
        ("/v1/power", json!({ "nodeset": "n01", "action": "on", "dryrun": true })),
        (
            "/v1/switch",
            json!({ "nodeset": "n01", "image": "a", "overlay": "none", "dry-run": true }),
        ),
        ("/v1/rollback", json!({ "nodeset": "n01", "dry-run": true })),
        ("/v1/users/alice/tokens", json!({ "days": 1 })),
    ] {
        assert_eq!(bench.post(path, body).await.code(), "bad-json", "{path}");
    }
    assert_eq!(bench.node(1).await.generation, 0);
}

#[tokio::test]
async fn garbage_is_told_as_a_problem_and_never_as_plain_text() {
    let bench = Bench::new().await;
    let with_body = every_route().into_iter().filter(|(method, path)| {
        ["POST", "PATCH", "PUT"].contains(&method.as_str())
            // Nothing in it is needed, so that an empty list passes for an empty object.
            && !path.ends_with("/tokens")
            && (method != "PATCH" || path.starts_with("/v1/users"))
            && !path.ends_with("/restore")
            // What is asked stands in the path.
            && !path.starts_with("/v1/operations/")
            && !path.starts_with("/v1/webhooks/")
            && !path.ends_with("/release")
            && !["/v1/images/build", "/v1/images/import", "/v1/logout"].contains(&path.as_str())
    });
    for (method, path) in with_body {
        for garbage in ["", "{", "null", "[]", "\u{0}", "{\"nodeset\": 7}", "\"x\"", "{}}"] {
            let request = Request::builder()
                .method(method.as_str())
                .uri(&path)
                .header(header::AUTHORIZATION, format!("Bearer {}", bench.admin))
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(garbage))
                .unwrap();
            let answer = bench.send(request).await;
            assert_eq!(answer.code(), "bad-json", "{method} {path} {garbage:?}");
            assert!([400, 422].contains(&answer.status), "{method} {path} {garbage:?} {answer:?}");
        }
    }
}

#[tokio::test]
async fn every_other_way_to_ask_wrongly_is_a_problem_too() {
    let bench = Bench::new().await;
    let ask =
        async |method: &str, path: &str| bench.call(&bench.admin, method, path, Value::Null).await;
    for (method, path, status, code) in [
        ("GET", "/", 404, "no-route"),
        ("GET", "/v1/nothing", 404, "no-route"),
        ("DELETE", "/v1/switch", 405, "no-method"),
        ("GET", "/v1/nodes/n99", 404, "no-node"),
        ("GET", "/v1/nodes?nodeset=", 422, "bad-nodeset"),
        ("GET", "/v1/nodes?nodeset=n%5B", 422, "bad-nodeset"),
        ("GET", "/v1/events?from=x", 400, "bad-query"),
        ("GET", "/v1/images/%2e%2e", 400, "bad-path"),
        ("GET", "/v1/images/%ff", 400, "bad-path"),
        ("DELETE", "/v1/overlays/alice/..%2f..", 400, "bad-path"),
        ("POST", "/v1/images/build?name=..", 400, "bad-query"),
        ("GET", "/v1/operations/x", 404, "no-operation"),
        ("GET", "/v1/agent", 400, "no-websocket"),
    ] {
        let answer = ask(method, path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_is_refused() {
    let bench = Bench::new().await;
    let large = json!({ "nodeset": "n".repeat(5 << 20) });
    let answer = bench.post("/v1/switch", large).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "too-large"));
    let request = Request::post("/v1/switch")
        .header(header::AUTHORIZATION, format!("Bearer {}", bench.admin))
        .body(Body::from("{\"nodeset\": \"n01\"}"))
        .unwrap();
    let answer = bench.send(request).await;
    assert_eq!((answer.status, answer.code().as_str()), (415, "bad-json"));
}

#[test]
fn the_description_names_no_schema_that_it_has_not() {
    let text = openapi_json();
    let document: Value = serde_json::from_str(&text).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let named: Vec<_> =
        text.split("#/components/schemas/").skip(1).filter_map(|s| s.split('"').next()).collect();
    assert!(named.len() > 100, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !schemas.contains_key(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn the_description_that_is_served_is_the_one_that_is_checked_in() {
    let bench = Bench::new().await;
    let served = bench.send(Request::get("/openapi.json").body(Body::empty()).unwrap()).await;
    // `cargo xtask openapi` writes the same text to docs/openapi.json, and ci compares the file.
    let written: Value = serde_json::from_str(&openapi_json()).unwrap();
    assert_eq!((served.status, served.json()), (200, written));
    let health = bench.send(Request::get("/healthz").body(Body::empty()).unwrap()).await;
    assert_eq!((health.status, health.text.as_str()), (200, "ok\n"));
}
