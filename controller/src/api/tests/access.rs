//! Who gets in, with what, how long, and what is kept of it.

use serde_json::{Value, json};

use super::every_route;
use crate::testing::{Answered, Bench};

const WORD: &str = "correct horse battery";

/// Gives alice a password and answers the token that came with it.
async fn with_password(bench: &Bench) -> String {
    let change = json!({ "new": WORD });
    let answer = bench.call(&bench.alice, "PUT", "/v1/users/alice/password", change).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    token_of(&answer)
}

fn token_of(answer: &Answered) -> String {
    answer.json()["token"].as_str().unwrap().to_owned()
}

async fn login(bench: &Bench, name: &str, word: &str) -> Answered {
    bench.call("", "POST", "/v1/login", json!({ "name": name, "password": word })).await
}

async fn status(bench: &Bench, token: &str) -> u16 {
    bench.call(token, "GET", "/v1/whoami", Value::Null).await.status
}

/// What the audit log has, as ACTOR ACTION STATUS.
async fn audited(bench: &Bench) -> Vec<String> {
    let log = bench.call(&bench.admin, "GET", "/v1/audit", Value::Null).await.json();
    let line = |e: &Value| format!("{} {} {}", e["actor"], e["action"], e["status"]);
    log["items"].as_array().unwrap().iter().map(|e| line(e).replace('"', "")).collect()
}

#[tokio::test]
async fn a_password_makes_a_token_and_a_new_password_ends_all_of_them() {
    let bench = Bench::new().await;
    assert_eq!(login(&bench, "alice", WORD).await.code(), "wrong-login");
    let first = with_password(&bench).await;
    assert_eq!(status(&bench, &bench.alice).await, 401, "the old token ended");
    let answer = login(&bench, "alice", WORD).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.json()["expires_at"].is_string());
    let second = token_of(&answer);
    assert_eq!((status(&bench, &first).await, status(&bench, &second).await), (200, 200));

    let path = "/v1/users/alice/password";
    for (body, code) in [
        (json!({ "new": "another battery" }), "wrong-password"),
        (json!({ "old": "wrong", "new": "another battery" }), "wrong-password"),
        (json!({ "old": WORD, "new": "short" }), "bad-password"),
    ] {
        assert_eq!(bench.call(&second, "PUT", path, body).await.code(), code);
    }
    let change = json!({ "old": WORD, "new": "another battery" });
    let third = token_of(&bench.call(&second, "PUT", path, change).await);
    for (token, expected) in [(&first, 401), (&second, 401), (&third, 200)] {
        assert_eq!(status(&bench, token).await, expected);
    }
    assert_eq!(login(&bench, "alice", WORD).await.code(), "wrong-login");

    // An admin needs no old password, and logging out ends one token.
    let change = json!({ "new": "set by an admin" });
    assert_eq!(bench.call(&bench.admin, "PUT", path, change).await.status, 204);
    assert_eq!(status(&bench, &third).await, 401);
    let last = token_of(&login(&bench, "alice", "set by an admin").await);
    assert_eq!(bench.call(&last, "POST", "/v1/logout", Value::Null).await.status, 204);
    assert_eq!(status(&bench, &last).await, 401);
}

#[tokio::test]
async fn passwords_cannot_be_tried_one_after_the_other() {
    let bench = Bench::new().await;
    with_password(&bench).await;
    for _ in 0..5 {
        assert_eq!(login(&bench, "alice", "a wrong one").await.code(), "wrong-login");
    }
    let answer = login(&bench, "alice", WORD).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "too-many-logins"), "{answer:?}");
    assert_eq!(login(&bench, "nobody", "a wrong one").await.code(), "wrong-login");
    let change = json!({ "old": WORD, "new": "another battery" });
    let path = "/v1/users/alice/password";
    let token = bench.add_user("carl", haas_api::user::Role::Admin).await;
    assert_eq!(bench.call(&token, "PUT", path, change).await.status, 204, "admins are not held up");
}

