//! Running other programs, and saying which one failed.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// The folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    let chosen = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(chosen)
}

/// A program of ours in the debug profile.
pub(crate) fn built(program: &str) -> PathBuf {
    target().join("debug").join(program)
}

/// `cargo ARGS` at the root, by the cargo that started us.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root());
    // What cargo tells us of our own package. With it the build script of ring, which looks at such
    // variables, would run anew, and all that uses ring would be built anew, back and forth.
    for (name, _) in std::env::vars_os() {
        let is_ours = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if is_ours.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// What every build of ours in the debug profile builds. A few packages by themselves would have other
/// features of their dependencies, and all of those would be built anew, back and forth.
pub(crate) const WHOLE: [&str; 2] = ["--workspace", "--all-targets"];

/// Is this process allowed to make namespaces and to install packages?
pub(crate) fn is_root() -> bool {
    // The owner of our own entry in /proc is our effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

/// A command that runs as root, through sudo if we are not.
pub(crate) fn as_root(program: impl Into<std::ffi::OsString>) -> Command {
    if is_root() {
        return Command::new(program.into());
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("--preserve-env").arg(program.into());
    sudo
}

/// Runs to the end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs to the end and returns what it printed on standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot run {}", line(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", line(command), output.status);
    }
    Ok(output.stdout)
}

/// Prints a line, in order with what the programs print that we run.
pub(crate) fn say(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is no reason to stop.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

pub(crate) fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let args = command.get_args().map(|arg| format!(" {}", arg.to_string_lossy()));
    args.fold(program.into_owned(), |line, arg| line + &arg)
}
