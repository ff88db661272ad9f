//! What is due by the calendar: tokens that are over are deleted, and users whose time to come back
//! has passed are destroyed with their overlays.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    clock,
    context::Context,
    model::{Micros, SECOND},
    store::{NewAudit, Result, Tx, UserRow},
};

const EACH: Duration = Duration::from_secs(600);
/// A token that is over is listed so long, so that whoever wonders why it is refused can see it.
const LISTED: Micros = 24 * 3600 * SECOND;

/// Does what is due now and then, until `stop`.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    loop {
        if let Err(error) = pass(&context, clock::wall()).await {
            error!(error = &error as &dyn std::error::Error, "cannot do what is due");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EACH) => {}
        }
    }
}

/// Does what is due at `now`, wall clock.
pub(crate) async fn pass(context: &Context, now: Micros) -> Result<()> {
    let mut tx = context.store.write().await?;
    let over = tx.remove_tokens_over(now - LISTED).await?;
    if over > 0 {
        info!(tokens = over, "deleted tokens that are over");
    }
    for user in tx.users_to_destroy(now).await? {
        let name = user.name.clone();
        match destroy(&mut tx, user).await? {
            Destroyed::Gone(detail) => {
                info!(user = %name, "destroyed");
                let action = format!("destroy user {name}");
                tx.add_audit(&by_haasd(now, action, detail)).await?;
            }
            Destroyed::InUse(nodes) => {
                let nodes = nodes.join(", ");
                warn!(user = %name, nodes, "nodes still run overlays of a user that is to be destroyed");
            }
        }
    }
    tx.commit().await
}

/// What became of a user that was to be destroyed.
pub(crate) enum Destroyed {
    /// It is gone, and this it had.
    Gone(String),
    /// Nothing was done, since these nodes use its overlays.
    InUse(Vec<String>),
}

/// Destroys a user with its overlays. The nodes delete what their disks hold when they next open their
/// stores.
pub(crate) async fn destroy(tx: &mut Tx, user: UserRow) -> Result<Destroyed> {
    let overlays = tx.overlays_of(&user.id).await?;
    let mut nodes = Vec::new();
    for overlay in &overlays {
        nodes.extend(tx.overlay_runs_on(&overlay.id).await?);
    }
    if !nodes.is_empty() {
        return Ok(Destroyed::InUse(nodes));
    }
    let mut detail = format!("id {}, uid {}", user.id, user.uid);
    for overlay in overlays {
        tx.remove_overlay(&overlay.id).await?;
        detail += &format!(", overlay {}", overlay.name);
    }
    tx.remove_user(&user.id).await?;
    Ok(Destroyed::Gone(detail))
}

fn by_haasd(at: Micros, action: String, detail: String) -> NewAudit {
    NewAudit {
        at,
        actor: "haasd".to_owned(),
        actor_id: String::new(),
        token_id: String::new(),
        peer: String::new(),
        action,
        status: 204,
        detail,
    }
}
