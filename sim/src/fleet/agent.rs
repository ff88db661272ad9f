//! The agent of a node of the fleet: what `bootagent` says to haasd, as far as a node without a disk
//! has something to say.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use haas_api::{
    agent::{
        BootPlan, BootStage, Frame, HEARTBEAT_S, Heartbeat, Hello, HelloAnswer, HelloAuth,
        OverlayPlan, PROTO, Proof, ShutdownHow, ToAgent, ToController, Welcome,
    },
    baseline::Fact,
    pin::pinned_client_config,
};
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::boot::connect;
use crate::{boot::Cmdline, iscsi::Session};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// haasd acknowledges what is said; a longer silence means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(15);

struct Agent<'a> {
    source: Ipv4Addr,
    api: SocketAddr,
    tls: TlsConnector,
    auth: HelloAuth,
    started: Instant,
    unacknowledged: VecDeque<(u64, ToController)>,
    next: u64,
    /// The first plan, which alone has the secrets of the boot.
    plan: Option<BootPlan>,
    /// The session that its root is read by, once it is up.
    session: Option<Session>,
    admitted: &'a AtomicUsize,
}

/// Boots from the token on the command line, and stays until haasd asks for the end.
pub(super) async fn run(source: Ipv4Addr, cmdline: &Cmdline, admitted: &AtomicUsize) -> Result<()> {
    let url = cmdline.get("haas.url")?;
    let api = url.strip_prefix("https://").context("haas.url is not https")?.parse()?;
    let mut agent = Agent {
        source,
        api,
        tls: TlsConnector::from(Arc::new(pinned_client_config(cmdline.get("haas.fp")?)?)),
        auth: HelloAuth::Token(cmdline.get("haas.token")?.to_owned()),
        started: Instant::now(),
        unacknowledged: VecDeque::new(),
        next: 1,
        plan: None,
        session: None,
        admitted,
    };
    loop {
        // A connection that broke, or haasd is away.
        if let Ok(true) = agent.serve().await {
            return Ok(());
        }
        sleep(Duration::from_millis(200 + rand::random::<u64>() % 800)).await;
    }
}

