//! The overlay store: our partition on the node's own disk, and its header.
//!
//! A disk is touched only if it is blank, ours, or was claimed by its serial number. Whose a store
//! is stands in the partition table, as the partition's GUID (a hash of cluster and node), so that
//! a foreign one is known without a write, not even of a journal's replay. The header counts the
//! openings (the generation): a store older than haasd knows is an old copy, and refused. A store that
//! an admin has accepted gets this node's mark when it is opened, and not before.

mod make;

use std::{
    fs,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use gptman::GPT;
use haas_api::agent::{BootPlan, Disk, DiskState, OverlayPlan};
use nix::mount::{MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::make::{OVERLAY_PARTITION, UNFINISHED, uuid_text};
use crate::{
    choose::{Choice, Wanted, choose},
    disk::{self, Candidate},
    fault::{Fault, OrFault as _},
    log, signature,
};

pub(crate) use self::make::NOTHING_TO_BOOT;

/// Where the store is mounted, in the agent's own root.
pub(crate) const MOUNT: &str = "/store";

const FORMAT: u32 = 1;
/// How much of what e2fsck printed is told.
const CHECK_LINES: usize = 12;
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
    pub(crate) fn how_to_claim(&self, disk: &Candidate) -> String {
        match &disk.serial {
            Some(_) => format!(
                "take it out, or give it to haas, which loses what is on it: {}",
                self.wipe(disk)
            ),
            None => {
                "it has no serial number to claim it by: take it out, or wipe it by hand".into()
            }
        }
    }

    /// How a person has a disk wiped for this node.
    pub(crate) fn wipe(&self, disk: &Candidate) -> String {
        match &disk.serial {
            Some(serial) => format!("haasctl disk claim {} --serial {serial} --wipe", self.name),
            None => "but the disk has no serial number to claim it by".to_owned(),
        }
    }

    /// How a person lets this node go on with the store that is there.
    pub(crate) fn accept(&self) -> String {
        format!("haasctl disk accept {}", self.name)
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

    fn cache_guid(&self) -> [u8; 16] {
        let mut guid = self.guid();
        guid[0] ^= 1;
        guid
    }
}

/// A disk and what was found on it.
pub(crate) type Seen = (Candidate, DiskState);

/// The store's header, `store.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The version of the store's layout.
    pub format: u32,
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// The node that it belongs to.
    pub node_id: String,
    /// That node's name when it got the store, for people who find the disk elsewhere.
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
    /// The disk.
    pub disk: Candidate,
    /// Whether this boot made it.
    pub created: bool,
    /// What e2fsck said, where it was allowed to repair the store and did.
    pub repaired: Option<String>,
}

/// What is on each disk of the node's own, of which haasd knows these stores. The disk of the root is not the node's.
pub(crate) fn survey(owner: Owner<'_>, plan: &BootPlan) -> Vec<Seen> {
    let look = |disk: Candidate| {
        let state = match &disk.unusable {
            Some(reason) => DiskState::Unusable { reason: reason.clone() },
            None => inspect(&disk, owner, plan),
        };
        (disk, state)
    };
    disk::list().into_iter().filter(|disk| !disk.is_iscsi()).map(look).collect()
}

/// The survey as haasd is told of it.
pub(crate) fn report(survey: &[Seen]) -> Vec<Disk> {
    survey.iter().map(|(disk, state)| disk.report(state.clone())).collect()
}

/// The same once a store was opened on one of the disks.
pub(crate) fn report_opened(survey: &[Seen], store: &Store) -> Vec<Disk> {
    let ours = DiskState::Ours { store_id: store.header.store_id.clone() };
    let state = |disk: &Candidate, before: &DiskState| {
        if *disk == store.disk { ours.clone() } else { before.clone() }
    };
    survey.iter().map(|(disk, before)| disk.report(state(disk, before))).collect()
}

fn inspect(disk: &Candidate, owner: Owner<'_>, plan: &BootPlan) -> DiskState {
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
        Some((number, _, _)) => foreign(&disk.partition(number), owner, plan),
        None => signature::look(&mut file),
    }
}

