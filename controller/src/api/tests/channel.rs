//! The agents' channel on a real WebSocket: who is let in, and what comes of hostile input.

use std::net::{SocketAddr, TcpStream};

use haas_api::{
    agent::{
        BootStage, Frame, Heartbeat, Hello, HelloAnswer, HelloAuth, Kexec, PROTO, ToAgent,
        ToController, Welcome,
    },
    check::{CheckReport, CheckState},
    operation::OperationState,
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tungstenite::{Message, WebSocket, stream::MaybeTlsStream};

use crate::{
    model::{Attempt, AttemptState, Cause, Node},
    reconcile,
    testing::Bench,
};

pub(super) struct Served {
    pub(super) bench: Bench,
    address: SocketAddr,
    pub(super) attempt: Attempt,
    pub(super) token: String,
}

impl Served {
    /// A node whose boot attempt is open, and the API on a socket.
    pub(super) async fn start() -> Self {
        Self::of(json!({ "nodeset": "n01", "image": "a", "overlay": "none" })).await
    }

    /// The same by this switch.
    async fn of(body: Value) -> Self {
        let bench = Bench::new().await;
        bench.add_nodes([1]).await;
        bench.add_image("a").await;
        assert_eq!(bench.post("/v1/switch", body).await.status, 202);
        let node = bench.node(1).await;
        // Its image has no files to export, and nothing here reads them.
        let _ = reconcile::open_attempt(&bench.context, &node, None, Cause::Desired).await;
        let mut tx = bench.context.store.read().await.unwrap();
        let attempt = tx.last_attempt(&node.id).await.unwrap().expect("it was opened");
        drop(tx);
        let token = bench.context.master_key.boot_token(&attempt.id).expose().clone();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = bench.router.clone().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(axum::serve(listener, service).into_future());
        Self { bench, address, attempt, token }
    }

    /// The agent of node 1 calls.
    async fn call(&self) -> Agent {
        self.call_from([127, 77, 0, 1]).await
    }

    async fn call_from(&self, source: [u8; 4]) -> Agent {
        let address = self.address;
        let connected = tokio::task::spawn_blocking(move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
            socket.connect(&address.into()).unwrap();
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            let url = format!("ws://{address}/v1/agent");
            tungstenite::client(url, MaybeTlsStream::Plain(stream)).unwrap().0
        });
        Agent(Some(connected.await.unwrap()))
    }

    /// What is answered to a hello from this address.
    pub(super) async fn hello_from(&self, source: [u8; 4], auth: HelloAuth) -> String {
        let mut agent = self.call_from(source).await;
        agent
            .say(&Hello { proto: PROTO, version: "1".into(), auth, kexec: None, notices: false })
            .await;
        agent.hear().await.expect("hello is answered")
    }

    /// An agent that has said hello with this.
    async fn hello(&self, auth: HelloAuth) -> (Agent, HelloAnswer) {
        let mut agent = self.call().await;
        agent
            .say(&Hello { proto: PROTO, version: "1".into(), auth, kexec: None, notices: false })
            .await;
        let answer = agent.hear().await.expect("hello is answered");
        (agent, serde_json::from_str(&answer).unwrap())
    }

    /// An agent that can start another kernel, as it says, and is let in; with its new credential.
    pub(super) async fn hello_as(&self, auth: HelloAuth, kexec: Kexec) -> (Agent, Option<String>) {
        let mut agent = self.call().await;
        let (version, kexec) = ("1".to_owned(), Some(kexec));
        agent.say(&Hello { proto: PROTO, version, auth, kexec, notices: false }).await;
        let answer = agent.hear().await.expect("hello is answered");
        match serde_json::from_str(&answer).unwrap() {
            HelloAnswer::Welcome(welcome) => (agent, welcome.credential),
            HelloAnswer::Refused { reason } => panic!("refused: {reason}"),
        }
    }

    pub(super) async fn welcome(&self, auth: HelloAuth) -> (Agent, Welcome) {
        match self.hello(auth).await {
            (agent, HelloAnswer::Welcome(welcome)) => (agent, *welcome),
            (_, HelloAnswer::Refused { reason }) => panic!("refused: {reason}"),
        }
    }

    pub(super) async fn refusal(&self, auth: HelloAuth) -> String {
        match self.hello(auth).await {
            (mut agent, HelloAnswer::Refused { reason }) => {
                assert_eq!(agent.hear().await, None, "a refused agent is not listened to");
                reason
            }
            (_, HelloAnswer::Welcome(_)) => panic!("let in"),
        }
    }

    /// A proof of what is wanted, by an agent that says itself when it is ready; its overlay is mounted.
    async fn right_proof(&self) -> Value {
        self.bench.advance(&self.attempt, BootStage::Overlay).await;
        let node = self.node().await;
        let mut tx = self.bench.context.store.read().await.unwrap();
        let image = tx.desired(&node.id, 1).await.unwrap().unwrap().wanted.image.unwrap();
        json!({
            "type": "proof", "generation": 1, "wwid": crate::exports::wwid(&image.digest),
            "target": crate::images::manifest::target_name(&image.digest), "read_only": true,
            "overlay_id": null, "rank": 0, "hostname": "n01", "addresses": ["127.77.0.1/24"],
            "machine_id": "0", "kernel": "6.1.0", "says_ready": true
        })
    }

    /// Commits the operation that is under way, as the reconciler does.
    async fn commit(&self) {
        let context = &self.bench.context;
        let mut tx = context.store.write().await.unwrap();
        let id = tx.running_operations().await.unwrap().remove(0).id;
        assert!(tx.commit_operation(&id, 1).await.unwrap());
        let released = tx.release_attempts(&id, context.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(released, std::slice::from_ref(&self.attempt.id));
        context.agents.tell(&self.attempt.id, ToAgent::Admit);
    }

    pub(super) async fn attempt(&self) -> Attempt {
        let mut tx = self.bench.context.store.read().await.unwrap();
        tx.attempt(&self.attempt.id).await.unwrap().unwrap()
    }

    pub(super) async fn node(&self) -> Node {
        self.bench.node(1).await
    }
}

/// The other end, driven in a thread that may block.
pub(super) struct Agent(Option<WebSocket<MaybeTlsStream<TcpStream>>>);

impl Agent {
    async fn on<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut WebSocket<MaybeTlsStream<TcpStream>>) -> T + Send + 'static,
    ) -> T {
        let mut socket = self.0.take().expect("it is back after each use");
        let (socket, done) = tokio::task::spawn_blocking(move || {
            let done = work(&mut socket);
            (socket, done)
        })
        .await
        .unwrap();
        self.0 = Some(socket);
        done
    }

    async fn send(&mut self, message: Message) {
        // The other side may have closed already; what is heard next tells.
        self.on(|socket| drop(socket.send(message))).await;
    }

    async fn say(&mut self, value: &impl serde::Serialize) {
        self.send(Message::text(serde_json::to_string(value).unwrap())).await;
    }

    /// The next text; none once the other side has ended the connection.
    async fn hear(&mut self) -> Option<String> {
        self.on(|socket| {
            loop {
                match socket.read() {
                    Ok(Message::Text(text)) => return Some(text.to_string()),
                    Ok(Message::Close(_)) => return None,
                    Ok(_) => {}
                    Err(tungstenite::Error::Io(e))
                        if e.kind() == std::io::ErrorKind::WouldBlock =>
                    {
                        panic!("neither an answer nor an end")
                    }
                    Err(_) => return None,
                }
            }
        })
        .await
    }

    /// Says this, whatever is heard next.
    pub(super) async fn tell(&mut self, seq: u64, msg: Value) {
        self.say(&json!({ "seq": seq, "ack": 0, "msg": msg })).await;
    }

    /// What haasd says next, and the last of our own frames that it has taken.
    pub(super) async fn told(&mut self) -> (ToAgent, u64) {
        let text = self.hear().await.expect("haasd says something");
        let frame: Frame<ToAgent> = serde_json::from_str(&text).unwrap();
        (frame.msg, frame.ack)
    }

    /// Waits until haasd has taken our frame of this number.
    pub(super) async fn acknowledged(&mut self, seq: u64) {
        while self.told().await.1 < seq {}
    }

    /// Waits until haasd has closed the connection.
    pub(super) async fn is_gone(&mut self) {
        while self.hear().await.is_some() {}
    }

    pub(super) async fn frame(&mut self, seq: u64, msg: ToController) -> Frame<ToAgent> {
        self.say(&Frame { seq, ack: 0, msg }).await;
        let text = self.hear().await.expect("a frame is answered");
        serde_json::from_str(&text).unwrap()
    }
}

