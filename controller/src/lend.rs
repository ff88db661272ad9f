//! What must be so of a node's disks before somebody is root there who is not its admin: root reads and
//! writes every disk that the kernel knows, whatever else stands in the way.
//!
//! Each disk must be declared, so that what a tenant leaves on it is known to be an overlay, or erased, or
//! out of reach; and the only copy of what another tenant has must not be on one of them, unless its owner
//! has agreed. What an admin asks for is his own decision.

use std::collections::{HashMap, HashSet};

use haas_api::{
    agent::{BootStage, DiskName, DiskSelector, DiskState, Failure},
    hardware::DiskDrive,
    project::Access,
    user::Role,
};

use crate::{
    boots,
    context::Context,
    model::{Attempt, NewDesired, Node},
    store::{CopyRow, DiskRow, Result, Tx},
};

/// A disk of which nodes.toml says nothing.
pub(crate) const UNDECLARED: &str = "disk-undeclared";

/// The only copy of what another tenant has.
pub(crate) const ONLY_COPY: &str = "only-copy";

/// Why a node is not lent with root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// A stable word.
    pub(crate) code: &'static str,
    /// What is so, and what can be done.
    pub(crate) reason: String,
}

/// Why the node cannot be lent for this, as far as is known of it; none: it can. Of a node that haasd has
/// not booted yet no disk is known: they are looked at in the boot, by [`failure`].
pub(crate) async fn refusal(
    context: &Context,
    tx: &mut Tx,
    node: &Node,
    wanted: &NewDesired,
) -> Result<Option<Refusal>> {
    // An agent tells which disks there are before it has looked what is on them.
    refusal_by(context, tx, node, wanted, |seen, drive| row_of(seen, drive).is_some()).await
}

/// The same by those disks that `count`.
async fn refusal_by(
    context: &Context,
    tx: &mut Tx,
    node: &Node,
    wanted: &NewDesired,
    count: impl Fn(&[DiskRow], &DiskDrive) -> bool,
) -> Result<Option<Refusal>> {
    let rules = context.config.tenants;
    if !wanted.power_on || wanted.tenant.is_empty() || !gives_root(tx, wanted).await? {
        return Ok(None);
    }
    if !rules.undeclared_disks
        && let Some((inventory, _)) = tx.hardware(&node.id).await?.inventory
    {
        let seen = tx.disks(&node.id).await?;
        let disks = inventory.disks.iter().filter(|drive| count(&seen, drive));
        let disks = undeclared(node, disks, &seen);
        if !disks.is_empty() {
            let reason = format!(
                "{} of it is neither overlay_disk nor among scratch_disks or detached_disks in nodes.toml, \
                 and root there reads and writes it; an admin declares it, or allows it by [tenants] \
                 undeclared_disks in haasd.toml",
                disks.join(", ")
            );
            return Ok(Some(Refusal { code: UNDECLARED, reason }));
        }
    }
    if !rules.root_beside_others
        && tx.copies(Some(&node.id)).await?.iter().any(|copy| is_others(copy, wanted))
    {
        let reason = "its disk holds the only copy of what another tenant has there, and root could read and \
                      destroy it: whose it is may agree (`haasctl overlay share-disk`); take another node"
            .to_owned();
        return Ok(Some(Refusal { code: ONLY_COPY, reason }));
    }
    Ok(None)
}

/// The same for a boot whose tenant comes on its node. Its agent must have told its disks in this very boot:
/// what an earlier one has told may be of other disks.
pub(crate) async fn failure(
    context: &Context,
    tx: &mut Tx,
    attempt: &Attempt,
) -> Result<Option<Failure>> {
    let node = tx.node_by_id(&attempt.node_id).await?;
    let desired = tx.desired(&attempt.node_id, attempt.generation).await?;
    let (Some(node), Some(desired)) = (node, desired) else { return Ok(None) };
    // haasd itself only brings back what somebody could have before.
    let actor = &desired.wanted.actor_id;
    let is_admins = tx.user_by_id(actor).await?.is_some_and(|user| user.role == Role::Admin);
    if is_admins || actor.is_empty() {
        return Ok(None);
    }
    // By now it has looked at all of them.
    let refusal = match refusal_by(context, tx, &node, &desired.wanted, |_, _| true).await? {
        None => unseen(context, tx, attempt, &desired.wanted).await?,
        refusal => refusal,
    };
    Ok(refusal.map(|Refusal { code, reason }| Failure::new(BootStage::Overlay, code, reason)))
}

