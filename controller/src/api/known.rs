//! What nodes are shown with besides their own rows: each name is looked up once for all of them, and what
//! each node has of its own is read in one query for all.

use std::collections::HashMap;

use haas_api::names::UserName;

use crate::{
    clock,
    model::IdleOff,
    store::{HostKeyRow, Result, Tx},
};

/// What was read so far for one answer.
#[derive(Debug, Default)]
pub(super) struct Known {
    accounts: HashMap<String, Option<UserName>>,
    overlays: HashMap<String, Option<String>>,
    /// None: it is read of each node alone.
    of_nodes: Option<OfNodes>,
}

#[derive(Debug)]
struct OfNodes {
    idle_off: HashMap<String, IdleOff>,
    host_keys: HashMap<String, Vec<HostKeyRow>>,
}

impl Known {
    /// For an answer with many nodes.
    pub(super) async fn of_all(tx: &mut Tx) -> Result<Self> {
        let idle_off = tx.idle_off_of_each(clock::wall()).await?;
        let host_keys = tx.live_host_keys().await?;
        Ok(Self { of_nodes: Some(OfNodes { idle_off, host_keys }), ..Self::default() })
    }

    /// The name of the user or project of this id.
    pub(super) async fn account(&mut self, tx: &mut Tx, id: &str) -> Result<Option<UserName>> {
        if let Some(known) = self.accounts.get(id) {
            return Ok(known.clone());
        }
        let name = tx.user_by_id(id).await?.map(|account| account.name);
        self.accounts.insert(id.to_owned(), name.clone());
        Ok(name)
    }

    /// The name of an overlay.
    pub(super) async fn overlay(
        &mut self,
        tx: &mut Tx,
        id: Option<&str>,
    ) -> Result<Option<String>> {
        let Some(id) = id else { return Ok(None) };
        if let Some(known) = self.overlays.get(id) {
            return Ok(known.clone());
        }
        let name = tx.overlay_by_id(id).await?.map(|overlay| overlay.full_name());
        self.overlays.insert(id.to_owned(), name.clone());
        Ok(name)
    }

    /// For how long a node was off since nobody used it.
    pub(super) async fn idle_off(&mut self, tx: &mut Tx, node: &str) -> Result<IdleOff> {
        match &mut self.of_nodes {
            Some(all) => Ok(all.idle_off.remove(node).unwrap_or_default()),
            None => tx.idle_off(node, clock::wall()).await,
        }
    }

    /// The keys of the ssh server of an attempt that is open or runs.
    pub(super) async fn host_keys(
        &mut self,
        tx: &mut Tx,
        attempt: &str,
    ) -> Result<Vec<HostKeyRow>> {
        match &mut self.of_nodes {
            Some(all) => Ok(all.host_keys.remove(attempt).unwrap_or_default()),
            None => tx.host_keys(attempt).await,
        }
    }
}
