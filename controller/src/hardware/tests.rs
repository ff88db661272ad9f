//! What is told of nodes' hardware, and what is believed.

use haas_api::{
    agent::BootStage,
    hardware::{Dimm, DiskDrive, Inventory, Level, Sensor, Smart},
};
use serde_json::{Value, json};

use super::*;
use crate::testing::Bench;

fn inventory() -> Inventory {
    let dimm = |slot: &str| Dimm {
        slot: slot.to_owned(),
        size: 32 << 30,
        serial: Some(format!("m{slot}")),
        ..Dimm::default()
    };
    Inventory {
        memory: 62 << 30,
        dimms: vec![dimm("A1"), dimm("A3")],
        disks: vec![DiskDrive {
            name: "nvme0n1".to_owned(),
            serial: Some("D1".to_owned()),
            size: 960_000_000_000,
            smart: Smart { level: Level::Ok, ..Smart::default() },
            ..DiskDrive::default()
        }],
        ..Inventory::default()
    }
}

async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.add_image("a").await;
    bench.add_nodes([1, 2]).await;
    bench
}

/// The data of all events of a kind.
async fn told(bench: &Bench, kind: &str) -> Vec<Value> {
    let mut tx = bench.context.store.read().await.unwrap();
    let events = tx.events_after(0, 1_000).await.unwrap().into_iter();
    events.filter(|row| row.event.kind == kind).map(|row| row.event.data).collect()
}

