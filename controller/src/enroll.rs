//! Takes an inventory file into the store, whole or not at all: at start, on SIGHUP, and by
//! `haasctl node apply`. The store is the truth; a file that was taken once is not taken again at
//! the next start, so that what was applied since stays.

use std::path::Path;

use serde_json::json;
use tracing::info;

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

/// Imports the configured file when its hash differs from the last import's.
pub async fn at_start(context: &Context) -> Result<(), EnrollError> {
    let path = &context.config.nodes_file;
    if !path.exists() {
        info!(file = %path.display(), "there is no inventory file; nodes come by `haasctl node apply`");
        return Ok(());
    }
    let inventory = Inventory::load(path, &context.config.networks)?;
    let last = context.store.read().await?.last_import().await?;
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
    for name in &diff.removed {
        if let Some(node) = known.iter().find(|n| n.present && n.name == *name)
            && node.managed
            && tx.last_attempt(&node.id).await?.is_some_and(|a| a.ended_at.is_none())
        {
            return Err(EnrollError::InUse(format!(
                "{name} is not in {} any more but runs; power it off first: haasctl power off {name}",
                file.display()
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
    })
    .await?;
    Ok(())
}
