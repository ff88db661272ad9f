//! The node's disks: which there are, which could hold the overlay store, and what is on them.
//!
//! Reads only. What "blank" means is the promise that nobody's data is ever overwritten: the first
//! and last 64 MiB and 1,000 samples between read as zero.

use std::{
    fs,
    io::{self, Read as _, SeekFrom},
    path::{Path, PathBuf},
};

use haas_api::agent::{Disk, DiskState};

const MIB: u64 = 1 << 20;
/// Read whole at both ends.
const EDGE: u64 = 64 * MIB;
const SAMPLES: u64 = 1000;
const CHUNK: usize = 1 << 20;
const SAMPLE: usize = 4096;
/// A store needs room for its file system.
const SMALLEST: u64 = 256 * MIB;

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

    /// Whether a path of the inventory means this disk: `/dev/vdb`, or a `by-path` name, whose PCI
    /// address is looked for in sysfs since there is no udev here.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        if Path::new(path) == self.device() {
            return true;
        }
        let Some(rest) = path.strip_prefix("/dev/disk/by-path/") else { return false };
        let address = rest.split('-').nth(1).unwrap_or_default();
        let part = format!("/{address}/");
        address.contains(':') && self.sysfs.to_string_lossy().contains(&part)
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

/// What is on a disk that is not ours: nothing, or what it looks like.
pub(crate) fn look(disk: &mut (impl io::Read + io::Seek)) -> DiskState {
    match first_data(disk) {
        Ok(None) => DiskState::Blank,
        Ok(Some(at)) => {
            let known = signature(disk).ok().flatten();
            let looks_like = known.map_or_else(|| format!("unknown data at {at}"), str::to_owned);
            DiskState::Other { looks_like }
        }
        Err(error) => DiskState::Unusable { reason: format!("unreadable: {error}") },
    }
}

/// Where the first byte was found that is not zero, to the chunk; `None` if the disk is blank.
fn first_data(disk: &mut (impl io::Read + io::Seek)) -> io::Result<Option<u64>> {
    let size = disk.seek(SeekFrom::End(0))?;
    let zeroes = vec![0; CHUNK];
    let mut buffer = vec![0; CHUNK];
    let mut has_data = |disk: &mut dyn ReadSeek, at: u64, len: usize| -> io::Result<bool> {
        disk.seek(SeekFrom::Start(at))?;
        disk.read_exact(&mut buffer[..len])?;
        Ok(buffer[..len] != zeroes[..len])
    };
    let mut edges = vec![(0, EDGE.min(size)), (size.saturating_sub(EDGE), size)];
    if size <= 2 * EDGE {
        edges = vec![(0, size)];
    }
    for (start, end) in edges {
        let mut at = start;
        while at < end {
            let len = (CHUNK as u64).min(end - at);
            if has_data(disk, at, len as usize)? {
                return Ok(Some(at));
            }
            at += len;
        }
    }
    if size > 2 * EDGE {
        let middle = size - 2 * EDGE;
        for sample in 0..SAMPLES {
            let at = EDGE + (u128::from(middle) * u128::from(sample) / u128::from(SAMPLES)) as u64;
            let at = at / SAMPLE as u64 * SAMPLE as u64;
            let len = (SAMPLE as u64).min(size - at) as usize;
            if has_data(disk, at, len)? {
                return Ok(Some(at));
            }
        }
    }
    Ok(None)
}

trait ReadSeek: io::Read + io::Seek {}
impl<T: io::Read + io::Seek> ReadSeek for T {}

/// What is recognised, for people: (offset, bytes, name), the most telling first.
const SIGNATURES: [(u64, &[u8], &str); 15] = [
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"XFSB", "xfs"),
    (0x218, b"LVM2 001", "LVM"),
    (0x18, b"LVM2 001", "LVM"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0x438, b"\x53\xef", "ext2, ext3 or ext4"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "md RAID"),
    (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0, b"hsqs", "squashfs"),
    (0xff6, b"SWAPSPACE2", "swap"),
    (3, b"NTFS    ", "ntfs"),
    (0x52, b"FAT32", "fat"),
    (0x8001, b"CD001", "iso9660"),
    (0x200, b"EFI PART", "gpt"),
    (0x1fe, b"\x55\xaa", "an MBR partition table or boot sector"),
];

fn signature(disk: &mut (impl io::Read + io::Seek)) -> io::Result<Option<&'static str>> {
    let mut head = Vec::new();
    disk.seek(SeekFrom::Start(0))?;
    disk.take(0x11000).read_to_end(&mut head)?;
    let found = SIGNATURES.iter().find(|(at, bytes, _)| {
        let at = *at as usize;
        head.get(at..at + bytes.len()) == Some(*bytes)
    });
    Ok(found.map(|(_, _, name)| *name))
}

/// The serial number in VPD page 80h.
fn page_80(page: &[u8]) -> Option<String> {
    let len = usize::from(*page.get(2)?) << 8 | usize::from(*page.get(3)?);
    let text = String::from_utf8_lossy(page.get(4..4 + len)?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use super::*;

    fn sparse(size: u64, data: &[(u64, &[u8])]) -> fs::File {
        let mut file = tempfile::tempfile().expect("file");
        file.set_len(size).expect("size");
        for (at, bytes) in data {
            file.seek(SeekFrom::Start(*at)).expect("seek");
            io::Write::write_all(&mut file, bytes).expect("write");
        }
        file
    }

    #[test]
    fn zeroes_are_blank() {
        assert_eq!(look(&mut sparse(1 << 30, &[])), DiskState::Blank);
        assert_eq!(look(&mut sparse(100 * MIB, &[])), DiskState::Blank);
    }

    #[test]
    fn one_byte_at_an_edge_is_data() {
        for at in [0, EDGE - 1, (1 << 30) - 1, (1 << 30) - EDGE] {
            let state = look(&mut sparse(1 << 30, &[(at, &[1])]));
            assert!(
                matches!(&state, DiskState::Other { looks_like } if looks_like.starts_with("unknown data")),
                "{at}: {state:?}"
            );
        }
    }

    #[test]
    fn data_in_the_middle_is_found_by_samples() {
        let block = vec![7; 4 * MIB as usize];
        let state = look(&mut sparse(1 << 30, &[(500 * MIB, &block)]));
        assert!(matches!(state, DiskState::Other { .. }));
    }

    #[test]
    fn what_is_there_is_named() {
        let cases: [(u64, &[u8], &str); 3] = [
            (0x438, b"\x53\xef", "ext2, ext3 or ext4"),
            (0x200, b"EFI PART", "gpt"),
            (0, b"LUKS\xba\xbe", "LUKS"),
        ];
        for (at, bytes, name) in cases {
            let state = look(&mut sparse(300 * MIB, &[(at, bytes)]));
            assert_eq!(state, DiskState::Other { looks_like: name.to_owned() });
        }
    }

    #[test]
    fn a_disk_is_found_by_its_path() {
        let disk = Candidate {
            name: "vdb".into(),
            serial: None,
            model: None,
            size: 0,
            sysfs: "/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vdb".into(),
            unusable: None,
        };
        assert!(disk.is_at("/dev/vdb") && disk.is_at("/dev/disk/by-path/pci-0000:00:05.0"));
        assert!(!disk.is_at("/dev/vda") && !disk.is_at("/dev/disk/by-path/pci-0000:00:06.0"));
        assert!(!disk.is_at("/dev/disk/by-path/") && !disk.is_at(""));
    }
}
