//! A small haasd: real TLS with a certificate of its own, a few routes with known answers, and the
//! faults that the tests ask for.

mod console;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, RawQuery, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::tls_rustls::RustlsConfig;
use futures_util::{StreamExt, stream};
use haas_api::{node::ApplyRequest, operation::SwitchRequest, pin};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "test-token-3f9a";

/// The time at which the operation began, as far as its events say.
const BEGAN: &str = "2026-11-21T00:00:00Z";

#[derive(Default)]
struct Seen {
    /// Connections to consoles.
    consoles: usize,
    paths: Vec<String>,
    event_queries: Vec<String>,
    applied: usize,
    operation_since: Option<Instant>,
    looks: usize,
    /// Nodes in place of the usual two, and what signs their keys.
    nodes: Option<Vec<Value>>,
    host_ca: String,
}

type Shared = Arc<Mutex<Seen>>;

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) fingerprint: String,
    seen: Shared,
    handle: axum_server::Handle<std::net::SocketAddr>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::build(None, String::new())
    }

    /// With nodes that run at these addresses. Each has a key that `host_ca` has signed or, where one
    /// is given, this key and no certificate; without an address it is off.
    pub(crate) fn with_nodes(host_ca: &str, nodes: &[(&str, Option<&str>, Option<&str>)]) -> Self {
        let nodes = nodes.iter().map(|(name, address, key)| running(name, *address, *key));
        Self::build(Some(nodes.collect()), host_ca.to_owned())
    }

    fn build(nodes: Option<Vec<Value>>, host_ca: String) -> Self {
        let key = rcgen::generate_simple_self_signed(vec!["haasd.test".to_owned()]).unwrap();
        let cert = key.cert.der().clone();
        let fingerprint = pin::fingerprint(&cert);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], private.into())
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let seen = Shared::new(Mutex::new(Seen { nodes, host_ca, ..Seen::default() }));
        let app = router(seen.clone());
        let handle = axum_server::Handle::new();
        let serving = handle.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(tls)))
                    .unwrap()
                    .handle(serving)
                    .serve(app.into_make_service())
                    .await
                    .unwrap();
            });
        });
        Self { url, fingerprint, seen, handle }
    }

    /// How many requests came to paths that begin so.
    pub(crate) fn requests(&self, prefix: &str) -> usize {
        self.seen.lock().unwrap().paths.iter().filter(|path| path.starts_with(prefix)).count()
    }

    pub(crate) fn event_queries(&self) -> Vec<String> {
        self.seen.lock().unwrap().event_queries.clone()
    }

    pub(crate) fn applied(&self) -> usize {
        self.seen.lock().unwrap().applied
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
        // Until the port refuses: a test wants a haasd that is not there.
        let address = self.url.strip_prefix("https://").unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(address).is_ok() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

fn router(seen: Shared) -> Router {
    Router::new()
        .route("/v1/nodes/{name}/console", get(console::watch))
        .route("/v1/nodes/{name}/console/log", get(console::log))
        .route("/v1/whoami", get(|| async { Json(user()) }))
        .route(
            "/v1/users/{name}/tokens",
            post(|| async { Json(json!({ "id": "tok1", "token": "fresh-token" })) }),
        )
        .route("/v1/nodes", get(nodes))
        .route(
            "/v1/nodes/{name}",
            get(|State(seen): State<Shared>, Path(name): Path<String>| async move {
                let seen = seen.lock().unwrap();
                let node = seen.nodes.iter().flatten().find(|node| node["name"] == *name);
                match node {
                    Some(node) => Json(node.clone()).into_response(),
                    None => problem(404, "not-found", &format!("there is no node {name}")),
                }
            }),
        )
        .route(
            "/v1/ssh-ca",
            get(|State(seen): State<Shared>| async move {
                Json(json!({ "host_ca": seen.lock().unwrap().host_ca }))
            }),
        )
        .route("/v1/nodes/apply", post(apply))
        .route("/v1/switch", post(switch))
        .route("/v1/operations/{id}", get(operation))
        .route("/v1/events", get(events))
        .route("/v1/images/build", post(build))
        .layer(middleware::from_fn_with_state(seen.clone(), gate))
        .with_state(seen)
}

/// Counts every request and lets in only who has the token.
async fn gate(State(seen): State<Shared>, request: Request, next: Next) -> Response {
    seen.lock().unwrap().paths.push(request.uri().path().to_owned());
    let said = request.headers().get(header::AUTHORIZATION).map(|v| v.as_bytes().to_vec());
    if said.as_deref() != Some(format!("Bearer {TOKEN}").as_bytes()) {
        return problem(401, "token", "the token is not known");
    }
    next.run(request).await
}

fn problem(status: u16, code: &str, detail: &str) -> Response {
    let nodes = match code {
        "node-busy" => json!([{ "node": "n02", "code": "logins", "reason": "alice is logged in" }]),
        _ => json!([]),
    };
    let body = json!({
        "status": status, "code": code, "title": code, "detail": detail, "nodes": nodes
    });
    let media = [(header::CONTENT_TYPE, haas_api::problem::MEDIA_TYPE)];
    (StatusCode::from_u16(status).unwrap(), media, body.to_string()).into_response()
}

fn user() -> Value {
    json!({
        "id": "01J", "name": "alice", "role": "admin", "uid": 60001, "ssh_keys": [],
        "created_at": BEGAN
    })
}

/// A node that runs at this address, or is off.
fn running(name: &str, address: Option<&str>, key: Option<&str>) -> Value {
    let certified = key.is_none().then_some("2027-01-01T00:00:00Z");
    let keys = json!([{
        "key": key.unwrap_or("ssh-ed25519 AAAA"), "names": [name], "certified_until": certified
    }]);
    json!({
        "id": name, "name": name, "address": address, "mac": "52:54:00:77:00:01", "groups": [],
        "labels": {}, "power_driver": "ipmi", "managed": true, "desired": null,
        "state": if address.is_some() { "ready" } else { "off" }, "reason": "off, as is wanted",
        "observed": {
            "power": "on", "power_at": null, "power_error": null, "stage": null, "agent_at": null,
            "logins": [], "root_attached": null, "store_free": null,
            "host_keys": if address.is_some() { keys } else { json!([]) }
        }
    })
}

/// The nodes of the test, those that the query names between commas, or two.
async fn nodes(
    State(seen): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
) -> Json<Value> {
    if let Some(nodes) = &seen.lock().unwrap().nodes {
        let asked = |node: &&Value| match query.get("nodeset") {
            Some(set) => set.split(',').any(|name| node["name"] == *name),
            None => true,
        };
        return Json(json!({ "items": nodes.iter().filter(asked).collect::<Vec<_>>() }));
    }
    let node = |number: u8| {
        json!({
            "id": format!("01J{number}"), "name": format!("n0{number}"),
            "address": format!("10.77.0.1{number}"), "mac": format!("52:54:00:77:00:0{number}"),
            "groups": ["rack1"], "labels": {}, "power_driver": "ipmi", "managed": true,
            "state": "idle", "reason": "", "desired": null,
            "observed": {
                "power": "off", "power_at": null, "power_error": null, "stage": null,
                "agent_at": null, "logins": [], "root_attached": null, "store_free": null
            }
        })
    };
    let numbers = 1..=2;
    let asked = |number: &u8| query.get("nodeset").is_none_or(|set| *set == format!("n0{number}"));
    Json(json!({ "items": numbers.filter(asked).map(node).collect::<Vec<_>>() }))
}

async fn apply(State(seen): State<Shared>, Json(request): Json<ApplyRequest>) -> Json<Value> {
    seen.lock().unwrap().applied += usize::from(!request.dry_run);
    Json(json!({
        "added": ["n01"], "removed": [], "changed": [], "diff": "+ n01\n",
        "applied": !request.dry_run
    }))
}

async fn switch(State(seen): State<Shared>, Json(request): Json<SwitchRequest>) -> Response {
    if request.image.is_some_and(|image| image.to_string() == "busy:latest") {
        return problem(409, "node-busy", "1 of 2 nodes is in use; add --force to take it anyway");
    }
    if request.dry_run {
        return Json(json!({ "nodes": [{
            "node": "n01", "from": "off", "to": "minimal:latest + none", "rank": 0,
            "action": "boot", "notes": []
        }] }))
        .into_response();
    }
    seen.lock().unwrap().operation_since = Some(Instant::now());
    (StatusCode::ACCEPTED, Json(state_of("op-1", "running"))).into_response()
}

/// `op-1` answers 503 at first, as a haasd that starts, and is over once its events were told.
async fn operation(State(seen): State<Shared>, Path(id): Path<String>) -> Response {
    if id == "op-forever" {
        return Json(state_of(&id, "running")).into_response();
    }
    let mut seen = seen.lock().unwrap();
    seen.looks += 1;
    if seen.looks == 1 {
        return problem(503, "starting", "haasd starts");
    }
    let told = seen.event_queries.len() > 2;
    let old = seen.operation_since.is_some_and(|at| at.elapsed() > Duration::from_secs(3));
    let state = if told && old { "failed" } else { "running" };
    Json(state_of(&id, state)).into_response()
}

fn state_of(id: &str, state: &str) -> Value {
    let over = state != "running";
    let boot = json!({
        "attempt": "a1", "node": "n01", "generation": 1, "cause": "switch", "state": "ready",
        "what": "minimal:latest + none", "started_at": BEGAN,
        "stages": [{ "stage": "dhcp", "seconds": 1.0 }, { "stage": "kernel", "seconds": 8.0 }],
        "boot_bytes": 19_500_000, "root_bytes": 3_200_000
    });
    let node = |name: &str, end: &str, reason: &str| {
        let state = if over { end } else { "running" };
        json!({ "node": name, "generation": 1, "state": state, "reason": reason })
    };
    let mut first = node("n01", "succeeded", "");
    if over {
        first["boot"] = boot;
        first["stage"] = json!("ready");
    }
    let second = node("n02", "failed", "no DHCPDISCOVER within 15 min");
    json!({
        "id": id, "kind": "switch", "actor": "alice", "summary": "switch n[01-02]",
        "state": state, "created_at": BEGAN, "nodes": [first, second]
    })
}

/// The first stream breaks off after event 1, in the middle of event 2; the second ends in order
/// after event 2; the third begins with what was asked for and stays.
async fn events(State(seen): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let from: i64 = query
        .split('&')
        .find_map(|part| part.strip_prefix("from="))
        .map_or(0, |from| from.parse().unwrap());
    let turn = {
        let mut seen = seen.lock().unwrap();
        seen.event_queries.push(query.clone());
        seen.event_queries.len()
    };
    let frame = |seq: i64, at: &str, stage: &str| {
        let event = json!({
            "seq": seq, "at": at, "kind": "boot-progressed", "node": "n01", "operation": "op-1",
            "actor": "haasd", "data": { "stage": stage }
        });
        format!("id: {seq}\ndata: {event}\n\n")
    };
    let frames = [
        frame(1, "2026-11-21T00:00:01Z", "dhcp"),
        frame(2, "2026-11-21T00:00:03.24Z", "kernel"),
        frame(3, "2026-11-21T00:00:09Z", "ready"),
    ];
    let skip = usize::try_from(from).unwrap().saturating_sub(1);
    let body = if query.contains("op-forever") {
        Body::from_stream(stream::pending::<Result<String, Infallible>>())
    } else if turn == 1 {
        let cut = frames[1].len() / 2;
        let part = format!(": hello\n\n{}{}", frames[0], &frames[1][..cut]);
        let pieces = [Ok(part), Err(std::io::Error::other("haasd is killed"))];
        // The pause lets the first piece go out before the connection is closed.
        Body::from_stream(stream::iter(pieces).then(|piece| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            piece
        }))
    } else if turn == 2 {
        Body::from(frames[skip..2].concat())
    } else {
        let rest: Vec<Result<String, Infallible>> = frames.into_iter().skip(skip).map(Ok).collect();
        Body::from_stream(stream::iter(rest).chain(stream::pending()))
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// Reads the tar, says what is in it, and ends as the image's name asks.
async fn build(Query(query): Query<HashMap<String, String>>, body: Body) -> Response {
    let Ok(bytes) = axum::body::to_bytes(body, 64 << 20).await else {
        return problem(400, "body", "the body broke off");
    };
    let mut lines = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let name = entry.path().unwrap().display().to_string();
            lines.push(json!({ "log": format!("got {name} {}", entry.size()) }));
        }
    }
    lines.push(json!({ "log": "building" }));
    let (name, tag) = (&query["name"], &query["tag"]);
    match name.as_str() {
        "broken" => lines.push(json!({ "failed": {
            "status": 422, "code": "recipe", "title": "recipe",
            "detail": "recipe.toml:1: unknown key x"
        } })),
        "cut" => {}
        _ => lines.push(json!({ "done": {
            "digest": format!("sha256:{}", "a".repeat(64)), "tags": [format!("{name}:{tag}")],
            "root_bytes": 1_000_000, "fstype": "erofs", "kernel": "6.1.0", "boot_bytes": 2_000_000,
            "arch": "x86_64", "target": "iqn.x", "created_at": BEGAN, "nodes": []
        } })),
    }
    // In pieces that end where lines do not.
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let pieces: Vec<Result<Vec<u8>, Infallible>> =
        text.as_bytes().chunks(7).map(|piece| Ok(piece.to_vec())).collect();
    Body::from_stream(stream::iter(pieces)).into_response()
}
