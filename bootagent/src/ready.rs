//! The way from the image's init to a node that is ready: userspace comes up, the ready checks
//! succeed, haasd takes the proof of what runs, and the ssh server listens.
//!
//! Userspace counts as up when the image says so (`/run/haas/userspace-up`). Else, with systemd, when
//! it has come to let users in, which it shows by removing `/run/nologin`; with any other init, when
//! that has started a process of its own besides the agent.
//!
//! Many ssh servers are started only when haasd has let users in, and some seconds pass until they
//! listen. Whoever is told that a node is ready logs in at once, so it is ready only then.

use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use haas_api::agent::{BootStage, ToController};
use nix::fcntl::OFlag;

use crate::{
    agent::Agent,
    checks::{Checks, News},
    log, proof, shutdown, usage,
};

/// While this file is there, PAM lets nobody in but root.
const NOLOGIN: &str = "/run/nologin";
const USERSPACE_WITHIN: Duration = Duration::from_secs(120);
/// How long the ssh server of an image that has one is waited for.
const SSH_WITHIN: Duration = Duration::from_secs(30);
/// Where ssh servers are installed. An image without any of them is not waited for.
const SSH_SERVERS: [&str; 5] = [
    "usr/sbin/sshd",
    "usr/sbin/dropbear",
    "usr/local/sbin/sshd",
    "usr/local/sbin/dropbear",
    "usr/bin/dropbear",
];

/// How far the node has come.
#[derive(Debug)]
pub(crate) enum Way {
    /// The image's init brings userspace up, since then.
    Starting(Instant),
    /// The ready checks run.
    Checking(Checks),
    /// What runs is to be proved.
    Proving,
    /// haasd has the proof and has not answered yet.
    Proved,
    /// Users may log in; their ssh server comes up, since then.
    Opening(Instant),
    /// haasd knows that they can.
    Ready,
}

impl Way {
    /// Init was started just now.
    pub(crate) fn new() -> Self {
        Self::Starting(Instant::now())
    }

    /// Goes on as far as is possible now.
    pub(crate) fn go_on(&mut self, agent: &Agent) {
        match self {
            Self::Starting(since) => {
                if !userspace_is_up() && since.elapsed() < USERSPACE_WITHIN {
                    return;
                }
                // systemd has opened what only haasd opens.
                write_nologin();
                say(agent, BootStage::Userspace);
                *self = match agent.plan.ready_checks.as_slice() {
                    [] => Self::Proving,
                    checks => Self::Checking(Checks::start(checks)),
                };
            }
            Self::Checking(checks) => match checks.news() {
                Some(News::Say(word)) => agent.channel.say(word),
                Some(News::Passed) => *self = Self::Proving,
                None => {}
            },
            Self::Proving => match proof::gather(&agent.plan) {
                Ok(proof) => {
                    agent.channel.say(ToController::Proof(proof));
                    *self = Self::Proved;
                }
                Err(error) => {
                    log::error(&format!("cannot prove what runs: {error}"));
                    thread::sleep(Duration::from_secs(1));
                }
            },
            Self::Opening(since) => {
                let listens = usage::ssh_listens();
                if !listens && since.elapsed() < SSH_WITHIN && has_ssh_server() {
                    return;
                }
                let how = if listens { "" } else { ", and no ssh server listens on port 22" };
                log::info(&format!("the node is ready{how}"));
                say(agent, BootStage::Ready);
                *self = Self::Ready;
            }
            Self::Proved | Self::Ready => {}
        }
    }

    /// haasd has taken the proof: users may log in.
    pub(crate) fn admit(&mut self) {
        match open() {
            Ok(()) => *self = Self::Opening(Instant::now()),
            Err(error) => {
                log::error(&format!("the node cannot be opened to users: {error}"));
            }
        }
    }

    /// haasd has started anew, perhaps with an older store: it judges again.
    pub(crate) fn prove_again(&mut self) {
        match self {
            Self::Starting(_) | Self::Checking(_) | Self::Proving => {}
            Self::Proved | Self::Opening(_) | Self::Ready => *self = Self::Proving,
        }
    }

    /// The node goes down.
    pub(crate) fn stop(&self) {
        if let Self::Checking(checks) = self {
            checks.stop();
        }
    }
}

fn say(agent: &Agent, stage: BootStage) {
    agent.channel.say(ToController::Stage { stage, uptime_ms: usage::uptime_ms() });
}

/// Keeps users out, for now.
pub(crate) fn write_nologin() {
    if let Err(error) = fs::write(NOLOGIN, "This node is not ready yet.\n") {
        log::error(&format!("{NOLOGIN} cannot be written: {error}"));
    }
}

/// Lets users in: the image's ssh server waits for this file.
fn open() -> io::Result<()> {
    fs::write("/run/haas/ready", "ready\n")?;
    match fs::remove_file(NOLOGIN) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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

fn has_ssh_server() -> bool {
    let Ok(root) = fs::File::open("/proc/1/root") else { return false };
    SSH_SERVERS.iter().any(|path| proof::open_in(&root, path, OFlag::O_PATH).is_ok())
}
