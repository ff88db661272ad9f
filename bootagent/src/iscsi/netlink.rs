//! The kernel's interface for iSCSI: messages `struct iscsi_uevent` over NETLINK_ISCSI, as
//! `include/scsi/iscsi_if.h` of Linux defines them. Requests are answered in order; events
//! (a login response, a lost connection) come in between through a multicast group.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
        setsockopt, socket, sockopt,
    },
};

const HEADER: usize = 16;
const UEVENT: usize = 56;
const BHS: usize = 48;
/// The union of what is answered begins here.
const ANSWER: usize = 40;

const DESTROY_SESSION: u32 = 12;
const CREATE_SESSION: u32 = 11;
const CREATE_CONN: u32 = 13;
const DESTROY_CONN: u32 = 14;
const BIND_CONN: u32 = 15;
const SET_PARAM: u32 = 16;
const START_CONN: u32 = 17;
const STOP_CONN: u32 = 18;
const SEND_PDU: u32 = 19;
const RECV_PDU: u32 = 101;
const CONN_ERROR: u32 = 102;
const IF_ERROR: u32 = 103;

/// How long the kernel may take to answer. Stopping a connection waits for its work queue.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What the kernel tells without being asked.
#[derive(Debug)]
pub(super) enum Event {
    /// A PDU that is user space's business: a login or logout response, an asynchronous message.
    Pdu {
        /// The basic header segment.
        header: [u8; BHS],
        /// The data segment.
        data: Vec<u8>,
    },
    /// The connection is lost; a number of `enum iscsi_err`.
    ConnError(u32),
}

/// A parameter of `enum iscsi_param`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Param {
    MaxRecvDataLength = 0,
    MaxXmitDataLength = 1,
    HeaderDigest = 2,
    DataDigest = 3,
    InitialR2t = 4,
    MaxR2t = 5,
    ImmediateData = 6,
    FirstBurst = 7,
    MaxBurst = 8,
    PduInOrder = 9,
    DataInOrder = 10,
    ErrorRecoveryLevel = 11,
    ExpStatSn = 14,
    TargetName = 15,
    PortalGroup = 16,
    PersistentAddress = 17,
    PersistentPort = 18,
    RecoveryTimeout = 19,
    FastAbort = 26,
    AbortTimeout = 27,
    LuResetTimeout = 28,
    PingTimeout = 30,
    PingInterval = 31,
    InitiatorName = 34,
}

/// How a connection is stopped.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Stop {
    /// For good.
    Terminate = 1,
    /// To be bound to a new socket: commands wait.
    Recover = 3,
}

/// The netlink socket, bound to one session with one connection.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    transport: u64,
    events: VecDeque<Event>,
    /// Events of other sessions (an image's own initiator) are not ours.
    pub sid: u32,
}