/// A store with another mark. After a power cut its header may be readable only once the journal was
/// replayed, which is a write; then what haasd knows of its id must do.
fn foreign(partition: &Path, owner: Owner<'_>, plan: &BootPlan) -> DiskState {
    if let Some(header) = foreign_header(partition) {
        let is_near = header.cluster_id == owner.cluster;
        return DiskState::Foreign {
            owner: header.belongs_to(),
            store_id: is_near.then_some(header.store_id),
        };
    }
    let unknown = "another cluster or node".to_owned();
    let (OverlayPlan::Disk { store_id, .. }, Some(id)) = (&plan.overlay, ext4_uuid(partition))
    else {
        return DiskState::Foreign { owner: unknown, store_id: None };
    };
    let known = plan.elsewhere.iter().find(|other| other.store_id == id);
    DiskState::Foreign {
        owner: known.map_or(unknown, |other| format!("node {}", other.node)),
        store_id: (known.is_some() || store_id.as_ref() == Some(&id)).then_some(id),
    }
}

/// Chooses the disk, makes the store if there is none and it may be made, and opens it.
pub(crate) fn open(plan: &BootPlan, owner: Owner<'_>, survey: &[Seen]) -> Result<Store, Fault> {
    let (OverlayPlan::Disk { store_generation, cache_mib, repair, .. }, Some(wanted)) =
        (&plan.overlay, Wanted::of(plan))
    else {
        return Err(Fault::hold("store-none", "an overlay in RAM has no store"));
    };
    let chosen = choose(survey, wanted, owner)?;
    let disk = chosen.candidate();
    let (device, created) = match chosen {
        Choice::Ours(_) => (overlay_partition(disk)?, false),
        Choice::Accepted(_) => {
            let what = format!("cannot mark the store on {} as this node's", disk.told());
            make::mark_as_ours(disk, owner).or_hold("store-table", &what)?;
            (overlay_partition(disk)?, false)
        }
        Choice::Make(_) | Choice::Claimed(_) => (make::make(disk, owner, *cache_mib)?, true),
    };
    let repaired = check(&device, owner, *repair)?;
    mount_ext4(&device)?;
    // A store that was just made is not the one that haasd knows.
    let known = wanted.known.filter(|_| !created).map(|id| (id, *store_generation));
    match begin(owner, disk, known, wanted.accepted) {
        Ok(header) => Ok(Store { header, device, disk: disk.clone(), created, repaired }),
        Err(fault) => {
            let _ = umount2(MOUNT, nix::mount::MntFlags::empty());
            Err(fault)
        }
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

/// Repairs what can be repaired without a decision (journal, counters), and more only if an admin has
/// allowed it, since that can lose files. Answers what was done then.
fn check(device: &Path, owner: Owner<'_>, repair: bool) -> Result<Option<String>, Fault> {
    let (code, text) = e2fsck("-p", device)?;
    // 1: errors corrected.
    if matches!(code, Some(0 | 1)) {
        return Ok(None);
    }
    let at = device.display();
    if !repair {
        let text = text.lines().last().unwrap_or_default();
        let cause = format!(
            "the overlay store on {at} is damaged, and to mend it may lose files ({text}): copy the disk \
             if what is on it matters, then let e2fsck do what it takes, once: haasctl disk repair {}",
            owner.name
        );
        return Err(Fault::hold("store-damaged", cause));
    }
    log::info(&format!("the overlay store on {at} is repaired, as was allowed: e2fsck -fy"));
    let (code, text) = e2fsck("-fy", device)?;
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(CHECK_LINES)..].join("\n");
    log::info(&last);
    match code {
        Some(0..=2) => Ok(Some(last)),
        code => {
            let cause = format!(
                "e2fsck -fy cannot mend the overlay store on {at} (code {code:?}: {}): replace the disk",
                lines.last().unwrap_or(&"")
            );
            Err(Fault::hold("store-damaged", cause))
        }
    }
}

fn e2fsck(how: &str, device: &Path) -> Result<(Option<i32>, String), Fault> {
    let output = Command::new("/sbin/e2fsck")
        .arg(how)
        .arg(device)
        .output()
        .or_retry("store-check", "cannot run e2fsck")?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned()))
}

fn mount_ext4(device: &Path) -> Result<(), Fault> {
    let options = "prjquota,errors=remount-ro";
    mount(Some(device), MOUNT, Some("ext4"), MsFlags::MS_NOATIME, Some(options))
        .or_hold("store-mount", &format!("cannot mount the overlay store {}", device.display()))
}

