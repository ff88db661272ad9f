//! What sessions and classes may have, and that classes share fairly; and what discovery tells of
//! several portals.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iscsi_target::{
    Admission, Authentication, ClassLimits, Exports, Grant, Limits, LoginRequest, Lun, LunIdentity,
    Meter, Options,
};
use support::{Client, INITIATOR, Server, TARGET, content, read_16};

const BLOCKS: u64 = 65_536;
const MIB: u64 = 1 << 20;

/// Grants everything to everyone. An initiator's class is the last digit of its name.
struct Owner {
    lun: Arc<Lun>,
    limits: Limits,
    class_limits: ClassLimits,
    meter: Arc<Meter>,
}

impl Exports for Owner {
    fn admit(&self, request: &LoginRequest<'_>) -> Admission {
        let class = request.initiator.chars().last().and_then(|c| c.to_digit(10));
        Admission::Granted(Grant {
            lun: Arc::clone(&self.lun),
            authentication: Authentication::None,
            class: class.unwrap_or(0).into(),
            class_limits: self.class_limits,
            limits: self.limits,
            observer: Some(self.meter.clone()),
        })
    }

    fn discover(&self, _initiator: &str, _peer: SocketAddr) -> Vec<String> {
        vec![TARGET.to_owned()]
    }

    fn portals(&self, _peer: SocketAddr, here: SocketAddr) -> Vec<SocketAddr> {
        vec![here, SocketAddr::from(([10, 0, 0, 1], 3260))]
    }
}

struct Target {
    server: Server,
    meter: Arc<Meter>,
}

impl Target {
    fn start(limits: Limits, class_limits: ClassLimits) -> Self {
        Self::with(limits, class_limits, Options::default())
    }

    fn with(limits: Limits, class_limits: ClassLimits, options: Options) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content(BLOCKS)).unwrap();
        let lun = Lun::open(file.path(), LunIdentity::from_sha256(&[9; 32])).unwrap();
        let meter = Arc::new(Meter::default());
        let owner = Owner { lun: Arc::new(lun), limits, class_limits, meter: meter.clone() };
        // One thread, so that all sessions share it.
        let options = Options { io_threads: 1, ..options };
        Self { server: Server::start(owner, options, 2), meter }
    }

    fn log_in(&self, class: u64) -> Result<Client, u16> {
        self.log_in_as(class, None)
    }

    /// With the ISID of a session that is to be replaced.
    fn log_in_as(&self, class: u64, isid: Option<[u8; 6]>) -> Result<Client, u16> {
        let mut client = Client::connect(self.server.addresses[0]);
        client.isid = isid.unwrap_or(client.isid);
        let names = format!("InitiatorName={INITIATOR}-{class}\0TargetName={TARGET}\0");
        client.send_login(0x87, &(names + "MaxRecvDataSegmentLength=262144\0"));
        match client.receive().login_status() {
            0 => Ok(client),
            status => Err(status),
        }
    }
}