async fn listed(bench: &Bench, condition: &str) -> Vec<String> {
    let condition = condition.replace(' ', "%20").replace('>', "%3E").replace('=', "%3D");
    let path = format!("/v1/nodes?where={condition}");
    let answer = bench.call(&bench.alice, "GET", &path, Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let list = answer.json();
    let name = |node: &Value| node["name"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(name).collect()
}

async fn shown(bench: &Bench) -> Value {
    bench.call(&bench.admin, "GET", "/v1/nodes/n01", Value::Null).await.json()
}

#[tokio::test]
async fn what_an_agent_finds_is_kept_and_what_changed_since_is_an_event() {
    let bench = bench().await;
    let attempt = bench.begin_boot(1).await;
    found(&bench.context, &attempt.id, inventory()).await.unwrap();
    assert_eq!(told(&bench, "hardware-changed").await, [json!(null); 0], "all is new");
    let node = shown(&bench).await;
    assert_eq!(node["summary"]["memory"], json!(64_u64 << 30));
    assert_eq!(node["hardware"]["inventory"]["dimms"][1]["slot"], "A3");
    assert_eq!(node["health"]["level"], "ok");

    let mut later = inventory();
    later.dimms.pop();
    later.disks[0].smart =
        Smart { level: Level::Critical, reasons: vec!["worn".to_owned()], ..Smart::default() };
    found(&bench.context, &attempt.id, later).await.unwrap();
    let changes = told(&bench, "hardware-changed").await;
    let what: Vec<_> = changes.iter().map(|data| data["what"].as_str().unwrap()).collect();
    assert_eq!(
        what,
        [
            "DIMM A3 (32 GiB, serial mA3) is gone",
            "disk S/N D1 (nvme0n1, 960 GB): SMART says that it fails: worn"
        ]
    );
    assert!(changes[0]["since"].is_string());
    let levels = told(&bench, "health-changed").await;
    assert_eq!(levels.last().unwrap()["health"], "critical");
    let node = shown(&bench).await;
    assert_eq!(node["health"]["reasons"], json!(["disk nvme0n1 (D1): worn"]));
}

#[tokio::test]
async fn what_is_said_once_users_may_be_on_the_node_is_not_believed() {
    let bench = bench().await;
    let attempt = bench.begin_boot(1).await;
    found(&bench.context, &attempt.id, inventory()).await.unwrap();
    let before = shown(&bench).await;
    for stage in [BootStage::Overlay, BootStage::Userspace, BootStage::Ready] {
        bench.advance(&attempt, stage).await;
        found(&bench.context, &attempt.id, Inventory::default()).await.unwrap();
        assert_eq!(shown(&bench).await["hardware"], before["hardware"], "{stage}");
    }
    found(&bench.context, "no such attempt", Inventory::default()).await.unwrap();
    assert_eq!(told(&bench, "hardware-changed").await, [json!(null); 0]);
}

#[tokio::test]
async fn what_is_kept_of_a_node_has_bounds() {
    let bench = bench().await;
    let attempt = bench.begin_boot(1).await;
    let mut endless = inventory();
    endless.dimms = vec![endless.dimms[0].clone(); 2_000];
    endless.disks[0].model = Some("x\u{1b}[2J".repeat(10_000));
    found(&bench.context, &attempt.id, endless).await.unwrap();
    let mut tx = bench.context.store.read().await.unwrap();
    let (kept, _) = tx.hardware(&bench.node(1).await.id).await.unwrap().inventory.unwrap();
    assert_eq!(kept, kept.clone().bounded());
    assert!(kept.dimms.len() <= 256);
}

#[tokio::test]
async fn nodes_are_chosen_by_what_is_known_of_them() {
    let bench = bench().await;
    let attempt = bench.begin_boot(1).await;
    found(&bench.context, &attempt.id, inventory()).await.unwrap();
    assert_eq!(listed(&bench, "memory>=64G").await, ["n01"]);
    assert_eq!(listed(&bench, "memory>64G").await, [""; 0]);
    assert_eq!(listed(&bench, "disk.serial==D1 or name==n02").await, ["n01", "n02"]);
    assert_eq!(listed(&bench, "not disk.serial==D1").await, ["n02"]);
    assert_eq!(listed(&bench, "group==rack1 and health==unknown").await, ["n02"]);
    // Nobody finds out by asking what he is not shown.
    assert_eq!(listed(&bench, "image==a:latest").await, [""; 0]);
    let wrong = "/v1/nodes?where=memroy%3E1";
    let answer = bench.call(&bench.alice, "GET", wrong, Value::Null).await;
    assert_eq!(answer.code(), "bad-where");
    let paged = "/v1/nodes?where=group%3D%3Drack1&limit=1";
    let page = bench.call(&bench.admin, "GET", paged, Value::Null).await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert!(page["next_page_token"].is_string());
}

#[tokio::test]
async fn what_a_bmc_says_is_kept_and_its_silence_is_told() {
    let bench = bench().await;
    let node = bench.node(1).await;
    let hot = Sensor {
        name: "CPU".to_owned(),
        value: Some(99.0),
        unit: "°C".to_owned(),
        level: Level::Critical,
        ..Sensor::default()
    };
    let report = BmcReport { sensors: vec![hot], watts: Some(312), ..Default::default() };
    asked(&bench.context, &node, Ok(report)).await.unwrap();
    assert_eq!(shown(&bench).await["observed"]["watts"], 312);
    assert_eq!(listed(&bench, "watts>300").await, ["n01"]);
    assert_eq!(listed(&bench, "watts>312").await, Vec::<String>::new());
    let path = "/v1/nodes/n01/sensors";
    let sensors = bench.call(&bench.alice, "GET", path, Value::Null).await.json();
    assert_eq!(sensors["items"][0]["value"], 99.0);
    assert_eq!(shown(&bench).await["health"]["level"], "critical");

    asked(&bench.context, &node, Err("BMC 10.0.0.9:623: no answer".to_owned())).await.unwrap();
    assert_eq!(shown(&bench).await["observed"]["watts"], Value::Null, "it may draw anything now");
    let sensors = bench.call(&bench.alice, "GET", path, Value::Null).await.json();
    assert_eq!(sensors["error"], "BMC 10.0.0.9:623: no answer");
    assert_eq!(sensors["items"][0]["value"], 99.0, "what it said before is still there");
    let changed = told(&bench, "health-changed").await.len();
    assert_eq!(changed, 1, "it was critical before and is so still");
}

#[tokio::test]
async fn a_log_is_cleared_for_admins_where_there_is_one() {
    let bench = bench().await;
    let path = "/v1/nodes/n01/sel";
    // The bench's nodes are switched by a program.
    assert_eq!(bench.call(&bench.admin, "DELETE", path, Value::Null).await.code(), "no-bmc");
    assert_eq!(bench.call(&bench.alice, "DELETE", path, Value::Null).await.code(), "denied");
    bench.add_node_with_bmc(3, ([127, 0, 0, 1], 9).into()).await;
    let path = "/v1/nodes/n03/sel";
    let answer = bench.call(&bench.admin, "DELETE", path, Value::Null).await;
    assert_eq!((answer.status, answer.json()["clearing"].clone()), (202, json!("admin")));
    cleared(&bench.context, &bench.node(3).await, "admin").await.unwrap();
    let sel = bench.call(&bench.alice, "GET", path, Value::Null).await.json();
    assert_eq!(sel["clearing"], Value::Null);
    assert_eq!(told(&bench, "sel-cleared").await.len(), 1);
}

#[tokio::test]
async fn bmcs_are_asked_by_turns_and_a_log_is_cleared_at_once() {
    let farm = sim::bmc::Farm::start(1, &sim::bmc::Setup::new("admin", "s3cret")).unwrap();
    farm.bmc(0).log("DIMM A3", 1);
    let bench = Bench::new().await;
    bench.add_node_with_bmc(1, farm.addresses()[0]).await;
    let stop = tokio_util::sync::CancellationToken::new();
    // The bench's interval is five minutes, its nodes are asked in the first of them.
    let path = "/v1/nodes/n01/sel";
    assert_eq!(bench.call(&bench.admin, "DELETE", path, Value::Null).await.status, 202);
    let asking = tokio::spawn(run(bench.context.clone(), stop.clone()));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while bench.call(&bench.admin, "GET", path, Value::Null).await.json()["at"].is_null() {
        assert!(std::time::Instant::now() < until, "nobody asks");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(farm.bmc(0).log_entries(), 0);
    let node = shown(&bench).await;
    assert_eq!(node["health"]["level"], "ok", "{node}");
    assert_eq!(node["hardware"]["bmc"]["protocol"], "IPMI 2.0");
    assert_eq!(told(&bench, "sel-cleared").await.len(), 1);
    stop.cancel();
    asking.await.unwrap();
}
