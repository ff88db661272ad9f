//! What is told of an image's iSCSI sessions, from the login of a node's initiator on.

use std::{net::SocketAddr, time::Duration};

use haas_api::user::Role;
use iscsi_target::{Admission, Exports, Grant, LoginRequest, Refusal};
use serde_json::{Value, json};

use crate::{images::manifest::target_name, testing::Bench};

/// Nodes n01 and n02 boot image a for admin, n03 for carol.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.add_nodes(1..=3).await;
    bench.add_image("a").await;
    bench.give_disks().await;
    let carol = bench.add_user("carol", Role::Admin).await;
    for (token, nodes) in [(&bench.admin, "n[01-02]"), (&carol, "n03")] {
        let body = json!({ "nodeset": nodes, "image": "a", "overlay": "none" });
        let answer = bench.call(token, "POST", "/v1/switch", body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    bench
}

/// The initiator's name of a node's open boot.
async fn open(bench: &Bench, number: u8) -> String {
    let node = bench.node(number).await;
    let attempt =
        crate::reconcile::open_attempt(&bench.context, &node, None, crate::model::Cause::Desired);
    attempt.await.unwrap().initiator
}

fn log_in(bench: &Bench, node: u8, initiator: &str, target: &str) -> Result<Grant, Refusal> {
    let peer = SocketAddr::from(([127, 77, 0, node], 40_000));
    match bench.context.exports.admit(&LoginRequest { initiator, target, peer }) {
        Admission::Granted(grant) => Ok(grant),
        Admission::Refused(refusal) => Err(refusal),
    }
}

#[tokio::test]
async fn sessions_are_counted_for_their_node_and_image_and_users_are_classes() {
    let bench = bench().await;
    let initiators = [open(&bench, 1).await, open(&bench, 2).await, open(&bench, 3).await];
    let row = bench.context.store.read().await.unwrap().images().await.unwrap().remove(0);
    let target = target_name(&row.digest);
    let log_in = |node: u8, initiator: &str, target: &str| log_in(&bench, node, initiator, target);
    let [first, second, third] =
        [1, 2, 3].map(|n| log_in(n, &initiators[usize::from(n) - 1], &target).unwrap());
    assert_eq!(first.class, second.class, "one user's");
    assert_ne!(first.class, third.class);
    assert_eq!(
        log_in(1, "iqn.2026-11.org.haas:boot.n01.guessed", &target).err(),
        Some(Refusal::NotAuthorized)
    );
    assert_eq!(log_in(1, &initiators[0], "iqn.x:y").err(), Some(Refusal::NotFound));

    // Both were admitted before either read.
    let (observer, after) = (first.observer.unwrap(), second.observer.unwrap());
    observer.opened();
    observer.read(8, 4);
    observer.answered(2048, Duration::from_micros(100));
    observer.failed([7, 0x27, 0]);
    after.opened();
    after.read(16, 1);
    after.answered(512, Duration::from_micros(3));
    after.closed();

    let of_others = bench.call(&bench.alice, "GET", "/v1/images/a/sessions", Value::Null).await;
    assert_eq!(of_others.json()["nodes"], json!([]), "who boots what is for its tenant");
    assert_eq!(of_others.json()["users"], json!([]));
    let answer = bench.call(&bench.admin, "GET", "/v1/images/a/sessions", Value::Null).await;
    let told = answer.json();
    assert_eq!(told["cached_bytes"], 12_288, "{told}");
    let nodes: Vec<_> = told["nodes"].as_array().unwrap().iter().map(|n| &n["node"]).collect();
    assert_eq!(nodes, ["n01", "n02", "n03"]);
    let counts = &told["nodes"][0]["counts"];
    assert_eq!((&counts["sessions"], &counts["bytes"]), (&json!(1), &json!(2048)), "{told}");
    assert_eq!(counts["errors"], json!([{ "sense": "7/2700", "count": 1 }]));
    assert_eq!((&counts["p50_us"], &told["nodes"][2]["user"]), (&json!(128), &json!("carol")));
    let all = &told["all"];
    assert_eq!(
        (&all["sessions"], &all["logins"], &all["reads"]),
        (&json!(1), &json!(2), &json!(2))
    );

    let users: Vec<_> = told["users"].as_array().unwrap().iter().collect();
    assert_eq!((&users[0]["user"], &users[1]["user"]), (&json!("admin"), &json!("carol")));
    let of_users = [0, 1].map(|n: usize| &users[n]["counts"]["bytes"]);
    assert_eq!(of_users, [&json!(2560), &json!(0)]);

    let metrics = crate::metrics::text(&bench.context).await.unwrap();
    for (series, label, value) in [
        ("haas_iscsi_read_duration_seconds_count", "", "2"),
        ("haas_iscsi_read_duration_seconds_sum", "", "0.000103"),
        ("haas_iscsi_read_duration_seconds_bucket", "le=\"6.4e-05\"", "1"),
        ("haas_iscsi_read_duration_seconds_bucket", "le=\"0.000256\"", "2"),
        ("haas_iscsi_errors_total", "sense=\"7/2700\"", "1"),
        ("haas_iscsi_errors_total", "sense=\"3/1100\"", "0"),
        ("haas_iscsi_cached_bytes", "", "12288"),
    ] {
        let is_it = |line: &&str| line.starts_with(series) && line.contains(label);
        let line = metrics.lines().find(is_it).unwrap_or_else(|| panic!("no {series} {label}"));
        assert_eq!(line.rsplit(' ').next(), Some(value), "{line}");
    }

    // The first boot is recorded, and no other; also when it logs in once more.
    let again = log_in(1, &initiators[0], &target).unwrap().observer.unwrap();
    again.opened();
    again.read(32, 1);
    let reads = bench.call(&bench.alice, "GET", "/v1/images/a/reads", Value::Null).await.json();
    let recorded: Vec<_> = reads["items"].as_array().unwrap().iter().collect();
    let of_reads: Vec<_> =
        recorded.iter().map(|r| (&r["number"], &r["lba"], &r["blocks"])).collect();
    assert_eq!(of_reads, [(&json!(1), &json!(8), &json!(4)), (&json!(2), &json!(32), &json!(1))]);
    for path in ["/v1/images/none/sessions", "/v1/images/none/reads"] {
        let answer = bench.call(&bench.alice, "GET", path, Value::Null).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "no-image"));
    }
}

