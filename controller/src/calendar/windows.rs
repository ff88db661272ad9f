//! Maintenance windows: admins set when nothing is planned on which nodes.

use haas_api::{
    maintenance::{Maintenance, NewMaintenance},
    reservation::ReservationState,
};
use serde_json::json;

use super::{
    ask::{AskError, Result, shown, steady},
    snapshot::seconds,
};
use crate::{
    auth::Principal,
    clock,
    context::Context,
    model::{Micros, Reservation},
    nodeset::{self, NodeNames},
    store::{MaintenanceRow, NewEvent, Tx},
};

/// Sets a window; its reason was looked at. Where reservations have nodes of it then, only if that is wanted.
pub async fn add_window(
    context: &Context,
    tx: &mut Tx,
    principal: &Principal,
    new: &NewMaintenance,
) -> Result<Maintenance> {
    let (begin_at, end_at) = (moment(context, &new.begin)?, moment(context, &new.end)?);
    let now = context.clock.now();
    if end_at <= begin_at || end_at <= now {
        let text = "a window ends after its begin, and not before now".to_owned();
        return Err(AskError::Bad(text));
    }
    let nodes = nodeset::resolve(&new.nodeset, tx.nodes().await?)?;
    let nodes: Vec<String> = nodes.into_iter().map(|node| node.id).collect();
    let live = tx.live_reservations().await?;
    let met: Vec<_> = live.iter().filter(|one| meets(one, &nodes, (begin_at, end_at))).collect();
    if !new.force && !met.is_empty() {
        let numbers: Vec<_> = met.iter().map(|one| one.id.to_string()).collect();
        return Err(AskError::Reserved(format!(
            "reservations have nodes of it then: {}; with --force accepted hours go to other nodes or \
             move, and what runs goes on until its end",
            numbers.join(", ")
        )));
    }
    let row = MaintenanceRow {
        id: 0,
        nodes,
        begin_at,
        end_at,
        reason: new.reason.clone(),
        actor: principal.name.to_string(),
    };
    let row = MaintenanceRow { id: tx.add_maintenance(&row).await?, ..row };
    let made = window(context, &NodeNames::read(tx).await?, &row);
    note(tx, principal, "maintenance-added", &made).await?;
    Ok(made)
}

/// The windows that are not over.
pub async fn windows(context: &Context) -> Result<Vec<Maintenance>> {
    let mut tx = context.store.read().await?;
    let names = NodeNames::read(&mut tx).await?;
    let rows = tx.maintenance(context.clock.now()).await?;
    Ok(rows.iter().map(|row| window(context, &names, row)).collect())
}

/// Removes a window; false where there is none.
pub async fn remove_window(
    context: &Context,
    tx: &mut Tx,
    principal: &Principal,
    id: i64,
) -> Result<bool> {
    let rows = tx.maintenance(context.clock.now()).await?;
    let Some(row) = rows.iter().find(|row| row.id == id) else { return Ok(false) };
    tx.remove_maintenance(id).await?;
    let removed = window(context, &NodeNames::read(tx).await?, row);
    note(tx, principal, "maintenance-removed", &removed).await?;
    Ok(true)
}

fn moment(context: &Context, text: &str) -> Result<Micros> {
    Ok(steady(context, clock::moment(text).map_err(AskError::Bad)?))
}

/// Whether a reservation has nodes of a window in its time: those that it runs on, or an accepted hour's.
/// What was only promised is planned anew.
fn meets(one: &Reservation, nodes: &[String], (begin, end): (Micros, Micros)) -> bool {
    let holds = match one.state {
        ReservationState::Starting | ReservationState::Active => true,
        ReservationState::Planned => one.is_advance,
        ReservationState::Pending
        | ReservationState::Ending
        | ReservationState::Ended
        | ReservationState::Cancelled
        | ReservationState::Failed => false,
    };
    holds
        && one.start_at.is_some_and(|start| seconds(start) < seconds(end))
        && one.end_at.is_some_and(|until| seconds(until) > seconds(begin))
        && one.held().any(|held| nodes.contains(&held.node_id))
}

fn window(context: &Context, names: &NodeNames, row: &MaintenanceRow) -> Maintenance {
    Maintenance {
        id: row.id,
        nodes: names.fold(&row.nodes),
        begin: shown(context, row.begin_at),
        end: shown(context, row.end_at),
        reason: row.reason.clone(),
        by: row.actor.clone(),
    }
}

async fn note(tx: &mut Tx, principal: &Principal, kind: &str, window: &Maintenance) -> Result<()> {
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind,
        node: None,
        operation: None,
        actor: principal.name.as_str(),
        data: json!(window),
        tenant: None,
    })
    .await?;
    Ok(())
}
