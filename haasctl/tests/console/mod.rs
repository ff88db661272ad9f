//! `haasctl console` on a real pseudo terminal.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::{
    pty::openpty,
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, Termios, tcgetattr},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{Ctl, server::Server};

const LONG: Duration = Duration::from_secs(30);

/// haasctl in a terminal.
struct Terminal {
    child: Child,
    master: File,
    /// Kept open, so that the terminal outlives haasctl and can be looked at.
    slave: OwnedFd,
    before: Termios,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(ctl: &Ctl, args: &[&str]) -> Self {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_haasctl"))
            .args(args)
            .env("HAASCTL_CONFIG", ctl.path("config.toml"))
            .env_remove("HAASCTL_CONTEXT")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            // A group of its own, as a shell gives it: one without a parent cannot be suspended.
            .process_group(0)
            .spawn()
            .unwrap();
        let master = File::from(pty.master);
        let mut reader = master.try_clone().unwrap();
        let (send, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if send.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, master, slave: pty.slave, before, screen, seen: String::new() }
    }

    fn type_keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, and forgets what was before it.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let end = Instant::now() + LONG;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} in {:?}", self.seen),
            }
        }
    }

    fn is_raw(&self) -> bool {
        let now = tcgetattr(&self.slave).unwrap();
        !now.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    fn is_as_before(&self) -> bool {
        let now = tcgetattr(&self.slave).unwrap();
        now.local_flags == self.before.local_flags
            && now.input_flags == self.before.input_flags
            && now.output_flags == self.before.output_flags
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(self.is_as_before(), "the terminal is not as it was");
                return status;
            }
            assert!(Instant::now() < end, "it does not end; {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_go_to_the_node_and_escapes_do_not() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let mut terminal = Terminal::start(&ctl, &["console", "n01"]);
    terminal.sees("[console of n01, logged: you type; ~. ends, ~? helps]");
    assert!(terminal.is_raw());
    terminal.sees("n01 login: ");
    // Ctrl-C is the node's.
    terminal.type_keys("root\r\u{3}");
    terminal.sees("<root\r><\u{3}>");
    terminal.type_keys("a ~. b\r");
    terminal.sees("<a ~. b\r>");
    terminal.type_keys("~?");
    terminal.sees("~B   send a BREAK");
    terminal.type_keys("~B");
    terminal.sees("<BREAK>");
    terminal.type_keys("~w");
    terminal.sees("[you type; here: alice, bob]");
    terminal.type_keys("~~.\r");
    terminal.sees("<~.\r>");
    terminal.type_keys("~.");
    terminal.sees("[closed]");
    assert_eq!(terminal.ends().code(), Some(0));
}

#[test]
fn who_comes_second_watches_and_takes_over_on_request() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let mut terminal = Terminal::start(&ctl, &["console", "n02"]);
    terminal.sees("[console of n02: bob types, ~t takes over; ~. ends, ~? helps]");
    terminal.type_keys("~t");
    terminal.sees("[you type]");
    terminal.type_keys("x");
    terminal.sees("<x>");
    terminal.type_keys("\r~.");
    assert_eq!(terminal.ends().code(), Some(0));
    let mut terminal = Terminal::start(&ctl, &["console", "n02", "--force"]);
    terminal.sees("[console of n02: you type; ~. ends, ~? helps]");
}

#[test]
fn the_terminal_is_put_back_however_it_ends() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let mut terminal = Terminal::start(&ctl, &["console", "n01"]);
        terminal.sees("n01 login: ");
        assert!(terminal.is_raw());
        kill(terminal.pid(), signal).unwrap();
        assert_eq!(terminal.ends().code(), Some(130), "{signal}");
    }
    // haasd ends it.
    let mut terminal = Terminal::start(&ctl, &["console", "n03"]);
    terminal.sees("n03: the node was given away");
    assert_eq!(terminal.ends().code(), Some(1));
    // Refused before it begins.
    let mut terminal = Terminal::start(&ctl, &["console", "n09"]);
    terminal.sees("there is no node n09");
    assert_eq!(terminal.ends().code(), Some(4));
}

#[test]
fn it_is_suspended_with_the_terminal_as_it_was_and_goes_on() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let mut terminal = Terminal::start(&ctl, &["console", "n01"]);
    terminal.sees("n01 login: ");
    terminal.type_keys("~\u{1a}");
    let stopped = waitpid(terminal.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(terminal.pid(), Signal::SIGTSTP));
    assert!(terminal.is_as_before());
    kill(terminal.pid(), Signal::SIGCONT).unwrap();
    terminal.type_keys("x");
    terminal.sees("<x>");
    assert!(terminal.is_raw());
    terminal.type_keys("\r~.");
    assert_eq!(terminal.ends().code(), Some(0));
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let mut terminal = Terminal::start(&ctl, &["console", "n04"]);
    terminal.sees("trying again, ~. ends]");
    terminal.sees("[console of n04, logged: you type; ~. ends, ~? helps]");
    terminal.sees("n04 login: ");
    terminal.type_keys("~.");
    assert_eq!(terminal.ends().code(), Some(0));
}

#[test]
fn a_console_wants_a_terminal_and_its_log_does_nothing_to_one() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let (code, _, stderr) = ctl.run(&["console", "n01"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("--watch or --log"), "{stderr}");
    for usage in [&["console", "n01", "--raw"][..], &["console", "n01", "--log", "--watch"]] {
        assert_eq!(ctl.run(usage).0, 2, "{usage:?}");
    }
    let (code, stdout, stderr) = ctl.run(&["console", "--log", "n01", "--lines", "7"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "2026-11-21 00:00:01Z -- connected --\n2026-11-21 00:00:02Z 7 OK ^M\n");
    let (_, stdout, _) = ctl.run(&["console", "--log", "n01", "--raw"]);
    assert!(stdout.ends_with("50 \u{1b}[32mOK\u{1b}]0;x\u{7} \r\n"), "{stdout:?}");
    let (_, stdout, _) = ctl.run(&["console", "--log", "n01", "-o", "json"]);
    let line: serde_json::Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    assert_eq!(line["mark"], true);
}
