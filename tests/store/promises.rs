//! Two tests of each promise, each with an empty database of its own.

use std::{future::Future, path::Path};

use controller::store::Store;
use sqlx::{Connection, PgConnection, SqliteConnection};

/// `cargo xtask test` sets it.
const SERVER: &str = "HAAS_TEST_POSTGRES_URL";

/// A database that nobody else uses.
pub(crate) struct Db {
    pub(crate) store: Store,
    url: String,
}

impl Db {
    async fn open(url: String) -> Db {
        let store = Store::open(&url).await.expect("an empty database opens");
        Db { store, url }
    }

    /// Runs a statement as whoever made the rows of an older version did.
    pub(crate) async fn execute(&self, statement: String) {
        if self.url.starts_with("sqlite:") {
            let mut connection = SqliteConnection::connect(&self.url).await.expect("it is there");
            // The text is a test's own.
            let done = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await;
            done.expect("it obeys");
        } else {
            administer(&self.url, statement).await;
        }
    }

    /// How SQLite would run a statement, step by step; none where it is only a part of one.
    pub(crate) async fn plan(&self, statement: &str) -> Option<Vec<String>> {
        let mut connection = SqliteConnection::connect(&self.url).await.expect("it is there");
        // The text is haasd's own.
        let explain = sqlx::AssertSqlSafe(format!("explain query plan {statement}"));
        let steps = sqlx::query_as(explain).fetch_all(&mut connection).await.ok()?;
        Some(steps.into_iter().map(|(_, _, _, step): (i64, i64, i64, String)| step).collect())
    }

    /// The same database opened once more, as another controller or a restarted haasd would.
    pub(crate) async fn again(&self) -> Store {
        Store::open(&self.url).await.expect("a database that was opened before opens")
    }
}

/// Makes of each named `async fn(Db)` a test on SQLite and one on PostgreSQL.
macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { $crate::promises::on_sqlite(super::$name) })*
        }
        mod postgres {
            $(#[test] fn $name() { $crate::promises::on_postgres(super::$name) })*
        }
    };
}

pub(crate) fn on_sqlite<F: Future<Output = ()>>(promise: fn(Db) -> F) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run(async {
        let db = Db::open(file_url(dir.path())).await;
        let store = db.store.clone();
        promise(db).await;
        store.close().await;
    });
}

pub(crate) fn on_postgres<F: Future<Output = ()>>(promise: fn(Db) -> F) {
    let Ok(server) = std::env::var(SERVER) else {
        panic!("{SERVER} is not set: run `cargo xtask test`, which starts a PostgreSQL for this");
    };
    let name = format!("store_{}", ulid::Ulid::new()).to_lowercase();
    let (base, _) = server.rsplit_once('/').expect("a URL that ends with a database's name");
    let url = format!("{base}/{name}");
    run(async {
        administer(&server, format!("create database {name}")).await;
        let db = Db::open(url).await;
        let store = db.store.clone();
        promise(db).await;
        store.close().await;
        administer(&server, format!("drop database {name} with (force)")).await;
    });
}

fn file_url(dir: &Path) -> String {
    format!("sqlite://{}/haas.db", dir.display())
}

async fn administer(server: &str, statement: String) {
    let mut connection = PgConnection::connect(server).await.expect("PostgreSQL answers");
    // The name is our own.
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.expect("it obeys");
    connection.close().await.expect("PostgreSQL lets us go");
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}
