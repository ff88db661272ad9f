//! Who may reserve what, sees what, and runs what.

use super::*;

async fn list(rig: &Rig, token: &str) -> usize {
    let list = ok(rig.bench.call(token, "GET", "/v1/reservations", Value::Null).await);
    list["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn others_see_nothing_of_a_reservation_and_members_look() {
    let rig = Rig::new(2).await;
    ok(rig.bench.post("/v1/projects", json!({ "name": "vision", "owner": "alice" })).await);
    let id = rig.reserve(wish(1, HOUR)).await;
    assert_eq!((list(&rig, &rig.bench.alice).await, list(&rig, &rig.bob).await), (1, 0));
    assert_eq!(rig.shown(id).await["project"], "vision");
    let path = format!("/v1/reservations/{id}");
    let look = async || rig.bench.call(&rig.bob, "GET", &path, Value::Null).await.status;
    let release = async || rig.post(&rig.bob, &format!("{path}/release"), Value::Null).await.status;
    assert_eq!((look().await, release().await), (404, 404));
    let member = async |role: &str| {
        let body = json!({ "set": [{ "member": "bob", "role": role }] });
        ok(rig.bench.call(&rig.bench.alice, "PATCH", "/v1/projects/vision/members", body).await);
    };
    member("user").await;
    assert_eq!((look().await, release().await), (200, 403));
    member("manager").await;
    assert_eq!(release().await, 200);
    let events = async |token: &str| {
        let path = "/v1/events?from=0&follow=false";
        rig.bench.call(token, "GET", path, Value::Null).await.status
    };
    assert_eq!(events(&rig.bob).await, 200);
    let mut tx = rig.bench.context.store.read().await.unwrap();
    let vision = tx.project("vision").await.unwrap().unwrap().id;
    let all = tx.events_after(0, 100).await.unwrap();
    let ours = all.iter().filter(|row| row.event.kind.starts_with("reservation-"));
    assert!(ours.clone().count() > 1);
    assert!(ours.into_iter().all(|row| row.tenant.as_deref() == Some(&vision)));
}

#[tokio::test]
async fn a_queue_is_for_whom_it_was_granted_to_and_gives_its_own_nodes() {
    let rig = Rig::new(2).await;
    let mut other = crate::testing::spec(9);
    other.groups = ["rack2".parse().unwrap()].into();
    rig.bench.add(&other).await;
    let queue = json!({ "name": "gpu", "node_groups": ["rack2"] });
    let by_alice = rig.post(&rig.bench.alice, "/v1/queues", queue.clone()).await;
    assert_eq!(by_alice.code(), "denied");
    ok(rig.bench.post("/v1/queues", queue).await);
    let ask = with(wish(1, HOUR), "queue", json!("gpu"));
    assert_eq!(rig.ask(&rig.bench.alice, ask.clone()).await.code(), "denied");
    let grant = json!({ "subject": "alice", "object": "queue:gpu", "role": "use" });
    let by_herself = rig.post(&rig.bench.alice, "/v1/grants", grant.clone()).await;
    assert_eq!(by_herself.code(), "denied");
    ok(rig.bench.post("/v1/grants", grant).await);
    assert_eq!(rig.ask(&rig.bench.alice, wish(1, HOUR)).await.code(), "which-queue");
    let id = id(&rig.ask(&rig.bench.alice, ask).await);
    let node = rig.bench.node(9).await;
    let mut tx = rig.bench.context.store.write().await.unwrap();
    tx.set_power(&node.id, Ok(Power::Off), rig.begun).await.unwrap();
    tx.commit().await.unwrap();
    rig.pass(SECOND).await;
    assert_eq!(rig.nodes(id).await, ["n09"]);
    let tree = ok(rig.bench.call(&rig.bob, "GET", "/v1/queues", Value::Null).await);
    let told: Vec<_> = tree["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| {
            let number = |key: &str| queue[key].as_u64().unwrap();
            (
                text(&queue["spec"]["name"]),
                queue["may_use"] == true,
                number("nodes"),
                number("held"),
            )
        })
        .collect();
    assert_eq!(told, [("default".into(), true, 3, 0), ("gpu".into(), false, 1, 1)]);
    let gone = rig.bench.call(&rig.bench.admin, "DELETE", "/v1/queues/gpu", Value::Null).await;
    assert_eq!(gone.code(), "queue-in-use");
}

