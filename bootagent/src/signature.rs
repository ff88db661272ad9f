//! What is on a disk that is not ours: nothing, or what it looks like.
//!
//! Reads only. What "blank" means is the promise that nobody's data is ever overwritten: the first
//! and last 64 MiB and 1,000 samples between read as zero. The names are for people, who decide by
//! them; no name lets a disk be written.

use std::io::{self, Read, Seek, SeekFrom};

use gptman::GPT;
use haas_api::agent::DiskState;

const MIB: u64 = 1 << 20;
/// Read whole at both ends.
const EDGE: u64 = 64 * MIB;
const SAMPLES: u64 = 1000;
const CHUNK: usize = 1 << 20;
const SAMPLE: usize = 4096;

/// How many partitions are looked into.
const PARTITIONS: usize = 16;
/// Of a disk's or partition's beginning, all that the signatures below need.
const HEAD: u64 = 256 << 10;
const SECTOR: u64 = 512;

/// Looks at a whole disk.
pub(crate) fn look(disk: &mut (impl Read + Seek)) -> DiskState {
    let seen = first_data(disk).and_then(|at| match at {
        Some(at) => Ok(Some((at, name(disk)?))),
        None => Ok(None),
    });
    match seen {
        Ok(None) => DiskState::Blank,
        Ok(Some((at, name))) => {
            let looks_like = name.unwrap_or_else(|| format!("unknown data at {at}"));
            DiskState::Other { looks_like }
        }
        Err(error) => DiskState::Unusable { reason: format!("unreadable: {error}") },
    }
}

/// Where the first byte was found that is not zero, to the chunk; `None` if the disk is blank.
fn first_data(disk: &mut (impl Read + Seek)) -> io::Result<Option<u64>> {
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

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// What a disk is recognised as: what covers it whole, and its partitions with what is in them.
fn name(disk: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let size = disk.seek(SeekFrom::End(0))?;
    let table = table(disk)?;
    let whole = signature(disk, Part { start: 0, size })?;
    let Some((kind, mut parts)) = table else { return Ok(whole.map(str::to_owned)) };
    let in_reach = |part: &Part| {
        part.size > 0 && part.start.checked_add(part.size).is_some_and(|end| end <= size)
    };
    parts.retain(in_reach);
    let mut found = Vec::new();
    for part in parts.iter().take(PARTITIONS) {
        found.push(signature(disk, *part)?.unwrap_or("unknown"));
    }
    let mut text = match whole {
        // Such a one is told by its own boot sector too.
        Some("fat" | "ntfs" | "exfat") if parts.is_empty() => return Ok(whole.map(str::to_owned)),
        Some(whole) => format!("{whole}, {kind}"),
        None => kind.to_owned(),
    };
    if !found.is_empty() {
        text += &format!(": {}", found.join(" + "));
    }
    Ok(Some(text))
}

/// A range of bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: u64,
    size: u64,
}

/// The partition table: its kind, and where the partitions are.
fn table(disk: &mut (impl Read + Seek)) -> io::Result<Option<(&'static str, Vec<Part>)>> {
    // Wherever it is: with sectors of 512 bytes or 4 KiB, at the beginning or only at the end.
    if let Ok(gpt) = GPT::find_from(disk) {
        let part = |(_, entry): (u32, &gptman::GPTPartitionEntry)| {
            let sectors = entry.ending_lba.checked_add(1)?.checked_sub(entry.starting_lba)?;
            Some(Part {
                start: entry.starting_lba.checked_mul(gpt.sector_size)?,
                size: sectors.checked_mul(gpt.sector_size)?,
            })
        };
        return Ok(Some((
            "gpt",
            gpt.iter().filter(|(_, p)| p.is_used()).filter_map(part).collect(),
        )));
    }
    for sector in [SECTOR, 4096] {
        if read(disk, sector, 8)? == b"EFI PART" {
            return Ok(Some(("a damaged gpt", Vec::new())));
        }
    }
    let sector = read(disk, 0, SECTOR)?;
    if sector.get(0x200 - 2..) != Some(&[0x55, 0xaa]) {
        return Ok(None);
    }
    let entry = |entry: &[u8]| {
        let number =
            |at: usize| entry[at..at + 4].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let (kind, start, sectors) = (entry[4], number(8), number(12));
        (kind != 0).then_some(Part { start: start * SECTOR, size: sectors * SECTOR })
    };
    let parts: Vec<_> = sector[0x1be..0x1fe].chunks(16).filter_map(entry).collect();
    Ok(Some(if parts.is_empty() {
        ("a boot sector", parts)
    } else {
        ("an MBR partition table", parts)
    }))
}

