//! The one who writes: writers have their turns in the order in which they came, and share commits.
//!
//! A commit waits for the disk, and a fleet writes more often than a disk can be waited for. So a turn is
//! a savepoint in a transaction that those who wait behind it join: the first of them commits for all as
//! soon as everybody has had his turn who waited when its own was over. [`Turn::commit`] comes back only
//! then. What one of them gives up, or fails with, is taken back alone. If the commit fails, all are told.
//!
//! Nobody waits for his turn inside the database: SQLite would let those who do sleep and look again, each
//! with a connection of its own.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::{Database, Pool, Postgres, Sqlite, pool::PoolConnection};
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedMutexGuard, oneshot},
};

use super::{Commits, Result, StoreError};

/// More than this do not share a commit, so that the first of them is not held up for long.
const MOST_TOGETHER: usize = 100;

/// What of a database's own a writer needs.
pub(super) trait Base: Database {
    /// Begins a transaction in which nobody else writes.
    const BEGIN: &'static str;

    /// Runs statements that answer nothing.
    fn run(
        connection: &mut Self::Connection,
        statements: &'static str,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;
}

impl Base for Sqlite {
    // A deferred transaction that turns into a writer can fail with "busy" at once.
    const BEGIN: &'static str = "begin immediate";

    async fn run(connection: &mut Self::Connection, statements: &'static str) -> sqlx::Result<()> {
        sqlx::raw_sql(statements).execute(connection).await.map(drop)
    }
}

impl Base for Postgres {
    // The gapless numbers of events allow one writer at a time anyway. Taken first, this lock (its number
    // is "haas" in ASCII) cannot close a circle with the locks of rows.
    const BEGIN: &'static str = "begin; select pg_advisory_xact_lock(1751212403)";

    async fn run(connection: &mut Self::Connection, statements: &'static str) -> sqlx::Result<()> {
        sqlx::raw_sql(statements).execute(connection).await.map(drop)
    }
}

/// Where writers of one database have their turns.
#[derive(Debug)]
pub(super) struct Writer<DB: Base> {
    pool: Pool<DB>,
    commits: Commits,
    desk: Arc<Mutex<Desk<DB>>>,
}

/// What whoever's turn it is has.
#[derive(Debug)]
struct Desk<DB: Base> {
    /// With a transaction in it, while there is one.
    connection: Option<PoolConnection<DB>>,
    turn: Stand,
    /// Whose turns are over, and who wait for the commit.
    members: Vec<Member>,
}

/// How the last turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It is over.
    Over,
    /// It may have its savepoint, and has written nothing.
    Begins,
    /// It has its savepoint, and may have written.
    Writes,
}

/// Whoever waits for a commit.
#[derive(Debug)]
struct Member {
    tell: oneshot::Sender<Told>,
    /// The ages of what is known in memory and is no longer so.
    outdated: Vec<Arc<AtomicU64>>,
}

type Told = std::result::Result<(), Arc<sqlx::Error>>;

/// A writer's turn. What it wrote is taken back when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<DB: Base> {
    commits: Commits,
    /// None once it is committed.
    desk: Option<OwnedMutexGuard<Desk<DB>>>,
}

impl<DB: Base> Writer<DB> {
    /// `pool` has one connection, which nobody else uses.
    pub(super) fn new(pool: Pool<DB>, commits: Commits) -> Self {
        let desk = Desk { connection: None, turn: Stand::Over, members: Vec::new() };
        Self { pool, commits, desk: Arc::new(Mutex::new(desk)) }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) -> Result<Turn<DB>> {
        let desk = self.desk.clone().lock_owned().await;
        let mut turn = Turn { commits: self.commits.clone(), desk: Some(desk) };
        turn.desk().begin(&self.pool).await?;
        Ok(turn)
    }

    /// Closes the connection, when all who wait have had their turns.
    pub(super) async fn close(&self) {
        self.desk.clone().lock_owned().await.commit(&self.commits).await;
        self.pool.close().await;
    }
}

