//! The overlay store: our partition on the node's own disk, and its header.
//!
//! A disk is touched only if it is blank, ours, or was claimed by its serial number. Whose a store
//! is stands in the partition table, as the partition's GUID (a hash of cluster and node), so that
//! a foreign one is known without a write, not even of a journal's replay. The header counts the
//! openings (the generation): a store older than haasd knows is an old copy, and refused.

use std::{
    fs,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use gptman::{GPT, GPTPartitionEntry};
use haas_api::agent::{Disk, DiskSelector, DiskState, OverlayPlan};
use nix::mount::{MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    disk::{self, Candidate},
    fault::{Fault, OrFault as _},
    log, sys,
};

/// Where the store is mounted, in the agent's own root.
pub(crate) const MOUNT: &str = "/store";

const FORMAT: u32 = 1;
/// The overlay partition is the first of the disks that we partition.
const OVERLAY_NUMBER: u32 = 1;
const OVERLAY_PARTITION: &str = "haas-overlay";
/// The overlay partition's name until the store in it is whole: a power cut before that leaves a
/// disk that may be begun anew.
const UNFINISHED: &str = "haas-unfinished";
const CACHE_PARTITION: &str = "haas-cache";
/// "Linux file system data", 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it stands on the disk.
const LINUX_DATA: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];
const MIB: u64 = 1 << 20;
/// Room that is given free while a boot writes its few files, so that a store which its user has
/// filled to the last byte can still be booted, and be emptied by him.
const RESERVE: &str = "/store/reserve";
const RESERVE_SIZE: usize = 1 << 20;

/// Whom a store belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// The cluster's id.
    pub cluster: &'a str,
    /// The node's id.
    pub node: &'a str,
    /// The node's name, for people.
    pub name: &'a str,
}

impl Header {
    /// Whose it is, for people.
    fn belongs_to(&self) -> String {
        let name = if self.node_name.is_empty() { &self.node_id } else { &self.node_name };
        format!("node {name} of cluster {}", self.cluster_id)
    }
}

impl Owner<'_> {
    /// How a person lets this node have a disk, whatever is on it.
    fn how_to_claim(&self, disk: &Candidate) -> String {
        match &disk.serial {
            Some(serial) => format!(
                "take it out, or give it to haas, which loses what is on it: \
                 haasctl disk claim {} --serial {serial} --wipe",
                self.name
            ),
            None => {
                "it has no serial number to claim it by: take it out, or wipe it by hand".into()
            }
        }
    }

    fn guid(&self) -> [u8; 16] {
        let hash = Sha256::new()
            .chain_update("haas overlay store\0")
            .chain_update(self.cluster)
            .chain_update("\0")
            .chain_update(self.node)
            .finalize();
        let mut guid = [0; 16];
        guid.copy_from_slice(&hash[..16]);
        guid
    }
}

/// The store's header, `store.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The version of the store's layout.
    pub format: u32,
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// The node that it belongs to.
    pub node_id: String,
    /// That node's name when the store was made, for people who find the disk elsewhere.
    #[serde(default)]
    pub node_name: String,
    /// The store's own id.
    pub store_id: String,
    /// One more at each opening.
    pub generation: i64,
}

/// The store, mounted.
#[derive(Debug)]
pub(crate) struct Store {
    /// The header as this opening has written it.
    pub header: Header,
    /// The partition.
    pub device: PathBuf,
    /// The disk's serial number.
    pub serial: Option<String>,
    /// Whether this boot made it.
    pub created: bool,
}

/// What is on each disk of the node.
pub(crate) fn survey(owner: Owner<'_>) -> Vec<(Candidate, DiskState)> {
    let look = |disk: Candidate| {
        let state = match &disk.unusable {
            Some(reason) => DiskState::Unusable { reason: reason.clone() },
            None => inspect(&disk, owner),
        };
        (disk, state)
    };
    disk::list().into_iter().map(look).collect()
}

