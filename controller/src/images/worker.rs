//! The child process in which images are made.
//!
//! Unpacking packages and foreign archives, running commands and mounting disk images all happen
//! in `haasd image-worker`, never in haasd itself: in mount, PID, UTS and IPC namespaces of its
//! own, so that killing its first process ends every process and every mount that it made. What
//! it prints is the log. It gets its order as a file in its work folder and leaves there the
//! three files of the image and its result; haasd takes them into the store, and removes the
//! folder whatever happened.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Context as _;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{build, import, manifest::Manifest};

/// Packs the modules of a kernel: `(lib/modules/RELEASE, RELEASE)` to a cpio archive. It refuses
/// a kernel that lacks a module which every node needs, and names it.
pub type PackModules = fn(&Path, &str) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;

/// How the worker is started: this program with these arguments and a few more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerCommand {
    /// The program, normally haasd itself.
    pub program: PathBuf,
    /// Its first arguments, normally `image-worker`.
    pub args: Vec<String>,
}

/// What the worker shall do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// How it starts its second half.
    pub(super) worker: WorkerCommand,
    /// Where downloaded packages are kept.
    pub(super) debs: PathBuf,
    pub(super) job: Job,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job {
    Build { recipe: PathBuf },
    Import(import::Order),
}

/// Why the worker made no image.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The worker could not be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It refused or failed, and says why.
    #[error("{0}")]
    Failed(String),
    /// It was killed.
    #[error("the image worker ended without a result: {0}")]
    Ended(ExitStatus),
}

const ORDER: &str = "order.json";
const RESULT: &str = "result.json";

/// The files of the finished image in the work folder: root, kernel, modules.
pub(super) fn output(work: &Path) -> [PathBuf; 3] {
    ["root.img", "vmlinuz", "modules.cpio"].map(|name| work.join(name))
}

/// Runs a worker to its end. Dropping the future kills it. `finish` is called with its result and
/// its work folder; the folder goes afterwards, also when nobody waits any more.
pub(super) async fn run<T: Send + 'static>(
    work: tempfile::TempDir,
    order: Order,
    stdin: Option<OwnedFd>,
    log: mpsc::Sender<String>,
    finish: impl FnOnce(Result<Manifest, WorkerError>, &Path) -> T + Send + 'static,
) -> T {
    let alive = Arc::new(Alive::default());
    let _kill = KillOnDrop(alive.clone());
    let (done, finished) = oneshot::channel();
    // A thread that lives as long as its child: the kernel kills the worker when the THREAD that
    // started it ends, and threads of tokio's pools come and go.
    thread::Builder::new()
        .name("image-worker".into())
        .spawn(move || {
            let result = run_blocking(work.path(), &order, stdin, &log, &alive);
            let result = finish(result, work.path());
            drop(work);
            let _ = done.send(result);
        })
        .expect("a thread can be started");
    finished.await.expect("the thread sends before it ends, unless finish panicked")
}

fn run_blocking(
    work: &Path,
    order: &Order,
    stdin: Option<OwnedFd>,
    log: &mpsc::Sender<String>,
    alive: &Alive,
) -> Result<Manifest, WorkerError> {
    let WorkerCommand { program, args } = &order.worker;
    let start = |source| WorkerError::Start { program: program.clone(), source };
    let json = serde_json::to_vec(order).expect("an order holds only text");
    fs::write(work.join(ORDER), json).map_err(start)?;
    let (lines, writer) = io::pipe().map_err(start)?;
    let mut child = Command::new(program)
        .args(args)
        .args(["outer", &std::process::id().to_string()])
        .arg(work)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(writer.try_clone().map_err(start)?)
        .stderr(writer)
        .spawn()
        .map_err(start)?;
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("Linux's process ids fit"));
    alive.set(pid);
    forward(BufReader::new(lines), log);
    // Wait without reaping, so that the id stays ours until nobody can kill it any more.
    let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    alive.clear();
    let status = child.wait().map_err(start)?;
    match fs::read(work.join(RESULT)).ok().and_then(|json| serde_json::from_slice(&json).ok()) {
        Some(result) => Result::<Manifest, String>::map_err(result, WorkerError::Failed),
        None => Err(WorkerError::Ended(status)),
    }
}

/// Hands on line by line; a line without end comes in pieces.
fn forward(mut lines: impl BufRead, log: &mpsc::Sender<String>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.by_ref().take(4096).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            // Nobody listens any more: read on, so that the worker is not stopped by it.
            Ok(_) => drop(log.blocking_send(String::from_utf8_lossy(&line).trim_end().to_owned())),
        }
    }
}

/// The worker's process while it may be killed.
#[derive(Debug, Default)]
struct Alive(Mutex<(Option<Pid>, bool)>);

impl Alive {
    fn set(&self, pid: Pid) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Some(pid);
        if state.1 {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
    }

    fn kill(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = true;
        if let Some(pid) = state.0 {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

struct KillOnDrop(Arc<Alive>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// The worker itself: `main` calls it with the arguments behind `image-worker` before it starts
/// any thread.
pub fn worker_main(args: impl Iterator<Item = OsString>, pack_modules: PackModules) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let result = match args.as_slice() {
        [half, parent, work] if half == OsStr::new("outer") => outer(parent, Path::new(work)),
        [half, parent, work] if half == OsStr::new("inner") => {
            inner(parent, Path::new(work), pack_modules)
        }
        _ => Err(anyhow::anyhow!("image-worker is started by haasd, not by hand")),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("image-worker: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the namespaces. Only a child of the process that unshares is in the new PID namespace.
fn outer(parent: &OsStr, work: &Path) -> anyhow::Result<ExitCode> {
    die_with(parent)?;
    let order = read_order(work)?;
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(flags).context("cannot make namespaces; haasd needs CAP_SYS_ADMIN to make images")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")?;
    let status = Command::new(&order.worker.program)
        .args(&order.worker.args)
        .args(["inner", &std::process::id().to_string()])
        .arg(work)
        .status()
        .context("cannot start the inner worker")?;
    if let Some(signal) = status.signal() {
        anyhow::bail!("the inner worker was ended by signal {signal}");
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the image, as first process of its PID namespace.
fn inner(parent: &OsStr, work: &Path, pack_modules: PackModules) -> anyhow::Result<ExitCode> {
    die_with(parent)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)
        .context("cannot mount /proc")?;
    nix::unistd::sethostname("image").context("cannot set the host name")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let order = read_order(work)?;
    let result = match &order.job {
        Job::Build { recipe } => build::build(recipe, &order.debs, work, pack_modules),
        Job::Import(import) => import::import(import, work, pack_modules),
    };
    let result = result.map_err(|e| format!("{e:#}"));
    fs::write(work.join(RESULT), serde_json::to_vec(&result)?).context("cannot say the result")?;
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks the kernel to kill this process when its parent ends, which it may have done already. The
/// parent's id is read from /proc because the inner worker's /proc still shows the outer ids.
fn die_with(parent: &OsStr) -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("cannot bind this process to its parent")?;
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let found = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    anyhow::ensure!(found.map(OsStr::new) == Some(parent), "the parent has ended");
    Ok(())
}

fn read_order(work: &Path) -> anyhow::Result<Order> {
    let path = work.join(ORDER);
    let json = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&json).with_context(|| format!("cannot read {}", path.display()))
}
