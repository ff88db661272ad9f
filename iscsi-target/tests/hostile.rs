//! Initiators that lie, flood, stall or break off. Each probe once brought down or emptied another
//! target; after each the daemon must still serve a polite initiator.

mod support;

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use support::{Bystander, Client, Daemon, INITIATOR, NO_TAG, TARGET, read_16};

const MIB: u64 = 1 << 20;
const WRITE_PROTECTED: [u8; 3] = [7, 0x27, 0];
const OUT_OF_RANGE: [u8; 3] = [5, 0x21, 0];

#[test]
fn a_login_that_skips_chap_is_refused() {
    let daemon = Daemon::start(2048, &["--chap", "node1:secret"]);
    let mut straight = Client::connect(daemon.addr);
    assert_eq!(straight.log_in(TARGET, &[]).login_status(), 0x0201, "operational stage at once");

    let names = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0");
    for (flags, more) in [
        (0x83, ""),                  // security straight to full feature, no method
        (0x83, "AuthMethod=None\0"), // only None offered
        (0x81, ""),                  // security to operational, no method
    ] {
        let mut client = Client::connect(daemon.addr);
        client.send_login(flags, &format!("{names}{more}"));
        assert_eq!(client.receive().login_status(), 0x0201, "{flags:x} {more}");
    }

    // CHAP agreed, then the stage changed without ever answering.
    let mut agreed = Client::connect(daemon.addr);
    agreed.send_login(0x00, &format!("{names}AuthMethod=CHAP\0"));
    assert!(agreed.receive().text().contains("AuthMethod=CHAP"));
    agreed.send_login(0x87, "");
    assert_ne!(agreed.receive().login_status(), 0);

    // Asking for full feature with the challenge open gets no transit.
    let mut open = Client::connect(daemon.addr);
    open.send_login(0x00, &format!("{names}AuthMethod=CHAP\0"));
    open.receive();
    open.send_login(0x83, "CHAP_A=5\0");
    let reply = open.receive();
    assert_eq!((reply.login_status(), reply.bhs[1] & 0x80), (0, 0));
    open.send_login(0x83, "CHAP_N=node1\0CHAP_R=0x00000000000000000000000000000000\0");
    assert_eq!(open.receive().login_status(), 0x0201);
}

#[test]
fn names_that_are_not_granted_are_refused() {
    let daemon = Daemon::start(2048, &["--initiator", "iqn.2026-01.org.example:other"]);
    assert_eq!(Client::connect(daemon.addr).log_in(TARGET, &[]).login_status(), 0x0202);
    let daemon = Daemon::start(2048, &[]);
    assert_eq!(Client::connect(daemon.addr).log_in("iqn.x:none", &[]).login_status(), 0x0203);
    let mut nameless = Client::connect(daemon.addr);
    nameless.send_login(0x87, "SessionType=Normal\0");
    assert_eq!(nameless.receive().login_status(), 0x0207);
}

#[test]
fn a_pdu_size_of_zero_or_four_gigabytes_still_reads() {
    let mut daemon = Daemon::start(2048, &[]);
    for size in ["0", "1", "4294967295"] {
        let key = format!("MaxRecvDataSegmentLength={size}");
        let mut client = Client::login(daemon.addr, &[&key]);
        let got = client.read(0, 64, 64 * 512);
        assert_eq!(got.data, daemon.disk[..64 * 512], "{size}");
    }
    daemon.assert_healthy();
}

#[test]
fn nothing_is_held_for_a_huge_first_pdu() {
    let mut daemon = Daemon::start(2048, &[]);
    let before = daemon.memory();
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(daemon.addr)).collect();
    for client in &mut clients {
        let mut bhs = [0_u8; 48];
        bhs[0] = 0x43;
        bhs[1] = 0x87;
        bhs[5..8].copy_from_slice(&[0xff; 3]);
        client.stream.write_all(&bhs).unwrap();
        // The target may reset the connection under this.
        let _ = client.stream.write_all(&vec![b'x'; 1 << 20]);
    }
    assert!(clients.iter_mut().all(Client::is_closed));
    assert!(daemon.memory() < before + 8 * MIB, "{} -> {}", before, daemon.memory());
    daemon.assert_healthy();
}

