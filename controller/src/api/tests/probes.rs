//! Looks at BMCs: who may have them, and that what was typed for them goes no further.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sim::redfish::{Plain, Server, Setup, Tls, Vendor};

use crate::testing::Bench;

const PASSWORD: &str = "typed-by-an-admin";

#[tokio::test]
async fn a_look_is_begun_asked_for_and_keeps_no_password() {
    let tls = Tls::self_signed().unwrap();
    let setup = Setup::new(Vendor::Ilo, "haas", PASSWORD);
    let server = Server::start(setup, &tls, Plain::default()).unwrap();
    let bench = Bench::new().await;
    let body = json!({
        "of": "address",
        "address": server.address().ip(),
        "redfish_port": server.address().port(),
        // Nobody is there.
        "ipmi_port": 9,
        "account": { "user": "haas", "password": PASSWORD },
        "fingerprint": tls.fingerprint().to_uppercase(),
    });
    let answer = bench.call(&bench.alice, "POST", "/v1/probes", body.clone()).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let answer = bench.post("/v1/probes", body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let path = format!("/v1/probes/{}", answer.json()["id"].as_str().unwrap());
    assert_eq!(bench.call(&bench.alice, "GET", &path, Value::Null).await.status, 403);
    let started = Instant::now();
    let found = loop {
        let answer = bench.call(&bench.admin, "GET", &path, Value::Null).await;
        if answer.json()["report"].is_object() {
            break answer;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let report = &found.json()["report"];
    assert_eq!(report["redfish"]["role"], "Administrator", "{report}");
    assert_eq!(report["redfish"]["hardware"]["serial"], "CZJ0000001");
    assert_eq!(report["ipmi"]["answers"], false);
    assert!(report["stanza"].as_str().unwrap().contains("driver = \"redfish\""), "{report}");
    let audit = bench.call(&bench.admin, "GET", "/v1/audit", Value::Null).await;
    assert!(audit.text.contains("probe of 127.0.0.1"), "{audit:?}");
    assert!(!audit.text.contains(PASSWORD) && !found.text.contains(PASSWORD));
    let gone = bench.call(&bench.admin, "GET", "/v1/probes/other", Value::Null).await;
    assert_eq!(gone.code(), "no-probe");
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_told() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    for (body, code) in [
        (json!({ "of": "node", "node": "n01" }), "no-bmc"),
        (json!({ "of": "node", "node": "n09" }), "no-node"),
        (
            json!({ "of": "address", "address": "127.0.0.1", "fingerprint": "ab" }),
            "bad-fingerprint",
        ),
    ] {
        let answer = bench.post("/v1/probes", body.clone()).await;
        assert_eq!(answer.code(), code, "{body}: {answer:?}");
    }
}
