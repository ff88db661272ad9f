//! The node's own disk, as a JSON file: one overlay store that outlives every power cut.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use haas_api::agent::{
    BootPlan, BootStage, Disk, DiskState, Failure, MissingShard, OverlayPlan, ShardReport,
    StoreReport,
};
use haas_api::hardware::DiskDrive;
use serde::{Deserialize, Serialize};

use crate::folder::Folder;

const FILE: &str = "disk.json";
const SIZE: u64 = 8 << 30;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Store {
    store_id: String,
    cluster_id: String,
    node_id: String,
    generation: i64,
    /// By overlay id.
    shards: BTreeMap<String, Shard>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shard {
    rank: u32,
    /// How often it was mounted.
    mounts: u32,
}

/// What the node would list before it opens its store.
pub(crate) fn disks(folder: &Folder, plan: &BootPlan) -> Result<Vec<Disk>> {
    let state = match folder.read::<Store>(FILE)? {
        Some(store) if store.node_id == plan.node_id && store.cluster_id == plan.cluster_id => {
            DiskState::Ours { store_id: store.store_id }
        }
        Some(store) => DiskState::Foreign {
            owner: store.node_id,
            store_id: (store.cluster_id == plan.cluster_id).then_some(store.store_id),
        },
        None => DiskState::Blank,
    };
    let DiskDrive { name, serial, model, .. } = drive(folder)?;
    Ok(vec![Disk { name, serial, model, size: SIZE, state }])
}

/// Opens the store and the plan's shard in it, as the plan demands; None for an overlay in RAM.
pub(crate) fn open(
    folder: &Folder,
    plan: &BootPlan,
) -> Result<std::result::Result<Option<(StoreReport, u32)>, Failure>> {
    let OverlayPlan::Disk {
        overlay_id,
        rank,
        missing,
        store_id,
        store_generation,
        accepted,
        wipe_serial,
        wipe_store,
        ..
    } = &plan.overlay
    else {
        return Ok(Ok(None));
    };
    let known: Option<Store> = folder.read(FILE)?;
    // A store of its own is wiped only if it is the one that was given up.
    let is_claimed = wipe_serial.is_some()
        && *wipe_serial == drive(folder)?.serial
        && known.as_ref().is_none_or(|store| {
            let is_ours = store.cluster_id == plan.cluster_id && store.node_id == plan.node_id;
            !is_ours || wipe_store.as_ref() == Some(&store.store_id)
        });
    let known = known.filter(|_| !is_claimed);
    let created = known.is_none();
    let mut store = known.unwrap_or_else(|| Store {
        store_id: hex::encode(rand::random::<[u8; 8]>()),
        cluster_id: plan.cluster_id.clone(),
        node_id: plan.node_id.clone(),
        generation: 0,
        shards: BTreeMap::new(),
    });
    let is_accepted = *accepted && store_id.as_ref() == Some(&store.store_id);
    if store.cluster_id != plan.cluster_id || store.node_id != plan.node_id && !is_accepted {
        return Ok(Err(failure("disk-foreign", "the store is another cluster's or node's")));
    }
    if plan.elsewhere.iter().any(|other| other.store_id == store.store_id) {
        return Ok(Err(failure("store-copied", "another node has this store by now")));
    }
    if !is_claimed && store_id.as_ref().is_some_and(|id| *id != store.store_id) {
        return Ok(Err(failure("store-other", "another store than haasd has seen here")));
    }
    if !is_claimed && store.generation < *store_generation {
        return Ok(Err(failure("store-old", "an older generation than haasd has seen here")));
    }
    let is_known = store.shards.contains_key(overlay_id);
    if !is_known && !created && *missing == MissingShard::Fault {
        return Ok(Err(failure("shard-missing", "haasd knows of a shard that is not here")));
    }
    store.node_id.clone_from(&plan.node_id);
    store.generation += 1;
    let shard = store.shards.entry(overlay_id.clone()).or_insert(Shard { rank: *rank, mounts: 0 });
    shard.mounts += 1;
    let found = shard.rank;
    folder.write(FILE, &store)?;
    let report = StoreReport {
        store_id: store.store_id,
        generation: store.generation,
        disk_serial: drive(folder)?.serial,
        size: SIZE,
        free: SIZE / 2,
        created,
        repaired: None,
        shards: store
            .shards
            .iter()
            .map(|(id, shard)| ShardReport {
                overlay_id: id.clone(),
                rank: shard.rank,
                bytes: u64::from(shard.mounts) * 4096,
            })
            .collect(),
    };
    Ok(Ok(Some((report, found))))
}

/// The node's first disk, as its inventory has it.
fn drive(folder: &Folder) -> Result<DiskDrive> {
    let disks = folder.inventory()?.disks;
    disks.into_iter().next().context("the node has no disk")
}

fn failure(code: &str, cause: &str) -> Failure {
    Failure::new(BootStage::Overlay, code, cause)
}
