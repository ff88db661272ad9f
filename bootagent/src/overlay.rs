//! The writable layer: a shard of the user's overlay in the store, or RAM, mounted by overlayfs
//! over the read-only root.
//!
//! The options leave out everything that ties an upper layer to one lower file system (index,
//! metacopy, redirects, xino), so that the same overlay may lie over another image tomorrow.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use haas_api::agent::{MissingShard, OverlayPlan, ShardReport};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use crate::{
    fault::{Fault, OrFault as _},
    log,
    store::{self, Store, write_json},
    sys,
};

/// Where the read-only root is mounted, in the agent's own root.
pub(crate) const LOWER: &str = "/lower";
/// Where the merged root is mounted before switch_root.
pub(crate) const MERGED: &str = "/newroot";
/// Where a rescue's writable layer is, in RAM, since the store is mounted too.
const RAM: &str = "/ram";
/// Where a rescue shows the overlay, in the merged root.
pub(crate) const SHOWN: &str = "overlay";

/// Quota projects of shards begin here; below are those that a person may have made.
const FIRST_PROJECT: u32 = 10_000;
const OPTIONS: &str = "index=off,metacopy=off,redirect_dir=off,xino=off";

/// What is known of a shard, `meta.json` beside its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The overlay's immutable id.
    pub overlay_id: String,
    /// `owner/name` when it was last mounted, for people.
    pub name: String,
    /// The node's place in the overlay, given once and kept.
    pub rank: u32,
    /// The quota project of everything in the shard.
    pub project: u32,
}

/// Where the writable layer is.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The folder with `upper` and `work`.
    pub folder: PathBuf,
    /// The shard's metadata; none in RAM.
    pub meta: Option<Meta>,
    /// The node's place in the set.
    pub rank: u32,
    /// In a rescue: the folder that holds what the user wrote.
    pub shown: Option<PathBuf>,
}

/// Finds or makes the shard in the store, which may have been made a moment ago.
pub(crate) fn shard(plan: &OverlayPlan, is_new: bool) -> Result<Layer, Fault> {
    let missing = match plan {
        _ if is_new => MissingShard::Create,
        OverlayPlan::Disk { missing, .. } => *missing,
        OverlayPlan::Ram { .. } => MissingShard::Fault,
    };
    find_shard(plan, missing)
}