/// Compares the header with what haasd knows, and counts this opening.
fn begin(
    owner: Owner<'_>,
    disk: &Candidate,
    known: Option<(&str, i64)>,
    accepted: Option<&str>,
) -> Result<Header, Fault> {
    let path = Path::new(MOUNT).join("store.json");
    let text = fs::read(&path).or_hold("store-header", "the store's header cannot be read")?;
    let header: Header =
        serde_json::from_slice(&text).or_hold("store-header", "the store's header is damaged")?;
    let mut header = admit(header, owner, disk, known, accepted)?;
    let _ = fs::remove_file(RESERVE);
    owner.node.clone_into(&mut header.node_id);
    owner.name.clone_into(&mut header.node_name);
    header.generation += 1;
    write_json(&path, &header).or_hold("overlay-disk-full", "cannot write the store's header")?;
    Ok(header)
}

fn admit(
    header: Header,
    owner: Owner<'_>,
    disk: &Candidate,
    known: Option<(&str, i64)>,
    accepted: Option<&str>,
) -> Result<Header, Fault> {
    if header.format != FORMAT {
        let cause = format!(
            "the store on {} has format {}, this agent knows {FORMAT}: boot it with a haasd as new as \
             the one that made it",
            disk.told(),
            header.format
        );
        return Err(Fault::hold("store-format", cause));
    }
    let is_accepted = accepted == Some(&header.store_id);
    if header.cluster_id != owner.cluster || header.node_id != owner.node && !is_accepted {
        let cause = format!(
            "{} holds the overlays of {}: {}",
            disk.told(),
            header.belongs_to(),
            owner.how_to_claim(disk)
        );
        return Err(Fault::hold("disk-foreign", cause));
    }
    let Some((store_id, generation)) = known else { return Ok(header) };
    if store_id != header.store_id {
        return Err(another(disk, &header.store_id, store_id, owner));
    }
    if header.generation < generation {
        let cause = format!(
            "the store on {} was opened {} times, but haasd knows of {generation}: this is an old \
             copy, which lacks what was written since; put the newest disk back, or go on with this \
             one: {}, or give its overlays up: {}",
            disk.told(),
            header.generation,
            owner.accept(),
            owner.wipe(disk)
        );
        return Err(Fault::hold("store-old", cause));
    }
    Ok(header)
}

/// A store of this node that is not the one that it had last.
pub(crate) fn another(disk: &Candidate, found: &str, known: &str, owner: Owner<'_>) -> Fault {
    let cause = format!(
        "{} holds the store {found}, but this node had {known}: put the old disk back, or go on with \
         this one and give up what the other holds: {}, or give up what both hold: {}",
        disk.told(),
        owner.accept(),
        owner.wipe(disk)
    );
    Fault::hold("store-other", cause)
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

/// The header of a foreign store, read without replaying its journal.
fn foreign_header(device: &Path) -> Option<Header> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some(device), MOUNT, Some("ext4"), flags, Some("noload")).ok()?;
    let text = fs::read(Path::new(MOUNT).join("store.json"));
    let _ = umount2(MOUNT, nix::mount::MntFlags::empty());
    serde_json::from_slice(&text.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'static> = Owner { cluster: "c1", node: "n1", name: "n01" };

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
        let admit = |header, known, accepted| {
            admit(header, OWNER, &Candidate::fake("vda", "A"), known, accepted)
        };
        assert!(admit(header.clone(), None, None).is_ok());
        assert!(admit(header.clone(), Some(("s1", 7)), None).is_ok());
        let refused = |header, known| admit(header, known, None).expect_err("refused").code;
        assert_eq!(refused(header.clone(), Some(("s1", 8))), "store-old");
        assert_eq!(refused(header.clone(), Some(("s2", 0))), "store-other");
        let theirs = Header { node_id: "n2".into(), ..header.clone() };
        assert_eq!(refused(theirs.clone(), None), "disk-foreign");
        assert!(admit(theirs.clone(), Some(("s1", 7)), Some("s1")).is_ok());
        let still = |known, accepted| {
            admit(theirs.clone(), known, Some(accepted)).expect_err("refused").code
        };
        assert_eq!(still(Some(("s1", 7)), "s2"), "disk-foreign", "another store was accepted");
        assert_eq!(still(Some(("s1", 8)), "s1"), "store-old", "an old copy of what was accepted");
        let far = Header { cluster_id: "c2".into(), ..theirs.clone() };
        let fault = admit(far, None, Some("s1")).expect_err("refused");
        assert_eq!(fault.code, "disk-foreign", "another cluster's");
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