/// The survey as haasd is told of it.
pub(crate) fn report(survey: &[(Candidate, DiskState)]) -> Vec<Disk> {
    survey.iter().map(|(disk, state)| disk.report(state.clone())).collect()
}

/// The same once a store was made on one of the disks.
pub(crate) fn report_made(survey: &[(Candidate, DiskState)], store: &Store) -> Vec<Disk> {
    let ours = DiskState::Ours { store_id: store.header.store_id.clone() };
    let state = |disk: &Candidate, before: &DiskState| {
        let is_it = store.device == disk.partition(OVERLAY_NUMBER);
        if is_it { ours.clone() } else { before.clone() }
    };
    survey.iter().map(|(disk, before)| disk.report(state(disk, before))).collect()
}

fn inspect(disk: &Candidate, owner: Owner<'_>) -> DiskState {
    let mut file = match fs::File::open(disk.device()) {
        Ok(file) => file,
        Err(error) => return DiskState::Unusable { reason: format!("unreadable: {error}") },
    };
    let ours = GPT::find_from(&mut file).ok().and_then(|gpt| {
        let is_store = |name: &str| name == OVERLAY_PARTITION || name == UNFINISHED;
        let (number, entry) = gpt.iter().find(|(_, p)| is_store(p.partition_name.as_str()))?;
        let is_whole = entry.partition_name.as_str() == OVERLAY_PARTITION;
        Some((number, entry.unique_partition_guid, is_whole))
    });
    match ours {
        Some((_, guid, false)) if guid == owner.guid() => DiskState::Blank,
        Some((number, guid, true)) if guid == owner.guid() => {
            let store_id = ext4_uuid(&disk.partition(number)).unwrap_or_default();
            DiskState::Ours { store_id }
        }
        Some((number, _, _)) => {
            DiskState::Foreign { owner: foreign_owner(&disk.partition(number)) }
        }
        None => disk::look(&mut file),
    }
}

/// Chooses the disk, makes the store if there is none and it may be made, and opens it.
pub(crate) fn open(
    plan: &OverlayPlan,
    owner: Owner<'_>,
    survey: &[(Candidate, DiskState)],
) -> Result<Store, Fault> {
    let OverlayPlan::Disk {
        disk,
        store_id,
        store_generation,
        cache_mib,
        wipe_serial,
        wipe_store,
        ..
    } = plan
    else {
        return Err(Fault::hold("store-none", "an overlay in RAM has no store"));
    };
    let claim = wipe_serial.as_deref().map(|serial| Claim { serial, store: wipe_store.as_deref() });
    let chosen = choose(survey, disk, claim, owner)?;
    let (device, created) = match chosen {
        Choice::Ours(candidate) => (overlay_partition(candidate)?, false),
        Choice::Claimed(candidate) => (make(candidate, owner, *cache_mib)?, true),
        Choice::Make(candidate) => {
            if let Some(known) = store_id {
                return Err(Fault::hold(
                    "store-missing",
                    format!(
                        "the overlay store {known} of this node is gone, there is only the blank disk \
                         {}: put the old disk back, or accept that loss: {}",
                        told(candidate),
                        give_up(candidate, owner)
                    ),
                ));
            }
            (make(candidate, owner, *cache_mib)?, true)
        }
    };
    check(&device)?;
    mount_ext4(&device)?;
    // A store that was just made is not the one that haasd knows.
    let known = store_id.as_deref().filter(|_| !created).map(|id| (id, *store_generation));
    let opened = begin(owner, chosen.candidate(), known);
    match opened {
        Ok(header) => {
            let serial = chosen.candidate().serial.clone();
            Ok(Store { header, device, serial, created })
        }
        Err(fault) => {
            let _ = umount2(MOUNT, nix::mount::MntFlags::empty());
            Err(fault)
        }
    }
}

/// A disk that an admin has given up with what is on it.
#[derive(Debug, Clone, Copy)]
struct Claim<'a> {
    serial: &'a str,
    /// The store of ours that goes with it.
    store: Option<&'a str>,
}

