//! What an admin decides about disks: never two nodes with one store, and never one that is lost
//! without a word.

use haas_api::agent::{Disk, DiskState, Failure, OverlayPlan, ShardReport, StoreReport};
use serde_json::{Value, json};

use crate::{
    boots,
    model::{Attempt, AttemptState, Cause, Node, Power},
    reconcile,
    testing::Bench,
};

/// Two nodes that boot with alice's overlay, of ranks 0 and 1.
async fn two_nodes() -> Bench {
    let bench = Bench::with(|config| config.baseline.check = false).await;
    bench.add_nodes([1, 2]).await;
    bench.add_image("a").await;
    bench.add_overlay("alice", "lab").await;
    let body = json!({ "nodeset": "n[01-02]", "image": "a", "overlay": "alice/lab" });
    assert_eq!(bench.post("/v1/switch", body).await.status, 202);
    for number in [1, 2] {
        boot(&bench, number).await;
    }
    bench
}

/// Opens a boot attempt of a node that is off.
async fn boot(bench: &Bench, number: u8) {
    let mut tx = bench.context.store.write().await.unwrap();
    let node = tx.node(&format!("n{number:02}")).await.unwrap().unwrap();
    tx.end_attempts(&node.id, 1).await.unwrap();
    tx.set_power(&node.id, Ok(Power::On), 1).await.unwrap();
    let last = tx.last_attempt(&node.id).await.unwrap();
    tx.commit().await.unwrap();
    let opened =
        reconcile::open_attempt(&bench.context, &node, last.as_ref(), Cause::Desired).await;
    opened.unwrap();
}

async fn attempt(bench: &Bench, number: u8) -> Attempt {
    let node = bench.node(number).await;
    let mut tx = bench.context.store.read().await.unwrap();
    tx.last_attempt(&node.id).await.unwrap().expect("it was opened")
}

async fn sees(bench: &Bench, number: u8, state: DiskState) {
    let node = bench.node(number).await;
    let disk = Disk {
        name: "sda".into(),
        serial: Some(format!("SERIAL{number}")),
        model: None,
        size: 1 << 30,
        state,
    };
    let mut tx = bench.context.store.write().await.unwrap();
    tx.set_disks(&node.id, &[disk], 1).await.unwrap();
    tx.commit().await.unwrap();
}

/// The node's agent opens a store with a part of the overlay.
async fn opens(bench: &Bench, number: u8, store_id: &str, generation: i64) {
    sees(bench, number, DiskState::Ours { store_id: store_id.into() }).await;
    let overlay = overlay(bench).await;
    let report = StoreReport {
        store_id: store_id.into(),
        generation,
        disk_serial: Some(format!("SERIAL{number}")),
        size: 1,
        free: 1,
        created: false,
        repaired: None,
        shards: vec![ShardReport { overlay_id: overlay, rank: 0, bytes: 1 }],
    };
    let attempt = attempt(bench, number).await;
    boots::store_opened(&bench.context, &attempt.id, &report).await.unwrap();
}

async fn overlay(bench: &Bench) -> String {
    let mut tx = bench.context.store.read().await.unwrap();
    tx.overlays().await.unwrap().remove(0).id
}

async fn is_held(bench: &Bench, number: u8, code: &str) {
    let failure = Failure {
        stage: haas_api::agent::BootStage::Overlay,
        code: code.into(),
        cause: "told by its agent".into(),
        kernel_log: Vec::new(),
        retryable: false,
    };
    boots::held(&bench.context, &attempt(bench, number).await.id, &failure).await.unwrap();
}

async fn off(bench: &Bench, number: u8) {
    let node = bench.node(number).await;
    let mut tx = bench.context.store.write().await.unwrap();
    tx.set_power(&node.id, Ok(Power::Off), 2).await.unwrap();
    tx.end_attempts(&node.id, 2).await.unwrap();
    tx.commit().await.unwrap();
}

async fn plan(bench: &Bench, number: u8) -> Value {
    let plan = boots::plan(&bench.context, &attempt(bench, number).await).await.unwrap();
    let plan = plan.expect("something is wanted");
    assert!(matches!(plan.overlay, OverlayPlan::Disk { .. }));
    let mut overlay = serde_json::to_value(plan.overlay).unwrap();
    overlay["elsewhere"] = serde_json::to_value(plan.elsewhere).unwrap();
    overlay
}

