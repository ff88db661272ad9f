//! Licences, bans and sources of everything that we link, by cargo-deny and `xtask/deny.toml`.

use anyhow::Result;

use crate::run;

/// Rules may change between versions, and a change must not turn up as somebody else's failure.
const VERSION: &str = "0.20.2";

/// Builds cargo-deny once per target folder, then checks.
pub(crate) fn run() -> Result<()> {
    let tools = run::target().join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        // Without optimization: it builds in about a minute, and checks in one or two seconds.
        let mut install = run::cargo(&["install", "cargo-deny", "--locked", "--debug", "--quiet"]);
        install.args(["--version", VERSION, "--root"]).arg(&tools);
        let build = tools.join("build");
        install.env("CARGO_TARGET_DIR", &build);
        run::run(&mut install)?;
        std::fs::remove_dir_all(build)?;
    }
    let mut check = std::process::Command::new(program);
    check.arg("--config").arg("xtask/deny.toml");
    // No look at advisories: they change from day to day, a commit's verdict must not.
    check.args(["--locked", "check", "licenses", "bans", "sources"]);
    run::run(check.current_dir(run::root()))
}
