//! Fuzzing of what takes bytes from strangers: each target of a package's `fuzz/` for a while, by
//! cargo-fuzz. The compiler is the one that builds everything else, told to allow what fuzzing needs. What is
//! found stays in `fuzz/artifacts`; what was learned goes to `target/fuzz-corpus`, and only by hand into the
//! corpus that is kept, which `cargo test` replays.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::run;

const VERSION: &str = "0.13.2";

/// What there is to fuzz: the functions of `src/fuzzing.rs` of these packages. No name is there twice.
const PACKAGES: [(&str, &[&str]); 2] = [
    ("iscsi-target", &["pdus", "login", "text", "commands"]),
    ("ipmi-lan", &["datagrams", "handshakes", "sessions", "consoles", "answers"]),
];

/// The names of all targets.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PACKAGES.into_iter().flat_map(|(_, targets)| targets).copied()
}

/// Builds cargo-fuzz once per target folder, then fuzzes `target`, or each for `seconds`.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    let program = cargo_fuzz()?;
    for (package, targets) in PACKAGES {
        for name in targets.iter().filter(|name| target.is_none_or(|target| target == **name)) {
            run::say(format!("\n== {package}: {name}, {seconds} s"));
            one(&program, package, name, seconds)?;
        }
    }
    Ok(())
}

fn one(program: &Path, package: &str, name: &str, seconds: u32) -> Result<()> {
    let package = run::root().join(package);
    let learned = run::target().join("fuzz-corpus").join(name);
    std::fs::create_dir_all(&learned)?;
    let mut fuzz = std::process::Command::new(program);
    // No sanitizer: it would want the standard library's sources, and all our code is safe but one call.
    fuzz.args(["fuzz", "run", "--sanitizer", "none", name]);
    // New files are written into the first folder.
    fuzz.arg(learned).arg(package.join("fuzz/corpus").join(name));
    fuzz.args(["--", "-max_len=20000", &format!("-max_total_time={seconds}")]);
    fuzz.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", run::target().join("fuzz"));
    run::run(fuzz.current_dir(package))
}

fn cargo_fuzz() -> Result<PathBuf> {
    let tools = run::target().join("tools");
    let program = tools.join("bin/cargo-fuzz");
    if !program.exists() {
        let mut install = run::cargo(&["install", "cargo-fuzz", "--locked", "--debug", "--quiet"]);
        install.args(["--version", VERSION, "--root"]).arg(&tools);
        install.env("CARGO_TARGET_DIR", tools.join("build"));
        run::run(&mut install)?;
    }
    Ok(program)
}
