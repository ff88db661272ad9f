//! Consoles on a real WebSocket, of a simulated BMC: who sees what, and who types.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use haas_api::user::Role;
use serde_json::{Value, json};
use sim::bmc::{Farm, Setup};
use tungstenite::{ClientRequestBuilder, Message, WebSocket};

use crate::{
    console,
    inventory::{BmcPrivilege, NodeSpec, PowerSpec, SecretRef},
    model::Cause,
    reconcile,
    testing::{Bench, spec},
};

/// More than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

struct Served {
    bench: Bench,
    farm: Farm,
    address: SocketAddr,
    bob: String,
}

impl Served {
    /// Node n01 at a BMC; alice and bob have an overlay each.
    async fn start(bench: Bench) -> Self {
        Self::with(bench, &Setup::new("admin", "s3cret")).await
    }

    async fn with(bench: Bench, setup: &Setup) -> Self {
        let farm = Farm::start(1, setup).unwrap();
        let password = bench.context.config.state_dir.join("bmc-password");
        std::fs::write(&password, "s3cret").unwrap();
        let power = PowerSpec::Ipmi {
            address: farm.addresses()[0].ip(),
            port: farm.addresses()[0].port(),
            mac: None,
            user: "admin".to_owned(),
            password: SecretRef::File(password),
            kg: None,
            privilege: BmcPrivilege::Operator,
            cipher_suite: None,
        };
        bench.add(&NodeSpec { power, ..spec(1) }).await;
        bench.add_image("a").await;
        let bob = bench.add_user("bob", Role::User).await;
        for owner in ["alice", "bob"] {
            bench.add_overlay(owner, "dev").await;
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = bench.router.clone().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(axum::serve(listener, service).into_future());
        Self { bench, farm, address, bob }
    }

    /// The node boots an overlay, whatever it did before.
    async fn boots(&self, overlay: &str) {
        let body = json!({ "nodeset": "n01", "image": "a", "overlay": overlay, "force": true });
        let answer = self.bench.post("/v1/switch", body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let context = &self.bench.context;
        let node = self.bench.node(1).await;
        let mut tx = context.store.write().await.unwrap();
        let last = tx.last_attempt(&node.id).await.unwrap();
        tx.end_attempts(&node.id, context.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        // Its image has no files to export, and nothing here reads them.
        let _ = reconcile::open_attempt(context, &node, last.as_ref(), Cause::Desired).await;
    }

    fn connect(&self, token: &str, query: &str) -> Result<Viewer, u16> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let url = format!("ws://{}/v1/nodes/n01/console{query}", self.address);
        let request = ClientRequestBuilder::new(url.parse().unwrap())
            .with_header("authorization", format!("Bearer {token}"));
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => {
                socket.get_ref().set_read_timeout(Some(Duration::from_millis(10))).unwrap();
                Ok(Viewer { socket, seen: String::new(), state: Value::Null, ended: None })
            }
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[track_caller]
    fn watch(&self, token: &str, query: &str) -> Viewer {
        self.connect(token, query).unwrap_or_else(|status| panic!("HTTP {status}"))
    }

    /// The texts of the log's lines, as a caller has them.
    async fn log(&self, token: &str) -> Vec<String> {
        let answer = self
            .bench
            .call(token, "GET", "/v1/nodes/n01/console/log?lines=1000", Value::Null)
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let log = answer.json();
        let lines = log["items"].as_array().unwrap().iter();
        lines.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + LONG;
        while !is_so().await {
            assert!(Instant::now() < end, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Viewer {
    socket: WebSocket<TcpStream>,
    /// What the node printed.
    seen: String,
    state: Value,
    ended: Option<String>,
}

impl Viewer {
    fn type_keys(&mut self, keys: &str) {
        self.socket.send(Message::binary(keys.as_bytes().to_vec())).unwrap();
    }

    fn ask(&mut self, what: &str) {
        self.socket.send(Message::text(format!("\"{what}\""))).unwrap();
    }

    /// Takes what comes within a moment.
    fn look(&mut self) {
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(Message::Text(text)) => {
                let note: Value = serde_json::from_str(&text).unwrap();
                if let Some(reason) = note["ended"].as_str() {
                    self.ended = Some(reason.to_owned());
                } else if note["state"].is_object() {
                    self.state = note["state"].clone();
                }
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended = Some(self.ended.clone().unwrap_or_default()),
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LONG;
        while !is_so(self) {
            let news = (&self.seen, &self.state, &self.ended);
            assert!(Instant::now() < end, "{what}: {news:?}");
            self.look();
        }
    }

    #[track_caller]
    fn sees(&mut self, text: &str) {
        self.until(text, |viewer| viewer.seen.contains(text));
    }

    #[track_caller]
    fn ends(&mut self) -> String {
        self.until("an end", |viewer| viewer.ended.is_some());
        self.ended.clone().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watch_by_one_session_one_types_and_another_takes_over() {
    let served = Served::start(Bench::new().await).await;
    served.boots("alice/dev").await;
    let mut alice = served.watch(&served.bench.alice, "");
    alice.sees("sim login: ");
    alice.type_keys("from-alice\r");
    alice.sees("from-alice\r");
    assert_eq!(alice.state["you_write"], true);

    let mut admin = served.watch(&served.bench.admin, "");
    // Who comes later sees what was there.
    admin.sees("from-alice\r");
    admin.until("the writer", |viewer| viewer.state["writer"] == "alice");
    assert_eq!(admin.state["watchers"], json!(["alice", "admin"]));
    admin.type_keys("in-vain");
    admin.ask("take");
    admin.until("the keys", |viewer| viewer.state["you_write"] == true);
    admin.type_keys("from-admin\r");
    for viewer in [&mut admin, &mut alice] {
        viewer.sees("from-admin\r");
        assert!(!viewer.seen.contains("in-vain"), "{}", viewer.seen);
    }
    alice.until("no keys", |viewer| viewer.state["writer"] == "admin");
    assert_eq!(alice.state["you_write"], false);
    admin.ask("break");
    alice.sees("<BREAK>");
    let mut forced = served.watch(&served.bench.alice, "?take=true");
    forced.until("the keys", |viewer| viewer.state["you_write"] == true);

    // Power commands go on in the same session.
    let node = served.bench.node(1).await;
    reconcile::step_at(&served.bench.context, node, served.bench.context.clock.now()).await;
    assert_eq!(served.farm.counts().opened, 1);
    drop((alice, admin, forced));
    served.until("the console is ended", async || !served.farm.bmc(0).has_console()).await;
    let audit = served.bench.call(&served.bench.admin, "GET", "/v1/audit", Value::Null).await;
    for deed in ["types on the console", "takes the console"] {
        assert!(audit.text.contains(deed), "{}", audit.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_watch_and_who_may_type() {
    let served = Served::start(Bench::new().await).await;
    let bench = &served.bench;
    // Nobody has booted it: what the firmware shows is for admins.
    assert_eq!(served.connect(&bench.alice, "?watch=true").err(), Some(403));
    served.watch(&bench.admin, "").until("a state", |viewer| !viewer.state.is_null());

    let project = json!({ "name": "vision", "owner": "alice", "access": "user" });
    assert_eq!(bench.post("/v1/projects", project).await.status, 201);
    let members = json!({ "set": [{ "member": "bob", "role": "viewer" }] });
    let path = "/v1/projects/vision/members";
    assert_eq!(bench.call(&bench.alice, "PATCH", path, members).await.status, 200);
    let overlay = json!({ "owner": "vision", "name": "dev" });
    assert_eq!(bench.call(&bench.alice, "POST", "/v1/overlays", overlay).await.status, 201);
    served.boots("vision/dev").await;
    let carol = bench.add_user("carol", Role::User).await;
    assert_eq!(served.connect(&carol, "?watch=true").err(), Some(403));
    assert_eq!(served.connect("", "?watch=true").err(), Some(401));
    // A viewer watches; a user of a project without root too; who is root types.
    assert_eq!(served.connect(&served.bob, "").err(), Some(403));
    served.watch(&served.bob, "?watch=true").sees("sim login: ");
    let members = json!({ "set": [{ "member": "bob", "role": "user" }] });
    assert_eq!(bench.call(&bench.alice, "PATCH", path, members).await.status, 200);
    assert_eq!(served.connect(&served.bob, "?take=true").err(), Some(403));
    served.watch(&bench.alice, "").sees("sim login: ");
    let open = json!({ "access": "root" });
    assert_eq!(bench.call(&bench.alice, "PATCH", "/v1/projects/vision", open).await.status, 200);
    let mut typist = served.watch(&served.bob, "?take=true");
    typist.until("the keys", |viewer| viewer.state["you_write"] == true);
    // What is taken away is gone within a moment, and the rest stays.
    let members = json!({ "set": [{ "member": "bob", "role": "viewer" }] });
    assert_eq!(bench.call(&bench.alice, "PATCH", path, members).await.status, 200);
    typist.until("no keys", |viewer| viewer.state["you_write"] == false);
    typist.ask("take");
    typist.type_keys("in-vain");
    served.farm.say(0, "marker");
    typist.sees("marker");
    assert!(!typist.seen.contains("in-vain"));
    let members = json!({ "remove": ["bob"] });
    assert_eq!(bench.call(&bench.alice, "PATCH", path, members).await.status, 200);
    assert!(typist.ends().contains("may not watch"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_ends_with_its_token() {
    let served = Served::start(Bench::new().await).await;
    served.boots("alice/dev").await;
    let mut alice = served.watch(&served.bench.alice, "");
    alice.sees("sim login: ");
    let path = "/v1/users/alice/tokens/alice";
    let ended = served.bench.call(&served.bench.admin, "DELETE", path, Value::Null).await;
    assert_eq!(ended.status, 204);
    assert!(alice.ends().contains("token is over"));
    served.until("the console is ended", async || !served.farm.bmc(0).has_console()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_its_tenants_and_the_next_one_sees_nothing_of_it() {
    let served = Served::start(Bench::with_console_logs().await).await;
    let bench = &served.bench;
    let stop = tokio_util::sync::CancellationToken::new();
    let logging = tokio::spawn(console::run(bench.context.clone(), stop.clone()));
    served.boots("alice/dev").await;
    // Nobody watches, and it is logged.
    served.until("a console", async || served.farm.bmc(0).has_console()).await;
    let mut alice = served.watch(&bench.alice, "");
    assert!(
        served
            .bench
            .call(&bench.alice, "GET", "/v1/nodes/n01/console/log", Value::Null)
            .await
            .json()["logged"]
            == true
    );
    served.farm.say(0, "secret of alice\r\n");
    alice.sees("secret of alice");
    served
        .until("the secret is logged", async || {
            served.log(&bench.alice).await.contains(&"secret of alice".to_owned())
        })
        .await;
    let follow = "/v1/nodes/n01/console/log?lines=0";
    let cursor = bench.call(&served.bob, "GET", follow, Value::Null).await.json()["cursor"].clone();

    // bob's is wanted, and alice's still ends: he sees nothing yet.
    let body = json!({ "nodeset": "n01", "image": "a", "overlay": "bob/dev", "force": true });
    assert_eq!(bench.post("/v1/switch", body).await.status, 202);
    assert_eq!(served.connect(&served.bob, "").err(), Some(403));
    served.farm.say(0, "last words of alice's\r\n");
    alice.sees("last words");
    served.boots("bob/dev").await;
    assert!(alice.ends().contains("may not watch"));
    assert_eq!(served.connect(&bench.alice, "?watch=true").err(), Some(403));

    let mut bob = served.watch(&served.bob, "");
    bob.until("a state", |viewer| viewer.state["connected"] == true);
    served.farm.say(0, "hello bob\r\n\u{1b}[31mprompt> ");
    bob.sees("prompt> ");
    assert!(!bob.seen.contains("alice"), "{}", bob.seen);
    // A follower waits for it; a line without an end is logged in a moment.
    let path =
        format!("{}&wait_s=20&after={}", follow.replace("=0", "=9"), cursor.as_str().unwrap());
    let mut news = Vec::new();
    while !news.iter().any(|line: &Value| line["text"] == "\u{1b}[31mprompt> ") {
        let log = bench.call(&served.bob, "GET", &path, Value::Null).await.json();
        news = log["items"].as_array().unwrap().clone();
    }
    assert_eq!(news[0]["text"], "hello bob");
    let (bobs, alices) = (served.log(&served.bob).await, served.log(&bench.alice).await);
    assert!(!bobs.concat().contains("alice"), "{bobs:?}");
    assert!(
        alices.concat().contains("last words") && !alices.concat().contains("bob"),
        "{alices:?}"
    );
    let all = served.log(&bench.admin).await;
    assert!(all.contains(&"secret of alice".to_owned()) && all.contains(&"hello bob".to_owned()));

    // What a fault would carry, without what would do something to a terminal.
    let node = bench.node(1).await;
    let (_, lines) = bench.context.consoles.evidence(&node.id).unwrap();
    assert_eq!(lines, ["hello bob", "prompt> "]);

    // With haasd the console ends at the BMC; the next haasd shows what was there.
    stop.cancel();
    logging.await.unwrap();
    assert!(bob.ends().contains("stopping"));
    served.until("the console is ended", async || !served.farm.bmc(0).has_console()).await;
    let next = console::Consoles::new(&bench.context.config);
    let mut tx = bench.context.store.read().await.unwrap();
    let seen = next.tenancy(&mut tx, &node).await.unwrap();
    let name = "bob".parse().unwrap();
    let watching = next.watch(&node, &seen, &name, console::Grip::Watch).unwrap();
    let before = String::from_utf8_lossy(&watching.before).into_owned();
    assert!(before.contains("hello bob\r\n") && !before.contains("alice"), "{before}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_that_was_taken_comes_back_and_the_gap_is_in_the_log() {
    let served = Served::start(Bench::with_console_logs().await).await;
    served.boots("alice/dev").await;
    let mut alice = served.watch(&served.bench.alice, "");
    alice.sees("sim login: ");
    // Another tool takes it; `~t` takes it back.
    let options = ipmi_lan::Options::default();
    let other = ipmi_lan::Fleet::new(options);
    let account = ipmi_lan::Account::new("admin", "s3cret").unwrap();
    let tool = other.bmc(served.farm.addresses()[0], &account);
    let mut taken = tool.take_console(Instant::now() + LONG).await.unwrap();
    alice.until("why there is none", |viewer| {
        viewer.state["reason"].as_str().is_some_and(|reason| reason.contains("another session"))
    });
    alice.ask("take");
    alice.until("the console", |viewer| viewer.state["connected"] == true);
    while taken.read().await.is_some_and(|read| read.is_ok()) {}

    // Taken once more and given back: nobody has to ask.
    alice.seen.clear();
    let taken = tool.take_console(Instant::now() + LONG).await.unwrap();
    alice.until("the loss", |viewer| viewer.state["connected"] == false);
    drop(taken);
    alice.until("the console", |viewer| viewer.state["connected"] == true);
    alice.sees("sim login: ");
    let log = served.log(&served.bench.alice).await;
    let marks = log.iter().filter(|line| line.starts_with("lost: ")).count();
    assert!(marks >= 2 && log.iter().filter(|line| *line == "connected").count() >= 3, "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_console_says_so() {
    let setup = Setup { no_console: true, ..Setup::new("admin", "s3cret") };
    let served = Served::with(Bench::new().await, &setup).await;
    served.boots("alice/dev").await;
    let mut alice = served.watch(&served.bench.alice, "");
    alice.until("why there is none", |viewer| {
        viewer.state["reason"].as_str().is_some_and(|reason| reason.contains("is disabled"))
    });
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    let none = bench.call(&bench.admin, "GET", "/v1/nodes/n01/console", Value::Null).await;
    assert_eq!((none.status, none.code().as_str()), (409, "no-console"));
    for (query, status) in [("?lines=10001", 422), ("?after=../x:1", 422), ("", 200)] {
        let path = format!("/v1/nodes/n01/console/log{query}");
        let answer = bench.call(&bench.admin, "GET", &path, Value::Null).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}
