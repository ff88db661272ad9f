//! Consoles: a WebSocket to watch and type, and the log.
//!
//! Who may is looked at again every second: nobody watches longer than its token holds, or than
//! what the node prints is of one whose deeds it may see.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{
        ConnectInfo, State, WebSocketUpgrade,
        ws::{Message, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    http::HeaderMap,
    response::Response,
};
use haas_api::{
    console::{ConsoleAsk, ConsoleLine, ConsoleLog, ConsoleNote, ConsoleState},
    problem::Problem,
    project::Access,
};
use serde::Deserialize;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Answer, Caller, Fail, Json, Path, Query,
    guard::{Deed, authenticate, note},
    nodes::find,
};
use crate::{
    auth::{Object, Verb},
    boots, clock,
    console::{Cursor, Entry, Grip, Key, Kind, Tenancy, Told, Watching},
    context::Context,
    model::Node,
    power,
    store::{NewAudit, Tx},
};

/// What is typed comes in small pieces; a paste may be one.
const MAX_MESSAGE: usize = 64 << 10;
/// How often it is looked whether somebody may still watch.
const LOOK: Duration = Duration::from_secs(1);
/// How often a watcher gets a sign of life, and how long it may give none.
const PING: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(45);
/// How long a watcher may take for a piece.
const SLOW: Duration = Duration::from_secs(30);
/// How often it is tried to come in between hand-overs.
const TRIES: usize = 10;
/// Lines of one answer of the log.
const MOST_LINES: u32 = 10_000;
const USUAL_LINES: u32 = 50;
/// How long an answer of the log may wait for lines.
const LONGEST_WAIT: u64 = 20;
/// What comes shortly after each other is one answer.
const GATHER: Duration = Duration::from_millis(100);

/// How to watch.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Mode {
    /// Only watch; else type too, if nobody else does.
    watch: Option<bool>,
    /// Type, whoever does, and have the console from another session of the BMC.
    take: Option<bool>,
}

/// Which lines.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Part {
    /// At most so many: 50, or up to 10000.
    lines: Option<u32>,
    /// Behind this `cursor` of an earlier answer; the last ones where none is given.
    after: Option<String>,
    /// Where there are none, wait so many seconds for some, at most 20.
    wait_s: Option<u64>,
}

