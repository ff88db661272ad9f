//! The agent's channel to haasd: one outgoing WebSocket over TLS, kept by one thread, for ever.
//!
//! What the agent says is numbered when it is first sent and kept until it is acknowledged, so that
//! nothing is lost with a connection; heartbeats that could not be sent are replaced by the next.
//! What haasd says is not repeated: who was away learns from the next [`Welcome`] what holds now.
//! haasd's numbers begin anew with each connection, since [`Hello`] acknowledges nothing.

use std::{
    collections::VecDeque,
    io,
    net::TcpStream,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use haas_api::{
    agent::{Frame, Hello, HelloAnswer, HelloAuth, PROTO, ToAgent, ToController, Welcome},
    pin::pinned_client_config,
};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use tungstenite::{Message, WebSocket, protocol::WebSocketConfig};

use crate::{
    cmdline::{Controller, host_and_port},
    fault::Fault,
    kexec, log,
};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const HELLO_WITHIN: Duration = Duration::from_secs(20);
/// How long a read waits before it is looked whether there is something to say.
const TURN: Duration = Duration::from_millis(100);
/// What is said and heard at the least, however long the agent works on something or is held.
const PACE: Pace = Pace { speak: Duration::from_secs(10), silence: Duration::from_secs(30) };
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(15);
/// A boot plan with every node of a large cluster in its hosts is some hundred KiB.
const MAX_MESSAGE: usize = 8 << 20;

type Socket = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

/// What the channel brings.
#[derive(Debug)]
pub(crate) enum Heard {
    /// haasd knows us. Comes with each connection.
    Welcome(Box<Welcome>),
    /// haasd does not know us, or no longer; the thread has ended.
    Refused(String),
    /// haasd says something.
    Said(ToAgent),
}

/// The agent's end of the channel.
#[derive(Debug)]
pub(crate) struct Channel {
    say: mpsc::Sender<ToController>,
    hear: mpsc::Receiver<Heard>,
    flushed: mpsc::Receiver<()>,
}

impl Channel {
    /// Starts the thread, which connects as soon as it can.
    pub(crate) fn start(controller: &Controller) -> Result<Self, Fault> {
        Self::start_at(controller, PACE)
    }

    fn start_at(controller: &Controller, pace: Pace) -> Result<Self, Fault> {
        let (host, port) = host_and_port(&controller.url).ok_or_else(|| {
            let cause = format!("haas.url={} is not https://ADDRESS:PORT", controller.url);
            Fault::hold("channel-url", cause)
        })?;
        let tls = pinned_client_config(&controller.fingerprint)
            .map_err(|e| Fault::hold("channel-tls", format!("TLS cannot be set up: {e}")))?;
        let (say, said) = mpsc::channel();
        let (heard, hear) = mpsc::channel();
        // Holds the one word "all is taken", however often it is said while nobody waits for it.
        let (flushing, flushed) = mpsc::sync_channel(1);
        let line = Line {
            address: (host, port).into(),
            tls: Arc::new(tls),
            auth: HelloAuth::Token(controller.token.clone()),
            pace,
            said,
            heard,
            flushing,
            waiting: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            next: 1,
            taken: 0,
        };
        thread::Builder::new()
            .name("channel".into())
            .stack_size(512 * 1024)
            .spawn(move || line.keep())
            .map_err(|e| Fault::retry("channel-thread", format!("no thread: {e}")))?;
        Ok(Self { say, hear, flushed })
    }

    /// Says something, now or when there is a connection again.
    pub(crate) fn say(&self, msg: ToController) {
        // The thread ends only when haasd has refused us, who then has nothing to hear.
        let _ = self.say.send(msg);
    }

    /// What haasd says, if it says something in time.
    pub(crate) fn hear(&self, within: Duration) -> Option<Heard> {
        match self.hear.recv_timeout(within) {
            Ok(heard) => Some(heard),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                thread::sleep(within);
                None
            }
        }
    }

    /// Says the last thing, and waits until haasd has taken it or the time is over.
    pub(crate) fn say_last(&self, msg: ToController, within: Duration) {
        while self.flushed.try_recv().is_ok() {}
        self.say(msg);
        let _ = self.flushed.recv_timeout(within);
    }
}

