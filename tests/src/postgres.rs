//! A throw-away PostgreSQL server for tests: empty, on a free loopback port, gone with its process.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};

use crate::process::Process;
use crate::sys;
use crate::wait::wait_for;

/// A running server. Whoever uses it makes a database of his own in it.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Postgres {
    /// Makes a cluster in a temporary directory and starts it; about two seconds.
    pub fn start() -> Result<Postgres> {
        remove_leftovers()?;
        let bin = debian_bin()?;
        let account = account()?;
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let unique = (std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("haas-postgres-{}-{}", unique.0, unique.1));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        if let Some(user) = &account {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            std::os::unix::fs::chown(&dir, Some(uid), Some(gid))?;
        }
        let mut initdb = as_account(bin.join("initdb"), &account);
        initdb.args(["-D"]).arg(dir.join("data"));
        initdb.args(["-U", "haas", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let made = initdb.current_dir(&dir).output().context("cannot run initdb")?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        // Somebody may take the port between our look and the server's bind: then try another.
        let mut last = None;
        for _ in 0..3 {
            match Postgres::serve(&bin, &account, &dir) {
                Ok(postgres) => return Ok(postgres),
                Err(error) => last = Some(error),
            }
        }
        let _ = fs::remove_dir_all(&dir);
        Err(last.expect("three attempts failed"))
    }

    fn serve(bin: &Path, account: &Option<User>, dir: &Path) -> Result<Postgres> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let log = dir.join("log");
        let mut command = as_account(bin.join("postgres"), account);
        command.arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
        command.args(["-p", &port.to_string(), "-h", "127.0.0.1", "-N", "200"]);
        // Nobody needs this data after a crash.
        command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        command.args(["-c", "synchronous_commit=off"]);
        command.current_dir(dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let child = sys::spawn(command).context("cannot start postgres")?;
        let mut postgres = Postgres { child, dir: dir.to_owned(), port };
        let mut ended = false;
        let ready = wait_for("PostgreSQL to accept connections", Duration::from_secs(60), || {
            ended = !matches!(postgres.child.try_wait(), Ok(None));
            ended || fs::read_to_string(&log).unwrap_or_default().contains("ready to accept")
        });
        if ended || ready.is_err() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            postgres.end();
            // The next attempt needs the cluster, so do not drop it with the server.
            std::mem::forget(postgres);
            bail!("PostgreSQL did not start: {said}");
        }
        Ok(postgres)
    }

    /// The URL of the database `postgres`, as its superuser.
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    /// The URL of a database, which need not exist yet.
    pub fn database_url(&self, database: &str) -> String {
        format!("postgres://haas@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of the database `postgres` for processes in other network namespaces: by its socket.
    pub fn socket_url(&self) -> String {
        format!("postgres://haas@localhost:{}/postgres?host={}", self.port, self.dir.display())
    }

    fn end(&mut self) {
        if let Some(process) = Process::of(self.child.id()) {
            // Immediate shutdown: ends the backends too.
            process.signal(Signal::SIGQUIT);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The newest server of Debian's packages, whatever else is first in PATH.
fn debian_bin() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    Ok(newest.context("no PostgreSQL in /usr/lib/postgresql: run cargo xtask setup")?.join("bin"))
}

/// PostgreSQL refuses to run as root; its package made an account.
fn account() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?;
    Ok(Some(user.context("no account postgres: run cargo xtask setup")?))
}

fn as_account(program: PathBuf, account: &Option<User>) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = account {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Removes the directories of servers whose process was killed before it could.
fn remove_leftovers() -> Result<()> {
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name();
        let ids = name.to_str().and_then(|name| name.strip_prefix("haas-postgres-"));
        if let Some(Ok(pid)) = ids.and_then(|ids| ids.split('-').next()).map(str::parse)
            && Process::of(pid).is_none()
        {
            // Another test may be doing the same right now.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_answers_and_leaves_nothing() {
        let postgres = Postgres::start().expect("PostgreSQL is installed (cargo xtask setup)");
        let dir = postgres.dir.clone();
        let psql = || {
            let mut psql = Command::new("psql");
            psql.args([&postgres.url(), "-Atc", "select 6 * 7"]).output().expect("psql runs")
        };
        assert_eq!(psql().stdout, b"42\n");
        let process = Process::of(postgres.child.id()).expect("it runs");
        drop(postgres);
        assert!(!dir.exists() && !process.is_alive());
    }
}
