//! What RFC 7143, SPC-4 and SBC-3 say to the letter, by a raw initiator: negotiation in every order and
//! size, text, logout, allocation lengths, holes.

mod support;

use support::{Client, Daemon, INITIATOR, NO_TAG, TARGET};

const OFFERS: [(&str, &str); 10] = [
    ("HeaderDigest=None", "HeaderDigest=None"),
    ("DataDigest=None,CRC32C", "DataDigest=None"),
    ("InitialR2T=No", "InitialR2T=Yes"),
    ("ImmediateData=Yes", "ImmediateData=No"),
    ("MaxBurstLength=0x20000", "MaxBurstLength=131072"),
    ("FirstBurstLength=131072", "FirstBurstLength=65536"),
    ("MaxRecvDataSegmentLength=131072", "MaxRecvDataSegmentLength=8192"),
    ("MaxConnections=4", "MaxConnections=1"),
    ("ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0"),
    ("X-org.example.key=1", "X-org.example.key=NotUnderstood"),
];

fn names() -> String {
    format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0")
}

fn offers(order: impl Iterator<Item = usize>) -> String {
    order.map(|at| format!("{}\0", OFFERS[at].0)).collect()
}

/// The answers of a login, sorted, without the portal group's number.
fn answers(text: &str) -> Vec<String> {
    let mut answers: Vec<_> =
        text.split(';').filter(|pair| !pair.is_empty()).map(String::from).collect();
    answers.retain(|pair| pair != "TargetPortalGroupTag=1");
    answers.sort();
    answers
}

fn expected() -> Vec<String> {
    let mut expected: Vec<_> = OFFERS.iter().map(|(_, answer)| (*answer).to_owned()).collect();
    expected.sort();
    expected
}

#[test]
fn a_text_may_be_cut_at_any_byte() {
    let daemon = Daemon::start(2048, &[]);
    let text = names() + &offers(0..OFFERS.len());
    for cut in 0..=text.len() {
        let mut client = Client::connect(daemon.addr);
        client.send_login(0x44, &text[..cut]);
        let reply = client.receive();
        assert_eq!((reply.login_status(), reply.bhs[1], reply.data.len()), (0, 0x04, 0), "{cut}");
        client.send_login(0x87, &text[cut..]);
        let reply = client.receive();
        assert_eq!((reply.login_status(), reply.bhs[1]), (0, 0x87), "{cut}");
        assert_eq!(answers(&reply.text()), expected(), "{cut}");
    }
}

#[test]
fn a_text_may_come_in_many_pieces() {
    let daemon = Daemon::start(2048, &[]);
    // A login takes at most 64 PDUs.
    let text = names();
    let mut client = Client::connect(daemon.addr);
    let parts: Vec<_> =
        text.as_bytes().chunks(2).map(|part| String::from_utf8_lossy(part)).collect();
    for (n, part) in parts.iter().enumerate() {
        let last = n + 1 == parts.len();
        client.send_login(if last { 0x87 } else { 0x44 }, part);
        assert_eq!(client.receive().login_status(), 0);
    }
    assert_eq!(client.read(0, 1, 512).status, 0);
}

#[test]
fn keys_come_in_any_order_and_in_any_number_of_requests() {
    let daemon = Daemon::start(2048, &[]);
    let count = OFFERS.len();
    for turn in 0..count {
        let order = |at: usize| {
            if turn % 2 == 0 { (at + turn) % count } else { (turn + count - at) % count }
        };
        // All at once, behind the names or before them.
        let keys = offers((0..count).map(order));
        for text in [names() + &keys, keys + &names()] {
            let mut client = Client::connect(daemon.addr);
            client.send_login(0x87, &text);
            assert_eq!(answers(&client.receive().text()), expected(), "turn {turn}");
        }
        // One by one, in the operational stage that the names began in the security stage.
        let mut client = Client::connect(daemon.addr);
        client.send_login(0x81, &names());
        let mut all = client.receive().text();
        for at in 0..count {
            client.send_login(0x04, &offers(std::iter::once(order(at))));
            let reply = client.receive();
            assert_eq!((reply.login_status(), reply.bhs[1]), (0, 0x04));
            all += &reply.text();
        }
        client.send_login(0x87, "");
        let reply = client.receive();
        assert_eq!((reply.login_status(), reply.bhs[1]), (0, 0x87));
        all += &reply.text();
        assert_eq!(answers(&all), expected(), "turn {turn}");
        assert_eq!(client.read(0, 1, 512).status, 0);
    }
}

