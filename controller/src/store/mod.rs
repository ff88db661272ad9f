//! The store: all SQL of haasd, one file per noun, on SQLite and PostgreSQL alike.
//!
//! Every method stands on [`Tx`], a transaction on either database; `on!` runs one query text on
//! whichever it is. A change of a shared row is one conditional update on `version`: zero rows means
//! that somebody was first, and the caller reads again ([`StoreError::Conflict`]). Nothing here reads
//! a clock, decides, or speaks to hardware, and no transaction is held across anything that waits.
//!
//! What grows is never read whole, which a test sees to. SQLite takes a `cross join` from left to right: from the
//! nodes that there are to what is wanted of each, and not from all that ever was wanted.

mod attempts;
mod audit;
mod auto_actions;
mod baselines;
mod desired;
mod discovered;
mod disks;
mod events;
mod fault_consoles;
mod grants;
mod groups;
mod hardware;
mod hook_calls;
mod host_keys;
mod idle_off;
mod images;
mod inventory;
mod known;
mod maintenance;
mod networks;
mod nodes;
mod operations;
mod overlays;
mod places;
mod projects;
mod queues;
mod reservations;
mod standings;
mod tenancies;
mod tokens;
mod usage;
mod users;
mod webhooks;
mod writer;

use std::{
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{
    PgPool, Postgres, Sqlite, SqlitePool, Transaction,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use attempts::LiveBoot;
pub use audit::NewAudit;
pub use baselines::BaselineRow;
pub use discovered::DiscoveredRow;
pub use disks::DiskRow;
pub use events::{EventRow, NewEvent};
pub use grants::{GrantRow, GrantTo, NewGrantRow};
pub use groups::GroupRow;
pub use hardware::{AskedRow, HardwareRow, HealthRow};
pub use host_keys::HostKeyRow;
pub use images::ImageRow;
pub use known::{ByNode, Used};
pub use maintenance::MaintenanceRow;
pub use nodes::NodePlace;
pub use overlays::{CopyRow, OverlayRow, ShardRow};
pub use projects::{MemberId, MemberRow, ProjectRow};
pub use queues::QueueRow;
pub use reservations::StepRow;
pub use standings::{RunsRow, StandingRow};
pub use tenancies::TenancyRow;
pub use tokens::TokenRow;
pub use usage::UsedRow;
pub use users::UserRow;
pub use webhooks::{DeadEventRow, WebhookRow};

use self::{
    known::Known,
    places::{Places, Seen},
    writer::{Base, Turn, Writer},
};
use crate::metrics::{Held, METRICS};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// So long one of SQLite's connections is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Rows of SQLite that may be on their way to who reads them.
const ROWS_AT_ONCE: usize = 4096;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database said no.
    #[error("the database refused a statement")]
    Sql(#[from] sqlx::Error),
    /// What was written could not be made to last. Where others wrote with it, it may be there or not.
    #[error("the database could not commit")]
    Commit(#[source] Arc<sqlx::Error>),
    /// The schema could not be brought up to date.
    #[error("the database schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Somebody else changed the row first.
    #[error("{0} was changed by somebody else meanwhile")]
    Conflict(String),
    /// Something has this name already.
    #[error("{0} is taken")]
    Taken(String),
    /// A row holds what this version cannot read.
    #[error("a row of {table} cannot be read: {problem}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// `database_url` names neither SQLite nor PostgreSQL.
    #[error("database_url must begin with sqlite: or postgres:")]
    UnknownDatabase,
}

impl StoreError {
    /// Of what was to be written by another task, which failed and has told why itself.
    pub fn of_another() -> Self {
        Self::Commit(Arc::new(sqlx::Error::WorkerCrashed))
    }
}

/// Short for what every method here answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A database that is open and has this version's schema.
#[derive(Debug, Clone)]
pub struct Store {
    pools: Pools,
    /// How often this process has changed, or seen changed, who may do what.
    powers_age: Arc<AtomicU64>,
    places: Places,
    known: Known,
}

/// Connections for readers, and the one by which all write.
#[derive(Debug, Clone)]
enum Pools {
    Lite(SqlitePool, Arc<Writer<Sqlite>>),
    Pg(PgPool, Arc<Writer<Postgres>>),
}

impl Store {
    /// Opens `sqlite:///path/file.db` (made where it is absent) or `postgres://…`, and brings its
    /// schema up to date.
    pub async fn open(url: &str) -> Result<Self> {
        let commits = Commits::from_env();
        let pools = if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url)?
                .create_if_missing(true)
                .foreign_keys(true)
                .journal_mode(SqliteJournalMode::Wal)
                // What was answered to a caller must outlive a power cut of the controller.
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(10))
                // Rows come from a thread of their own, which else is waited for at each fiftieth of thousands.
                .row_buffer_size(ROWS_AT_ONCE);
            // There is no server that could have gone away since. Who waits for a connection waits for
            // others of this process: it goes on, and to give up and begin again would not help anybody.
            let pool =
                SqlitePoolOptions::new().test_before_acquire(false).acquire_timeout(PATIENCE);
            let readers = pool.clone().max_connections(4).connect_with(options.clone()).await?;
            MIGRATIONS.run(&readers).await?;
            let writer = pool.max_connections(1).connect_lazy_with(options);
            Pools::Lite(readers, Arc::new(Writer::new(writer, commits)))
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let readers = PgPoolOptions::new().max_connections(8).connect(url).await?;
            MIGRATIONS.run(&readers).await?;
            let writer = PgPoolOptions::new().max_connections(1).connect_lazy(url)?;
            Pools::Pg(readers, Arc::new(Writer::new(writer, commits)))
        } else {
            return Err(StoreError::UnknownDatabase);
        };
        Ok(Self {
            pools,
            powers_age: Arc::default(),
            places: Places::default(),
            known: Known::default(),
        })
    }

    /// A transaction for reading; drop it when done.
    pub async fn read(&self) -> Result<Tx> {
        let (since, places) = (Instant::now(), self.places.seen());
        let inner = match &self.pools {
            Pools::Lite(readers, _) => TxInner::Lite(Line::Reads(readers.begin().await?)),
            // SQLite's read transactions are snapshots; PostgreSQL's only when told.
            Pools::Pg(readers, _) => TxInner::Pg(Line::Reads(
                readers.begin_with("begin isolation level repeatable read read only").await?,
            )),
        };
        Ok(Tx { places_seen: Some(places), ..self.tx(inner, "read", since) })
    }

    /// A transaction for writing; it counts only once [`Tx::commit`] has returned. There is one at a
    /// time on either database, so that what it reads holds until it commits, and two of them never
    /// wait for each other. What it reads of others may not last yet, but lasts when this one does.
    pub async fn write(&self) -> Result<Tx> {
        let since = Instant::now();
        let inner = match &self.pools {
            Pools::Lite(_, writer) => TxInner::Lite(Line::Writes(writer.turn().await?)),
            Pools::Pg(_, writer) => TxInner::Pg(Line::Writes(writer.turn().await?)),
        };
        Ok(self.tx(inner, "write", since))
    }

    fn tx(&self, inner: TxInner, kind: &'static str, since: Instant) -> Tx {
        let held = METRICS.store_began(kind, since.elapsed());
        Tx {
            inner,
            powers_age: self.powers_age.clone(),
            changes_powers: false,
            places_age: self.places.age.clone(),
            places_seen: None,
            changes_places: false,
            known: self.known.clone(),
            held,
        }
    }

    /// Another one as soon as anything has changed who may do what; to be taken before it is read.
    pub fn powers_age(&self) -> u64 {
        self.powers_age.load(Ordering::Acquire)
    }

    /// Somebody else has changed who may do what.
    pub fn powers_changed(&self) {
        self.powers_age.fetch_add(1, Ordering::AcqRel);
    }

    /// How often any process has changed who may do what.
    pub async fn powers_changes(&self) -> Result<i64> {
        self.read().await?.powers_changes().await
    }

    /// Closes the connections; SQLite then folds its write-ahead log into the file.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Lite(readers, writer) => {
                writer.close().await;
                readers.close().await;
            }
            Pools::Pg(readers, writer) => {
                writer.close().await;
                readers.close().await;
            }
        }
    }
}