impl Agent<'_> {
    /// One connection; true when the node has shut down.
    async fn serve(&mut self) -> Result<bool> {
        let (mut socket, welcome) = timeout(Duration::from_secs(60), self.hello()).await??;
        if let Some(credential) = welcome.credential {
            self.auth = HelloAuth::Credential(credential);
        }
        let mut taken = 0;
        self.unacknowledged.retain(|(seq, _)| *seq > welcome.ack);
        for (seq, msg) in self.unacknowledged.clone() {
            send(&mut socket, seq, taken, msg).await?;
        }
        // A root that was attached before is attached again, as after any loss of its session.
        let plan = match self.plan.clone() {
            Some(plan) => plan,
            None => self.first_plan(&mut socket, &mut taken, welcome.plan).await?,
        };
        let (session, wwid) = self.attach(&plan).await?;
        if self.session.replace(session).is_none() {
            for stage in [BootStage::Root, BootStage::Overlay, BootStage::Userspace] {
                let reached = self.stage(stage);
                self.say(&mut socket, taken, reached).await?;
            }
        }
        let proof = proof(&plan, &wwid);
        self.say(&mut socket, taken, proof).await?;
        let mut beat_at = Instant::now();
        let mut heard_at = Instant::now();
        loop {
            let message = tokio::select! {
                message = socket.next() => message.context("the connection has ended")??,
                () = sleep_until(beat_at) => {
                    if heard_at.elapsed() > SILENCE {
                        bail!("haasd is silent");
                    }
                    let beat = self.heartbeat();
                    self.say(&mut socket, taken, beat).await?;
                    beat_at = Instant::now() + Duration::from_secs(HEARTBEAT_S);
                    continue;
                }
            };
            let Message::Text(text) = message else { continue };
            heard_at = Instant::now();
            let frame: Frame<ToAgent> = serde_json::from_str(&text)?;
            self.unacknowledged.retain(|(seq, _)| *seq > frame.ack);
            taken = taken.max(frame.seq);
            match frame.msg {
                ToAgent::Admit => {
                    self.admitted.fetch_add(1, Ordering::Relaxed);
                    let ready = self.stage(BootStage::Ready);
                    self.say(&mut socket, taken, ready).await?;
                }
                ToAgent::Shutdown { how: ShutdownHow::Poweroff } => {
                    let goodbye =
                        ToController::Goodbye { reason: "poweroff".to_owned(), clean: true };
                    self.say(&mut socket, taken, goodbye).await?;
                    // Until it is acknowledged, or for as long as anybody waits.
                    let _ = timeout(Duration::from_secs(5), socket.next()).await;
                    return Ok(true);
                }
                ToAgent::Shutdown { how } => bail!("haasd asks for {how:?}"),
                ToAgent::NotReady { reason } => bail!("not ready: {reason}"),
                ToAgent::Kexec(_) => bail!("haasd asks for a kexec that this node has not offered"),
                ToAgent::Retry { .. }
                | ToAgent::SshCertificates(_)
                | ToAgent::Notice { .. }
                | ToAgent::Ack => {}
            }
        }
    }

    /// The plan that has the secrets of the boot: where haasd wants to hear how the machine is, the one behind
    /// that.
    async fn first_plan(
        &mut self,
        socket: &mut Socket,
        taken: &mut u64,
        mut plan: BootPlan,
    ) -> Result<BootPlan> {
        if plan.baseline {
            let [part, name, value] = ["firmware", "mode", "BIOS"].map(str::to_owned);
            let facts = vec![Fact { part, name, value }];
            self.say(socket, *taken, ToController::Baseline { facts }).await?;
        }
        while plan.baseline {
            let message = timeout(SILENCE, socket.next()).await?.context("no plan")??;
            let Message::Text(text) = message else { continue };
            let frame: Frame<ToAgent> = serde_json::from_str(&text)?;
            self.unacknowledged.retain(|(seq, _)| *seq > frame.ack);
            *taken = frame.seq.max(*taken);
            if let ToAgent::Retry { plan: next } = frame.msg {
                plan = *next;
            }
        }
        // The names of all in the memory of each would be much.
        plan.net.hosts = Vec::new();
        Ok(self.plan.insert(plan).clone())
    }

    async fn hello(&self) -> Result<(Socket, Welcome)> {
        let tcp = connect(self.source, self.api).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.api.ip().into());
        let stream = self.tls.connect(name, tcp).await?;
        let url = format!("wss://{}/v1/agent", self.api);
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        let hello = Hello {
            proto: PROTO,
            version: "sim".to_owned(),
            auth: self.auth.clone(),
            kexec: None,
            notices: false,
        };
        socket.send(Message::text(serde_json::to_string(&hello)?)).await?;
        loop {
            let Message::Text(text) = socket.next().await.context("no welcome")?? else { continue };
            return match serde_json::from_str(&text)? {
                HelloAnswer::Welcome(welcome) => Ok((socket, *welcome)),
                HelloAnswer::Refused { reason } => bail!("refused: {reason}"),
            };
        }
    }

    /// Logs in to the plan's image, and reads who it is and its first blocks.
    async fn attach(&self, plan: &BootPlan) -> Result<(Session, String)> {
        let (source, root) = (self.source, plan.root.clone());
        tokio::task::spawn_blocking(move || {
            let mut session = Session::login_from(source, &root)?;
            let wwid = session.wwid()?;
            session.read(64)?;
            Ok((session, wwid))
        })
        .await?
    }

    fn heartbeat(&self) -> ToController {
        ToController::Heartbeat(Heartbeat {
            uptime_ms: self.uptime_ms(),
            root_attached: true,
            ..Heartbeat::default()
        })
    }

    fn stage(&self, stage: BootStage) -> ToController {
        ToController::Stage { stage, uptime_ms: self.uptime_ms() }
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Says something, and keeps it until it is acknowledged; of heartbeats only the last.
    async fn say(&mut self, socket: &mut Socket, taken: u64, msg: ToController) -> Result<()> {
        if matches!(msg, ToController::Heartbeat(_)) {
            self.unacknowledged.retain(|(_, m)| !matches!(m, ToController::Heartbeat(_)));
        }
        let seq = self.next;
        self.next += 1;
        self.unacknowledged.push_back((seq, msg.clone()));
        send(socket, seq, taken, msg).await
    }
}

fn proof(plan: &BootPlan, wwid: &str) -> ToController {
    ToController::Proof(Proof {
        generation: plan.generation,
        wwid: wwid.to_owned(),
        target: plan.root.target.clone(),
        read_only: true,
        overlay_id: None,
        rank: match &plan.overlay {
            OverlayPlan::Ram { rank } | OverlayPlan::Disk { rank, .. } => *rank,
        },
        hostname: plan.node.to_string(),
        addresses: vec![plan.net.address],
        machine_id: "5a".repeat(16),
        kernel: "6.1.0-sim".to_owned(),
        says_ready: true,
    })
}

async fn send(socket: &mut Socket, seq: u64, ack: u64, msg: ToController) -> Result<()> {
    let text = serde_json::to_string(&Frame { seq, ack, msg })?;
    Ok(socket.send(Message::text(text)).await?)
}