#[test]
fn a_key_that_comes_twice_ends_the_login() {
    let daemon = Daemon::start(2048, &[]);
    for (offer, _) in &OFFERS[..9] {
        let mut client = Client::connect(daemon.addr);
        client.send_login(0x04, &format!("{}{offer}\0", names()));
        assert_eq!(client.receive().login_status(), 0);
        client.send_login(0x87, &format!("{offer}\0"));
        assert_eq!(client.receive().login_status(), 0x0200, "{offer}");
        assert!(client.is_closed());
    }
}

#[test]
fn headers_that_are_wrong_end_the_login() {
    let daemon = Daemon::start(2048, &[]);
    for (flags, what) in [
        (0xc7, "transit in the middle of a text"),
        (0x85, "to the stage it is in"),
        (0x86, "to a stage that is none"),
        (0x8b, "from a stage that is none"),
        (0x8f, "from full feature"),
    ] {
        let mut client = Client::connect(daemon.addr);
        client.send_login(flags, &names());
        assert_eq!(client.receive().login_status(), 0x0200, "{what}");
    }
    // A version that is to come, and another connection in the middle.
    let mut client = Client::connect(daemon.addr);
    let mut bhs = [0; 48];
    (bhs[0], bhs[1], bhs[3]) = (0x43, 0x87, 1);
    client.send(bhs, names().as_bytes());
    assert_eq!(client.receive().login_status(), 0x0205);
    let mut client = Client::connect(daemon.addr);
    client.send_login(0x04, &names());
    assert_eq!(client.receive().login_status(), 0);
    client.cid = 7;
    client.send_login(0x87, "");
    assert_eq!(client.receive().login_status(), 0x0200);
    // A session to join that is not there.
    let mut client = Client::connect(daemon.addr);
    let mut bhs = [0; 48];
    (bhs[0], bhs[1], bhs[15]) = (0x43, 0x87, 9);
    client.send(bhs, names().as_bytes());
    assert_eq!(client.receive().login_status(), 0x020a);
}

#[test]
fn text_behind_the_login_keeps_its_rules() {
    let daemon = Daemon::start(2048, &[]);
    let mut client = Client::login(daemon.addr, &["MaxRecvDataSegmentLength=512"]);
    // What may change, what may not, and what nobody knows.
    let reply = client.text(0x80, NO_TAG, b"MaxRecvDataSegmentLength=4096\0");
    assert_eq!((reply.opcode(), reply.bhs[1], reply.u32(20)), (0x24, 0x80, NO_TAG));
    assert!(reply.data.is_empty());
    let reply = client.text(0x80, NO_TAG, b"HeaderDigest=CRC32C\0X-org.example=1\0");
    assert_eq!(reply.text(), "HeaderDigest=Reject;X-org.example=NotUnderstood;");
    client.command(0x40, 4096, &support::read_16(0, 8), &[]);
    assert_eq!(client.receive().data.len(), 4096, "the new PDU size holds");
    // The initiator goes on (F=0), so the target may not say that all is done.
    let reply = client.text(0x00, NO_TAG, b"X-org.example=1\0");
    assert_eq!((reply.bhs[1], reply.text().as_str()), (0, "X-org.example=NotUnderstood;"));
    assert_ne!(reply.u32(20), NO_TAG);
    let reply = client.text(0x80, reply.u32(20), b"");
    assert_eq!((reply.bhs[1], reply.u32(20), reply.data.len()), (0x80, NO_TAG, 0));
    // Targets: of a session with one, that one, named or not, and no others.
    let named = format!("SendTargets={TARGET}\0");
    for ask in ["SendTargets=\0", &named] {
        let text = client.text(0x80, NO_TAG, ask.as_bytes()).text();
        assert_eq!(text, format!("TargetName={TARGET};TargetAddress={},1;", daemon.addr));
    }
    for ask in ["SendTargets=All\0", "SendTargets=iqn.x:other\0"] {
        assert_eq!(client.text(0x80, NO_TAG, ask.as_bytes()).text(), "SendTargets=Reject;");
    }
}

