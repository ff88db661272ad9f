//! All tests that need no root, with both databases.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{run, setup};

/// `cargo test` over the workspace; `args` go to cargo.
pub(crate) fn run(args: &[String]) -> Result<()> {
    setup::run()?;
    let server = Server::start()?;
    let mut cargo = run::cargo(&["test"]);
    if !args.iter().any(|arg| arg == "-p" || arg == "--package") {
        cargo.arg("--workspace");
    }
    // The store's tests run on PostgreSQL too if they are given a server, and each makes a database.
    run::run(cargo.args(args).env("HAAS_TEST_POSTGRES_URL", &server.url))
}

/// A PostgreSQL server that ends when this is dropped, and also when we are killed.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start() -> Result<Server> {
        run::run(run::cargo(&["build"]).args(run::WHOLE))?;
        let mut command = std::process::Command::new(run::built("haas-postgres"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("haas-postgres has a piped output")?;
        let mut server = Server { child, url: String::new() };
        BufReader::new(out).read_line(&mut server.url)?;
        server.url = server.url.trim().to_owned();
        ensure!(!server.url.is_empty(), "PostgreSQL did not start; its message is above");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input tells it to go.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
