//! Starting the next kernel in place of the firmware, as haasd asks: its files are fetched from haasd and
//! loaded by kexec_file_load(2), and the node then ends as for any kexec ([`crate::shutdown`]).
//!
//! Until the kernel is loaded nothing has changed. It is fetched on a thread of its own, so that the
//! node is looked after meanwhile, and into memory: a tenant's disk is none of ours.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use haas_api::{
    agent::{BootFile, Kexec, NextKernel, ToController},
    names::Digest,
};
use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    utsname::uname,
};
use sha2::Digest as _;

use crate::{log, sys};

/// Each read and write; haasd may have many nodes to serve.
const STALL: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(2);
/// Memory that must be left beside both copies of the files, in KiB.
const ROOM_KIB: u64 = 64 << 10;
/// The longest head of an answer.
const MAX_HEAD: u64 = 16 << 10;

/// Whether this node can.
pub(crate) fn ability() -> Kexec {
    let machine = uname().map(|name| name.machine().to_string_lossy().into_owned());
    let obstacle = obstacle(Path::new("/")).or(machine.as_ref().err().map(ToString::to_string));
    let memory_mib = memory_kib("MemTotal:") / 1024;
    Kexec { machine: machine.unwrap_or_default(), memory_mib, obstacle }
}

/// What keeps the kernel from loading another one, as far as it tells.
fn obstacle(root: &Path) -> Option<String> {
    let read = |path: &str| fs::read_to_string(root.join(path));
    if read("sys/kernel/kexec_loaded").is_err() {
        return Some("its kernel is built without kexec".to_owned());
    }
    if read("proc/sys/kernel/kexec_load_disabled").is_ok_and(|word| word.trim() != "0") {
        return Some("kexec is switched off on it (kernel.kexec_load_disabled)".to_owned());
    }
    // The image's init has mounted securityfs, perhaps; the kernel's answer is the last word.
    let lockdown = ["sys/kernel/security/lockdown", "proc/1/root/sys/kernel/security/lockdown"];
    let lockdown = lockdown.into_iter().find_map(|path| read(path).ok());
    if lockdown.is_some_and(|modes| modes.contains('[') && !modes.contains("[none]")) {
        return Some("its kernel is locked down".to_owned());
    }
    None
}

fn memory_kib(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The next kernel on its way into memory.
#[derive(Debug)]
pub(crate) struct Loading {
    attempt: String,
    done: mpsc::Receiver<Result<(), String>>,
}

impl Loading {
    /// Begins, unless it is this very kernel that is loaded already: haasd says it again to an agent
    /// that calls again.
    pub(crate) fn go_on(under_way: Option<Self>, next: NextKernel) -> Self {
        let other = match under_way {
            Some(loading) if loading.attempt == next.attempt => return loading,
            other => other,
        };
        log::info(&format!("haasd starts this node's next kernel, of boot {}", next.attempt));
        let attempt = next.attempt.clone();
        let (say, done) = mpsc::sync_channel(1);
        let failed = say.clone();
        let started =
            thread::Builder::new().name("kexec".into()).stack_size(256 * 1024).spawn(move || {
                // What is loaded last is started.
                if let Some(other) = other {
                    let _ = other.done.recv();
                }
                let _ = say.send(load(&next));
            });
        if let Err(error) = started {
            let _ = failed.send(Err(format!("no thread: {error}")));
        }
        Self { attempt, done }
    }

    /// What came of it, once: the kernel is loaded, or what haasd is to be told.
    pub(crate) fn outcome(&self) -> Option<Result<(), ToController>> {
        let outcome = self.done.try_recv().ok()?;
        Some(outcome.map_err(|reason| {
            log::error(&format!("the next kernel is not started: {reason}"));
            ToController::KexecFailed { attempt: self.attempt.clone(), reason }
        }))
    }
}

fn load(next: &NextKernel) -> Result<(), String> {
    let needed = ROOM_KIB + 2 * (next.kernel.size + next.initrd.size).div_ceil(1024);
    let free = memory_kib("MemAvailable:");
    if free < needed {
        return Err(format!("{free} KiB of memory are free, and the next kernel needs {needed}"));
    }
    let kernel = fetch("kernel", &next.kernel)?;
    let initrd = fetch("initramfs", &next.initrd)?;
    let cmdline = CString::new(next.cmdline.as_str())
        .map_err(|_| "its command line has a NUL in it".to_owned())?;
    sys::kexec_file_load(&kernel, &initrd, &cmdline)
        .map_err(|error| format!("the kernel does not load the next one: {error}"))
}

/// A file of haasd's, in memory and open for reading only: the kernel refuses one that somebody may
/// write to.
fn fetch(what: &str, file: &BootFile) -> Result<File, String> {
    let mut tries = 1;
    loop {
        match fetch_once(what, file) {
            Ok(file) => return Ok(file),
            Err(error) if tries < TRIES => {
                log::error(&format!("cannot fetch the {what} (try {tries} of {TRIES}): {error}"));
                tries += 1;
                thread::sleep(BETWEEN_TRIES);
            }
            // The URL has a token in it and is not shown.
            Err(error) => return Err(format!("the {what} cannot be fetched: {error}")),
        }
    }
}

fn fetch_once(what: &str, file: &BootFile) -> io::Result<File> {
    let mut body = get(&file.url, file.size)?;
    let memory = memfd_create(what, MFdFlags::MFD_CLOEXEC)?;
    let mut written = File::from(memory);
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let len = body.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        written.write_all(bytes)?;
    }
    let is_whole = written.metadata()?.len() == file.size;
    if !is_whole || Digest::from_sha256(hash.finalize().into()) != file.digest {
        return Err(io::Error::other("it is not the file that haasd has announced"));
    }
    File::open(format!("/proc/self/fd/{}", written.as_raw_fd()))
}

