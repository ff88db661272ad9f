//! The node's disks: which there are, which could hold the overlay store, and which one an inventory
//! means. Reads only; what is on them says `signature.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use haas_api::agent::{Disk, DiskName, DiskState};

/// A store needs room for its file system.
const SMALLEST: u64 = 256 << 20;

/// The disks that the kernel knows, without what is on them.
pub(crate) fn list() -> Vec<Candidate> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.iter().filter_map(|name| Candidate::read(Path::new("/sys/block"), name)).collect()
}

/// A disk as sysfs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The kernel's name at this boot.
    pub name: String,
    /// The serial number.
    pub serial: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// Bytes.
    pub size: u64,
    /// The folder in /sys/devices, which tells the bus.
    pub sysfs: PathBuf,
    /// Why it cannot hold a store.
    pub unusable: Option<String>,
}

impl Candidate {
    fn read(block: &Path, name: &str) -> Option<Self> {
        const VIRTUAL: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "nbd", "fd", "rbd"];
        if VIRTUAL.iter().any(|v| name.starts_with(v)) {
            return None;
        }
        let folder = block.join(name);
        let text = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
            (!text.is_empty()).then_some(text)
        };
        let size = text("size")?.parse::<u64>().ok()? * 512;
        let sysfs = fs::canonicalize(&folder).ok()?;
        let path = sysfs.to_string_lossy();
        let serial = text("serial")
            .or_else(|| text("device/serial"))
            .or_else(|| fs::read(folder.join("device/vpd_pg80")).ok().and_then(|p| page_80(&p)));
        let has = |file: &str| text(file).as_deref() == Some("1");
        let unusable = if path.contains("/session") {
            Some("an iSCSI disk")
        } else if path.contains("/rport-") {
            Some("a disk of a storage network")
        } else if has("removable") || name.starts_with("sr") {
            Some("removable or a virtual medium")
        } else if path.contains("/usb") {
            Some("on USB")
        } else if has("ro") {
            Some("read-only")
        } else if size < SMALLEST {
            Some("smaller than 256 MiB")
        } else {
            None
        };
        Some(Self {
            name: name.to_owned(),
            serial,
            model: text("device/model"),
            size,
            unusable: unusable.map(str::to_owned),
            sysfs,
        })
    }

    /// The device file.
    pub(crate) fn device(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The device file of a partition.
    pub(crate) fn partition(&self, number: u32) -> PathBuf {
        let digit = self.name.ends_with(|c: char| c.is_ascii_digit());
        Path::new("/dev").join(format!("{}{}{number}", self.name, if digit { "p" } else { "" }))
    }

    /// The disk as people know it.
    pub(crate) fn told(&self) -> String {
        format!("{} (serial {})", self.name, self.serial.as_deref().unwrap_or("none"))
    }

    /// Whether it is an iSCSI session's: a root, or what a user has logged in to.
    pub(crate) fn is_iscsi(&self) -> bool {
        self.sysfs.to_string_lossy().contains("/session")
    }

    /// Whether the inventory means this disk.
    pub(crate) fn is(&self, name: &DiskName) -> bool {
        match name {
            DiskName::Serial(serial) => self.serial.as_ref() == Some(serial),
            DiskName::Path(path) => self.is_at(path),
        }
    }

    /// Whether a path means this disk: `/dev/vdb`, or a `by-path` name as udev makes them, which is
    /// looked for in sysfs since there is no udev here. A name that is not understood means no disk.
    fn is_at(&self, path: &str) -> bool {
        if Path::new(path) == self.device() {
            return true;
        }
        let Some(rest) = path.strip_prefix("/dev/disk/by-path/") else { return false };
        let rest = rest.strip_prefix("virtio-").unwrap_or(rest);
        let Some(rest) = rest.strip_prefix("pci-") else { return false };
        let (address, unit) = rest.split_once('-').unwrap_or((rest, ""));
        self.pci_address() == Some(address) && self.is_unit(unit)
    }

    /// The PCI function that the disk hangs on: the last one on the way to it.
    fn pci_address(&self) -> Option<&str> {
        let is_address = |part: &&str| part.len() == 12 && part.matches(':').count() == 2;
        self.parts().rev().find(|part| is_address(part) && part.contains('.'))
    }

    /// Whether the disk is this one of those on its PCI function.
    fn is_unit(&self, unit: &str) -> bool {
        let kind = unit.split_once('-');
        match kind {
            // Only where it is the only one there.
            None => unit.is_empty() && self.name.starts_with("vd"),
            Some(("ata", port)) => self.ata_port().as_deref() == Some(port.trim_end_matches(".0")),
            Some(("nvme", namespace)) => {
                self.name.starts_with("nvme") && self.name.ends_with(&format!("n{namespace}"))
            }
            // Channel, target and LUN; the host's number is counted from the controller's first.
            Some(("scsi", address)) => address.split_once(':').is_some_and(|(_, rest)| {
                self.parts().any(|part| {
                    part.split_once(':').is_some_and(|(host, own)| {
                        own == rest && host.bytes().all(|b| b.is_ascii_digit())
                    })
                })
            }),
            Some(_) => false,
        }
    }

    /// The port of its ATA controller, from 1.
    fn ata_port(&self) -> Option<String> {
        let is_ata =
            |name: &str| name.strip_prefix("ata").is_some_and(|n| n.parse::<u32>().is_ok());
        let ata = self
            .sysfs
            .ancestors()
            .find(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_ata))?;
        let port = ata.join("ata_port").join(ata.file_name()?).join("port_no");
        Some(fs::read_to_string(port).ok()?.trim().to_owned())
    }

    fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.sysfs.iter().filter_map(|part| part.to_str())
    }

    /// The disk as haasd is told of it.
    pub(crate) fn report(&self, state: DiskState) -> Disk {
        Disk {
            name: self.name.clone(),
            serial: self.serial.clone(),
            model: self.model.clone(),
            size: self.size,
            state,
        }
    }
}

