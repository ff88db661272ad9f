//! Serves an empty PostgreSQL until standard input ends; its URL is the only line it prints.
//! `cargo xtask test` runs it, so that all tests share one server.

use std::io::{Read, Write};

use anyhow::Result;
use tests::postgres::Postgres;

fn main() -> Result<()> {
    let postgres = Postgres::start()?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", postgres.url())?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
