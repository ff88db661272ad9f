//! One node's console: what all who watch it share, and the task that has it open at the BMC.
//!
//! There is one session with a BMC, whose console goes to everybody who watches and to the log; one
//! watcher at a time types. The task begins the console, tells what comes, and begins it anew when
//! it was lost, after pauses that grow. All that is decided is in [`Shared`], behind one lock that is
//! never held while anything waits: so who comes in between two characters gets each once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use haas_api::{
    console::{ConsoleState, plain},
    names::{NodeName, UserName},
};
use ipmi_lan::{Console, ConsoleInput};
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Consoles, Grip,
    log::{Entry, Kind, Writer},
};
use crate::{
    clock,
    errors::chain,
    inventory::PowerSpec,
    power::{self, Claim},
};

/// Bytes that who comes later is shown, and that are evidence of a fault.
const KEPT: usize = 32 << 10;
/// A line that is longer is logged as several.
const LONGEST_LINE: usize = 4096;
/// After so long a line without an end, such as a prompt, is logged as it is.
const UNFINISHED: Duration = Duration::from_secs(1);
/// What a watcher may be behind, in pieces of at most some hundred bytes.
const BEHIND: usize = 1024;
/// Keys on their way to the BMC.
const KEYS: usize = 32;
/// The first pause before a console that was lost is begun anew, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A console that is open, or that haasd tries to open.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) node_id: String,
    pub(super) node: NodeName,
    spec: watch::Sender<PowerSpec>,
    shared: Mutex<Shared>,
    told: broadcast::Sender<Told>,
    keys: mpsc::Sender<(u64, Key)>,
    /// Something has changed that its task must look at.
    wake: Notify,
}

/// What watchers are told, in order.
#[derive(Debug, Clone)]
pub enum Told {
    /// The node printed this.
    Characters(Arc<[u8]>),
    /// The state is another one.
    Changed,
    /// The node is another tenant's now, and what follows is that one's.
    HandedOver,
    /// haasd does not have the console any more.
    Over(&'static str),
}

/// What a watcher types.
#[derive(Debug)]
pub enum Key {
    /// Characters.
    Characters(Vec<u8>),
    /// A BREAK.
    Break,
}

#[derive(Debug)]
struct Shared {
    /// The way to the BMC, while there is one.
    input: Option<ConsoleInput>,
    /// Why there is none.
    reason: String,
    /// Whose the node is; empty: nobody's.
    tenant: String,
    watchers: BTreeMap<u64, UserName>,
    writer: Option<u64>,
    next_watcher: u64,
    /// Somebody wants the console though another session of the BMC has it.
    take: bool,
    /// It is open though nobody watches, for its log.
    log: Option<Writer>,
    /// Whether the log could be written the last time.
    log_works: bool,
    kept: VecDeque<u8>,
    unfinished: Vec<u8>,
    unfinished_since: Option<Instant>,
}

/// One who watches; gone when this is dropped.
#[derive(Debug)]
pub struct Watching {
    line: Arc<Line>,
    id: u64,
    /// What was printed before.
    pub before: Vec<u8>,
    /// What comes.
    pub told: broadcast::Receiver<Told>,
}

/// A watcher's way to type.
#[derive(Debug, Clone)]
pub struct Typist {
    id: u64,
    keys: mpsc::Sender<(u64, Key)>,
}

impl Line {
    /// A line whose task is to be started; the keys are for it.
    pub(super) fn new(
        node_id: &str,
        node: &NodeName,
        spec: &PowerSpec,
        tenant: &str,
    ) -> (Arc<Self>, mpsc::Receiver<(u64, Key)>) {
        let (keys, typed) = mpsc::channel(KEYS);
        let shared = Shared {
            input: None,
            reason: "haasd is connecting to the BMC".to_owned(),
            tenant: tenant.to_owned(),
            watchers: BTreeMap::new(),
            writer: None,
            next_watcher: 0,
            take: false,
            log: None,
            log_works: true,
            kept: VecDeque::new(),
            unfinished: Vec::new(),
            unfinished_since: None,
        };
        let line = Self {
            node_id: node_id.to_owned(),
            node: node.clone(),
            spec: watch::Sender::new(spec.clone()),
            shared: Mutex::new(shared),
            told: broadcast::Sender::new(BEHIND),
            keys,
            wake: Notify::new(),
        };
        (Arc::new(line), typed)
    }

    /// Begins to log, with what was logged before for those who come later.
    pub(super) fn log_to(&self, writer: impl FnOnce(&str) -> (Writer, Vec<Entry>)) {
        let mut shared = self.lock();
        if shared.log.is_none() {
            let (writer, before) = writer(&shared.tenant);
            shared.log = Some(writer);
            if shared.kept.is_empty() {
                for entry in before.into_iter().filter(|entry| entry.kind == Kind::Output) {
                    shared.keep(&entry.text);
                    shared.keep(b"\r\n");
                }
            }
        }
    }

    /// Logs no more.
    pub(super) fn log_no_more(&self) {
        self.lock().log = None;
        self.wake.notify_one();
    }

