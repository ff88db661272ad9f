//! What callers send in the hope that it is taken for something else: SQL, headers, other people's names.

use axum::{
    body::Body,
    http::{Request, header},
};
use serde_json::{Value, json};

use super::every_route;
use crate::testing::Bench;

/// Each is one path segment, written as a URL has it.
const CROOKED: [&str; 6] = [
    "n01';DROP%20TABLE%20nodes;--",
    "n01%22%20OR%20%221%22=%221",
    "n01%00",
    "n01%0d%0aX-Remote-User:%20admin",
    "..%2f..%2fmaster.key",
    "%27%20UNION%20SELECT%20token_hash%20FROM%20tokens--",
];

#[tokio::test]
async fn sql_and_headers_in_names_are_names_that_nobody_has() {
    let bench = Bench::new().await;
    let nodes = bench.call(&bench.admin, "GET", "/v1/nodes", Value::Null).await.json();
    let mut asked = 0;
    for (method, path) in every_route().into_iter().filter(|(_, path)| path.contains("/n01")) {
        for crooked in CROOKED {
            let path = path.replace("/n01", &format!("/{crooked}"));
            for token in [&bench.admin, &bench.alice] {
                let answer = bench.call(token, &method, &path, json!({})).await;
                assert!((400..500).contains(&answer.status), "{method} {path}: {answer:?}");
                assert_ne!(answer.status, 429, "{method} {path}");
                asked += 1;
            }
        }
    }
    assert!(asked > 100, "only {asked} requests were made");
    for query in ["q=%27%20OR%201=1--", "where=name%20==%20%27%27%20OR%201=1", "nodeset=n01%27--"] {
        for path in ["/v1/nodes", "/v1/events", "/v1/audit", "/v1/images", "/v1/overlays"] {
            let answer =
                bench.call(&bench.admin, "GET", &format!("{path}?{query}"), Value::Null).await;
            assert!(answer.status < 500, "{path}?{query}: {answer:?}");
        }
    }
    let after = bench.call(&bench.admin, "GET", "/v1/nodes", Value::Null).await.json();
    assert_eq!(nodes, after, "the nodes are as they were");
}

#[tokio::test]
async fn sql_in_a_login_is_a_wrong_login() {
    let bench = Bench::new().await;
    for (name, word) in
        [("admin", "' OR '1'='1"), ("admin' --", "x"), ("a\r\nb", "x"), ("\u{0}", "x")]
    {
        let login = json!({ "name": name, "password": word });
        let answer = bench.call("", "POST", "/v1/login", login).await;
        assert!([400, 401, 422].contains(&answer.status), "{name:?}: {answer:?}");
        assert!(answer.json()["token"].is_null(), "{answer:?}");
    }
}

#[tokio::test]
async fn who_names_himself_or_his_address_in_a_header_is_still_nobody() {
    let bench = Bench::new().await;
    for (name, value) in [
        ("x-remote-user", "admin"),
        ("x-forwarded-user", "admin"),
        ("remote-user", "admin"),
        ("x-forwarded-for", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1;by=admin"),
        ("x-real-ip", "127.0.0.1"),
        ("x-original-url", "/healthz"),
        ("x-http-method-override", "OPTIONS"),
        ("cookie", "token=admin; session=admin"),
        ("authorization", "Negotiate YWRtaW4="),
    ] {
        let request = Request::builder().uri("/v1/users").header(name, value);
        let answer = bench.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
        // Nor does it raise who has a token.
        let request = Request::builder().uri("/v1/audit").header(name, value);
        let bearer = format!("Bearer {}", bench.alice);
        let request = match name {
            "authorization" => continue,
            _ => request.header(header::AUTHORIZATION, bearer),
        };
        let answer = bench.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 403, "{name}: {answer:?}");
    }
}