#[tokio::test]
async fn who_lost_a_right_meanwhile_gets_no_nodes() {
    let rig = Rig::new(1).await;
    ok(rig.bench.post("/v1/queues", json!({ "name": "lab" })).await);
    let grant = json!({ "subject": "alice", "object": "queue:lab", "role": "use" });
    let grant = ok(rig.bench.post("/v1/grants", grant).await);
    let id = rig.reserve(with(wish_at(&rig, 1, HOUR, 2 * HOUR), "queue", json!("lab"))).await;
    let path = format!("/v1/grants/{}", text(&grant["id"]));
    ok(rig.bench.call(&rig.bench.admin, "DELETE", &path, Value::Null).await);
    rig.pass(2 * HOUR).await;
    assert_eq!(rig.state(id).await, is("failed", "not-allowed"));
    assert_eq!(rig.bench.node(1).await.generation, 0);
}

#[tokio::test]
async fn a_project_has_no_more_nodes_than_it_may() {
    let rig = Rig::new(3).await;
    ok(rig.bench.post("/v1/projects", json!({ "name": "vision", "owner": "alice" })).await);
    let limits = json!({ "limits": { "nodes": 2 } });
    ok(rig.bench.call(&rig.bench.admin, "PATCH", "/v1/projects/vision", limits).await);
    assert_eq!(rig.ask(&rig.bench.alice, wish(3, HOUR)).await.code(), "quota");
    let (first, second) = (rig.reserve(wish(2, HOUR)).await, rig.reserve(wish(1, HOUR)).await);
    rig.pass(SECOND).await;
    assert_eq!(rig.state(first).await.0, "starting");
    assert_eq!(rig.state(second).await, is("pending", "project-limit"));
    let bobs = id(&rig.ask(&rig.bob, wish(1, HOUR)).await);
    rig.pass(2 * SECOND).await;
    assert_eq!(rig.state(bobs).await.0, "starting", "others do not wait for it");
    rig.pass(2 * HOUR).await;
    assert_eq!(rig.state(second).await.0, "starting");
}

#[tokio::test]
async fn what_a_project_was_promised_counts_for_its_limit() {
    let rig = Rig::new(4).await;
    ok(rig.bench.post("/v1/projects", json!({ "name": "vision", "owner": "alice" })).await);
    let limits = json!({ "limits": { "nodes": 2 } });
    ok(rig.bench.call(&rig.bench.admin, "PATCH", "/v1/projects/vision", limits).await);
    let promised = with(wish_at(&rig, 2, HOUR, 3 * HOUR), "nodeset", json!("n[03-04]"));
    rig.reserve(promised).await;
    assert_eq!(rig.ask(&rig.bench.alice, wish_at(&rig, 1, HOUR, 3 * HOUR)).await.code(), "quota");
    let (long, short) = (rig.reserve(wish(1, 4 * HOUR)).await, rig.reserve(wish(1, HOUR)).await);
    rig.pass(SECOND).await;
    assert_eq!(rig.state(long).await, is("pending", "project-limit"));
    assert_eq!(rig.state(short).await.0, "starting");
    let path = format!("/v1/reservations/{short}/extend");
    let (_, code, detail) =
        refused(&rig.post(&rig.bench.alice, &path, json!({ "by_s": 3 * 3_600 })).await);
    assert_eq!(code, "cannot-extend");
    assert!(detail.starts_with("its project may have 2 nodes at once"), "{detail}");
    ok(rig.post(&rig.bench.alice, &path, json!({ "by_s": 3_600 })).await);
}