#[test]
fn logout_knows_its_reasons() {
    let daemon = Daemon::start(2048, &[]);
    let logout = |client: &mut Client, reason: u8, cid: u16| {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x46, 0x80 | reason);
        bhs[20..22].copy_from_slice(&cid.to_be_bytes());
        bhs[24..28].copy_from_slice(&client.cmd_sn.to_be_bytes());
        client.send(bhs, &[]);
        let reply = client.receive();
        assert_eq!(reply.opcode(), 0x26);
        reply.bhs[2]
    };
    let mut client = Client::connect(daemon.addr);
    client.cid = 3;
    assert_eq!(client.log_in(TARGET, &[]).login_status(), 0);
    assert_eq!(logout(&mut client, 1, 4), 1, "there is no such connection");
    assert_eq!(logout(&mut client, 2, 3), 2, "connections cannot be recovered");
    assert_eq!(client.read(0, 1, 512).status, 0);
    assert_eq!(logout(&mut client, 1, 3), 0);
    assert!(client.is_closed());
    let mut client = Client::login(daemon.addr, &[]);
    assert_eq!(logout(&mut client, 0, 77), 0, "closing the session names no connection");
    assert!(client.is_closed());
}

#[test]
fn an_abort_ends_a_comparison_that_waits_for_data() {
    let daemon = Daemon::start(2048, &[]);
    let mut client = Client::login(daemon.addr, &[]);
    let itt = client.command(0x20, 1024, &[0x2f, 2, 0, 0, 0, 0, 0, 0, 2], &[]);
    let r2t = client.receive();
    assert_eq!(r2t.opcode(), 0x31);
    let abort = |client: &mut Client, itt: u32| {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x42, 0x81);
        bhs[16..20].copy_from_slice(&0x7777_u32.to_be_bytes());
        bhs[20..24].copy_from_slice(&itt.to_be_bytes());
        bhs[24..28].copy_from_slice(&client.cmd_sn.to_be_bytes());
        client.send(bhs, &[]);
        let reply = client.receive();
        assert_eq!(reply.opcode(), 0x22);
        reply.bhs[2]
    };
    assert_eq!(abort(&mut client, itt), 0);
    assert_eq!(abort(&mut client, itt), 1, "it is gone");
    // Its data, which was on the way, belongs to nothing now.
    let mut bhs = [0; 48];
    (bhs[0], bhs[1]) = (0x05, 0x80);
    bhs[16..24].copy_from_slice(&r2t.bhs[16..24]);
    client.send(bhs, &[0; 1024]);
    let ended = client.read(0, 1, 512);
    assert!(ended.status == 0 && ended.others.is_empty(), "{:?}", ended.others);
}

#[test]
fn answers_keep_to_the_allocation_length_and_tell_the_residual() {
    let daemon = Daemon::start(2048, &[]);
    let mut client = Client::login(daemon.addr, &[]);
    // A command, where its allocation length stands, and in how many bytes.
    let commands: [(&[u8], usize, usize); 14] = [
        (&[0x12, 0, 0, 0, 0, 0], 3, 2),
        (&[0x12, 1, 0x00, 0, 0, 0], 3, 2),
        (&[0x12, 1, 0x83, 0, 0, 0], 3, 2),
        (&[0x12, 1, 0xb0, 0, 0, 0], 3, 2),
        (&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 6, 4),
        (&[0x03, 0, 0, 0, 0, 0], 4, 1),
        (&[0x1a, 0, 0x3f, 0, 0, 0], 4, 1),
        (&[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 0, 0], 7, 2),
        (&[0x4d, 0, 0, 0, 0, 0, 0, 0, 0, 0], 7, 2),
        (&[0x4d, 0, 0x2f, 0, 0, 0, 0, 0, 0, 0], 7, 2),
        (&[0x5e, 2, 0, 0, 0, 0, 0, 0, 0, 0], 7, 2),
        (&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 10, 4),
        (&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 10, 4),
        (&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 6, 4),
    ];
    for (command, at, width) in commands {
        let mut ask = |allocated: u32, expected: u32| {
            let mut cdb = command.to_vec();
            cdb[at..at + width].copy_from_slice(&allocated.to_be_bytes()[4 - width..]);
            let itt = client.command(0x40, expected, &cdb, &[]);
            client.finish(itt)
        };
        let most = if width == 1 { 255 } else { 2000 };
        let all = ask(most, 2000);
        let len = i64::try_from(all.data.len()).unwrap();
        assert!(all.status == 0 && len > 0, "{command:x?}: {all:?}");
        assert_eq!(all.residual, len - 2000, "{command:x?}");
        for allocated in (0..=len + 1).take(64) {
            let cut = ask(u32::try_from(allocated).unwrap(), 2000);
            let there = allocated.min(len);
            assert_eq!(cut.status, 0, "{command:x?} {allocated}");
            assert!(cut.data == all.data[..usize::try_from(there).unwrap()], "{command:x?}");
            assert_eq!(cut.residual, there - 2000, "{command:x?} {allocated}");
        }
        // More than the initiator has room for.
        let cut = ask(most, 3);
        assert_eq!((cut.data.len(), cut.residual), (3, len - 3), "{command:x?}");
    }
}