    /// What the inventory says of the BMC now.
    pub(super) fn set_spec(&self, spec: &PowerSpec) {
        let is_news = self.spec.send_if_modified(|known| {
            let news = *known != *spec;
            known.clone_from(spec);
            news
        });
        if is_news {
            self.wake.notify_one();
        }
    }

    /// Lets somebody watch.
    pub(super) fn attach(self: &Arc<Self>, who: &UserName, grip: Grip) -> Watching {
        let mut shared = self.lock();
        let id = shared.next_watcher;
        shared.next_watcher += 1;
        shared.watchers.insert(id, who.clone());
        match grip {
            Grip::Take => {
                shared.writer = Some(id);
                shared.take = shared.input.is_none();
            }
            Grip::Type => shared.writer = shared.writer.or(Some(id)),
            Grip::Watch => {}
        }
        let before = shared.kept.iter().copied().collect();
        let told = self.told.subscribe();
        drop(shared);
        self.change();
        Watching { line: Arc::clone(self), id, before, told }
    }

    /// From now on the node is `tenant`'s: what was printed before is for nobody who comes now.
    pub(super) fn hand_over(&self, tenant: &str) {
        let mut shared = self.lock();
        if shared.tenant == tenant {
            return;
        }
        shared.finish_line();
        shared.mark("the node is another tenant's from here on");
        if let Some(log) = &mut shared.log {
            log.hand_over(tenant);
        }
        shared.tenant = tenant.to_owned();
        shared.kept.clear();
        shared.writer = None;
        self.tell(Told::HandedOver);
    }

    /// Whose the node is as far as the console knows.
    pub(super) fn tenant(&self) -> String {
        self.lock().tenant.clone()
    }

    /// The last lines, for a fault.
    pub(super) fn last_lines(&self, most: usize) -> Vec<String> {
        let kept: Vec<u8> = self.lock().kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&kept);
        let lines = text.lines().map(|line| plain(line.trim_end_matches('\r')));
        let mut lines: Vec<String> = lines.filter(|line| !line.trim().is_empty()).collect();
        let mut last = lines.split_off(lines.len().saturating_sub(most));
        for line in &mut last {
            if let Some((at, _)) = line.char_indices().nth(400) {
                line.truncate(at);
            }
        }
        last
    }

    /// Whether it need not be open.
    pub(super) fn is_idle(&self) -> bool {
        let shared = self.lock();
        shared.watchers.is_empty() && shared.log.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, told: Told) {
        // Nobody may watch.
        let _ = self.told.send(told);
    }

    /// The state has changed: watchers and the task shall look.
    fn change(&self) {
        self.tell(Told::Changed);
        self.wake.notify_one();
    }

    /// Has the console open until it is idle or haasd stops.
    pub(super) async fn run(
        self: Arc<Self>,
        consoles: Consoles,
        mut typed: mpsc::Receiver<(u64, Key)>,
        stop: CancellationToken,
    ) {
        let typing = async {
            while let Some((watcher, key)) = typed.recv().await {
                let input = self.lock().input_of(watcher);
                // What nobody may type, or what was typed while there was no console, is lost.
                match (input, key) {
                    (Some(input), Key::Characters(characters)) => {
                        let _ = input.write(&characters).await;
                    }
                    (Some(input), Key::Break) => drop(input.send_break().await),
                    (None, _) => {}
                }
            }
        };
        tokio::select! {
            () = typing => {}
            () = self.keep_open(&consoles) => {}
            () = stop.cancelled() => {
                consoles.forget(&self);
                self.tell(Told::Over("haasd is stopping"));
            }
        }
        let mut shared = self.lock();
        shared.finish_line();
        if shared.input.take().is_some() {
            shared.mark("haasd has ended the console");
        }
    }

    async fn keep_open(&self, consoles: &Consoles) {
        let mut pause = FIRST_PAUSE;
        loop {
            if consoles.forget_idle(self) {
                return;
            }
            match self.connect(&consoles.connecting).await {
                Ok(console) => {
                    pause = FIRST_PAUSE;
                    self.connected(&console);
                    let reason = self.listen(console, &consoles.grew).await;
                    self.lost(reason);
                }
                Err(error) => self.failed(&error),
            }
            let jittered = pause.mul_f64(rand::random_range(0.8..1.2));
            pause = (pause * 2).min(LONGEST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = self.wake.notified() => pause = FIRST_PAUSE,
            }
        }
    }

    async fn connect(&self, connecting: &Semaphore) -> Result<Console, power::PowerError> {
        // Power commands need the BMCs' logins too.
        let _turn = connecting.acquire().await;
        let take = std::mem::take(&mut self.lock().take);
        let spec = self.spec.borrow().clone();
        power::open_console(&spec, if take { Claim::Take } else { Claim::IfFree }).await
    }

    fn connected(&self, console: &Console) {
        let mut shared = self.lock();
        shared.input = Some(console.input().clone());
        shared.reason.clear();
        shared.mark("connected");
        drop(shared);
        info!(node = %self.node, "console connected");
        self.tell(Told::Changed);
    }

