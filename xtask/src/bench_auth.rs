//! What it costs haasd to find out who asks and whether he may.

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::run;

/// Runs the measurement, which is in haasd's own library since what it measures is not public.
pub(crate) fn run() -> Result<Map<String, Value>> {
    let test = "measure_what_the_checks_of_a_request_cost";
    let own = ["--ignored", "--nocapture", test];
    let args =
        [&["test", "--release", "--package", "controller", "--lib", "--"][..], &own].concat();
    let said = String::from_utf8(run::output(&mut run::cargo(&args))?)?;
    let line = said.lines().find(|line| line.starts_with('{'));
    let line = line.with_context(|| format!("no numbers in:\n{said}"))?;
    serde_json::from_str(line).context("the numbers cannot be read")
}