/// A transaction on either database.
#[derive(Debug)]
pub struct Tx {
    inner: TxInner,
    /// Times it.
    held: Held,
    powers_age: Arc<AtomicU64>,
    /// Whether it changes who may do what.
    changes_powers: bool,
    places_age: Arc<AtomicU64>,
    /// None while writing: what is read then may never last.
    places_seen: Option<Seen>,
    /// Whether it changes what nodes are told of each other.
    changes_places: bool,
    known: Known,
}

#[derive(Debug)]
enum TxInner {
    Lite(Line<Sqlite>),
    Pg(Line<Postgres>),
}

/// A connection with a transaction of its own, or a turn in that of all writers.
#[derive(Debug)]
enum Line<DB: Base> {
    Reads(Transaction<'static, DB>),
    Writes(Turn<DB>),
}

impl<DB: Base> Line<DB> {
    async fn commit(self, outdated: Vec<Arc<AtomicU64>>) -> Result<()> {
        match self {
            Self::Reads(tx) => Ok(tx.commit().await?),
            Self::Writes(turn) => turn.commit(outdated).await,
        }
    }
}

impl<DB: Base> Deref for Line<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        match self {
            Self::Reads(tx) => tx,
            Self::Writes(turn) => turn,
        }
    }
}

impl<DB: Base> DerefMut for Line<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        match self {
            Self::Reads(tx) => tx,
            Self::Writes(turn) => turn,
        }
    }
}

