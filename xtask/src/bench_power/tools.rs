//! The BMCs, and those who ask them.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run;

/// The account of the simulated BMCs.
pub(super) const USER: &str = "admin";
const PASSWORD: &str = "s3cret";
/// What all clients speak: ours finds it out, the others are told.
const SUITE: &str = "17";
/// Processes of ipmitool at a time.
const PARALLEL: usize = 64;

/// One round of a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) wall_s: f64,
    /// BMCs whose state it told as it is.
    pub(super) right: u64,
}

/// Who asks all BMCs.
pub(super) trait Client {
    /// Asks each; `on` is what all of them should say.
    fn round(&mut self, on: bool) -> Result<Round>;
}

/// A program that is told something by lines and answers each with a line. Ended with the value.
pub(super) struct Talker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Talker {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", run::line(command)))?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Self { child, input, output })
    }

    pub(super) fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "it has ended; its message is above");
        Ok(line.trim().to_owned())
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        self.hear()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The simulated BMCs.
pub(super) struct Bmcs {
    farm: Talker,
    pub(super) addresses: Vec<String>,
    /// A file with their password.
    pub(super) password: PathBuf,
    on: bool,
}

impl Bmcs {
    pub(super) fn start(count: usize, folder: &Path) -> Result<Self> {
        let mut program = Command::new(run::target().join("release/haas-sim-bmc"));
        let mut farm = Talker::start(program.arg(count.to_string()))?;
        let mut addresses = Vec::new();
        loop {
            match farm.hear()? {
                line if line == "ready" => break,
                line => addresses.push(line),
            }
        }
        let password = folder.join("password");
        fs::write(&password, PASSWORD)?;
        run::run(Command::new("chmod").arg("600").arg(&password))?;
        Ok(Self { farm, addresses, password, on: false })
    }

    /// Switches all machines, and answers whether they are on now.
    pub(super) fn switch(&mut self) -> Result<bool> {
        self.on = !self.on;
        let word = if self.on { "power on" } else { "power off" };
        ensure!(self.farm.ask(word)? == "ok");
        Ok(self.on)
    }

    /// How often the BMCs were asked for their power state so far.
    pub(super) fn status_requests(&mut self) -> Result<u64> {
        let counts: Value = serde_json::from_str(&self.farm.ask("counts")?)?;
        counts["status"].as_u64().with_context(|| format!("no number of requests in {counts}"))
    }

    /// Loses this share of packets, each way.
    pub(super) fn lose(&mut self, share: f64) -> Result<()> {
        ensure!(self.farm.ask(&format!("faults {{\"lost\":{share}}}"))? == "ok");
        Ok(())
    }
}

/// FreeIPMI's: one process asks all.
pub(super) struct IpmiPower(String);

impl IpmiPower {
    pub(super) fn new(bmcs: &Bmcs) -> Self {
        Self(bmcs.addresses.join(","))
    }
}

impl Client for IpmiPower {
    fn round(&mut self, on: bool) -> Result<Round> {
        let mut command = Command::new("ipmipower");
        command.args(["-D", "LAN_2_0", "-I", SUITE, "-u", USER, "-p", PASSWORD, "--stat"]);
        let begun = Instant::now();
        // It fails if one BMC did not answer, and prints the others' states all the same.
        let output = command.args(["-h", &self.0]).output().context("cannot run ipmipower")?;
        let wall_s = begun.elapsed().as_secs_f64();
        let end = if on { ": on" } else { ": off" };
        let right =
            String::from_utf8_lossy(&output.stdout).lines().filter(|l| l.ends_with(end)).count();
        ensure!(right > 0, "ipmipower: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Round { wall_s, right: u64::try_from(right)? })
    }
}

/// ipmitool: a process for each BMC, many at a time.
pub(super) struct IpmiTool {
    places: Vec<(String, String)>,
    password: PathBuf,
}

impl IpmiTool {
    pub(super) fn new(bmcs: &Bmcs) -> Self {
        let place = |address: &String| {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "623"));
            (host.to_owned(), port.to_owned())
        };
        Self { places: bmcs.addresses.iter().map(place).collect(), password: bmcs.password.clone() }
    }

    /// What one BMC says.
    fn ask(&self, (host, port): &(String, String)) -> String {
        let mut command = Command::new("ipmitool");
        command.args(["-I", "lanplus", "-C", SUITE, "-H", host, "-p", port, "-U", USER]);
        command.arg("-f").arg(&self.password).args(["chassis", "power", "status"]);
        command.stderr(Stdio::null());
        let said = command.output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&said).trim().to_owned()
    }
}

impl Client for IpmiTool {
    fn round(&mut self, on: bool) -> Result<Round> {
        let end = if on { " is on" } else { " is off" };
        let (next, right) = (AtomicUsize::new(0), AtomicU64::new(0));
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| {
                    while let Some(place) = self.places.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if self.ask(place).ends_with(end) {
                            right.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        Ok(Round { wall_s: begun.elapsed().as_secs_f64(), right: right.into_inner() })
    }
}

/// ipmipower has a socket for each BMC.
pub(super) fn raise_the_limit_of_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}