/// What to do with which disk.
#[derive(Debug, Clone, Copy)]
enum Choice<'a> {
    /// Open the store.
    Ours(&'a Candidate),
    /// It is blank: make a store.
    Make(&'a Candidate),
    /// It was claimed: make a store, whatever was there.
    Claimed(&'a Candidate),
}

impl<'a> Choice<'a> {
    fn candidate(self) -> &'a Candidate {
        match self {
            Self::Ours(candidate) | Self::Make(candidate) | Self::Claimed(candidate) => candidate,
        }
    }
}

fn choose<'a>(
    survey: &'a [(Candidate, DiskState)],
    selector: &DiskSelector,
    claim: Option<Claim<'_>>,
    owner: Owner<'_>,
) -> Result<Choice<'a>, Fault> {
    let selected: Vec<_> = survey
        .iter()
        .filter(|(disk, _)| match selector {
            DiskSelector::Auto => true,
            DiskSelector::Serial(serial) => disk.serial.as_ref() == Some(serial),
            DiskSelector::Path(path) => disk.is_at(path),
        })
        .collect();
    let with = |wanted: fn(&DiskState) -> bool| -> Vec<&'a Candidate> {
        selected.iter().filter(|(_, state)| wanted(state)).map(|(disk, _)| disk).collect()
    };
    let names =
        |disks: &[&Candidate]| disks.iter().map(|d| told(d)).collect::<Vec<_>>().join(" and ");
    let say_which = "say which one in nodes.toml: overlay_disk = { serial = \"...\" }";

    if let Some(claim) = claim {
        let claimed = selected.iter().find(|(disk, state)| {
            disk.serial.as_deref() == Some(claim.serial)
                && match state {
                    DiskState::Foreign { .. } | DiskState::Other { .. } | DiskState::Blank => true,
                    // Any other store of ours there was made by this very claim.
                    DiskState::Ours { store_id } => claim.store == Some(store_id),
                    DiskState::Unusable { .. } => false,
                }
        });
        if let Some((disk, _)) = claimed {
            return Ok(Choice::Claimed(disk));
        }
    }
    match with(|s| matches!(s, DiskState::Ours { .. }))[..] {
        [disk] => return Ok(Choice::Ours(disk)),
        [] => {}
        ref several => {
            let cause = format!("{} hold a store of this node each: {say_which}", names(several));
            return Err(Fault::hold("disk-ambiguous", cause));
        }
    }
    match with(|s| matches!(s, DiskState::Blank))[..] {
        [disk] => return Ok(Choice::Make(disk)),
        [] => {}
        ref several => {
            let cause = format!("{} are blank: {say_which}", names(several));
            return Err(Fault::hold("disk-ambiguous", cause));
        }
    }
    for (disk, state) in &selected {
        if let DiskState::Foreign { owner: whose } = state {
            let cause = format!(
                "{} holds the overlays of {whose}: {}",
                told(disk),
                owner.how_to_claim(disk)
            );
            return Err(Fault::hold("disk-foreign", cause));
        }
    }
    for (disk, state) in &selected {
        if let DiskState::Other { looks_like } = state {
            let cause =
                format!("{} is not blank ({looks_like}): {}", told(disk), owner.how_to_claim(disk));
            return Err(Fault::hold("disk-not-blank", cause));
        }
    }
    let found: Vec<_> = survey
        .iter()
        .map(|(disk, state)| match state {
            DiskState::Unusable { reason } => format!("{} is {reason}", told(disk)),
            _ => told(disk),
        })
        .collect();
    let found = if found.is_empty() { "no disk at all".to_owned() } else { found.join(", ") };
    let wanted = match selector {
        DiskSelector::Auto => "no disk for the overlay store".to_owned(),
        DiskSelector::Serial(serial) => format!("no usable disk with the serial {serial}"),
        DiskSelector::Path(path) => format!("no usable disk at {path}"),
    };
    // A controller that is slow to show its disks is the reason for trying again.
    let cause = format!(
        "{wanted}; the node has {found}: put it in, mend overlay_disk in nodes.toml, or go without: \
         haasctl switch {} --overlay none",
        owner.name
    );
    Err(Fault::retry("disk-missing", cause))
}

