//! The thread that keeps the session: logs in, watches, and after a loss connects and logs in
//! again, for ever.
//!
//! Each new attempt begins with STOP_CONN. Without it the kernel can hold a half-closed connection
//! that refuses every later bind, and the node would never come back although the target has.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use haas_api::agent::RootPlan;
use sha2::{Digest as _, Sha256};

use super::{
    chap::Proofs,
    login::{Agreed, Login, LoginError, Next},
    netlink::{Event, Netlink, Param, Stop},
    pdu,
};
use crate::{fault::Fault, log};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const RESPONSE_WITHIN: Duration = Duration::from_secs(15);
/// How long one wait for an event takes; after each the session's state is looked at.
const WATCH: Duration = Duration::from_secs(2);
/// Between attempts to log in again: many nodes come back at once, and so do not ask at once.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(3);
const FIRST_CMD_SN: u32 = 1;

/// Why one attempt to log in failed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("no connection to the portal: {0}")]
    Connect(#[source] io::Error),
    #[error("the kernel refused to {0}: {1}")]
    Kernel(&'static str, #[source] io::Error),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("the connection was lost during the login (error {0})")]
    Lost(u32),
    #[error("the target did not answer the login")]
    Silent,
}

/// The root's session. The thread goes on until [`Keeper::logout`].
#[derive(Debug)]
pub(crate) struct Keeper {
    /// The session's number in /sys/class/iscsi_session.
    sid: u32,
    host: u32,
    logout: mpsc::Sender<mpsc::Sender<()>>,
}

impl Keeper {
    /// Logs in and keeps the session from then on.
    pub(crate) fn start(root: &RootPlan) -> Result<Self, Fault> {
        let (logout, asked) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let root = root.clone();
        thread::Builder::new()
            .name("iscsi".into())
            .stack_size(256 * 1024)
            .spawn(move || match Session::open(&root) {
                Ok((mut session, host)) => {
                    if ready.send(Ok((session.netlink.sid, host))).is_ok() {
                        session.keep(&asked);
                    }
                }
                Err(fault) => drop(ready.send(Err(fault))),
            })
            .map_err(|e| Fault::retry("root-thread", format!("no thread for iSCSI: {e}")))?;
        let (sid, host) = started
            .recv()
            .map_err(|_| Fault::retry("root-thread", "the iSCSI thread ended by itself"))??;
        Ok(Self { sid, host, logout })
    }

    /// The session's folder in sysfs.
    pub(crate) fn folder(&self) -> PathBuf {
        session_folder(self.sid)
    }

    /// Whether the session stands at this moment.
    pub(crate) fn is_attached(&self) -> bool {
        state(self.sid).as_deref() == Some("LOGGED_IN")
    }

    /// The kernel's name of the disk LUN 0, once the kernel has found it.
    pub(crate) fn disk(&self) -> Option<String> {
        let device = self.folder().join("device");
        let lun = format!("{}:0:0:0", self.host);
        for target in fs::read_dir(device).ok()?.flatten() {
            if let Ok(mut disks) = fs::read_dir(target.path().join(&lun).join("block")) {
                return Some(disks.next()?.ok()?.file_name().to_string_lossy().into_owned());
            }
        }
        None
    }

    /// Asks the kernel to look for disks in the session.
    pub(crate) fn scan(&self) -> io::Result<()> {
        fs::write(format!("/sys/class/scsi_host/host{}/scan", self.host), "- - 0")
    }

    /// Logs out and ends the session. Everything on it must be unmounted or lost.
    pub(crate) fn logout(&self) {
        let (done, ended) = mpsc::channel();
        if self.logout.send(done).is_ok() {
            // The thread may be in the middle of a login that does not come to an end.
            let _ = ended.recv_timeout(Duration::from_secs(8));
        }
    }
}

fn session_folder(sid: u32) -> PathBuf {
    format!("/sys/class/iscsi_session/session{sid}").into()
}

fn state(sid: u32) -> Option<String> {
    let text = fs::read_to_string(session_folder(sid).join("state")).ok()?;
    Some(text.trim().to_owned())
}

struct Session {
    netlink: Netlink,
    portal: SocketAddr,
    root: RootPlan,
    isid: [u8; 6],
}

impl Session {
    fn open(root: &RootPlan) -> Result<(Self, u32), Fault> {
        let kernel =
            |what: &str, e: io::Error| Fault::retry("root-kernel", format!("cannot {what}: {e}"));
        let netlink = Netlink::open().map_err(|e| kernel("open the iSCSI interface", e))?;
        let mut session = Self {
            netlink,
            portal: SocketAddr::new(root.portal, root.port),
            root: root.clone(),
            isid: isid(&root.initiator),
        };
        let host = session
            .netlink
            .create_session(FIRST_CMD_SN)
            .map_err(|e| kernel("create an iSCSI session", e))?;
        let result = session
            .netlink
            .create_conn()
            .map_err(|e| AttemptError::Kernel("create a connection", e))
            .and_then(|()| session.attempt());
        if let Err(error) = result {
            // What is left of the session must go, or the next attempt would make a second one.
            let _ = session.netlink.stop_conn(Stop::Terminate);
            let _ = session.netlink.destroy_conn();
            let _ = session.netlink.destroy_session();
            let portal = session.portal;
            let cause = format!("no iSCSI session with {portal}, target {}: {error}", root.target);
            return Err(Fault::retry("root-login", cause));
        }
        Ok((session, host))
    }

    fn keep(&mut self, asked: &mpsc::Receiver<mpsc::Sender<()>>) {
        loop {
            let lost = match self.netlink.event(WATCH) {
                Ok(Some(Event::ConnError(code))) => Some(format!("error {code}")),
                Ok(Some(Event::Pdu { header, .. })) => {
                    pdu::asks_to_leave(&header).then(|| "the target asked us to leave".to_owned())
                }
                // An event may have been lost: the kernel's own word counts.
                Ok(None) => state(self.netlink.sid)
                    .filter(|state| state != "LOGGED_IN")
                    .map(|state| format!("its state is {state}")),
                Err(error) => {
                    log::error(&format!("the kernel's iSCSI interface fails: {error}"));
                    thread::sleep(WATCH);
                    None
                }
            };
            if let Ok(done) = asked.try_recv() {
                self.leave();
                let _ = done.send(());
                return;
            }
            if let Some(why) = lost {
                log::error(&format!("the session of the root is lost ({why}); logging in again"));
                if let Some(done) = self.recover(asked) {
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    /// Logs in again, however long it takes. Gives back a request to leave that came meanwhile.
    fn recover(&mut self, asked: &mpsc::Receiver<mpsc::Sender<()>>) -> Option<mpsc::Sender<()>> {
        let begun = Instant::now();
        let mut pause = RETRY_FIRST;
        let mut last = String::new();
        loop {
            let stopped = self
                .netlink
                .stop_conn(Stop::Recover)
                .map_err(|e| AttemptError::Kernel("stop the connection", e));
            match stopped.and_then(|()| self.attempt()) {
                Ok(()) => {
                    let seconds = begun.elapsed().as_secs();
                    log::info(&format!("the session of the root stands again after {seconds} s"));
                    return None;
                }
                Err(error) if error.to_string() != last => {
                    last = error.to_string();
                    log::error(&format!("cannot log in to the root again yet: {last}"));
                }
                Err(_) => {}
            }
            if let Ok(done) = asked.recv_timeout(pause) {
                return Some(done);
            }
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    /// One attempt: connect, bind, log in, set what was agreed, let commands flow.
    fn attempt(&mut self) -> Result<(), AttemptError> {
        let kernel = |what| move |e| AttemptError::Kernel(what, e);
        let socket = TcpStream::connect_timeout(&self.portal, CONNECT_WITHIN)
            .map_err(AttemptError::Connect)?;
        socket.set_nodelay(true).map_err(AttemptError::Connect)?;
        self.netlink.forget_events().map_err(kernel("read its events"))?;
        self.netlink.bind_conn(socket.as_fd()).map_err(kernel("bind the connection"))?;
        let (agreed, exp_stat_sn) = self.login()?;
        for (param, value) in self.params(&agreed, exp_stat_sn) {
            self.netlink.set_param(param, &value).map_err(kernel("set a parameter"))?;
        }
        self.netlink.start_conn().map_err(kernel("start the connection"))
    }

    fn login(&mut self) -> Result<(Agreed, u32), AttemptError> {
        let proofs =
            Proofs::of(&self.root).map_err(|e| AttemptError::Kernel("give random numbers", e))?;
        let (mut login, mut next) = Login::begin(&self.root.target, &self.root.initiator, proofs);
        let mut exp_stat_sn = 0;
        loop {
            let (stage, to, text) = match next {
                Next::Done(agreed) => return Ok((agreed, exp_stat_sn)),
                Next::Send { stage, next, text } => (stage, next, text),
            };
            let header = pdu::login_request(self.isid, exp_stat_sn, stage, to, text.len());
            self.netlink
                .send_pdu(&header, &text)
                .map_err(|e| AttemptError::Kernel("send a login request", e))?;
            let (response, data) = loop {
                match self.netlink.event(RESPONSE_WITHIN) {
                    Ok(Some(Event::Pdu { header, data })) => {
                        if let Some(response) = pdu::login_response(&header) {
                            break (response, data);
                        }
                    }
                    Ok(Some(Event::ConnError(code))) => return Err(AttemptError::Lost(code)),
                    Ok(None) => return Err(AttemptError::Silent),
                    Err(e) => return Err(AttemptError::Kernel("give its events", e)),
                }
            };
            if response.status.0 != 0 {
                let (class, detail) = response.status;
                return Err(LoginError::Refused { class, detail }.into());
            }
            exp_stat_sn = response.stat_sn.wrapping_add(1);
            next = login.step(response.next, response.continues, &data)?;
        }
    }

    /// Nothing secret is among them: whatever the kernel is told stands in sysfs.
    fn params(&self, agreed: &Agreed, exp_stat_sn: u32) -> Vec<(Param, String)> {
        let flag = |on: bool| u32::from(on).to_string();
        let mut params = vec![
            (Param::MaxRecvDataLength, agreed.max_recv.to_string()),
            (Param::MaxXmitDataLength, agreed.max_xmit.to_string()),
            (Param::HeaderDigest, flag(false)),
            (Param::DataDigest, flag(false)),
            (Param::InitialR2t, flag(agreed.initial_r2t)),
            (Param::MaxR2t, "1".to_owned()),
            (Param::ImmediateData, flag(agreed.immediate_data)),
            (Param::FirstBurst, agreed.first_burst.min(agreed.max_burst).to_string()),
            (Param::MaxBurst, agreed.max_burst.to_string()),
            (Param::PduInOrder, flag(true)),
            (Param::DataInOrder, flag(true)),
            (Param::ErrorRecoveryLevel, "0".to_owned()),
            (Param::ExpStatSn, exp_stat_sn.to_string()),
            (Param::TargetName, self.root.target.clone()),
            (Param::InitiatorName, self.root.initiator.clone()),
            (Param::PersistentAddress, self.portal.ip().to_string()),
            (Param::PersistentPort, self.portal.port().to_string()),
            // Never: commands wait for the target as long as it takes.
            (Param::RecoveryTimeout, "-1".to_owned()),
            (Param::FastAbort, flag(true)),
            (Param::AbortTimeout, "15".to_owned()),
            (Param::LuResetTimeout, "30".to_owned()),
            // A NOP-Out after 5 s of silence, and 5 s for its answer: finds a cut cable.
            (Param::PingTimeout, "5".to_owned()),
            (Param::PingInterval, "5".to_owned()),
        ];
        if let Some(tag) = &agreed.portal_group {
            params.push((Param::PortalGroup, tag.clone()));
        }
        params
    }

    fn leave(&mut self) {
        if self.netlink.send_pdu(&pdu::logout_request(), &[]).is_ok() {
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until {
                match self.netlink.event(Duration::from_millis(200)) {
                    Ok(Some(Event::Pdu { header, .. })) if pdu::is_logout_response(&header) => {
                        break;
                    }
                    Ok(Some(Event::ConnError(_))) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
        let _ = self.netlink.stop_conn(Stop::Terminate);
    }
}

/// The initiator's part of the session's id, of the random kind (RFC 7143 section 11.12.5), the
/// same at each boot, so that a new login takes the place of the session left by a power cut.
fn isid(initiator: &str) -> [u8; 6] {
    let hash = Sha256::digest(initiator);
    [0x80, hash[0], hash[1], hash[2], 0, 0]
}