pub(super) fn stage(stage: BootStage) -> ToController {
    ToController::Stage { stage, uptime_ms: 1 }
}

pub(super) fn token(text: &str) -> HelloAuth {
    HelloAuth::Token(text.to_owned())
}

#[tokio::test]
async fn a_token_from_another_address_than_its_nodes_opens_nothing() {
    let served = Served::start().await;
    let auth = HelloAuth::Token(served.token.clone());
    let answer = served.hello_from([127, 77, 0, 2], auth.clone()).await;
    assert!(answer.contains("another address"), "{answer}");
    served.welcome(auth).await;
}

#[tokio::test]
async fn a_token_opens_the_channel_once_and_its_credential_again() {
    let served = Served::start().await;
    let (mut agent, welcome) = served.welcome(token(&served.token)).await;
    assert_eq!((welcome.ack, welcome.plan.attempt.as_str()), (0, served.attempt.id.as_str()));
    assert_eq!(agent.frame(1, stage(BootStage::Root)).await.ack, 1);
    assert_eq!(served.attempt().await.stage, BootStage::Root);
    assert!(served.refusal(token(&served.token)).await.contains("used before"));
    let credential = welcome.credential.expect("a token is answered with a credential");
    let (_, again) = served.welcome(HelloAuth::Credential(credential)).await;
    assert_eq!((again.ack, again.credential), (1, None));
}

