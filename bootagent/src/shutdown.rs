//! Ends the node in order: processes, then the overlay, then the store, then the session, then a
//! last word to haasd, and only then the power.
//!
//! With systemd as PID 1 the image ends itself and the agent follows: it is spared by its name and
//! keeps the root alive until the end. With any other init the agent ends the processes.

use std::{
    convert::Infallible,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use haas_api::agent::{HEARTBEAT_S, ShutdownHow, ToController};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, kill},
    },
    unistd::{Pid, sync},
};

use crate::{agent::Agent, channel::Channel, iscsi::Keeper, log, store};

/// How long processes get to end by themselves.
const TERM_WITHIN: Duration = Duration::from_secs(20);
const KILL_WITHIN: Duration = Duration::from_secs(5);
/// systemd's units have their own time-outs, 90 s by default.
const SYSTEMD_WITHIN: Duration = Duration::from_secs(300);
/// Without its root systemd waits for pages like everybody, and comes to no end.
const ROOT_WITHIN: Duration = Duration::from_secs(60);
const GOODBYE_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// The name of our program in /run/initramfs, as systemd wants it.
pub(crate) const NAME: &str = "shutdown";

/// systemd's signals: `SIGRTMIN+4` is poweroff.target, the next two reboot.target and kexec.target.
const SYSTEMD_POWEROFF: i32 = 4;
const SYSTEMD_REBOOT: i32 = 5;
const SYSTEMD_KEXEC: i32 = 6;

/// Ends the node.
pub(crate) fn run(agent: &Agent, how: ShutdownHow) {
    log::info(&format!("the node ends ({})", reason(how)));
    // Nobody else comes in.
    let _ = fs::write("/run/nologin", "This node is going down.\n");
    if pid1_is_systemd() {
        let signal = match how {
            ShutdownHow::Poweroff => SYSTEMD_POWEROFF,
            ShutdownHow::Reboot => SYSTEMD_REBOOT,
            ShutdownHow::Kexec => SYSTEMD_KEXEC,
        };
        if signal_pid1(libc::SIGRTMIN() + signal) {
            let until = Instant::now() + SYSTEMD_WITHIN;
            let mut attached = Instant::now();
            let mut beat = Beat::new(agent);
            while Instant::now() < until && attached.elapsed() < ROOT_WITHIN {
                if agent.keeper.is_attached() {
                    attached = Instant::now();
                }
                follow_systemd(agent);
                beat.keep();
                thread::sleep(POLL);
            }
            log::error("systemd does not end; the agent ends the node itself");
        }
    }
    let has_store = agent.has_store;
    let clean = while_beating(agent, move || {
        end_processes();
        close_file_systems(has_store)
    });
    finish(&agent.channel, Some(&agent.keeper), how, clean);
}

/// Says that the node lives while something takes its time: haasd cuts no node off whose dirty pages
/// become fewer.
fn while_beating(agent: &Agent, work: impl FnOnce() -> bool + Send + 'static) -> bool {
    let work = thread::spawn(work);
    let mut beat = Beat::new(agent);
    while !work.is_finished() {
        beat.keep();
        thread::sleep(POLL);
    }
    work.join().unwrap_or(false)
}

/// Heartbeats at their pace.
struct Beat<'a> {
    agent: &'a Agent,
    next: Instant,
}

impl<'a> Beat<'a> {
    fn new(agent: &'a Agent) -> Self {
        Self { agent, next: Instant::now() }
    }

    /// Sends one if it is time.
    fn keep(&mut self) {
        if Instant::now() >= self.next {
            self.agent.beat();
            self.next = Instant::now() + Duration::from_secs(HEARTBEAT_S);
        }
    }
}

/// Ends a node whose userspace never ran.
pub(crate) fn before_userspace(
    channel: &Channel,
    keeper: Option<&Keeper>,
    how: ShutdownHow,
) -> Infallible {
    sync();
    let clean = make_read_only(store::MOUNT) || !is_mount(store::MOUNT);
    finish(channel, keeper, how, clean)
}

/// Puts the agent's binary where systemd looks for a program to hand PID 1 to at its very end.
/// systemd then moves out of the overlay, and nothing holds it any more.
pub(crate) fn prepare_for_systemd() {
    if !pid1_is_systemd() {
        return;
    }
    let prepared = fs::create_dir_all("/run/initramfs")
        .and_then(|()| fs::copy("/init", Path::new("/run/initramfs").join(NAME)));
    if let Err(error) = prepared {
        log::error(&format!("systemd cannot hand the shutdown over: {error}"));
    }
}

/// PID 1 at the end of systemd's shutdown: holds the place while the agent does the rest.
pub(crate) fn hold_pid1() -> ! {
    loop {
        thread::park();
    }
}

/// Ends the node when systemd has handed over, whoever asked it to end.
pub(crate) fn follow_systemd(agent: &Agent) {
    if pid1_name() != NAME {
        return;
    }
    let how = verb(&fs::read_to_string("/proc/1/cmdline").unwrap_or_default());
    let has_store = agent.has_store;
    let clean = while_beating(agent, move || {
        sync();
        let merged = make_read_only("/proc/1/root/oldroot");
        let clean = merged && (!has_store || make_read_only(store::MOUNT));
        sync();
        clean
    });
    finish(&agent.channel, Some(&agent.keeper), how, clean);
}

/// What systemd was asked to do, by the arguments that it hands over.
fn verb(cmdline: &str) -> ShutdownHow {
    let find = |argument| match argument {
        "poweroff" | "halt" => Some(ShutdownHow::Poweroff),
        "kexec" => Some(ShutdownHow::Kexec),
        _ => None,
    };
    cmdline.split('\0').find_map(find).unwrap_or(ShutdownHow::Reboot)
}

