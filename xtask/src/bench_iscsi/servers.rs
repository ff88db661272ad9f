//! The servers under load, each with the address at which the load generator finds it.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{time::ClockId, unistd::Pid};

use crate::run;

/// A server that runs; ended with the value.
pub(super) struct Server {
    child: Child,
    pub(super) url: String,
}

impl Server {
    /// Ours, of the release profile.
    pub(super) fn haas(image: &Path) -> Result<Self> {
        let target = "iqn.2026-11.org.haas:bench";
        let mut command = Command::new(run::target().join("release/haas-iscsi"));
        command.args(["--listen", "127.0.0.1:0", "--target", target]).arg(image);
        let (child, ready) = start(&mut command)?;
        // `ready: IQN on ADDR:PORT, N bytes`
        let address = ready.split(" on ").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.with_context(|| format!("haas-iscsi said {ready:?}"))?;
        let url = format!("iscsi://{address}/{target}/0");
        Ok(Self { child, url })
    }

    /// tgtd, as its manual has it for a disk that is only read.
    pub(super) fn tgtd(image: &Path) -> Result<Self> {
        let target = "iqn.2026-11.org.haas:tgtd";
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Its control socket has a number in the file system; ours should meet nobody else's.
        let control = (port % 10_000 + 20_000).to_string();
        let portal = format!("portal=127.0.0.1:{port}");
        let mut command = run::as_root("tgtd");
        command.args(["-f", "-C", &control, "--iscsi", &portal]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let url = format!("iscsi://127.0.0.1:{port}/{target}/1");
        let server = Self { child, url };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "tgtd does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        let admin = |args: &[&str]| {
            run::run(run::as_root("tgtadm").args(["-C", &control, "--lld", "iscsi"]).args(args))
        };
        let file = image.to_str().context("a temporary folder has a plain name")?;
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        let disk = ["--op", "new", "--backing-store", file, "--bstype", "rdwr"];
        admin(&["--mode", "target", "--op", "new", "--tid", "1", "--targetname", target])?;
        admin(&[&unit[..], &disk].concat())?;
        admin(&[&unit[..], &["--op", "update", "--params", "readonly=1"]].concat())?;
        admin(&["--mode", "target", "--op", "bind", "--tid", "1", "--initiator-address", "ALL"])?;
        Ok(server)
    }

    /// The least that a server can do: a header and sendfile.
    pub(super) fn bare(program: &Path, image: &Path) -> Result<Self> {
        let (child, port) = start(Command::new(program).arg(image))?;
        let url = format!("bare://127.0.0.1:{}", port.trim());
        Ok(Self { child, url })
    }

    /// Seconds of CPU that it has used, also in threads that have ended.
    pub(super) fn cpu(&self) -> Result<f64> {
        let clock = ClockId::pid_cpu_clock_id(self.pid()?)?;
        Ok(Duration::from(clock.now()?).as_secs_f64())
    }

    /// Bytes of its memory that belong to no file.
    pub(super) fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("RssAnon")?;
        Ok(kilobytes.parse::<u64>()? * 1024)
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server and waits for the line that says it is ready.
fn start(command: &mut Command) -> Result<(Child, String)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().context("its output is a pipe")?;
    BufReader::new(out).read_line(&mut line)?;
    ensure!(!line.is_empty(), "{} did not start", run::line(command));
    Ok((child, line))
}
