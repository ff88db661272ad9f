//! Nodes that fail again and again by what no image can cause are taken out of service, so that nobody
//! else is given them.

use serde_json::json;
use tracing::warn;

use crate::{
    clock,
    model::{Drain, DrainState, Fault, Node},
    store::{NewEvent, Result, Tx},
};

/// After so many faults in a row.
const FAULTS: i64 = 3;

/// Faults of BMC, power, firmware and network: nothing of a tenant's has run by then.
const OF_HARDWARE: [&str; 5] =
    ["bmc-silent", "bmc-power-stuck", "bmc-power-on", "no-network-boot", "no-script"];

/// Counts a fault, and quarantines the node if it is one too many.
pub(super) async fn after_fault(tx: &mut Tx, node: &Node, fault: &Fault) -> Result<()> {
    if !OF_HARDWARE.contains(&fault.code.as_str()) {
        return Ok(());
    }
    let faults = node.hardware_faults + 1;
    tx.set_hardware_faults(&node.id, faults).await?;
    let is_out = node.drain.as_ref().is_some_and(|drain| drain.state.keeps_hands_off());
    if faults < FAULTS || is_out {
        return Ok(());
    }
    let reason =
        format!("{faults} faults in a row that no image can cause, the last: {}", fault.reason);
    warn!(node = %node.name, reason, "quarantined");
    let state = DrainState::Quarantine;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind: "drained",
        node: Some(node.name.as_str()),
        operation: None,
        actor: "haasd",
        data: json!({ "state": state.as_str(), "reason": reason }),
        tenant: None,
    })
    .await?;
    let (actor, since, generation) = ("haasd".to_owned(), clock::wall(), node.generation);
    tx.set_drain(&node.id, Some(&Drain { state, reason, actor, since, generation })).await
}