fn end_processes() {
    // busybox init stops starting its children again; others take it as any program would.
    signal_pid1(libc::SIGTSTP);
    signal_all(Signal::SIGTERM);
    // Shells that talk to a person end with their line and not for SIGTERM.
    signal_all(Signal::SIGHUP);
    signal_all(Signal::SIGCONT);
    if !wait_alone(TERM_WITHIN) {
        signal_all(Signal::SIGKILL);
        wait_alone(KILL_WITHIN);
    }
}

/// Every process but this one and PID 1.
fn signal_all(signal: Signal) {
    if let Err(error) = kill(Pid::from_raw(-1), signal)
        && error != Errno::ESRCH
    {
        log::error(&format!("cannot send {signal} to all: {error}"));
    }
}

fn wait_alone(within: Duration) -> bool {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if !others_run() {
            return true;
        }
        thread::sleep(POLL);
    }
    false
}

/// Whether a process other than PID 1, this one and the kernel's own is left.
fn others_run() -> bool {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            return false;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        pid != 1 && pid != own && is_user_process(&stat)
    })
}

/// By /proc/PID/stat: not a zombie, and no child of kthreadd (PID 2).
fn is_user_process(stat: &str) -> bool {
    let Some((pid, rest)) = stat.split_once(' ') else { return false };
    // The name may hold blanks and brackets: what counts stands behind its last bracket.
    let Some((_, rest)) = rest.rsplit_once(") ") else { return false };
    let mut fields = rest.split(' ');
    let state = fields.next().unwrap_or_default();
    let parent = fields.next().unwrap_or_default();
    !matches!(state, "Z" | "X") && parent != "2" && pid != "2"
}

/// Makes the overlay and its store read-only, which writes everything and closes the journal. PID 1
/// holds the root, so that it cannot be unmounted.
fn close_file_systems(has_store: bool) -> bool {
    sync();
    let merged = make_read_only("/proc/1/root/");
    let store = !has_store || make_read_only(store::MOUNT);
    if !merged || !store {
        log::error("the overlay cannot be closed cleanly; it is written to the disk");
    }
    sync();
    merged && store
}

fn make_read_only(at: &str) -> bool {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let until = Instant::now() + Duration::from_secs(3);
    loop {
        match mount(None::<&str>, at, None::<&str>, flags, None::<&str>) {
            Ok(()) => return true,
            Err(error) if Instant::now() > until => {
                log::error(&format!("{at} cannot be made read-only: {error}"));
                return false;
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

fn finish(channel: &Channel, keeper: Option<&Keeper>, how: ShutdownHow, clean: bool) -> Infallible {
    let goodbye = ToController::Goodbye { reason: reason(how).to_owned(), clean };
    channel.say_last(goodbye, GOODBYE_WITHIN);
    if let Some(keeper) = keeper {
        keeper.logout();
    }
    if how == ShutdownHow::Kexec {
        // Comes back only with an error: no kernel is loaded.
        let Err(error) = reboot(RebootMode::RB_KEXEC);
        log::error(&format!("the kernel refuses to kexec: {error}; the node reboots"));
    }
    let mode = match how {
        ShutdownHow::Poweroff => RebootMode::RB_POWER_OFF,
        ShutdownHow::Reboot | ShutdownHow::Kexec => RebootMode::RB_AUTOBOOT,
    };
    loop {
        // Comes back only with an error.
        let Err(error) = reboot(mode);
        log::error(&format!("the kernel refuses to {}: {error}", reason(how)));
        thread::sleep(Duration::from_secs(10));
    }
}

fn reason(how: ShutdownHow) -> &'static str {
    match how {
        ShutdownHow::Poweroff => "poweroff",
        ShutdownHow::Reboot => "reboot",
        ShutdownHow::Kexec => "kexec",
    }
}

/// Whether PID 1 is systemd. It is started as `init` and takes its own name only later, so the
/// program's file counts.
pub(crate) fn pid1_is_systemd() -> bool {
    fs::read_link("/proc/1/exe").is_ok_and(|exe| exe.file_name().is_some_and(|n| n == "systemd"))
}

/// The name of PID 1's program.
pub(crate) fn pid1_name() -> String {
    fs::read_to_string("/proc/1/comm").unwrap_or_default().trim().to_owned()
}

fn signal_pid1(number: i32) -> bool {
    crate::sys::signal(1, number).is_ok()
}

fn is_mount(at: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    device(Path::new(at)) != device(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_was_asked_for_is_the_first_word_of_its_own() {
        for (line, how) in [
            ("/shutdown\0poweroff\0--log-level\x006\0", ShutdownHow::Poweroff),
            ("/shutdown\0halt\0", ShutdownHow::Poweroff),
            ("/shutdown\0kexec\0--log-target\0kmsg\0", ShutdownHow::Kexec),
            ("/shutdown\0reboot\0", ShutdownHow::Reboot),
            ("", ShutdownHow::Reboot),
        ] {
            assert_eq!(verb(line), how, "{line:?}");
        }
    }

    #[test]
    fn kernel_threads_and_zombies_are_no_user_processes() {
        assert!(is_user_process("77 (sh) S 1 77 77 0"));
        assert!(is_user_process("78 (a) b) Z) S 1 77 77 0"));
        assert!(!is_user_process("78 (sh) Z 1 77 77 0"));
        assert!(!is_user_process("9 (kworker/0:1) I 2 0 0 0"));
        assert!(!is_user_process("2 (kthreadd) S 0 0 0 0"));
        assert!(!is_user_process(""));
    }
}
