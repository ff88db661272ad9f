//! The agents' channel, `GET /v1/agent`: the frames are `haas_api::agent`'s; what they mean for a
//! node is in `boots`.
//!
//! Nothing that an agent says is trusted beyond its own attempt. A frame is taken at most once: its
//! number is noted after what it said was written, and an agent that lost its connection sends again
//! what was not acknowledged.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{
        ConnectInfo, State, WebSocketUpgrade,
        ws::{Message, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures_util::FutureExt as _;
use haas_api::{
    agent::{
        BootStage, Failure, Frame, Heartbeat, Hello, HelloAnswer, HelloAuth, Kexec, PROTO,
        ShutdownHow, ToAgent, ToController, Welcome,
    },
    check::{CheckReport, ReadyCheck},
};
use tokio::{sync::mpsc, time::timeout};
use tracing::{info, warn};

use super::{Answer, Fail};
use crate::{
    boots::{self, Judgement},
    clock,
    context::Context,
    hardware,
    heartbeats::Beat,
    inventory::PowerSpec,
    lifecycle,
    model::{Attempt, AttemptState, Ending},
    rates::asker,
    store::{Result, StoreError},
    tokens,
};

/// A frame is small; the largest is a list of disks with a kernel log.
const MAX_FRAME: usize = 256 * 1024;

/// What each connection has of memory for reading, and for writing as long as there is little to say: of
/// those of a fleet most say nothing at most moments.
const BUFFER: usize = 4 * 1024;

/// More ready checks than any node has.
const MOST_CHECKS: u32 = 64;

/// What an agent is told whose node nobody switched on. It need not be one of ours who asks.
const BY_ITSELF: &str = "the node started by itself; haasd switches it off and on by its BMC before it \
                         gives it anything";

/// An agent must say hello within this time.
const HELLO: Duration = Duration::from_secs(10);

/// An agent that says nothing for this long is gone; heartbeats come every 5 s.
const SILENCE: Duration = Duration::from_secs(60);

/// An agent connects.
pub(super) async fn connect(
    State(context): State<Arc<Context>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    if let Err(wait) = context.doors.agents.ask(asker(peer.ip()), Instant::now()) {
        return Err(Fail::too_often("too-many-requests", wait));
    }
    let upgrade =
        upgrade.map_err(|r| Fail::new(r.status(), "no-websocket", "agents call by WebSocket"))?;
    let upgrade = upgrade.max_message_size(MAX_FRAME).max_frame_size(MAX_FRAME);
    let upgrade = upgrade.read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    Ok(upgrade.on_upgrade(async move |mut socket| {
        if let Err(error) = serve(&context, &mut socket, peer.ip()).await {
            warn!(error = &error as &dyn std::error::Error, "an agent's channel ended");
        }
    }))
}

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
enum ChannelError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the connection broke")]
    Socket(#[from] axum::Error),
    #[error("it said {0}")]
    Garbage(String),
    #[error("it was silent for too long")]
    Silent,
    #[error("its boot attempt is over")]
    Over,
    /// It is not refused in words: an agent that is told so never calls again, and a node's own one comes
    /// from its address when its network is as it was.
    #[error("the credential of boot {0} comes from another address than its boot token did")]
    Elsewhere(String),
    #[error(
        "there is no plan for it at the moment: its image is gone, or its address is in no network \
         of haasd.toml"
    )]
    NoPlan,
}

