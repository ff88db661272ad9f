//! What runs, read back from the kernel: mounts, sysfs, addresses. Nothing here is echoed from the
//! boot plan but its generation, which names the plan that the proof belongs to.

use std::{
    fs,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use haas_api::{
    agent::{BootPlan, Proof},
    names::Mac,
};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};

use crate::{net, overlay};

/// A mount as /proc/PID/mountinfo shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// `MAJOR:MINOR` of its device.
    device: String,
    at: String,
    kind: String,
    options: String,
}

/// Puts the proof together.
pub(crate) fn gather(plan: &BootPlan) -> io::Result<Proof> {
    let root = find_mount(&fs::read_to_string("/proc/1/mountinfo")?, "/")
        .filter(|mount| mount.kind == "overlay")
        .ok_or_else(|| io::Error::other("the root of PID 1 is no overlay"))?;
    let option = |name: &str| {
        let text = root.options.split(',').find_map(|o| o.strip_prefix(name));
        text.map(str::to_owned)
            .ok_or_else(|| io::Error::other(format!("the root's mount has no {name}")))
    };
    let lower = option("lowerdir=")?;
    let disk = find_mount(&fs::read_to_string("/proc/self/mountinfo")?, &lower)
        .ok_or_else(|| io::Error::other(format!("nothing is mounted on {lower}")))?;
    let device = fs::canonicalize(Path::new("/sys/dev/block").join(&disk.device))?;
    let upper = option("upperdir=")?;
    let shard = Path::new(&upper).parent().unwrap_or(Path::new("/"));
    // A layer in RAM has no metadata; its rank is where programs look for it.
    let meta = overlay::read_meta(shard).ok();
    let rank = match &meta {
        Some(meta) => meta.rank,
        None => read_trimmed(Path::new("/run/haas/rank"))?.parse().map_err(io::Error::other)?,
    };
    Ok(Proof {
        generation: plan.generation,
        wwid: wwid(&device)?,
        target: read_trimmed(&session_of(&device)?.join("targetname"))?,
        read_only: read_trimmed(&device.join("ro"))? == "1",
        overlay_id: meta.map(|meta| meta.overlay_id),
        rank,
        hostname: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        addresses: net::addresses(boot_nic(plan)),
        machine_id: read_in_root("etc/machine-id")?.trim().to_owned(),
        kernel: read_trimmed(Path::new("/proc/sys/kernel/osrelease"))?,
        says_ready: true,
    })
}

/// A disk's identity from VPD page 83h: its NAA name where it has one, else EUI-64, else T10.
pub(crate) fn wwid(device: &Path) -> io::Result<String> {
    let path = device.join("device/vpd_pg83");
    let page = fs::read(&path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    designator(&page).ok_or_else(|| io::Error::other("VPD page 83h names no logical unit"))
}

/// The best name of the logical unit in VPD page 83h (SPC-4 section 7.8.6).
fn designator(page: &[u8]) -> Option<String> {
    let len = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let mut rest = page.get(4..4 + len).unwrap_or_else(|| page.get(4..).unwrap_or_default());
    let mut best = None;
    while let [_, kind, _, len, data @ ..] = rest {
        let Some(name) = data.get(..usize::from(*len)) else { break };
        rest = data.get(usize::from(*len)..).unwrap_or_default();
        // Other associations name the port or the target and not the logical unit.
        let found = match (kind >> 4 & 3, kind & 0xf) {
            (0, 3) => (3, format!("naa.{}", hex::encode(name))),
            (0, 2) => (2, format!("eui.{}", hex::encode(name))),
            (0, 1) => {
                let text = String::from_utf8_lossy(name);
                (1, format!("t10.{}", text.split_whitespace().collect::<Vec<_>>().join(" ")))
            }
            _ => continue,
        };
        best = best.max(Some(found));
    }
    best.map(|(_, name)| name)
}

fn boot_nic(plan: &BootPlan) -> Mac {
    plan.net.mac
}

/// The iSCSI session's folder in sysfs that a disk hangs on.
fn session_of(device: &Path) -> io::Result<PathBuf> {
    let session = device
        .components()
        .filter_map(|c| c.as_os_str().to_str())
        .find(|part| part.strip_prefix("session").is_some_and(|n| n.parse::<u32>().is_ok()))
        .ok_or_else(|| io::Error::other("the root's disk hangs on no iSCSI session"))?;
    Ok(Path::new("/sys/class/iscsi_session").join(session))
}

/// The last mount at a place, which hides those before it.
fn find_mount(mountinfo: &str, at: &str) -> Option<Mount> {
    let mut mounts = mountinfo.lines().rev().filter_map(|line| {
        let (before, behind) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let device = before.next()?.to_owned();
        let place = before.nth(1)?.to_owned();
        let mut behind = behind.split(' ');
        let kind = behind.next()?.to_owned();
        let options = behind.nth(1).unwrap_or_default().to_owned();
        Some(Mount { device, at: place, kind, options })
    });
    mounts.find(|mount| mount.at == at)
}

/// Reads a file of the image's root. Links in it are the user's, and must not lead out of it.
fn read_in_root(path: &str) -> io::Result<String> {
    let root = fs::File::open("/proc/1/root")?;
    let file = open_in(&root, path, OFlag::O_RDONLY)?;
    let mut text = String::new();
    fs::File::from(file).take(64 * 1024).read_to_string(&mut text)?;
    Ok(text)
}

/// Opens a path inside a root, as a process chrooted there would.
pub(crate) fn open_in(root: &fs::File, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    Ok(openat2(root, path, how)?)
}

fn read_trimmed(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_with_and_without_optional_fields() {
        let text = "22 1 0:21 / / rw shared:1 master:2 - rootfs none rw\n\
                    30 22 0:25 / / rw,relatime - overlay haas rw,lowerdir=/lower,upperdir=/store/overlays/o/upper\n\
                    rubbish\n\
                    31 30 8:0 / /lower ro - erofs /dev/sda ro\n";
        let root = find_mount(text, "/").expect("root");
        assert_eq!(root.kind, "overlay", "the last one counts");
        assert!(root.options.contains("upperdir=/store/overlays/o/upper"));
        assert_eq!(find_mount(text, "/lower").expect("lower").device, "8:0");
        assert_eq!(find_mount(text, "/none"), None);
    }

    #[test]
    fn the_naa_name_is_taken_before_others() {
        let mut page = vec![0, 0x83, 0, 0];
        page.extend([2, 1, 0, 12]);
        page.extend(b"HAAS    abcd");
        page.extend([1, 0x13, 0, 8, 9, 9, 9, 9, 9, 9, 9, 9]);
        page.extend([1, 3, 0, 8, 0x31, 2, 3, 4, 5, 6, 7, 0xff]);
        page[3] = (page.len() - 4) as u8;
        assert_eq!(designator(&page).as_deref(), Some("naa.31020304050607ff"));
        page.truncate(20);
        assert_eq!(designator(&page).as_deref(), Some("t10.HAAS abcd"));
        assert_eq!(designator(&page[..6]), None);
        assert_eq!(designator(&[]), None);
    }

    #[test]
    fn the_session_is_found_in_the_devices_path() {
        let disk = Path::new("/sys/devices/platform/host3/session2/target3:0:0/3:0:0:0/block/sda");
        assert!(session_of(disk).expect("session").ends_with("session2"));
        session_of(Path::new("/sys/devices/pci/sessions/sda")).expect_err("no session");
    }
}
