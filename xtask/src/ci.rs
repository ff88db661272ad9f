//! What decides whether a change lands, the same here and on the server. At most 35 minutes cold.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{deny, e2e, openapi, run, setup, test};

type Step = (&'static str, fn() -> Result<()>);

/// Cheap ones first. A missing tool is a failure, never a skip.
const STEPS: &[Step] = &[
    ("packages", setup::run),
    ("format", || run::run(&mut run::cargo(&["fmt", "--all", "--check"]))),
    ("licences, bans, sources", deny::run),
    ("clippy", clippy),
    ("documentation", documentation),
    ("openapi unchanged", openapi::check),
    ("tests, both databases", || test::run(&["--locked".to_owned()])),
];

pub(crate) fn run(slow: bool) -> Result<()> {
    let suites: fn() -> Result<()> =
        if slow { || e2e::run(true, &[]) } else { || e2e::run(false, &[]) };
    let start = Instant::now();
    let mut times = Vec::new();
    let mut result = Ok(());
    for (name, step) in STEPS.iter().copied().chain([("end to end", suites)]) {
        run::say(format!("\n== {name}"));
        let begun = Instant::now();
        result = step().with_context(|| format!("the step \"{name}\" failed"));
        times.push((name, begun.elapsed()));
        run::say(format!("== {name}: {}", minutes(begun.elapsed())));
        if result.is_err() {
            break;
        }
    }
    run::say("");
    for (name, time) in &times {
        run::say(format!("{name:<28} {:>9}", minutes(*time)));
    }
    run::say(format!("{:<28} {:>9}", "all", minutes(start.elapsed())));
    result
}

fn clippy() -> Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    run::run(&mut run::cargo(&args))
}

fn documentation() -> Result<()> {
    let mut doc = run::cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    run::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

fn minutes(time: Duration) -> String {
    format!("{}:{:04.1}", time.as_secs() / 60, time.as_secs_f32() % 60.0)
}