#[tokio::test]
async fn a_node_that_ran_before_haasd_did_is_no_boot_to_record() {
    let bench = bench().await;
    let initiators = [open(&bench, 1).await, open(&bench, 2).await];
    let row = bench.context.store.read().await.unwrap().images().await.unwrap().remove(0);
    let target = target_name(&row.digest);
    // As after a restart: the first table has what is there already.
    let config = &bench.context.config;
    let key = crate::tokens::MasterKey::open(&config.state_dir.join("master.key")).unwrap();
    let exports = crate::exports::Exports::new(bench.context.images.clone(), config, key);
    exports.reload(&bench.context.store).await.unwrap();
    let initiators = [&initiators[0], &initiators[1], &open(&bench, 3).await];
    exports.reload(&bench.context.store).await.unwrap();
    for (node, initiator) in (1_u8..).zip(initiators) {
        let peer = SocketAddr::from(([127, 77, 0, node], 40_000));
        let request = LoginRequest { initiator, target: &target, peer };
        let Admission::Granted(grant) = exports.admit(&request) else { panic!("n0{node}") };
        let observer = grant.observer.unwrap();
        observer.opened();
        observer.read(node.into(), 1);
    }
    let lbas: Vec<_> = exports.recorded(&row.digest).iter().map(|read| read.lba).collect();
    assert_eq!(lbas, [3]);
}
