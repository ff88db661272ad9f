//! What an attempt's agent must bring up, and what its node is given on the way there.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use haas_api::{
    agent::{
        BootPlan, BootStage, Chap, DiskState, Login, MissingShard, NetPlan, OverlayPlan, RootPlan,
        StoreElsewhere,
    },
    baseline::Source,
    check::ReadyCheck,
    names::Digest,
    node::Rendered,
    project::{Access, MemberRole},
};
use ipnet::{IpNet, Ipv4Net};

use super::{doors, network_of, scratch};
use crate::{
    baseline::{self, Due},
    config::DhcpMode,
    context::Context,
    exports,
    images::manifest::{Manifest, target_name},
    model::{Attempt, AttemptState, Cause, Desired, NewDesired, Node},
    netboot::{boot_target::BootTarget, script::Loader},
    secret::Secret,
    store::{NodePlace, Result, StoreError, Tx, UserRow},
};

/// What this attempt's agent must bring up; none when its desired state is gone or incomplete.
pub async fn plan(context: &Context, attempt: &Attempt) -> Result<Option<BootPlan>> {
    let mut tx = context.store.read().await?;
    let (Some(node), Some(desired)) = (
        tx.node_by_id(&attempt.node_id).await?,
        tx.desired(&attempt.node_id, attempt.generation).await?,
    ) else {
        return Ok(None);
    };
    let (Some(image), Some(address), Some(network)) =
        (&desired.wanted.image, node.address, network_of(context, &node))
    else {
        return Ok(None);
    };
    let Some(manifest) = manifest(&mut tx, &desired).await? else { return Ok(None) };
    let due = match is_on_its_way(attempt) {
        true => baseline::due(context, &mut tx, &node, &desired, Source::Agent).await?,
        false => Due::Nothing,
    };
    // It tells how the machine is, and is given another plan to go on with.
    let baseline = due != Due::Nothing;
    // Of a fleet this is most of the plan, so it is said once: who has his overlay has used it.
    let is_to_mount = attempt.state == AttemptState::Open && attempt.stage < BootStage::Overlay;
    let (places, doors) = match is_to_mount && !baseline {
        true => {
            let places = tx.node_places().await?;
            let doors = doors::to_try(context, &mut tx, &places, &node, network, attempt).await?;
            (places, doors)
        }
        false => (Arc::default(), Vec::new()),
    };
    let elsewhere = elsewhere(&places, &node);
    let hosts = places
        .iter()
        .filter(|place| place.present)
        .filter_map(|place| place.address.map(|at| (IpAddr::V4(at), place.name.clone())))
        .collect();
    let logins = logins(&mut tx, &desired.wanted).await?;
    let overlay = overlay(&mut tx, &node, &desired).await?;
    let ready_checks = ready_checks(&node, &desired, &manifest);
    let erase_scratch = attempt.stage < BootStage::Overlay
        && scratch::is_to_erase(&mut tx, &node, &desired).await?;
    let target = target_name(&image.digest);
    let (chap, target_chap) =
        (due != Due::Comparison).then(|| secrets(context, attempt, &target)).flatten().unzip();
    Ok(Some(BootPlan {
        attempt: attempt.id.clone(),
        generation: attempt.generation,
        cluster_id: context.cluster_id.clone(),
        node_id: node.id.clone(),
        node: node.name.clone(),
        net: NetPlan {
            mac: node.boot_mac,
            address: IpNet::V4(
                Ipv4Net::new(address, network.cidr.prefix_len())
                    .expect("a prefix length of a network is one of an address"),
            ),
            gateway: network.gateway.map(IpAddr::V4),
            dns: network.dns.clone(),
            domain: network.domain.clone(),
            mtu: network.mtu,
            hosts,
        },
        root: RootPlan {
            digest: image.digest.clone(),
            name: image.name.clone(),
            portal: IpAddr::V4(network.controller),
            port: context.config.ports.iscsi,
            target,
            initiator: attempt.initiator.clone(),
            chap,
            target_chap,
            fstype: manifest.root.fstype.to_string(),
            wwid: exports::wwid(&image.digest),
        },
        overlay,
        elsewhere,
        erase_scratch,
        scratch: node.spec.scratch_disks,
        detached: node.spec.detached_disks,
        logins,
        ready_checks,
        ssh: Some(super::ssh::plan(context, &desired)),
        inventory: true,
        baseline,
        doors,
    }))
}

