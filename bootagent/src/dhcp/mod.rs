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
        let nic = nic().unwrap_or_default();
        if let Err(error) = turn(&mut lease, &nic, mac, start) {
            log::error(&format!("cannot ask for the lease of {address} on {nic:?}: {error}"));
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

/// Asks once, and takes the answer.
fn turn(lease: &mut Lease, nic: &str, mac: Mac, start: Instant) -> io::Result<()> {
    let asked = start.elapsed();
    let answer = exchange(nic, lease.ask(asked), mac, lease.address());
    match &answer {
        Ok(Some(answer)) => lease.heard(asked, answer.clone()),
        Ok(None) | Err(_) => lease.silent(start.elapsed()),
    }
    answer.map(drop)
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

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        path::Path,
        process::{Child, Command, Stdio},
    };

    use nix::sched::{CloneFlags, setns};

    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);
    const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
    const SERVER: &str = "bootagent-dhcp-s";
    const NODE: &str = "bootagent-dhcp-n";

    fn sh(command: &str) {
        let done = Command::new("sh").args(["-ec", command]).status().expect("sh runs");
        assert!(done.success(), "{command}: failed (this test needs root)");
    }

    /// Two machines on one cable; gone when dropped.
    struct Cable;

    impl Cable {
        fn new() -> Self {
            Self::remove();
            sh(&format!(
                "ip netns add {SERVER}; ip netns add {NODE}
                 ip -n {SERVER} link add eth0 type veth peer name eth0 netns {NODE} address {MAC}
                 ip -n {SERVER} addr add 10.77.0.2/24 dev eth0; ip -n {SERVER} link set eth0 up
                 ip -n {NODE} addr add {OURS}/24 dev eth0; ip -n {NODE} link set eth0 up"
            ));
            Self
        }

        fn remove() {
            sh(&format!("for n in {SERVER} {NODE}; do ip netns del $n 2>/dev/null || true; done"));
        }
    }

    impl Drop for Cable {
        fn drop(&mut self) {
            Self::remove();
        }
    }

    /// Kea, which leases this address alone, for 8 s.
    struct Kea(Child);

    impl Kea {
        fn start(dir: &Path, address: Ipv4Addr) -> Self {
            let leases = dir.join("leases");
            File::create(&leases).unwrap();
            let config = format!(
                r#"{{"Dhcp4": {{"interfaces-config": {{"interfaces": ["eth0"]}}, "authoritative": true,
                "lease-database": {{"type": "memfile", "name": "{}", "lfc-interval": 0}}, "valid-lifetime": 8,
                "subnet4": [{{"subnet": "10.77.0.0/24", "pools": [{{"pool": "{address} - {address}"}}]}}]}}}}"#,
                leases.display()
            );
            let file = dir.join("kea.json");
            fs::write(&file, config).unwrap();
            let mut kea = Command::new("ip");
            kea.args(["netns", "exec", SERVER, "kea-dhcp4", "-c"]).arg(file);
            kea.env("KEA_PIDFILE_DIR", dir).env("KEA_LOCKFILE_DIR", dir);
            kea.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            Self(kea.spawn().expect("Debian's kea-dhcp4-server"))
        }
    }

    impl Drop for Kea {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Takes turns until `done`.
    fn until(what: &str, lease: &mut Lease, start: Instant, mut done: impl FnMut(&Lease) -> bool) {
        let begun = Instant::now();
        while !done(lease) {
            assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}; {lease:?}");
            thread::sleep(lease.pause(start.elapsed()).min(Duration::from_secs(5)));
            turn(lease, "eth0", MAC, start).expect("the NIC is there");
        }
    }

    #[test]
    fn a_real_servers_lease_is_kept_and_its_refusal_told() {
        let cable = Cable::new();
        let dir = tempfile::tempdir().unwrap();
        let kea = Kea::start(dir.path(), OURS);
        let body = || {
            let node = File::open(Path::new("/run/netns").join(NODE)).unwrap();
            setns(node, CloneFlags::CLONE_NEWNET).unwrap();
            let (mut lease, start) = (Lease::new(OURS), Instant::now());
            until("a first lease", &mut lease, start, |l| l.held(start.elapsed()).is_some());
            let first = Instant::now();
            until("two lease times", &mut lease, start, |lease| {
                let held = lease.held(start.elapsed()).expect("held all the time");
                assert!(held.1 > Duration::ZERO && lease.trouble().is_none(), "{lease:?}");
                first.elapsed() > Duration::from_secs(17)
            });
            drop(kea);
            let _other = Kea::start(dir.path(), Ipv4Addr::new(10, 77, 0, 12));
            until("a refusal", &mut lease, start, |l| {
                l.trouble().is_some_and(|t| t.contains("10.77.0.2") && t.contains("10.77.0.11"))
            });
        };
        // A namespace belongs to a thread.
        thread::scope(|scope| scope.spawn(body).join()).unwrap();
        drop(cable);
    }
}