#[tokio::test]
async fn many_tries_at_once_are_no_way_around() {
    let bench = Bench::new().await;
    with_password(&bench).await;
    let tries = (0..40).map(|_| login(&bench, "alice", "a wrong one"));
    let answers = futures_util::future::join_all(tries).await;
    let count = |code: &str| answers.iter().filter(|answer| answer.code() == code).count();
    assert_eq!((count("wrong-login"), count("too-many-logins")), (5, 35), "{answers:?}");
}

#[tokio::test]
async fn a_token_ends_when_it_was_said_and_at_once_when_it_is_revoked() {
    let bench = Bench::new().await;
    let path = "/v1/users/alice/tokens";
    let wanted = json!({ "name": "ci", "expires_in_s": 1 });
    let answer = bench.call(&bench.alice, "POST", path, wanted).await;
    let (short, short_id) = (token_of(&answer), answer.json()["id"].clone());
    let lasting = bench.call(&bench.alice, "POST", path, json!({ "name": "laptop" })).await;
    let (lasting, id) = (token_of(&lasting), lasting.json()["id"].clone());
    assert_eq!((status(&bench, &short).await, status(&bench, &lasting).await), (200, 200));
    let listed = bench.call(&bench.alice, "GET", path, Value::Null).await;
    assert!(!listed.text.contains(&short), "a list shows a secret");
    let listed = listed.json();
    let of = |id: &Value| {
        let items = listed["items"].as_array().unwrap();
        items.iter().find(|token| token["id"] == *id).unwrap().clone()
    };
    assert_eq!((of(&id)["name"].as_str(), of(&id)["expires_at"].as_str()), (Some("laptop"), None));
    assert!(of(&short_id)["expires_at"].is_string());

    let revoke = format!("{path}/{}", id.as_str().unwrap());
    let bob = bench.add_user("bob", haas_api::user::Role::User).await;
    assert_eq!(bench.call(&bob, "DELETE", &revoke, Value::Null).await.code(), "denied");
    assert_eq!(bench.call(&bench.alice, "DELETE", &revoke, Value::Null).await.status, 204);
    assert_eq!(status(&bench, &lasting).await, 401);
    assert_eq!(bench.call(&bench.alice, "DELETE", &revoke, Value::Null).await.code(), "no-token");
    // The time is the test's subject: a second of life, and a second for which it is remembered.
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    assert_eq!(status(&bench, &short).await, 401);
    for bad in [json!({ "expires_in_s": 0 }), json!({ "expires_in_s": 40_000_000 })] {
        assert_eq!(bench.call(&bench.alice, "POST", path, bad).await.code(), "bad-expiry");
    }
    let bad = json!({ "name": "a\nb" });
    assert_eq!(bench.call(&bench.alice, "POST", path, bad).await.code(), "bad-token-name");
}