#[tokio::test]
async fn what_was_written_over_one_image_is_not_laid_over_another_unasked() {
    let rig = Rig::new(1).await;
    rig.bench.add_overlay("alice", "dev").await;
    let first = with(wish(1, HOUR), "overlay", json!("dev"));
    let id = rig.reserve(first.clone()).await;
    let image = text(&rig.shown(id).await["image_digest"]);
    rig.pass(SECOND).await;
    // The tag moves on.
    let newer = rig.bench.add_image("b").await;
    let mut tx = rig.bench.context.store.write().await.unwrap();
    tx.set_tag(&"a".parse().unwrap(), &"latest".parse().unwrap(), &newer).await.unwrap();
    tx.commit().await.unwrap();
    let again = rig.reserve(first.clone()).await;
    assert_eq!(text(&rig.shown(again).await["image_digest"]), image);
    let follows = rig.reserve(with(first, "follow_tag", json!(true))).await;
    assert_eq!(text(&rig.shown(follows).await["image_digest"]), newer.to_string());
    // An image and an overlay that are to be had stay.
    let gone =
        rig.bench.call(&rig.bench.alice, "DELETE", "/v1/overlays/alice/dev", Value::Null).await;
    assert_eq!(gone.code(), "overlay-in-use");
}

#[tokio::test]
async fn an_overlays_ranks_go_home_and_it_serves_one_reservation_at_a_time() {
    let rig = Rig::new(3).await;
    let overlay = rig.bench.add_overlay("alice", "dev").await;
    let (third, second) = (rig.bench.node(3).await, rig.bench.node(2).await);
    let mut tx = rig.bench.context.store.write().await.unwrap();
    for (node, rank) in [(&third, 0), (&second, 1)] {
        tx.add_shard(&overlay, &node.id, rank).await.unwrap();
        tx.shard_mounted(&overlay, &node.id, "store", 1, Some("a"), 1).await.unwrap();
    }
    tx.commit().await.unwrap();
    let ask = |nodes| with(wish(nodes, HOUR), "overlay", json!("dev"));
    let grows = rig.ask(&rig.bench.alice, ask(3)).await;
    assert_eq!(grows.code(), "bad-reservation");
    assert!(refused(&grows).2.contains("--grow empty"), "{grows:?}");
    let then = rig.reserve(with(wish_at(&rig, 2, HOUR, 9 * HOUR), "overlay", json!("dev"))).await;
    assert_eq!(rig.nodes(then).await, ["n03", "n02"], "also for an hour that comes");
    let dry = ok(rig.ask(&rig.bench.alice, with(ask(2), "dry_run", json!(true))).await);
    assert_eq!(dry["nodes"], json!(["n03", "n02"]));
    let id = rig.reserve(ask(2)).await;
    let next = rig.reserve(with(ask(3), "grow", json!("empty"))).await;
    rig.pass(SECOND).await;
    assert_eq!(rig.nodes(id).await, ["n03", "n02"]);
    assert_eq!((rig.wanted(3).await.wanted.rank, rig.wanted(2).await.wanted.rank), (0, 1));
    assert_eq!(rig.state(next).await, is("planned", "overlay-home"));
    ok(rig.post(&rig.bench.alice, &format!("/v1/reservations/{id}/release"), Value::Null).await);
    rig.pass(MINUTE).await;
    assert_eq!(rig.nodes(next).await, ["n03", "n02", "n01"]);
    assert_eq!(rig.wanted(1).await.wanted.rank, 2);
}

