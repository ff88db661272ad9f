//! The agent on a simulated node: what `bootagent` says to haasd, without a kernel under it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use haas_api::{
    agent::{
        self, BootPlan, BootStage, Failure, HEARTBEAT_S, Heartbeat, NextKernel, OverlayPlan, Proof,
        ShutdownHow, ToAgent, ToController,
    },
    baseline::listed,
    names::Digest,
};

use crate::{
    boot::{Cmdline, End, at, hold, soft_off},
    disk,
    folder::{Folder, Kexec, Lie},
    http,
    iscsi::Session,
    link::{Heard, Link},
};

const TURN: Duration = Duration::from_millis(50);
/// Between two tries of what may come right by itself.
const RETRY: Duration = Duration::from_secs(2);

/// What was brought up.
struct Running {
    plan: BootPlan,
    wwid: String,
    rank: u32,
    root_bytes: u64,
    /// Held, as a node's kernel holds it.
    session: Session,
}

struct Agent<'a> {
    folder: &'a Folder,
    link: Link,
    started: Instant,
}

/// Boots from the token on the command line, and stays until the node goes down.
pub(crate) fn run(folder: &Folder, cmdline: &Cmdline) -> Result<End> {
    let (url, fingerprint) = (cmdline.get("haas.url")?, cmdline.get("haas.fp")?);
    let kexec = (folder.behaviour()?.kexec != Kexec::Unknown).then(|| agent::Kexec {
        machine: "x86_64".to_owned(),
        memory_mib: 64 << 10,
        obstacle: None,
    });
    let link = Link::new(url, fingerprint, cmdline.get("haas.token")?, kexec)?;
    let mut agent = Agent { folder, link, started: Instant::now() };
    let mut plan = match agent.welcome()? {
        Ok(plan) => plan,
        Err(end) => return Ok(end),
    };
    folder.note(&format!(
        "boot generation={} image={} overlay={:?}",
        plan.generation, plan.root.name, plan.overlay
    ))?;
    let running = loop {
        if plan.baseline {
            let facts = listed(&folder.baseline()?);
            agent.link.say(ToController::Baseline { facts });
            match agent.plan_by(None)? {
                Ok(new) => plan = new.unwrap_or(plan),
                Err(end) => return Ok(end),
            }
            continue;
        }
        match agent.bring_up(&plan)? {
            Up::Runs(running) => break *running,
            Up::Ends(end) => return Ok(end),
            Up::Failed(failure) => match agent.held(failure, &plan)? {
                Ok(mut new) => {
                    new.root.keep_secrets(&plan.root);
                    plan = new;
                }
                Err(end) => return Ok(end),
            },
        }
    };
    agent.serve(running)
}

enum Up {
    Runs(Box<Running>),
    Failed(Failure),
    Ends(End),
}