#[tokio::test]
async fn logins_and_guessed_tokens_of_one_address_are_bounded_and_others_get_in() {
    let bench = Bench::open_to_all().await;
    let elsewhere = crate::api::router(bench.context.clone());
    let elsewhere = crate::testing::called_from(elsewhere, [192, 0, 2, 7].into());
    let ask = async |router: &axum::Router, path: &str, token: &str, body: Value| {
        let request = axum::http::Request::builder()
            .method(if body.is_null() { "GET" } else { "POST" })
            .uri(path)
            .header(axum::http::header::AUTHORIZATION, format!("Bearer {token}"))
            .header(axum::http::header::CONTENT_TYPE, "application/json")
            .body(axum::body::Body::from(body.to_string()))
            .unwrap();
        bench.send_to(router, request).await
    };
    // What is no login at all counts too.
    let mut codes = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..80 {
        let answer = ask(&bench.router, "/v1/login", "", json!({ "name": 7 })).await;
        *codes.entry(answer.code()).or_default() += 1;
    }
    assert!(codes["bad-json"] >= 30 && codes["too-many-logins"] > 0, "{codes:?}");
    let answer = ask(&elsewhere, "/v1/login", "", json!({ "name": 7 })).await;
    assert_eq!(answer.code(), "bad-json");

    let mut codes = std::collections::BTreeMap::<String, u32>::new();
    for guess in 0..2000 {
        let answer = ask(&bench.router, "/v1/whoami", &format!("guess-{guess}"), Value::Null).await;
        *codes.entry(answer.code()).or_default() += 1;
        if codes.contains_key("too-many-requests") {
            break;
        }
    }
    assert!(codes["unauthorized"] >= 60 && codes.contains_key("too-many-requests"), "{codes:?}");
    let answer = ask(&elsewhere, "/v1/whoami", &bench.alice, Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Who is known already is not held up by what others of the same address guess.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while status(&bench, &bench.alice).await != 200 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // And right tokens cost nothing.
    let bench = Bench::new().await;
    for _ in 0..300 {
        bench.context.store.powers_changed();
        assert_eq!(status(&bench, &bench.alice).await, 200);
    }
}

#[tokio::test]
async fn what_another_haasd_on_the_same_database_revokes_is_revoked_here() {
    let bench = Bench::new().await;
    bench.post("/v1/projects", json!({ "name": "vision", "owner": "alice" })).await;
    let sees = async || bench.call(&bench.alice, "GET", "/v1/projects/vision", Value::Null).await;
    for _ in 0..3 {
        assert_eq!(sees().await.status, 200);
    }
    let other = crate::store::Store::open(&bench.context.config.database_url).await.unwrap();
    let change = async |token: bool| {
        let mut tx = other.write().await.unwrap();
        let alice = tx.user("alice").await.unwrap().unwrap().id;
        let project = tx.project("vision").await.unwrap().unwrap().id;
        match token {
            true => assert!(tx.remove_token(&alice, "alice").await.unwrap()),
            false => {
                let member = crate::store::MemberId::User(alice);
                assert!(tx.remove_member(&project, &member).await.unwrap());
            }
        }
        tx.commit().await.unwrap();
    };
    for (token, expected) in [(false, 403), (true, 401)] {
        change(token).await;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while sees().await.status != expected {
            assert!(std::time::Instant::now() < deadline, "{:?}", sees().await);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_removed_user_may_nothing_can_come_back_and_is_destroyed_in_time() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    bench.add_image("a").await;
    with_password(&bench).await;
    bench.add_overlay("alice", "dev").await;
    bench.post("/v1/projects", json!({ "name": "vision", "owner": "alice" })).await;
    let token = token_of(&login(&bench, "alice", WORD).await);
    let only = bench.call(&bench.admin, "DELETE", "/v1/users/alice", Value::Null).await;
    assert_eq!(only.code(), "no-owner");
    let second = json!({ "set": [{ "member": "admin", "role": "owner" }] });
    bench.call(&bench.admin, "PATCH", "/v1/projects/vision/members", second).await;
    let remove = async |query: &str| {
        let path = format!("/v1/users/alice{query}");
        bench.call(&bench.admin, "DELETE", &path, Value::Null).await
    };
    let restore = async || bench.post("/v1/users/alice/restore", Value::Null).await;
    assert_eq!(restore().await.code(), "not-removed");

    let body = json!({ "nodeset": "n01", "image": "a", "overlay": "alice/dev" });
    assert_eq!(bench.post("/v1/switch", body).await.status, 202);
    for query in ["", "?now=true"] {
        assert_eq!(remove(query).await.code(), "user-has-nodes");
    }
    let body = json!({ "nodeset": "n01", "action": "off", "force": true });
    assert_eq!(bench.post("/v1/power", body).await.status, 202);

    let removed = remove("").await;
    assert_eq!((removed.status, &removed.json()["overlays"][0]["name"]), (200, &json!("dev")));
    let end = removed.json()["user"]["destroyed_at"].clone();
    assert!(end.is_string(), "{removed:?}");
    assert_eq!(status(&bench, &token).await, 401, "its tokens have ended");
    assert_eq!(login(&bench, "alice", WORD).await.code(), "wrong-login");
    for (path, body) in [
        ("/v1/users/alice/tokens", json!({})),
        ("/v1/overlays", json!({ "name": "new", "owner": "alice" })),
        ("/v1/projects", json!({ "name": "speech", "owner": "alice" })),
    ] {
        assert_eq!(bench.post(path, body).await.code(), "no-user", "{path}");
    }
    let same_name = json!({ "name": "alice", "role": "user" });
    assert_eq!(bench.post("/v1/users", same_name).await.code(), "conflict");
    assert_eq!(remove("").await.json()["user"]["destroyed_at"], end, "no longer by asking again");

    assert_eq!(restore().await.status, 200);
    let token = token_of(&login(&bench, "alice", WORD).await);
    let project = bench.call(&token, "GET", "/v1/projects/vision", Value::Null).await;
    assert_eq!(project.status, 200, "it is a member as before: {project:?}");

    assert_eq!(remove("").await.status, 200);
    let at = bench.context.store.read().await.unwrap().any_user("alice").await.unwrap().unwrap();
    let at = at.destroy_at.unwrap();
    crate::housekeeping::pass(&bench.context, at - 1).await.unwrap();
    assert_eq!(restore().await.status, 200);
    assert_eq!(remove("").await.status, 200);
    let later = at + crate::model::SECOND * 3600;
    crate::housekeeping::pass(&bench.context, later).await.unwrap();
    assert_eq!(restore().await.code(), "no-user");
    let overlays = bench.call(&bench.admin, "GET", "/v1/overlays", Value::Null).await;
    assert_eq!(overlays.json()["items"], json!([]));
    let log = bench.call(&bench.admin, "GET", "/v1/audit?actor=haasd", Value::Null).await.json();
    assert_eq!(log["items"][0]["action"], "destroy user alice");
    assert!(log["items"][0]["detail"].as_str().unwrap().contains("overlay dev"), "{log}");
}

#[tokio::test]
async fn a_user_is_destroyed_at_once_where_that_is_asked_and_never_under_a_node_that_runs() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    bench.add_image("a").await;
    bench.add_overlay("alice", "dev").await;
    let remove = async |query: &str| {
        let path = format!("/v1/users/alice{query}");
        bench.call(&bench.admin, "DELETE", &path, Value::Null).await
    };
    assert_eq!(remove("").await.status, 200);
    // An admin saves what is in it.
    let body = json!({ "nodeset": "n01", "image": "a", "overlay": "alice/dev" });
    assert_eq!(bench.post("/v1/switch", body).await.status, 202);
    crate::housekeeping::pass(&bench.context, i64::MAX).await.unwrap();
    let overlays = bench.call(&bench.admin, "GET", "/v1/overlays", Value::Null).await;
    assert_eq!(overlays.json()["items"][0]["name"], "dev");
    let body = json!({ "nodeset": "n01", "image": "a", "overlay": "none", "force": true });
    assert_eq!(bench.post("/v1/switch", body).await.status, 202);
    assert_eq!(remove("?now=true").await.status, 204);
    assert_eq!(bench.post("/v1/users/alice/restore", Value::Null).await.code(), "no-user");
}

#[tokio::test]
async fn a_token_that_only_looks_changes_nothing_whoevers_it_is() {
    let bench = Bench::new().await;
    let path = "/v1/users/admin/tokens";
    let answer = bench.call(&bench.admin, "POST", path, json!({ "read_only": true })).await;
    let looks = token_of(&answer);
    for (method, path) in every_route().into_iter().filter(|(_, path)| path != "/v1/logout") {
        let path = path.replace("/v1/users/n01", "/v1/users/alice");
        let answer = bench.call(&looks, &method, &path, Value::Null).await;
        match method.as_str() {
            "GET" => assert_ne!(answer.status, 403, "{path}: {answer:?}"),
            _ if path == "/v1/login" || path == "/v1/register" => {}
            _ => assert_eq!(answer.code(), "read-only-token", "{method} {path}"),
        }
    }
    assert_eq!(bench.call(&looks, "POST", "/v1/logout", Value::Null).await.status, 204);
}

#[tokio::test]
async fn people_register_only_where_they_may() {
    let bench = Bench::new().await;
    let new = json!({ "name": "dora", "password": WORD });
    let answer = bench.call("", "POST", "/v1/register", new.clone()).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "no-registration"));

    let bench = Bench::open_to_all().await;
    let answer = bench.call("", "POST", "/v1/register", new.clone()).await;
    assert_eq!((answer.status, answer.json()["role"].as_str()), (201, Some("user")), "{answer:?}");
    let token = token_of(&login(&bench, "dora", WORD).await);
    assert_eq!(bench.call(&token, "GET", "/v1/users", Value::Null).await.code(), "denied");
    // A whole class behind one address.
    for n in 0..8 {
        let one = json!({ "name": format!("student{n}"), "password": WORD });
        assert_eq!(bench.call("", "POST", "/v1/register", one).await.status, 201);
    }
    assert_eq!(bench.call("", "POST", "/v1/register", new).await.code(), "conflict");
    for (bad, code) in [
        (json!({ "name": "root", "password": WORD }), "bad-user-name"),
        (json!({ "name": "haasd", "password": WORD }), "bad-user-name"),
        (json!({ "name": "eve", "password": "short" }), "bad-password"),
    ] {
        assert_eq!(bench.call("", "POST", "/v1/register", bad).await.code(), code);
    }
}

