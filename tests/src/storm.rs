//! Hundreds of initiators that read from one target what a boot of `debian-12` reads, with its gaps, at the
//! same second. Their program is `xtask/load/iscsi-load.c`, on libiscsi, which compares each byte.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};

use crate::pages::root;
use crate::rack::Rack;
use crate::{Output, sys};

const BLOCK: u64 = 512;

/// What the initiators run, and what they read.
#[derive(Debug)]
pub struct Recording {
    program: PathBuf,
    trace: PathBuf,
    /// How large a disk must be for it, in bytes.
    pub disk_bytes: u64,
}

/// Initiators that read. They end with the value.
#[derive(Debug)]
pub struct Storm(Child);

impl Recording {
    /// Builds the program, in the rack's folder.
    pub fn new(rack: &Rack) -> Result<Recording> {
        let load = root().join("xtask/load");
        let program = rack.dir().join("iscsi-load");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-o"]).arg(&program).arg(load.join("iscsi-load.c")).arg("-liscsi");
        Output::of(&mut gcc)?.ok()?;
        let trace = load.join("debian-12.trace");
        let text = fs::read_to_string(&trace).with_context(|| trace.display().to_string())?;
        let mut blocks = 0;
        for line in text.lines() {
            let numbers: Vec<u64> =
                line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [_, lba, count] = numbers[..] else { anyhow::bail!("{line:?} is no read") };
            blocks = blocks.max(lba + count);
        }
        Ok(Recording { program, trace, disk_bytes: blocks * BLOCK })
    }

    /// Has so many initiators read it from `url` (`iscsi://ADDRESS:PORT/IQN/LUN`), which serves what `disk` has.
    /// Returns when all are logged in and begin.
    pub fn storm(&self, rack: &Rack, initiators: u32, url: &str, disk: &Path) -> Result<Storm> {
        let mut command = rack.command(&self.program);
        command.arg("replay").arg(initiators.to_string()).args([&self.trace, disk]).arg(url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut storm = Storm(sys::spawn(command).context("cannot start iscsi-load")?);
        let mut line = String::new();
        let out = storm.0.stdout.as_mut().context("its output is a pipe")?;
        BufReader::new(out).read_line(&mut line)?;
        if line != "ready\n" {
            let (status, said) = storm.end()?;
            anyhow::bail!("{initiators} initiators cannot begin ({status}): {said}");
        }
        storm.0.stdin.as_mut().context("its input is a pipe")?.write_all(b"\n")?;
        Ok(storm)
    }
}

impl Storm {
    /// Waits until all have read all, and all of it was right.
    pub fn passes(mut self) -> Result<()> {
        let (status, said) = self.end()?;
        ensure!(status.success(), "the storm ended with {status}: {said}");
        Ok(())
    }

    /// Waits for them to lose their target, which has just ended.
    pub fn breaks(mut self) -> Result<()> {
        let (status, said) = self.end()?;
        ensure!(!status.success(), "the storm was over before its target ended: {said}");
        ensure!(!said.contains("wrong data"), "{said}");
        Ok(())
    }

    fn end(&mut self) -> Result<(ExitStatus, String)> {
        let mut said = String::new();
        let err = self.0.stderr.as_mut().context("its errors are a pipe")?;
        err.read_to_string(&mut said)?;
        Ok((self.0.wait()?, said))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