#[tokio::test]
async fn who_is_not_known_is_refused_with_a_reason() {
    let served = Served::start().await;
    let wrong = format!("{}x", served.token);
    assert!(served.refusal(token(&wrong)).await.contains("unknown"));
    assert!(served.refusal(token("")).await.contains("unknown"));
    let as_credential = HelloAuth::Credential(served.token.clone());
    assert!(served.refusal(as_credential).await.contains("unknown"));
    let mut agent = served.call().await;
    let auth = token(&served.token);
    agent
        .say(&Hello { proto: PROTO + 1, version: "9".into(), auth, kexec: None, notices: false })
        .await;
    assert!(agent.hear().await.unwrap().contains("version"));
    assert!(!served.attempt().await.token_spent, "a refusal spends nothing");
}

#[tokio::test]
async fn the_credential_of_an_attempt_that_is_over_opens_nothing() {
    let served = Served::start().await;
    let (_, welcome) = served.welcome(token(&served.token)).await;
    let mut tx = served.bench.context.store.write().await.unwrap();
    tx.end_attempts(&served.attempt.node_id, 1).await.unwrap();
    tx.commit().await.unwrap();
    let credential = HelloAuth::Credential(welcome.credential.unwrap());
    assert!(served.refusal(credential).await.contains("over"));
}

#[tokio::test]
async fn a_credential_from_another_address_than_its_token_opens_nothing() {
    let served = Served::start().await;
    let (_, welcome) = served.welcome(token(&served.token)).await;
    let credential = HelloAuth::Credential(welcome.credential.unwrap());
    let mut thief = served.call_from([127, 77, 0, 2]).await;
    let (version, auth) = ("1".to_owned(), credential.clone());
    thief.say(&Hello { proto: PROTO, version, auth, kexec: None, notices: false }).await;
    // No word: an agent that is refused in words does not call again.
    thief.is_gone().await;
    served.welcome(credential).await;
}

#[tokio::test]
async fn garbage_ends_the_connection_and_changes_nothing() {
    let served = Served::start().await;
    for garbage in [
        Message::text(""),
        Message::text("{"),
        Message::text("{\"proto\":1}"),
        Message::text("null"),
        Message::text("[".repeat(100_000)),
        Message::binary(vec![0xff; 64]),
        Message::text("x".repeat(1 << 20)),
    ] {
        let mut agent = served.call().await;
        agent.send(garbage).await;
        assert_eq!(agent.hear().await, None);
    }
    assert_eq!(served.attempt().await, served.attempt);
    // The door is still open for the right one, who then talks garbage too.
    let (mut agent, welcome) = served.welcome(token(&served.token)).await;
    // Once a frame is answered, all that the welcome led to is written.
    agent.frame(1, ToController::Ack).await;
    let before = served.attempt().await;
    let credential = HelloAuth::Credential(welcome.credential.unwrap());
    for garbage in ["{\"seq\":1}", "{\"seq\":-1,\"ack\":0,\"msg\":{\"type\":\"ack\"}}", "\u{0}"] {
        agent.send(Message::text(garbage)).await;
        assert_eq!(agent.hear().await, None, "{garbage}");
        agent = served.welcome(credential.clone()).await.0;
    }
    assert_eq!(served.attempt().await, before);
}

#[tokio::test]
async fn a_frame_is_taken_once_and_late_ones_are_ignored() {
    let served = Served::start().await;
    let (mut agent, _) = served.welcome(token(&served.token)).await;
    let beat = |dirty_kib| ToController::Heartbeat(Heartbeat { dirty_kib, ..Heartbeat::default() });
    for (seq, dirty, ack, kept) in [(5, 50, 5, 50), (5, 51, 5, 50), (3, 30, 5, 50), (6, 60, 6, 60)]
    {
        let answer = agent.frame(seq, beat(dirty)).await;
        assert_eq!(answer.ack, ack);
        assert_eq!(served.node().await.heartbeat.unwrap().dirty_kib, kept, "frame {seq}");
    }
    // Heartbeats pass by; what must not be done twice is noted.
    assert_eq!(served.attempt().await.agent_seq, 0);
    agent.frame(7, stage(BootStage::Root)).await;
    assert_eq!(served.attempt().await.agent_seq, 7);
}

