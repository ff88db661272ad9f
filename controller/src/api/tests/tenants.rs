//! Projects, groups and grants: what they open, and that nobody sees or takes what others have.

use haas_api::user::Role;
use serde_json::{Value, json};

use crate::testing::{Answered, Bench};

/// `bob` in `speech`, `alice` in `vision`; each project may use the nodes of rack1.
async fn two_tenants() -> (Bench, String) {
    let bench = Bench::new().await;
    bench.add_nodes([1, 2, 3]).await;
    bench.add_image("a").await;
    let bob = bench.add_user("bob", Role::User).await;
    for (project, owner) in [("vision", "alice"), ("speech", "bob")] {
        ok(bench.post("/v1/projects", json!({ "name": project, "owner": owner })).await);
        let grant = json!({ "subject": project, "object": "node-group:rack1", "role": "use" });
        ok(bench.post("/v1/grants", grant).await);
    }
    (bench, bob)
}

#[track_caller]
fn ok(answer: Answered) -> Value {
    assert!(answer.status < 300, "{answer:?}");
    if answer.text.is_empty() { Value::Null } else { answer.json() }
}

#[track_caller]
fn refused(answer: &Answered) -> (u16, String) {
    (answer.status, answer.code())
}

fn switch(nodes: &str, overlay: &str) -> Value {
    json!({ "nodeset": nodes, "image": "a", "overlay": overlay })
}

async fn get(bench: &Bench, token: &str, path: &str) -> Answered {
    bench.call(token, "GET", path, Value::Null).await
}