/// The ranks of the overlay, by node.
async fn ranks(bench: &Bench) -> Vec<(String, i64, Option<String>)> {
    let overlay = overlay(bench).await;
    let mut tx = bench.context.store.read().await.unwrap();
    let mut ranks = Vec::new();
    for shard in tx.shards(&overlay).await.unwrap() {
        let node: Node = tx.node_by_id(&shard.node_id).await.unwrap().unwrap();
        ranks.push((node.name.to_string(), shard.rank, shard.store_id));
    }
    ranks.sort();
    ranks
}

fn foreign(store_id: Option<&str>) -> DiskState {
    DiskState::Foreign { owner: "another".into(), store_id: store_id.map(str::to_owned) }
}

fn rank(node: &str, rank: i64, store: Option<&str>) -> (String, i64, Option<String>) {
    (node.to_owned(), rank, store.map(str::to_owned))
}

const ACCEPT_1: &str = "/v1/nodes/n01/disks/accept";
const ACCEPT_2: &str = "/v1/nodes/n02/disks/accept";

#[tokio::test]
async fn swapped_stores_change_nodes_with_their_ranks_and_each_is_accepted_for_itself() {
    let bench = two_nodes().await;
    opens(&bench, 1, "s1", 4).await;
    opens(&bench, 2, "s2", 7).await;
    off(&bench, 1).await;
    off(&bench, 2).await;
    assert_eq!(ranks(&bench).await, [rank("n01", 0, Some("s1")), rank("n02", 1, Some("s2"))]);

    for (number, store) in [(1, "s2"), (2, "s1")] {
        boot(&bench, number).await;
        sees(&bench, number, foreign(Some(store))).await;
        is_held(&bench, number, "disk-foreign").await;
    }
    let answer = bench.post(ACCEPT_1, json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let first = plan(&bench, 1).await;
    assert_eq!((&first["store_id"], &first["store_generation"]), (&json!("s2"), &json!(7)));
    assert_eq!((&first["accepted"], &first["rank"]), (&json!(true), &json!(1)));
    assert_eq!(first["elsewhere"], json!([{ "store_id": "s1", "node": "n02" }]));
    assert_eq!(ranks(&bench).await, [rank("n01", 1, Some("s2")), rank("n02", 0, Some("s1"))]);
    assert_eq!(attempt(&bench, 1).await.failure, None, "it goes on");
    let second = plan(&bench, 2).await;
    assert_eq!(second["accepted"], json!(false), "nobody has said so of this node");
    assert!(attempt(&bench, 2).await.failure.is_some());

    assert_eq!(bench.post(ACCEPT_2, json!({ "serial": "SERIAL2" })).await.status, 200);
    let second = plan(&bench, 2).await;
    assert_eq!((&second["store_id"], &second["store_generation"]), (&json!("s1"), &json!(4)));
    assert_eq!((&second["accepted"], &second["rank"]), (&json!(true), &json!(0)));

    opens(&bench, 1, "s2", 8).await;
    assert!(!bench.node(1).await.store_accepted, "it was for this once");
    assert_eq!(bench.post(ACCEPT_1, json!({})).await.code(), "nothing-to-accept");
}

#[tokio::test]
async fn a_store_that_may_be_open_elsewhere_is_not_accepted() {
    let bench = two_nodes().await;
    opens(&bench, 1, "s1", 4).await;
    sees(&bench, 2, foreign(Some("s1"))).await;
    is_held(&bench, 2, "disk-foreign").await;
    let answer = bench.post(ACCEPT_2, json!({})).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "store-in-use"));
    assert!(answer.text.contains("power off n01"), "{answer:?}");
    assert_eq!(bench.node(1).await.store_id.as_deref(), Some("s1"));

    off(&bench, 1).await;
    assert_eq!(bench.post(ACCEPT_2, json!({})).await.status, 200);
    assert_eq!(bench.node(1).await.store_id, None, "it has lost it");
    boot(&bench, 1).await;
    let first = plan(&bench, 1).await;
    assert_eq!(first["elsewhere"], json!([{ "store_id": "s1", "node": "n02" }]));
    assert_eq!(ranks(&bench).await, [rank("n01", 1, None), rank("n02", 0, Some("s1"))]);
}