async fn serve(
    context: &Arc<Context>,
    socket: &mut WebSocket,
    peer: IpAddr,
) -> Result<(), ChannelError> {
    let hello: Hello = match timeout(HELLO, receive(socket)).await {
        Ok(Some(text)) => parse(&text?)?,
        Ok(None) => return Ok(()),
        Err(_) => return Err(ChannelError::Silent),
    };
    // Those of a fleet that call at once wait here, and not each for the other at every step.
    let greeting = context.agents.greeting().await;
    if is_gone(socket) {
        return Ok(());
    }
    let (attempt, credential) = match admit(context, &hello, peer).await? {
        Ok(admitted) => admitted,
        Err(reason) => {
            warn!(version = hello.version, reason, "an agent was refused");
            drop(greeting);
            send(socket, &HelloAnswer::Refused { reason: reason.to_owned() }).await?;
            return Ok(());
        }
    };
    info!(boot = %attempt.id, version = hello.version, "an agent is connected");
    // First the way to it, then its plan: what is told meanwhile is newer than the plan.
    let (link, mut outbox) = context.agents.connect(&attempt.id, hello.notices);
    // It is ours, so it is not refused for good: it calls again, and a person may have mended it.
    let plan = boots::plan(context, &attempt).await?.ok_or(ChannelError::NoPlan)?;
    let ack = attempt.agent_seq;
    let welcome = Welcome { now_us: clock::wall(), ack, credential, plan };
    // It is the longest thing that is said, so that few are said at once.
    let said = timeout(HELLO, send(socket, &HelloAnswer::Welcome(Box::new(welcome)))).await;
    said.map_err(|_| ChannelError::Silent)??;
    drop(greeting);
    boots::reached(context, &attempt.id, BootStage::Agent).await?;
    context.wake.notify_one();
    if let Some(told) = unfinished_end(context, &attempt).await? {
        context.agents.tell(&attempt.id, told);
    }
    let ended = talk(context, socket, &attempt, ack, &mut outbox).await;
    drop(link);
    context.wake.notify_one();
    ended
}

/// Whose agent it is, with the credential for its later connections where it came with its token,
/// or why it is refused.
async fn admit(
    context: &Context,
    hello: &Hello,
    peer: IpAddr,
) -> Result<std::result::Result<(Attempt, Option<String>), &'static str>, ChannelError> {
    if hello.proto != PROTO {
        return Ok(Err("this haasd does not speak the agent's version of the channel"));
    }
    // Looked up without the writer's lock, which strangers must not hold.
    let mut tx = context.store.read().await?;
    let found = match &hello.auth {
        HelloAuth::Token(token) => tx.attempt_by_token(&tokens::hash(token)).await?,
        HelloAuth::Credential(credential) => {
            tx.attempt_by_credential(&tokens::hash(credential)).await?
        }
    };
    let Some(attempt) = found else {
        return Ok(Err("its boot token or credential is unknown"));
    };
    let Some(node) = tx.node_by_id(&attempt.node_id).await? else {
        return Ok(Err("its node is gone"));
    };
    drop(tx);
    let by_token = matches!(hello.auth, HelloAuth::Token(_));
    // Whoever has read a token on the boot network must not be first with it.
    if by_token && node.address.map(IpAddr::V4) != Some(peer) {
        return Ok(Err("its boot token comes from another address than the node's"));
    }
    if !matches!(attempt.state, AttemptState::Open | AttemptState::Ready) {
        return Ok(Err("its boot attempt is over"));
    }
    if !by_token && attempt.agent_address.is_some_and(|address| address != peer) {
        return Err(ChannelError::Elsewhere(attempt.id));
    }
    if by_token && !lifecycle::is_confirmed(&node, &attempt) {
        return Ok(Err(BY_ITSELF));
    }
    let mut tx = context.store.write().await?;
    let credential = match &hello.auth {
        HelloAuth::Token(_) => {
            let credential = tokens::random();
            let hash = tokens::hash(credential.expose());
            if !tx.spend_token(&attempt.id, &hash, peer).await? {
                return Ok(Err("the boot token was used before, or its attempt is over"));
            }
            Some(credential.expose().clone())
        }
        HelloAuth::Credential(_) => None,
    };
    // Who has the token of a boot whose kernel the system before was to start, is that kernel's agent.
    let begun = attempt.kexec_of.is_some() && boots::note_begun(context, &mut tx, &attempt).await?;
    tx.set_can_kexec(&attempt.id, hello.kexec.clone().map(short).as_ref()).await?;
    tx.agent_spoke(&attempt.node_id, &attempt.id, context.clock.now()).await?;
    tx.commit().await?;
    if begun {
        context.exports.reload(&context.store).await?;
    }
    Ok(Ok((attempt, credential)))
}

