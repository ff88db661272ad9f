//! What the tests share: a disk whose blocks tell where they are, `haas-iscsi` as a child process or
//! the library as a server, and a raw initiator that can be as impolite as a test needs.
#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use iscsi_target::{Exports, Options};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const TARGET: &str = "iqn.2026-01.org.example:disk";
pub const INITIATOR: &str = "iqn.2026-01.org.example:node1";
pub const NO_TAG: u32 = 0xffff_ffff;

/// A disk of `blocks` blocks, each full of words that hold its own number and their place.
pub fn content(blocks: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::try_from(blocks).unwrap() * 512);
    for n in 0..blocks * 64 {
        let word = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n >> 7);
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// A running `haas-iscsi`; ended with the value.
pub struct Daemon {
    child: Child,
    pub addr: SocketAddr,
    pub disk: Vec<u8>,
    pub dir: TempDir,
}

impl Daemon {
    pub fn start(blocks: u64, arguments: &[&str]) -> Self {
        Self::serve(content(blocks), arguments)
    }

    pub fn serve(disk: Vec<u8>, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk.img"), &disk).unwrap();
        Self::spawn(dir, disk, arguments)
    }

    /// A disk whose file has a hole for these blocks.
    pub fn sparse(blocks: u64, hole: Range<u64>) -> Self {
        let mut disk = content(blocks);
        let bytes = |block: u64| usize::try_from(block * 512).unwrap();
        disk[bytes(hole.start)..bytes(hole.end)].fill(0);
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("disk.img")).unwrap();
        file.set_len(disk.len() as u64).unwrap();
        file.write_all_at(&disk[..bytes(hole.start)], 0).unwrap();
        file.write_all_at(&disk[bytes(hole.end)..], hole.end * 512).unwrap();
        Self::spawn(dir, disk, &[])
    }

    fn spawn(dir: TempDir, disk: Vec<u8>, arguments: &[&str]) -> Self {
        let path = dir.path().join("disk.img");
        std::fs::write(dir.path().join("secret"), "open sesame 123\n").unwrap();
        std::fs::write(dir.path().join("ours"), "another secret\n").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_haas-iscsi"))
            .current_dir(dir.path())
            .args(["--listen", "127.0.0.1:0", "--target", TARGET])
            .args(arguments)
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.split(' ').nth(3).and_then(|addr| addr.trim_end_matches(',').parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("haas-iscsi said {line:?}"));
        Self { child, addr, disk, dir }
    }

    /// The URL of LUN 0 as libiscsi writes it.
    pub fn url(&self) -> String {
        format!("iscsi://{}/{TARGET}/0", self.addr)
    }

    /// Resident memory in bytes that is not shared with files.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Its open files and sockets.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Panics unless the daemon still serves the right bytes to a polite initiator.
    pub fn assert_healthy(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "haas-iscsi is gone");
        let mut client = Client::login(self.addr, &[]);
        let got = client.read(8, 16, 16 * 512);
        assert_eq!(got.data, self.disk[8 * 512..24 * 512]);
        assert_eq!(got.status, 0);
    }

    /// Asks it to end, by SIGTERM.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A polite session that reads all the time while something impolite happens beside it.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    reads: JoinHandle<(u64, Duration)>,
}

impl Bystander {
    pub fn watch(daemon: &Daemon) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (addr, disk, stopped) = (daemon.addr, daemon.disk.clone(), Arc::clone(&stop));
        let mut client = Client::login(addr, &["MaxRecvDataSegmentLength=65536"]);
        let reads = std::thread::spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let lba = count * 7 % 1024;
                let at = usize::try_from(lba).unwrap() * 512;
                let begun = Instant::now();
                let got = client.read(lba, 64, 64 * 512);
                longest = longest.max(begun.elapsed());
                assert!(got.status == 0 && got.data == disk[at..at + 64 * 512], "read {count}");
                count += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            (count, longest)
        });
        Self { stop, reads }
    }

    /// Ends it; panics if a read failed, or took longer than `most`.
    pub fn was_served_within(self, most: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, longest) = self.reads.join().expect("another session was harmed");
        assert!(count > 0 && longest < most, "{count} reads, the longest took {longest:?}");
    }
}

