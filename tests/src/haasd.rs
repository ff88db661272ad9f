//! The daemon under test: `haasd` as a process in the rack, and `haasctl` beside it.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::process::Process;
use crate::rack::{CONTROLLER, Lifetime, Rack, built, target_dir};
use crate::sys;
use crate::wait::{wait_for, wait_some};

/// Passes two sockets, which come as standard input and output, as systemd does (`sd_listen_fds(3)`).
const PASS_SOCKETS: &str = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\" 3<&0 4<&1 0</dev/null 1>\"$0\"";

/// What haasd prints on standard output once all its listeners answer.
const READY: &str = "haasd ready";

/// A haasd of a rack. It is killed when dropped, unless its rack outlives this process.
#[derive(Debug)]
pub struct Haasd<'rack> {
    rack: &'rack Rack,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    /// Those that are passed to it, if any.
    sockets: Option<[TcpListener; 2]>,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// None if a signal ended it.
    pub code: Option<i32>,
}

impl Output {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.output().with_context(|| format!("cannot run {program}"))?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        })
    }

    /// Itself if the code is 0, else an error with all that was printed.
    pub fn ok(self) -> Result<Output> {
        if self.code != Some(0) {
            bail!("ended with {:?}\n{}{}", self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident: u64,
    /// What it alone holds and has written. Pages of the program's text are left out: they are the
    /// file's, and count as private only as long as no second process runs the same file.
    pub private: u64,
}

impl<'rack> Haasd<'rack> {
    /// Writes `haasd.toml` and `nodes.toml` into the rack's directory and starts haasd on them.
    /// Returns when it says that it is ready.
    pub fn start(rack: &'rack Rack, config: &str, nodes: &str) -> Result<Haasd<'rack>> {
        Haasd::start_with(rack, config, nodes, &[])
    }

    /// Like [`Haasd::start`], with environment variables (a BMC's password, a store to abort).
    pub fn start_with(
        rack: &'rack Rack,
        config: &str,
        nodes: &str,
        environment: &[(&str, &str)],
    ) -> Result<Haasd<'rack>> {
        share_packages(rack)?;
        fs::write(rack.dir().join("haasd.toml"), config)?;
        fs::write(rack.dir().join("nodes.toml"), nodes)?;
        let environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut haasd = Haasd { rack, child: None, environment, sockets: None };
        haasd.launch()?;
        Ok(haasd)
    }

    /// Starts haasd, which must not run, on the files as they are now. Waits until it is ready.
    pub fn launch(&mut self) -> Result<()> {
        self.launch_unready()?;
        let ready = wait_some("haasd to be ready", Duration::from_secs(60), || {
            if self.is_ready() {
                return Some(true);
            }
            (!self.is_running()).then_some(false)
        });
        match ready {
            Ok(true) => self.add_context(),
            Ok(false) => bail!("haasd ended at once; its log ends with:\n{}", self.log_tail(30)),
            Err(error) => Err(error.context(format!("haasd's log:\n{}", self.log_tail(30)))),
        }
    }

    /// Tells haasctl of this haasd, as an administrator at the controller would.
    fn add_context(&self) -> Result<()> {
        let state = self.rack.dir().join("state");
        let (fingerprint, token) = (state.join("fingerprint"), state.join("admin.token"));
        if self.ctl_config().exists() || !fingerprint.exists() {
            return Ok(());
        }
        let fingerprint = fs::read_to_string(fingerprint)?;
        let url = format!("https://{CONTROLLER}:8443");
        let mut command = self.ctl_command()?;
        command.args(["context", "add", "rack", "--url", &url, "--use"]);
        command.args(["--fingerprint", fingerprint.trim(), "--token-file"]).arg(token);
        Output::of(&mut command)?.ok().map(drop).context("haasctl refuses the context")
    }

    /// Starts haasd without waiting, for a test that wants to see it fail; see [`Haasd::wait_exit`].
    pub fn launch_unready(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("haasd runs already");
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let out = File::create(self.out_path())?;
        let mut command = match &self.sockets {
            None => {
                let mut command = self.rack.command(built("haasd")?);
                command.stdin(Stdio::null()).stdout(out);
                command
            }
            Some([first, second]) => {
                let mut command = self.rack.command("sh");
                command.args(["-c", PASS_SOCKETS]).arg(self.out_path()).arg(built("haasd")?);
                command.stdin(OwnedFd::from(first.try_clone()?));
                command.stdout(OwnedFd::from(second.try_clone()?));
                command
            }
        };
        command.arg("--config").arg(self.rack.dir().join("haasd.toml"));
        command.current_dir(self.rack.dir());
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stderr(log);
        let child = match self.rack.lifetime() {
            Lifetime::OfThisProcess => sys::spawn(command),
            Lifetime::UntilTakenDown => sys::spawn_detached(command),
        };
        self.child = Some(child.context("cannot start haasd")?);
        Ok(())
    }

    /// Sets a variable for the next start.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.environment.retain(|(k, _)| k != key);
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    /// Removes a variable for the next start.
    pub fn unset_env(&mut self, key: &str) {
        self.environment.retain(|(k, _)| k != key);
    }

    /// Listens there, and passes that to haasd from the next start on, as a systemd socket unit does.
    pub fn hold_sockets(&mut self, addresses: [SocketAddr; 2]) -> Result<()> {
        let [first, second] = self.rack.in_netns(|| addresses.map(TcpListener::bind))?;
        self.sockets = Some([first?, second?]);
        Ok(())
    }

    /// Whether it has said, since it was started last, that it is ready. It may have died since.
    pub fn is_ready(&self) -> bool {
        fs::read_to_string(self.out_path()).unwrap_or_default().contains(READY)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// kill -9: the daemon gets no chance to tidy up.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGHUP: reload the inventory.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait_exit(Duration::from_secs(30))
    }

    /// Waits until haasd has ended by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut child = self.child.take().context("haasd was not started")?;
        let mut status = None;
        let ended = wait_for("haasd to end", limit, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        });
        let Some(status) = status else {
            self.child = Some(child);
            return Err(ended.err().context("haasd has neither ended nor not")?);
        };
        Ok(status)
    }

    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Runs `haasctl` in the rack with the context file `haasctl.toml` of the rack's directory.
    pub fn ctl(&self, args: &[&str]) -> Result<Output> {
        Output::of(self.ctl_command()?.args(args))
    }

    /// Runs `haasctl ARGS -o json`, which must succeed, and reads what it printed.
    pub fn ctl_json<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let what = || format!("haasctl {}", args.join(" "));
        let output = self.ctl(&[args, &["-o", "json"]].concat())?.ok().with_context(what)?;
        serde_json::from_str(&output.stdout).with_context(what)
    }

    /// The command of [`Haasd::ctl`], for a caller who wants its output as it comes.
    pub fn ctl_command(&self) -> Result<Command> {
        let mut command = self.rack.command(built("haasctl")?);
        command.env("HAASCTL_CONFIG", self.ctl_config()).current_dir(self.rack.dir());
        // Whom its ssh trusts is kept there.
        command.env("XDG_CACHE_HOME", self.rack.dir().join("cache"));
        Ok(command)
    }

    /// Where haasctl finds its server, its certificate's pin and its token.
    pub fn ctl_config(&self) -> PathBuf {
        self.rack.dir().join("haasctl.toml")
    }

    /// From the kernel's smaps_rollup.
    pub fn memory(&self) -> Result<Memory> {
        let pid = self.pid().context("haasd does not run")?;
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let bytes = |key: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|rest| rest.split_whitespace().next());
            Ok(kib.with_context(|| format!("{path} has no {key}"))?.parse::<u64>()? * 1024)
        };
        Ok(Memory { resident: bytes("Rss:")?, private: bytes("Private_Dirty:")? })
    }

    /// All that haasd logged, over restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.rack.dir().join("haasd.log")
    }

    fn out_path(&self) -> PathBuf {
        self.rack.dir().join("haasd.out")
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = self.pid().and_then(Process::of) {
            process.signal(signal);
        }
    }

    /// Writes a file into the rack's directory and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.rack.dir().join(Path::new(name));
        fs::write(&path, content)?;
        Ok(path)
    }
}

impl Drop for Haasd<'_> {
    fn drop(&mut self) {
        if self.rack.lifetime() == Lifetime::OfThisProcess {
            // Nothing is lost if it has ended already.
            let _ = self.kill();
        }
    }
}

/// Gives haasd the Debian packages that `cargo xtask` has downloaded: a rack has no way out.
fn share_packages(rack: &Rack) -> Result<()> {
    let cache = rack.dir().join("state/cache");
    fs::create_dir_all(&cache)?;
    let link = cache.join("debs");
    if !link.exists() {
        std::os::unix::fs::symlink(target_dir()?.join("debs"), link)?;
    }
    Ok(())
}