#[tokio::test]
async fn ready_is_for_a_right_proof_alone_to_say() {
    let served = Served::start().await;
    let (mut agent, _) = served.welcome(token(&served.token)).await;
    agent.frame(1, stage(BootStage::Ready)).await;
    assert_eq!(served.attempt().await.state, AttemptState::Open);
    let mut proof = json!({
        "type": "proof", "generation": 1, "wwid": "naa.0", "target": "iqn.x", "read_only": true,
        "overlay_id": null, "rank": 0, "hostname": "n01", "addresses": ["127.77.0.1/24"],
        "machine_id": "0", "kernel": "6.1.0"
    });
    agent.say(&json!({ "seq": 2, "ack": 0, "msg": proof })).await;
    let answer: Value = serde_json::from_str(&agent.hear().await.unwrap()).unwrap();
    assert_eq!(answer["msg"]["type"], "not_ready");
    let reason = answer["msg"]["reason"].as_str().unwrap();
    assert!(reason.contains("not mounted"), "{answer}");
    agent.frame(3, stage(BootStage::Overlay)).await;
    agent.say(&json!({ "seq": 4, "ack": 0, "msg": proof })).await;
    let answer: Value = serde_json::from_str(&agent.hear().await.unwrap()).unwrap();
    assert!(answer["msg"]["reason"].as_str().unwrap().contains("naa.0"), "{answer}");
    assert_eq!(served.attempt().await.state, AttemptState::Open);
    let node = served.node().await;
    let mut tx = served.bench.context.store.read().await.unwrap();
    let image = tx.desired(&node.id, 1).await.unwrap().unwrap().wanted.image.unwrap();
    drop(tx);
    proof["wwid"] = json!(crate::exports::wwid(&image.digest));
    proof["target"] = json!(crate::images::manifest::target_name(&image.digest));
    agent.say(&json!({ "seq": 5, "ack": 0, "msg": proof })).await;
    let answer: Value = serde_json::from_str(&agent.hear().await.unwrap()).unwrap();
    assert_eq!(answer["msg"]["type"], "admit", "{answer}");
    assert_eq!(served.attempt().await.state, AttemptState::Ready);
}

#[tokio::test]
async fn who_says_ready_itself_is_ready_after_a_right_proof_and_not_before() {
    let served = Served::start().await;
    let (mut agent, _) = served.welcome(token(&served.token)).await;
    let proof = served.right_proof().await;
    agent.frame(1, stage(BootStage::Ready)).await;
    assert_eq!(served.attempt().await.state, AttemptState::Open, "nothing was proved");
    agent.say(&json!({ "seq": 2, "ack": 0, "msg": proof })).await;
    let answer: Value = serde_json::from_str(&agent.hear().await.unwrap()).unwrap();
    assert_eq!(answer["msg"]["type"], "admit", "{answer}");
    assert_eq!(served.attempt().await.state, AttemptState::Open, "nobody can log in yet");
    agent.frame(3, stage(BootStage::Ready)).await;
    assert_eq!(served.attempt().await.state, AttemptState::Ready);
}

/// What is answered to a frame that is said as JSON.
async fn answer(agent: &mut Agent, seq: u64, msg: &Value) -> Value {
    agent.say(&json!({ "seq": seq, "ack": 0, "msg": msg })).await;
    let text = agent.hear().await.expect("a frame is answered");
    serde_json::from_str::<Value>(&text).unwrap()["msg"]["type"].clone()
}

fn transaction() -> Value {
    json!({ "nodeset": "n01", "image": "a", "overlay": "none", "min_success": "100%" })
}

#[tokio::test]
async fn in_a_transaction_users_are_let_in_only_at_the_commit() {
    let served = Served::of(transaction()).await;
    let (mut agent, _) = served.welcome(token(&served.token)).await;
    let proof = served.right_proof().await;
    assert_eq!(answer(&mut agent, 1, &proof).await, "ack");
    let held = served.attempt().await;
    assert!(held.held_since.is_some() && held.state == AttemptState::Open, "{held:?}");
    agent.frame(2, stage(BootStage::Ready)).await;
    assert_eq!(served.attempt().await.state, AttemptState::Open, "it was not let in");
    served.commit().await;
    let told: Value = serde_json::from_str(&agent.hear().await.unwrap()).unwrap();
    assert_eq!(told["msg"]["type"], "admit", "{told}");
    assert_eq!(served.attempt().await.held_since, None);
    agent.frame(3, stage(BootStage::Ready)).await;
    assert_eq!(served.attempt().await.state, AttemptState::Ready);
}

