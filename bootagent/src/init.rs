//! PID 1 of the initramfs: mounts what the kernel offers, loads drivers, starts the agent in a root
//! of its own, and becomes the image's init when the agent says so.
//!
//! The agent is a process of its own from the beginning, in a tmpfs of its own, so that nothing has
//! to be handed over at switch_root: its channel, its iSCSI session and its mounts just go on.

use std::{
    ffi::OsStr,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt as _, net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, chdir, chroot},
};

use crate::{log, modules::Modules};

/// The agent's own root, a tmpfs mounted here.
pub(crate) const AGENT_ROOT: &str = "/agent";
/// The agent's name in `argv[0]`: systemd spares a process whose name begins with `@`, since it may
/// be what keeps the root alive.
pub(crate) const AGENT_NAME: &str = "@haas-agent";

/// How often the hardware is looked at again, for buses that are slow.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const BEFORE_REBOOT: Duration = Duration::from_secs(30);

/// Runs as PID 1; ends only by becoming the image's init.
pub(crate) fn run() -> ! {
    let error = match start() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    log::error(&format!("the node cannot boot: {error}; it reboots in 30 s"));
    thread::sleep(BEFORE_REBOOT);
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    loop {
        thread::park();
    }
}

fn start() -> io::Result<std::convert::Infallible> {
    mount_kernel_file_systems(Path::new("/"))?;
    // Without this the kernel drops lines of ours when several come at once.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on");
    log::info(concat!("bootagent ", env!("CARGO_PKG_VERSION"), " starts"));
    let mut modules = Modules::open();
    modules.load_always();
    modules.coldplug();
    modules.coldplug();

    make_agent_root()?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut agent = Command::new(Path::new(AGENT_ROOT).join("init"))
        .arg0(AGENT_NAME)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let pid = agent.id();
    ours.set_read_timeout(Some(LOOK_AGAIN))?;
    let mut from_agent = BufReader::new(ours.try_clone()?);
    let mut line = String::new();
    loop {
        match from_agent.read_line(&mut line) {
            Ok(0) => break,
            Ok(_) => {
                let error = become_init(line.trim_end());
                // The agent tells haasd and holds the node.
                (&ours).write_all(format!("{error}\n").as_bytes())?;
                line.clear();
            }
            Err(error) if is_timeout(&error) => {
                modules.coldplug();
            }
            Err(error) => return Err(error),
        }
        if reap(pid) {
            break;
        }
    }
    let _ = agent.try_wait();
    Err(io::Error::other("the agent has ended"))
}

/// proc, sys, dev and run in a root.
fn mount_kernel_file_systems(root: &Path) -> io::Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    for (name, kind, flags, options) in [
        ("proc", "proc", quiet, ""),
        ("sys", "sysfs", quiet, ""),
        ("dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=755"),
    ] {
        let at = root.join(name);
        fs::create_dir_all(&at)?;
        mount(Some(kind), &at, Some(kind), flags, Some(options))?;
    }
    Ok(())
}

/// A tmpfs with the agent, its tools and its own proc, sys, dev and run.
fn make_agent_root() -> io::Result<()> {
    let root = Path::new(AGENT_ROOT);
    fs::create_dir_all(root)?;
    mount(Some("haas-agent"), root, Some("tmpfs"), MsFlags::MS_NODEV, Some("mode=700,size=64m"))?;
    for folder in ["sbin", "lib", "lib64", "etc", "tmp", "run", "lower", "store", "ram", "newroot"]
    {
        fs::create_dir(root.join(folder))?;
    }
    fs::copy("/init", root.join("init"))?;
    for folder in ["sbin", "lib", "lib64", "etc"] {
        let Ok(entries) = fs::read_dir(Path::new("/").join(folder)) else { continue };
        for entry in entries.flatten() {
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), root.join(folder).join(entry.file_name()))?;
            }
        }
    }
    mount_kernel_file_systems(root)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // The image's /run is this tmpfs too, so that the agent can reach it without the root.
    mount(Some("run"), &root.join("run"), Some("tmpfs"), flags, Some("mode=755,size=20%"))?;
    Ok(())
}

/// switch_root; comes back only if it fails.
fn become_init(init: &str) -> io::Error {
    let result = (|| -> io::Result<()> {
        chdir(&Path::new(AGENT_ROOT).join("newroot"))?;
        delete_root()?;
        mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
        chroot(".")?;
        chdir("/")?;
        Ok(())
    })();
    match result {
        // This also gives back the signals as the kernel has set them for a first process.
        Ok(()) => Command::new(init).exec(),
        Err(error) => error,
    }
}

/// Frees the initramfs's memory: deletes what lies in the root's own file system.
fn delete_root() -> io::Result<()> {
    let device = fs::symlink_metadata("/")?.dev();
    for entry in fs::read_dir("/")?.flatten() {
        delete(&entry.path(), device);
    }
    Ok(())
}

/// Best effort: what stays costs memory and nothing else.
fn delete(path: &Path, device: u64) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if metadata.dev() != device {
        return;
    }
    if metadata.is_dir() {
        if let Ok(entries) = fs::read_dir(path) {
            entries.flatten().for_each(|entry| delete(&entry.path(), device));
        }
        let _ = fs::remove_dir(path);
    } else {
        let _ = fs::remove_file(path);
    }
}

/// Collects processes that have ended; says whether the agent was one.
fn reap(agent: u32) -> bool {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))
                if pid.as_raw() as u32 == agent =>
            {
                return true;
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Whether the program was started under this name.
pub(crate) fn is_named(program: Option<&OsStr>, name: &str) -> bool {
    program.is_some_and(|p| Path::new(p).file_name() == Some(OsStr::new(name)))
}