fn find_shard(plan: &OverlayPlan, missing: MissingShard) -> Result<Layer, Fault> {
    let OverlayPlan::Disk { overlay_id, name, rank, .. } = plan else {
        return Err(Fault::hold("overlay-none", "an overlay in RAM has no shard"));
    };
    if !names_a_folder(overlay_id) {
        return Err(Fault::hold("overlay-id", format!("{overlay_id:?} cannot name a folder")));
    }
    let folder = Path::new(store::MOUNT).join("overlays").join(overlay_id);
    let meta = match read_meta(&folder) {
        Ok(mut meta) => {
            if meta.overlay_id != *overlay_id {
                let cause = format!("the shard {overlay_id} says that it is {}", meta.overlay_id);
                return Err(Fault::hold("shard-damaged", cause));
            }
            if meta.rank != *rank {
                log::error(&format!("the shard has rank {}, haasd says {rank}", meta.rank));
            }
            if meta.name != *name {
                meta.name.clone_from(name);
                write_json(&folder.join("meta.json"), &meta)
                    .or_hold("overlay-disk-full", "cannot write the shard's metadata")?;
            }
            meta
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match missing {
            MissingShard::Fault => {
                let cause = format!(
                    "the store has no shard of {name} (rank {rank}), though one was there before: restore \
                     {}/overlays/{overlay_id} on the store's disk, or give the overlay up on all its nodes: \
                     haasctl overlay rm {name}",
                    store::MOUNT
                );
                return Err(Fault::hold("shard-missing", cause));
            }
            MissingShard::Create => create(&folder, overlay_id, name, *rank)
                .or_hold("overlay-disk-full", "cannot make the overlay's folder")?,
        },
        Err(error) => {
            let cause = format!("the metadata of {name} cannot be read: {error}");
            return Err(Fault::hold("shard-damaged", cause));
        }
    };
    Ok(Layer { folder, rank: meta.rank, meta: Some(meta), shown: None })
}

/// A layer in RAM beside the shard, which is only looked at and mended.
pub(crate) fn rescue(plan: &OverlayPlan) -> Result<Layer, Fault> {
    // A shard that is not there is not to be made by a rescue.
    let shard = find_shard(plan, MissingShard::Fault)?;
    Ok(Layer { shown: Some(shard.folder.join("upper")), ..in_ram(RAM, shard.rank)? })
}

/// Takes the shards of removed overlays out of the store at once, and deletes what they held in
/// their own time: that may be many files, and nobody should wait for it.
pub(crate) fn forget(removed: &[String]) {
    let store = Path::new(store::MOUNT);
    let doomed = store.join("removed");
    let _ = fs::create_dir(&doomed);
    for overlay_id in removed.iter().filter(|id| names_a_folder(id)) {
        let folder = store.join("overlays").join(overlay_id);
        match fs::rename(&folder, doomed.join(overlay_id)) {
            Ok(()) => log::info(&format!("the overlay {overlay_id} was removed; its data goes")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log::error(&format!("the removed overlay {overlay_id} stays: {error}")),
        }
    }
    // What an earlier boot did not finish goes too.
    thread::spawn(move || {
        if let Err(error) = fs::remove_dir_all(&doomed) {
            log::error(&format!("data of removed overlays cannot be deleted: {error}"));
        }
    });
}

fn names_a_folder(overlay_id: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !overlay_id.is_empty() && overlay_id.len() <= 64 && overlay_id.bytes().all(safe)
}

/// A writable layer in RAM, at most half of it, where nothing is mounted yet.
pub(crate) fn in_ram(at: &str, rank: u32) -> Result<Layer, Fault> {
    mount(Some("haas-ram"), at, Some("tmpfs"), MsFlags::empty(), Some("size=50%,mode=755"))
        .or_retry("overlay-ram", "cannot mount a tmpfs")?;
    let folder = PathBuf::from(at);
    for part in ["upper", "work"] {
        fs::create_dir(folder.join(part)).or_retry("overlay-ram", "cannot make the layer")?;
    }
    Ok(Layer { folder, meta: None, rank, shown: None })
}

/// Mounts the merged root.
pub(crate) fn mount_merged(layer: &Layer) -> Result<(), Fault> {
    let folder = layer.folder.display();
    let options =
        format!("lowerdir={LOWER},upperdir={folder}/upper,workdir={folder}/work,{OPTIONS}");
    mount(Some("haas"), MERGED, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .or_hold("overlay-mount", "the kernel refuses the overlay")
}

/// Every shard in the store.
pub(crate) fn shards(store: &Store) -> Vec<ShardReport> {
    let mut found: Vec<_> = metas()
        .into_iter()
        .map(|meta| ShardReport {
            rank: meta.rank,
            bytes: sys::project_usage(&store.device, meta.project).unwrap_or(0),
            overlay_id: meta.overlay_id,
        })
        .collect();
    found.sort_by(|a, b| a.overlay_id.cmp(&b.overlay_id));
    found
}

/// A shard's metadata.
pub(crate) fn read_meta(folder: &Path) -> io::Result<Meta> {
    let text = fs::read(folder.join("meta.json"))?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

fn metas() -> Vec<Meta> {
    let Ok(entries) = fs::read_dir(Path::new(store::MOUNT).join("overlays")) else {
        return Vec::new();
    };
    entries.flatten().filter_map(|e| read_meta(&e.path()).ok()).collect()
}

/// Makes a shard. The metadata comes last: a folder without it is the rest of a power cut.
fn create(folder: &Path, overlay_id: &str, name: &str, rank: u32) -> io::Result<Meta> {
    let project = metas().iter().map(|m| m.project + 1).max().unwrap_or(0).max(FIRST_PROJECT);
    if !folder.exists() {
        fs::create_dir(folder)?;
    }
    sys::set_project(folder, project)?;
    for part in ["upper", "work"] {
        if !folder.join(part).exists() {
            fs::create_dir(folder.join(part))?;
        }
    }
    let meta = Meta { overlay_id: overlay_id.to_owned(), name: name.to_owned(), rank, project };
    write_json(&folder.join("meta.json"), &meta)?;
    Ok(meta)
}
