//! The agent after switch_root: says that the node lives, brings it to ready ([`Way`]), and ends it
//! in order.
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

use haas_api::agent::{BootPlan, HEARTBEAT_S, Heartbeat, ShutdownHow, ToAgent, ToController};
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{
    button,
    channel::{Channel, Heard},
    dhcp,
    fault::{Fault, OrFault as _},
    iscsi::Keeper,
    kexec::Loading,
    log,
    ready::Way,
    shutdown,
    ssh::Renewal,
    store, terminals, usage,
};

const CONTROL: &str = "/run/haas/control";
const TURN: Duration = Duration::from_millis(200);

/// The agent of a node that runs.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The way to haasd.
    pub channel: Channel,
    /// What was booted.
    pub plan: BootPlan,
    /// The root's session.
    pub keeper: Keeper,
    /// The lease of the node's address, where it is leased.
    pub lease: Option<dhcp::Keeper>,
    /// The kernel's name of the root's disk.
    pub root_disk: String,
    /// Whether the overlay lies in a store.
    pub has_store: bool,
}

impl Agent {
    /// Looks after the node until it ends. New ssh certificates are due in `renew_in`.
    pub(crate) fn run(self, renew_in: Option<Duration>) -> Result<Infallible, Fault> {
        let (ask, asked) = mpsc::channel();
        control(ask.clone()).or_hold("control", "cannot make /run/haas/control")?;
        button::watch(move || {
            log::info("the power button was pressed");
            let _ = ask.send(ShutdownHow::Poweroff);
        });
        shutdown::prepare_for_systemd();
        let mut way = Way::new();
        let mut renewal = Renewal::new(renew_in, self.plan.ssh.is_some());
        let mut loading: Option<Loading> = None;
        let mut next_beat = Instant::now();
        loop {
            way.go_on(&self);
            renewal.go_on(&self);
            if Instant::now() >= next_beat {
                self.beat();
                next_beat = Instant::now() + Duration::from_secs(HEARTBEAT_S);
            }
            match self.channel.hear(TURN) {
                Some(Heard::Said(ToAgent::Admit)) => way.admit(),
                Some(Heard::Said(ToAgent::NotReady { reason })) => {
                    log::error(&format!("haasd keeps users out: {reason}"));
                }
                Some(Heard::Said(ToAgent::Shutdown { how })) => self.end(&way, how),
                Some(Heard::Said(ToAgent::Kexec(next))) => {
                    loading = Some(Loading::go_on(loading.take(), *next));
                }
                Some(Heard::Refused(reason)) => {
                    // The node runs on: users are on it, and the session needs us.
                    log::error(&format!("haasd refuses the agent: {reason}"));
                }
                Some(Heard::Said(ToAgent::SshCertificates(made))) => renewal.take(made),
                Some(Heard::Said(ToAgent::Notice { text })) => terminals::tell(&text),
                Some(Heard::Welcome(welcome)) => {
                    renewal.welcomed(welcome.plan.ssh.is_some());
                    way.prove_again();
                }
                Some(Heard::Said(ToAgent::Retry { .. } | ToAgent::Ack)) | None => {}
            }
            match loading.as_ref().and_then(Loading::outcome) {
                Some(Ok(())) => self.end(&way, ShutdownHow::Kexec),
                Some(Err(failed)) => {
                    self.channel.say(failed);
                    loading = None;
                }
                None => {}
            }
            if let Ok(how) = asked.try_recv() {
                self.end(&way, how);
            }
            shutdown::follow_systemd(&self);
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
            lease: self.lease.as_ref().map(dhcp::Keeper::report),
        }));
    }

    fn end(&self, way: &Way, how: ShutdownHow) {
        way.stop();
        shutdown::run(self, how);
    }
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
