//! The agent's channel, from the agent's side (haas_api::agent): one WebSocket over TLS, kept up.
//!
//! What was said is numbered once and said again after each reconnection until it is acknowledged.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use haas_api::{
    agent::{Frame, Hello, HelloAnswer, HelloAuth, Kexec, PROTO, ToAgent, ToController, Welcome},
    pin::pinned_client_config,
};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use tungstenite::{Message, WebSocket};

type Socket = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Something is said at least so often.
const SPEAK: Duration = Duration::from_secs(5);
/// haasd acknowledges what is said; a longer silence means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(15);

/// What the channel brings.
#[derive(Debug)]
pub(crate) enum Heard {
    Welcome(Box<Welcome>),
    Refused(String),
    Said(ToAgent),
}

pub(crate) struct Link {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    auth: HelloAuth,
    kexec: Option<Kexec>,
    socket: Option<Socket>,
    tried_at: Option<Instant>,
    heard_at: Instant,
    spoke_at: Instant,
    unacknowledged: VecDeque<(u64, ToController)>,
    next: u64,
    taken: u64,
}

/// What haasd answers to who calls as an agent.
#[derive(Debug)]
pub enum Called {
    /// It is one.
    Welcome(Box<Welcome>),
    /// It is none, and why.
    Refused(String),
    /// The connection is ended without a word.
    Ended,
}

/// Calls haasd once as an agent that knows this, from the namespace of the calling thread.
///
/// # Errors
/// When haasd does not answer, or is not the one with this fingerprint.
pub fn call(url: &str, fingerprint: &str, auth: HelloAuth) -> Result<Called> {
    let mut link = Link::new(url, fingerprint, "", None)?;
    link.auth = auth;
    Ok(match link.hello()? {
        Some((HelloAnswer::Welcome(welcome), _)) => Called::Welcome(welcome),
        Some((HelloAnswer::Refused { reason }, _)) => Called::Refused(reason),
        None => Called::Ended,
    })
}

impl Link {
    /// Connects at the first [`Link::hear`].
    pub(crate) fn new(
        url: &str,
        fingerprint: &str,
        token: &str,
        kexec: Option<Kexec>,
    ) -> Result<Self> {
        let address = url.strip_prefix("https://").context("haas.url is not https")?;
        Ok(Self {
            address: address.parse().with_context(|| format!("haas.url={url}"))?,
            tls: Arc::new(pinned_client_config(fingerprint)?),
            auth: HelloAuth::Token(token.to_owned()),
            kexec,
            socket: None,
            tried_at: None,
            heard_at: Instant::now(),
            spoke_at: Instant::now(),
            unacknowledged: VecDeque::new(),
            next: 1,
            taken: 0,
        })
    }

    /// Says something, now or when there is a connection again.
    pub(crate) fn say(&mut self, msg: ToController) {
        if matches!(msg, ToController::Heartbeat(_)) {
            self.unacknowledged.retain(|(_, m)| !matches!(m, ToController::Heartbeat(_)));
        }
        let seq = self.next;
        self.next += 1;
        if !matches!(msg, ToController::Ack) {
            self.unacknowledged.push_back((seq, msg.clone()));
        }
        self.send(seq, msg);
    }

    /// Whether haasd has taken everything that was said.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    /// What haasd says, if it says something within `within`. Connects where there is no connection.
    pub(crate) fn hear(&mut self, within: Duration) -> Option<Heard> {
        if self.socket.is_none() {
            let pause =
                self.tried_at.map_or(Duration::ZERO, |at| PAUSE.saturating_sub(at.elapsed()));
            if pause > within {
                std::thread::sleep(within);
                return None;
            }
            std::thread::sleep(pause);
            self.tried_at = Some(Instant::now());
            return self.connect().ok();
        }
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.spoke_at.elapsed() > SPEAK {
                self.say(ToController::Ack);
            }
            let socket = self.socket.as_mut()?;
            let wait = left.max(Duration::from_millis(1));
            if socket.get_ref().sock.set_read_timeout(Some(wait)).is_err() {
                self.socket = None;
                return None;
            }
            match socket.read() {
                Ok(Message::Text(text)) => {
                    self.heard_at = Instant::now();
                    if let Some(said) = self.take(&text) {
                        return Some(Heard::Said(said));
                    }
                }
                Ok(Message::Close(_)) => self.socket = None,
                Ok(_) => {}
                Err(tungstenite::Error::Io(e))
                    if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => self.socket = None,
            }
            if self.heard_at.elapsed() > SILENCE {
                self.socket = None;
            }
            if left.is_zero() || self.socket.is_none() {
                return None;
            }
        }
    }

    fn take(&mut self, text: &str) -> Option<ToAgent> {
        let frame: Frame<ToAgent> = serde_json::from_str(text).ok()?;
        self.unacknowledged.retain(|(seq, _)| *seq > frame.ack);
        if frame.seq <= self.taken {
            return None;
        }
        self.taken = frame.seq;
        if matches!(frame.msg, ToAgent::Ack) {
            return None;
        }
        self.say(ToController::Ack);
        Some(frame.msg)
    }

    /// The answer to a hello, and the connection; none where it was ended in place of one.
    fn hello(&self) -> Result<Option<(HelloAnswer, Socket)>> {
        let tcp = TcpStream::connect_timeout(&self.address, Duration::from_secs(2))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = StreamOwned::new(ClientConnection::new(self.tls.clone(), name)?, tcp);
        let (mut socket, _) =
            tungstenite::client(format!("wss://{}/v1/agent", self.address), stream)
                .map_err(|e| anyhow::anyhow!("no WebSocket: {e}"))?;
        let hello = Hello {
            proto: PROTO,
            version: "sim".to_owned(),
            auth: self.auth.clone(),
            kexec: self.kexec.clone(),
            notices: true,
        };
        socket.send(Message::text(serde_json::to_string(&hello)?))?;
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => return Ok(Some((serde_json::from_str(&text)?, socket))),
                Ok(Message::Close(_)) => return Ok(None),
                Ok(_) => {}
                Err(error) if is_the_end(&error) => return Ok(None),
                Err(error) => return Err(error).context("no answer to the hello"),
            }
        }
    }

    fn connect(&mut self) -> Result<Heard> {
        let (answer, socket) = self.hello()?.context("closed before the welcome")?;
        let welcome = match answer {
            HelloAnswer::Welcome(welcome) => welcome,
            HelloAnswer::Refused { reason } => return Ok(Heard::Refused(reason)),
        };
        if let Some(credential) = &welcome.credential {
            self.auth = HelloAuth::Credential(credential.clone());
        }
        self.unacknowledged.retain(|(seq, _)| *seq > welcome.ack);
        self.taken = 0;
        self.heard_at = Instant::now();
        self.socket = Some(socket);
        for (seq, msg) in self.unacknowledged.clone() {
            self.send(seq, msg);
        }
        Ok(Heard::Welcome(welcome))
    }

    fn send(&mut self, seq: u64, msg: ToController) {
        let Some(socket) = &mut self.socket else { return };
        self.spoke_at = Instant::now();
        let frame = Frame { seq, ack: self.taken, msg };
        let text = serde_json::to_string(&frame).expect("frames are plain data");
        if socket.send(Message::text(text)).is_err() {
            self.socket = None;
        }
    }
}

/// Whether the other side has ended the connection, with or without a word.
fn is_the_end(error: &tungstenite::Error) -> bool {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match error {
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ResetWithoutClosingHandshake) => true,
        tungstenite::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        _ => false,
    }
}
