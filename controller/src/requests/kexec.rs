//! Which nodes of a switch may start their next kernel themselves, in place of the firmware, and why
//! others may not (ADR 0011). Whether they still may when it comes to it, `lifecycle/kexec.rs` says.

use std::collections::HashMap;

use haas_api::names::Digest;

use super::plan::{Planned, Running};
use crate::{
    boots,
    context::Context,
    images::manifest::Manifest,
    inventory::PowerSpec,
    model::AttemptState,
    store::{Result, Tx},
};

/// Memory beside the files of the next kernel, in MiB.
const ROOM_MIB: u64 = 128;

/// Notes for each node that is to boot whether it does by kexec, or what keeps it from that.
pub(super) async fn choose(context: &Context, tx: &mut Tx, planned: &mut [Planned]) -> Result<()> {
    let mut manifests = HashMap::new();
    for entry in planned {
        if entry.shown.action == "nothing" {
            continue;
        }
        match obstacle(context, tx, entry, &mut manifests).await? {
            None => {
                entry.shown.action = "kexec".to_owned();
                entry.wanted.kexec_from = entry.runs.as_ref().map(|runs| runs.attempt.id.clone());
            }
            Some(why) => entry.shown.notes.push(format!("not by kexec: {why}")),
        }
    }
    Ok(())
}

/// What keeps a node from it.
async fn obstacle(
    context: &Context,
    tx: &mut Tx,
    entry: &Planned,
    manifests: &mut HashMap<Digest, Option<Manifest>>,
) -> Result<Option<String>> {
    let said = |why: &str| Ok(Some(why.to_owned()));
    let (node, wanted) = (&entry.node, &entry.wanted);
    let runs = match &entry.runs {
        Some(runs) if runs.attempt.state == AttemptState::Ready => runs,
        Some(_) => return said("what runs there is not ready"),
        None => return said("nothing of haas runs there"),
    };
    if node.spec.power == PowerSpec::Manual {
        return said("it has no BMC to boot it where that fails");
    }
    if node.spec.secure_boot {
        return said("its firmware insists on signed programs");
    }
    if runs.silent {
        return said("its agent is silent");
    }
    if node.goodbye.is_some() || node.ending.is_some() {
        return said("what runs there ends already");
    }
    if wanted.rescue || runs.wanted.rescue {
        return said("a rescue begins and ends with a clean memory");
    }
    if wanted.tenant.is_empty() || wanted.tenant != runs.wanted.tenant {
        return said("it comes from somebody else, and only the firmware clears its memory");
    }
    if !is_same_owners(tx, entry, runs).await? {
        return said(
            "its overlay is somebody else's than the one there, whose root would have started it",
        );
    }
    let Some(kexec) = &runs.attempt.can_kexec else {
        return said("its agent is of an earlier version, until its next boot");
    };
    if let Some(obstacle) = &kexec.obstacle {
        return said(obstacle);
    }
    let Some(image) = &wanted.image else { return said("no image is wanted of it") };
    if !manifests.contains_key(&image.digest) {
        manifests.insert(image.digest.clone(), boots::manifest_of(tx, &image.digest).await?);
    }
    let Some(Some(manifest)) = manifests.get(&image.digest) else {
        return said("the image is gone");
    };
    if kexec.machine != manifest.arch.machine() {
        let (is, wants) = (&kexec.machine, manifest.arch.machine());
        return Ok(Some(format!("it is {is}, and the image's kernel is for {wants}")));
    }
    let agent = std::fs::metadata(&context.config.agent_cpio).map_or(0, |file| file.len());
    let files = manifest.kernel.size + manifest.modules.size + agent;
    // As they were fetched, as the kernel keeps them, and unpacked.
    let needed = ROOM_MIB + 4 * files.div_ceil(1 << 20);
    if kexec.memory_mib < needed {
        let has = kexec.memory_mib;
        return Ok(Some(format!("it has {has} MiB of memory, and both kernels need {needed}")));
    }
    Ok(None)
}

/// Whether whoever is root in what runs may be the one who starts what is wanted: in a project, an
/// overlay of a person's own is not for the others.
async fn is_same_owners(tx: &mut Tx, entry: &Planned, runs: &Running) -> Result<bool> {
    let wanted = &entry.wanted;
    if wanted.overlay_id == runs.wanted.overlay_id {
        return Ok(true);
    }
    let Some(overlay) = &wanted.overlay_id else { return Ok(true) };
    let Some(next) = tx.overlay_by_id(overlay).await? else { return Ok(false) };
    if next.owner_id == wanted.tenant {
        return Ok(true);
    }
    let Some(overlay) = &runs.wanted.overlay_id else { return Ok(false) };
    Ok(tx.overlay_by_id(overlay).await?.is_some_and(|before| before.owner_id == next.owner_id))
}
