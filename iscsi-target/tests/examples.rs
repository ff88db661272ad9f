//! The examples, as programs: each must serve what its comment says.

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use support::{Client, INITIATOR, TARGET, content, tool};

/// A running example; ended with the value.
struct Example {
    child: Child,
    addr: SocketAddr,
    /// Kept, since it says more later.
    _messages: BufReader<ChildStderr>,
}

impl Example {
    /// Starts it, and takes its address from the line that it says when it listens.
    fn start(name: &str, arguments: &[&str]) -> Self {
        // Beside this test's own folder: cargo builds all examples for `cargo test`, but none for one
        // test by its name.
        let built = std::env::current_exe().unwrap();
        let program = built.parent().and_then(Path::parent).unwrap().join("examples").join(name);
        let mut child = Command::new(&program)
            .arg("127.0.0.1:0")
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run {} ({error}): cargo build --examples", program.display())
            });
        let mut line = String::new();
        let mut messages = BufReader::new(child.stderr.take().unwrap());
        messages.read_line(&mut line).unwrap();
        let addr = line.trim().rsplit(' ').next().and_then(|addr| addr.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("{name} said {line:?}"));
        Self { child, addr, _messages: messages }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_serves_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.img");
    std::fs::write(&file, content(2048)).unwrap();
    let example = Example::start("serve", &[TARGET, file.to_str().unwrap()]);
    let mut client = Client::login(example.addr, &[]);
    assert!(client.read(5, 8, 4096).data == content(2048)[5 * 512..13 * 512]);
}

#[test]
fn guarded_shows_each_initiator_its_own_target() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["one.img", "two.img"].map(|name| dir.path().join(name));
    for file in &files {
        std::fs::write(file, content(2048)).unwrap();
    }
    let arguments = files.each_ref().map(|file| file.to_str().unwrap());
    let example = Example::start("guarded", &arguments);
    // INITIATOR is the first one; without a secret it gets no further.
    let mut client = Client::connect(example.addr);
    assert_eq!(client.log_in("iqn.2026-01.org.example:disk1", &[]).login_status(), 0x0201);
    let mut client = Client::connect(example.addr);
    assert_eq!(client.log_in("iqn.2026-01.org.example:disk2", &[]).login_status(), 0x0202);
    let portal = format!("iscsi://{}", example.addr);
    let listed = tool("iscsi-ls", "libiscsi-bin", &["-i", INITIATOR, &portal]).stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    assert!(listed.contains(":disk1 ") && !listed.contains(":disk2 "), "{listed}");
    let secret = format!("{INITIATOR}%the secret of {INITIATOR}");
    let url = format!("iscsi://{secret}@{}/iqn.2026-01.org.example:disk1/0", example.addr);
    let read = tool("iscsi-inq", "libiscsi-bin", &["-i", INITIATOR, &url]);
    assert!(read.status.success(), "{read:?}");
}
