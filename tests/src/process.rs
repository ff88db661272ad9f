//! A process known by its id and its start time, so that a reused id is never mistaken for it.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process of this machine, alive or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pid: i32,
    /// Clock ticks since the machine booted.
    started: u64,
}

impl Process {
    /// The living process with this id, if there is one.
    pub(crate) fn of(pid: u32) -> Option<Process> {
        let pid = i32::try_from(pid).ok()?;
        stat(pid).map(|started| Process { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid) == Some(self.started)
    }

    /// Sends the signal if the process still lives.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end between the look and the signal, which is just as well.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Kills the process and waits until it is gone; false if it is still there after `limit`.
    pub(crate) fn kill_and_wait(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        self.signal(Signal::SIGKILL);
        while self.is_alive() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// The start time of a living process. A zombie does not live, although `kill -0` finds it.
fn stat(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count the fields from its end.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let state = fields.first()?;
    if matches!(*state, "Z" | "X" | "x") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("sleep").arg("100").spawn().expect("sleep starts");
        let process = Process::of(child.id()).expect("it has just started");
        assert!(process.is_alive());
        assert!(process.kill_and_wait(Duration::from_secs(10)), "killed, not yet reaped");
        child.wait().expect("it is our child");
        assert_eq!(Process::of(child.id()), None);
    }
}
