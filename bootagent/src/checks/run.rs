//! One run of a check: a process in the node's own root, in a process group of its own, with a time
//! limit, a small environment, and only the end of its output kept.
//!
//! The agent starts itself again for it, under another name: entering the root and finding the
//! program there may wait for the image's target, and only that process waits.

use std::{
    fs,
    io::{self, Read as _},
    os::{
        fd::AsFd as _,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, killpg},
    unistd::{Pid, chdir, chroot},
};

/// `argv[0]` of the process that becomes the check.
pub(crate) const NAME: &str = "@haas-check";

/// The exit code where the check cannot be started, as shells have it.
pub(crate) const NOT_STARTED: u8 = 127;

/// Bytes of output that are kept.
const KEPT: usize = 4096;
const POLL: Duration = Duration::from_millis(20);
/// How long a process may take to end once it is killed; one that hangs in the kernel never does.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What came of a run.
#[derive(Debug)]
pub(super) struct Run {
    /// None where it did not end by itself.
    pub exit_code: Option<i32>,
    /// How it ended, in words.
    pub outcome: String,
    pub took: Duration,
    /// The end of what it printed.
    pub output: String,
    /// It does not end though it was killed.
    pub stuck: Option<Child>,
}

/// Runs a command in the root of PID 1.
pub(super) fn in_root(command: &[String], limit: Duration, stop: &AtomicBool) -> Run {
    let mut itself = Command::new("/init");
    itself.arg0(NAME).args(command);
    watch(itself, limit, stop)
}

/// The process itself: enters the root and becomes the check.
pub(crate) fn main(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> io::Error {
    let enter = || -> io::Result<()> {
        // The agent is never to be killed for memory; what it starts here may be.
        fs::write("/proc/self/oom_score_adj", "0")?;
        chroot("/proc/1/root")?;
        Ok(chdir("/")?)
    };
    if let Err(error) = enter() {
        return io::Error::new(error.kind(), format!("cannot enter the node's root: {error}"));
    }
    let Some(program) = arguments.next() else { return io::Error::other("no program is named") };
    let error = Command::new(&program)
        .args(arguments)
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")])
        .exec();
    io::Error::new(error.kind(), format!("cannot start {}: {error}", program.display()))
}

/// Runs a process to its end or to its limit.
fn watch(command: Command, limit: Duration, stop: &AtomicBool) -> Run {
    let begun = Instant::now();
    let mut tail = Tail::default();
    let ended = match start(command) {
        Ok((child, pipe)) => follow(child, pipe, begun + limit, stop, &mut tail),
        Err(error) => Ended::NotStarted(error),
    };
    let took = begun.elapsed();
    let (exit_code, outcome, stuck) = match ended {
        Ended::ByItself(status) => (status.code(), in_words(status), None),
        Ended::Killed(None) => (None, format!("was killed after {} s", took.as_secs()), None),
        Ended::Killed(stuck @ Some(_)) => {
            (None, "hangs in the kernel and cannot be killed".to_owned(), stuck)
        }
        Ended::NotStarted(error) => (None, format!("could not be run: {error}"), None),
    };
    Run { exit_code, outcome, took, output: tail.text(), stuck }
}

enum Ended {
    ByItself(ExitStatus),
    /// With the process where it lives on.
    Killed(Option<Child>),
    NotStarted(io::Error),
}

fn start(mut command: Command) -> io::Result<(Child, io::PipeReader)> {
    let (pipe, writer) = io::pipe()?;
    fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    Ok((command.spawn()?, pipe))
}

fn follow(
    mut child: Child,
    mut pipe: io::PipeReader,
    until: Instant,
    stop: &AtomicBool,
    tail: &mut Tail,
) -> Ended {
    loop {
        // Looked at first: what an ended process has printed is all in the pipe.
        let ended = child.try_wait();
        tail.take(&mut pipe);
        match ended {
            Ok(Some(status)) => return Ended::ByItself(status),
            Ok(None) if Instant::now() < until && !stop.load(Ordering::Relaxed) => {
                thread::sleep(POLL);
            }
            Ok(None) => break,
            Err(error) => return Ended::NotStarted(error),
        }
    }
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let until = Instant::now() + KILLED_WITHIN;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            tail.take(&mut pipe);
            return Ended::Killed(None);
        }
        thread::sleep(POLL);
    }
    Ended::Killed(Some(child))
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("ended by {signal}"),
            Err(_) => format!("ended by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

/// The end of what was printed.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Takes what is there, and waits for nothing.
    fn take(&mut self, pipe: &mut io::PipeReader) {
        let mut bytes = [0; KEPT];
        // A check that prints without end must not keep us here.
        for _ in 0..64 {
            match pipe.read(&mut bytes) {
                Ok(0) => return,
                Ok(len) => {
                    self.0.extend_from_slice(&bytes[..len]);
                    self.0.drain(..self.0.len().saturating_sub(KEPT));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// As text, without what would move a terminal's cursor.
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0).replace("\r\n", "\n");
        text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit_ms: u64) -> Run {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        watch(command, Duration::from_millis(limit_ms), &AtomicBool::new(false))
    }

    #[test]
    fn the_end_of_the_output_and_the_exit_code_are_kept() {
        let run = sh("echo out; printf 'e\\033[1mrr\\r\\n' >&2; exit 3", 20_000);
        assert_eq!((run.exit_code, run.outcome.as_str()), (Some(3), "exit code 3"));
        assert_eq!(run.output, "out\ne[1mrr\n");
        let run = sh("i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done", 60_000);
        assert_eq!(run.exit_code, Some(0));
        assert!(run.output.len() <= KEPT && run.output.ends_with("line-2999\n"), "{}", run.output);
    }

    #[test]
    fn what_takes_too_long_is_killed_with_all_that_it_started() {
        let run = sh("echo begun; sleep 77.5 & sleep 77.5", 300);
        assert_eq!(run.exit_code, None);
        assert!(run.outcome.starts_with("was killed") && run.stuck.is_none(), "{run:?}");
        assert_eq!(run.output, "begun\n");
        let left = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with("sleep\u{0}77.5")
        });
        assert!(!left, "a process of it lives on");
    }

    #[test]
    fn what_goes_on_in_the_background_holds_up_nothing() {
        let run = sh("sleep 3 & echo done", 60_000);
        assert_eq!((run.exit_code, run.output.as_str()), (Some(0), "done\n"));
        assert!(run.took < Duration::from_secs(3), "{:?}", run.took);
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let run =
            watch(Command::new("/nonexistent"), Duration::from_secs(5), &AtomicBool::default());
        assert!(run.exit_code.is_none() && run.outcome.contains("could not be run"), "{run:?}");
    }
}
