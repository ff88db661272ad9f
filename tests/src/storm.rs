//! Hundreds of initiators that read from one target what a boot of `debian-12` reads, at the same second. Their
//! program is `xtask/load/iscsi-load.c`, on libiscsi, which compares each byte.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::pages::root;
use crate::rack::Rack;
use crate::{Output, sys, wait_for, wait_some};

const BLOCK: u64 = 512;

/// Nobody pauses for longer between two reads, in microseconds: whenever a target ends, something is under way.
const LONGEST_PAUSE: u64 = 100_000;

/// What a storm may take, on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(300);

/// What the initiators run, and what they read.
#[derive(Debug)]
pub struct Recording {
    program: PathBuf,
    trace: PathBuf,
    /// How large a disk must be for it, in bytes.
    pub disk_bytes: u64,
    storms: AtomicU32,
}

/// Initiators that read. They end with the value.
#[derive(Debug)]
pub struct Storm {
    child: Child,
    /// What they say.
    said: PathBuf,
}

impl Recording {
    /// Builds the program, in the rack's folder.
    pub fn new(rack: &Rack) -> Result<Recording> {
        let load = root().join("xtask/load");
        let program = rack.dir().join("iscsi-load");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-o"]).arg(&program).arg(load.join("iscsi-load.c")).arg("-liscsi");
        Output::of(&mut gcc)?.ok()?;
        let recorded = load.join("debian-12.trace");
        let text = fs::read_to_string(&recorded).with_context(|| recorded.display().to_string())?;
        let (mut blocks, mut shortened) = (0, String::new());
        let (mut before, mut at) = (0, 0);
        for line in text.lines() {
            let numbers: Vec<u64> =
                line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [time, lba, count] = numbers[..] else { bail!("{line:?} is no read") };
            at += (time - before).min(LONGEST_PAUSE);
            before = time;
            blocks = blocks.max(lba + count);
            shortened.push_str(&format!("{at} {lba} {count}\n"));
        }
        let trace = rack.dir().join("storm.trace");
        fs::write(&trace, shortened)?;
        Ok(Recording { program, trace, disk_bytes: blocks * BLOCK, storms: AtomicU32::new(0) })
    }

    /// Has so many initiators read it from `url` (`iscsi://ADDRESS:PORT/IQN/LUN`), which serves what `disk` has.
    /// Returns when all are logged in and begin.
    pub fn storm(&self, rack: &Rack, initiators: u32, url: &str, disk: &Path) -> Result<Storm> {
        let number = self.storms.fetch_add(1, Ordering::Relaxed);
        let said = rack.dir().join(format!("storm{number}.out"));
        let out = File::create(&said)?;
        let mut command = rack.command(&self.program);
        command.arg("replay").arg(initiators.to_string()).args([&self.trace, disk]).arg(url);
        command.stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out);
        let child = sys::spawn(command).context("cannot start iscsi-load")?;
        let mut storm = Storm { child, said };
        let ready = wait_some("all initiators to be logged in", LONG, || {
            let is_ready = storm.said() == "ready\n";
            (is_ready || !storm.is_running()).then_some(is_ready)
        })?;
        ensure!(ready, "{initiators} initiators cannot begin: {}", storm.said());
        storm.child.stdin.as_mut().context("its input is a pipe")?.write_all(b"\n")?;
        Ok(storm)
    }
}

impl Storm {
    /// Waits until all have read all, and all of it was right.
    pub fn passes(mut self) -> Result<()> {
        let status = self.end()?;
        ensure!(status.success(), "the storm ended with {status}: {}", self.said());
        Ok(())
    }

    /// Ends their target in the middle, and waits for them to lose it.
    pub fn breaks(mut self, end: impl FnOnce() -> Result<()>) -> Result<()> {
        ensure!(self.is_running(), "the storm is over before its target: {}", self.said());
        end()?;
        let status = self.end()?;
        let said = self.said();
        let lost = ["a session was lost", "a read failed", "a read cannot be sent"];
        let is_lost = lost.iter().any(|lost| said.contains(lost));
        ensure!(status.code() == Some(1) && is_lost, "the storm ended with {status}: {said}");
        Ok(())
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn end(&mut self) -> Result<ExitStatus> {
        wait_for("the storm to end", LONG, || !self.is_running())?;
        Ok(self.child.wait()?)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