/// A disk as people know it.
fn told(disk: &Candidate) -> String {
    format!("{} (serial {})", disk.name, disk.serial.as_deref().unwrap_or("none"))
}

/// How a person tells haasd that the store which it knows will not come back.
fn give_up(disk: &Candidate, owner: Owner<'_>) -> String {
    match &disk.serial {
        Some(serial) => {
            format!("haasctl disk claim {} --serial {serial} --wipe", owner.name)
        }
        None => "but the disk has no serial number to claim it by".to_owned(),
    }
}

fn overlay_partition(disk: &Candidate) -> Result<PathBuf, Fault> {
    let mut file = fs::File::open(disk.device()).or_retry("store-open", "cannot open the disk")?;
    let gpt = GPT::find_from(&mut file).or_hold("store-table", "the partition table is damaged")?;
    let number = gpt.iter().find(|(_, p)| p.partition_name.as_str() == OVERLAY_PARTITION);
    let number = number.map(|(number, _)| number).ok_or_else(|| {
        Fault::hold(
            "store-table",
            format!("{} has lost its partition {OVERLAY_PARTITION}", disk.name),
        )
    })?;
    wait_for_device(&disk.partition(number))
}

/// Partitions the disk and makes the file system and the header.
fn make(disk: &Candidate, owner: Owner<'_>, cache_mib: u64) -> Result<PathBuf, Fault> {
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
        let mut guid = owner.guid();
        guid[0] ^= 1;
        add(2, CACHE_PARTITION, guid, cache)?;
    }
    GPT::write_protective_mbr_into(&mut file, sector).map_err(io::Error::other)?;
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

/// Repairs what can be repaired without a decision (journal, counters) and nothing else.
fn check(device: &Path) -> Result<(), Fault> {
    let output = Command::new("/sbin/e2fsck")
        .arg("-p")
        .arg(device)
        .output()
        .or_retry("store-check", "cannot run e2fsck")?;
    match output.status.code() {
        // 1: errors corrected.
        Some(0 | 1) => Ok(()),
        code => {
            let text = String::from_utf8_lossy(&output.stdout);
            let text = text.lines().last().unwrap_or_default();
            Err(Fault::hold(
                "store-damaged",
                format!(
                    "the overlay store on {} is damaged and e2fsck -p does not mend it (code {code:?}: {text}): \
                     check the disk, and run e2fsck on it by hand",
                    device.display()
                ),
            ))
        }
    }
}

fn mount_ext4(device: &Path) -> Result<(), Fault> {
    let options = "prjquota,errors=remount-ro";
    mount(Some(device), MOUNT, Some("ext4"), MsFlags::MS_NOATIME, Some(options))
        .or_hold("store-mount", &format!("cannot mount the overlay store {}", device.display()))
}

/// Compares the header with what haasd knows, and counts this opening.
fn begin(owner: Owner<'_>, disk: &Candidate, known: Option<(&str, i64)>) -> Result<Header, Fault> {
    let path = Path::new(MOUNT).join("store.json");
    let text = fs::read(&path).or_hold("store-header", "the store's header cannot be read")?;
    let header: Header =
        serde_json::from_slice(&text).or_hold("store-header", "the store's header is damaged")?;
    let mut header = admit(header, owner, disk, known)?;
    let _ = fs::remove_file(RESERVE);
    header.generation += 1;
    write_json(&path, &header).or_hold("overlay-disk-full", "cannot write the store's header")?;
    Ok(header)
}