#[tokio::test]
async fn what_a_second_node_opens_all_the_same_fails_its_boot() {
    let bench = two_nodes().await;
    opens(&bench, 1, "s1", 4).await;
    opens(&bench, 2, "s1", 5).await;
    let second = attempt(&bench, 2).await;
    assert_eq!(second.state, AttemptState::Failed);
    assert_eq!(second.failure.expect("a reason").code, "store-copied");
    assert_eq!(bench.node(2).await.store_id, None);
    assert_eq!(bench.node(1).await.store_generation, 4);
}

#[tokio::test]
async fn a_spare_node_that_takes_a_store_takes_the_rank_and_the_other_begins_anew() {
    let bench = two_nodes().await;
    bench.add_nodes([3]).await;
    opens(&bench, 1, "s1", 4).await;
    off(&bench, 1).await;
    sees(&bench, 3, foreign(Some("s1"))).await;
    assert_eq!(bench.post("/v1/nodes/n03/disks/accept", json!({})).await.status, 200);
    assert_eq!(
        ranks(&bench).await,
        [rank("n01", 2, None), rank("n02", 1, None), rank("n03", 0, Some("s1"))]
    );
}

#[tokio::test]
async fn only_stores_of_this_cluster_and_old_copies_that_hold_a_node_can_be_accepted() {
    let bench = two_nodes().await;
    for state in [DiskState::Blank, foreign(None), DiskState::Other { looks_like: "xfs".into() }] {
        sees(&bench, 1, state).await;
        assert_eq!(bench.post(ACCEPT_1, json!({})).await.code(), "nothing-to-accept");
    }
    let absent = bench.post(ACCEPT_1, json!({ "serial": "ABSENT" })).await;
    assert_eq!((absent.status, absent.code().as_str()), (404, "no-disk"));
    let denied = bench.call(&bench.alice, "POST", ACCEPT_1, json!({})).await;
    assert_eq!(denied.status, 403);

    opens(&bench, 1, "s1", 9).await;
    assert_eq!(bench.post(ACCEPT_1, json!({})).await.code(), "nothing-to-accept");
    is_held(&bench, 1, "store-old").await;
    assert_eq!(bench.post(ACCEPT_1, json!({})).await.status, 200);
    let plan = plan(&bench, 1).await;
    assert_eq!((&plan["store_generation"], &plan["accepted"]), (&json!(0), &json!(true)));
    assert_eq!(ranks(&bench).await[0], rank("n01", 0, Some("s1")), "what it held is still its own");

    // One that the node had before: what the present one holds is given up with it.
    sees(&bench, 1, DiskState::Ours { store_id: "s0".into() }).await;
    assert_eq!(bench.post(ACCEPT_1, json!({})).await.status, 200);
    assert_eq!(bench.node(1).await.store_id.as_deref(), Some("s0"));
    assert_eq!(ranks(&bench).await[0], rank("n01", 0, None));
}

#[tokio::test]
async fn a_repair_is_allowed_once_and_only_where_it_is_asked_for() {
    const REPAIR: &str = "/v1/nodes/n01/disks/repair";
    let bench = two_nodes().await;
    sees(&bench, 1, DiskState::Ours { store_id: "s1".into() }).await;
    let meant = json!({ "may_lose_files": true });
    assert_eq!(bench.post(REPAIR, meant.clone()).await.code(), "nothing-to-repair");
    is_held(&bench, 1, "store-damaged").await;
    let unmeant = bench.post(REPAIR, json!({ "may_lose_files": false })).await;
    assert_eq!((unmeant.status, unmeant.code().as_str()), (422, "not-meant"));
    assert_eq!(bench.post(REPAIR, meant).await.status, 200);
    assert_eq!(plan(&bench, 1).await["repair"], json!(true));
    opens(&bench, 1, "s1", 5).await;
    assert_eq!(plan(&bench, 1).await["repair"], json!(false));
}
