//! The planner: a pass over 10,000 nodes and claims, one claim more, and the replay of a trace.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::run;

/// The made trace: so many jobs on so many nodes.
const JOBS: u64 = 20_000;
const NODES: &str = "256";

/// Measures, and answers the numbers with their units in their names.
pub(crate) fn run() -> Result<Map<String, Value>> {
    let args = ["bench", "--package", "scheduler", "--bench", "plan", "--", "--json"];
    let mut numbers = last_line(&run::output(&mut run::cargo(&args))?)?;
    build_sim()?;
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("made.swf");
    fs::write(&trace, made_trace())?;
    let trace = trace.to_str().context("a temporary folder has a plain name")?;
    let figures = sim(&["--trace", trace, "--nodes", NODES, "--policy", "easy"])?;
    for name in ["utilisation_ratio", "decisions_per_s", "jobs_per_s"] {
        numbers.insert(format!("replay_{name}"), figures[name].clone());
    }
    Ok(numbers)
}

/// Builds `haas-sim` with optimization.
pub(crate) fn build_sim() -> Result<()> {
    run::run(&mut run::cargo(&["build", "--release", "--package", "trace-sim"]))
}

/// What `haas-sim` says.
pub(crate) fn sim(args: &[&str]) -> Result<Map<String, Value>> {
    let mut sim = std::process::Command::new(run::target().join("release/haas-sim"));
    last_line(&run::output(sim.args(args).arg("--json"))?)
}

fn last_line(output: &[u8]) -> Result<Map<String, Value>> {
    let text = String::from_utf8_lossy(output);
    let line = text.trim_end().lines().last().context("nothing was printed")?;
    serde_json::from_str(line).with_context(|| format!("no JSON object: {line}"))
}

/// Jobs of widths from 1 to 63 and of up to an hour and a half, in the Standard Workload Format; the same
/// each time, and about as many as the nodes can take.
fn made_trace() -> String {
    let mut dice: u64 = 0x2545_f491_4f6c_dd1d;
    let mut roll = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 11) % sides
    };
    let mut trace = String::from("; made by cargo xtask bench plan\n");
    let mut submit = 0;
    for job in 1..=JOBS {
        submit += roll(420);
        let bits = roll(6);
        let (width, run) = ((1 << bits) + roll(1 << bits), 1 + roll(5_400));
        let estimate = run + roll(3) * 600;
        let user = roll(40);
        // Writing into a string cannot fail.
        let _ = writeln!(
            trace,
            "{job} {submit} -1 {run} {width} -1 -1 {width} {estimate} -1 1 {user} 1 -1 -1 -1 -1 -1"
        );
    }
    trace
}