/// Refused where disks must be declared and it was not told which there are.
async fn unseen(
    context: &Context,
    tx: &mut Tx,
    attempt: &Attempt,
    wanted: &NewDesired,
) -> Result<Option<Refusal>> {
    let told = tx.hardware(&attempt.node_id).await?.inventory_boot;
    let is_told = told.as_ref() == Some(&attempt.id);
    if context.config.tenants.undeclared_disks || is_told || !gives_root(tx, wanted).await? {
        return Ok(None);
    }
    let reason = "its agent has not told in this boot which disks it has, so that nobody knows what root would \
                  reach; an admin switches it once, and `haasctl node show` says what was found"
        .to_owned();
    Ok(Some(Refusal { code: "disks-unknown", reason }))
}

async fn gives_root(tx: &mut Tx, wanted: &NewDesired) -> Result<bool> {
    let people = boots::people(tx, wanted).await?;
    Ok(people.values().any(|access| match access {
        Access::Root | Access::Sudo => true,
        Access::User => false,
    }))
}

/// Each shard is on one node only, so that there is no other copy of any. Who asks has agreed for what is
/// his own.
fn is_others(copy: &CopyRow, wanted: &NewDesired) -> bool {
    let is_own = [&wanted.tenant, &wanted.actor_id].contains(&&copy.owner_id);
    wanted.overlay_id.as_ref() != Some(&copy.overlay_id) && !is_own
}

/// What keeps nodes from being lent with root, of all nodes at once, for those who plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Obstacles {
    /// Nodes with a disk of which nodes.toml says nothing, by id.
    undeclared: HashSet<String>,
    /// What owners have there and have not agreed that others are root beside.
    copies: Vec<CopyRow>,
}

impl Obstacles {
    /// Looks for them.
    pub(crate) async fn load<'n>(
        context: &Context,
        tx: &mut Tx,
        nodes: impl Iterator<Item = &'n Node>,
    ) -> Result<Self> {
        let rules = context.config.tenants;
        let mut found = Self::default();
        if !rules.undeclared_disks {
            let (drives, seen) = (tx.drives().await?, tx.all_disks().await?);
            let has_undeclared = |node: &&Node| {
                let seen = seen.get(&node.id).map_or(&[][..], Vec::as_slice);
                let mut known = drives.get(&node.id).into_iter().flatten();
                known.any(|drive| row_of(seen, drive).is_some() && !is_declared(node, drive, seen))
            };
            let nodes = nodes.filter(has_undeclared);
            found.undeclared = nodes.map(|node| node.id.clone()).collect();
        }
        if !rules.root_beside_others {
            found.copies = tx.copies(None).await?;
        }
        Ok(found)
    }

    /// Whether there are none, for whomever.
    pub(crate) fn is_empty(&self) -> bool {
        self.undeclared.is_empty() && self.copies.is_empty()
    }

    /// The nodes that cannot be lent for this, by id, each with the code of [`Refusal`]. Admins are not
    /// looked at: what they ask for is their own decision.
    pub(crate) async fn bar(
        &self,
        tx: &mut Tx,
        wanted: &NewDesired,
    ) -> Result<HashMap<String, &'static str>> {
        let asker = tx.user_by_id(&wanted.actor_id).await?;
        let is_admins = asker.is_none_or(|user| user.role == Role::Admin);
        if self.is_empty() || is_admins || !gives_root(tx, wanted).await? {
            return Ok(HashMap::new());
        }
        let copies = self.copies.iter().filter(|copy| is_others(copy, wanted));
        let copies = copies.map(|copy| (copy.node_id.clone(), ONLY_COPY));
        let undeclared = self.undeclared.iter().map(|id| (id.clone(), UNDECLARED));
        Ok(copies.chain(undeclared).collect())
    }
}

/// The node's own disks of which nodes.toml says nothing, as people know them. `seen` is what its agent
/// found on them at the last boot.
fn undeclared<'d>(
    node: &Node,
    drives: impl IntoIterator<Item = &'d DiskDrive>,
    seen: &[DiskRow],
) -> Vec<String> {
    let is_undeclared = |drive: &&DiskDrive| !is_declared(node, drive, seen);
    let told = |drive: &DiskDrive| {
        format!("disk {} (serial {})", drive.name, drive.serial.as_deref().unwrap_or("none"))
    };
    drives.into_iter().filter(is_undeclared).map(told).collect()
}

