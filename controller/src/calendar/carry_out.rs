//! Writes what was decided, in one transaction: reservations, desired states of nodes, steps and events.

use std::collections::{BTreeMap, HashMap};

use haas_api::{
    names::{ImageRef, NodeGroupName},
    reservation::ReasonCode,
};
use serde_json::json;
use tracing::info;

use super::{
    ask,
    decide::{Draft, Step},
    world::{Seen, World},
};
use crate::{
    auth::{Object, Verb, authorize},
    clock,
    context::Context,
    model::{Drain, ImageWanted, Micros, Node, Reservation},
    nodeset,
    requests::{self, RequestError},
    store::{NewEvent, Result, StepRow, StoreError, Tx},
};

/// Something for who is logged in on a node.
#[derive(Debug)]
pub(super) struct Notice {
    /// The boot that runs there.
    pub(super) attempt: String,
    pub(super) text: String,
}

/// Writes it, as of `at` (wall clock), and answers what is to be told on nodes once that is so.
pub(super) async fn carry_out(
    context: &Context,
    tx: &mut Tx,
    world: &World,
    mut drafts: Vec<Draft>,
    at: Micros,
) -> Result<Vec<Notice>> {
    // The generation that each node is given here.
    let mut given: HashMap<String, i64> = HashMap::new();
    for draft in drafts.iter_mut().filter(|draft| !draft.lend.is_empty()) {
        let lent = lend(context, tx, world, draft).await?;
        let (user, project) = names(tx, &draft.now).await?;
        for node_id in lent.keys() {
            tx.node_given(&draft.now, node_id, (&user, &project), at).await?;
        }
        given.extend(lent);
    }
    let mut spares = Spares::of(world);
    for draft in drafts.iter_mut().filter(|draft| !draft.back.is_empty()) {
        for node_id in &draft.back {
            tx.node_back(draft.now.id, node_id, at).await?;
        }
        take_back(context, tx, world, draft, &mut given, &mut spares).await?;
    }
    let mut notices = Vec::new();
    for draft in drafts {
        tx.set_reservation(&draft.now).await?;
        for step in draft.steps {
            if step.code == ReasonCode::EndsSoon {
                notices.extend(ends_soon(tx, world, &draft.now, &step).await?);
            }
            info!(
                reservation = draft.now.id,
                what = step.what,
                code = step.code.as_str(),
                detail = step.detail,
                "reservation"
            );
            tell(tx, world, &draft.now, &step, "haasd").await?;
        }
    }
    Ok(notices)
}

/// For each node that a reservation still has, that its time is over soon.
async fn ends_soon(
    tx: &mut Tx,
    world: &World,
    one: &Reservation,
    step: &Step,
) -> Result<Vec<Notice>> {
    let text = format!(
        "reservation {0}: {1}; save your work, or ask for more time: haasctl extend {0} 1h",
        one.id, step.detail
    );
    let mut notices = Vec::new();
    let is_ours = |id: &str| world.seen(id).is_some_and(|seen| !is_others(seen, &one.tenant));
    for held in one.held().filter(|held| is_ours(&held.node_id)) {
        if let Some(attempt) = tx.last_attempt(&held.node_id).await? {
            notices.push(Notice { attempt: attempt.id, text: text.clone() });
        }
    }
    Ok(notices)
}

/// Notes what happened to a reservation, for its line of time and for everybody who listens.
pub(super) async fn tell(
    tx: &mut Tx,
    world: &World,
    one: &Reservation,
    step: &Step,
    actor: &str,
) -> Result<()> {
    let at = clock::wall();
    let row =
        StepRow { at, what: step.what.to_owned(), code: step.code, detail: step.detail.clone() };
    tx.add_step(one.id, &row).await?;
    let nodes = nodeset::fold(one.held().map(|held| world.name(&held.node_id)));
    tx.add_event(NewEvent {
        at,
        kind: &format!("reservation-{}", step.what),
        node: None,
        operation: None,
        actor,
        data: json!({
            "reservation": one.id,
            "state": one.state,
            "code": step.code,
            "detail": step.detail,
            "nodes": nodes,
        }),
        tenant: Some(&one.tenant),
    })
    .await?;
    Ok(())
}