#[tokio::test]
async fn the_audit_log_has_every_change_and_every_refusal_and_no_secret() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    bench.add_image("a").await;
    with_password(&bench).await;
    login(&bench, "alice", "the wrong one").await;
    let token = token_of(&login(&bench, "alice", WORD).await);
    bench.call(&token, "GET", "/v1/nodes", Value::Null).await;
    bench.call(&token, "GET", "/v1/audit", Value::Null).await;
    let body = json!({ "nodeset": "n01", "image": "a", "overlay": "none" });
    bench.call(&token, "POST", "/v1/switch", body.clone()).await;
    assert_eq!(bench.post("/v1/switch", body).await.status, 202);
    assert_eq!(
        audited(&bench).await,
        [
            "alice PUT /v1/users/alice/password 201",
            "alice POST /v1/login 401",
            "alice POST /v1/login 201",
            "alice GET /v1/audit 403",
            "alice POST /v1/switch 403",
            "admin POST /v1/switch 202",
        ]
    );
    let log = bench.call(&bench.admin, "GET", "/v1/audit?after=5", Value::Null).await;
    let last = &log.json()["items"][0];
    assert_eq!(last["from"], "127.0.0.1");
    assert!(last["detail"].as_str().unwrap().contains("n01"), "{last}");
    let hers = bench.call(&bench.admin, "GET", "/v1/audit?actor=alice&limit=2", Value::Null).await;
    assert_eq!(hers.json()["items"].as_array().unwrap().len(), 2);
    let all = bench.call(&bench.admin, "GET", "/v1/audit", Value::Null).await.text;
    for secret in [WORD, "the wrong one", &token, &bench.admin] {
        assert!(!all.contains(secret), "a secret is in the audit log");
    }
}

