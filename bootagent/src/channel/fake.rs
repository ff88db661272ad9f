//! A haasd for tests: real TLS, real WebSocket, and nothing behind them.

use std::{
    io,
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use haas_api::agent::{
    BootPlan, Frame, Hello, HelloAnswer, OverlayPlan, PROTO, ToAgent, ToController, Welcome,
};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer};
use tungstenite::{Message, WebSocket};

use crate::cmdline::Controller;

/// A plan without an overlay disk, for this rank.
pub(crate) fn plan(rank: u32) -> BootPlan {
    let text = r#"{
        "attempt": "a", "generation": 1, "cluster_id": "c", "node_id": "n", "node": "n01",
        "net": { "mac": "52:54:00:00:00:01", "address": "10.0.0.1/24", "gateway": null,
                 "dns": [], "domain": null, "mtu": null, "hosts": [] },
        "root": { "digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
                  "name": "minimal:latest", "portal": "10.0.0.2", "port": 3260, "target": "t",
                  "initiator": "i", "chap": null, "fstype": "erofs", "wwid": "naa.1" },
        "overlay": { "kind": "ram", "rank": 0 }, "logins": []
    }"#;
    let plan: BootPlan = serde_json::from_str(text).expect("a plan");
    BootPlan { overlay: OverlayPlan::Ram { rank }, ..plan }
}

/// Listens on loopback.
pub(crate) struct Haasd {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    fingerprint: String,
}

/// One agent's connection.
pub(crate) struct Connection {
    socket: WebSocket<StreamOwned<ServerConnection, TcpStream>>,
    seq: u64,
}

impl Haasd {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["haasd".to_owned()]).expect("a cert");
        let cert = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let tls =
            ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("ring has them")
                .with_no_client_auth()
                .with_single_cert(vec![cert.clone()], key.into())
                .expect("the key is the certificate's");
        Self {
            listener: TcpListener::bind("127.0.0.1:0").expect("a port"),
            tls: Arc::new(tls),
            fingerprint: haas_api::pin::fingerprint(&cert),
        }
    }

    /// This haasd, as a kernel command line would name it.
    pub(crate) fn controller(&self) -> Controller {
        Controller {
            url: format!("https://{}", self.listener.local_addr().expect("it is bound")),
            fingerprint: self.fingerprint.clone(),
            token: "token".to_owned(),
        }
    }

    /// Waits for an agent and welcomes it with this plan.
    pub(crate) fn welcome(&self, plan: BootPlan) -> Connection {
        let (tcp, _) = self.listener.accept().expect("an agent");
        let tls = ServerConnection::new(self.tls.clone()).expect("TLS");
        let mut socket = tungstenite::accept(StreamOwned::new(tls, tcp)).expect("a WebSocket");
        let hello: Hello = serde_json::from_str(&text(&mut socket)).expect("a hello");
        assert_eq!(hello.proto, PROTO);
        let welcome = Welcome { now_us: 0, ack: 0, credential: None, plan };
        let answer = HelloAnswer::Welcome(Box::new(welcome));
        let answer = serde_json::to_string(&answer).expect("plain data");
        socket.send(Message::text(answer)).expect("it listens");
        Connection { socket, seq: 0 }
    }
}

impl Connection {
    /// Waits for the next word of the agent and acknowledges it. Panics when the agent is gone.
    pub(crate) fn acknowledge(&mut self) -> ToController {
        let said: Frame<ToController> =
            serde_json::from_str(&text(&mut self.socket)).expect("a frame");
        self.seq += 1;
        let answer = Frame { seq: self.seq, ack: said.seq, msg: ToAgent::Ack };
        let answer = serde_json::to_string(&answer).expect("plain data");
        self.socket.send(Message::text(answer)).expect("it listens");
        said.msg
    }
}

fn text<S: io::Read + io::Write>(socket: &mut WebSocket<S>) -> String {
    loop {
        if let Message::Text(text) = socket.read().expect("the agent speaks") {
            return text.to_string();
        }
    }
}
