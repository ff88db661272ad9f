//! `docs/openapi.json` is generated from the API's code and checked in, so that a change of the API
//! shows in review.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::run;

const FILE: &str = "docs/openapi.json";

pub(crate) fn write() -> Result<()> {
    let path = run::root().join(FILE);
    fs::create_dir_all(path.with_file_name(""))?;
    fs::write(path, generate()?)?;
    run::say(format!("wrote {FILE}"));
    Ok(())
}

/// An error if the file differs from what the code says.
pub(crate) fn check() -> Result<()> {
    let checked_in = fs::read(run::root().join(FILE)).unwrap_or_default();
    ensure!(generate()? == checked_in, "{FILE} is not up to date: run cargo xtask openapi");
    Ok(())
}

/// What `haasd openapi` prints.
fn generate() -> Result<Vec<u8>> {
    run::run(run::cargo(&["build"]).args(run::WHOLE))?;
    run::output(Command::new(run::built("haasd")).arg("openapi"))
}
