//! The nodes' serial consoles: who watches, who types, and what is logged.
//!
//! A line is one node's console while it is open: while somebody watches, and always where
//! `[console] log` says so. Whoever may see what was printed is decided by whose the node was at that
//! moment, which is the tenant of its last boot attempt and not the one that the node is wanted for: while one tenant's
//! system still ends, the next one sees nothing. `reconcile/act.rs` hands over when it opens
//! an attempt, since the node is off then. Who may is decided by callers, `api/consoles.rs`.

mod line;
mod log;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use haas_api::names::UserName;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use self::{line::Line, log::Logs};
pub use self::{
    line::{Key, Told, Watching},
    log::{Cursor, Entry, Kind},
};
use crate::{
    clock,
    config::Config,
    context::Context,
    model::{Micros, Node, SECOND},
    power,
    store::{Result, Tx},
};

/// Consoles that are begun at the same time, so that those of a fleet do not keep power commands
/// from the BMCs.
const CONNECTING: usize = 32;
/// The last lines that a fault carries.
const EVIDENCE: usize = 50;
/// Many events come at once; one look serves them all.
const GATHER: Duration = Duration::from_secs(1);
/// How often it is looked which consoles are to be logged, though nothing happened.
const LOOK: Duration = Duration::from_secs(30);
/// How often old logs are removed.
const PRUNE: Duration = Duration::from_secs(3600);

/// All consoles. Its clones are the same ones.
#[derive(Debug, Clone)]
pub struct Consoles {
    logs: Logs,
    /// Whether consoles are logged though nobody watches.
    are_logged: bool,
    open: Arc<Mutex<Open>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    connecting: Arc<Semaphore>,
    /// Counts up when a log may have grown.
    grew: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Open {
    /// By node.
    lines: HashMap<String, Arc<Line>>,
    /// How often each node was handed over.
    hand_overs: HashMap<String, u64>,
}

/// Whose what a node prints is, as it was in the store at a moment that can be told from later ones.
#[derive(Debug)]
pub struct Tenancy {
    /// The id of a user or project; empty: nobody's.
    pub tenant: String,
    hand_overs: u64,
}

/// What a watcher comes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grip {
    /// To watch only.
    Watch,
    /// To type, if nobody else does.
    Type,
    /// To type, whoever does, and to have the console from another session of the BMC.
    Take,
}

impl Consoles {
    /// None is open yet.
    pub fn new(config: &Config) -> Self {
        let age = Micros::try_from(config.console.age_s).unwrap_or(Micros::MAX / SECOND) * SECOND;
        Self {
            logs: Logs::new(&config.state_dir, config.console.size_mib << 20, age),
            are_logged: config.console.log,
            open: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            connecting: Arc::new(Semaphore::new(CONNECTING)),
            grew: watch::Sender::new(0),
        }
    }

