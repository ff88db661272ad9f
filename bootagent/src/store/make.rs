//! Makes an overlay store: the partition table, the file system and the header, on a disk that may
//! be written as a whole.

use std::{
    fs,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use gptman::{GPT, GPTPartitionEntry};
use nix::mount::umount2;

use super::{FORMAT, Header, MOUNT, Owner, mount_ext4, wait_for_device, write_json};
use crate::{
    disk::Candidate,
    fault::{Fault, OrFault as _},
    log, sys,
};

/// The overlay partition is the first of the disks that we partition.
pub(super) const OVERLAY_NUMBER: u32 = 1;
pub(super) const OVERLAY_PARTITION: &str = "haas-overlay";
/// The overlay partition's name until the store in it is whole: a power cut before that leaves a
/// disk that may be begun anew.
pub(super) const UNFINISHED: &str = "haas-unfinished";
const CACHE_PARTITION: &str = "haas-cache";
/// "Linux file system data", 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it stands on the disk.
const LINUX_DATA: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];
const MIB: u64 = 1 << 20;

/// Partitions the disk and makes the file system and the header.
pub(super) fn make(disk: &Candidate, owner: Owner<'_>, cache_mib: u64) -> Result<PathBuf, Fault> {
    log::info(&format!("making the overlay store on {} ({} MiB)", disk.name, disk.size / MIB));
    let what = format!("cannot partition {}", disk.name);
    let id = random().or_retry("store-make", "no random numbers")?;
    let device = partition(disk, owner, cache_mib, id).or_hold("store-make", &what)?;
    let device = wait_for_device(&device)?;
    let uuid = uuid_text(id);
    let output = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "encrypt,quota,project", "-m", "0"])
        .args(["-E", "quotatype=prjquota,lazy_itable_init=1,lazy_journal_init=1"])
        .args(["-L", OVERLAY_PARTITION, "-U", &uuid])
        .arg(&device)
        .output()
        .or_retry("store-make", "cannot run mke2fs")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Fault::hold("store-make", format!("mke2fs fails: {}", text.trim())));
    }
    mount_ext4(&device)?;
    let header = Header {
        format: FORMAT,
        cluster_id: owner.cluster.to_owned(),
        node_id: owner.node.to_owned(),
        node_name: owner.name.to_owned(),
        store_id: uuid,
        generation: 0,
    };
    let written = fs::create_dir_all(Path::new(MOUNT).join("overlays"))
        .and_then(|()| write_json(&Path::new(MOUNT).join("store.json"), &header));
    umount2(MOUNT, nix::mount::MntFlags::empty()).or_retry("store-make", "cannot unmount")?;
    written.or_hold("store-make", "cannot write the store's header")?;
    mark_whole(disk).or_hold("store-make", &what)?;
    Ok(device)
}

/// Boot code for the protective MBR: `int 18h`, by which a BIOS is told to go on with its next device (BIOS Boot
/// Specification 1.01, section 6.7), and a halt. With zeroes in its place a BIOS that tries the disk
/// first runs them and hangs, and never comes to the network.
pub(crate) const NOTHING_TO_BOOT: [u8; 5] = [0xcd, 0x18, 0xf4, 0xeb, 0xfd];

/// The last step of making a store: from here on the partition is ours to keep.
fn mark_whole(disk: &Candidate) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(disk.device())?;
    let mut gpt = GPT::find_from(&mut file).map_err(io::Error::other)?;
    gpt[OVERLAY_NUMBER].partition_name = OVERLAY_PARTITION.into();
    gpt.write_into(&mut file).map_err(io::Error::other)?;
    file.sync_all()
}

fn partition(
    disk: &Candidate,
    owner: Owner<'_>,
    cache_mib: u64,
    id: [u8; 16],
) -> io::Result<PathBuf> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(disk.device())?;
    // A claimed disk may have tables and signatures at both ends.
    let zeroes = vec![0; MIB as usize];
    for at in [0, disk.size - MIB] {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&zeroes)?;
    }
    let sector = fs::read_to_string(disk.sysfs.join("queue/logical_block_size"))?;
    let sector: u64 = sector.trim().parse().map_err(io::Error::other)?;
    let mut gpt = GPT::new_from(&mut file, sector, id).map_err(io::Error::other)?;
    gpt.align = MIB / sector;
    let cache = cache_mib * MIB / sector;
    let usable = gpt.get_maximum_partition_size().map_err(io::Error::other)?;
    let overlay = usable
        .checked_sub(cache)
        .filter(|sectors| *sectors * sector >= 128 * MIB)
        .ok_or_else(|| io::Error::other("no room for the store beside the cache"))?;
    let mut add = |number: u32, name: &str, guid: [u8; 16], sectors: u64| -> io::Result<()> {
        let start = gpt.find_first_place(sectors).ok_or_else(|| io::Error::other("no room"))?;
        gpt[number] = GPTPartitionEntry {
            partition_type_guid: LINUX_DATA,
            unique_partition_guid: guid,
            starting_lba: start,
            ending_lba: start + sectors - 1,
            attribute_bits: 0,
            partition_name: name.into(),
        };
        Ok(())
    };
    add(OVERLAY_NUMBER, UNFINISHED, owner.guid(), overlay / (MIB / sector) * (MIB / sector))?;
    if cache > 0 {
        add(2, CACHE_PARTITION, owner.cache_guid(), cache)?;
    }
    GPT::write_protective_mbr_into(&mut file, sector).map_err(io::Error::other)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&NOTHING_TO_BOOT)?;
    gpt.write_into(&mut file).map_err(io::Error::other)?;
    file.sync_all()?;
    sys::reread_partitions(&file)?;
    // What was on a claimed disk at the partition's beginning must not be taken for a file system.
    let device = disk.partition(1);
    let until = Instant::now() + Duration::from_secs(5);
    while !device.exists() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    let mut start = fs::OpenOptions::new().write(true).open(&device)?;
    start.write_all(&zeroes)?;
    start.sync_all()?;
    Ok(device)
}

/// Marks a store that was another node's as this node's.
pub(super) fn mark_as_ours(disk: &Candidate, owner: Owner<'_>) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(disk.device())?;
    let mut gpt = GPT::find_from(&mut file).map_err(io::Error::other)?;
    let guids = [(OVERLAY_PARTITION, owner.guid()), (CACHE_PARTITION, owner.cache_guid())];
    for (_, partition) in gpt.iter_mut() {
        let name = partition.partition_name.as_str().to_owned();
        if let Some((_, guid)) = guids.iter().find(|(ours, _)| *ours == name) {
            partition.unique_partition_guid = *guid;
        }
    }
    gpt.write_into(&mut file).map_err(io::Error::other)?;
    file.sync_all()
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    // Version 4, variant 1, as RFC 9562 section 5.4 has random ones.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

pub(super) fn uuid_text(id: [u8; 16]) -> String {
    let h = hex::encode(id);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}