impl Netlink {
    /// Opens the interface. The module `iscsi_tcp` must be loaded.
    pub(super) fn open() -> io::Result<Self> {
        let handle = std::fs::read_to_string("/sys/class/iscsi_transport/tcp/handle")?;
        let transport = handle.trim().parse().map_err(io::Error::other)?;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkISCSI,
        )?;
        // Group 1 is where the kernel sends events of iSCSI sessions to.
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
        Ok(Self { socket, transport, events: VecDeque::new(), sid: u32::MAX })
    }

    /// Creates a session; gives the host's number.
    pub(super) fn create_session(&mut self, cmd_sn: u32) -> io::Result<u32> {
        let mut body = [0; 24];
        body[..4].copy_from_slice(&cmd_sn.to_ne_bytes());
        // Commands in the session, and in the queue of a disk.
        body[4..6].copy_from_slice(&128_u16.to_ne_bytes());
        body[6..8].copy_from_slice(&64_u16.to_ne_bytes());
        let answer = self.request(CREATE_SESSION, body, &[])?;
        self.sid = number(&answer, ANSWER);
        Ok(number(&answer, ANSWER + 4))
    }

    /// Destroys the session, and every disk of it.
    pub(super) fn destroy_session(&mut self) -> io::Result<()> {
        self.request(DESTROY_SESSION, self.ids(), &[]).map(drop)
    }

    /// Creates the session's connection.
    pub(super) fn create_conn(&mut self) -> io::Result<()> {
        self.request(CREATE_CONN, self.ids(), &[]).map(drop)
    }

    /// Destroys the connection.
    pub(super) fn destroy_conn(&mut self) -> io::Result<()> {
        self.request(DESTROY_CONN, self.ids(), &[]).map(drop)
    }

    /// Gives the kernel the connected socket. It holds it by itself from then on.
    pub(super) fn bind_conn(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut body = self.ids();
        body[8..16].copy_from_slice(&(socket.as_raw_fd() as u64).to_ne_bytes());
        body[16..20].copy_from_slice(&1_u32.to_ne_bytes());
        self.request(BIND_CONN, body, &[]).and_then(|a| check(&a))
    }

    /// Sets a parameter, which the kernel takes as text.
    pub(super) fn set_param(&mut self, param: Param, value: &str) -> io::Result<()> {
        let mut body = self.ids();
        let text = [value.as_bytes(), &[0]].concat();
        body[8..12].copy_from_slice(&(param as u32).to_ne_bytes());
        body[12..16].copy_from_slice(&(text.len() as u32).to_ne_bytes());
        self.request(SET_PARAM, body, &text).map(drop)
    }

    /// Lets commands flow.
    pub(super) fn start_conn(&mut self) -> io::Result<()> {
        self.request(START_CONN, self.ids(), &[]).and_then(|a| check(&a))
    }

    /// Stops the connection.
    pub(super) fn stop_conn(&mut self, how: Stop) -> io::Result<()> {
        let mut body = self.ids();
        body[16..20].copy_from_slice(&(how as u32).to_ne_bytes());
        self.request(STOP_CONN, body, &[]).map(drop)
    }

    /// Sends a PDU of the login phase, or a logout.
    pub(super) fn send_pdu(&mut self, header: &[u8; BHS], data: &[u8]) -> io::Result<()> {
        let mut body = self.ids();
        body[8..12].copy_from_slice(&(BHS as u32).to_ne_bytes());
        body[12..16].copy_from_slice(&(data.len() as u32).to_ne_bytes());
        self.request(SEND_PDU, body, &[header, data].concat()).and_then(|a| check(&a))
    }

    /// Forgets events of an earlier connection.
    pub(super) fn forget_events(&mut self) -> io::Result<()> {
        while self.receive(Duration::ZERO)?.is_some() {}
        self.events.clear();
        Ok(())
    }

    /// The next event, if one comes in time.
    pub(super) fn event(&mut self, within: Duration) -> io::Result<Option<Event>> {
        let until = Instant::now() + within;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let left = until.saturating_duration_since(Instant::now());
            if self.receive(left)?.is_none() {
                return Ok(None);
            }
        }
    }

    /// The session's and the connection's number, with which most requests begin. The one
    /// connection of a session has the number 0.
    fn ids(&self) -> [u8; 24] {
        let mut body = [0; 24];
        body[..4].copy_from_slice(&self.sid.to_ne_bytes());
        body
    }

    fn request(&mut self, kind: u32, body: [u8; 24], more: &[u8]) -> io::Result<Vec<u8>> {
        let len = HEADER + UEVENT + more.len();
        let mut message = Vec::with_capacity(len + 3);
        message.extend((len as u32).to_ne_bytes());
        message.extend((kind as u16).to_ne_bytes());
        message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(kind.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(self.transport.to_ne_bytes());
        message.extend(body);
        message.extend([0; UEVENT - 16 - 24]);
        message.extend(more);
        message.resize(len.next_multiple_of(4), 0);
        sendto(self.socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.receive(left)? {
                Some(Some(answer)) if number(&answer, 0) == IF_ERROR => {
                    let error = number(&answer, 4) as i32;
                    return Err(io::Error::from_raw_os_error(error.abs()));
                }
                Some(Some(answer)) if number(&answer, 0) == kind => return Ok(answer),
                Some(_) => {}
                None => {
                    let text = format!("the kernel did not answer iSCSI request {kind}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
        }
    }

    /// Takes one message: `None` if none came in time, `Some(None)` if it was an event, which is
    /// then kept, else an answer.
    fn receive(&mut self, within: Duration) -> io::Result<Option<Option<Vec<u8>>>> {
        use std::os::fd::AsFd as _;
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::Error::EINTR) => return Ok(None),
            result => result?,
        };
        let mut buffer = vec![0; 64 * 1024];
        let len = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(len) => len,
            // Events were lost; the keeper also looks at the session's state by itself.
            Err(nix::Error::ENOBUFS) => return Ok(Some(None)),
            Err(error) => return Err(error.into()),
        };
        buffer.truncate(len);
        if len < HEADER + UEVENT {
            return Ok(Some(None));
        }
        let message = buffer.split_off(HEADER);
        let (sid, kind) = (number(&message, ANSWER), number(&message, 0));
        match kind {
            RECV_PDU if sid == self.sid => {
                if let Some(header) = message.get(UEVENT..UEVENT + BHS) {
                    let header = header.try_into().unwrap_or([0; BHS]);
                    let data = message[UEVENT + BHS..].to_vec();
                    self.events.push_back(Event::Pdu { header, data });
                }
                Ok(Some(None))
            }
            CONN_ERROR if sid == self.sid => {
                self.events.push_back(Event::ConnError(number(&message, ANSWER + 8)));
                Ok(Some(None))
            }
            kind if kind > 100 && kind != IF_ERROR => Ok(Some(None)),
            _ => Ok(Some(Some(message))),
        }
    }
}

fn number(message: &[u8], at: usize) -> u32 {
    message.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Some requests carry their result in the answer.
fn check(answer: &[u8]) -> io::Result<()> {
    match number(answer, ANSWER) as i32 {
        code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Ok(()),
    }
}
