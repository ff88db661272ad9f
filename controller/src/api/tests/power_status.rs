//! Asking BMCs now: each is asked anew, one that does not answer has that for an error, and only who may
//! switch a node has it asked.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    inventory::PowerSpec,
    model::{Node, Power},
    testing::{Bench, spec},
};

const SET: &str = "n[01-03]";

async fn asked(bench: &Bench) -> Value {
    let begun = bench.post("/v1/power/status", json!({ "nodeset": SET })).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let path = format!("/v1/power/status/{}", begun.json()["id"].as_str().unwrap());
    let started = Instant::now();
    loop {
        let answer = bench.call(&bench.admin, "GET", &path, Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if answer.json()["nodes"].is_array() {
            assert_eq!(bench.call(&bench.alice, "GET", &path, Value::Null).await.status, 403);
            return answer.json()["nodes"].clone();
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn bmcs_are_asked_now_and_what_they_say_is_noted() {
    let bench = Bench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("power");
    std::fs::write(&state, "on").unwrap();
    let says = ["/bin/sh", "-c", "cat \"$0\"", state.to_str().unwrap()].map(str::to_owned);
    let mut specs = [spec(1), spec(2), spec(3)];
    specs[0].power = PowerSpec::Exec { command: says.to_vec() };
    specs[2].power = PowerSpec::Manual;
    for spec in &specs {
        bench.add(spec).await;
    }
    let seen = |nodes: &Value, number: usize| {
        let seen = &nodes[number]["observed"];
        (seen["power"].as_str().unwrap().to_owned(), seen["power_error"].is_null())
    };
    let nodes = asked(&bench).await;
    assert_eq!(seen(&nodes, 0), ("on".to_owned(), true));
    assert!(!seen(&nodes, 1).1, "its program fails");
    assert_eq!(seen(&nodes, 2), ("unknown".to_owned(), true), "nobody can be asked");

    std::fs::write(&state, "off").unwrap();
    assert_eq!(seen(&asked(&bench).await, 0), ("off".to_owned(), true));
    let first: Node = bench.node(1).await;
    assert_eq!(first.power, Power::Off, "it is in the store");
    let gone = bench.call(&bench.admin, "GET", "/v1/power/status/other", Value::Null).await;
    assert_eq!(gone.code(), "no-question");
    let refused = bench.call(&bench.alice, "POST", "/v1/power/status", json!({ "nodeset": SET }));
    assert_eq!(refused.await.status, 403);
}
