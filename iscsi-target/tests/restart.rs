//! A planned restart: initiators are told, and with sockets that outlive the process no login is
//! refused.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Client, Daemon, TARGET, content, read_16};

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
    // All of it, as RFC 7143 section 11.9 has it: the login and 16 commands went before.
    let mut wanted = [0; 48];
    (wanted[0], wanted[1]) = (ASYNC_MESSAGE, 0x80);
    wanted[16..20].fill(0xff);
    wanted[24..28].copy_from_slice(&17_u32.to_be_bytes());
    wanted[28..32].copy_from_slice(&client.cmd_sn.to_be_bytes());
    wanted[32..36].copy_from_slice(&(client.cmd_sn + 127).to_be_bytes());
    // "Will drop all connections": come back at once, no command is kept.
    wanted[36] = 3;
    assert_eq!((told.bhs, told.data.len()), (wanted, 0));
    assert!(simple.try_receive().is_none(), "just closed");
}

#[test]
fn a_session_that_never_rests_is_told_too_and_not_reset() {
    let mut daemon = Daemon::start(4096, &[]);
    let mut client = Client::login(daemon.addr, &["MaxRecvDataSegmentLength=262144"]);
    let mut sender = client.stream.try_clone().unwrap();
    client.ping(0x77, b"initiators that answer pings are told");
    let flood = std::thread::spawn(move || {
        // Pings that want no echo: what is unread of them is there at any time.
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x40, 0x80);
        bhs[16..24].fill(0xff);
        let flood = bhs.repeat(1000);
        while sender.write_all(&flood).is_ok() {}
    });
    assert_eq!(client.receive().u32(16), 0x77);
    let stop = std::thread::spawn(move || daemon.terminate());
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).expect("closed, not reset");
    assert_eq!((rest.len(), rest[0], rest[36]), (48, ASYNC_MESSAGE, 3));
    client.stream.shutdown(Shutdown::Both).unwrap();
    flood.join().unwrap();
    assert!(stop.join().unwrap().success());
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