#[test]
fn every_listener_serves_and_discovery_tells_all_portals() {
    let target = Target::start(Limits::default(), ClassLimits::default());
    for address in &target.server.addresses {
        let mut client = Client::login(*address, &[]);
        assert_eq!(client.read(0, 1, 512).data, content(1));
    }
    let mut client = Client::connect(target.server.addresses[1]);
    client.send_login(0x87, &format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0"));
    assert_eq!(client.receive().login_status(), 0);
    let told = client.request(0x04, 0, b"SendTargets=All\0").text();
    let here = target.server.addresses[1];
    let wanted = format!(
        "TargetName={TARGET};TargetAddress={here},1;TargetAddress={}:3260,1;",
        Ipv4Addr::new(10, 0, 0, 1)
    );
    assert_eq!(told, wanted);
}

#[test]
fn a_class_has_so_many_sessions_and_a_replaced_one_does_not_count() {
    let class_limits = ClassLimits { sessions: Some(2), ..ClassLimits::default() };
    let target = Target::start(Limits::default(), class_limits);
    let first = target.log_in(1).unwrap();
    let _second = target.log_in(1).unwrap();
    assert_eq!(target.log_in(1).err(), Some(0x0302));
    assert!(target.log_in(2).is_ok(), "another class");
    // The node comes back while its old session still hangs.
    assert!(target.log_in_as(1, Some(first.isid)).is_ok());
}

#[test]
fn an_initiator_has_so_many_sessions_with_a_target() {
    let options = Options { max_sessions_per_initiator: 2, ..Options::default() };
    let target = Target::with(Limits::default(), ClassLimits::default(), options);
    let first = target.log_in(1).unwrap();
    let _second = target.log_in(1).unwrap();
    assert_eq!(target.log_in(1).err(), Some(0x0302));
    assert!(target.log_in(2).is_ok(), "another initiator");
    // One that comes back replaces its own session, and one that leaves makes room.
    let mut again = target.log_in_as(1, Some(first.isid)).unwrap();
    assert_eq!(again.request(0x06, 0, &[]).bhs[2], 0, "logged out");
    assert!(again.is_closed());
    assert!(target.log_in(1).is_ok());
}

#[test]
fn who_goes_no_further_than_discovery_keeps_nobody_out() {
    // Each address may have as many as there are places.
    let options = Options { max_connections: 40, ..Options::default() };
    let target = Target::with(Limits::default(), ClassLimits::default(), options);
    let address = target.server.addresses[0];
    let mut sessions: Vec<_> = (0..10).map(|n| target.log_in(n).unwrap()).collect();
    let mut silent: Vec<_> = (0..60).map(|_| Client::connect(address)).collect();
    let discover = |n: u32| {
        let mut client = Client::connect(address);
        client.send_login(0x87, &format!("InitiatorName=iqn.x:{n}\0SessionType=Discovery\0"));
        assert_eq!(client.receive().login_status(), 0);
        client
    };
    let mut discovering: Vec<_> = (0..60).map(discover).collect();
    assert!(silent.iter_mut().all(Client::is_closed), "the oldest gave way");
    assert!(discovering[0].is_closed());
    // Sessions do not, and those of them that are to come find room until they have it all.
    for n in 10..40 {
        sessions.push(target.log_in(n).unwrap());
    }
    assert!(sessions.iter_mut().all(|session| session.read(0, 1, 512).status == 0));
    assert!(discovering.iter_mut().all(Client::is_closed));
    assert!(Client::connect(address).is_closed());
}

#[test]
fn the_window_follows_what_the_class_has_left_and_never_goes_back() {
    let class_limits = ClassLimits { commands: Some(64), ..ClassLimits::default() };
    let target = Target::start(Limits::default(), class_limits);
    let window = |client: &mut Client| {
        client.ping(0x99, b"");
        let reply = client.receive();
        reply.u32(32).wrapping_sub(reply.u32(28)).wrapping_add(1)
    };
    let mut first = target.log_in(1).unwrap();
    assert_eq!(window(&mut first), 64);
    let mut second = target.log_in(1).unwrap();
    assert_eq!(window(&mut second), 32);
    // What it was allowed it may still send; the window shrinks as it is used up.
    assert_eq!(window(&mut first), 64);
    for _ in 0..40 {
        assert_eq!(first.read(0, 1, 512).status, 0);
    }
    assert_eq!(window(&mut first), 32);
}

/// Reads as much as it gets for a while; bytes per second.
fn rate(client: &mut Client, time: Duration) -> f64 {
    let (begun, mut bytes) = (Instant::now(), 0);
    while begun.elapsed() < time {
        let tags: Vec<_> =
            (0..8).map(|n| client.command(0x40, 65536, &read_16(n * 128, 128), &[])).collect();
        for tag in tags {
            bytes += client.finish(tag).data.len();
        }
    }
    bytes as f64 / begun.elapsed().as_secs_f64()
}

#[test]
fn sessions_and_classes_keep_to_their_pace() {
    let limits = Limits { bytes_per_second: Some(8 * MIB), ..Limits::default() };
    let class_limits = ClassLimits { bytes_per_second: Some(12 * MIB), ..ClassLimits::default() };
    let target = Target::start(limits, class_limits);
    let time = Duration::from_secs(2);
    let lone = rate(&mut target.log_in(1).unwrap(), time) / MIB as f64;
    assert!((6.0..9.0).contains(&lone), "{lone} MiB/s alone");
    let together: f64 = std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| rate(&mut target.log_in(2).unwrap(), time))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<f64>() / MIB as f64
    });
    assert!((9.0..13.5).contains(&together), "{together} MiB/s together");
    let counts = target.meter.counts();
    assert_eq!(counts.logins, 4);
    assert!(counts.bytes > 20 * MIB && counts.quantile_us(0.5).is_some(), "{counts:?}");
}

#[test]
fn one_session_of_a_class_has_as_much_as_many_of_another() {
    let target = Target::start(Limits::default(), ClassLimits::default());
    let time = Duration::from_secs(2);
    let (many, single) = std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..24).map(|_| scope.spawn(|| rate(&mut target.log_in(1).unwrap(), time))).collect();
        let single = scope.spawn(|| rate(&mut target.log_in(2).unwrap(), time));
        let many: Vec<f64> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        (many, single.join().unwrap())
    });
    let all: f64 = many.iter().sum();
    // On equal terms it would have a 25th. How much more depends on who else has the processors.
    assert!(single > 3.0 * all / 24.0, "{single} of {}", all + single);
}