/// An end that was asked for while the agent was away.
async fn unfinished_end(context: &Context, attempt: &Attempt) -> Result<Option<ToAgent>> {
    let mut tx = context.store.read().await?;
    let Some(node) = tx.node_by_id(&attempt.node_id).await? else { return Ok(None) };
    let desired = tx.desired(&node.id, node.generation).await?;
    Ok(match node.ending {
        Some((Ending::Agent, _)) => {
            let stays_on = desired.is_some_and(|d| d.wanted.power_on);
            let by_hand = node.spec.power == PowerSpec::Manual;
            let how = if stays_on && by_hand { ShutdownHow::Reboot } else { ShutdownHow::Poweroff };
            Some(ToAgent::Shutdown { how })
        }
        Some((Ending::Kexec, _)) => {
            let next = tx.next_attempt(&node.id).await?;
            let next = next.filter(|next| next.kexec_of.as_ref() == Some(&attempt.id));
            drop(tx);
            match next {
                // What is missing now is told when its time is over.
                Some(next) => boots::next_kernel(context, &node, &next)
                    .await?
                    .ok()
                    .map(|kernel| ToAgent::Kexec(Box::new(kernel))),
                None => None,
            }
        }
        Some((Ending::Acpi | Ending::Hard | Ending::BmcReset, _)) | None => None,
    })
}

/// Takes and sends frames until either side ends.
async fn talk(
    context: &Context,
    socket: &mut WebSocket,
    attempt: &Attempt,
    mut taken: u64,
    outbox: &mut mpsc::Receiver<ToAgent>,
) -> Result<(), ChannelError> {
    let mut seq = 0;
    let mut told = Told { proven: Proven::No, heartbeat: None };
    loop {
        let next = tokio::select! {
            received = timeout(SILENCE, receive(socket)) => match received {
                Ok(Some(text)) => Next::Heard(text?),
                Ok(None) => return Ok(()),
                Err(_) => return Err(ChannelError::Silent),
            },
            said = outbox.recv() => match said {
                Some(message) => Next::Say(message),
                // A newer connection of this attempt took over.
                None => return Ok(()),
            },
        };
        let answer = match next {
            // The commit of its operation. An agent that has yet to prove is told when it has.
            Next::Say(ToAgent::Admit) => match told.proven {
                Proven::Held { says_ready } => {
                    if !says_ready {
                        boots::reached(context, &attempt.id, BootStage::Ready).await?;
                    }
                    told.proven = Proven::Admitted;
                    ToAgent::Admit
                }
                Proven::No | Proven::Admitted => continue,
            },
            Next::Say(message) => message,
            Next::Heard(text) => {
                let frame: Frame<ToController> = parse(&text)?;
                if frame.seq <= taken {
                    ToAgent::Ack
                } else {
                    taken = frame.seq;
                    hear(context, attempt, &mut told, frame).await?
                }
            }
        };
        seq += 1;
        send(socket, &Frame { seq, ack: taken, msg: answer }).await?;
    }
}