impl<DB: Base> Desk<DB> {
    async fn begin(&mut self, pool: &Pool<DB>) -> sqlx::Result<()> {
        if self.members.is_empty() {
            self.give_up().await;
        } else if self.turn == Stand::Writes {
            // Its savepoint stands and is the next one's. Whoever goes away in the middle of this leaves it
            // as it was.
            return self.run("rollback to turn").await;
        }
        if self.connection.is_none() {
            self.connection = Some(pool.acquire().await?);
            self.run(DB::BEGIN).await?;
        }
        // Of a turn that did not come further than this a second savepoint does no harm.
        self.turn = Stand::Begins;
        self.run("savepoint turn").await?;
        self.turn = Stand::Writes;
        Ok(())
    }

    /// Ends the transaction, in which nobody has written who counts on it.
    async fn give_up(&mut self) {
        self.turn = Stand::Over;
        if self.connection.is_some() && self.run("rollback").await.is_err() {
            self.part().await;
        }
        self.connection = None;
    }

    /// The turn that writes is over, and counts.
    async fn end_turn(&mut self) -> sqlx::Result<()> {
        let ended = self.run("release turn").await;
        if ended.is_err() {
            // Something before has failed, and the caller went on.
            self.run("rollback to turn; release turn").await?;
        }
        self.turn = Stand::Over;
        ended
    }

    /// Makes what all members wrote last, and tells them.
    async fn commit(&mut self, commits: &Commits) {
        if self.members.is_empty() {
            return;
        }
        let done = match self.turn {
            Stand::Writes => self.run("rollback to turn; commit").await,
            Stand::Over | Stand::Begins => self.run("commit").await,
        };
        self.turn = Stand::Over;
        match &done {
            Ok(()) => {
                self.connection = None;
                commits.count();
            }
            Err(_) => self.part().await,
        }
        let told = done.map_err(Arc::new);
        for Member { tell, outdated } in self.members.drain(..) {
            // Also when it failed: then nobody knows whether it was done.
            for age in outdated {
                age.fetch_add(1, Ordering::AcqRel);
            }
            let _ = tell.send(told.clone());
        }
    }

    /// Parts with a connection of which nobody knows how it stands.
    async fn part(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.close().await;
        }
    }

    async fn run(&mut self, statements: &'static str) -> sqlx::Result<()> {
        match &mut self.connection {
            Some(connection) => DB::run(connection, statements).await,
            None => Err(sqlx::Error::PoolClosed),
        }
    }
}

impl<DB: Base> Turn<DB> {
    /// Comes back when what was written here lasts. Then all of `outdated` are counted up.
    pub(super) async fn commit(mut self, outdated: Vec<Arc<AtomicU64>>) -> Result<()> {
        let (tell, told) = oneshot::channel();
        let desk = self.desk.take().expect("a turn ends once");
        // In a task of its own: who asked for it may be gone before it is done.
        tokio::spawn(commit(desk, Member { tell, outdated }, self.commits.clone()));
        match told.await {
            Ok(told) => told.map_err(StoreError::Commit),
            Err(_) => Err(StoreError::of_another()),
        }
    }

    fn desk(&mut self) -> &mut Desk<DB> {
        self.desk.as_mut().expect("a turn that is not over has the desk")
    }
}

async fn commit<DB: Base>(mut desk: OwnedMutexGuard<Desk<DB>>, member: Member, commits: Commits) {
    if let Err(error) = desk.end_turn().await {
        let _ = member.tell.send(Err(Arc::new(error)));
        if desk.members.is_empty() {
            desk.give_up().await;
        }
        return;
    }
    desk.members.push(member);
    match desk.members.len() {
        // Who comes from now on waits behind it for another turn.
        1 => {
            let writers = OwnedMutexGuard::mutex(&desk).clone();
            drop(desk);
            writers.lock_owned().await.commit(&commits).await;
        }
        MOST_TOGETHER => desk.commit(&commits).await,
        _ => {}
    }
}

impl<DB: Base> Drop for Turn<DB> {
    fn drop(&mut self) {
        let Some(mut desk) = self.desk.take() else { return };
        // Else whoever has the next turn takes it back, or commits what the others wrote without it.
        if desk.members.is_empty()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { desk.give_up().await });
        }
    }
}

impl<DB: Base> Deref for Turn<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        let desk = self.desk.as_ref().expect("a turn that is not over has the desk");
        desk.connection.as_ref().expect("whoever has a turn has the connection")
    }
}

impl<DB: Base> DerefMut for Turn<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.desk().connection.as_mut().expect("whoever has a turn has the connection")
    }
}