/// Whether nobody but its agent can speak for it yet.
fn is_on_its_way(attempt: &Attempt) -> bool {
    attempt.state == AttemptState::Open && attempt.stage < BootStage::Root
}

/// By what the node and the target prove themselves to each other. Only until the session stands: its
/// agent has them from then on, and soon tenants are on the node, who may speak in its name.
fn secrets(context: &Context, attempt: &Attempt, target: &str) -> Option<(Chap, Chap)> {
    if !attempt.chap || !is_on_its_way(attempt) {
        return None;
    }
    let key = &context.master_key;
    let chap = |user: &str, secret: Secret<String>| Chap {
        user: user.to_owned(),
        secret: secret.expose().clone(),
    };
    Some((
        chap(&attempt.initiator, key.node_chap(&attempt.id)),
        chap(target, key.target_chap(&attempt.id)),
    ))
}

/// The image's checks, then the node's. None in a rescue: its owner comes to mend what they find.
fn ready_checks(node: &Node, desired: &Desired, manifest: &Manifest) -> Vec<ReadyCheck> {
    if desired.wanted.rescue {
        return Vec::new();
    }
    manifest.ready_checks.iter().chain(&node.spec.ready_checks).cloned().collect()
}

pub(super) async fn manifest(tx: &mut Tx, desired: &Desired) -> Result<Option<Manifest>> {
    match &desired.wanted.image {
        Some(image) => manifest_of(tx, &image.digest).await,
        None => Ok(None),
    }
}

/// The manifest of an image; none: it is gone.
pub async fn manifest_of(tx: &mut Tx, digest: &Digest) -> Result<Option<Manifest>> {
    let Some(manifest) = tx.image_manifest(digest).await? else { return Ok(None) };
    Manifest::parse(manifest.as_bytes())
        .map(Some)
        .map_err(|e| StoreError::Corrupt { table: "images", problem: e.to_string() })
}

/// Who has an account where this runs, by id, and what it is there: the overlay's owner and
/// whoever asked for this state, as root; on a project's node with none but the project's data also its
/// members, as what the project lets them be.
pub async fn people(tx: &mut Tx, wanted: &NewDesired) -> Result<BTreeMap<String, Access>> {
    let mut people: BTreeMap<String, Access> = BTreeMap::new();
    let project = tx.project_by_id(&wanted.tenant).await?;
    let owner = match &wanted.overlay_id {
        Some(id) => tx.overlay_by_id(id).await?.map(|overlay| overlay.owner_id),
        None => None,
    };
    let is_shared = owner.as_ref().is_none_or(|owner| *owner == wanted.tenant);
    let mut access = Access::Root;
    if let Some(project) = project {
        access = project.access;
        for (id, role) in tx.people_of(&project.id).await? {
            let manages = role >= MemberRole::Manager;
            if role >= MemberRole::User && (is_shared || id == wanted.actor_id) {
                people.insert(id, if manages { Access::Root } else { access });
            }
        }
    }
    for id in owner.iter().chain([&wanted.actor_id]) {
        people.entry(id.clone()).or_insert(access);
    }
    Ok(people)
}

async fn logins(tx: &mut Tx, wanted: &NewDesired) -> Result<Vec<Login>> {
    let people = people(tx, wanted).await?;
    let mut logins = Vec::with_capacity(people.len());
    for (id, access) in people {
        let user = tx.user_by_id(&id).await?.filter(UserRow::logs_in);
        logins.extend(user.map(|user| Login {
            name: user.name,
            uid: user.uid,
            ssh_keys: user.ssh_keys,
            root: access == Access::Root,
            sudo: access == Access::Sudo,
        }));
    }
    Ok(logins)
}

async fn overlay(tx: &mut Tx, node: &Node, desired: &Desired) -> Result<OverlayPlan> {
    let rank = desired.wanted.rank;
    let Some(id) = &desired.wanted.overlay_id else { return Ok(OverlayPlan::Ram { rank }) };
    let shards = tx.shards(id).await?;
    let known = shards.iter().any(|s| s.node_id == node.id && s.store_id.is_some());
    let name = tx.overlay_by_id(id).await?.map_or_else(|| id.clone(), |o| o.full_name());
    let claimed = tx.disks(&node.id).await?.into_iter().find(|d| d.claimed).map(|d| d.disk);
    let wipe_store = claimed.as_ref().and_then(|disk| match &disk.state {
        DiskState::Ours { store_id } => Some(store_id.clone()),
        DiskState::Blank
        | DiskState::Foreign { .. }
        | DiskState::Other { .. }
        | DiskState::Unusable { .. } => None,
    });
    let wipe_serial = claimed.and_then(|disk| disk.serial);
    Ok(OverlayPlan::Disk {
        overlay_id: id.clone(),
        name,
        rank,
        missing: if known { MissingShard::Fault } else { MissingShard::Create },
        disk: node.spec.overlay_disk.clone(),
        store_id: node.store_id.clone(),
        store_generation: node.store_generation,
        accepted: node.store_accepted,
        repair: node.store_repair,
        cache_mib: node.spec.cache_mib,
        removed: tx.removed_shards(&node.id).await?,
        rescue: desired.wanted.rescue,
        wipe_serial,
        wipe_store,
    })
}