/// Lends what is due, and answers the generation of each node that was lent.
async fn lend(
    context: &Context,
    tx: &mut Tx,
    world: &World,
    draft: &mut Draft,
) -> Result<HashMap<String, i64>> {
    let is_first = draft.now.nodes.iter().all(|held| held.generation == 0);
    if is_first && let Err((code, reason)) = may_start(tx, &mut draft.now).await? {
        draft.give_up(code, reason);
        return Ok(HashMap::new());
    }
    let lent = draft.now.held().filter(|held| draft.lend.contains(&held.node_id));
    let nodes: Vec<(Node, u32)> = lent
        .filter_map(|held| Some(((*world.seen(&held.node_id)?.node).clone(), held.rank)))
        .collect();
    if let Some(reason) = may_not_be_lent(context, tx, &draft.now, &nodes).await? {
        match is_first {
            true => draft.give_up(ReasonCode::NotAllowed, reason),
            false => draft.end(ReasonCode::NotAllowed, reason, context.clock.now()),
        }
        return Ok(HashMap::new());
    }
    let generations = match requests::lend(context, tx, &draft.now, nodes).await {
        Ok(generations) => generations,
        Err(RequestError::Store(error)) => return Err(error),
        // Its overlay was there a moment ago, in this transaction.
        Err(other) => {
            draft.give_up(ReasonCode::Gone, other.to_string());
            return Ok(HashMap::new());
        }
    };
    for held in &mut draft.now.nodes {
        if let Some(generation) = generations.get(&held.node_id) {
            held.generation = *generation;
        }
    }
    Ok(generations)
}

/// The names of a reservation's user and of its tenant, which are accounted.
async fn names(tx: &mut Tx, one: &Reservation) -> Result<(String, String)> {
    let user = tx.user_by_id(&one.owner_id).await?;
    let user = user.map_or_else(|| one.actor.clone(), |user| user.name.to_string());
    let project = tx.project_by_id(&one.tenant).await?;
    let project = project.map_or_else(|| user.clone(), |project| project.name.to_string());
    Ok((user, project))
}

/// Why one of the nodes cannot be lent with root to who asked, who is no admin: see [`crate::lend`].
async fn may_not_be_lent(
    context: &Context,
    tx: &mut Tx,
    one: &Reservation,
    nodes: &[(Node, u32)],
) -> Result<Option<String>> {
    if ask::principal(tx, &one.owner_id).await?.is_none_or(|asker| asker.is_admin()) {
        return Ok(None);
    }
    let wanted = requests::wanted_of(one);
    for (node, _) in nodes {
        if let Some(refusal) = crate::lend::refusal(context, tx, node, &wanted).await? {
            return Ok(Some(format!("{}: {}", node.name, refusal.reason)));
        }
    }
    Ok(None)
}

/// Whether who asked for it may still have it, and with what image.
async fn may_start(tx: &mut Tx, one: &mut Reservation) -> Result<Result<(), (ReasonCode, String)>> {
    let refuse = |code, reason: String| Ok(Err((code, reason)));
    let Some(principal) = ask::principal(tx, &one.owner_id).await? else {
        return refuse(ReasonCode::NotAllowed, "who asked for it is no user any more".to_owned());
    };
    let Some(queue) = tx.queue(&one.queue).await? else {
        return refuse(ReasonCode::Gone, format!("the queue {} is gone", one.queue));
    };
    let mut objects = vec![Object::Queue { name: Some(&queue.spec.name), open: queue.spec.open }];
    if tx.project_by_id(&one.tenant).await?.is_some() {
        objects.push(Object::Project { id: Some(&one.tenant) });
    } else if tx.user_by_id(&one.tenant).await?.is_none() {
        return refuse(ReasonCode::Gone, "its project was removed".to_owned());
    }
    let overlay = match &one.overlay_id {
        None => None,
        Some(id) => match tx.overlay_by_id(id).await? {
            Some(overlay) => Some(overlay),
            None => return refuse(ReasonCode::Gone, "its overlay was removed".to_owned()),
        },
    };
    if let Some(overlay) = &overlay {
        objects.push(Object::Overlay { id: Some(&overlay.id), owner_id: &overlay.owner_id });
    }
    for object in objects {
        if let Err(denied) = authorize(&principal, Verb::Use, object) {
            return refuse(ReasonCode::NotAllowed, denied.to_string());
        }
    }
    let digest = ImageRef::Digest(one.image.digest.clone());
    let named: ImageRef = one.image.name.parse().unwrap_or_else(|_| digest.clone());
    // Who may is said of names: also where the tag means another image by now.
    let mut found = requests::image(tx, &principal, Verb::Use, &named).await;
    if matches!(found, Err(RequestError::NoImage(_))) && !one.follow_tag {
        found = requests::image(tx, &principal, Verb::Use, &digest).await;
    }
    let is_there = tx.resolve_image(&digest).await?.is_some();
    match found {
        Ok(digest) if one.follow_tag => one.image.digest = digest,
        Ok(_) if is_there => {}
        Ok(_) => return refuse(ReasonCode::Gone, "its image was removed".to_owned()),
        Err(RequestError::Store(error)) => return Err(error),
        Err(RequestError::Denied(denied)) => {
            return refuse(ReasonCode::NotAllowed, denied.to_string());
        }
        Err(other) => return refuse(ReasonCode::Gone, other.to_string()),
    }
    Ok(Ok(()))
}