/// How a connection that is dead is told from one on which nobody has anything to say.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// The agent says something at least so often, and haasd acknowledges it.
    speak: Duration,
    /// Silence for this long means that the connection is dead.
    silence: Duration,
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    Lost(String),
    Refused(String),
}

impl<E: std::fmt::Display> From<E> for End {
    fn from(error: E) -> Self {
        Self::Lost(error.to_string())
    }
}

struct Line {
    address: std::net::SocketAddr,
    tls: Arc<ClientConfig>,
    auth: HelloAuth,
    pace: Pace,
    said: mpsc::Receiver<ToController>,
    heard: mpsc::Sender<Heard>,
    flushing: mpsc::SyncSender<()>,
    /// Not yet numbered.
    waiting: VecDeque<ToController>,
    /// Sent at least once.
    unacknowledged: VecDeque<(u64, ToController)>,
    next: u64,
    /// haasd's last number in this connection.
    taken: u64,
}

impl Line {
    fn keep(mut self) {
        let mut pause = RETRY_FIRST;
        let mut last = String::new();
        loop {
            let begun = Instant::now();
            match self.connect().and_then(|socket| self.talk(socket)) {
                Ok(()) => return,
                Err(End::Refused(reason)) => {
                    let _ = self.heard.send(Heard::Refused(reason));
                    return;
                }
                Err(End::Lost(why)) => {
                    if why != last {
                        log::error(&format!("no channel to haasd at {}: {why}", self.address));
                        last = why;
                    }
                }
            }
            if begun.elapsed() > self.pace.silence {
                pause = RETRY_FIRST;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    fn connect(&mut self) -> Result<Socket, End> {
        let tcp = TcpStream::connect_timeout(&self.address, CONNECT_WITHIN)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(HELLO_WITHIN))?;
        tcp.set_write_timeout(Some(HELLO_WITHIN))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = StreamOwned::new(ClientConnection::new(self.tls.clone(), name)?, tcp);
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let url = format!("wss://{}/v1/agent", self.address);
        let (mut socket, _) = tungstenite::client::client_with_config(url, stream, Some(limits))
            .map_err(|e| format!("no WebSocket: {e}"))?;

        let hello = Hello {
            proto: PROTO,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            auth: self.auth.clone(),
            kexec: Some(kexec::ability()),
            notices: true,
        };
        socket.send(Message::text(serde_json::to_string(&hello)?))?;
        let answer = loop {
            match socket.read()? {
                Message::Text(text) => break serde_json::from_str(&text)?,
                Message::Close(_) => return Err(End::Lost("closed before the welcome".into())),
                _ => {}
            }
        };
        let welcome = match answer {
            HelloAnswer::Welcome(welcome) => welcome,
            HelloAnswer::Refused { reason } => return Err(End::Refused(reason)),
        };
        if let Some(credential) = &welcome.credential {
            self.auth = HelloAuth::Credential(credential.clone());
        }
        self.acknowledged(welcome.ack);
        self.taken = 0;
        let _ = self.heard.send(Heard::Welcome(welcome));
        socket.get_ref().sock.set_read_timeout(Some(TURN))?;
        Ok(socket)
    }

    /// Talks until the connection ends, or `Ok` when the agent has dropped its end.
    fn talk(&mut self, mut socket: Socket) -> Result<(), End> {
        for (seq, msg) in self.unacknowledged.clone() {
            self.send(&mut socket, seq, msg)?;
        }
        let mut last_heard = Instant::now();
        let mut last_spoke = Instant::now();
        loop {
            loop {
                match self.said.try_recv() {
                    Ok(msg) => self.queue(msg),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
                }
            }
            if self.waiting.is_empty() && last_spoke.elapsed() > self.pace.speak {
                self.waiting.push_back(ToController::Ack);
            }
            while let Some(msg) = self.waiting.pop_front() {
                let seq = self.number(&msg);
                self.send(&mut socket, seq, msg)?;
                last_spoke = Instant::now();
            }
            match socket.read() {
                Ok(Message::Text(text)) => {
                    last_heard = Instant::now();
                    self.take(&mut socket, &text)?;
                }
                Ok(Message::Close(_)) => return Err(End::Lost("closed by haasd".into())),
                Ok(_) => last_heard = Instant::now(),
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
            if last_heard.elapsed() > self.pace.silence {
                return Err(End::Lost(format!("silent for {:?}", self.pace.silence)));
            }
        }
    }

    fn take(&mut self, socket: &mut Socket, text: &str) -> Result<(), End> {
        // A newer haasd may say what we do not know: it is passed over, not an end.
        let frame: Frame<ToAgent> = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => {
                log::error(&format!("haasd says something unknown: {error}"));
                return Ok(());
            }
        };
        self.acknowledged(frame.ack);
        if frame.seq <= self.taken {
            return Ok(());
        }
        self.taken = frame.seq;
        if !matches!(frame.msg, ToAgent::Ack) {
            let _ = self.heard.send(Heard::Said(frame.msg));
            let seq = self.number(&ToController::Ack);
            self.send(socket, seq, ToController::Ack)?;
        }
        Ok(())
    }

    fn queue(&mut self, msg: ToController) {
        if matches!(msg, ToController::Heartbeat(_)) {
            self.waiting.retain(|m| !matches!(m, ToController::Heartbeat(_)));
            self.unacknowledged.retain(|(_, m)| !matches!(m, ToController::Heartbeat(_)));
        }
        self.waiting.push_back(msg);
    }

    fn number(&mut self, msg: &ToController) -> u64 {
        let seq = self.next;
        self.next += 1;
        if !matches!(msg, ToController::Ack) {
            self.unacknowledged.push_back((seq, msg.clone()));
        }
        seq
    }

    fn send(&self, socket: &mut Socket, seq: u64, msg: ToController) -> Result<(), End> {
        let frame = Frame { seq, ack: self.taken, msg };
        Ok(socket.send(Message::text(serde_json::to_string(&frame)?))?)
    }

    fn acknowledged(&mut self, ack: u64) {
        self.unacknowledged.retain(|(seq, _)| *seq > ack);
        if self.unacknowledged.is_empty() && self.waiting.is_empty() {
            let _ = self.flushing.try_send(());
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
pub(crate) mod fake;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_with_nothing_to_say_keeps_its_connection() {
        let haasd = fake::Haasd::new();
        let pace = Pace { speak: Duration::from_millis(100), silence: Duration::from_secs(1) };
        let channel = Channel::start_at(&haasd.controller(), pace).unwrap();
        let mut connection = haasd.welcome(fake::plan(0));
        assert!(matches!(channel.hear(Duration::from_secs(10)), Some(Heard::Welcome(_))));
        let begun = Instant::now();
        while begun.elapsed() < pace.silence * 3 {
            assert!(matches!(connection.acknowledge(), ToController::Ack));
        }
        assert!(channel.hear(Duration::ZERO).is_none(), "it connected anew");
    }

    #[test]
    fn a_connection_on_which_haasd_is_silent_is_given_up_for_a_new_one() {
        let haasd = fake::Haasd::new();
        let pace = Pace { speak: Duration::from_millis(100), silence: Duration::from_millis(500) };
        let channel = Channel::start_at(&haasd.controller(), pace).unwrap();
        let _dead = haasd.welcome(fake::plan(0));
        assert!(matches!(channel.hear(Duration::from_secs(10)), Some(Heard::Welcome(_))));
        let _next = haasd.welcome(fake::plan(0));
        assert!(matches!(channel.hear(Duration::from_secs(10)), Some(Heard::Welcome(_))));
    }
}
