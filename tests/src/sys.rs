//! What needs `unsafe`: the steps that a child takes between fork and exec. Nothing else belongs here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, OnceLock, mpsc};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `command` so that it dies (by SIGKILL) with this process, however this process ends.
///
/// The kernel ties a child to the *thread* that forked it, so all are forked by one thread that lives
/// as long as the process; a test's own thread may end before its rack does.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                // The asker waits for the answer, so it is there to take it.
                let _ = answer.send(command.spawn());
            }
        });
        jobs
    });
    die_with_parent(&mut command, Signal::SIGKILL);
    let (answer, result) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    spawner.send((command, answer)).map_err(|_| gone(()))?;
    result.recv().map_err(|_| gone(()))?
}

/// Starts `command` in a session of its own: it outlives this process and its terminal.
pub(crate) fn spawn_detached(mut command: Command) -> io::Result<Child> {
    let hook = || nix::unistd::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: the hook makes one setsid system call: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
    command.spawn()
}

/// Has the kernel send `signal` to the child when the thread that forks it ends.
pub(crate) fn die_with_parent(command: &mut Command, signal: Signal) {
    let hook = move || nix::sys::prctl::set_pdeathsig(Some(signal)).map_err(io::Error::from);
    // SAFETY: the hook makes one prctl system call: it allocates nothing and takes no lock, which is
    // what a child of a threaded process may do before exec.
    unsafe { command.pre_exec(hook) };
}

/// Has the child enter the network namespace that `namespace` (a file of /run/netns) refers to.
pub(crate) fn enter_netns(command: &mut Command, namespace: Arc<File>) {
    let hook = move || setns(&*namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    // SAFETY: the hook makes one setns system call on a descriptor that it owns a share of: it
    // allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}

/// Has the child inherit only its standard streams, whatever its parent forgot to mark.
///
/// ipmi_sim leaves its LAN socket open for the chassis program; a node that outlives its BMC would
/// hold the BMC's port.
pub(crate) fn keep_only_standard_streams(command: &mut Command) {
    let hook = || {
        // SAFETY: close_range with CLOEXEC only marks descriptors; it closes none before exec and
        // touches no memory.
        let done = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the hook makes one close_range system call: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}