async fn items(bench: &Bench, token: &str, path: &str) -> Vec<Value> {
    ok(get(bench, token, path).await)["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_node_is_its_tenants_until_it_is_off_and_others_learn_nothing_of_it() {
    let (bench, bob) = two_tenants().await;
    let alice = bench.alice.clone();
    bench.add_overlay("alice", "secret-work").await;
    let ask = async |token: &str, body| bench.call(token, "POST", "/v1/switch", body).await;
    let operation = ok(ask(&alice, switch("n01", "secret-work")).await);
    // Not to take, not to end, not to have what is hers.
    for body in [switch("n01", "none"), switch("n[01-02]", "none")] {
        assert_eq!(refused(&ask(&bob, body).await), (403, "denied".into()));
    }
    for (path, body) in [
        ("/v1/power", json!({ "nodeset": "n01", "action": "off", "force": true })),
        ("/v1/rollback", json!({ "nodeset": "n01" })),
    ] {
        assert_eq!(bench.call(&bob, "POST", path, body).await.status, 403, "{path}");
    }
    assert_eq!(ask(&bob, switch("n02", "alice/secret-work")).await.status, 403);
    // Nor to see.
    let node = ok(get(&bench, &bob, "/v1/nodes/n01").await);
    assert_eq!((&node["desired"], &node["tenant"]), (&Value::Null, &Value::Null), "{node}");
    let id = operation["id"].as_str().unwrap();
    assert_eq!(get(&bench, &bob, &format!("/v1/operations/{id}")).await.status, 404);
    assert_eq!(items(&bench, &bob, "/v1/operations").await, Vec::<Value>::new());
    assert_eq!(get(&bench, &bob, "/v1/nodes/n01/render").await.status, 403);
    assert_eq!(items(&bench, &bob, "/v1/overlays").await, Vec::<Value>::new());
    for path in ["/v1/nodes", "/v1/images", "/v1/nodes/n01/boots", "/v1/images/a/sessions"] {
        let told = get(&bench, &bob, path).await;
        assert!(!told.text.contains("secret-work") && !told.text.contains("alice"), "{told:?}");
    }
    // She sees it all.
    let node = ok(get(&bench, &alice, "/v1/nodes/n01").await);
    assert_eq!(
        (&node["tenant"], &node["desired"]["overlay"]),
        (&json!("vision"), &json!("alice/secret-work"))
    );
    assert_eq!(items(&bench, &alice, "/v1/operations").await.len(), 1);
    // When she gives it back it is free, and what ran on it does not come with it.
    let off = json!({ "nodeset": "n01", "action": "off", "force": true });
    ok(bench.call(&alice, "POST", "/v1/power", off).await);
    let busy = ask(&bob, switch("n01", "none")).await;
    assert_eq!(busy.code(), "node-switching");
    assert!(!busy.text.contains("alice"), "{busy:?}");
    let on = json!({ "nodeset": "n01", "action": "on", "force": true });
    let on = bench.call(&bob, "POST", "/v1/power", on).await;
    assert_eq!(refused(&on), (403, "denied".into()));
    ok(ask(&bob, json!({ "nodeset": "n01", "image": "a", "overlay": "none", "force": true }))
        .await);
    let back =
        bench.call(&bob, "POST", "/v1/rollback", json!({ "nodeset": "n01", "force": true })).await;
    assert_eq!(refused(&back), (403, "denied".into()));
}

#[tokio::test]
async fn events_are_for_whom_they_concern() {
    let (bench, _bob) = two_tenants().await;
    bench.add_overlay("alice", "dev").await;
    ok(bench.call(&bench.alice, "POST", "/v1/switch", switch("n01", "dev")).await);
    let mut tx = bench.context.store.read().await.unwrap();
    let vision = tx.project("vision").await.unwrap().unwrap().id;
    let events = tx.events_after(0, 100).await.unwrap();
    let of = |kind: &str| {
        let found = events.iter().find(|row| row.event.kind == kind).unwrap();
        found.tenant.clone()
    };
    assert_eq!(of("operation-started"), Some(vision.clone()));
    assert_eq!(of("desired-changed"), Some(vision));
}

#[tokio::test]
async fn a_project_has_no_more_nodes_and_overlays_than_its_limits() {
    let (bench, _bob) = two_tenants().await;
    let limits = json!({ "limits": { "nodes": 2, "overlays": 1 } });
    let own = bench.call(&bench.alice, "PATCH", "/v1/projects/vision", limits.clone()).await;
    assert_eq!(refused(&own), (403, "denied".into()));
    ok(bench.call(&bench.admin, "PATCH", "/v1/projects/vision", limits).await);
    let ask = async |body| bench.call(&bench.alice, "POST", "/v1/switch", body).await;
    assert_eq!(refused(&ask(switch("n[01-03]", "none")).await), (409, "quota".into()));
    ok(ask(switch("n[01-02]", "none")).await);
    assert_eq!(refused(&ask(switch("n03", "none")).await), (409, "quota".into()));
    let overlay = |name: &str| json!({ "name": name, "owner": "vision" });
    ok(bench.call(&bench.alice, "POST", "/v1/overlays", overlay("one")).await);
    let second = bench.call(&bench.alice, "POST", "/v1/overlays", overlay("two")).await;
    assert_eq!(refused(&second), (409, "quota".into()));
    let project = ok(get(&bench, &bench.alice, "/v1/projects/vision").await);
    assert_eq!(project["used"], json!({ "nodes": 2, "overlays": 1, "images": 0 }));
}

#[tokio::test]
async fn members_do_what_their_role_says_also_through_a_group_and_until_they_leave() {
    let (bench, bob) = two_tenants().await;
    ok(bench.call(&bench.alice, "POST", "/v1/groups", json!({ "name": "staff" })).await);
    let members =
        async |body| bench.call(&bench.alice, "PATCH", "/v1/projects/vision/members", body).await;
    ok(members(json!({ "set": [{ "member": "group:staff", "role": "viewer" }] })).await);
    assert_eq!(get(&bench, &bob, "/v1/projects/vision").await.status, 403);
    let change = async |body| bench.call(&bench.alice, "PATCH", "/v1/groups/staff", body).await;
    ok(change(json!({ "add": ["bob"] })).await);
    assert_eq!(get(&bench, &bob, "/v1/projects/vision").await.status, 200);
    ok(bench
        .call(&bench.alice, "POST", "/v1/overlays", json!({ "name": "data", "owner": "vision" }))
        .await);
    let ask = async |body| bench.call(&bob, "POST", "/v1/switch", body).await;
    let with_data = json!({ "nodeset": "n01", "image": "a", "overlay": "vision/data" });
    assert_eq!(ask(with_data.clone()).await.status, 403, "a viewer only looks");
    ok(members(json!({ "set": [{ "member": "group:staff", "role": "user" }] })).await);
    ok(ask(with_data).await);
    // In two projects by now, he has to say for which one.
    assert_eq!(refused(&ask(switch("n02", "none")).await), (422, "which-project".into()));
    let said = json!({ "nodeset": "n02", "image": "a", "overlay": "none", "project": "speech" });
    ok(ask(said).await);
    // What is a project's is not another's, also not for one who is in both.
    let other = json!({
        "nodeset": "n03", "image": "a", "overlay": "vision/data", "project": "speech",
    });
    assert_eq!(refused(&ask(other).await), (409, "overlay-of-project".into()));
    // A manager does not make managers, and nobody takes the last owner away.
    ok(members(json!({ "set": [{ "member": "bob", "role": "manager" }] })).await);
    let up = json!({ "set": [{ "member": "bob", "role": "owner" }] });
    let up = bench.call(&bob, "PATCH", "/v1/projects/vision/members", up).await;
    assert_eq!(refused(&up), (403, "denied".into()));
    assert_eq!(refused(&members(json!({ "remove": ["alice"] })).await), (409, "no-owner".into()));
    // Everybody may leave, and takes nobody with him.
    let by_bob = async |path: &str, body| bench.call(&bob, "PATCH", path, body).await;
    let (project, group) = ("/v1/projects/vision/members", "/v1/groups/staff");
    for remove in [json!(["alice"]), json!(["bob", "alice"])] {
        assert_eq!(by_bob(project, json!({ "remove": remove })).await.status, 403);
        assert_eq!(by_bob(group, json!({ "remove": remove })).await.status, 403);
    }
    ok(by_bob(project, json!({ "remove": ["bob"] })).await);
    ok(by_bob(group, json!({ "remove": ["bob"] })).await);
    assert_eq!(get(&bench, &bob, "/v1/projects/vision").await.status, 403);
    for path in [project, group] {
        assert_eq!(by_bob(path, json!({ "remove": ["bob"] })).await.status, 403, "not in it");
    }
}

#[tokio::test]
async fn a_project_is_never_left_without_an_owner() {
    let (bench, _bob) = two_tenants().await;
    bench.add_user("gil", Role::User).await;
    ok(bench.call(&bench.alice, "POST", "/v1/groups", json!({ "name": "lead" })).await);
    let set =
        async |body| bench.call(&bench.admin, "PATCH", "/v1/projects/vision/members", body).await;
    let lead = json!([{ "member": "group:lead", "role": "owner" }]);
    ok(set(json!({ "set": lead, "remove": ["alice"] })).await);
    let without_owner = async |token: &str, method, path, body| {
        let answer = bench.call(token, method, path, body).await;
        assert_eq!(refused(&answer), (409, "no-owner".into()), "{method} {path}");
    };
    let leaves = json!({ "remove": ["alice"] });
    without_owner(&bench.alice, "PATCH", "/v1/groups/lead", leaves).await;
    without_owner(&bench.alice, "DELETE", "/v1/groups/lead", Value::Null).await;
    without_owner(&bench.admin, "DELETE", "/v1/users/alice", Value::Null).await;
    ok(set(json!({ "set": [{ "member": "gil", "role": "owner" }] })).await);
    ok(bench.call(&bench.admin, "DELETE", "/v1/users/alice", Value::Null).await);
    // She may come back, or not.
    assert_eq!(refused(&set(json!({ "remove": ["gil"] })).await), (409, "no-owner".into()));
    without_owner(&bench.admin, "DELETE", "/v1/users/gil?now=true", Value::Null).await;
}

#[tokio::test]
async fn a_grant_opens_an_overlay_to_somebody_and_closes_when_it_ends() {
    let (bench, bob) = two_tenants().await;
    bench.add_overlay("alice", "dev").await;
    let body = json!({ "subject": "bob", "object": "overlay:alice/dev", "role": "use" });
    let by_bob = bench.call(&bob, "POST", "/v1/grants", body.clone()).await;
    assert_eq!(refused(&by_bob), (403, "denied".into()));
    let grant = ok(bench.call(&bench.alice, "POST", "/v1/grants", body).await);
    assert_eq!(items(&bench, &bob, "/v1/overlays").await.len(), 1);
    assert_eq!(items(&bench, &bob, "/v1/grants").await.len(), 2, "this and his project's");
    ok(bench.call(&bob, "POST", "/v1/switch", switch("n01", "alice/dev")).await);
    let gone = bench.call(&bob, "DELETE", "/v1/overlays/alice/dev", Value::Null).await;
    assert_eq!(refused(&gone), (403, "denied".into()));
    let path = format!("/v1/grants/{}", grant["id"].as_str().unwrap());
    assert_eq!(bench.call(&bob, "DELETE", &path, Value::Null).await.status, 403);
    ok(bench.call(&bench.alice, "DELETE", &path, Value::Null).await);
    assert_eq!(items(&bench, &bob, "/v1/overlays").await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_projects_image_is_not_there_for_others_until_it_is_granted() {
    let (bench, bob) = two_tenants().await;
    let mut tx = bench.context.store.write().await.unwrap();
    let vision = tx.project("vision").await.unwrap().unwrap().id;
    tx.set_image_owner(&"cuda".parse().unwrap(), &vision).await.unwrap();
    tx.commit().await.unwrap();
    let digest = bench.add_image("cuda").await;
    let body = |image: &str| json!({ "nodeset": "n01", "image": image, "overlay": "none" });
    for image in ["cuda", digest.as_str()] {
        let answer = bench.call(&bob, "POST", "/v1/switch", body(image)).await;
        assert_eq!(refused(&answer), (404, "no-image".into()));
        assert_eq!(get(&bench, &bob, &format!("/v1/images/{image}")).await.status, 404);
    }
    assert_eq!(items(&bench, &bob, "/v1/images").await.len(), 1);
    assert_eq!(items(&bench, &bench.alice, "/v1/images").await.len(), 2);
    let grant = json!({ "subject": "group:staff", "object": "image:cuda", "role": "use" });
    let absent = bench.call(&bench.alice, "POST", "/v1/grants", grant).await;
    assert_eq!(refused(&absent), (404, "no-subject".into()));
    let grant = json!({ "subject": "speech", "object": "image:cuda", "role": "use" });
    ok(bench.call(&bench.alice, "POST", "/v1/grants", grant).await);
    ok(bench.call(&bob, "POST", "/v1/switch", body("cuda")).await);
    let gone = bench.call(&bob, "DELETE", "/v1/images/cuda", Value::Null).await;
    assert_eq!(refused(&gone), (403, "denied".into()));
}

#[tokio::test]
async fn a_service_account_has_tokens_and_nothing_else() {
    let bench = Bench::new().await;
    let new = json!({ "name": "ci", "role": "user", "kind": "service" });
    assert_eq!(ok(bench.post("/v1/users", new).await)["kind"], "service");
    let password = json!({ "new": "correct horse battery" });
    let set = bench.call(&bench.admin, "PUT", "/v1/users/ci/password", password).await;
    assert_eq!(refused(&set), (422, "no-password".into()));
    ok(bench.post("/v1/users/ci/tokens", json!({})).await);
}

#[tokio::test]
async fn a_name_is_a_users_or_a_projects() {
    let (bench, _bob) = two_tenants().await;
    let user = bench.post("/v1/users", json!({ "name": "vision", "role": "user" })).await;
    assert_eq!(refused(&user), (409, "conflict".into()));
    let project = bench.post("/v1/projects", json!({ "name": "bob", "owner": "alice" })).await;
    assert_eq!(refused(&project), (409, "conflict".into()));
    // A project is no user: it has neither keys nor tokens.
    assert_eq!(get(&bench, &bench.admin, "/v1/users/vision").await.status, 404);
    assert_eq!(bench.post("/v1/users/vision/tokens", json!({})).await.status, 404);
}

#[tokio::test]
async fn logins_on_a_projects_node_are_its_members_and_root_is_for_whom_it_says() {
    let (bench, _bob) = two_tenants().await;
    for body in [
        json!({ "set": [{ "member": "bob", "role": "user" }] }),
        json!({ "set": [{ "member": "admin", "role": "viewer" }] }),
    ] {
        ok(bench.call(&bench.alice, "PATCH", "/v1/projects/vision/members", body).await);
    }
    ok(bench.call(&bench.alice, "PATCH", "/v1/projects/vision", json!({ "access": "user" })).await);
    let attempt = async |number: u8, overlay: &str| {
        let body = switch(&format!("n{number:02}"), overlay);
        ok(bench.call(&bench.alice, "POST", "/v1/switch", body).await);
        let node = bench.node(number).await;
        let attempt = crate::reconcile::open_attempt(
            &bench.context,
            &node,
            None,
            crate::model::Cause::Desired,
        );
        let attempt = attempt.await.unwrap();
        let plan = crate::boots::plan(&bench.context, &attempt).await.unwrap().unwrap();
        let mut logins: Vec<_> =
            plan.logins.into_iter().map(|l| (l.name.to_string(), l.root, l.sudo)).collect();
        logins.sort();
        logins
    };
    let alice = ("alice".to_owned(), true, false);
    let bob = ("bob".to_owned(), false, false);
    assert_eq!(attempt(1, "none").await, [alice.clone(), bob]);
    bench.add_overlay("alice", "diary").await;
    assert_eq!(
        attempt(2, "diary").await,
        std::slice::from_ref(&alice),
        "what is hers alone is not opened to the others"
    );
    ok(bench.call(&bench.alice, "PATCH", "/v1/projects/vision", json!({ "access": "sudo" })).await);
    assert_eq!(attempt(3, "none").await, [alice, ("bob".to_owned(), false, true)]);
}
