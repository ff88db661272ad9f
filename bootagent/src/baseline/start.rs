//! What firmware could start from a disk: the code in its first sectors, and partitions that are made for
//! that.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use gptman::GPT;
use haas_api::baseline::NOTHING;
use sha2::{Digest as _, Sha256};

use crate::store::NOTHING_TO_BOOT;

const MIB: u64 = 1 << 20;
/// Where a BIOS finds code in the first sector; behind it are the disk's number and its partitions.
const CODE: usize = 440;
/// So much of each partition is read: they are small, and what firmware starts lies in front.
const MOST: u64 = 1024 * MIB;

/// Partition types, as they lie on the disk: the EFI system partition, and what GRUB uses on a BIOS.
const EFI_SYSTEM: [u8; 16] = [
    0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B,
];
const BIOS_BOOT: [u8; 16] = [
    0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6F, 0x6E, 0x74, 0x4E, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49,
];
/// The same of the first in a table without GPT.
const EFI_SYSTEM_MBR: u8 = 0xEF;

/// In words with digests, the same as long as nothing of it is changed.
pub(super) fn what_starts(disk: &File, size: u64) -> io::Result<String> {
    let mut first = vec![0; usize::try_from(MIB.min(size)).map_err(io::Error::other)?];
    disk.read_exact_at(&mut first, 0)?;
    let mut words = Vec::new();
    if is_code(&first) {
        // What the first sector goes on with lies between it and the first partition.
        words.push(format!("boot code {}", short_digest(&first)));
    }
    let partitions = partitions(disk, &first)?;
    if !partitions.is_empty() {
        let mut hash = Sha256::new();
        for (from, length) in &partitions {
            add(&mut hash, disk, *from, (*length).min(MOST).min(size.saturating_sub(*from)))?;
        }
        let digest = hex::encode(&hash.finalize()[..16]);
        words.push(format!("{} boot partitions {digest}", partitions.len()));
    }
    Ok(if words.is_empty() { NOTHING.to_owned() } else { words.join(", ") })
}

/// Whether a first sector has code that starts something. What stands on a store of ours does not.
fn is_code(first: &[u8]) -> bool {
    let rest = first.strip_prefix(&NOTHING_TO_BOOT[..]).unwrap_or(first);
    let end = CODE - (first.len() - rest.len());
    rest.iter().take(end).any(|byte| *byte != 0)
}

/// First byte and length of each partition that firmware reads.
fn partitions(disk: &File, first: &[u8]) -> io::Result<Vec<(u64, u64)>> {
    if let Ok(gpt) = GPT::find_from(&mut disk.try_clone()?) {
        let starts = |kind: &[u8; 16]| [EFI_SYSTEM, BIOS_BOOT].contains(kind);
        let place = |(_, entry): (u32, &gptman::GPTPartitionEntry)| {
            let sectors = entry.ending_lba.checked_add(1)?.checked_sub(entry.starting_lba)?;
            let from = entry.starting_lba.checked_mul(gpt.sector_size)?;
            Some((from, sectors.checked_mul(gpt.sector_size)?))
        };
        let used = gpt.iter().filter(|(_, entry)| starts(&entry.partition_type_guid));
        return Ok(used.filter_map(place).collect());
    }
    if first.get(510..512) != Some(&[0x55, 0xAA]) {
        return Ok(Vec::new());
    }
    let (entries, _) = first.get(446..510).unwrap_or_default().as_chunks::<16>();
    let place = |entry: &[u8; 16]| {
        let [_, _, _, _, kind, _, _, _, f0, f1, f2, f3, n0, n1, n2, n3] = *entry;
        let sectors = |bytes| u64::from(u32::from_le_bytes(bytes)) * 512;
        (kind == EFI_SYSTEM_MBR).then(|| (sectors([f0, f1, f2, f3]), sectors([n0, n1, n2, n3])))
    };
    Ok(entries.iter().filter_map(place).collect())
}

