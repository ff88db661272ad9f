//! That a session whose requests cost the target work, but send little or nothing, leaves others
//! their turns. All on one I/O thread.

mod support;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use iscsi_target::{Lun, LunIdentity, OneTarget, Options};
use support::{Client, NO_TAG, Server, TARGET, content, read_16};

const BLOCKS: u64 = 65_536;

fn serve() -> Server {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content(BLOCKS)).unwrap();
    let lun = Lun::open(file.path(), LunIdentity::from_sha256(&[9; 32])).unwrap();
    let options = Options { io_threads: 1, ..Options::default() };
    Server::start(OneTarget::new(TARGET, lun), options, 1)
}

/// Ends the other session also when a test fails, which would wait for it for ever.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many reads a session gets, one after the other, while something happens beside it.
fn reads_beside(server: &Server, happens: impl FnOnce()) -> u64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut client = Client::login(server.addresses[0], &[]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.read(0, 1, 512).status, 0);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stops = Stops(&stop);
        happens();
    });
    count.into_inner()
}

#[test]
fn verifies_of_what_is_in_memory_leave_others_their_turns() {
    const ROUNDS: u64 = 10;
    const EACH: u64 = 128;
    let server = serve();
    let mut verifier = Client::login(server.addresses[0], &[]);
    let reads = reads_beside(&server, || {
        let mut verify = read_16(0, u32::try_from(BLOCKS).unwrap());
        verify[0] = 0x8f;
        for _ in 0..ROUNDS {
            let asked: Vec<_> = (0..EACH).map(|_| verifier.command(0, 0, &verify, &[])).collect();
            for itt in asked {
                assert_eq!(verifier.finish(itt).status, 0);
            }
        }
    });
    // A read has its turn after a step of a verification, not after all that were asked for.
    assert!(reads > ROUNDS * EACH / 8, "{reads} reads beside {} verifications", ROUNDS * EACH);
}

#[test]
fn pdus_that_want_no_answer_leave_others_their_turns() {
    const FLOODS: usize = 4;
    // Data for no command, a ping that wants no echo, a command far outside of the window.
    let header = |opcode: u8, cmd_sn: u32, len: u32| {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (opcode, 0x80);
        bhs[5..8].copy_from_slice(&len.to_be_bytes()[1..]);
        bhs[16..24].fill(0xff);
        bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
        [&bhs[..], &vec![0; len as usize]].concat()
    };
    for (what, pdu, bytes) in [
        ("data", header(0x05, 0, 8192), 128 << 20),
        ("pings", header(0x40, 1, 0), 16 << 20),
        ("commands", header(0x01, 0x4000_0000, 0), 16 << 20),
    ] {
        let server = serve();
        let flood = pdu.repeat((1 << 20) / pdu.len());
        let floods: Vec<_> = (0..FLOODS).map(|_| Client::login(server.addresses[0], &[])).collect();
        let reads = reads_beside(&server, || {
            std::thread::scope(|scope| {
                for mut client in floods {
                    let flood = &flood;
                    scope.spawn(move || {
                        for _ in 0..bytes / FLOODS / flood.len() {
                            client.stream.write_all(flood).unwrap();
                        }
                        // It is answered when all before it was taken.
                        client.ping(7, b"the end");
                        while client.receive().u32(16) == NO_TAG {}
                    });
                }
            });
        });
        // One read waits for a turn of each flood, not for the end of any.
        assert!(reads > 30, "{reads} reads beside {bytes} bytes of {what}");
    }
}