#[test]
fn a_login_without_end_is_bounded() {
    let mut daemon = Daemon::start(2048, &[]);
    let mut client = Client::connect(daemon.addr);
    // Text that goes on and on, PDU by PDU.
    let refused = (0..100).find_map(|_| {
        client.send_login(0x44, &"A=B\0".repeat(1000));
        let reply = client.try_receive()?;
        (reply.login_status() != 0).then_some(reply.login_status())
    });
    assert_eq!(refused, Some(0x0200));
    // A login that never gets anywhere.
    let mut client = Client::connect(daemon.addr);
    client.send_login(0x04, &format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0"));
    let mut rounds = 0;
    while client.try_receive().is_some() {
        rounds += 1;
        assert!(rounds < 200);
        let mut bhs = [0_u8; 48];
        bhs[0] = 0x43;
        bhs[1] = 0x04;
        bhs[8..14].copy_from_slice(&client.isid);
        if client.stream.write_all(&bhs).is_err() {
            break;
        }
    }
    daemon.assert_healthy();
}

#[test]
fn many_unknown_keys_are_all_answered_over_several_pdus() {
    let daemon = Daemon::start(2048, &[]);
    let mut client = Client::connect(daemon.addr);
    let names = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0");
    let keys: String = (0..900).map(|n| format!("X-k{n}=1\0")).collect();
    let text = names + &keys;
    let (first, second) = text.split_at(6000);
    client.send_login(0x44, first);
    assert!(client.receive().data.is_empty());
    client.send_login(0x87, second);
    let mut answer = String::new();
    loop {
        let reply = client.receive();
        assert_eq!(reply.login_status(), 0);
        answer += &reply.text();
        if reply.bhs[1] & 0x80 != 0 {
            break;
        }
        assert_eq!(reply.bhs[1] & 0x40, 0x40, "more to come");
        client.send_login(0x87, "");
    }
    assert_eq!(answer.matches("=NotUnderstood;").count(), 900);
    assert_eq!(client.read(0, 1, 512).status, 0);
}

#[test]
fn half_a_login_is_given_up_after_its_time() {
    let daemon = Daemon::start(2048, &[]);
    let started = Instant::now();
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(daemon.addr)).collect();
    for client in &mut clients {
        client.stream.write_all(&[0x43; 24]).unwrap();
        client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    assert!(clients.iter_mut().all(Client::is_closed));
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
}

#[test]
fn garbage_and_commands_before_login_end_the_connection() {
    let mut daemon = Daemon::start(2048, &[]);
    for seed in 0..20_u32 {
        let mut client = Client::connect(daemon.addr);
        let garbage: Vec<u8> = (0..65536_u32)
            .map(|n| (n.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 13) as u8 | 1)
            .collect();
        let _ = client.stream.write_all(&garbage);
        let _ = client.stream.shutdown(Shutdown::Write);
        assert!(client.is_closed());
    }
    let mut client = Client::connect(daemon.addr);
    client.command(0x40, 512, &read_16(0, 1), &[]);
    assert!(client.is_closed());
    daemon.assert_healthy();
}

#[test]
fn garbage_after_login_never_stops_the_others() {
    let mut daemon = Daemon::start(2048, &[]);
    for opcode in 0..64_u8 {
        for fill in [0_u8, 0x55, 0xff] {
            let mut client = Client::login(daemon.addr, &[]);
            let mut bhs = [fill; 48];
            bhs[0] = opcode | 0x40;
            bhs[4..8].fill(0);
            client.stream.write_all(&bhs).unwrap();
            let _ = client.stream.shutdown(Shutdown::Write);
            assert!(client.is_closed());
        }
    }
    daemon.assert_healthy();
}

#[test]
fn an_address_that_wraps_is_out_of_range() {
    let mut daemon = Daemon::start(2048, &[]);
    let mut client = Client::login(daemon.addr, &[]);
    for (lba, blocks) in [(u64::MAX, 1), (u64::MAX, 2), (u64::MAX - 1, u32::MAX), (2047, 2)] {
        let ended = client.read(lba, blocks, 512);
        assert_eq!((ended.status, ended.sense), (2, [5, 0x21, 0]), "{lba} {blocks}");
    }
    daemon.assert_healthy();
}

#[test]
fn no_more_is_sent_than_was_expected() {
    let daemon = Daemon::start(4096, &[]);
    let mut client = Client::login(daemon.addr, &[]);
    let ended = client.read(0, 4096, 512);
    assert_eq!((ended.status, ended.residual), (0, 4095 * 512));
    assert_eq!(ended.data, daemon.disk[..512]);
    // Not even a multiple of four.
    let ended = client.read(1, 1, 511);
    assert_eq!((ended.data.len(), ended.residual), (511, 1));
    let ended = client.read(1, 100, 33_001);
    assert_eq!(ended.data, daemon.disk[512..512 + 33_001]);
    let ended = client.read(1, 1, 4096);
    assert_eq!((ended.data.len(), ended.residual), (512, -3584));
    // Without the read bit nothing is expected at all.
    let itt = client.command(0, 512, &read_16(0, 1), &[]);
    let ended = client.finish(itt);
    assert_eq!((ended.data.len(), ended.residual), (0, 512));
}

#[test]
fn writes_end_in_data_protect_and_their_data_is_drained() {
    let mut daemon = Daemon::start(2048, &[]);
    let before = daemon.memory();
    let mut client = Client::login(daemon.addr, &[]);
    // WRITE(16) of the whole disk, without and with immediate data; of 2 TiB, which it has not.
    for (blocks, sense) in [(2048, WRITE_PROTECTED), (u32::MAX, OUT_OF_RANGE)] {
        let mut write = read_16(0, blocks);
        write[0] = 0x8a;
        for data in [&[][..], &[1; 8192][..]] {
            let itt = client.command(0x20, u32::MAX, &write, data);
            let ended = client.finish(itt);
            assert_eq!((ended.status, ended.sense), (2, sense));
        }
    }
    // One block with eight times as much immediate data, and unsolicited Data-Out behind it.
    let itt = client.command(0x20, 512, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], &[2; 4096]);
    for _ in 0..8 {
        let mut bhs = [0; 48];
        bhs[0] = 0x05;
        bhs[16..20].copy_from_slice(&itt.to_be_bytes());
        bhs[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
        client.send(bhs, &[3; 8192]);
    }
    assert_eq!(client.finish(itt).sense, WRITE_PROTECTED);
    assert_eq!(client.read(0, 1, 512).data, daemon.disk[..512], "the stream is still in step");
    assert!(daemon.memory() < before + 4 * MIB);
    assert_eq!(std::fs::read(daemon.dir.path().join("disk.img")).unwrap(), daemon.disk);
    daemon.assert_healthy();
}

#[test]
fn pings_in_the_middle_of_reads_never_get_into_the_data() {
    let daemon = Daemon::start(8192, &[]);
    let mut client = Client::login(daemon.addr, &["MaxRecvDataSegmentLength=262144"]);
    for round in 0..200_u32 {
        let lba = u64::from(round % 16) * 256;
        let itt = client.command(0x40, 1 << 20, &read_16(lba, 2048), &[]);
        for n in 0..4 {
            client.ping(0x8000_0000 + n, b"are you there?");
        }
        let ended = client.finish(itt);
        let at = usize::try_from(lba).unwrap() * 512;
        assert!(ended.data == daemon.disk[at..at + (1 << 20)], "round {round}");
        let mut echoes = ended.others;
        while echoes.len() < 4 {
            echoes.push(client.receive());
        }
        assert!(echoes.iter().all(|pdu| pdu.opcode() == 0x20 && pdu.data == b"are you there?"));
    }
}

#[test]
fn commands_outside_the_window_are_ignored() {
    let daemon = Daemon::start(2048, &[]);
    let mut client = Client::login(daemon.addr, &[]);
    assert_eq!(client.read(0, 1, 512).status, 0);
    for wrong in [client.cmd_sn - 1, client.cmd_sn + 900_000] {
        let right = std::mem::replace(&mut client.cmd_sn, wrong);
        client.command(0x40, 512, &read_16(5, 1), &[]);
        client.cmd_sn = right;
    }
    let ended = client.read(7, 1, 512);
    assert_eq!(ended.data, daemon.disk[7 * 512..8 * 512]);
    assert!(ended.others.is_empty(), "{:?}", ended.others);
}

#[test]
fn clients_that_never_read_cost_little_and_hold_up_nobody() {
    let mut daemon = Daemon::start(32768, &[]);
    let before = daemon.memory();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::login(daemon.addr, &["MaxRecvDataSegmentLength=262144"]);
        for n in 0..128 {
            client.command(0x40, 1 << 20, &read_16(n % 14 * 2048, 2048), &[]);
        }
        clients.push(client);
    }
    // Small PDUs pass through memory, so they are tried too.
    for _ in 0..20 {
        let mut client = Client::login(daemon.addr, &["MaxRecvDataSegmentLength=512"]);
        for n in 0..128 {
            client.command(0x40, 1 << 20, &read_16(n % 14 * 2048, 2048), &[]);
        }
        clients.push(client);
    }
    for _ in 0..5 {
        daemon.assert_healthy();
    }
    let grown = daemon.memory().saturating_sub(before);
    assert!(grown < 24 * MIB, "{} KiB more", grown / 1024);
    drop(clients);
    daemon.assert_healthy();
}

