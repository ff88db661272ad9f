//! The load generator, `xtask/load/iscsi-load.c`: a client that is not ours (libiscsi) and that looks
//! at what it reads.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::servers::Server;
use crate::run;

/// The programs, built.
pub(super) struct Programs {
    load: PathBuf,
    pub(super) bare_server: PathBuf,
    /// Blocks of the disk, which the bare server cannot tell.
    disk_blocks: u64,
    group: Option<Group>,
}

/// What came of a load, by name.
pub(super) struct Outcome(HashMap<String, f64>);

/// Sessions that are held until this is dropped.
pub(super) struct Held(Child);

impl Programs {
    /// Builds them into `folder`.
    pub(super) fn build(folder: &Path, disk_blocks: u64) -> Result<Self> {
        let source = |name: &str| run::root().join("xtask/load").join(name);
        let (load, bare_server) = (folder.join("iscsi-load"), folder.join("bare-server"));
        let gcc = |from: &str, to: &Path, library: &str| {
            let mut gcc = Command::new("gcc");
            run::run(gcc.args(["-O2", "-o"]).arg(to).arg(source(from)).arg(library))
        };
        gcc("iscsi-load.c", &load, "-liscsi")?;
        gcc("bare-server.c", &bare_server, "-pthread")?;
        Ok(Self { load, bare_server, disk_blocks, group: Group::new() })
    }

    /// Runs a load to its end.
    pub(super) fn run(&self, args: &[&str]) -> Result<Outcome> {
        let output = self.command(args).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("iscsi-load {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Outcome::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Runs a load that reads from this server, and answers also how many seconds of CPU the server
    /// has used from the last login to the last read.
    pub(super) fn measure(&self, args: &[&str], server: &Server) -> Result<(Outcome, f64)> {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut start = child.stdin.take().context("its input is a pipe")?;
        let mut line = String::new();
        out.read_line(&mut line)?;
        ensure!(line == "ready\n", "iscsi-load {} said {line:?}", args.join(" "));
        let before = server.cpu()?;
        writeln!(start)?;
        line.clear();
        out.read_line(&mut line)?;
        let cpu = server.cpu()? - before;
        ensure!(child.wait()?.success(), "iscsi-load {} failed", args.join(" "));
        Ok((Outcome::parse(&line)?, cpu))
    }

    /// Begins a load that holds its sessions, and waits until all are there.
    pub(super) fn hold(&self, kind: &str, sessions: u32, url: &str) -> Result<Held> {
        let mut command = self.command(&[kind, &sessions.to_string(), url]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().context("its output is a pipe")?;
        let held = Held(child);
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line == "ready\n", "iscsi-load {kind} said {line:?}");
        Ok(held)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.group {
            Some(group) => group.command(&self.load),
            None => Command::new(&self.load),
        };
        command.args(args).env("DISK_BLOCKS", self.disk_blocks.to_string());
        command
    }
}

impl Outcome {
    fn parse(text: &str) -> Result<Self> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let outcome = text.split_whitespace().map(|text| pair(text).context("no pair"));
        Ok(Self(outcome.collect::<Result<_>>()?))
    }

    /// One of its numbers.
    pub(super) fn get(&self, name: &str) -> Result<f64> {
        self.0.get(name).copied().with_context(|| format!("iscsi-load did not say {name}"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It ends with its input; if it does not, it is ended.
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control group of the client's own, so that the scheduler gives the servers as much as the client
/// and not less, however many threads either has.
struct Group(PathBuf);

impl Group {
    /// None where groups cannot be made, for lack of rights or of the file system.
    fn new() -> Option<Self> {
        let name = format!("haas-bench-{}", std::process::id());
        // The processor's own hierarchy of the first version, or the only one of the second.
        let roots = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"];
        let root = roots.iter().find(|root| Path::new(root).join("cgroup.procs").exists())?;
        let path = Path::new(root).join(name);
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn command(&self, program: &Path) -> Command {
        let mut shell = Command::new("sh");
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        shell.args(["-c", script]).arg(&self.0).arg(program);
        shell
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty once the last client has been waited for.
        let _ = fs::remove_dir(&self.0);
    }
}
