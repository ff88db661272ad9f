//! Takes an inventory file into the store, whole or not at all: at start, on SIGHUP, and by
//! `haasctl node apply`. The store is the truth; a file that was taken once is not taken again at
//! the next start, so that what was applied since stays.

use std::path::Path;

use serde_json::json;
use tracing::{error, info};

use crate::{
    clock,
    context::Context,
    inventory::{Diff, Inventory, InventoryErrors, NodeSpec},
    store::{NewEvent, StoreError, Tx},
};

/// Why an inventory was not taken.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The file has mistakes; all are listed.
    #[error(transparent)]
    Inventory(#[from] InventoryErrors),
    /// A node that the file leaves out or changes runs something.
    #[error("{0}")]
    InUse(String),
    /// The store said no.
    #[error("the inventory could not be written")]
    Store(#[from] StoreError),
}

/// Imports the configured file unless it is as it was when it was last taken: what was applied since
/// from another file stays. A file that cannot be
/// taken is told of and left: nodes that run need their images whatever a person has mistyped.
pub async fn at_start(context: &Context) -> Result<(), StoreError> {
    match import_new(context).await {
        Ok(()) => Ok(()),
        Err(EnrollError::Store(error)) => Err(error),
        Err(error @ (EnrollError::Inventory(_) | EnrollError::InUse(_))) => {
            let file = context.config.nodes_file.display();
            error!(%file, error = &error as &dyn std::error::Error,
                "the inventory file is not taken; haasd goes on with the one that it has");
            Ok(())
        }
    }
}

async fn import_new(context: &Context) -> Result<(), EnrollError> {
    let path = &context.config.nodes_file;
    if !path.exists() {
        info!(file = %path.display(), "there is no inventory file; nodes come by `haasctl node apply`");
        return Ok(());
    }
    let inventory = Inventory::load(path, &context.config.networks)?;
    let last = context.store.read().await?.last_import(&path.display().to_string()).await?;
    if last.as_deref() == Some(inventory.hash.as_str()) {
        return Ok(());
    }
    apply(context, path, &inventory, "haasd", false).await.map(|_| ())
}

/// Imports the configured file now (SIGHUP).
pub async fn reload(context: &Context) -> Result<Diff, EnrollError> {
    let path = &context.config.nodes_file;
    let inventory = Inventory::load(path, &context.config.networks)?;
    apply(context, path, &inventory, "haasd", false).await
}

/// Imports an inventory, or only answers what it would change.
pub async fn apply(
    context: &Context,
    file: &Path,
    inventory: &Inventory,
    actor: &str,
    dry_run: bool,
) -> Result<Diff, EnrollError> {
    let mut tx = if dry_run { context.store.read().await? } else { context.store.write().await? };
    let known = tx.all_nodes().await?;
    let present: Vec<NodeSpec> =
        known.iter().filter(|n| n.present).map(|n| n.spec.clone()).collect();
    let diff = Inventory::diff(&present, &inventory.nodes);
    for node in known.iter().filter(|node| node.present && node.managed) {
        let name = &node.name;
        let change = match inventory.nodes.iter().find(|spec| spec.name == *name) {
            None => format!("is not in {} any more", file.display()),
            Some(spec) if spec.boot_mac() != node.boot_mac => "gets another MAC".to_owned(),
            // Its root hangs on the address that it has.
            Some(spec) if spec.address.is_some() && spec.address != node.address => {
                "gets another address".to_owned()
            }
            Some(_) => continue,
        };
        if tx.last_attempt(&node.id).await?.is_some_and(|a| a.ended_at.is_none()) {
            return Err(EnrollError::InUse(format!(
                "{name} {change} but runs; power it off first: haasctl power off {name}"
            )));
        }
    }
    if dry_run {
        return Ok(diff);
    }
    // Every unique key is freed first, so that nodes of one file may swap NICs or addresses.
    let new: std::collections::BTreeMap<_, _> =
        inventory.nodes.iter().map(|spec| (&spec.name, spec)).collect();
    for node in &known {
        if new.get(&node.name).is_none_or(|spec| **spec != node.spec || !node.present) {
            tx.park_node(&node.id).await?;
        }
    }
    for node in &known {
        match new.get(&node.name) {
            Some(spec) if **spec != node.spec || !node.present => tx.set_spec(node, spec).await?,
            None if node.present => tx.remove_node(&node.id).await?,
            Some(_) | None => {}
        }
    }
    for spec in &inventory.nodes {
        if !known.iter().any(|node| node.name == spec.name) {
            tx.add_node(spec, clock::wall()).await?;
        }
    }
    tx.add_import(&inventory.hash, &file.display().to_string(), clock::wall()).await?;
    note(&mut tx, file, &diff, actor).await?;
    tx.commit().await?;
    info!(file = %file.display(), added = diff.added.len(), removed = diff.removed.len(),
        changed = diff.changed.len(), "inventory imported");
    context.changed();
    Ok(diff)
}

async fn note(tx: &mut Tx, file: &Path, diff: &Diff, actor: &str) -> Result<(), StoreError> {
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind: "inventory-imported",
        node: None,
        operation: None,
        actor,
        data: json!({
            "file": file.display().to_string(),
            "added": diff.added.len(),
            "removed": diff.removed.len(),
            "changed": diff.changed.len(),
        }),
        tenant: None,
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{model::Cause, reconcile, testing::Bench};

    fn stanza(address: &str, mac: &str) -> String {
        format!(
            "[[node]]\nname = \"n11\"\nmac = \"{mac}\"\naddress = \"{address}\"\n\
             power = {{ driver = \"manual\" }}\n"
        )
    }

    #[tokio::test]
    async fn a_node_that_runs_keeps_the_address_and_the_nic_that_its_root_hangs_on() {
        let bench = Bench::new().await;
        bench.add_nodes([11]).await;
        bench.add_image("a").await;
        let body = json!({ "nodeset": "n11", "image": "a", "overlay": "none" });
        assert_eq!(bench.post("/v1/switch", body).await.status, 202);
        let _ =
            reconcile::open_attempt(&bench.context, &bench.node(11).await, None, Cause::Desired)
                .await;
        let same = ("127.77.0.11", "52:54:00:00:00:0b");
        for (address, mac, problem) in [
            ("127.77.0.9", same.1, "gets another address"),
            (same.0, "52:54:00:00:00:09", "gets another MAC"),
        ] {
            let text = stanza(address, mac);
            let body = json!({ "file": "nodes.toml", "text": text, "dry_run": false });
            let answer = bench.post("/v1/nodes/apply", body).await;
            assert_eq!((answer.status, answer.code().as_str()), (409, "node-in-use"));
            assert!(answer.text.contains(problem), "{}", answer.text);
        }
        let body =
            json!({ "file": "nodes.toml", "text": stanza(same.0, same.1), "dry_run": false });
        assert_eq!(bench.post("/v1/nodes/apply", body).await.status, 200);
    }

    #[tokio::test]
    async fn a_node_that_was_taken_out_can_come_back_and_hinders_nobody_meanwhile() {
        let bench = Bench::new().await;
        let apply = async |text: &str| {
            let body = json!({ "file": "nodes.toml", "text": text, "dry_run": false });
            let answer = bench.post("/v1/nodes/apply", body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        };
        let (one, other) =
            (stanza("127.77.0.11", "52:54:00:00:00:0b"), "[defaults]\narch = \"x86_64\"\n");
        apply(&one).await;
        let id = bench.node(11).await.id;
        apply(other).await;
        // Once more, and with another node in its place and on its NIC.
        apply(other).await;
        apply(&one.replace("n11", "n12")).await;
        apply(&one).await;
        let back = bench.node(11).await;
        assert_eq!((back.id, back.present), (id, true));
        assert_eq!(back.boot_mac.to_string(), "52:54:00:00:00:0b");
    }

    #[tokio::test]
    async fn a_file_with_a_mistake_does_not_keep_haasd_from_its_nodes() {
        let bench = Bench::new().await;
        bench.add_nodes([1]).await;
        std::fs::write(&bench.context.config.nodes_file, "[[node]]\nnmae = \"n01\"\n").unwrap();
        at_start(&bench.context).await.unwrap();
        assert!(bench.node(1).await.present);
        assert!(reload(&bench.context).await.is_err(), "who asks for it is told");
    }
}