/// Takes a frame, and answers it. What is said for an attempt that is over is refused: the node runs
/// something else by now, and whoever still has this channel is not its agent.
async fn hear(
    context: &Context,
    attempt: &Attempt,
    told: &mut Told,
    frame: Frame<ToController>,
) -> Result<ToAgent, ChannelError> {
    let spoke = |taken, heartbeat| Beat {
        node: attempt.node_id.clone(),
        attempt: attempt.id.clone(),
        at: context.clock.now(),
        taken,
        heartbeat,
    };
    let (beats, store) = (&context.heartbeats, &context.store);
    match frame.msg {
        // Taking one of these twice does no harm, and a fleet sends many.
        ToController::Heartbeat(mut heartbeat) => {
            if let Some(trouble) = heartbeat.lease.as_mut().and_then(|l| l.trouble.as_mut()) {
                cut(trouble, 1_000);
            }
            let before = match told.heartbeat.take() {
                Some(before) => Some(before),
                None => {
                    let node = store.read().await?.node_by_id(&attempt.node_id).await?;
                    node.and_then(|node| node.heartbeat)
                }
            };
            let dirty = before.as_ref().map_or(0, |before| before.dirty_kib);
            let fell = heartbeat.dirty_kib < dirty;
            if !beats.write(store, spoke(None, Some((heartbeat.clone(), fell)))).await? {
                return Err(ChannelError::Over);
            }
            let lease = before.as_ref().and_then(|before| before.lease.as_ref());
            boots::lease_seen(context, &attempt.node_id, lease, heartbeat.lease.as_ref()).await?;
            told.heartbeat = Some(heartbeat);
            Ok(ToAgent::Ack)
        }
        ToController::Ack => match beats.write(store, spoke(None, None)).await? {
            true => Ok(ToAgent::Ack),
            false => Err(ChannelError::Over),
        },
        message => {
            if !store.read().await?.attempt_lives(&attempt.id).await? {
                return Err(ChannelError::Over);
            }
            let answer = take(context, attempt, &mut told.proven, message).await?;
            beats.write(store, spoke(Some(frame.seq), None)).await?;
            Ok(answer)
        }
    }
}

/// What an agent has told in a connection.
struct Told {
    /// It proves anew in each what runs.
    proven: Proven,
    /// The last that was taken.
    heartbeat: Option<Heartbeat>,
}

/// How the agent of a connection stands with its proof.
#[derive(Debug, Clone, Copy)]
enum Proven {
    /// It has given none in this connection, or a wrong one.
    No,
    /// It was right, and users wait for the other nodes of the operation.
    Held { says_ready: bool },
    /// It was right, and users are let in.
    Admitted,
}

enum Next {
    Heard(String),
    Say(ToAgent),
}

/// Does what a frame of a node's agent asks for, and answers it.
async fn take(
    context: &Context,
    attempt: &Attempt,
    proven: &mut Proven,
    message: ToController,
) -> Result<ToAgent> {
    let Attempt { id: attempt, node_id: node, .. } = attempt;
    match message {
        ToController::Stage { stage, uptime_ms: _ } => {
            // Nobody is ready without a right proof.
            if stage < BootStage::Ready || matches!(proven, Proven::Admitted) {
                boots::reached(context, attempt, stage).await?;
            }
        }
        ToController::Failure(failure) => {
            boots::held(context, attempt, &shortened(failure)).await?;
        }
        ToController::Disks { disks } => {
            let mut tx = context.store.write().await?;
            // From the overlay on users are on the node, and may speak in its agent's name.
            if tx.attempt(attempt).await?.is_some_and(|a| a.stage < BootStage::Overlay) {
                tx.set_disks(node, &disks, clock::wall()).await?;
                tx.commit().await?;
            }
        }
        ToController::Inventory(inventory) => hardware::found(context, attempt, *inventory).await?,
        ToController::Baseline { facts } => {
            if let Some(plan) = boots::baseline_told(context, attempt, facts).await? {
                return Ok(ToAgent::Retry { plan: Box::new(plan) });
            }
        }
        ToController::Reaches { doors } => boots::reaches(context, attempt, &doors).await?,
        ToController::Erasing { disk, done, size } => {
            boots::erasing(context, attempt, &disk, done, size).await?;
        }
        ToController::Erased { disks } => boots::erased(context, attempt, &disks).await?,
        ToController::Store(report) => boots::store_opened(context, attempt, &report).await?,
        ToController::Check(report) => {
            if let Some(report) = bounded(report) {
                boots::checked(context, attempt, report).await?;
            }
        }
        ToController::SshKeys(keys) => {
            let certificates = boots::certify(context, attempt, &keys).await?;
            return Ok(ToAgent::SshCertificates(certificates));
        }
        ToController::Proof(proof) => {
            return Ok(match boots::proved(context, attempt, &proof).await? {
                Judgement::Admit => {
                    *proven = Proven::Admitted;
                    ToAgent::Admit
                }
                // Until it hears that users are let in, it keeps them out.
                Judgement::Hold => {
                    *proven = Proven::Held { says_ready: proof.says_ready };
                    ToAgent::Ack
                }
                Judgement::Refuse(reason) => {
                    warn!(boot = %attempt, reason, "the proof was wrong");
                    if !matches!(proven, Proven::Admitted) {
                        *proven = Proven::No;
                    }
                    ToAgent::NotReady { reason }
                }
            });
        }
        ToController::KexecFailed { attempt: next, mut reason } => {
            cut(&mut reason, 300);
            boots::kexec_failed(context, attempt, &next, reason).await?;
        }
        ToController::Goodbye { reason, clean } => {
            let how = match reason.as_str() {
                "reboot" => ShutdownHow::Reboot,
                "kexec" => ShutdownHow::Kexec,
                _ => ShutdownHow::Poweroff,
            };
            let mut tx = context.store.write().await?;
            tx.set_goodbye(node, how).await?;
            tx.commit().await?;
            info!(boot = attempt, ?how, clean, "the agent said goodbye");
            context.changed();
        }
        // These are taken where they are heard.
        ToController::Heartbeat(_) | ToController::Ack => {}
    }
    Ok(ToAgent::Ack)
}