/// Notes that a node holds data of an overlay.
async fn hold(rig: &Rig, number: u8, overlay: &str) {
    let node = rig.bench.node(number).await;
    let mut tx = rig.bench.context.store.write().await.unwrap();
    tx.add_shard(overlay, &node.id, 0).await.unwrap();
    tx.shard_mounted(overlay, &node.id, "store", 1, None, 1).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn what_a_user_who_is_removed_has_asked_for_is_taken_back() {
    let rig = Rig::new(2).await;
    let hour = rig.reserve(wish_at(&rig, 2, HOUR, 3 * HOUR)).await;
    let waits = rig.reserve(wish(2, 20 * HOUR)).await;
    let path = "/v1/users/alice";
    ok(rig.bench.call(&rig.bench.admin, "DELETE", path, Value::Null).await);
    let shown = async |id| {
        let path = format!("/v1/reservations/{id}");
        ok(rig.bench.call(&rig.bench.admin, "GET", &path, Value::Null).await)
    };
    for id in [hour, waits] {
        let one = shown(id).await;
        assert_eq!((&one["state"], &one["code"]), (&json!("cancelled"), &json!("not-allowed")));
    }
}

#[tokio::test]
async fn nodes_that_may_not_be_lent_are_not_planned_with() {
    let rig = Rig::new(3).await;
    // n01 has a disk of which nodes.toml says nothing, n02 the only copy of what is bob's.
    let drive = haas_api::hardware::DiskDrive { name: "sda".into(), ..Default::default() };
    let inventory = haas_api::hardware::Inventory { disks: vec![drive], ..Default::default() };
    let first = rig.bench.node(1).await;
    let mut tx = rig.bench.context.store.write().await.unwrap();
    tx.set_inventory(&first.id, &inventory, "a boot", 1).await.unwrap();
    tx.commit().await.unwrap();
    // Its agent has not looked what is there, and may find it blank.
    let dry = with(wish(3, HOUR), "dry_run", json!(true));
    assert_eq!(rig.ask(&rig.bench.alice, dry).await.status, 200);
    let disk = haas_api::agent::Disk {
        name: "sda".into(),
        serial: None,
        model: None,
        size: 1 << 30,
        state: haas_api::agent::DiskState::Other { looks_like: "ext4".into() },
    };
    let mut tx = rig.bench.context.store.write().await.unwrap();
    tx.set_disks(&first.id, &[disk], 1).await.unwrap();
    tx.commit().await.unwrap();
    let his = rig.bench.add_overlay("bob", "his").await;
    hold(&rig, 2, &his).await;

    let (status, code, detail) = refused(&rig.ask(&rig.bench.alice, wish(2, HOUR)).await);
    assert_eq!((status, code.as_str()), (409, "too-few-nodes"));
    for part in ["1 may be lent to you", "1 of them with disks", "1 of them with what others have"]
    {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    // An admin has decided so.
    assert_eq!(
        rig.ask(&rig.bench.admin, with(wish(3, HOUR), "dry_run", json!(true))).await.status,
        200
    );
    let id = rig.reserve(wish(1, HOUR)).await;
    rig.pass(SECOND).await;
    assert_eq!(rig.nodes(id).await, ["n03"]);
    let next = rig.reserve(wish(1, HOUR)).await;
    let path = format!("/v1/reservations/{next}/explain");
    let told = ok(rig.bench.call(&rig.bench.alice, "GET", &path, Value::Null).await);
    let rule = |list: &str, name: &str| {
        let mut rules = told[list].as_array().unwrap().iter();
        rules.find(|one| one["rule"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(rule("excluded", "disk-undeclared")["nodes"], 1, "{told}");
    assert_eq!(rule("excluded", "only-copy")["nodes"], 1, "{told}");
    assert_ne!(rule("without", "may-not-be-lent"), Value::Null, "{told}");
    // Bob is root beside what is his, and others once he agrees.
    let bobs = super::id(&rig.ask(&rig.bob, wish(1, HOUR)).await);
    rig.pass(2 * SECOND).await;
    assert_eq!(rig.nodes(bobs).await, ["n02"]);
    ok(rig.post(&rig.bob, &format!("/v1/reservations/{bobs}/release"), Value::Null).await);
    let shares = json!({ "shares_disk": true });
    ok(rig.bench.call(&rig.bob, "PATCH", "/v1/overlays/bob/his", shares).await);
    rig.pass(10 * MINUTE).await;
    assert_eq!(rig.nodes(next).await, ["n02"]);
}