#[tokio::test]
async fn what_the_audit_log_cannot_tell_is_not_done() {
    let bench = Bench::open_to_all().await;
    bench.add_nodes([1]).await;
    bench.add_overlay("alice", "dev").await;
    let grant = format!("/v1/grants/{}", bench.add_tenants().await);
    bench.add_user("gil", haas_api::user::Role::User).await;
    let mut tx = bench.context.store.write().await.unwrap();
    tx.break_audit().await.unwrap();
    tx.commit().await.unwrap();
    for (method, path, body) in [
        ("POST", "/v1/users", json!({ "name": "eve", "role": "admin" })),
        ("POST", "/v1/register", json!({ "name": "dora", "password": WORD })),
        ("POST", "/v1/projects", json!({ "name": "speech", "owner": "alice" })),
        (
            "PATCH",
            "/v1/projects/vision/members",
            json!({ "set": [{ "member": "admin", "role": "owner" }] }),
        ),
        ("POST", "/v1/nodes/manage", json!({ "nodeset": "n01", "managed": false })),
        ("DELETE", grant.as_str(), Value::Null),
        ("DELETE", "/v1/overlays/alice/dev", Value::Null),
        ("DELETE", "/v1/users/gil?now=true", Value::Null),
    ] {
        assert_eq!(
            bench.call(&bench.admin, method, path, body).await.status,
            500,
            "{method} {path}"
        );
    }
    let left = async |path: &str| {
        bench.call(&bench.admin, "GET", path, Value::Null).await.json()["items"].clone()
    };
    let names = |items: Value| -> Vec<String> {
        items
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(left("/v1/users").await), ["admin", "alice", "gil"]);
    assert_eq!(names(left("/v1/projects").await), ["vision"]);
    assert_eq!(left("/v1/projects").await[0]["members"].as_array().unwrap().len(), 1);
    assert_eq!(names(left("/v1/overlays").await), ["dev"]);
    assert_eq!(left("/v1/grants").await.as_array().unwrap().len(), 1);
    assert!(bench.node(1).await.managed);
}