/// The serial number in VPD page 80h.
fn page_80(page: &[u8]) -> Option<String> {
    let len = usize::from(*page.get(2)?) << 8 | usize::from(*page.get(3)?);
    let text = String::from_utf8_lossy(page.get(4..4 + len)?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
impl Candidate {
    /// A disk of 1 GiB that is nowhere in sysfs.
    pub(crate) fn fake(name: &str, serial: &str) -> Self {
        Self {
            name: name.into(),
            serial: Some(serial.into()),
            model: None,
            size: 1 << 30,
            sysfs: PathBuf::new(),
            unusable: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, sysfs: impl Into<PathBuf>) -> Candidate {
        Candidate { sysfs: sysfs.into(), ..Candidate::fake(name, "S") }
    }

    #[test]
    fn a_disk_is_found_by_its_path() {
        let disk = disk("vdb", "/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vdb");
        assert!(disk.is_at("/dev/vdb") && disk.is_at("/dev/disk/by-path/pci-0000:00:05.0"));
        assert!(disk.is_at("/dev/disk/by-path/virtio-pci-0000:00:05.0"));
        assert!(!disk.is_at("/dev/vda") && !disk.is_at("/dev/disk/by-path/pci-0000:00:06.0"));
        assert!(!disk.is_at("/dev/disk/by-path/pci-0000:00:05.0-part1"));
        assert!(!disk.is_at("/dev/disk/by-path/") && !disk.is_at(""));
    }

    #[test]
    fn of_several_disks_on_one_controller_the_path_means_one() {
        let sys = tempfile::tempdir().expect("folder");
        let pci = sys.path().join("pci0000:00/0000:00:1f.2");
        let on_port = |kernel: u32, port: &str, name: &str| {
            let ata = pci.join(format!("ata{kernel}"));
            let class = ata.join(format!("ata_port/ata{kernel}"));
            fs::create_dir_all(&class).expect("folders");
            fs::write(class.join("port_no"), format!("{port}\n")).expect("port");
            disk(name, ata.join("host0/target0:0:0/0:0:0:0/block").join(name))
        };
        // The kernel counts over all controllers, udev's names do not.
        let (first, third) = (on_port(7, "1", "sdb"), on_port(9, "3", "sda"));
        let path = |unit: &str| format!("/dev/disk/by-path/pci-0000:00:1f.2{unit}");
        assert!(first.is_at(&path("-ata-1")) && !third.is_at(&path("-ata-1")));
        assert!(third.is_at(&path("-ata-3")) && third.is_at(&path("-ata-3.0")));
        assert!(!first.is_at(&path("")) && !third.is_at(&path("")), "which of the two?");

        let bridge = "/sys/devices/pci0000:00/0000:00:1c.0/0000:01:00.0";
        let nvme = disk("nvme3n1", format!("{bridge}/nvme/nvme3/nvme3n1"));
        assert!(nvme.is_at("/dev/disk/by-path/pci-0000:01:00.0-nvme-1"));
        assert!(!nvme.is_at("/dev/disk/by-path/pci-0000:01:00.0-nvme-2"));
        assert!(!nvme.is_at("/dev/disk/by-path/pci-0000:00:1c.0"), "that is the bridge");
        let scsi = disk("sdc", format!("{bridge}/host4/target4:0:2/4:0:2:0/block/sdc"));
        assert!(scsi.is_at("/dev/disk/by-path/pci-0000:01:00.0-scsi-0:0:2:0"));
        assert!(!scsi.is_at("/dev/disk/by-path/pci-0000:01:00.0-scsi-0:0:1:0"));
        assert!(!scsi.is_at("/dev/disk/by-path/pci-0000:01:00.0-sas-phy2-lun-0"));
    }
}
