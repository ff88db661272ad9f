//! Running the system's tools inside the image worker. Their output is the worker's log.

use std::{
    ffi::OsStr,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::Context as _;

/// The time that everything gets which a build writes itself: 2025-01-01 00:00:00 UTC, in
/// seconds. With it, the same recipe and packages give the same image on any day.
pub(super) const EPOCH: i64 = 1_735_689_600;

/// A tool with a small, fixed environment: results must not depend on who started haasd.
pub(super) fn tool(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .stdin(Stdio::null());
    command
}

/// Runs a tool that must succeed.
pub(super) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    check(command, status)
}

/// Runs a tool that must succeed and returns what it wrote on its standard output.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| cannot_start(command))?;
    check(command, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no text", name(command)))
}

/// Names the tool and how it ended; why is in the log.
pub(super) fn check(command: &Command, status: ExitStatus) -> anyhow::Result<()> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => {
            anyhow::bail!("{} failed with status {code}; the log says why", name(command))
        }
        (None, signal) => {
            anyhow::bail!("{} was ended by signal {}", name(command), signal.unwrap_or(0))
        }
    }
}

/// What is said when a tool does not start: mostly it is not installed.
pub(super) fn cannot_start(command: &Command) -> String {
    let name = name(command);
    match package_of(&name) {
        Some(package) => format!("cannot run {name}: apt-get install {package}"),
        None => format!("cannot run {name}"),
    }
}

/// One line of the log.
pub(super) fn say(line: &str) {
    use io::Write;
    // The log is a pipe to haasd; where it is gone, this process is about to be killed.
    let _ = writeln!(io::stdout(), "{line}");
}

fn name(command: &Command) -> String {
    Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned()
}

pub(crate) fn package_of(tool: &str) -> Option<&'static str> {
    Some(match tool {
        "mkfs.erofs" => "erofs-utils",
        "mksquashfs" => "squashfs-tools",
        "veritysetup" => "cryptsetup-bin",
        "depmod" => "kmod",
        "dpkg-deb" => "dpkg",
        "apt-get" => "apt",
        "apt-ftparchive" => "apt-utils",
        "mmdebstrap" => "mmdebstrap",
        "setfiles" => "policycoreutils",
        "partx" => "util-linux",
        "mount" => "mount",
        "xz" => "xz-utils",
        "zstd" => "zstd",
        "gzip" => "gzip",
        "bzip2" => "bzip2",
        "tar" => "tar",
        _ => return None,
    })
}