#[tokio::test]
async fn a_stream_of_events_ends_with_its_token() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    let request = axum::http::Request::get("/v1/events?from=0")
        .header(axum::http::header::AUTHORIZATION, format!("Bearer {}", bench.alice))
        .body(axum::body::Body::empty())
        .unwrap();
    let stream = bench.open(request).await;
    assert_eq!(stream.status(), 200);
    let gone =
        bench.call(&bench.admin, "DELETE", "/v1/users/alice/tokens/alice", Value::Null).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    let news = json!({ "nodeset": "n01", "managed": false });
    assert_eq!(bench.post("/v1/nodes/manage", news).await.status, 200);
    let rest = http_body_util::BodyExt::collect(stream.into_body());
    let rest = tokio::time::timeout(std::time::Duration::from_secs(60), rest).await;
    let rest = rest.expect("the stream ends").unwrap().to_bytes();
    assert!(!String::from_utf8_lossy(&rest).contains("unmanaged"), "{rest:?}");
}

#[tokio::test]
async fn without_auth_the_controller_itself_is_an_admin_and_every_other_address_needs_its_token() {
    let bench = Bench::without_auth().await;
    let ask = async |router: &axum::Router, token: Option<&str>| {
        let mut request = axum::http::Request::get("/v1/whoami");
        if let Some(token) = token {
            request = request.header(axum::http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        bench.send_to(router, request).await
    };
    let here = ask(&bench.router, None).await;
    assert_eq!((here.status, &here.json()["name"]), (200, &json!("admin")));
    // A token still says who it is, and a wrong one is wrong.
    let alice = ask(&bench.router, Some(&bench.alice)).await;
    assert_eq!(alice.json()["name"], "alice");
    assert_eq!(ask(&bench.router, Some("wrong")).await.status, 401);
    let elsewhere = crate::api::router(bench.context.clone());
    let elsewhere = crate::testing::called_from(elsewhere, [192, 0, 2, 7].into());
    assert_eq!(ask(&elsewhere, None).await.status, 401);
    assert_eq!(ask(&elsewhere, Some(&bench.alice)).await.status, 200);
    let closed = Bench::new().await;
    assert_eq!(ask(&closed.router, None).await.status, 401);
    let request = axum::http::Request::put("/v1/users/alice/password")
        .header(axum::http::header::CONTENT_TYPE, "application/json")
        .body(json!({ "new": WORD }).to_string().into())
        .unwrap();
    assert_eq!(bench.send_to(&bench.router, request).await.status, 204);
}