/// Whoever speaks on the node must not fill the controller's disk.
fn bounded(mut report: CheckReport) -> Option<CheckReport> {
    report.command.truncate(64);
    report.command.iter_mut().for_each(|word| cut(word, 1_000));
    report.within_s = report.within_s.min(ReadyCheck::MOST_S);
    cut(&mut report.outcome, 200);
    cut(&mut report.output, 4_096);
    (report.position < MOST_CHECKS).then_some(report)
}

/// The same of what an agent says of kexec.
fn short(mut kexec: Kexec) -> Kexec {
    cut(&mut kexec.machine, 32);
    if let Some(obstacle) = &mut kexec.obstacle {
        cut(obstacle, 300);
    }
    kexec
}

fn cut(text: &mut String, most: usize) {
    if let Some((at, _)) = text.char_indices().nth(most) {
        text.truncate(at);
    }
}

/// The same of a failure.
fn shortened(mut failure: Failure) -> Failure {
    cut(&mut failure.code, 64);
    cut(&mut failure.cause, 1_000);
    failure.kernel_log.truncate(64);
    failure.kernel_log.iter_mut().for_each(|line| cut(line, 400));
    failure
}

/// Whether the agent has hung up while it waited. It has nothing else to say before it is welcome.
fn is_gone(socket: &mut WebSocket) -> bool {
    matches!(socket.recv().now_or_never(), Some(None | Some(Err(_) | Ok(Message::Close(_)))))
}

async fn receive(socket: &mut WebSocket) -> Option<Result<String, ChannelError>> {
    loop {
        return match socket.recv().await? {
            Ok(Message::Text(text)) => Some(Ok(text.to_string())),
            Ok(Message::Close(_)) => None,
            Ok(Message::Ping(_) | Message::Pong(_)) => continue,
            Ok(Message::Binary(_)) => {
                Some(Err(ChannelError::Garbage("bytes, not text".to_owned())))
            }
            Err(error) => Some(Err(error.into())),
        };
    }
}

async fn send<T: serde::Serialize>(socket: &mut WebSocket, value: &T) -> Result<(), ChannelError> {
    let text = serde_json::to_string(value).expect("frames are plain data");
    socket.send(Message::Text(text.into())).await.map_err(ChannelError::from)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, ChannelError> {
    // What was said may hold a token, so only the error is told.
    serde_json::from_str(text).map_err(|e| ChannelError::Garbage(format!("what is no frame: {e}")))
}