fn admit(
    header: Header,
    owner: Owner<'_>,
    disk: &Candidate,
    known: Option<(&str, i64)>,
) -> Result<Header, Fault> {
    if header.format != FORMAT {
        let cause = format!(
            "the store on {} has format {}, this agent knows {FORMAT}: boot it with a haasd as new as \
             the one that made it",
            told(disk),
            header.format
        );
        return Err(Fault::hold("store-format", cause));
    }
    if header.cluster_id != owner.cluster || header.node_id != owner.node {
        let cause = format!(
            "{} holds the overlays of {}: {}",
            told(disk),
            header.belongs_to(),
            owner.how_to_claim(disk)
        );
        return Err(Fault::hold("disk-foreign", cause));
    }
    let Some((store_id, generation)) = known else { return Ok(header) };
    if store_id != header.store_id {
        let cause = format!(
            "{} holds the store {}, but this node had {store_id}: put the old disk back, or give up \
             what both hold: {}",
            told(disk),
            header.store_id,
            give_up(disk, owner)
        );
        return Err(Fault::hold("store-other", cause));
    }
    if header.generation < generation {
        let cause = format!(
            "the store on {} was opened {} times, but haasd knows of {generation}: this is an old \
             copy, which lacks what was written since; put the newest disk back, or give its \
             overlays up: {}",
            told(disk),
            header.generation,
            give_up(disk, owner)
        );
        return Err(Fault::hold("store-old", cause));
    }
    Ok(header)
}

/// Takes the reserve again for the next boot, as far as there is room.
pub(crate) fn keep_reserve() {
    let taken = fs::write(RESERVE, vec![0; RESERVE_SIZE]);
    if let Err(error) = taken {
        log::error(&format!("the overlay store is full: {error}"));
    }
}

/// Writes a file so that after a power cut it is either the old or the new one, whole.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder)?.sync_all()
}

