//! From what a tenant asks for to a reservation that is not in the store yet.

use haas_api::{
    names::ImageRef,
    queue::QueueSpec,
    reservation::{ReasonCode, ReservationState},
};

use super::{
    ask::{AskError, Result, Wish, from_s, short_s, steady},
    snapshot::seconds,
};
use crate::{
    auth::Verb,
    clock,
    context::Context,
    model::{ImageWanted, Micros, Node, Reservation},
    nodeset, requests,
    store::Tx,
};

/// The most nodes that one reservation may ask for.
const MOST: u32 = 100_000;

/// What is asked for, as a row that is not in the store yet.
pub(super) async fn draft(
    context: &Context,
    tx: &mut Tx,
    wish: &Wish<'_>,
    queue: &QueueSpec,
    now: Micros,
) -> Result<Reservation> {
    let Wish { principal, new, .. } = wish;
    if !(1..=MOST).contains(&new.nodes) {
        return Err(AskError::Bad(format!("ask for 1 to {MOST} nodes")));
    }
    let walltime = new.walltime_s.unwrap_or(queue.walltime_s);
    if walltime == 0 {
        return Err(AskError::Bad("ask for some time".to_owned()));
    }
    if walltime > queue.max_walltime_s {
        let (name, most) = (&queue.name, short_s(queue.max_walltime_s));
        let text = format!("the queue {name} gives nodes for at most {most}");
        return Err(AskError::Quota(text));
    }
    let start_at = begin(context, new.begin.as_deref(), now)?;
    let overlay = match &new.overlay {
        Some(named) => requests::overlay(tx, principal, named).await?,
        None => None,
    };
    let overlay_id = overlay.as_ref().map(|overlay| overlay.id.clone());
    let mut digest = requests::image(tx, principal, Verb::Use, &new.image).await?;
    let name = new.image.to_string();
    if let (Some(id), ImageRef::Tag(..), false) = (&overlay_id, &new.image, new.follow_tag) {
        // What was written over one image is not laid over another unasked.
        digest = tx.image_over(id, &name).await?.unwrap_or(digest);
    }
    let image = ImageWanted { digest, name };
    let project = new.project.as_ref();
    let tenant = requests::whose(tx, principal, project, overlay_id.as_deref()).await?;
    if let Some(overlay) = &overlay {
        let shards = tx.shards(&overlay.id).await?;
        let has = shards.iter().filter(|shard| shard.store_id.is_some()).count();
        if has > 0 && has < new.nodes as usize && new.grow.is_none() {
            return Err(AskError::Bad(format!(
                "{} has data on {has} nodes; with --grow empty the other ranks begin with nothing",
                overlay.full_name()
            )));
        }
    }
    let code = match start_at {
        Some(_) => ReasonCode::Accepted,
        None => ReasonCode::Submitted,
    };
    let nodes = tx.nodes().await?;
    Ok(Reservation {
        // The last one that there can be: nobody else's, and behind all others.
        id: i64::MAX,
        version: 0,
        state: ReservationState::Pending,
        code,
        reason: "waits for its turn".to_owned(),
        owner_id: principal.user_id.clone(),
        tenant,
        queue: queue.name.clone(),
        count: new.nodes,
        walltime: from_s(walltime),
        is_advance: start_at.is_some(),
        among: among(wish, nodes)?,
        image,
        follow_tag: new.follow_tag,
        overlay_id,
        on_node_loss: new.on_node_loss,
        submitted_at: now,
        start_at,
        end_at: start_at.map(|start| start.saturating_add(from_s(walltime))),
        ready_at: None,
        warned: false,
        actor: principal.name.to_string(),
        key: wish.key.clone(),
        request: String::new(),
        nodes: Vec::new(),
    })
}

fn begin(context: &Context, text: Option<&str>, now: Micros) -> Result<Option<Micros>> {
    let Some(text) = text else { return Ok(None) };
    let at = steady(context, clock::moment(text).map_err(AskError::Bad)?);
    if seconds(at) < seconds(now) {
        return Err(AskError::Bad(format!("{text} is over")));
    }
    Ok(Some(at))
}

/// The ids of the nodes that serve; none: all of the queue.
fn among(wish: &Wish<'_>, nodes: Vec<Node>) -> Result<Option<Vec<String>>> {
    let Wish { new, holds_for, .. } = wish;
    if new.nodeset.is_none() && new.exclude.is_none() && holds_for.is_none() {
        return Ok(None);
    }
    let mut ids: Vec<String> = match &new.nodeset {
        Some(set) => nodeset::resolve(set, nodes.clone())?.into_iter().map(|n| n.id).collect(),
        None => nodes.iter().map(|node| node.id.clone()).collect(),
    };
    if let Some(set) = &new.exclude {
        let out: Vec<String> = nodeset::resolve(set, nodes)?.into_iter().map(|n| n.id).collect();
        ids.retain(|id| !out.contains(id));
    }
    if let Some(holds_for) = holds_for {
        ids.retain(|id| holds_for.contains(id));
    }
    Ok(Some(ids))
}
