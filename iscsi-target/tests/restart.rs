//! A planned restart: initiators are told, and with sockets that outlive the process no login is
//! refused.

mod support;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Client, Daemon, NO_TAG, TARGET, content, read_16};

const ASYNC_MESSAGE: u8 = 0x32;

#[test]
fn a_session_is_told_before_a_planned_stop_and_gets_all_it_asked_for() {
    let mut daemon = Daemon::start(4096, &[]);
    let mut client = Client::login(daemon.addr, &["MaxRecvDataSegmentLength=262144"]);
    // One like iPXE would not understand it.
    let mut simple = Client::login(daemon.addr, &[]);
    assert_eq!(simple.read(0, 1, 512).status, 0);
    let tags: Vec<_> =
        (0..16).map(|n| client.command(0x40, 65536, &read_16(n * 128, 128), &[])).collect();
    assert_eq!(client.finish(tags[0]).data, daemon.disk[..65536]);
    assert!(daemon.terminate().success());
    let mut last = None;
    for (n, tag) in (1..).zip(&tags[1..]) {
        assert_eq!(client.finish(*tag).data, daemon.disk[n * 65536..(n + 1) * 65536]);
    }
    while let Some(pdu) = client.try_receive() {
        last = Some(pdu);
    }
    let told = last.expect("a PDU after the reads");
    assert_eq!((told.opcode(), told.u32(16), told.bhs[36]), (ASYNC_MESSAGE, NO_TAG, 3));
    assert!(simple.try_receive().is_none(), "just closed");
}

/// `haas-iscsi` with a listening socket as descriptor 3, as systemd starts it.
fn activated(socket: &TcpListener, folder: &std::path::Path) -> Child {
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 <&-";
    let address = socket.local_addr().unwrap().to_string();
    Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_haas-iscsi"), "--listen", &address])
        .args(["--target", TARGET, "disk.img"])
        .current_dir(folder)
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn end(mut child: Child) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_login_between_two_servers_waits_and_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = content(4096);
    std::fs::write(folder.path().join("disk.img"), &disk).unwrap();
    // Whoever passes the socket keeps it, as a systemd socket unit does.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let first = activated(&socket, folder.path());
    let mut client = Client::login(address, &[]);
    assert_eq!(client.read(0, 8, 4096).data, disk[..4096]);
    end(first);
    assert!(client.is_closed());

    let mut waiting = Client::connect(address);
    waiting
        .send_login(0x87, &format!("InitiatorName={}\0TargetName={TARGET}\0", support::INITIATOR));
    let second = activated(&socket, folder.path());
    let begun = Instant::now();
    assert_eq!(waiting.receive().login_status(), 0);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(waiting.read(8, 8, 4096).data, disk[4096..8192]);
    drop(waiting);
    end(second);
}