/// The stores of all other nodes, also of those that the inventory no longer names.
fn elsewhere(places: &[NodePlace], node: &Node) -> Vec<StoreElsewhere> {
    let others = places.iter().filter(|other| other.id != node.id);
    let store = |other: &NodePlace| {
        Some(StoreElsewhere { store_id: other.store_id.clone()?, node: other.name.clone() })
    };
    others.filter_map(store).collect()
}

/// Everything that this attempt's node may fetch; the error says in words what is missing.
pub(super) async fn target(
    context: &Context,
    node: &Node,
    attempt: &Attempt,
    token: Secret<String>,
) -> Result<std::result::Result<BootTarget, String>> {
    let mut tx = context.store.read().await?;
    let Some(desired) = tx.desired(&node.id, attempt.generation).await? else {
        return Ok(Err("nothing is wanted of it".to_owned()));
    };
    let Some(image) = desired.wanted.image.clone() else {
        return Ok(Err("no image is wanted of it".to_owned()));
    };
    let (Some(address), Some(network)) = (node.address, network_of(context, node)) else {
        return Ok(Err("it has no address in a network of haasd.toml yet".to_owned()));
    };
    let Some(manifest) = manifest(&mut tx, &desired).await? else {
        return Ok(Err(format!("the image {} is gone", image.name)));
    };
    let overlay = match &desired.wanted.overlay_id {
        Some(id) => tx.overlay_by_id(id).await?.map(|overlay| overlay.full_name()),
        None => None,
    };
    drop(tx);
    let (images, joined) = (context.images.clone(), manifest.clone());
    let agent_cpio = context.config.agent_cpio.clone();
    let initrd = tokio::task::spawn_blocking(move || images.initramfs(&joined, &agent_cpio))
        .await
        .expect("joining two files does not panic");
    let initrd = match initrd {
        Ok((_, path)) => path,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot make the initramfs");
            return Ok(Err(format!("its initramfs cannot be made: {error}")));
        }
    };
    Ok(Ok(BootTarget {
        boot: attempt.id.clone(),
        token,
        node: node.name.clone(),
        mac: node.boot_mac,
        address: Ipv4Net::new(address, network.cidr.prefix_len())
            .expect("a prefix length of a network is one of an address"),
        leased: network.dhcp == DhcpMode::Proxy,
        gateway: network.gateway,
        controller: network.controller,
        http_port: context.config.ports.http,
        api_url: format!("https://{}:{}", network.controller, context.config.ports.api),
        api_fingerprint: context.fingerprint.clone(),
        iscsi_port: context.config.ports.iscsi,
        target: target_name(&image.digest),
        initiator: attempt.initiator.clone(),
        image: image.name,
        overlay,
        image_args: manifest.cmdline.clone(),
        node_args: node.spec.kernel_args.clone(),
        kernel: context.images.blob_path(&manifest.kernel.digest),
        initrd,
    }))
}

/// The program that loads a node's kernel.
pub(super) fn loader(node: &Node) -> Loader {
    if node.spec.secure_boot { Loader::Grub } else { Loader::Ipxe }
}

/// What a node would be given if it booted now, with the token hidden; the error says why nothing.
pub async fn preview(context: &Context, node: &Node) -> std::result::Result<Rendered, String> {
    let (id, now) = ("preview".to_owned(), context.clock.now());
    let initiator = exports::initiator_name(&node.name, &id);
    let attempt = Attempt::new(node, (id, initiator), Cause::Desired, context.epoch, now);
    let token = Secret::new("TOKEN".to_owned());
    let target = target(context, node, &attempt, token).await.map_err(|e| e.to_string())??;
    let rendered = context.templates.render(&target, loader(node)).map_err(|e| e.to_string())?;
    Ok(Rendered { node: node.name.to_string(), script: rendered.script, cmdline: rendered.cmdline })
}