/// What is recognised at a place counted from the beginning, the most telling first: what joins
/// several disks goes before what may be seen through it.
const AT_BEGINNING: [(usize, &[u8], &str); 25] = [
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0x1000, MD, "md RAID"),
    (0, MD, "md RAID"),
    (0x18, b"LVM2 001", "LVM"),
    (0x218, b"LVM2 001", "LVM"),
    (0x418, b"LVM2 001", "LVM"),
    (0x618, b"LVM2 001", "LVM"),
    (0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    (0, b"bluestore block device", "Ceph"),
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0x438, b"\x53\xef", "ext2/3/4"),
    (0x400, b"\x10\x20\xf5\xf2", "f2fs"),
    (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0x8000, b"JFS1", "jfs"),
    (0, b"hsqs", "squashfs"),
    (0xff6, b"SWAPSPACE2", "swap"),
    (0xff6, b"S1SUSPEND", "a hibernated system's swap"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"EXFAT   ", "exfat"),
    (0x52, b"FAT32", "fat"),
    (0x36, b"FAT16", "fat"),
    (0x36, b"FAT12", "fat"),
    (0x8001, b"CD001", "iso9660"),
];

/// The magic number of Linux' software RAID, as little-endian machines write it.
const MD: &[u8] = b"\xfc\x4e\x2b\xa9";

/// What a range of bytes is recognised as.
fn signature(disk: &mut (impl Read + Seek), part: Part) -> io::Result<Option<&'static str>> {
    if let Some(raid) = at_end(disk, part)? {
        return Ok(Some(raid));
    }
    let head = read(disk, part.start, HEAD.min(part.size))?;
    let found =
        AT_BEGINNING.iter().find(|(at, bytes, _)| head.get(*at..*at + bytes.len()) == Some(*bytes));
    if let Some((_, _, name)) = found {
        return Ok(Some(name));
    }
    // A ring of blocks, of which any may be the first that was written.
    let ring = head.get(128 << 10..).unwrap_or_default();
    let is_zfs = ring.chunks(1 << 10).any(|block| block.starts_with(b"\x0c\xb1\xba\0\0\0\0\0"));
    Ok(is_zfs.then_some("ZFS"))
}

