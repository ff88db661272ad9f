//! Scratch disks are one tenant's after the other: what one has left is erased by the agent before the
//! next one's code runs, and nobody is let in until it says that it was.

use haas_api::agent::{BootStage, Failure};
use serde_json::json;
use tracing::info;

use super::event;
use crate::{
    context::Context,
    model::{Attempt, AttemptState, Desired, Node},
    store::{Result, Tx},
};

/// Whether somebody else may have written on the node's scratch disks than who gets it now. Of a node that
/// no tenant had yet, nobody has: what a site keeps there is not haasd's to erase.
pub(super) async fn is_to_erase(tx: &mut Tx, node: &Node, desired: &Desired) -> Result<bool> {
    if node.spec.scratch_disks.is_empty() {
        return Ok(false);
    }
    let of = tx.tenancy(&node.id).await?.scratch_of;
    Ok(of.is_some_and(|of| of != desired.wanted.tenant))
}

/// The tenant of an attempt comes on its node: from now on the scratch disks are his. The failure says that
/// they still are another's.
pub(super) async fn hand_over(tx: &mut Tx, attempt: &Attempt) -> Result<Option<Failure>> {
    let node = tx.node_by_id(&attempt.node_id).await?;
    let desired = tx.desired(&attempt.node_id, attempt.generation).await?;
    let (Some(node), Some(desired)) = (node, desired) else { return Ok(None) };
    if is_to_erase(tx, &node, &desired).await? {
        return Ok(Some(Failure::new(
            BootStage::Overlay,
            "scratch-not-erased",
            "its agent goes on, and has not erased what another tenant may have left on its \
             scratch disks",
        )));
    }
    tx.set_scratch_of(&node.id, &desired.wanted.tenant).await?;
    Ok(None)
}

/// The agent erases: the boot takes as long as that does.
pub async fn erasing(
    context: &Context,
    attempt: &str,
    disk: &str,
    done: u64,
    size: u64,
) -> Result<()> {
    let mut tx = context.store.write().await?;
    let Some(attempt) = before_tenants(&mut tx, attempt).await? else { return Ok(()) };
    tx.restart_stage(&attempt.id, context.clock.now()).await?;
    tx.commit().await?;
    info!(boot = %attempt.id, disk, done, size, "a scratch disk is being erased");
    context.changed();
    Ok(())
}

/// The agent has erased all that there was.
pub async fn erased(context: &Context, attempt: &str, disks: &[String]) -> Result<()> {
    let mut tx = context.store.write().await?;
    let Some(attempt) = before_tenants(&mut tx, attempt).await? else { return Ok(()) };
    let Some(desired) = tx.desired(&attempt.node_id, attempt.generation).await? else {
        return Ok(());
    };
    tx.set_scratch_of(&attempt.node_id, &desired.wanted.tenant).await?;
    let data = json!({ "boot": attempt.id, "disks": disks });
    let node = event(&mut tx, &attempt, "scratch-erased", data).await?;
    tx.commit().await?;
    info!(node, boot = %attempt.id, ?disks, "scratch disks were erased");
    context.changed();
    Ok(())
}

/// The attempt, if only its agent can speak for it: from the overlay on users are on the node.
async fn before_tenants(tx: &mut Tx, attempt: &str) -> Result<Option<Attempt>> {
    let attempt = tx.attempt(attempt).await?;
    Ok(attempt.filter(|a| a.state == AttemptState::Open && a.stage < BootStage::Overlay))
}

#[cfg(test)]
mod tests {
    use haas_api::agent::DiskName;
    use serde_json::json;

    use super::*;
    use crate::{
        boots::{plan, reached},
        inventory::NodeSpec,
        model::Cause,
        reconcile::open_attempt,
        testing::{Bench, spec},
    };

    async fn boot_for(bench: &Bench, overlay: &str) -> Attempt {
        let body = json!({ "nodeset": "n01", "image": "a", "overlay": overlay, "force": true });
        let answer = bench.post("/v1/switch", body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let (context, node) = (&bench.context, bench.node(1).await);
        let last = context.store.read().await.unwrap().last_attempt(&node.id).await.unwrap();
        open_attempt(context, &node, last.as_ref(), Cause::Desired).await.unwrap()
    }

    async fn erases(bench: &Bench, attempt: &Attempt) -> bool {
        let mut tx = bench.context.store.read().await.unwrap();
        let attempt = tx.attempt(&attempt.id).await.unwrap().unwrap();
        drop(tx);
        plan(&bench.context, &attempt).await.unwrap().unwrap().erase_scratch
    }

    async fn now(bench: &Bench, attempt: &Attempt) -> Attempt {
        bench.context.store.read().await.unwrap().attempt(&attempt.id).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_one_tenant_left_is_erased_before_the_next_one_comes_and_nobody_passes_before() {
        let bench = Bench::new().await;
        let scratch_disks = vec![DiskName::Serial("S".into())];
        bench.add(&NodeSpec { scratch_disks, ..spec(1) }).await;
        bench.add_image("a").await;
        bench.add_user("bob", haas_api::user::Role::User).await;
        for owner in ["alice", "bob"] {
            bench.add_overlay(owner, "dev").await;
        }
        let context = &bench.context;
        let first = boot_for(&bench, "alice/dev").await;
        assert!(!erases(&bench, &first).await, "nobody had it");
        reached(context, &first.id, BootStage::Overlay).await.unwrap();
        let again = boot_for(&bench, "alice/dev").await;
        assert!(!erases(&bench, &again).await, "it is hers");

        let next = boot_for(&bench, "bob/dev").await;
        assert!(erases(&bench, &next).await);
        // What is said for the boot before changes nothing.
        erased(context, &first.id, &[]).await.unwrap();
        assert!(erases(&bench, &next).await);
        reached(context, &next.id, BootStage::Overlay).await.unwrap();
        let held = now(&bench, &next).await;
        assert!(held.stage < BootStage::Overlay, "{held:?}");
        assert_eq!(held.failure.unwrap().code, "scratch-not-erased");

        erasing(context, &next.id, "sdb", 1, 2).await.unwrap();
        let waiting = now(&bench, &next).await;
        assert!(waiting.stage_since > next.stage_since && waiting.failure.is_none());
        erased(context, &next.id, &["sdb".to_owned()]).await.unwrap();
        assert!(!erases(&bench, &next).await);
        reached(context, &next.id, BootStage::Overlay).await.unwrap();
        assert_eq!(now(&bench, &next).await.stage, BootStage::Overlay);
        assert!(bench.event_kinds().await.contains(&"scratch-erased".to_owned()));
        // Once users are there, nobody says so any more.
        let back = boot_for(&bench, "alice/dev").await;
        assert!(erases(&bench, &back).await);
    }
}