fn wait_for_device(device: &Path) -> Result<PathBuf, Fault> {
    let until = Instant::now() + Duration::from_secs(10);
    while !device.exists() {
        if Instant::now() > until {
            let cause = format!("the kernel does not show {}", device.display());
            return Err(Fault::retry("store-open", cause));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(device.to_owned())
}

/// The file system's UUID, from the superblock.
fn ext4_uuid(device: &Path) -> Option<String> {
    let mut file = fs::File::open(device).ok()?;
    let mut block = [0; 1024];
    file.seek(SeekFrom::Start(1024)).ok()?;
    io::Read::read_exact(&mut file, &mut block).ok()?;
    let uuid: [u8; 16] = block[0x68..0x78].try_into().ok()?;
    (block[0x38..0x3a] == [0x53, 0xef]).then(|| uuid_text(uuid))
}

/// Whose a foreign store is, by its header, read without replaying its journal.
fn foreign_owner(device: &Path) -> String {
    let unknown = "another cluster or node".to_owned();
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    if mount(Some(device), MOUNT, Some("ext4"), flags, Some("noload")).is_err() {
        return unknown;
    }
    let text = fs::read(Path::new(MOUNT).join("store.json"));
    let _ = umount2(MOUNT, nix::mount::MntFlags::empty());
    let header = text.ok().and_then(|text| serde_json::from_slice::<Header>(&text).ok());
    header.map_or(unknown, |header| header.belongs_to())
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    // Version 4, variant 1, as RFC 9562 section 5.4 has random ones.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

fn uuid_text(id: [u8; 16]) -> String {
    let h = hex::encode(id);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'static> = Owner { cluster: "c1", node: "n1", name: "n01" };

    fn disk(name: &str, serial: &str) -> Candidate {
        Candidate {
            name: name.into(),
            serial: Some(serial.into()),
            model: None,
            size: 1 << 30,
            sysfs: PathBuf::new(),
            unusable: None,
        }
    }

    fn other() -> DiskState {
        DiskState::Other { looks_like: "xfs".into() }
    }

    fn code(result: Result<Choice<'_>, Fault>) -> &'static str {
        result.expect_err("a fault").code
    }

    #[test]
    fn our_store_is_taken_before_a_blank_disk() {
        let ours = DiskState::Ours { store_id: "s".into() };
        let survey = [(disk("vda", "A"), DiskState::Blank), (disk("vdb", "B"), ours)];
        let choice = choose(&survey, &DiskSelector::Auto, None, OWNER).expect("a disk");
        assert!(matches!(choice, Choice::Ours(d) if d.name == "vdb"));
    }

    #[test]
    fn nothing_is_written_to_a_disk_that_is_not_blank_or_not_clear() {
        let auto = DiskSelector::Auto;
        let foreign = DiskState::Foreign { owner: "n9".into() };
        assert_eq!(code(choose(&[], &auto, None, OWNER)), "disk-missing");
        assert_eq!(
            code(choose(&[(disk("vda", "A"), other())], &auto, None, OWNER)),
            "disk-not-blank"
        );
        assert_eq!(
            code(choose(&[(disk("vda", "A"), foreign)], &auto, None, OWNER)),
            "disk-foreign"
        );
        let two = [(disk("vda", "A"), DiskState::Blank), (disk("vdb", "B"), DiskState::Blank)];
        assert_eq!(code(choose(&two, &auto, None, OWNER)), "disk-ambiguous");
        let by_serial =
            choose(&two, &DiskSelector::Serial("B".into()), None, OWNER).expect("named");
        assert!(matches!(by_serial, Choice::Make(d) if d.name == "vdb"));
    }

    #[test]
    fn only_the_claimed_serial_is_wiped() {
        let survey = [(disk("vda", "A"), other())];
        let claim = |serial| Some(Claim { serial, store: None });
        assert_eq!(code(choose(&survey, &DiskSelector::Auto, claim("B"), OWNER)), "disk-not-blank");
        let choice = choose(&survey, &DiskSelector::Auto, claim("A"), OWNER).expect("claimed");
        assert!(matches!(choice, Choice::Claimed(d) if d.name == "vda"));
        let ours = [(disk("vda", "A"), DiskState::Ours { store_id: "s".into() })];
        let choice = choose(&ours, &DiskSelector::Auto, claim("A"), OWNER).expect("ours");
        assert!(
            matches!(choice, Choice::Ours(_)),
            "a claim that was carried out does not wipe again"
        );
        let its = |store| Some(Claim { serial: "A", store: Some(store) });
        let choice = choose(&ours, &DiskSelector::Auto, its("s"), OWNER).expect("given up");
        assert!(matches!(choice, Choice::Claimed(_)), "a store that was given up by its id");
        let choice = choose(&ours, &DiskSelector::Auto, its("older"), OWNER).expect("ours");
        assert!(matches!(choice, Choice::Ours(_)), "another store than the one that was given up");
    }

    #[test]
    fn foreign_other_and_old_stores_are_refused() {
        let header = Header {
            format: FORMAT,
            cluster_id: "c1".into(),
            node_id: "n1".into(),
            node_name: "n01".into(),
            store_id: "s1".into(),
            generation: 7,
        };
        assert!(admit(header.clone(), OWNER, &disk("vda", "A"), None).is_ok());
        assert!(admit(header.clone(), OWNER, &disk("vda", "A"), Some(("s1", 7))).is_ok());
        let refused = |header, known| {
            admit(header, OWNER, &disk("vda", "A"), known).expect_err("refused").code
        };
        assert_eq!(refused(header.clone(), Some(("s1", 8))), "store-old");
        assert_eq!(refused(header.clone(), Some(("s2", 0))), "store-other");
        assert_eq!(
            refused(Header { node_id: "n2".into(), ..header.clone() }, None),
            "disk-foreign"
        );
        assert_eq!(refused(Header { format: 2, ..header }, None), "store-format");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("store.json");
        write_json(&path, &1).expect("first");
        write_json(&path, &2).expect("second");
        assert_eq!(fs::read(&path).expect("read"), b"2");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }
}