fn is_declared(node: &Node, drive: &DiskDrive, seen: &[DiskRow]) -> bool {
    let spec = &node.spec;
    let mut named = spec.scratch_disks.iter().chain(&spec.detached_disks);
    let seen = row_of(seen, drive);
    let holds_store = seen.is_some_and(|row| match &row.disk.state {
        DiskState::Ours { store_id } => node.store_id.as_ref() == Some(store_id),
        DiskState::Blank
        | DiskState::Foreign { .. }
        | DiskState::Other { .. }
        | DiskState::Unusable { .. } => false,
    });
    let is_overlay = match &spec.overlay_disk {
        DiskSelector::One(name) => is(drive, name),
        // The one that would hold it: blank, or given up by an admin.
        DiskSelector::Auto => {
            seen.is_some_and(|row| row.claimed || row.disk.state == DiskState::Blank)
        }
    };
    holds_store || is_overlay || named.any(|name| is(drive, name))
}

/// What was found on it.
fn row_of<'r>(seen: &'r [DiskRow], drive: &DiskDrive) -> Option<&'r DiskRow> {
    seen.iter().find(|row| match (&row.disk.serial, &drive.serial) {
        (Some(a), Some(b)) => a == b,
        _ => row.disk.name == drive.name,
    })
}

fn is(drive: &DiskDrive, name: &DiskName) -> bool {
    match name {
        DiskName::Serial(serial) => drive.serial.as_ref() == Some(serial),
        DiskName::Path(path) => {
            drive.paths.contains(path) || *path == format!("/dev/{}", drive.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use haas_api::{agent::Disk, hardware::Inventory};
    use serde_json::json;

    use super::*;
    use crate::{
        inventory::NodeSpec,
        testing::{Bench, spec},
    };

    fn drive(name: &str, serial: &str) -> DiskDrive {
        DiskDrive { name: name.to_owned(), serial: Some(serial.to_owned()), ..DiskDrive::default() }
    }

    /// A node of alice's with this inventory entry and these disks.
    async fn bench(spec: NodeSpec, disks: Vec<DiskDrive>) -> Bench {
        let bench = Bench::new().await;
        bench.add(&spec).await;
        bench.add_image("a").await;
        let grant = json!({ "subject": "alice", "object": "node-group:rack1", "role": "use" });
        assert_eq!(bench.post("/v1/grants", grant).await.status, 201);
        bench.add_overlay("alice", "dev").await;
        let node = bench.node(1).await;
        let mut tx = bench.context.store.write().await.unwrap();
        let inventory = Inventory { disks, ..Inventory::default() };
        tx.set_inventory(&node.id, &inventory, "an earlier boot", 1).await.unwrap();
        tx.commit().await.unwrap();
        bench
    }

    /// What keeps the tenant of an open boot from its node.
    async fn keeps_out(bench: &Bench, attempt: &Attempt) -> Option<String> {
        let mut tx = bench.context.store.read().await.unwrap();
        failure(&bench.context, &mut tx, attempt).await.unwrap().map(|failure| failure.code)
    }

    async fn asks(bench: &Bench, token: &str, overlay: &str) -> (u16, String) {
        let body = json!({ "nodeset": "n01", "image": "a", "overlay": overlay, "force": true });
        let answer = bench.call(token, "POST", "/v1/switch", body).await;
        let code = if answer.status < 300 { String::new() } else { answer.code() };
        (answer.status, code)
    }

    async fn set_disks(bench: &Bench, state: DiskState) {
        let node = bench.node(1).await;
        let disk = Disk {
            name: "sda".to_owned(),
            serial: Some("A".to_owned()),
            model: None,
            size: 1 << 30,
            state,
        };
        let mut tx = bench.context.store.write().await.unwrap();
        tx.set_disks(&node.id, &[disk], 1).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_node_with_a_disk_that_nobody_has_declared_is_not_lent_with_root() {
        let (a, b, c) = (drive("sda", "A"), drive("sdb", "B"), drive("sdc", "C"));
        let bench = bench(spec(1), vec![a.clone(), b.clone(), c.clone()]).await;
        let other = DiskState::Other { looks_like: "ext4".to_owned() };
        set_disks(&bench, other).await;
        let refused = asks(&bench, &bench.alice, "alice/dev").await;
        assert_eq!(refused, (409, "disk-undeclared".to_owned()));
        // An admin who lends it has decided so.
        assert_eq!(asks(&bench, &bench.admin, "alice/dev").await.0, 202);

        let mut node = bench.node(1).await;
        let left = |node: &Node, seen: &[DiskRow]| {
            undeclared(node, &[a.clone(), b.clone(), c.clone()], seen)
        };
        assert_eq!(left(&node, &[]).len(), 3);
        node.spec.scratch_disks = vec![DiskName::Serial("B".into())];
        node.spec.detached_disks = vec![DiskName::Path("/dev/sdc".into())];
        assert_eq!(left(&node, &[]), ["disk sda (serial A)"]);
        node.spec.overlay_disk = DiskSelector::One(DiskName::Serial("A".into()));
        assert_eq!(left(&node, &[]), [""; 0]);
    }

    #[tokio::test]
    async fn without_a_name_the_overlay_disk_is_the_one_that_is_blank_or_holds_the_nodes_store() {
        let bench = bench(spec(1), vec![drive("sda", "A")]).await;
        let store_id = "S".to_owned();
        set_disks(&bench, DiskState::Ours { store_id: store_id.clone() }).await;
        assert_eq!(asks(&bench, &bench.alice, "alice/dev").await.1, "disk-undeclared");
        let node = bench.node(1).await;
        let mut tx = bench.context.store.write().await.unwrap();
        tx.set_store(&node.id, Some(&store_id), 1).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(asks(&bench, &bench.alice, "alice/dev").await.0, 202);
        set_disks(&bench, DiskState::Blank).await;
        assert_eq!(asks(&bench, &bench.alice, "alice/dev").await.0, 202);
    }

    #[tokio::test]
    async fn whose_agent_has_not_told_its_disks_in_this_boot_has_no_root_but_its_admins() {
        let mut declared = spec(1);
        declared.overlay_disk = DiskSelector::One(DiskName::Serial("A".into()));
        let bench = bench(declared, vec![drive("sda", "A")]).await;
        let boot = async || {
            let node = bench.node(1).await;
            let cause = crate::model::Cause::Desired;
            crate::reconcile::open_attempt(&bench.context, &node, None, cause).await.unwrap()
        };
        assert_eq!(asks(&bench, &bench.alice, "alice/dev").await.0, 202);
        let attempt = boot().await;
        assert_eq!(keeps_out(&bench, &attempt).await.as_deref(), Some("disks-unknown"));
        let found = async |serial: &str| {
            let disks = vec![drive("sda", serial)];
            let inventory = Inventory { disks, ..Inventory::default() };
            crate::hardware::found(&bench.context, &attempt.id, inventory).await.unwrap();
        };
        found("B").await;
        assert_eq!(keeps_out(&bench, &attempt).await.as_deref(), Some("disk-undeclared"));
        found("A").await;
        assert_eq!(keeps_out(&bench, &attempt).await, None);
        // What an admin does with a node that tells nothing is his decision.
        assert_eq!(asks(&bench, &bench.admin, "alice/dev").await.0, 202);
        assert_eq!(keeps_out(&bench, &boot().await).await, None);
    }

    #[test]
    fn a_disk_is_declared_by_the_path_that_its_agent_has_found_it_at() {
        let path = "/dev/disk/by-path/pci-0000:01:00.0-nvme-1".to_owned();
        let there = DiskDrive { paths: vec![path.clone()], ..drive("nvme0n1", "N") };
        assert!(is(&there, &DiskName::Path(path.clone())));
        assert!(!is(&drive("nvme0n1", "N"), &DiskName::Path(path)));
    }

    /// Notes that a node has made a shard of this overlay.
    async fn hold(bench: &Bench, overlay: &str) {
        let node = bench.node(1).await;
        let mut tx = bench.context.store.write().await.unwrap();
        tx.add_shard(overlay, &node.id, 0).await.unwrap();
        tx.shard_mounted(overlay, &node.id, "S", 1, None, 1).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn nobody_is_root_beside_the_only_copy_of_anothers_data_unless_he_agreed() {
        let bench = bench(spec(1), Vec::new()).await;
        let bob = bench.add_user("bob", Role::User).await;
        let his = bench.add_overlay("bob", "his").await;
        hold(&bench, &his).await;
        for overlay in ["alice/dev", "none"] {
            let refused = asks(&bench, &bench.alice, overlay).await;
            assert_eq!(refused, (409, "only-copy".to_owned()), "{overlay}");
        }
        let share = |token: &str, shares: bool| {
            let body = json!({ "shares_disk": shares });
            let token = token.to_owned();
            let bench = &bench;
            async move { bench.call(&token, "PATCH", "/v1/overlays/bob/his", body).await.status }
        };
        assert_eq!(share(&bench.alice, true).await, 403, "it is not hers to agree");
        assert_eq!(share(&bob, true).await, 200);
        assert_eq!(asks(&bench, &bench.alice, "alice/dev").await.0, 202);
        assert_eq!(share(&bob, false).await, 200);
        assert_eq!(asks(&bench, &bench.alice, "alice/dev").await.1, "only-copy");
        assert_eq!(asks(&bench, &bench.admin, "alice/dev").await.0, 202);
    }
}
