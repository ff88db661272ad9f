//! The agent after switch_root: says that the node lives, proves what runs, opens the node to its
//! users when haasd has admitted it, and ends it in order.
//!
//! Userspace counts as up when the image says so (`/run/haas/userspace-up`). Else, with systemd, when
//! it has come to let users in, which it shows by removing `/run/nologin`; with any other init, when
//! that has started a process of its own besides the agent.
//!
//! `/run/haas/control` is a FIFO for the image's own `reboot`, `poweroff` and `kexec`: a word per line.

use std::{
    convert::Infallible,
    fs,
    io::{self, BufRead as _, BufReader},
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use haas_api::agent::{
    BootPlan, BootStage, HEARTBEAT_S, Heartbeat, ShutdownHow, ToAgent, ToController,
};
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{
    button,
    channel::{Channel, Heard},
    fault::{Fault, OrFault as _},
    iscsi::Keeper,
    log, proof, shutdown, store, usage,
};

const CONTROL: &str = "/run/haas/control";
/// While this file is there, PAM lets nobody in but root.
const NOLOGIN: &str = "/run/nologin";
const TURN: Duration = Duration::from_millis(200);
const USERSPACE_WITHIN: Duration = Duration::from_secs(120);

/// The agent of a node that runs.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The way to haasd.
    pub channel: Channel,
    /// What was booted.
    pub plan: BootPlan,
    /// The root's session.
    pub keeper: Keeper,
    /// The kernel's name of the root's disk.
    pub root_disk: String,
    /// Whether the overlay lies in a store.
    pub has_store: bool,
}

impl Agent {
    /// Looks after the node until it ends.
    pub(crate) fn run(self) -> Result<Infallible, Fault> {
        let (ask, asked) = mpsc::channel();
        control(ask.clone()).or_hold("control", "cannot make /run/haas/control")?;
        button::watch(move || {
            log::info("the power button was pressed");
            let _ = ask.send(ShutdownHow::Poweroff);
        });
        shutdown::prepare_for_systemd();
        let started = Instant::now();
        let mut is_up = false;
        let mut is_proved = false;
        let mut next_beat = Instant::now();
        loop {
            if !is_up && (userspace_is_up() || started.elapsed() > USERSPACE_WITHIN) {
                is_up = true;
                // systemd has opened what only haasd opens.
                write_nologin();
                let stage = BootStage::Userspace;
                self.channel.say(ToController::Stage { stage, uptime_ms: usage::uptime_ms() });
            }
            if is_up && !is_proved {
                is_proved = self.prove();
            }
            if Instant::now() >= next_beat {
                self.beat();
                next_beat = Instant::now() + Duration::from_secs(HEARTBEAT_S);
            }
            match self.channel.hear(TURN) {
                Some(Heard::Said(ToAgent::Admit)) => admit(),
                Some(Heard::Said(ToAgent::NotReady { reason })) => {
                    log::error(&format!("haasd keeps users out: {reason}"));
                }
                Some(Heard::Said(ToAgent::Shutdown { how })) => self.end(how),
                Some(Heard::Refused(reason)) => {
                    // The node runs on: users are on it, and the session needs us.
                    log::error(&format!("haasd refuses the agent: {reason}"));
                }
                // haasd has started anew, perhaps with an older store: it judges again.
                Some(Heard::Welcome(_)) => is_proved = false,
                Some(Heard::Said(ToAgent::Retry { .. } | ToAgent::Ack)) | None => {}
            }
            if let Ok(how) = asked.try_recv() {
                self.end(how);
            }
            shutdown::follow_systemd(&self);
        }
    }

    /// Sends the proof; says whether there was one to send.
    fn prove(&self) -> bool {
        match proof::gather(&self.plan) {
            Ok(proof) => {
                self.channel.say(ToController::Proof(proof));
                true
            }
            Err(error) => {
                log::error(&format!("cannot prove what runs: {error}"));
                thread::sleep(Duration::from_secs(1));
                false
            }
        }
    }

    /// Says that the node lives, and how.
    pub(crate) fn beat(&self) {
        self.channel.say(ToController::Heartbeat(Heartbeat {
            uptime_ms: usage::uptime_ms(),
            logins: usage::logins(),
            dirty_kib: usage::dirty_kib(),
            root_read_bytes: usage::read_bytes(&self.root_disk),
            store_free: self
                .has_store
                .then(|| usage::file_system(store::MOUNT).map_or(0, |(_, free)| free)),
            root_attached: self.keeper.is_attached(),
        }));
    }

    fn end(&self, how: ShutdownHow) {
        shutdown::run(self, how);
    }
}

/// Keeps users out, for now.
pub(crate) fn write_nologin() {
    if let Err(error) = fs::write(NOLOGIN, "This node is not ready yet.\n") {
        log::error(&format!("{NOLOGIN} cannot be written: {error}"));
    }
}

/// Lets users in: the image's ssh server waits for this file.
fn admit() {
    let opened =
        fs::write("/run/haas/ready", "ready\n").and_then(|()| match fs::remove_file(NOLOGIN) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
    match opened {
        Ok(()) => log::info("the node is ready"),
        Err(error) => log::error(&format!("the node cannot be opened to users: {error}")),
    }
}

fn userspace_is_up() -> bool {
    if Path::new("/run/haas/userspace-up").exists() {
        return true;
    }
    if shutdown::pid1_is_systemd() {
        return !Path::new(NOLOGIN).exists();
    }
    let children = fs::read_to_string("/proc/1/task/1/children").unwrap_or_default();
    let own = std::process::id().to_string();
    children.split_whitespace().any(|pid| pid != own)
}

/// Reads words from the FIFO, for ever.
fn control(ask: mpsc::Sender<ShutdownHow>) -> io::Result<()> {
    if !Path::new(CONTROL).exists() {
        mkfifo(CONTROL, Mode::S_IRUSR | Mode::S_IWUSR)?;
    }
    // Held open for writing too, so that reading does not end with each writer.
    let fifo = fs::OpenOptions::new().read(true).write(true).open(CONTROL)?;
    let reader = move || {
        for line in BufReader::new(fifo).lines() {
            let how = match line.as_deref().map(str::trim) {
                Ok("reboot") => ShutdownHow::Reboot,
                Ok("poweroff") => ShutdownHow::Poweroff,
                Ok("kexec") => ShutdownHow::Kexec,
                Ok(word) => {
                    log::error(&format!(
                        "{CONTROL} knows reboot, poweroff and kexec, not {word:?}"
                    ));
                    continue;
                }
                Err(_) => return,
            };
            if ask.send(how).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("control".into()).stack_size(128 * 1024).spawn(reader).map(drop)
}