/// A login request, whole.
fn login_bytes(flags: u8, text: &str) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[0] = 0x43;
    bytes[1] = flags;
    bytes[5..8].copy_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes()[1..]);
    // A port of its own, so that it replaces nobody's session.
    bytes[8..14].copy_from_slice(&[0x80, 0xee, 0, 0, 0, 1]);
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn breaking_off_at_any_byte_of_a_login_harms_nobody() {
    let mut daemon = Daemon::start(2048, &["--initiator", INITIATOR]);
    let bystander = Bystander::watch(&daemon);
    let (before, descriptors) = (daemon.memory(), daemon.descriptors());
    let names = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0");
    let first = login_bytes(0x81, &format!("{names}SessionType=Normal\0AuthMethod=None\0"));
    let second = login_bytes(0x87, "HeaderDigest=None\0MaxRecvDataSegmentLength=65536\0");
    let whole = [first, second].concat();
    for len in 0..=whole.len() {
        for reset in [false, true] {
            let stream = TcpStream::connect(daemon.addr).unwrap();
            (&stream).write_all(&whole[..len]).unwrap();
            if reset {
                // With nothing to linger for, closing resets.
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    }
    let deadline = Instant::now() + Duration::from_secs(8);
    while daemon.descriptors() > descriptors {
        assert!(Instant::now() < deadline, "{} descriptors stay open", daemon.descriptors());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(daemon.memory() < before + 8 * MIB, "{before} -> {}", daemon.memory());
    bystander.was_served_within(Duration::from_secs(5));
    daemon.assert_healthy();
}

#[test]
fn a_login_that_drips_is_cut_off_in_time() {
    let mut daemon = Daemon::start(2048, &[]);
    let bystander = Bystander::watch(&daemon);
    let before = daemon.memory();
    let bytes = login_bytes(0x87, &format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0"));
    let started = Instant::now();
    let mut drips: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(daemon.addr).unwrap()).collect();
    // A byte every 100 ms would take 15 s in all; the target waits for 10.
    let mut most = 0;
    for byte in &bytes {
        drips.retain(|stream| (&*stream).write_all(&[*byte]).is_ok());
        if drips.is_empty() {
            break;
        }
        most = most.max(daemon.memory());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(drips.is_empty(), "{} logins may drip for ever", drips.len());
    assert!(started.elapsed() > Duration::from_secs(9), "{:?}", started.elapsed());
    assert!(most < before + 8 * MIB, "{before} -> {most}");
    bystander.was_served_within(Duration::from_secs(5));
    daemon.assert_healthy();
}

#[test]
fn ten_thousand_half_open_connections_leave_room_for_a_session() {
    const COUNT: u64 = 10_000;
    // The daemon inherits the limit; each of the two needs that many, and other tests some.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(most > COUNT + 1000, "the hard limit of open files is {most}");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(65_536), most).unwrap();

    let mut daemon = Daemon::start(2048, &[]);
    let bystander = Bystander::watch(&daemon);
    let (before, descriptors) = (daemon.memory(), daemon.descriptors());
    let addr = daemon.addr;
    let floods: Vec<_> = (0..10_u8)
        .map(|n| {
            std::thread::spawn(move || {
                // One address may have 1024 connections.
                let from = SocketAddr::from((Ipv4Addr::new(127, 0, 1, n + 1), 0));
                let half = |index: u64| {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                    socket.bind(&from.into()).unwrap();
                    socket.connect(&addr.into()).unwrap();
                    let stream = TcpStream::from(socket);
                    // Every other one says something.
                    if index.is_multiple_of(2) {
                        let _ = (&stream).write_all(&[0x43; 24]);
                    }
                    stream
                };
                (0..COUNT / 10).map(half).collect::<Vec<_>>()
            })
        })
        .collect();
    let held: Vec<TcpStream> = floods.into_iter().flat_map(|flood| flood.join().unwrap()).collect();
    let open = daemon.descriptors() - descriptors;
    let each = daemon.memory().saturating_sub(before) / open as u64;
    assert!(open > 5000, "only {open} are open at the same time");
    assert!(each < 16 << 10, "{each} bytes for each of {open} half-open connections");
    daemon.assert_healthy();
    bystander.was_served_within(Duration::from_secs(5));
    drop(held);
    daemon.assert_healthy();
}

#[test]
fn text_without_end_is_refused_and_forgotten() {
    let mut daemon = Daemon::start(2048, &[]);
    let bystander = Bystander::watch(&daemon);
    let mut client = Client::login(daemon.addr, &[]);
    let before = daemon.memory();
    let part = "X-a=1\0".repeat(1000);
    let (mut tag, mut refused) = (NO_TAG, 0);
    for _ in 0..1000 {
        let reply = client.text(0x40, tag, part.as_bytes());
        tag = match reply.opcode() {
            0x24 => reply.u32(20),
            0x3f => {
                refused += 1;
                NO_TAG
            }
            other => panic!("answered by {other:#x}"),
        };
    }
    // 16 KiB are two parts, the third is too much.
    assert!((300..400).contains(&refused), "{refused}");
    assert!(daemon.memory() < before + MIB, "{before} -> {}", daemon.memory());
    // A tag that was never given, or not to this text.
    assert_eq!(client.text(0x80, 0x1234, b"").opcode(), 0x3f);
    assert_eq!(client.read(0, 1, 512).status, 0);
    bystander.was_served_within(Duration::from_secs(5));
    daemon.assert_healthy();
}

#[test]
fn a_segment_longer_than_declared_ends_only_its_own_session() {
    let mut daemon = Daemon::start(2048, &[]);
    let bystander = Bystander::watch(&daemon);
    let before = daemon.memory();
    for opcode in [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10] {
        for len in [8193, 0xff_ffff_u32] {
            let mut client = Client::login(daemon.addr, &[]);
            let mut bhs = [0; 48];
            bhs[0] = opcode | 0x40;
            bhs[1] = 0x80;
            bhs[5..8].copy_from_slice(&len.to_be_bytes()[1..]);
            client.stream.write_all(&bhs).unwrap();
            let _ = client.stream.write_all(&[0; 65_536]);
            assert!(client.is_closed(), "opcode {opcode:#x}, {len} bytes");
        }
    }
    assert!(daemon.memory() < before + MIB, "{before} -> {}", daemon.memory());
    bystander.was_served_within(Duration::from_secs(5));
    daemon.assert_healthy();
}

#[test]
fn numbers_that_are_left_out_end_the_session() {
    let mut daemon = Daemon::start(2048, &[]);
    let bystander = Bystander::watch(&daemon);
    // A command number that skips one can never be caught up with on one connection.
    let mut client = Client::login(daemon.addr, &[]);
    client.cmd_sn += 1;
    client.command(0x40, 512, &read_16(0, 1), &[]);
    assert!(client.is_closed());
    // Data for a comparison: at another place than is due, and more than was asked for.
    for (offset, len) in [(512_u32, 512), (0, 2048)] {
        let mut client = Client::login(daemon.addr, &[]);
        client.command(0x20, 1024, &[0x2f, 2, 0, 0, 0, 0, 0, 0, 2], &[]);
        let r2t = client.receive();
        assert_eq!((r2t.opcode(), r2t.u32(44)), (0x31, 1024));
        let mut bhs = [0; 48];
        bhs[0] = 0x05;
        bhs[1] = 0x80;
        bhs[16..24].copy_from_slice(&r2t.bhs[16..24]);
        bhs[40..44].copy_from_slice(&offset.to_be_bytes());
        client.send(bhs, &vec![0; len]);
        assert_eq!(client.receive().opcode(), 0x3f, "offset {offset}");
        assert!(client.is_closed());
    }
    bystander.was_served_within(Duration::from_secs(5));
    daemon.assert_healthy();
}

#[test]
fn pings_whose_echo_nobody_takes_are_not_gathered() {
    let mut daemon = Daemon::start(2048, &[]);
    let bystander = Bystander::watch(&daemon);
    let before = daemon.memory();
    let floods: Vec<_> = (0..10)
        .map(|_| {
            let mut client = Client::login(daemon.addr, &["MaxRecvDataSegmentLength=65536"]);
            client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            std::thread::spawn(move || {
                let mut bhs = [0; 48];
                (bhs[0], bhs[1], bhs[6]) = (0x40, 0x80, 0x20);
                bhs[19] = 1;
                bhs[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
                let ping = [&bhs[..], &[7; 8192]].concat();
                // Until the target, whose own sending is stuck, takes no more.
                let sent = (0..20_000).take_while(|_| client.stream.write_all(&ping).is_ok());
                (sent.count(), client)
            })
        })
        .collect();
    let floods: Vec<_> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
    assert!(floods.iter().all(|(sent, _)| *sent < 20_000), "nothing holds the flood back");
    assert!(daemon.memory() < before + 8 * MIB, "{before} -> {}", daemon.memory());
    bystander.was_served_within(Duration::from_secs(5));
    daemon.assert_healthy();
}
