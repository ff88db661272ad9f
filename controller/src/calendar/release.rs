//! What is given back before its time: by whoever has it, and of those who are users no more.

use haas_api::reservation::{ReasonCode, ReservationState};

use super::{
    ask::{AskError, Result, find},
    carry_out::tell,
    decide::Step,
    world::World,
};
use crate::{
    auth::{Principal, Verb},
    context::Context,
    model::Reservation,
    store::Tx,
};

/// Takes a reservation back that has no nodes yet, or gives back its nodes.
pub async fn cancel_or_release(
    context: &Context,
    principal: &Principal,
    id: i64,
) -> Result<Option<Reservation>> {
    let mut tx = context.store.write().await?;
    let Some(mut one) = find(&mut tx, principal, id, Verb::Manage).await? else { return Ok(None) };
    let world = World::load(context, &mut tx).await?;
    let code = ReasonCode::Released;
    let by = principal.name.as_str();
    match one.state {
        ReservationState::Pending | ReservationState::Planned => {
            take_back(&mut tx, &world, &mut one, (code, format!("{by} took it back")), by).await?;
        }
        // The loop ends it, as it ends those whose time is over.
        ReservationState::Starting | ReservationState::Active => {
            one.end_at = Some(context.clock.now());
            (one.code, one.reason) = (code, format!("{by} gave it back"));
            tx.set_reservation(&one).await?;
        }
        ReservationState::Ending
        | ReservationState::Ended
        | ReservationState::Cancelled
        | ReservationState::Failed => {
            let text = format!("reservation {id} is {} already", one.state.as_str());
            return Err(AskError::TooLate(text));
        }
    }
    tx.commit().await?;
    context.told();
    context.calendar_wake.notify_one();
    one.version += 1;
    Ok(Some(one))
}

/// Takes back what a user who is removed has asked for and has no nodes yet. Who calls it wakes the loop.
pub async fn take_back_all_of(
    context: &Context,
    tx: &mut Tx,
    user_id: &str,
    by: &str,
) -> Result<()> {
    let live = tx.live_reservations().await?.into_iter();
    let mut asked: Vec<_> = live.filter(|one| one.owner_id == user_id).collect();
    asked.retain(|one| matches!(one.state, ReservationState::Pending | ReservationState::Planned));
    if asked.is_empty() {
        return Ok(());
    }
    let world = World::load(context, tx).await?;
    for one in &mut asked {
        let why = (ReasonCode::NotAllowed, format!("{by} removed who asked for it"));
        take_back(tx, &world, one, why, by).await?;
    }
    Ok(())
}

/// It is nobody's, and has no nodes.
async fn take_back(
    tx: &mut Tx,
    world: &World,
    one: &mut Reservation,
    (code, reason): (ReasonCode, String),
    by: &str,
) -> Result<()> {
    one.state = ReservationState::Cancelled;
    (one.code, one.reason) = (code, reason.clone());
    (one.start_at, one.end_at) = (None, None);
    one.nodes.clear();
    tx.set_reservation(one).await?;
    tell(tx, world, one, &Step { what: "cancelled", code, detail: reason }, by).await?;
    Ok(())
}