/// A node's serial console, by WebSocket.
///
/// Characters are binary messages, both ways. Text messages are a `ConsoleNote` from haasd and a
/// `ConsoleAsk` to it.
#[utoipa::path(get, path = "/v1/nodes/{name}/console", params(Mode, ("name" = String, Path)),
    responses((status = 101, body = ConsoleNote), (status = 400, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn watch(
    State(context): State<Arc<Context>>,
    caller: Caller,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(name): Path<String>,
    Query(mode): Query<Mode>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let mut tx = context.store.read().await?;
    let node = find(&mut tx, &name).await?;
    let grip = match mode {
        Mode { take: Some(true), .. } => Grip::Take,
        Mode { watch: Some(true), .. } => Grip::Watch,
        Mode { .. } => Grip::Type,
    };
    let (_, may) = may(&context, &mut tx, &caller, &node).await?;
    drop(tx);
    if grip != Grip::Watch {
        may.type_there?;
    }
    if !node.managed {
        return Err(Fail::conflict("unmanaged", format!("{name} is unmanaged")));
    }
    if !power::has_console(&node.spec.power) {
        return Err(Fail::conflict("no-console", power::PowerError::NoConsole.to_string()));
    }
    let upgrade = upgrade
        .map_err(|r| Fail::new(r.status(), "no-websocket", "a console is had by WebSocket"))?;
    let watcher = Watcher { context, caller, peer, headers, node };
    match grip {
        Grip::Watch => {}
        Grip::Type => watcher.audit("types on the console").await,
        Grip::Take => watcher.audit("takes the console").await,
    }
    Ok(upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).on_upgrade(
        async move |mut socket| {
            let reason = match watcher.attach(grip).await {
                Ok(watching) => watcher.serve(&mut socket, watching).await,
                Err(reason) => Some(reason),
            };
            // Whoever is gone needs none.
            if let Some(reason) = reason {
                let _ = say(&mut socket, &ConsoleNote::Ended(reason)).await;
            }
            let _ = socket.send(Message::Close(None)).await;
        },
    ))
}

/// What was on a node's console, as far as it was the caller's.
#[utoipa::path(get, path = "/v1/nodes/{name}/console/log", params(Part, ("name" = String, Path)),
    responses((status = 200, body = ConsoleLog), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn log(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(part): Query<Part>,
) -> Answer<Json<ConsoleLog>> {
    caller.may(Verb::View, Object::Nodes)?;
    let node = find(&mut context.store.read().await?, &name).await?;
    let bad = |detail: &str| Fail::bad("bad-page", detail.to_owned());
    let lines = match part.lines.unwrap_or(USUAL_LINES) {
        lines @ ..=MOST_LINES => lines as usize,
        _ => return Err(bad("lines must be at most 10000")),
    };
    let mut cursor = match &part.after {
        Some(text) => Some(Cursor::parse(text).ok_or_else(|| bad("this is no cursor of a log"))?),
        None => None,
    };
    let end = Instant::now() + Duration::from_secs(part.wait_s.unwrap_or(0).min(LONGEST_WAIT));
    let mut growth = context.consoles.growth();
    let mut caller = Arc::new(caller);
    loop {
        growth.mark_unchanged();
        let (consoles, id) = (context.consoles.clone(), node.id.clone());
        let (reader, behind) = (Arc::clone(&caller), cursor.clone());
        let read = tokio::task::spawn_blocking(move || {
            let may =
                |tenant: &str| reader.may(Verb::View, Object::Deed { actor: None, tenant }).is_ok();
            consoles.read_log(&id, lines, behind.as_ref(), may)
        });
        let (entries, next) =
            read.await.map_err(|e| Fail::internal(&e))?.map_err(|e| Fail::internal(&e))?;
        let waits = entries.is_empty() && cursor.is_some() && lines > 0;
        if !waits || Instant::now() >= end {
            return Ok(Json(ConsoleLog {
                items: entries.into_iter().map(shown).collect(),
                cursor: next.to_text(),
                logged: context.consoles.is_logged(&node),
            }));
        }
        cursor = Some(next);
        // Its sender lives as long as haasd.
        let _ = tokio::time::timeout_at(end, growth.changed()).await;
        tokio::time::sleep(GATHER).await;
        // Nobody waits longer than its token holds.
        caller = Arc::new(Caller(authenticate(&context, peer, &headers).await?, Deed::default()));
    }
}

fn shown(entry: Entry) -> ConsoleLine {
    ConsoleLine {
        at: clock::rfc3339(entry.at),
        text: String::from_utf8_lossy(&entry.text).into_owned(),
        mark: entry.kind == Kind::Mark,
    }
}

/// What a caller who may watch may do beside that.
struct May {
    type_there: Result<(), Fail>,
}

/// Whose the node is as far as its console goes, and what the caller may there; denied where it may
/// not even watch.
async fn may(
    context: &Context,
    tx: &mut Tx,
    caller: &Caller,
    node: &Node,
) -> Answer<(Tenancy, May)> {
    let seen = context.consoles.tenancy(tx, node).await?;
    caller.may(Verb::View, Object::Deed { actor: None, tenant: &seen.tenant })?;
    let type_there = may_type(tx, caller, node).await?;
    Ok((seen, May { type_there }))
}

/// A console is a way to root, by the boot loader, the firmware and SysRq: so only those type who are
/// root on what runs, while they may also switch and power the node.
async fn may_type(tx: &mut Tx, caller: &Caller, node: &Node) -> Answer<Result<(), Fail>> {
    let forbidden =
        |code, detail: String| Ok(Err(Fail::new(axum::http::StatusCode::FORBIDDEN, code, detail)));
    if caller.0.read_only {
        let detail = "this token only looks: add --watch, or make one without --read-only";
        return forbidden("read-only-token", detail.to_owned());
    }
    if caller.0.is_admin() {
        return Ok(Ok(()));
    }
    let wanted = tx.desired(&node.id, node.generation).await?;
    let object = Object::Node {
        name: node.name.as_str(),
        groups: &node.spec.groups,
        tenant: wanted.as_ref().and_then(|wanted| wanted.tenant()),
    };
    if let Err(denied) = caller.may(Verb::Use, object) {
        return Ok(Err(denied));
    }
    let runs = match tx.last_attempt(&node.id).await? {
        Some(attempt) => tx.desired(&node.id, attempt.generation).await?,
        None => None,
    };
    let people = match &runs {
        Some(runs) => boots::people(tx, &runs.wanted).await?,
        None => Default::default(),
    };
    if matches!(people.get(&caller.0.user_id), Some(Access::Root | Access::Sudo)) {
        return Ok(Ok(()));
    }
    let detail = format!("{} is not root on {}; add --watch to watch", caller.0.name, node.name);
    forbidden("denied", detail)
}

/// One who watches.
struct Watcher {
    context: Arc<Context>,
    caller: Caller,
    peer: SocketAddr,
    /// With the caller's token.
    headers: HeaderMap,
    node: Node,
}

enum Next {
    Told(Result<Told, RecvError>),
    Heard(Option<Result<Message, axum::Error>>),
    Typed,
    Look,
    Ping,
}

impl Watcher {
    /// Until it ends; why, for whoever is still there.
    async fn serve(&self, socket: &mut WebSocket, mut watching: Watching) -> Option<String> {
        let mut state = ConsoleState::default();
        if !self.show_state(socket, &watching, &mut state).await {
            return None;
        }
        let before = std::mem::take(&mut watching.before);
        if !before.is_empty() && !send(socket, Message::Binary(before.into())).await {
            return None;
        }
        let (mut look, mut ping) = (interval(LOOK), interval(PING));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        // Keys go one piece after the other, and meanwhile what comes is shown.
        let typist = watching.typist();
        let mut typing = std::pin::pin!(None);
        loop {
            let next = tokio::select! {
                told = watching.told.recv() => Next::Told(told),
                heard = socket.recv(), if typing.is_none() => Next::Heard(heard),
                () = typed(typing.as_mut()) => Next::Typed,
                _ = look.tick() => Next::Look,
                _ = ping.tick() => Next::Ping,
            };
            match next {
                Next::Told(Ok(Told::Characters(characters))) => {
                    if !send(socket, Message::Binary(characters.to_vec().into())).await {
                        return None;
                    }
                }
                Next::Told(Ok(Told::Changed)) => {
                    if !self.show_state(socket, &watching, &mut state).await {
                        return None;
                    }
                }
                Next::Told(Ok(Told::Over(reason))) => return Some(reason.to_owned()),
                Next::Told(Err(RecvError::Closed)) => return Some("it was closed".to_owned()),
                Next::Told(Err(RecvError::Lagged(pieces))) => {
                    // It may be the hand-over that was missed.
                    if let Err(reason) = self.look(&watching).await {
                        return Some(reason);
                    }
                    say(socket, &ConsoleNote::Skipped(pieces)).await.then_some(())?;
                }
                Next::Told(Ok(Told::HandedOver)) | Next::Look => {
                    if let Err(reason) = self.look(&watching).await {
                        return Some(reason);
                    }
                    if !self.show_state(socket, &watching, &mut state).await {
                        return None;
                    }
                }
                Next::Typed => typing.set(None),
                Next::Ping => {
                    if heard_at.elapsed() > SILENCE {
                        return None;
                    }
                    send(socket, Message::Ping(Default::default())).await.then_some(())?;
                }
                Next::Heard(None | Some(Err(_)) | Some(Ok(Message::Close(_)))) => return None,
                Next::Heard(Some(Ok(message))) => {
                    heard_at = Instant::now();
                    match message {
                        Message::Binary(characters) => {
                            let key = Key::Characters(characters.to_vec());
                            typing.set(Some(typist.clone().type_key(key)));
                        }
                        Message::Text(text) => match serde_json::from_str(&text) {
                            Ok(ConsoleAsk::Break) => {
                                typing.set(Some(typist.clone().type_key(Key::Break)));
                            }
                            Ok(ConsoleAsk::Take) => {
                                if self.may().await.is_ok_and(|(_, may)| may.type_there.is_ok()) {
                                    self.audit("takes the console").await;
                                    watching.take();
                                }
                            }
                            Err(_) => return Some("it asked for what there is not".to_owned()),
                        },
                        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {}
                    }
                }
            }
        }
    }

    /// Begins to watch.
    async fn attach(&self, grip: Grip) -> Result<Watching, String> {
        for _ in 0..TRIES {
            let (seen, may) = self.may().await?;
            if grip != Grip::Watch && may.type_there.is_err() {
                return Err("you may not type there any more".to_owned());
            }
            let who = &self.caller.0.name;
            if let Some(watching) = self.context.consoles.watch(&self.node, &seen, who, grip) {
                return Ok(watching);
            }
        }
        Err("the node is being handed over; try again".to_owned())
    }

    /// Whether it may still watch, and takes away the keys if it may not type; why not.
    async fn look(&self, watching: &Watching) -> Result<(), String> {
        let (_, may) = self.may().await?;
        if may.type_there.is_err() {
            watching.stop_typing();
        }
        Ok(())
    }

    /// What it may do now; why not even watch.
    async fn may(&self) -> Result<(Tenancy, May), String> {
        let look = async {
            let caller = authenticate(&self.context, self.peer, &self.headers).await?;
            let mut tx = self.context.store.read().await?;
            let node = find(&mut tx, self.node.name.as_str()).await?;
            let may = may(&self.context, &mut tx, &Caller(caller, Deed::default()), &node).await?;
            Answer::Ok((node.id == self.node.id && node.managed, may))
        };
        match look.await {
            Ok((true, may)) => Ok(may),
            Ok((false, _)) => Err("haasd does not manage the node any more".to_owned()),
            Err(_) => {
                Err("the token is over, or you may not watch this console any more".to_owned())
            }
        }
    }

    /// Sends the state if it is another one.
    async fn show_state(
        &self,
        socket: &mut WebSocket,
        watching: &Watching,
        shown: &mut ConsoleState,
    ) -> bool {
        let state = watching.state();
        if state == *shown {
            return true;
        }
        shown.clone_from(&state);
        say(socket, &ConsoleNote::State(state)).await
    }

    async fn audit(&self, detail: &str) {
        let principal = &self.caller.0;
        let entry = NewAudit {
            at: clock::wall(),
            actor: principal.name.to_string(),
            actor_id: principal.user_id.clone(),
            token_id: principal.token_id.clone(),
            peer: self.peer.ip().to_string(),
            action: format!("GET /v1/nodes/{}/console", self.node.name),
            status: 101,
            detail: detail.to_owned(),
        };
        note(&self.context, entry).await;
    }
}

async fn typed(typing: std::pin::Pin<&mut Option<impl Future<Output = ()>>>) {
    match typing.as_pin_mut() {
        Some(typing) => typing.await,
        None => std::future::pending().await,
    }
}

async fn say(socket: &mut WebSocket, note: &ConsoleNote) -> bool {
    let text = serde_json::to_string(note).expect("wire types are plain data");
    send(socket, Message::Text(text.into())).await
}

/// Whether it was sent, in time.
async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(timeout(SLOW, socket.send(message)).await, Ok(Ok(())))
}
