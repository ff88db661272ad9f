//! The suites on the virtual rack and on simulated nodes, which `cargo test` ignores.

use std::process::Command;

use anyhow::Result;

use crate::{agent, run, schemathesis, setup};

/// Tests whose names begin so take minutes, and run only when asked for.
const SLOW: &str = "slow_";

/// Builds what the suites start, then runs them one test after the other: each wants all the CPUs.
/// `slow` runs also the tests that take minutes.
pub(crate) fn run(slow: bool, args: &[String]) -> Result<()> {
    setup::run()?;
    build()?;
    if slow {
        schemathesis::install()?;
        fetch(&[
            "images/debian-12",
            "tests/images/el-like",
            "tests/images/initiator",
            "tests/images/unruly-debian",
        ])?;
    }
    let mut cargo = run::cargo(&["test", "--workspace", "--test", "e2e", "--test", "sim", "--"]);
    cargo.args(["--ignored", "--test-threads=1"]);
    if !slow {
        cargo.args(["--skip", SLOW]);
    }
    cargo.args(args);
    if !run::is_root() {
        cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo --preserve-env");
    }
    run::run(&mut cargo)?;
    if slow {
        // haasd's own: recipes built twice, firmware of several kinds against netboot.
        let own = ["test", "--workspace", "--lib", "--", "--ignored"];
        run::run(run::cargo(&own).arg("--test-threads=1"))?;
        // The iSCSI target's own: the conformance suite beside tgtd.
        let own = ["test", "--workspace", "--test", "conformance", "--", "--ignored"];
        run::run(run::cargo(&own).arg("--test-threads=1"))?;
    }
    Ok(())
}

/// The programs that run in a rack: daemon, CLI, the rack's own, and the agent's archive.
pub(crate) fn build() -> Result<()> {
    run::run(run::cargo(&["build"]).args(run::WHOLE))?;
    agent::build()?;
    fetch(&["images/minimal", "images/tools"])
}

/// A rack has no way out to Debian's mirrors: its haasd finds the packages of these recipes here.
fn fetch(recipes: &[&str]) -> Result<()> {
    let mut fetch = Command::new(run::built("haasd"));
    fetch.arg("fetch").arg("--into").arg(run::target().join("debs"));
    fetch.args(recipes.iter().map(|recipe| run::root().join(recipe)));
    run::run(&mut fetch)
}
