//! Disks that are not the users' to write: read-only in the kernel before users come, and as they
//! are plugged in later.
//!
//! This is against accidents, such as a RAID that an image's own tools put together, or a wrong name
//! behind `of=`. Who is root on the node can lift it (`blockdev --setrw`).

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
};

use haas_api::agent::DiskName;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};

use crate::{
    disk::{self, Candidate},
    fault::{Fault, OrFault as _},
    log, sys,
};

/// The kernel's own messages, among the groups of `NETLINK_KOBJECT_UEVENT`.
const KERNEL_GROUP: u32 = 1;

/// Which disks users may write.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// The kernel's name of the disk with the store.
    pub store: Option<String>,
    /// Those that the inventory gives to the users.
    pub scratch: Vec<DiskName>,
    /// Those that the kernel shall give up.
    pub detached: Vec<DiskName>,
}

impl Guard {
    /// Makes every other disk read-only, and from now on each that comes.
    pub(crate) fn start(self) -> Result<(), Fault> {
        // First listen, then look: nothing falls between the two.
        let events = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .or_retry("disk-guard", "cannot listen for new disks")?;
        bind(events.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))
            .or_retry("disk-guard", "cannot listen for new disks")?;
        self.lock_all().or_hold("disk-guard", "cannot make a disk read-only")?;
        let watch = move || {
            let mut message = vec![0; 8192];
            loop {
                let locked = match recv(events.as_raw_fd(), &mut message, MsgFlags::empty()) {
                    Ok(len) => added(&message[..len]).map_or(Ok(()), |name| self.lock_named(&name)),
                    Err(Errno::EINTR) => continue,
                    // Some were lost.
                    Err(Errno::ENOBUFS) => self.lock_all(),
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = locked {
                    log::error(&format!("a new disk may be written by users: {error}"));
                }
            }
        };
        thread::Builder::new()
            .name("guard".into())
            .stack_size(128 * 1024)
            .spawn(watch)
            .map(drop)
            .or_retry("disk-guard", "cannot start a thread")
    }

    fn lock_all(&self) -> io::Result<()> {
        disk::list().iter().try_for_each(|disk| self.lock(disk))
    }

    fn lock_named(&self, name: &str) -> io::Result<()> {
        disk::list().iter().filter(|disk| disk.name == name).try_for_each(|disk| self.lock(disk))
    }

    fn is_free(&self, disk: &Candidate) -> bool {
        // The target keeps the root's disk, and a user's own sessions are his.
        disk.is_iscsi()
            || self.store.as_ref() == Some(&disk.name)
            || self.scratch.iter().any(|name| disk.is(name))
    }

    fn lock(&self, disk: &Candidate) -> io::Result<()> {
        if self.is_free(disk) {
            return Ok(());
        }
        if self.detached.iter().any(|name| disk.is(name)) {
            log::info(&format!("{} is detached from this node", disk.told()));
            return detach(disk);
        }
        // Partitions too: kernels before 5.11 do not take this from their disk.
        for device in [vec![disk.device()], partitions(disk)].concat() {
            let opened =
                fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&device);
            match opened {
                Ok(file) => sys::set_read_only(&file)?,
                // A drive without a medium, or a disk that is broken: nobody writes to it either.
                Err(error) => log::info(&format!("{} is not looked at: {error}", device.display())),
            }
        }
        log::info(&format!("{} is read-only on this node", disk.told()));
        Ok(())
    }
}

/// Has the kernel give up a disk: a SCSI or SATA disk alone, others with the PCI function that they hang on.
fn detach(disk: &Candidate) -> io::Result<()> {
    let device = fs::canonicalize(disk.sysfs.join("device"))?;
    // The disk's own device, its controller, and the controller's function.
    let files = device.ancestors().take(3).flat_map(|at| [at.join("delete"), at.join("remove")]);
    match files.into_iter().find(|file| file.exists()) {
        Some(file) => fs::write(file, "1"),
        None => Err(io::Error::other(format!("{} cannot be detached", disk.told()))),
    }
}

/// The device files of a disk's partitions.
fn partitions(disk: &Candidate) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(&disk.sysfs) else { return Vec::new() };
    let is_partition = |path: &Path| path.join("partition").exists();
    entries
        .flatten()
        .filter(|entry| is_partition(&entry.path()))
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}

/// The disk that an event of the kernel says is new, or has a new partition.
fn added(message: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    let field = |key: &str| text.split('\0').find_map(|field| field.strip_prefix(key));
    if field("SUBSYSTEM=") != Some("block") || field("ACTION=") != Some("add") {
        return None;
    }
    let path = Path::new(field("DEVPATH=")?);
    let disk = match field("DEVTYPE=")? {
        "partition" => path.parent()?,
        _ => path,
    };
    Some(disk.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_disks_and_partitions_are_heard_and_nothing_else() {
        let event = |action: &str, subsystem: &str, path: &str, kind: &str| {
            let text = format!(
                "{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0DEVTYPE={kind}\0"
            );
            added(text.as_bytes())
        };
        let disk = "/devices/pci0000:00/0000:00:03.0/nvme/nvme1/nvme1n1";
        assert_eq!(event("add", "block", disk, "disk").as_deref(), Some("nvme1n1"));
        let part = format!("{disk}/nvme1n1p2");
        assert_eq!(event("add", "block", &part, "partition").as_deref(), Some("nvme1n1"));
        assert_eq!(event("remove", "block", disk, "disk"), None);
        assert_eq!(event("add", "net", "/devices/x/net/eth0", "disk"), None);
        assert_eq!(added(b"garbage"), None);
    }

    #[test]
    fn a_disk_is_detached_alone_or_with_its_own_controller() {
        for (place, file) in
            [("host0/target0/0:0:0:0", "delete"), ("0000:01:00.0/nvme/nvme0", "../../remove")]
        {
            let sys = tempfile::tempdir().expect("a folder");
            let device = sys.path().join(place);
            let block = device.join("block");
            fs::create_dir_all(&block).expect("folders");
            std::os::unix::fs::symlink(&device, block.join("device")).expect("a link");
            let file = device.join(file);
            fs::write(&file, "").expect("a file");
            let disk = Candidate { sysfs: block, ..Candidate::fake("sdz", "Z") };
            detach(&disk).expect("it is detached");
            assert_eq!(fs::read_to_string(&file).expect("a file"), "1");
            fs::remove_file(&file).expect("a file");
            assert!(detach(&disk).is_err());
        }
    }

    #[test]
    fn users_write_the_store_scratch_disks_and_their_own_sessions() {
        let disk = |name: &str, serial: &str, sysfs: &str| Candidate {
            sysfs: sysfs.into(),
            ..Candidate::fake(name, serial)
        };
        let guard = Guard {
            store: Some("sda".into()),
            scratch: vec![DiskName::Serial("B".into())],
            detached: Vec::new(),
        };
        assert!(guard.is_free(&disk("sda", "A", "")) && guard.is_free(&disk("sdb", "B", "")));
        assert!(!guard.is_free(&disk("sdc", "C", "")));
        assert!(guard.is_free(&disk("sdd", "D", "/sys/devices/platform/host3/session1/block/sdd")));
    }
}
