//! Keeps the lease of the boot NIC's address, where a DHCP server of somebody else gave it.
//!
//! Firmware's iPXE got the lease and the kernel command line carries the address, so nobody but us
//! renews it. One thread asks for as long as the node runs ([`lease`] says what, [`message`] how).
//! It never touches the address itself: the root hangs on it, and a lost lease is told to people
//! ([`Keeper::report`]). The lease is not given back at the end, so that the node finds the same
//! address at its next boot.

mod lease;
mod message;

use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use haas_api::{agent::AddressLease, names::Mac};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use self::{
    lease::Lease,
    message::{Answer, Ask},
};
use crate::{log, net};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// How long one request waits for its answer. Some servers ping an address before they offer it.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// The thread's view of the lease.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    seen: Arc<Mutex<AddressLease>>,
}

impl Keeper {
    /// Keeps the lease of `address` on the NIC `mac` from now on.
    pub(crate) fn start(mac: Mac, address: Ipv4Addr) -> io::Result<Self> {
        let keeper = Self { seen: Arc::default() };
        let seen = keeper.seen.clone();
        thread::Builder::new()
            .name("dhcp".into())
            .stack_size(128 * 1024)
            .spawn(move || keep(|| net::find(mac), mac, address, &seen))?;
        Ok(keeper)
    }

    /// How the lease stands.
    pub(crate) fn report(&self) -> AddressLease {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Asks for ever. The NIC is looked up each time, since userspace may have renamed it.
fn keep(
    nic: impl Fn() -> Option<String>,
    mac: Mac,
    address: Ipv4Addr,
    seen: &Mutex<AddressLease>,
) -> ! {
    let start = Instant::now();
    let mut lease = Lease::new(address);
    let mut told = None;
    loop {
        let asked = start.elapsed();
        let ask = lease.ask(asked);
        let answer = nic()
            .ok_or_else(|| io::Error::other(format!("the NIC {mac} is not there")))
            .and_then(|nic| exchange(&nic, ask, mac, address));
        match answer {
            Ok(Some(answer)) => lease.heard(asked, answer),
            Ok(None) => lease.silent(start.elapsed()),
            Err(error) => {
                log::error(&format!("cannot ask for the lease of {address}: {error}"));
                lease.silent(start.elapsed());
            }
        }
        let held = lease.held(start.elapsed());
        let trouble = lease.trouble().map(str::to_owned);
        if told.as_ref() != Some(&trouble) {
            match (&trouble, held) {
                (Some(trouble), _) => log::error(trouble),
                (None, Some((server, left))) => log::info(&format!(
                    "the lease of {address} is kept: {} s from {server}",
                    left.as_secs()
                )),
                (None, None) => {}
            }
            if trouble.is_some() || held.is_some() {
                told = Some(trouble.clone());
            }
        }
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = AddressLease {
            server: held.map(|(server, _)| server),
            left_s: held.map_or(0, |(_, left)| left.as_secs()),
            trouble,
        };
        thread::sleep(lease.pause(start.elapsed()));
    }
}

/// Sends one request and waits for its answer: the first that settles it, else an offer of another
/// address, else none.
fn exchange(nic: &str, ask: Ask, mac: Mac, address: Ipv4Addr) -> io::Result<Option<Answer>> {
    let socket = open(nic)?;
    let mut xid = [0; 4];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut xid)?;
    let xid = u32::from_be_bytes(xid);
    let to = match ask {
        Ask::Renew(server) => server,
        Ask::Rebind | Ask::Discover | Ask::Take(_) => Ipv4Addr::BROADCAST,
    };
    socket.send_to(&message::request(ask, mac, address, xid), (to, SERVER_PORT))?;
    let until = Instant::now() + ANSWER_WITHIN;
    let mut other = None;
    let mut buffer = [0; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(other);
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            // What ICMP says of a server that is away; another may answer yet.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        match message::parse(buffer.get(..length).unwrap_or_default(), mac, xid) {
            Some(Answer::Offer { address: offered, server }) if offered != address => {
                other = Some(Answer::Offer { address: offered, server });
            }
            Some(answer) => return Ok(Some(answer)),
            None => {}
        }
    }
}

/// The client's port, open on this NIC only and only while something is asked: the image's own DHCP
/// client may want it for its other NICs.
fn open(nic: &str) -> io::Result<UdpSocket> {
    let socket: OwnedFd =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::BindToDevice, &OsString::from(nic))?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::Broadcast, &true)?;
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
    bind(socket.as_raw_fd(), &SockaddrIn::from(any))?;
    Ok(socket.into())
}
