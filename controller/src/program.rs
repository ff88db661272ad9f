//! Programs of the site's own that haasd calls: a program and its arguments, never a shell.
//!
//! One gets no environment of haasd's but PATH, since secrets may stand there, and is killed with all
//! that it started when its caller gives it up. What it leaves running must close stdout and stderr.

use std::process::{ExitStatus, Stdio};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// Bytes of its output that are read.
const MOST: u64 = 64 * 1024;

/// Why a program did not do what it was called for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramFault {
    /// It could not be started.
    #[error("cannot be started: {0}; check the path and that it is executable")]
    Start(std::io::Error),
    /// It ended with an error.
    #[error("{status}, and said {stderr:?}")]
    Failed {
        /// Its exit code, or the signal that ended it.
        status: ExitStatus,
        /// The beginning of what it wrote to stderr.
        stderr: String,
    },
}

/// Runs it to its end and answers what it wrote to stdout. Exit code 0 means done.
pub(crate) async fn output<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<String, ProgramFault> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(ProgramFault::Start)?;
    let mut group = Group(child.id());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr, status) = tokio::join!(text(stdout), text(stderr), child.wait());
    // It ended by itself: what it left in the background, closed to us, is its own business.
    group.0 = None;
    let status = status.map_err(ProgramFault::Start)?;
    if status.success() { Ok(stdout) } else { Err(ProgramFault::Failed { status, stderr }) }
}

/// Ends the program and all that it started, when it is given up.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            // Nobody may be left, and that is no error.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

async fn text(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What was read before an error is the best that there is.
        let _ = from.take(MOST).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).trim().chars().take(500).collect()
}