/// Runs a program of a Debian package; a missing one fails the test and names the package.
pub fn tool(name: &str, package: &str, arguments: &[&str]) -> Output {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| {
        panic!("cannot run {name} ({error}): install the Debian package {package}")
    })
}

/// A header and its data.
#[derive(Debug, Clone)]
pub struct Pdu {
    pub bhs: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.bhs[0] & 0x3f
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bhs[at..at + 4].try_into().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).replace('\0', ";")
    }

    /// Status class and detail of a login response.
    pub fn login_status(&self) -> u16 {
        u16::from_be_bytes([self.bhs[36], self.bhs[37]])
    }
}

/// How a SCSI command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: u8,
    /// Sense key, code and qualifier, all zero without sense data.
    pub sense: [u8; 3],
    pub data: Vec<u8>,
    /// Residual; positive for overflow, negative for underflow.
    pub residual: i64,
    /// What else came meanwhile.
    pub others: Vec<Pdu>,
}

pub struct Client {
    pub stream: TcpStream,
    pub cmd_sn: u32,
    pub itt: u32,
    pub isid: [u8; 6],
    pub cid: u16,
    pub header_digest: bool,
    pub data_digest: bool,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        // A random-looking ISID per connection, so that tests do not replace each other's sessions.
        let port = stream.local_addr().unwrap().port().to_be_bytes();
        let isid = [0x80, 0, 0, 0, port[0], port[1]];
        let (header_digest, data_digest) = (false, false);
        Self { stream, cmd_sn: 1, itt: 0, isid, cid: 0, header_digest, data_digest }
    }

    /// Connects and logs in straight to the full feature phase, with more keys if wanted.
    pub fn login(addr: SocketAddr, keys: &[&str]) -> Self {
        let mut client = Self::connect(addr);
        let reply = client.log_in(TARGET, keys);
        assert_eq!(reply.login_status(), 0, "{}", reply.text());
        client.header_digest = reply.text().contains("HeaderDigest=CRC32C");
        client.data_digest = reply.text().contains("DataDigest=CRC32C");
        client
    }

    pub fn log_in(&mut self, target: &str, keys: &[&str]) -> Pdu {
        let names = [format!("InitiatorName={INITIATOR}"), format!("TargetName={target}")];
        let mut text = names.join("\0");
        for key in keys {
            text = format!("{text}\0{key}");
        }
        // Transit from operational negotiation to full feature.
        self.send_login(0x87, &(text + "\0"));
        self.receive()
    }

    pub fn send_login(&mut self, flags: u8, text: &str) {
        let mut bhs = [0; 48];
        bhs[0] = 0x43;
        bhs[1] = flags;
        bhs[8..14].copy_from_slice(&self.isid);
        bhs[20..22].copy_from_slice(&self.cid.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(bhs, text.as_bytes());
    }

    /// Sends a PDU with its length, padding and digests.
    pub fn send(&mut self, mut bhs: [u8; 48], data: &[u8]) {
        bhs[5..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes()[1..]);
        let mut bytes = bhs.to_vec();
        if self.header_digest {
            bytes.extend(crc32c::crc32c(&bhs).to_le_bytes());
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        bytes.extend(&padded);
        if self.data_digest && !data.is_empty() {
            bytes.extend(crc32c::crc32c(&padded).to_le_bytes());
        }
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn receive(&mut self) -> Pdu {
        self.try_receive().expect("the target closed the connection or did not answer")
    }

    pub fn try_receive(&mut self) -> Option<Pdu> {
        let mut bhs = [0; 48];
        self.stream.read_exact(&mut bhs).ok()?;
        let mut digest = [0; 4];
        if self.header_digest {
            self.stream.read_exact(&mut digest).ok()?;
            assert_eq!(u32::from_le_bytes(digest), crc32c::crc32c(&bhs), "header digest");
        }
        let len = u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]) as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.stream.read_exact(&mut data).ok()?;
        if self.data_digest && len > 0 {
            self.stream.read_exact(&mut digest).ok()?;
            assert_eq!(u32::from_le_bytes(digest), crc32c::crc32c(&data), "data digest");
        }
        data.truncate(len);
        Some(Pdu { bhs, data })
    }

    /// Whether the target has closed (any answers before are skipped).
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Sends a SCSI command without waiting; `flags` are the R and W bits.
    pub fn command(&mut self, flags: u8, edtl: u32, cdb: &[u8], data: &[u8]) -> u32 {
        self.itt += 1;
        let mut bhs = [0; 48];
        bhs[0] = 0x01;
        bhs[1] = 0x80 | flags;
        bhs[16..20].copy_from_slice(&self.itt.to_be_bytes());
        bhs[20..24].copy_from_slice(&edtl.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        bhs[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(bhs, data);
        self.itt
    }

    /// Collects the answer to a command.
    pub fn finish(&mut self, itt: u32) -> Ended {
        let mut ended =
            Ended { status: 0, sense: [0; 3], data: Vec::new(), residual: 0, others: Vec::new() };
        loop {
            let pdu = self.receive();
            if pdu.u32(16) != itt {
                ended.others.push(pdu);
                continue;
            }
            let last = match pdu.opcode() {
                0x25 => {
                    assert_eq!(pdu.u32(40) as usize, ended.data.len(), "Data-In in order");
                    ended.data.extend(&pdu.data);
                    pdu.bhs[1] & 1 != 0
                }
                0x21 => {
                    if pdu.data.len() >= 20 {
                        ended.sense = [pdu.data[4] & 0xf, pdu.data[14], pdu.data[15]];
                    }
                    true
                }
                other => panic!("unexpected PDU {other:#x}"),
            };
            if last {
                ended.status = pdu.bhs[3];
                ended.residual = match pdu.bhs[1] & 6 {
                    4 => i64::from(pdu.u32(44)),
                    2 => -i64::from(pdu.u32(44)),
                    _ => 0,
                };
                return ended;
            }
        }
    }

    pub fn read(&mut self, lba: u64, blocks: u32, edtl: u32) -> Ended {
        let itt = self.command(0x40, edtl, &read_16(lba, blocks), &[]);
        self.finish(itt)
    }

    /// An immediate NOP-Out with `data`, not waited for.
    pub fn ping(&mut self, itt: u32, data: &[u8]) {
        let mut bhs = [0; 48];
        bhs[0] = 0x40;
        bhs[1] = 0x80;
        bhs[16..20].copy_from_slice(&itt.to_be_bytes());
        bhs[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(bhs, data);
    }

    /// Sends a Text request with these flags and the target transfer tag that the last answer gave.
    pub fn text(&mut self, flags: u8, tag: u32, text: &[u8]) -> Pdu {
        let mut bhs = [0; 48];
        bhs[0] = 0x44;
        bhs[1] = flags;
        bhs[16..20].copy_from_slice(&0x5555_u32.to_be_bytes());
        bhs[20..24].copy_from_slice(&tag.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(bhs, text);
        self.receive()
    }

    /// An immediate request of any kind with a code in its second byte.
    pub fn request(&mut self, opcode: u8, code: u8, data: &[u8]) -> Pdu {
        let mut bhs = [0; 48];
        bhs[0] = 0x40 | opcode;
        bhs[1] = 0x80 | code;
        bhs[16..20].copy_from_slice(&0x7777_u32.to_be_bytes());
        bhs[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(bhs, data);
        self.receive()
    }
}

pub fn read_16(lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x88;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// The library as a server on a thread of its own; stopped with the value.
pub struct Server {
    pub addresses: Vec<SocketAddr>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on so many addresses.
    pub fn start(exports: impl Exports, options: Options, listeners: usize) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listen = |_| iscsi_target::listen("127.0.0.1:0".parse().unwrap()).unwrap();
                let listeners: Vec<_> = (0..listeners).map(listen).collect();
                send.send(listeners.iter().map(|l| l.local_addr().unwrap()).collect()).unwrap();
                iscsi_target::serve(listeners, Arc::new(exports), options, stopped).await.unwrap();
            });
        });
        Self { addresses: receive.recv().unwrap(), stop, thread: Some(thread) }
    }

    /// Stops it in order, and waits until it has.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
