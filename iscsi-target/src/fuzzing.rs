//! What `fuzz/` runs on arbitrary bytes, and what the test below runs on its corpus and on thousands of
//! mutations of it. Each function panics when a promise is broken.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crate::chap;
use crate::exports::{
    Admission, Authentication, Chap, ClassLimits, Exports, Grant, Limits, LoginRequest, Secret,
};
use crate::inbox::Inbox;
use crate::login::{Kind, Login, Step};
use crate::lun::{Lun, LunIdentity};
use crate::negotiate::{OUR_MAX_RECV, Params};
use crate::pdu::{BHS, Bhs, Pdu, flag, request};
use crate::scsi::{self, Cdb, Outcome};
use crate::text;

const BLOCKS: u64 = 2048;
const TARGET: &str = "iqn.2026-01.org.example:disk";

/// Bytes as they come from a socket. The first byte switches digests on and says in which pieces they
/// come, which must make no difference.
pub fn pdus(bytes: &[u8]) {
    let [how, stream @ ..] = bytes else { return };
    let piece = usize::from(how >> 2) + 1;
    assert_eq!(taken(stream, *how, piece), taken(stream, *how, 4096));
}

/// The PDUs in a stream, and whether it was refused.
fn taken(mut stream: &[u8], how: u8, piece: usize) -> (Vec<(Bhs, Vec<u8>)>, bool) {
    let mut inbox = Inbox::default();
    (inbox.header_digest, inbox.data_digest) = (how & 1 != 0, how & 2 != 0);
    let mut pdus = Vec::new();
    loop {
        match inbox.take() {
            Ok(Some(pdu)) => {
                assert!(pdu.data.len() <= OUR_MAX_RECV, "more than we declared");
                pdus.push((pdu.bhs, pdu.data));
                continue;
            }
            Ok(None) if stream.is_empty() => return (pdus, false),
            Ok(None) => {}
            Err(_) => return (pdus, true),
        }
        let read = inbox.receive(|room| {
            assert!(!room.is_empty(), "a PDU that never fits");
            let len = piece.min(stream.len()).min(room.len());
            room[..len].copy_from_slice(&stream[..len]);
            Ok(len)
        });
        stream = &stream[read.expect("memory can be read")..];
    }
}

/// Login PDUs, each two bytes for its length, one for its flags, one that spoils its header, and its
/// text. The first byte says whether a secret is wanted, which nobody can know here.
pub fn login(bytes: &[u8]) {
    let [how, requests @ ..] = bytes else { return };
    let mut rest = requests;
    let guarded = how & 1 != 0;
    let exports = Guarded(guarded);
    let mut login = Login::new(&exports, SocketAddr::from(([127, 0, 0, 1], 3260)));
    while let [high, low, flags, spoilt, following @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(OUR_MAX_RECV);
        let (data, later) = following.split_at(len.min(following.len()));
        rest = later;
        let mut bhs = Bhs::new(request::LOGIN | 0x40, *flags);
        if *spoilt != 0 {
            bhs.0[usize::from(*spoilt) % BHS] ^= spoilt.rotate_left(3);
        }
        match login.step(&Pdu { bhs, data: data.to_vec(), spoilt: false }) {
            Step::Reply(header, answer) => check_reply(&header, &answer),
            Step::Done(header, answer, established) => {
                check_reply(&header, &answer);
                assert_eq!(header.flags() & 0x83, 0x83, "the last answer leads to full feature");
                let params = &established.params;
                assert!((512..1 << 24).contains(&params.max_recv));
                assert!((512..=1 << 20).contains(&params.max_burst));
                if let Kind::Normal { target, .. } = &established.kind {
                    assert!(!guarded, "let in without the secret");
                    assert_eq!(target, TARGET);
                }
                return;
            }
            Step::Refuse(status) => {
                assert!(matches!(status >> 8, 2 | 3), "status {status:04x} is no refusal");
                return;
            }
        }
    }
}

fn check_reply(header: &Bhs, answer: &[u8]) {
    assert!(answer.len() <= OUR_MAX_RECV, "longer than any initiator must take");
    let (transit, more) = (header.flags() & flag::FINAL != 0, header.flags() & flag::CONTINUE != 0);
    assert!(!(transit && more), "transit in the middle of a text");
    assert!(transit || header.flags() & 3 == 0, "a next stage without transit");
    assert!(std::str::from_utf8(answer).is_ok(), "no text");
}