#[test]
fn units_are_found_as_sam_wants_it() {
    let daemon = Daemon::start(2048, &[]);
    let mut client = Client::login(daemon.addr, &[]);
    let report = |client: &mut Client, select: u8| {
        let itt = client.command(0x40, 64, &[0xa0, 0, select, 0, 0, 0, 0, 0, 0, 64, 0, 0], &[]);
        client.finish(itt)
    };
    let one = [&[0, 0, 0, 8][..], &[0; 12]].concat();
    assert_eq!(report(&mut client, 0).data, one);
    assert_eq!(report(&mut client, 2).data, one);
    assert_eq!(report(&mut client, 1).data, [0; 8], "no well-known units");
    assert_eq!(report(&mut client, 3).sense, [5, 0x24, 0]);
    // Another unit: it is described as not there, and everything else is refused.
    let to_unit_1 = |client: &mut Client, cdb: &[u8]| {
        client.itt += 1;
        let mut bhs = [0; 48];
        (bhs[0], bhs[1], bhs[9]) = (0x01, 0xc0, 1);
        bhs[16..20].copy_from_slice(&client.itt.to_be_bytes());
        bhs[20..24].copy_from_slice(&64_u32.to_be_bytes());
        bhs[24..28].copy_from_slice(&client.cmd_sn.to_be_bytes());
        bhs[32..32 + cdb.len()].copy_from_slice(cdb);
        client.cmd_sn += 1;
        client.send(bhs, &[]);
        client.finish(client.itt)
    };
    assert_eq!(to_unit_1(&mut client, &[0x12, 0, 0, 0, 36]).data[0], 0x7f);
    assert_eq!(to_unit_1(&mut client, &[0x03, 0, 0, 0, 18]).data[12], 0x25);
    assert_eq!(to_unit_1(&mut client, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1]).sense, [5, 0x25, 0]);
}

#[test]
fn holes_are_told_and_read_as_zeros() {
    let daemon = Daemon::sparse(65_536, 8192..16_384);
    let mut client = Client::login(daemon.addr, &[]);
    let mut ask = |cdb: &[u8]| {
        let itt = client.command(0x40, 4096, cdb, &[]);
        client.finish(itt)
    };
    let capacity = ask(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
    assert_eq!(capacity.data[14] & 0xc0, 0xc0, "LBPME and LBPRZ");
    let page = ask(&[0x12, 1, 0xb2, 0, 255, 0]);
    assert_eq!(page.data, [0, 0xb2, 0, 4, 0, 0x04, 2, 0], "thin, zeros, nothing can be unmapped");
    let mut status = |lba: u64, room: u32| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (0x9e, 0x12);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&room.to_be_bytes());
        ask(&cdb)
    };
    let runs = |data: &[u8]| -> Vec<(u64, u32, u8)> {
        let run = |d: &[u8]| {
            let lba = u64::from_be_bytes(d[..8].try_into().unwrap());
            (lba, u32::from_be_bytes(d[8..12].try_into().unwrap()), d[12])
        };
        data[8..].chunks_exact(16).map(run).collect()
    };
    let all = [(0, 8192, 0), (8192, 8192, 1), (16_384, 49_152, 0)];
    assert_eq!(runs(&status(0, 4096).data), all);
    assert_eq!(runs(&status(0, 24).data), all[..1]);
    assert_eq!(runs(&status(10_000, 24).data), [(10_000, 6384, 1)]);
    assert_eq!(status(65_536, 24).sense, [5, 0x21, 0]);
    let read = client.read(8190, 4, 2048);
    assert!(read.data == daemon.disk[8190 * 512..8194 * 512] && read.data[1024..] == [0; 1024]);
}
