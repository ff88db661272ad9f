//! What a session promises, against the library itself: reinstatement, pings, stopping, observers,
//! limits, digests, text, task management and VERIFY.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iscsi_target::{
    Admission, Authentication, Chap, ClassLimits, Exports, Grant, Limits, LoginRequest, Lun,
    LunIdentity, Options, Refusal, Secret, SessionObserver,
};
use support::{Client, INITIATOR, NO_TAG, TARGET, content, read_16};

const BLOCKS: u64 = 4096;

/// A target that asks for no secret, and checks one that is offered.
const OPEN: &str = "iqn.2026-01.org.example:open";

#[derive(Debug, Default)]
struct Seen {
    events: Mutex<Vec<String>>,
}

impl Seen {
    fn note(&self, event: String) {
        self.events.lock().unwrap().push(event);
    }

    fn all(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

#[derive(Debug)]
struct Watcher(Arc<Seen>, usize);

impl SessionObserver for Watcher {
    fn opened(&self) {
        self.0.note(format!("opened {}", self.1));
    }
    fn read(&self, lba: u64, blocks: u32) {
        self.0.note(format!("read {lba}+{blocks}"));
    }
    fn closed(&self) {
        self.0.note(format!("closed {}", self.1));
    }
}

struct Owner {
    lun: Arc<Lun>,
    seen: Arc<Seen>,
    logins: AtomicUsize,
    mutual: bool,
}

impl Exports for Owner {
    fn admit(&self, request: &LoginRequest<'_>) -> Admission {
        if request.target.ends_with("later") {
            return Admission::Refused(Refusal::Unavailable);
        }
        let number = self.logins.fetch_add(1, Ordering::Relaxed) + 1;
        let chap = Chap { user: "node1".into(), secret: Secret::new("open sesame 123") };
        Admission::Granted(Grant {
            lun: Arc::clone(&self.lun),
            authentication: match request.target {
                OPEN => Authentication::Optional(chap),
                _ if self.mutual => Authentication::Required(chap),
                _ => Authentication::None,
            },
            class: 7,
            class_limits: ClassLimits::default(),
            limits: Limits { command_window: 64, ..Limits::default() },
            observer: Some(Arc::new(Watcher(Arc::clone(&self.seen), number))),
        })
    }

    fn discover(&self, initiator: &str, _peer: SocketAddr) -> Vec<String> {
        assert_eq!(initiator, INITIATOR);
        (0..300).map(|n| format!("{TARGET}-{n:04}")).collect()
    }

    fn prove(&self, _request: &LoginRequest<'_>) -> Option<Chap> {
        Some(Chap { user: "target".into(), secret: Secret::new("another secret") })
    }
}

struct Server {
    addr: SocketAddr,
    seen: Arc<Seen>,
    disk: Vec<u8>,
    running: support::Server,
}

impl Server {
    fn start(options: Options, mutual: bool) -> Self {
        let disk = content(BLOCKS);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &disk).unwrap();
        let lun = Lun::open(file.path(), LunIdentity::from_sha256(&[9; 32])).unwrap();
        let seen = Arc::new(Seen::default());
        let owner = Owner { lun: Arc::new(lun), seen: Arc::clone(&seen), logins: 0.into(), mutual };
        let running = support::Server::start(owner, options, 1);
        Self { addr: running.addresses[0], seen, disk, running }
    }

    fn events_become(&self, wanted: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.seen.all() != wanted {
            assert!(Instant::now() < deadline, "{:?} instead of {wanted:?}", self.seen.all());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn short_pings() -> Options {
    Options { ping_interval: Duration::from_millis(200), ..Options::default() }
}

#[test]
fn the_observer_hears_of_the_session_and_its_reads() {
    let server = Server::start(Options::default(), false);
    let mut client = Client::login(server.addr, &[]);
    assert_eq!(client.read(3, 5, 5 * 512).data, server.disk[3 * 512..8 * 512]);
    assert_eq!(client.read(BLOCKS, 1, 512).status, 2);
    assert_eq!(client.request(0x06, 0, &[]).bhs[2], 0, "logout is granted");
    assert!(client.is_closed());
    server.events_become(&["opened 1", "read 3+5", "closed 1"]);
}

#[test]
fn a_new_login_of_the_same_port_ends_the_old_session_first() {
    let server = Server::start(Options::default(), false);
    let mut old = Client::login(server.addr, &[]);
    // The old one is in the middle of sending what it never reads.
    for _ in 0..32 {
        old.command(0x40, 2 << 20, &read_16(0, 4096), &[]);
    }
    let mut new = Client::connect(server.addr);
    new.isid = old.isid;
    let started = Instant::now();
    assert_eq!(new.log_in(TARGET, &[]).login_status(), 0);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert!(old.is_closed());
    assert_eq!(new.read(0, 1, 512).status, 0);
    let mut events = server.seen.all();
    events.retain(|event| !event.starts_with("read"));
    assert_eq!(events, ["opened 1", "closed 1", "opened 2"]);
    // Another ISID is another session.
    let mut other = Client::login(server.addr, &[]);
    assert_eq!(new.read(0, 1, 512).status, 0);
    assert_eq!(other.read(0, 1, 512).status, 0);
}

#[test]
fn a_silent_initiator_is_pinged_and_then_dropped() {
    let server = Server::start(short_pings(), false);
    let mut client = Client::login(server.addr, &["MaxRecvDataSegmentLength=65536"]);
    for _ in 0..3 {
        let ping = client.receive();
        assert_eq!((ping.opcode(), ping.u32(16)), (0x20, NO_TAG));
        let mut pong = [0; 48];
        pong[0] = 0x40;
        pong[1] = 0x80;
        pong[16..20].copy_from_slice(&NO_TAG.to_be_bytes());
        pong[20..24].copy_from_slice(&ping.bhs[20..24]);
        client.send(pong, &[]);
    }
    assert_eq!(client.read(0, 1, 512).status, 0);
    let started = Instant::now();
    assert!(client.is_closed());
    assert!(started.elapsed() < Duration::from_secs(3));
    server.events_become(&["opened 1", "read 0+1", "closed 1"]);
}

#[test]
fn an_initiator_like_ipxe_is_never_asked_to_answer() {
    let server = Server::start(short_pings(), false);
    let mut client = Client::login(server.addr, &["MaxRecvDataSegmentLength=8192"]);
    client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(client.try_receive().is_none(), "a NOP-In would end iPXE's session");
    client.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(client.read(0, 1, 512).status, 0);
}

#[test]
fn one_that_takes_nothing_is_dropped_after_a_while() {
    let server = Server::start(short_pings(), false);
    let mut client = Client::login(server.addr, &["MaxRecvDataSegmentLength=65536"]);
    for _ in 0..60 {
        client.command(0x40, 2 << 20, &read_16(0, 4096), &[]);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.seen.all().last().map(String::as_str) != Some("closed 1") {
        assert!(Instant::now() < deadline, "still served");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn stopping_closes_sessions_between_pdus() {
    let mut server = Server::start(Options::default(), false);
    let mut idle = Client::login(server.addr, &[]);
    let closed = std::thread::spawn(move || {
        use std::io::Read;
        idle.stream.read_to_end(&mut Vec::new())
    });
    server.running.stop();
    assert_eq!(closed.join().unwrap().unwrap(), 0, "closed, not reset");
    server.events_become(&["opened 1", "closed 1"]);
}

#[test]
fn an_address_may_have_so_many_connections() {
    let options = Options { max_connections_per_address: 3, ..Options::default() };
    let server = Server::start(options, false);
    let clients: Vec<Client> = (0..3).map(|_| Client::login(server.addr, &[])).collect();
    assert!(Client::connect(server.addr).is_closed());
    drop(clients);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut client = Client::connect(server.addr);
        client.send_login(0x87, &format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0"));
        if client.try_receive().is_some_and(|reply| reply.login_status() == 0) {
            break;
        }
        assert!(Instant::now() < deadline, "the share was not given back");
    }
}

#[test]
fn a_target_that_will_be_known_in_a_moment_says_so() {
    let server = Server::start(Options::default(), false);
    let mut client = Client::connect(server.addr);
    assert_eq!(client.log_in("iqn.2026-01.org.example:later", &[]).login_status(), 0x0301);
}

/// What is sent for knowing a secret.
fn proof(id: u8, secret: &str, challenge: &[u8]) -> String {
    use md5::{Digest, Md5};
    let digest = Md5::new().chain_update([id]).chain_update(secret).chain_update(challenge);
    format!("0x{}", hex(&digest.finalize()))
}

/// A login that has come to the target's challenge.
fn challenged(addr: SocketAddr, target: &str) -> (Client, u8, String) {
    let mut client = Client::connect(addr);
    let names = format!("InitiatorName={INITIATOR}\0TargetName={target}\0");
    client.send_login(0x00, &format!("{names}AuthMethod=CHAP,None\0"));
    assert!(client.receive().text().contains("AuthMethod=CHAP;"));
    client.send_login(0x00, "CHAP_A=5\0");
    let text = client.receive().text();
    let value = |key: &str| {
        let at = text.find(key).unwrap() + key.len();
        text[at..].split(';').next().unwrap().to_owned()
    };
    let id: u8 = value("CHAP_I=").parse().unwrap();
    (client, id, value("CHAP_C=0x"))
}

#[test]
fn an_optional_secret_is_not_asked_for_and_a_wrong_one_is_refused() {
    let server = Server::start(Options::default(), true);
    let names = format!("InitiatorName={INITIATOR}\0TargetName={OPEN}\0");
    let mut straight = Client::connect(server.addr);
    assert_eq!(straight.log_in(OPEN, &[]).login_status(), 0, "operational stage at once");
    assert_eq!(straight.read(0, 1, 512).status, 0);
    for methods in ["AuthMethod=None\0", "AuthMethod=KRB5,None,CHAP\0", ""] {
        let mut client = Client::connect(server.addr);
        client.send_login(0x83, &format!("{names}{methods}"));
        let reply = client.receive();
        assert_eq!((reply.login_status(), reply.bhs[1] & 0x83), (0, 0x83), "{methods}");
        assert!(!reply.text().contains("CHAP"), "{}", reply.text());
    }
    for (secret, status) in [("open sesame 123", 0), ("open sesame 124", 0x0201)] {
        let (mut client, id, challenge) = challenged(server.addr, OPEN);
        let answer = proof(id, secret, &unhex(&challenge));
        client.send_login(0x83, &format!("CHAP_N=node1\0CHAP_R={answer}\0"));
        assert_eq!(client.receive().login_status(), status, "{secret}");
    }
    // With the challenge open, there is no way round it.
    let (mut client, ..) = challenged(server.addr, OPEN);
    client.send_login(0x83, "AuthMethod=None\0");
    assert_eq!(client.receive().login_status(), 0x0201);
}

#[test]
fn both_sides_can_be_made_to_prove_themselves() {
    let server = Server::start(Options::default(), true);
    let begin = || challenged(server.addr, TARGET);
    let (mut client, id, challenge) = begin();
    let answer = proof(id, "open sesame 123", &unhex(&challenge));
    client.send_login(0x83, &format!("CHAP_N=node1\0CHAP_R={answer}\0CHAP_I=5\0CHAP_C=0xabcd\0"));
    let reply = client.receive();
    assert_eq!(reply.login_status(), 0);
    let expected = proof(5, "another secret", &[0xab, 0xcd]);
    assert_eq!(reply.text(), format!("CHAP_N=target;CHAP_R={expected};"));
    assert_eq!(client.read(0, 1, 512).status, 0);

    // Our own challenge sent back gets no answer, even from one who knows the secret.
    let (mut client, id, challenge) = begin();
    let answer = proof(id, "open sesame 123", &unhex(&challenge));
    let reflected = format!("CHAP_N=node1\0CHAP_R={answer}\0CHAP_I=5\0CHAP_C=0x{challenge}\0");
    client.send_login(0x83, &reflected);
    assert_eq!(client.receive().login_status(), 0x0201);
}

#[test]
fn digests_protect_what_they_are_agreed_for() {
    let server = Server::start(Options::default(), false);
    for keys in [
        &["HeaderDigest=CRC32C,None"][..],
        &["DataDigest=CRC32C", "MaxRecvDataSegmentLength=262144"],
        &["HeaderDigest=CRC32C", "DataDigest=CRC32C", "MaxRecvDataSegmentLength=262144"],
    ] {
        let mut client = Client::login(server.addr, keys);
        assert!(client.header_digest || client.data_digest);
        assert_eq!(client.read(0, 4096, 2 << 20).data, server.disk, "{keys:?}");
        assert_eq!(client.read(1, 1, 511).data, server.disk[512..1023]);
        client.ping(1, b"odd");
        assert_eq!(client.receive().data, b"odd");
    }
    // Where a header cannot be believed, nothing behind it can be found.
    let mut client = Client::login(server.addr, &["HeaderDigest=CRC32C"]);
    client.header_digest = false;
    // Four bytes more, so that the PDU is whole also with a digest.
    client.ping(1, b"no digest, so this is taken for one");
    client.ping(2, b"");
    assert!(client.is_closed());
}

/// Sends a PDU whose data has a digest that does not fit.
fn send_spoilt(client: &mut Client, mut bhs: [u8; 48], data: &[u8]) {
    use std::io::Write;
    assert!(client.data_digest && !client.header_digest && data.len().is_multiple_of(4));
    bhs[5..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes()[1..]);
    client.stream.write_all(&[&bhs[..], data, b"oops"].concat()).unwrap();
}

#[test]
fn data_that_its_digest_does_not_fit_is_rejected_and_may_come_again() {
    let server = Server::start(Options::default(), false);
    let mut client = Client::login(server.addr, &["DataDigest=CRC32C"]);
    let mut ping = [0; 48];
    (ping[0], ping[1]) = (0x00, 0x80);
    ping[16..20].copy_from_slice(&7_u32.to_be_bytes());
    ping[20..24].fill(0xff);
    ping[24..28].copy_from_slice(&client.cmd_sn.to_be_bytes());
    send_spoilt(&mut client, ping, b"who?");
    let reply = client.receive();
    assert_eq!((reply.opcode(), reply.bhs[2], reply.data[0]), (0x3f, 2, 0));
    // Its number was not used up, so it may come once more.
    client.send(ping, b"who?");
    let reply = client.receive();
    assert_eq!((reply.opcode(), reply.u32(16), &reply.data[..]), (0x20, 7, &b"who?"[..]));
    client.cmd_sn += 1;

    // A comparison waits for all of its data, and then fails for this reason.
    let itt = client.command(0x20, 1024, &[0x2f, 2, 0, 0, 0, 0, 0, 0, 2], &[]);
    let r2t = client.receive();
    assert_eq!((r2t.opcode(), r2t.u32(44)), (0x31, 1024));
    for (at, last) in [(0_u32, false), (512, true)] {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x05, if last { 0x80 } else { 0 });
        bhs[16..24].copy_from_slice(&r2t.bhs[16..24]);
        bhs[40..44].copy_from_slice(&at.to_be_bytes());
        let data = &server.disk[at as usize..at as usize + 512];
        if last {
            client.send(bhs, data);
        } else {
            send_spoilt(&mut client, bhs, data);
            assert_eq!(client.receive().opcode(), 0x3f);
        }
    }
    let ended = client.finish(itt);
    assert_eq!((ended.status, ended.sense), (2, [0xb, 0x47, 0x05]));
    assert_eq!(client.read(0, 1, 512).data, server.disk[..512]);

    // One that goes on without what was rejected has left it out.
    ping[24..28].copy_from_slice(&client.cmd_sn.to_be_bytes());
    send_spoilt(&mut client, ping, b"who?");
    assert_eq!(client.receive().opcode(), 0x3f);
    client.cmd_sn += 1;
    client.command(0x40, 512, &read_16(0, 1), &[]);
    assert!(client.is_closed());
}

#[test]
fn bursts_and_pdus_keep_to_what_was_agreed() {
    let server = Server::start(Options::default(), false);
    let keys = ["MaxRecvDataSegmentLength=65536", "MaxBurstLength=98304"];
    let mut client = Client::login(server.addr, &keys);
    client.command(0x40, 1 << 20, &read_16(0, 2048), &[]);
    let (mut sequence, mut at) = (0, 0);
    loop {
        let pdu = client.receive();
        assert!(pdu.data.len() <= 65536);
        assert!(pdu.data == server.disk[at..at + pdu.data.len()]);
        at += pdu.data.len();
        sequence += pdu.data.len();
        assert!(sequence <= 98304);
        if pdu.bhs[1] & 0x80 != 0 {
            assert!(sequence == 98304 || pdu.bhs[1] & 1 != 0);
            sequence = 0;
        }
        if pdu.bhs[1] & 1 != 0 {
            assert_eq!((at, pdu.u32(44)), (1 << 20, 0));
            break;
        }
    }
}

#[test]
fn discovery_names_all_targets_over_several_pdus_and_nothing_else_is_served() {
    let server = Server::start(Options::default(), false);
    let mut client = Client::connect(server.addr);
    let text = format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0");
    client.send_login(0x87, &(text + "MaxRecvDataSegmentLength=2048\0"));
    assert_eq!(client.receive().login_status(), 0);
    let mut reply = client.request(0x04, 0, b"SendTargets=All\0");
    let mut answer = reply.text();
    while reply.bhs[1] & 0x80 == 0 {
        assert!(reply.data.len() <= 2048);
        let mut more = [0; 48];
        more[0] = 0x44;
        more[1] = 0x80;
        more[16..24].copy_from_slice(&reply.bhs[16..24]);
        client.send(more, &[]);
        reply = client.receive();
        answer += &reply.text();
    }
    assert_eq!(answer.matches("TargetName=").count(), 300);
    assert_eq!(answer.matches(&format!("TargetAddress={},1;", server.addr)).count(), 300);
    let one = format!("SendTargets={TARGET}-0007\0");
    assert_eq!(client.request(0x04, 0, one.as_bytes()).text().matches("TargetName=").count(), 1);
    client.command(0x40, 512, &read_16(0, 1), &[]);
    assert_eq!(client.receive().opcode(), 0x3f, "reads are rejected");
}

#[test]
fn what_is_not_supported_is_rejected_with_its_header() {
    let server = Server::start(Options::default(), false);
    let mut client = Client::login(server.addr, &[]);
    for (opcode, reason) in [(0x10, 3), (0x1c, 5)] {
        let reply = client.request(opcode, 0, &[]);
        assert_eq!((reply.opcode(), reply.bhs[2]), (0x3f, reason));
        assert_eq!((reply.data.len(), reply.data[0] & 0x3f), (48, opcode));
    }
    assert_eq!(client.read(0, 1, 512).status, 0);
}

#[test]
fn task_management_answers_for_what_is_over() {
    let server = Server::start(Options::default(), false);
    let mut client = Client::login(server.addr, &[]);
    // An abort names a task that is over, so there is none.
    for (function, response) in [(1, 1), (2, 0), (4, 0), (5, 0), (6, 0), (7, 5), (8, 4), (3, 5)] {
        let reply = client.request(0x02, function, &[]);
        assert_eq!((reply.opcode(), reply.bhs[2]), (0x22, response), "function {function}");
    }
}

#[test]
fn verify_compares_what_it_asks_for() {
    let server = Server::start(Options::default(), false);
    let mut client = Client::login(server.addr, &["MaxBurstLength=4096"]);
    let verify = [0x2f, 2, 0, 0, 0, 10, 0, 0, 20, 0];
    for spoilt in [None, Some(0), Some(10239)] {
        let mut ours = server.disk[10 * 512..30 * 512].to_vec();
        if let Some(at) = spoilt {
            ours[at] ^= 1;
        }
        let itt = client.command(0x20, 10240, &verify, &[]);
        let mut sent = 0;
        while sent < ours.len() {
            let r2t = client.receive();
            assert_eq!((r2t.opcode(), r2t.u32(40) as usize), (0x31, sent));
            let len = r2t.u32(44) as usize;
            assert!(len <= 4096);
            for (part, chunk) in ours[sent..sent + len].chunks(1000).enumerate() {
                let mut bhs = [0; 48];
                bhs[0] = 0x05;
                bhs[1] = if (part + 1) * 1000 >= len { 0x80 } else { 0 };
                bhs[16..24].copy_from_slice(&r2t.bhs[16..24]);
                let at = u32::try_from(sent + part * 1000).unwrap();
                bhs[40..44].copy_from_slice(&at.to_be_bytes());
                client.send(bhs, chunk);
            }
            sent += len;
        }
        let ended = client.finish(itt);
        let expected = if spoilt.is_some() { (2, [0xe, 0x1d, 0]) } else { (0, [0; 3]) };
        assert_eq!((ended.status, ended.sense), expected);
    }
    // More comparisons at once than are kept.
    let begun: Vec<u32> = (0..17).map(|_| client.command(0x20, 10240, &verify, &[])).collect();
    assert_eq!(client.finish(begun[16]).status, 0x28);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}