/// The body of an answer of exactly this many bytes (RFC 9112).
fn get(url: &str, size: u64) -> io::Result<impl Read> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(|| wrong("its URL is not http"))?;
    let (host, path) = rest.split_once('/').ok_or_else(|| wrong("its URL has no path"))?;
    let address: SocketAddr = host.parse().map_err(|_| wrong("its URL has no address and port"))?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = BufReader::new(stream);
    let mut head = Vec::new();
    let mut bounded = (&mut answer).take(MAX_HEAD);
    while !head.ends_with(b"\r\n\r\n") {
        if bounded.read_until(b'\n', &mut head)? == 0 {
            return Err(wrong("haasd's answer ends too soon"));
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    if status != "200" {
        return Err(wrong(&format!("haasd answers {status}")));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
    });
    if length != Some(size) {
        return Err(wrong(&format!("haasd sends {length:?} bytes, and has announced {size}")));
    }
    Ok(answer.take(size))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers this once per connection, and says where.
    fn served(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while !request.ends_with("\r\n\r\n") {
                    assert!(reader.read_line(&mut request).unwrap() > 0);
                }
                assert!(request.starts_with("GET /boot/T0K3N/kernel HTTP/1.1\r\n"), "{request}");
                // A peer that has heard enough may be gone.
                let _ = stream.write_all(&answer);
            }
        });
        format!("http://{address}/boot/T0K3N/kernel")
    }

    fn answer(body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    fn file(url: String, body: &[u8]) -> BootFile {
        BootFile { url, size: body.len() as u64, digest: Digest::of(body) }
    }

    #[test]
    fn a_file_that_is_what_was_announced_is_held_for_reading_only() {
        let body = vec![7; 300_000];
        let file = file(served(vec![answer(&body)]), &body);
        let mut held = fetch_once("kernel", &file).unwrap();
        let mut read = Vec::new();
        held.read_to_end(&mut read).unwrap();
        assert!(read == body);
        held.write_all(b"x").expect_err("it is open for reading only");
    }

    #[test]
    fn a_file_that_is_another_or_cut_short_or_refused_is_not_taken() {
        let body = b"a kernel".as_slice();
        let mut short = answer(body);
        short.truncate(short.len() - 1);
        let cases = [
            (answer(b"a mirror"), "not the file"),
            (short, "not the file"),
            (answer(b"another kernel"), "has announced 8"),
            (b"HTTP/1.1 410 Gone\r\ncontent-length: 8\r\n\r\na kernel".to_vec(), "answers 410"),
            (b"HTTP/1.1 200 OK\r\n\r\na kernel".to_vec(), "has announced 8"),
            (b"HTTP/1.1 200".to_vec(), "ends too soon"),
        ];
        for (said, reason) in cases {
            let error = fetch_once("kernel", &file(served(vec![said]), body)).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}, not {reason}");
        }
    }

    #[test]
    fn what_fails_is_tried_again_and_told_without_the_token() {
        let body = b"a kernel".as_slice();
        let gone = b"HTTP/1.1 503 x\r\n\r\n".to_vec();
        let file = file(served(vec![gone, answer(body)]), body);
        fetch("kernel", &file).unwrap();
        let nobody = BootFile { url: "http://127.0.0.1:x/T0K3N".into(), ..file };
        let error = fetch_once("kernel", &nobody).unwrap_err().to_string();
        assert!(!error.contains("T0K3N"), "{error}");
    }

    #[test]
    fn a_kernel_that_does_not_fit_is_not_even_fetched() {
        let huge = BootFile { url: String::new(), size: 1 << 60, digest: Digest::of(b"") };
        let attempt = "01J1".to_owned();
        let next =
            NextKernel { attempt, kernel: huge.clone(), initrd: huge, cmdline: String::new() };
        let loading = Loading::go_on(None, next.clone());
        let outcome = loop {
            match loading.outcome() {
                Some(outcome) => break outcome,
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        match outcome {
            Err(ToController::KexecFailed { attempt, reason }) => {
                assert_eq!(attempt, "01J1");
                assert!(reason.contains("memory"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        // Said again, it is not begun again.
        assert!(Loading::go_on(Some(loading), next).outcome().is_none());
    }

    #[test]
    fn what_a_kernel_says_of_itself_is_what_keeps_it_from_kexec() {
        let root = tempfile::tempdir().unwrap();
        let says = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            obstacle(root.path()).unwrap_or_default()
        };
        assert!(says("etc/none", "").contains("without kexec"));
        assert_eq!(says("sys/kernel/kexec_loaded", "0\n"), "");
        assert_eq!(says("proc/sys/kernel/kexec_load_disabled", "0\n"), "");
        let lockdown = "sys/kernel/security/lockdown";
        assert_eq!(says(lockdown, "[none] integrity confidentiality\n"), "");
        assert!(says(lockdown, "none [integrity] confidentiality\n").contains("locked down"));
        assert!(says("proc/sys/kernel/kexec_load_disabled", "1\n").contains("switched off"));
    }
}
