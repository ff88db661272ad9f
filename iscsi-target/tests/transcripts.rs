//! Logins of other initiators, each in a file of `transcripts/` that names its source, replayed against
//! `haas-iscsi`: the answers must be these, and the session must read.
//!
//! `> FLAGS` begins a request, `< FLAGS` the answer that must come; their keys follow line by line.
//! `@target` is the target's name, `@proof` the initiator's CHAP response, `@theirs` the target's, and
//! `*` any value.

mod support;

use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use support::{Client, Daemon, TARGET};

/// What may be in an answer without having been asked for: what the target must declare.
const DECLARED: [&str; 3] = ["TargetPortalGroupTag", "MaxRecvDataSegmentLength", "CHAP_"];

#[derive(Debug, Default)]
struct Transcript {
    arguments: Vec<String>,
    isid: [u8; 6],
    cid: u16,
    cmd_sn: u32,
    exchanges: Vec<Exchange>,
}

#[derive(Debug, Default)]
struct Exchange {
    flags: u8,
    request: Vec<String>,
    answer_flags: u8,
    answer: Vec<String>,
}

#[test]
fn initiators_of_many_kinds_log_in_and_read() {
    let mut names = Vec::new();
    for path in transcripts() {
        replay(&path);
        names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    for kind in [
        "open-iscsi",
        "libiscsi",
        "qemu",
        "ipxe",
        "edk2",
        "windows",
        "vmware",
        "freebsd",
        "illumos",
    ] {
        assert!(names.iter().any(|name| name.starts_with(kind)), "no transcript of {kind}");
    }
}

fn transcripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn replay(path: &Path) {
    let at = path.display();
    let transcript = parse(&std::fs::read_to_string(path).unwrap());
    let arguments: Vec<_> = transcript.arguments.iter().map(String::as_str).collect();
    let daemon = Daemon::start(2048, &arguments);
    let mut client = Client::connect(daemon.addr);
    (client.isid, client.cid, client.cmd_sn) = (transcript.isid, transcript.cid, transcript.cmd_sn);

    let (mut challenge, mut discovery) = ((0, String::new()), false);
    let mut sent_challenge = (0, String::new());
    for exchange in &transcript.exchanges {
        let mut text = String::new();
        for pair in &exchange.request {
            let pair = pair.replace("@target", TARGET);
            let pair = pair.replace("@proof", &proof("open sesame 123", &challenge));
            note_challenge(&pair, &mut sent_challenge);
            discovery |= pair == "SessionType=Discovery";
            text += &(pair + "\0");
        }
        client.send_login(exchange.flags, &text);
        let reply = client.receive();
        assert_eq!(reply.login_status(), 0, "{at}: {text:?}");
        assert_eq!(reply.bhs[1], exchange.answer_flags, "{at}: flags of the answer to {text:?}");
        assert_eq!(reply.bhs[8..14], transcript.isid, "{at}: ISID");
        assert_eq!(reply.u32(28), transcript.cmd_sn, "{at}: ExpCmdSN");
        let answers: Vec<_> =
            reply.text().trim_end_matches(';').split(';').map(String::from).collect();
        let answers: Vec<_> = answers.into_iter().filter(|pair| !pair.is_empty()).collect();
        assert_eq!(answers.len(), exchange.answer.len(), "{at}: {answers:?}");
        for (answer, expected) in answers.iter().zip(&exchange.answer) {
            let expected = expected.replace("@theirs", &proof("another secret", &sent_challenge));
            match expected.strip_suffix('*') {
                Some(start) => assert!(answer.starts_with(start), "{at}: {answer}"),
                None => assert_eq!(*answer, expected, "{at}"),
            }
            let key = answer.split('=').next().unwrap();
            let asked = exchange.request.iter().any(|pair| pair.starts_with(&format!("{key}=")));
            let declared = DECLARED.iter().any(|declared| key.starts_with(declared));
            assert!(asked || declared, "{at}: {answer} was not asked for");
            note_challenge(answer, &mut challenge);
            client.header_digest |= answer == "HeaderDigest=CRC32C";
            client.data_digest |= answer == "DataDigest=CRC32C";
        }
        if exchange.answer_flags & 0x83 != 0x83 {
            (client.header_digest, client.data_digest) = (false, false);
        }
    }
    if discovery {
        let reply = client.request(0x04, 0, b"SendTargets=All\0");
        assert!(reply.text().contains(TARGET), "{at}: {}", reply.text());
    } else {
        let read = client.read(8, 600, 600 * 512);
        assert!(read.status == 0 && read.data == daemon.disk[8 * 512..608 * 512], "{at}");
    }
}

fn note_challenge(pair: &str, challenge: &mut (u8, String)) {
    match pair.split_once('=') {
        Some(("CHAP_I", id)) => challenge.0 = id.parse().unwrap(),
        Some(("CHAP_C", bytes)) => challenge.1 = bytes.strip_prefix("0x").unwrap().to_owned(),
        _ => {}
    }
}

/// The response to a challenge (RFC 1994), as text.
fn proof(secret: &str, (id, challenge): &(u8, String)) -> String {
    let bytes: Vec<u8> = (0..challenge.len() / 2)
        .map(|at| u8::from_str_radix(&challenge[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let digest = Md5::new().chain_update([*id]).chain_update(secret).chain_update(bytes).finalize();
    digest.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn parse(text: &str) -> Transcript {
    let mut transcript = Transcript::default();
    let mut answering = false;
    let hex = |digits: &str| u8::from_str_radix(digits, 16).unwrap();
    assert!(text.lines().any(|line| line.starts_with("source: ")), "no source: {text}");
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') || line.starts_with("source: ") {
            continue;
        }
        if let Some(arguments) = line.strip_prefix("arguments: ") {
            transcript.arguments = arguments.split(' ').map(String::from).collect();
        } else if let Some(fields) = line.strip_prefix("header: ") {
            for (name, value) in fields.split(' ').map(|field| field.split_once('=').unwrap()) {
                match name {
                    "isid" => {
                        let bytes = (0..6).map(|at| hex(&value[2 * at..2 * at + 2]));
                        transcript.isid = bytes.collect::<Vec<_>>().try_into().unwrap();
                    }
                    "cid" => transcript.cid = value.parse().unwrap(),
                    "cmdsn" => {
                        let number = value.strip_prefix("0x");
                        transcript.cmd_sn = number.map_or_else(
                            || value.parse().unwrap(),
                            |digits| u32::from_str_radix(digits, 16).unwrap(),
                        );
                    }
                    other => panic!("header {other:?}"),
                }
            }
        } else if let Some(flags) = line.strip_prefix("> ") {
            answering = false;
            transcript.exchanges.push(Exchange { flags: hex(flags), ..Exchange::default() });
        } else {
            let exchange = transcript.exchanges.last_mut().expect("keys follow a request");
            match line.strip_prefix("< ") {
                Some(flags) => (answering, exchange.answer_flags) = (true, hex(flags)),
                None if answering => exchange.answer.push(line.to_owned()),
                None => exchange.request.push(line.to_owned()),
            }
        }
    }
    transcript
}