#[tokio::test]
async fn who_is_there_only_after_all_were_sent_back_lets_nobody_in() {
    let served = Served::of(transaction()).await;
    let (mut agent, _) = served.welcome(token(&served.token)).await;
    let proof = served.right_proof().await;
    let context = &served.bench.context;
    let mut tx = context.store.write().await.unwrap();
    let operation = tx.running_operations().await.unwrap().remove(0);
    let (from, to) = (OperationState::Running, OperationState::RollingBack);
    assert!(tx.turn_operation(&operation.id, from, to, "too few").await.unwrap());
    let all = crate::requests::Which::All;
    let sent = crate::requests::send_back(&mut tx, &operation, all, "haasd", "").await.unwrap();
    assert_eq!(sent, 1);
    tx.commit().await.unwrap();
    assert_eq!(answer(&mut agent, 1, &proof).await, "ack");
    assert_eq!(served.attempt().await.state, AttemptState::Open, "it was not let in");
}

#[tokio::test]
async fn who_was_away_at_the_commit_is_let_in_when_it_proves_again() {
    let served = Served::of(transaction()).await;
    let (mut agent, welcome) = served.welcome(token(&served.token)).await;
    let proof = served.right_proof().await;
    assert_eq!(answer(&mut agent, 1, &proof).await, "ack");
    drop(agent);
    served.commit().await;
    let credential = HelloAuth::Credential(welcome.credential.unwrap());
    let (mut agent, _) = served.welcome(credential).await;
    assert_eq!(answer(&mut agent, 2, &proof).await, "admit");
}

#[tokio::test]
async fn ready_checks_are_kept_with_their_output_and_shown() {
    let served = Served::start().await;
    let (mut agent, _) = served.welcome(token(&served.token)).await;
    let report = |position, state, output: &str| CheckReport {
        position,
        command: vec!["mountpoint".into(), "/scratch".into()],
        within_s: 60,
        state,
        runs: 1,
        outcome: "exit code 1".into(),
        exit_code: Some(1),
        took_ms: 3,
        output: output.to_owned(),
    };
    let long = "x".repeat(100_000);
    for (seq, report) in (1..).zip([
        report(1, CheckState::Running, "b"),
        report(0, CheckState::Running, "no"),
        report(0, CheckState::Passed, "yes"),
        report(1, CheckState::Failed, &long),
        report(9_999, CheckState::Passed, "none has so many"),
    ]) {
        agent.frame(seq, ToController::Check(report)).await;
    }
    let kept = served.attempt().await.checks;
    let brief: Vec<_> = kept.iter().map(|c| (c.position, c.state, c.output.len())).collect();
    assert_eq!(brief, [(0, CheckState::Passed, 3), (1, CheckState::Failed, 4_096)]);
    let bench = &served.bench;
    let shown = bench.call(&bench.admin, "GET", "/v1/nodes/n01", Value::Null).await.json();
    assert_eq!(shown["observed"]["checks"][0]["output"], "yes", "{shown}");
}

#[tokio::test]
async fn an_agent_that_names_its_ssh_keys_gets_certificates_and_an_old_one_need_not() {
    let served = Served::start().await;
    let (mut agent, welcome) = served.welcome(token(&served.token)).await;
    let ssh = welcome.plan.ssh.expect("whom to trust");
    assert_eq!(ssh.host_ca, served.bench.context.ssh_ca.host_ca());
    let keys = json!({ "seq": 1, "ack": 0, "msg": { "type": "ssh_keys", "users": [],
        "host": [{ "key": ssh.user_ca, "certify": true }] } });
    agent.say(&keys).await;
    let answer: Value = serde_json::from_str(&agent.hear().await.unwrap()).unwrap();
    assert_eq!((&answer["ack"], &answer["msg"]["type"]), (&json!(1), &json!("ssh_certificates")));
    let certificate = answer["msg"]["host"][0].as_str().unwrap();
    assert!(certificate.starts_with("ssh-ed25519-cert-v01@openssh.com AAAA"), "{answer}");
    assert_eq!(answer["msg"]["renew_in_s"], 30 * 24 * 3600);
    // One that has never heard of it goes on as ever.
    agent.frame(2, stage(BootStage::Root)).await;
    assert_eq!(served.attempt().await.stage, BootStage::Root);
}