fn add(hash: &mut Sha256, disk: &File, from: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(MIB).map_err(io::Error::other)?];
    let mut at = 0;
    while at < length {
        let part = usize::try_from(MIB.min(length - at)).map_err(io::Error::other)?;
        let read = &mut buffer[..part];
        disk.read_exact_at(read, from + at)?;
        hash.update(&*read);
        at += part as u64;
    }
    Ok(())
}

/// Long enough that nobody finds other bytes with the same one.
pub(super) fn short_digest(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 * MIB;

    fn blank() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        file
    }

    fn with_gpt(kind: [u8; 16]) -> File {
        let mut file = blank();
        let mut gpt = GPT::new_from(&mut file, 512, [1; 16]).unwrap();
        gpt[1] = gptman::GPTPartitionEntry {
            partition_type_guid: kind,
            unique_partition_guid: [3; 16],
            starting_lba: 4096,
            ending_lba: 8191,
            attribute_bits: 0,
            partition_name: "x".into(),
        };
        GPT::write_protective_mbr_into(&mut file, 512).unwrap();
        gpt.write_into(&mut file).unwrap();
        file
    }

    fn starts(disk: &File) -> String {
        what_starts(disk, SIZE).unwrap()
    }

    #[test]
    fn from_a_blank_disk_and_from_data_nothing_starts() {
        assert_eq!(starts(&blank()), NOTHING);
        let store = with_gpt([9; 16]);
        assert_eq!(starts(&store), NOTHING);
        store.write_all_at(&NOTHING_TO_BOOT, 0).unwrap();
        assert_eq!(starts(&store), NOTHING, "a disk that became a store of ours");
        store.write_all_at(&[0xEB], 439).unwrap();
        assert_ne!(starts(&store), NOTHING);
        let data = blank();
        data.write_all_at(b"data", 20 * MIB).unwrap();
        assert_eq!(starts(&data), NOTHING);
    }

    #[test]
    fn a_changed_file_in_an_efi_system_partition_is_seen() {
        for kind in [EFI_SYSTEM, BIOS_BOOT] {
            let disk = with_gpt(kind);
            let was = starts(&disk);
            assert!(was.starts_with("1 boot partitions "), "{was}");
            assert_eq!(was, starts(&disk));
            // Outside of it nothing counts, and inside the last byte does.
            disk.write_all_at(b"data", 8192 * 512).unwrap();
            assert_eq!(was, starts(&disk));
            disk.write_all_at(b"x", 8192 * 512 - 1).unwrap();
            assert_ne!(was, starts(&disk));
        }
    }

    #[test]
    fn boot_code_and_partitions_without_gpt_are_seen() {
        let disk = blank();
        disk.write_all_at(&[0xEB, 0x63], 0).unwrap();
        let was = starts(&disk);
        assert!(was.starts_with("boot code "), "{was}");
        disk.write_all_at(b"core", 1024).unwrap();
        assert_ne!(was, starts(&disk), "what it goes on with");

        let disk = blank();
        let entry = [0, 0, 0, 0, EFI_SYSTEM_MBR, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
        disk.write_all_at(&entry, 446).unwrap();
        disk.write_all_at(&[0x55, 0xAA], 510).unwrap();
        let was = starts(&disk);
        assert!(was.starts_with("1 boot partitions "), "{was}");
        disk.write_all_at(b"x", 2048 * 512).unwrap();
        assert_ne!(was, starts(&disk));
    }

    #[test]
    fn a_table_that_points_behind_the_end_is_read_as_far_as_there_is_a_disk() {
        let disk = blank();
        let entry = [0, 0, 0, 0, EFI_SYSTEM_MBR, 0, 0, 0, 0, 8, 0, 0, 255, 255, 255, 255];
        disk.write_all_at(&entry, 446).unwrap();
        disk.write_all_at(&[0x55, 0xAA], 510).unwrap();
        assert!(starts(&disk).starts_with("1 boot partitions "));
    }
}