/// What RAIDs write at a disk's end, where an old system's file systems are seen as before.
fn at_end(disk: &mut (impl Read + Seek), part: Part) -> io::Result<Option<&'static str>> {
    const LARGE: u64 = 64 << 10;
    let size = part.size;
    let places: [(Option<u64>, &[u8], &str); 4] = [
        // Versions 1.0 and 0.90 of its superblock.
        (size.checked_sub(8 << 10).map(|at| at / 4096 * 4096), MD, "md RAID"),
        ((size / LARGE * LARGE).checked_sub(LARGE), MD, "md RAID"),
        (size.checked_sub(1024), b"Intel Raid ISM Cfg Sig. ", "an Intel RAID"),
        (size.checked_sub(512), b"\xde\x11\xde\x11", "a DDF RAID"),
    ];
    for (at, bytes, name) in places {
        if let Some(at) = at
            && read(disk, part.start + at, bytes.len() as u64)? == bytes
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Up to so many bytes: fewer at the disk's end.
fn read(disk: &mut (impl Read + Seek), at: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    disk.seek(SeekFrom::Start(at))?;
    disk.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Seek as _};

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

    fn named(disk: &mut fs::File) -> String {
        match look(disk) {
            DiskState::Other { looks_like } => looks_like,
            state => panic!("{state:?}"),
        }
    }

    #[test]
    fn what_is_there_is_named() {
        const SIZE: u64 = 300 * MIB + 4096 + 512;
        let cases: [(u64, &[u8], &str); 10] = [
            (0x438, b"\x53\xef", "ext2/3/4"),
            (0, b"LUKS\xba\xbe", "LUKS"),
            (0x618, b"LVM2 001", "LVM"),
            (0x1000, MD, "md RAID"),
            ((SIZE - 8192) / 4096 * 4096, MD, "md RAID"),
            (SIZE / 65536 * 65536 - 65536, MD, "md RAID"),
            (SIZE - 1024, b"Intel Raid ISM Cfg Sig. 1.3", "an Intel RAID"),
            (SIZE - 512, b"\xde\x11\xde\x11", "a DDF RAID"),
            (0x1fe, b"\x55\xaa", "a boot sector"),
            (129 << 10, b"\x0c\xb1\xba\0\0\0\0\0", "ZFS"),
        ];
        for (at, bytes, name) in cases {
            assert_eq!(named(&mut sparse(SIZE, &[(at, bytes)])), name);
        }
        let damaged = named(&mut sparse(SIZE, &[(0x200, b"EFI PART"), (0x1fe, b"\x55\xaa")]));
        assert_eq!(damaged, "a damaged gpt");
    }

    #[test]
    fn partitions_are_looked_into_at_whatever_offset() {
        // An old PC's: the first partition behind one track, the second at an odd sector.
        let mut entry = [0; 32];
        entry[4] = 7;
        entry[8..12].copy_from_slice(&63_u32.to_le_bytes());
        entry[12..16].copy_from_slice(&100_000_u32.to_le_bytes());
        entry[16 + 4] = 0x8e;
        entry[16 + 8..16 + 12].copy_from_slice(&100_063_u32.to_le_bytes());
        entry[16 + 12..].copy_from_slice(&50_000_u32.to_le_bytes());
        let pieces: [(u64, &[u8]); 4] = [
            (0x1be, &entry),
            (0x1fe, b"\x55\xaa"),
            (63 * 512 + 3, b"NTFS    "),
            (100_063 * 512 + 0x218, b"LVM2 001"),
        ];
        let text = named(&mut sparse(300 * MIB, &pieces));
        assert_eq!(text, "an MBR partition table: ntfs + LVM");
        // A mirror of such disks, with its mark at the end.
        let mirror = [&pieces[..], &[(300 * MIB - 8192, MD)]].concat();
        let text = named(&mut sparse(300 * MIB, &mirror));
        assert_eq!(text, "md RAID, an MBR partition table: ntfs + LVM");
        // Sizes beyond the disk are somebody's mistake and not ours.
        let mut beyond = entry;
        beyond[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let text = named(&mut sparse(300 * MIB, &[&[(0x1be, &beyond[..])], &pieces[1..]].concat()));
        assert_eq!(text, "an MBR partition table: LVM");
    }

    #[test]
    fn a_gpt_is_read_with_large_sectors_and_from_its_copy_at_the_end() {
        for (sector, odd) in [(512, 12_345), (4096, 777)] {
            let mut disk = sparse(300 * MIB, &[]);
            let mut gpt = GPT::new_from(&mut disk, sector, [1; 16]).expect("a table");
            gpt[1] = gptman::GPTPartitionEntry {
                partition_type_guid: [2; 16],
                unique_partition_guid: [3; 16],
                starting_lba: odd,
                ending_lba: odd + 20_000,
                attribute_bits: 0,
                partition_name: "data".into(),
            };
            gpt.write_into(&mut disk).expect("written");
            disk.seek(SeekFrom::Start(odd * sector)).expect("seek");
            io::Write::write_all(&mut disk, b"XFSB").expect("a file system");
            assert_eq!(named(&mut disk), "gpt: xfs");
            disk.seek(SeekFrom::Start(0)).expect("seek");
            io::Write::write_all(&mut disk, &[0; 1 << 16]).expect("its beginning is lost");
            assert_eq!(named(&mut disk), "gpt: xfs");
        }
    }
}