impl Tx {
    /// Makes what was written here last.
    pub async fn commit(mut self) -> Result<()> {
        if self.changes_powers {
            self.count_up("powers").await?;
        }
        let mut outdated = Vec::new();
        if self.changes_powers {
            outdated.push(self.powers_age);
        }
        if self.changes_places {
            outdated.push(self.places_age);
        }
        let done = match self.inner {
            TxInner::Lite(line) => line.commit(outdated).await,
            TxInner::Pg(line) => line.commit(outdated).await,
        };
        drop(self.held);
        done
    }

    /// To be called by all that changes what a principal is or may.
    fn change_powers(&mut self) {
        self.changes_powers = true;
    }
}

/// Runs one query on whichever database the transaction is on: `on!(tx, c => query(…).execute(c))`.
macro_rules! on {
    ($tx:expr, $conn:ident => $query:expr) => {
        match &mut $tx.inner {
            $crate::store::TxInner::Lite(tx) => {
                let $conn = &mut **tx;
                $query.await.map_err($crate::store::StoreError::from)
            }
            $crate::store::TxInner::Pg(tx) => {
                let $conn = &mut **tx;
                $query.await.map_err($crate::store::StoreError::from)
            }
        }
    };
}
use on;

/// `on!` for statements: how many rows they changed.
macro_rules! changed {
    ($tx:expr, $query:expr) => {
        match &mut $tx.inner {
            $crate::store::TxInner::Lite(tx) => {
                $query.execute(&mut **tx).await.map(|done| done.rows_affected())
            }
            $crate::store::TxInner::Pg(tx) => {
                $query.execute(&mut **tx).await.map(|done| done.rows_affected())
            }
        }
        .map_err($crate::store::StoreError::from)
    };
}
use changed;

/// The text of a statement that changes nodes: `update_nodes!("managed = $2 where id = $1")`. It gives them their
/// next stamp.
macro_rules! update_nodes {
    ($rest:literal) => {
        concat!("update nodes set stamp = (select max(stamp) + 1 from nodes), ", $rest)
    };
}
use update_nodes;

/// Counts commits, so that the crash test can end haasd right after its k-th one: every commit is
/// an instant at which a real crash would leave the store.
#[derive(Debug, Clone)]
struct Commits {
    done: Arc<AtomicU64>,
    abort_after: Option<u64>,
}

impl Commits {
    fn from_env() -> Self {
        let abort_after =
            std::env::var("HAAS_ABORT_AFTER_COMMIT").ok().and_then(|k| k.parse().ok());
        Self { done: Arc::new(AtomicU64::new(0)), abort_after }
    }

    fn count(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.abort_after == Some(done) {
            std::process::abort();
        }
    }
}

/// Reads a JSON column.
fn from_json<T: serde::de::DeserializeOwned>(table: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| StoreError::Corrupt { table, problem: format!("{e} in {text:?}") })
}

/// Reads a text column that holds a checked name or a word of an enum.
fn from_text<T: FromStr>(table: &'static str, text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| StoreError::Corrupt { table, problem: e.to_string() })
}

/// The word of an enum that is one in JSON.
fn word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .expect("these enums are words in JSON")
}

/// Reads such a word.
fn from_word<T: serde::de::DeserializeOwned>(table: &'static str, word: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|e| StoreError::Corrupt { table, problem: e.to_string() })
}

/// Writes a JSON column.
fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data with string keys always becomes JSON")
}