/// Text, through the parser, the negotiation and the forms of binary values.
pub fn text(bytes: &[u8]) {
    let Some(pairs) = text::parse(bytes) else { return };
    let mut params = Params::default();
    for (key, value) in pairs {
        let mut out = Vec::new();
        if params.answer(key, value, &mut out).is_ok() {
            params.answer_later(key, value, &mut out);
        }
        assert!(text::parse(&out).is_some(), "an answer that is no text");
        assert!((512..1 << 24).contains(&params.max_recv));
        if let Some(binary) = chap::decode(value) {
            assert!((1..=1024).contains(&binary.len()));
            assert_eq!(chap::decode(&chap::encode(&binary)), Some(binary));
        }
    }
}

/// Commands: 16 bytes each, and one for the unit.
pub fn commands(bytes: &[u8]) {
    for chunk in bytes.chunks_exact(17) {
        let (Some(cdb), Some(unit)) = (chunk.first_chunk::<16>(), chunk.last()) else { return };
        match scsi::execute(&Cdb(cdb), u64::from(*unit), disk()) {
            Outcome::Good | Outcome::Check(_) => {}
            Outcome::Data(data) => assert!(data.len() <= 4096, "an answer without bounds"),
            Outcome::Read(extent)
            | Outcome::Prefetch(extent)
            | Outcome::Verify(extent)
            | Outcome::Compare(extent) => {
                let end = extent.lba.checked_add(extent.blocks);
                assert!(end.is_some_and(|end| end <= BLOCKS), "beyond the disk: {extent:?}");
            }
            Outcome::Status(query) => {
                assert!(query.lba < BLOCKS);
                assert!((1..=256).contains(&query.runs));
            }
        }
    }
}

/// One disk for all runs.
fn disk() -> &'static Arc<Lun> {
    static DISK: OnceLock<Arc<Lun>> = OnceLock::new();
    DISK.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("iscsi-fuzz-{}", std::process::id()));
        std::fs::File::create(&path)
            .and_then(|file| file.set_len(BLOCKS * crate::BLOCK))
            .expect("the temporary folder can be written");
        let lun = Lun::open(&path, LunIdentity::from_sha256(&[0xab; 32]));
        std::fs::remove_file(&path).expect("our own file can be removed");
        Arc::new(lun.expect("a file of 1 MiB is a disk"))
    })
}

/// One target, with or without a secret.
struct Guarded(bool);

impl Exports for Guarded {
    fn admit(&self, request: &LoginRequest<'_>) -> Admission {
        if request.target != TARGET {
            return Admission::Refused(crate::exports::Refusal::NotFound);
        }
        let secret = Secret::new(rand::random::<u128>().to_string());
        Admission::Granted(Grant {
            lun: Arc::clone(disk()),
            authentication: match self.0 {
                true => Authentication::Required(Chap { user: "node1".into(), secret }),
                false => Authentication::None,
            },
            class: 0,
            class_limits: ClassLimits::default(),
            limits: Limits::default(),
            observer: None,
        })
    }

    fn discover(&self, _initiator: &str, _peer: SocketAddr) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Mutations of each file of the corpus.
    const MUTATIONS: u64 = 300;

    /// Pseudo-random numbers (SplitMix64), the same in each run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ (mixed >> 31)) % bound.max(1) as u64).unwrap()
        }
    }

    /// Flips, cuts, doubles or inserts, a few times.
    fn mutate(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len());
            let end = (at + dice.below(64)).min(bytes.len());
            match dice.below(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let copy = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, copy));
                }
                _ => bytes.insert(at, u8::try_from(dice.below(256)).unwrap()),
            }
        }
        bytes
    }

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 5, "only {} files of {target}", files.len());
        for (n, file) in (0..).zip(files) {
            let bytes = std::fs::read(file).unwrap();
            run(&bytes);
            let mut dice = Dice(n);
            for _ in 0..MUTATIONS {
                run(&mutate(&bytes, &mut dice));
            }
        }
    }

    #[test]
    fn no_stream_breaks_the_inbox() {
        replay("pdus", pdus);
    }

    #[test]
    fn no_login_breaks_or_passes_by_chance() {
        replay("login", login);
    }

    #[test]
    fn no_text_breaks_the_negotiation() {
        replay("text", text);
    }

    #[test]
    fn no_command_reaches_beyond_the_disk() {
        replay("commands", commands);
    }
}