impl Agent<'_> {
    fn welcome(&mut self) -> Result<std::result::Result<BootPlan, End>> {
        loop {
            match self.link.hear(TURN) {
                Some(Heard::Welcome(welcome)) => return Ok(Ok(welcome.plan)),
                Some(Heard::Refused(reason)) => {
                    self.folder.note(&format!("refused: {reason}"))?;
                    return hold(self.folder).map(Err);
                }
                Some(Heard::Said(_)) | None => {}
            }
            if soft_off(self.folder)? {
                return Ok(Err(End::Off));
            }
        }
    }

    /// Root, overlay and userspace.
    fn bring_up(&mut self, plan: &BootPlan) -> Result<Up> {
        if let Some(end) = at(self.folder, BootStage::Root)? {
            return Ok(Up::Ends(end));
        }
        let (session, wwid, read) = match attach(plan) {
            Ok(attached) => attached,
            Err(error) => {
                let failure = failure(BootStage::Root, "iscsi-login", format!("{error:#}"), true);
                return Ok(Up::Failed(failure));
            }
        };
        self.reached(BootStage::Root);
        if plan.inventory {
            let inventory = Box::new(self.folder.inventory()?);
            self.link.say(ToController::Inventory(inventory));
        }
        if let Some(end) = at(self.folder, BootStage::Overlay)? {
            return Ok(Up::Ends(end));
        }
        self.link.say(ToController::Disks { disks: disk::disks(self.folder, plan)? });
        let rank = match &plan.overlay {
            OverlayPlan::Ram { rank } => *rank,
            OverlayPlan::Disk { .. } => match disk::open(self.folder, plan)? {
                Ok(Some((report, rank))) => {
                    self.link.say(ToController::Store(report));
                    rank
                }
                Ok(None) => 0,
                Err(failure) => return Ok(Up::Failed(failure)),
            },
        };
        self.reached(BootStage::Overlay);
        if let Some(end) = at(self.folder, BootStage::Userspace)? {
            return Ok(Up::Ends(end));
        }
        self.reached(BootStage::Userspace);
        let plan = plan.clone();
        Ok(Up::Runs(Box::new(Running { plan, wwid, rank, root_bytes: read, session })))
    }

    /// Tells of a failure and waits: for a plan, for the time to try again, or for the end.
    fn held(
        &mut self,
        failure: Failure,
        plan: &BootPlan,
    ) -> Result<std::result::Result<BootPlan, End>> {
        let until = failure.retryable.then(|| Instant::now() + RETRY);
        self.folder.note(&format!("held: {} {}", failure.code, failure.cause))?;
        self.link.say(ToController::Failure(failure));
        Ok(match self.plan_by(until)? {
            Ok(new) => Ok(new.unwrap_or_else(|| plan.clone())),
            Err(end) => Err(end),
        })
    }

    /// The next plan that haasd gives; none: the time is up.
    fn plan_by(
        &mut self,
        until: Option<Instant>,
    ) -> Result<std::result::Result<Option<BootPlan>, End>> {
        loop {
            match self.link.hear(TURN) {
                Some(Heard::Said(ToAgent::Retry { plan })) => return Ok(Ok(Some(*plan))),
                Some(Heard::Said(ToAgent::Shutdown { how })) => {
                    return self.goodbye(how).map(Err);
                }
                Some(Heard::Welcome(welcome)) => return Ok(Ok(Some(welcome.plan))),
                _ => {}
            }
            if until.is_some_and(|until| Instant::now() > until) {
                return Ok(Ok(None));
            }
            if soft_off(self.folder)? {
                return Ok(Err(End::Off));
            }
        }
    }

    /// Proves what runs, and lives until the node goes down.
    fn serve(&mut self, mut running: Running) -> Result<End> {
        if let Some(end) = at(self.folder, BootStage::Ready)? {
            return Ok(end);
        }
        self.prove(&running)?;
        let mut beat_at = Instant::now();
        loop {
            if let Some(inventory) = self.folder.take_forged()? {
                self.link.say(ToController::Inventory(Box::new(inventory)));
            }
            if Instant::now() >= beat_at {
                // The session is used, so that one that broke is noticed.
                let attached = running.session.read(1).is_ok();
                if !attached && let Ok((session, _, _)) = attach(&running.plan) {
                    running.session = session;
                }
                self.heartbeat(&running, 0)?;
                beat_at = Instant::now() + Duration::from_secs(HEARTBEAT_S);
            }
            match self.link.hear(TURN) {
                Some(Heard::Said(ToAgent::Admit)) => {
                    self.folder.note("admitted")?;
                    self.reached(BootStage::Ready);
                }
                Some(Heard::Said(ToAgent::NotReady { reason })) => {
                    self.folder.note(&format!("not ready: {reason}"))?;
                }
                Some(Heard::Said(ToAgent::Shutdown { how })) => {
                    self.folder.note("asked to shut down")?;
                    if !self.folder.behaviour()?.ignores_shutdown {
                        return self.shut_down(&running, how);
                    }
                }
                Some(Heard::Said(ToAgent::Kexec(next))) => {
                    self.folder.note("asked to start another kernel")?;
                    match self.load(&next) {
                        Ok(()) => {
                            self.shut_down(&running, ShutdownHow::Kexec)?;
                            return Ok(End::Kexec(Cmdline::parse(next.cmdline.split_whitespace())));
                        }
                        Err(error) => self.link.say(ToController::KexecFailed {
                            attempt: next.attempt,
                            reason: format!("{error:#}"),
                        }),
                    }
                }
                Some(Heard::Said(ToAgent::Notice { text })) => {
                    self.folder.note(&format!("notice: {text}"))?;
                }
                Some(Heard::Welcome(_)) => self.prove(&running)?,
                Some(Heard::Refused(reason)) => {
                    self.folder.note(&format!("refused: {reason}"))?;
                    return hold(self.folder);
                }
                Some(Heard::Said(
                    ToAgent::Retry { .. } | ToAgent::SshCertificates(_) | ToAgent::Ack,
                ))
                | None => {}
            }
            if soft_off(self.folder)? {
                return self.shut_down(&running, ShutdownHow::Poweroff);
            }
        }
    }

    /// Fetches another kernel and its initramfs, which must be what was said of them.
    fn load(&self, next: &NextKernel) -> Result<()> {
        for file in [&next.kernel, &next.initrd] {
            // haasd may be down for a moment.
            let until = Instant::now() + Duration::from_secs(30);
            let bytes = loop {
                match http::get(&file.url) {
                    Ok(bytes) => break bytes,
                    Err(error) if Instant::now() > until => return Err(error),
                    Err(_) => std::thread::sleep(Duration::from_millis(300)),
                }
            };
            let is_so = bytes.len() as u64 == file.size && Digest::of(&bytes) == file.digest;
            ensure!(is_so, "it is not the file that was announced");
        }
        ensure!(self.folder.behaviour()?.kexec != Kexec::Refused, "the kernel says EPERM");
        Ok(())
    }

    /// Writes its dirty pages back, says goodbye and ends.
    fn shut_down(&mut self, running: &Running, how: ShutdownHow) -> Result<End> {
        let end = Instant::now() + Duration::from_secs(self.folder.behaviour()?.dirty_s);
        let mut beat_at = Instant::now();
        while Instant::now() < end {
            if Instant::now() >= beat_at {
                let left = end.saturating_duration_since(Instant::now());
                self.heartbeat(running, u64::try_from(left.as_millis())?)?;
                beat_at = Instant::now() + Duration::from_secs(1);
            }
            self.link.hear(TURN);
        }
        self.goodbye(how)
    }

    fn goodbye(&mut self, how: ShutdownHow) -> Result<End> {
        let (reason, end) = match how {
            ShutdownHow::Poweroff => ("poweroff", End::Off),
            ShutdownHow::Reboot => ("reboot", End::Reboot),
            ShutdownHow::Kexec => ("kexec", End::Reboot),
        };
        self.link.say(ToController::Goodbye { reason: reason.to_owned(), clean: true });
        let until = Instant::now() + Duration::from_secs(5);
        while !self.link.is_flushed() && Instant::now() < until {
            self.link.hear(TURN);
        }
        self.folder.note(&format!("goodbye: {reason}"))?;
        Ok(end)
    }

    fn prove(&mut self, running: &Running) -> Result<()> {
        let Running { plan, wwid, rank, .. } = running;
        let overlay_id = match &plan.overlay {
            OverlayPlan::Ram { .. } => None,
            OverlayPlan::Disk { rescue: true, .. } => None,
            OverlayPlan::Disk { overlay_id, .. } => Some(overlay_id.clone()),
        };
        let mut proof = Proof {
            generation: plan.generation,
            wwid: wwid.clone(),
            target: plan.root.target.clone(),
            read_only: true,
            overlay_id,
            rank: *rank,
            hostname: plan.node.to_string(),
            addresses: vec![plan.net.address],
            machine_id: "5a".repeat(16),
            kernel: "6.1.0-sim".to_owned(),
            says_ready: true,
        };
        match self.folder.behaviour()?.lie {
            None => {}
            Some(Lie::Image) => proof.wwid = "naa.3000000000000bad".to_owned(),
            Some(Lie::Overlay) => proof.overlay_id = Some("another".to_owned()),
            Some(Lie::Rank) => proof.rank += 1,
            Some(Lie::Hostname) => proof.hostname = "another".to_owned(),
            Some(Lie::Writable) => proof.read_only = false,
        }
        self.link.say(ToController::Proof(proof));
        Ok(())
    }

    fn heartbeat(&mut self, running: &Running, dirty_kib: u64) -> Result<()> {
        let has_store = matches!(running.plan.overlay, OverlayPlan::Disk { .. });
        self.link.say(ToController::Heartbeat(Heartbeat {
            uptime_ms: self.uptime_ms(),
            logins: self.folder.behaviour()?.logins,
            dirty_kib,
            root_read_bytes: running.root_bytes,
            store_free: has_store.then_some(4 << 30),
            root_attached: true,
            lease: None,
        }));
        Ok(())
    }

    fn reached(&mut self, stage: BootStage) {
        let uptime_ms = self.uptime_ms();
        self.link.say(ToController::Stage { stage, uptime_ms });
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Logs in to the plan's image and reads who it is and its first blocks.
fn attach(plan: &BootPlan) -> Result<(Session, String, u64)> {
    let mut session = Session::login(&plan.root)?;
    let wwid = session.wwid().context("INQUIRY")?;
    let blocks = session.read(64).context("READ")?;
    Ok((session, wwid, blocks.len() as u64))
}

fn failure(stage: BootStage, code: &str, cause: String, retryable: bool) -> Failure {
    Failure { retryable, ..Failure::new(stage, code, cause) }
}