    /// Takes what comes until the console is lost or should not be open; why.
    async fn listen(&self, mut console: Console, grew: &watch::Sender<u64>) -> String {
        let mut spec = self.spec.subscribe();
        loop {
            let unfinished = self.lock().unfinished_since.map(|since| since + UNFINISHED);
            tokio::select! {
                read = console.read() => match read {
                    Some(Ok(characters)) => self.heard(&characters),
                    Some(Err(error)) => return error.to_string(),
                    None => return "closed".to_owned(),
                },
                () = until(unfinished) => self.lock().finish_line(),
                () = self.wake.notified() => {
                    if self.is_idle() {
                        return "nobody watches any more".to_owned();
                    }
                }
                Ok(()) = spec.changed() => {
                    return "the inventory says something else of the BMC".to_owned();
                }
            }
            grew.send_modify(|count| *count += 1);
        }
    }

    fn heard(&self, characters: &[u8]) {
        let mut shared = self.lock();
        shared.keep(characters);
        shared.split(characters);
        // Within the lock, so that who attaches has these either before or as the next.
        self.tell(Told::Characters(characters.into()));
    }

    fn lost(&self, reason: String) {
        let mut shared = self.lock();
        shared.finish_line();
        shared.input = None;
        shared.mark(&format!("lost: {reason}"));
        info!(node = %self.node, reason, "console lost");
        shared.reason = format!("lost: {reason}; haasd tries again");
        drop(shared);
        self.tell(Told::Changed);
    }

    fn failed(&self, error: &power::PowerError) {
        let reason = chain(error);
        let mut shared = self.lock();
        if shared.reason == reason {
            return;
        }
        warn!(node = %self.node, error = reason, "no console, haasd tries again");
        shared.mark(&format!("not connected: {reason}"));
        shared.reason = reason;
        drop(shared);
        self.tell(Told::Changed);
    }
}

impl Shared {
    /// The way to the BMC for a watcher who may type.
    fn input_of(&self, watcher: u64) -> Option<ConsoleInput> {
        self.input.clone().filter(|_| self.writer == Some(watcher))
    }

    fn keep(&mut self, characters: &[u8]) {
        self.kept.extend(characters);
        let over = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..over);
    }

    /// Logs the lines that end in these characters.
    fn split(&mut self, characters: &[u8]) {
        if self.log.is_none() {
            return;
        }
        for byte in characters {
            if *byte == b'\n' || self.unfinished.len() >= LONGEST_LINE {
                self.finish_line();
            }
            if *byte == b'\n' {
                continue;
            }
            self.unfinished.push(*byte);
        }
        self.unfinished_since = (!self.unfinished.is_empty()).then(Instant::now);
    }

    /// Logs what has come of a line. One that ended by itself may be empty.
    fn finish_line(&mut self) {
        self.unfinished_since = None;
        let mut text = std::mem::take(&mut self.unfinished);
        while text.last() == Some(&b'\r') {
            text.pop();
        }
        if !text.is_empty() {
            self.write(Kind::Output, text);
        }
    }

    fn mark(&mut self, text: &str) {
        self.write(Kind::Mark, text.as_bytes().to_vec());
    }

    fn write(&mut self, kind: Kind, text: Vec<u8>) {
        let Some(log) = &mut self.log else { return };
        let written = log.add(&Entry { at: clock::wall(), kind, text });
        if let Err(error) = &written
            && self.log_works
        {
            warn!(%error, "cannot write a console's log");
        }
        self.log_works = written.is_ok();
    }
}

impl Typist {
    /// Types something; lost where this watcher may not, or there is no console.
    pub async fn type_key(self, key: Key) {
        // Its task ends with haasd.
        let _ = self.keys.send((self.id, key)).await;
    }
}

impl Watching {
    /// A way to type.
    pub fn typist(&self) -> Typist {
        Typist { id: self.id, keys: self.line.keys.clone() }
    }

    /// To type from now on, whoever did; and to have the console from other sessions of the BMC.
    pub fn take(&self) {
        let mut shared = self.line.lock();
        shared.writer = Some(self.id);
        shared.take = shared.input.is_none();
        drop(shared);
        self.line.change();
    }

    /// May type no more.
    pub fn stop_typing(&self) {
        let mut shared = self.line.lock();
        if shared.writer == Some(self.id) {
            shared.writer = None;
            drop(shared);
            self.line.change();
        }
    }

    /// Whether it may type.
    pub fn types(&self) -> bool {
        self.line.lock().writer == Some(self.id)
    }

    /// How the console stands.
    pub fn state(&self) -> ConsoleState {
        let shared = self.line.lock();
        ConsoleState {
            connected: shared.input.is_some(),
            reason: shared.reason.clone(),
            writer: shared.writer.and_then(|id| shared.watchers.get(&id).cloned()),
            you_write: shared.writer == Some(self.id),
            watchers: shared.watchers.values().cloned().collect(),
            logged: shared.log.is_some(),
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut shared = self.line.lock();
        shared.watchers.remove(&self.id);
        if shared.writer == Some(self.id) {
            shared.writer = None;
        }
        drop(shared);
        self.line.change();
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