async fn take_back<'a>(
    context: &Context,
    tx: &mut Tx,
    world: &'a World,
    draft: &mut Draft,
    given: &mut HashMap<String, i64>,
    spares: &mut Spares<'a>,
) -> Result<()> {
    let mut nodes: Vec<(Node, Option<ImageWanted>)> = Vec::new();
    for held in &mut draft.now.nodes {
        let id = &held.node_id;
        if !draft.back.contains(id) {
            continue;
        }
        let Some(seen) = world.seen(id) else { continue };
        if let Some(generation) = given.get(id) {
            // Whoever has it next ends what runs there.
            held.generation = *generation;
        } else if is_others(seen, &draft.now.tenant) {
            held.generation = seen.node.generation;
        } else {
            let stays = !held.lost && seen.node.drain.is_none() && spares.stays_on(seen);
            nodes.push(((*seen.node).clone(), stays.then(|| draft.now.image.clone())));
        }
    }
    if nodes.is_empty() {
        return Ok(());
    }
    let generations = match requests::take_back(context, tx, &draft.now, nodes).await {
        Ok(generations) => generations,
        Err(RequestError::Store(error)) => return Err(error),
        Err(other) => return Err(StoreError::Conflict(other.to_string())),
    };
    for held in &mut draft.now.nodes {
        let Some(generation) = generations.get(&held.node_id).copied() else { continue };
        held.generation = generation;
        // People have a node in their hands that is out of service: it ends when they give it back.
        let drain = world.seen(&held.node_id).and_then(|seen| seen.node.drain.clone());
        if let Some(drain) = drain.filter(|drain| drain.state.keeps_hands_off()) {
            tx.set_drain(&held.node_id, Some(&Drain { generation, ..drain })).await?;
        }
    }
    given.extend(generations);
    Ok(())
}

/// Whether somebody who may has taken the node by hand meanwhile.
fn is_others(seen: &Seen, tenant: &str) -> bool {
    let standing = seen.standing.as_ref().filter(|standing| standing.power_on);
    standing.is_some_and(|standing| !standing.tenant.is_empty() && standing.tenant != tenant)
}

/// How many spares are on, by node group: who gives a node back leaves it on unless `[[idle]]` says that
/// such nodes go off.
struct Spares<'a> {
    world: &'a World,
    on: BTreeMap<&'a NodeGroupName, usize>,
}

impl<'a> Spares<'a> {
    fn of(world: &'a World) -> Self {
        let mut on: BTreeMap<&NodeGroupName, usize> = BTreeMap::new();
        for seen in &world.nodes {
            let standing = seen.standing.as_ref();
            if standing.is_some_and(|one| one.power_on && one.tenant.is_empty()) {
                for group in &seen.node.spec.groups {
                    *on.entry(group).or_default() += 1;
                }
            }
        }
        Self { world, on }
    }

    fn stays_on(&mut self, seen: &'a Seen) -> bool {
        let groups = &seen.node.spec.groups;
        let mut rules = self.world.idle.iter().filter(|rule| groups.contains(&rule.group));
        let has = |group| self.on.get(group).copied().unwrap_or_default();
        let stays =
            rules.clone().next().is_none() || rules.any(|rule| has(&rule.group) < rule.min_on);
        if stays {
            for group in groups {
                *self.on.entry(group).or_default() += 1;
            }
        }
        stays
    }
}