    /// Whose what a node prints is: of its last boot's tenant, also when that is over.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn tenancy(&self, tx: &mut Tx, node: &Node) -> Result<Tenancy> {
        // First the number: if it is the same later, what is read now still holds.
        let hand_overs = self.lock().hand_overs.get(&node.id).copied().unwrap_or(0);
        Ok(Tenancy { tenant: tenant(tx, node).await?, hand_overs })
    }

    /// Lets somebody watch a node's console; none where the node was handed over since `seen`.
    pub fn watch(
        &self,
        node: &Node,
        seen: &Tenancy,
        who: &UserName,
        grip: Grip,
    ) -> Option<Watching> {
        let mut open = self.lock();
        Some(self.line(&mut open, node, seen)?.attach(who, grip))
    }

    /// From now on what a node prints is `tenant`'s; to be called after the commit.
    pub fn hand_over(&self, node_id: &str, tenant: &str) {
        let mut open = self.lock();
        *open.hand_overs.entry(node_id.to_owned()).or_default() += 1;
        if let Some(line) = open.lines.get(node_id) {
            line.hand_over(tenant);
        }
    }

    /// The last lines of a node's console and whose they are, if it is open.
    pub fn evidence(&self, node_id: &str) -> Option<(String, Vec<String>)> {
        let line = self.lock().lines.get(node_id).cloned()?;
        let lines = line.last_lines(EVIDENCE);
        (!lines.is_empty()).then(|| (line.tenant(), lines))
    }

    /// Whether a node's console is logged now.
    pub fn is_logged(&self, node: &Node) -> bool {
        self.are_logged && node.managed && power::has_console(&node.spec.power)
    }

    /// Lines of a node's log that were printed while it was a tenant's whom `may` allows, and
    /// the place behind them: the last ones or, behind a place, the next. Reads files.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read_log(
        &self,
        node_id: &str,
        lines: usize,
        behind: Option<&Cursor>,
        may: impl Fn(&str) -> bool,
    ) -> io::Result<(Vec<Entry>, Cursor)> {
        match behind {
            Some(cursor) => self.logs.after(node_id, lines, cursor, may),
            None => self.logs.tail(node_id, lines, may),
        }
    }

    /// Changes whenever a log may have grown.
    pub fn growth(&self) -> watch::Receiver<u64> {
        self.grew.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's line, which is started if there is none.
    fn line(&self, open: &mut Open, node: &Node, seen: &Tenancy) -> Option<Arc<Line>> {
        if open.hand_overs.get(&node.id).copied().unwrap_or(0) != seen.hand_overs {
            return None;
        }
        if let Some(line) = open.lines.get(&node.id) {
            line.set_spec(&node.spec.power);
            return Some(Arc::clone(line));
        }
        let (line, keys) = Line::new(&node.id, &node.name, &node.spec.power, &seen.tenant);
        if self.is_logged(node) {
            self.log(&line);
        }
        open.lines.insert(node.id.clone(), Arc::clone(&line));
        self.tasks.spawn(Arc::clone(&line).run(self.clone(), keys, self.stop.clone()));
        Some(line)
    }

    fn log(&self, line: &Line) {
        line.log_to(|tenant| {
            let before = self.logs.tail(&line.node_id, EVIDENCE, |owner| owner == tenant);
            let (before, _) = before.unwrap_or_else(|error| {
                warn!(node = %line.node, %error, "cannot read a console's log");
                Default::default()
            });
            (self.logs.writer(&line.node_id, tenant), before)
        });
    }

    /// Ends a line that is idle, so that who comes later starts another; false if it is not.
    fn forget_idle(&self, line: &Line) -> bool {
        let mut open = self.lock();
        let is_idle = line.is_idle();
        if is_idle {
            open.lines.remove(&line.node_id);
        }
        is_idle
    }

    fn forget(&self, line: &Line) {
        self.lock().lines.remove(&line.node_id);
    }
}

/// The tenant of a node's last boot, by the id of a user or project; empty: nobody has booted it.
///
/// # Errors
/// When the store fails.
pub async fn tenant(tx: &mut Tx, node: &Node) -> Result<String> {
    let Some(attempt) = tx.last_attempt(&node.id).await? else { return Ok(String::new()) };
    let desired = tx.desired(&node.id, attempt.generation).await?;
    Ok(desired.map(|desired| desired.wanted.tenant).unwrap_or_default())
}

/// Has the consoles open that are to be logged, and removes old logs, until `stop`; then ends all.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let consoles = &context.consoles;
    let mut news = context.events.subscribe();
    let mut pruned: Option<Instant> = None;
    loop {
        if let Err(error) = look(&context).await {
            error!(error = &error as &dyn std::error::Error, "cannot see to the consoles");
        }
        if pruned.is_none_or(|at| at.elapsed() >= PRUNE) {
            pruned = Some(Instant::now());
            let logs = consoles.logs.clone();
            match tokio::task::spawn_blocking(move || logs.prune(clock::wall())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "cannot remove old logs of consoles"),
                Err(error) => error!(%error, "the removal of old logs panicked"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK) => {}
            changed = news.changed() => {
                if changed.is_ok() {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(GATHER) => {}
                    }
                }
            }
        }
    }
    consoles.stop.cancel();
    consoles.tasks.close();
    consoles.tasks.wait().await;
}

/// One look: which consoles are to be open though nobody watches, and what the inventory says of all.
async fn look(context: &Context) -> Result<()> {
    let consoles = &context.consoles;
    if !consoles.are_logged && consoles.lock().lines.is_empty() {
        return Ok(());
    }
    let mut tx = context.store.read().await?;
    let nodes = tx.nodes().await?;
    let mut left: HashSet<String> = consoles.lock().lines.keys().cloned().collect();
    for node in &nodes {
        let is_open = left.remove(&node.id);
        if consoles.is_logged(node) && !is_open {
            let seen = consoles.tenancy(&mut tx, node).await?;
            // If it was handed over just now, that is an event, and it is looked again.
            consoles.line(&mut consoles.lock(), node, &seen);
        } else if let Some(line) = consoles.lock().lines.get(&node.id) {
            line.set_spec(&node.spec.power);
            if !consoles.is_logged(node) {
                line.log_no_more();
            }
        }
    }
    // Of nodes that the inventory does not name any more.
    let open = consoles.lock();
    for line in left.iter().filter_map(|id| open.lines.get(id)) {
        line.log_no_more();
    }
    Ok(())
}
