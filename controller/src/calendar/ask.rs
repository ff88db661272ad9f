//! What tenants ask of the calendar: to reserve, extend, and why they wait. Each is answered at
//! once, in one transaction, by the same planner that the loop asks.

use std::{collections::HashSet, sync::Arc};

use haas_api::{
    names::{Digest, QueueName},
    queue::QueueSpec,
    reservation::{
        Excluded, Explanation, NewReservation, ReasonCode, ReservationPlan, ReservationState,
        Without,
    },
};
use scheduler::{Claim, Outcome, Planner, Refused, SnapshotError};

use super::{
    carry_out::tell,
    decide::Step,
    draft::draft,
    limits,
    snapshot::{self, Taken, claim_id, micros, seconds},
    words,
    world::World,
};
use crate::{
    auth::{Denied, Object, Principal, Verb, authorize},
    clock,
    context::Context,
    lend,
    model::{AccountKind, Micros, Reservation, SECOND},
    nodeset::NodeSetError,
    requests::RequestError,
    store::{QueueRow, StoreError, Tx},
};

/// What came of asking for a reservation.
#[derive(Debug)]
pub enum Asked {
    /// It was a dry run.
    Planned(ReservationPlan),
    /// It is in the calendar.
    Made(Box<Reservation>),
}

/// What is asked for, and by whom.
#[derive(Debug)]
pub struct Wish<'a> {
    /// By whom.
    pub principal: &'a Principal,
    /// The Idempotency-Key.
    pub key: Option<String>,
    /// What.
    pub new: &'a NewReservation,
    /// The ids of the nodes for which its condition holds; none: it has no condition.
    pub holds_for: Option<Vec<String>>,
}

/// Why the calendar refuses; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Image, overlay, project.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The node set.
    #[error(transparent)]
    NodeSet(#[from] NodeSetError),
    /// No such queue.
    #[error("there is no queue {0}; `haasctl queue tree` shows what there is")]
    NoQueue(QueueName),
    /// None that the caller may use, or several.
    #[error("{0}")]
    WhichQueue(String),
    /// Something about it makes no sense.
    #[error("{0}")]
    Bad(String),
    /// More than may be had.
    #[error("{0}")]
    Quota(String),
    /// Too few nodes serve, whenever it were.
    #[error("{0}")]
    TooFew(String),
    /// Not at that time.
    #[error("{0}")]
    NoSlot(String),
    /// Not so long.
    #[error("{0}")]
    CannotExtend(String),
    /// It is too far for this.
    #[error("{0}")]
    TooLate(String),
    /// Reservations are in the way of a maintenance window.
    #[error("{0}")]
    Reserved(String),
    /// The Idempotency-Key stands for something else.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// Queues that cannot be planned with.
    #[error("nothing can be planned as the queues are: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The store said no; a conflict means that somebody was first.
    #[error("the calendar could not be written")]
    Store(#[from] StoreError),
}

pub(super) type Result<T, E = AskError> = std::result::Result<T, E>;

/// Asks for a reservation. One that names its hour is accepted or refused now; another waits in its
/// queue, unless it could never start.
pub async fn reserve(context: &Context, wish: Wish<'_>) -> Result<Asked> {
    let Wish { principal, key, new, .. } = &wish;
    let mut tx =
        if new.dry_run { context.store.read().await? } else { context.store.write().await? };
    let text = serde_json::to_string(new).map_err(|e| AskError::Bad(e.to_string()))?;
    let request = Digest::of(text.as_bytes()).to_string();
    if let Some(key) = key {
        match tx.reservation_by_key(&principal.user_id, key).await? {
            Some(made) if made.request == request => {
                // It may be of this moment, and not last yet.
                tx.commit().await?;
                return Ok(Asked::Made(Box::new(made)));
            }
            Some(_) => return Err(AskError::KeyReused),
            None => {}
        }
    }
    let now = context.clock.now();
    let queue = queue(&mut tx, principal, new.queue.as_ref()).await?;
    let mut one = draft(context, &mut tx, &wish, &queue.spec, now).await?;
    one.request = request;
    let mut world = World::load(context, &mut tx).await?;
    world.know(&mut tx, &one).await?;
    enough_nodes(&world, &queue, &one)?;
    within_project(&world, &one)?;
    let mut taken = snapshot::take(&world, world.live.iter(), now);
    let asked = match one.start_at {
        Some(start) => accept(context, &world, &mut taken, &mut one, start, now)?,
        None => foresee(context, &world, &mut taken, &one, now)?,
    };
    if new.dry_run {
        return Ok(Asked::Planned(asked));
    }
    one.id = tx.add_reservation(&one).await?;
    let code = ReasonCode::Submitted;
    let nodes = if one.count == 1 { "1 node".to_owned() } else { format!("{} nodes", one.count) };
    let hours = short(one.walltime);
    let mut detail = format!("{nodes} for {hours} with {}", one.image.name);
    if let Some(start) = one.start_at {
        detail.push_str(&format!(" from {}", shown(context, start)));
    }
    let step = Step { what: "submitted", code, detail };
    tell(&mut tx, &world, &one, &step, principal.name.as_str()).await?;
    if one.state == ReservationState::Planned {
        let step = Step { what: "planned", code: one.code, detail: one.reason.clone() };
        tell(&mut tx, &world, &one, &step, principal.name.as_str()).await?;
    }
    tx.commit().await?;
    context.told();
    context.calendar_wake.notify_one();
    one.version = 1;
    Ok(Asked::Made(Box::new(one)))
}

/// A user as it is known now; none: there is no such user any more.
pub(super) async fn principal(tx: &mut Tx, user_id: &str) -> Result<Option<Principal>, StoreError> {
    let user = tx.user_by_id(user_id).await?;
    let user = user.filter(|user| user.kind != AccountKind::Project && user.destroy_at.is_none());
    let Some(user) = user else { return Ok(None) };
    let powers = tx.powers(&user.id).await?;
    Ok(Some(Principal {
        user_id: user.id,
        name: user.name,
        role: user.role,
        powers: Arc::new(powers),
        token_id: String::new(),
        read_only: false,
        feed_only: false,
    }))
}

/// The queues that reservations wait in: those with none below.
pub fn leaf_queues(rows: &[QueueRow]) -> impl Iterator<Item = &QueueRow> {
    let is_above = |row: &QueueRow| {
        rows.iter().any(|other| other.spec.parent.as_ref() == Some(&row.spec.name))
    };
    rows.iter().filter(move |row| !is_above(row))
}

async fn queue(tx: &mut Tx, principal: &Principal, named: Option<&QueueName>) -> Result<QueueRow> {
    let rows = tx.queues().await?;
    let may = |row: &&QueueRow| {
        let object = Object::Queue { name: Some(&row.spec.name), open: row.spec.open };
        authorize(principal, Verb::Use, object)
    };
    if let Some(name) = named {
        let row = rows.iter().find(|row| row.spec.name == *name);
        let row = row.ok_or_else(|| AskError::NoQueue(name.clone()))?;
        may(&row)?;
        if !leaf_queues(&rows).any(|leaf| leaf.spec.name == *name) {
            let text = format!("{name} has queues below it; name one of those");
            return Err(AskError::WhichQueue(text));
        }
        return Ok(row.clone());
    }
    let usable: Vec<_> = leaf_queues(&rows).filter(|row| may(row).is_ok()).collect();
    match usable.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err(AskError::WhichQueue("there is no queue that you may use".to_owned())),
        several => {
            let names: Vec<_> = several.iter().map(|row| row.spec.name.as_str()).collect();
            let names = names.join(", ");
            Err(AskError::WhichQueue(format!(
                "you may use the queues {names}; say which: -p QUEUE"
            )))
        }
    }
}

/// Refuses what could never start, so that nobody waits in vain.
fn enough_nodes(world: &World, queue: &QueueRow, one: &Reservation) -> Result<()> {
    let serves = |place: &usize| match &one.among {
        None => true,
        Some(ids) => ids.contains(&world.nodes[*place].node.id),
    };
    let all = world.nodes_of(queue).count();
    let serving: Vec<usize> = world.nodes_of(queue).filter(serves).collect();
    let has = serving.len();
    let name = &queue.spec.name;
    if has >= one.count as usize {
        let serving = serving.into_iter().map(|place| world.nodes[place].node.id.as_str());
        return enough_to_lend(world, name, one, serving.collect());
    }
    let text = match has == all {
        true => format!("the queue {name} has {all} nodes, and {} are asked for", one.count),
        false => format!(
            "of the {all} nodes of the queue {name} {has} are as was asked, and {} are asked for",
            one.count
        ),
    };
    Err(AskError::TooFew(text))
}

/// Refuses what could not start since too few of the nodes that serve may be lent to who asks.
fn enough_to_lend(
    world: &World,
    queue: &QueueName,
    one: &Reservation,
    serving: HashSet<&str>,
) -> Result<()> {
    let barred: Vec<_> = world.barred(one).filter(|(id, _)| serving.contains(id)).collect();
    let has = serving.len() - barred.len();
    if has >= one.count as usize {
        return Ok(());
    }
    let mut text = format!(
        "of the {} nodes of the queue {queue} that serve {has} may be lent to you, and {} are asked for",
        serving.len(),
        one.count
    );
    for (code, why) in [
        (lend::UNDECLARED, "with disks of which nodes.toml says nothing"),
        (
            lend::ONLY_COPY,
            "with what others have there, who have not agreed that you are root beside it",
        ),
    ] {
        let nodes = barred.iter().filter(|(_, one)| *one == code).count();
        if nodes > 0 {
            text.push_str(&format!("; {nodes} of them {why}"));
        }
    }
    Err(AskError::TooFew(text))
}

/// Refuses what would give a project more nodes than it may have at once. One without an hour waits until it is within
/// the limit.
fn within_project(world: &World, one: &Reservation) -> Result<()> {
    let excess = match world.span(one) {
        Some(span) => limits::first_excess(world, world.live.iter(), one, span),
        None => limits::alone(world, one),
    };
    let Some(excess) = excess else { return Ok(()) };
    Err(AskError::Quota(format!(
        "the project may have {} nodes at once; it has {} then beside these {}",
        excess.limit, excess.has, one.count
    )))
}

/// Accepts or refuses a reservation for its hour.
fn accept(
    context: &Context,
    world: &World,
    taken: &mut Taken,
    one: &mut Reservation,
    start: Micros,
    now: Micros,
) -> Result<ReservationPlan> {
    let claim = taken.claim(world, one).ok_or_else(|| AskError::NoQueue(one.queue.clone()))?;
    // One whose hour is sooner than nodes boot begins now.
    let begins = snapshot::begins(world, start).max(seconds(now));
    let walltime = (seconds(start.saturating_add(one.walltime)) - begins).max(1);
    let claim = Claim { walltime, ..claim };
    let found = scheduler::reserve(&taken.snapshot, seconds(now), &claim, begins)?;
    let assignment = match found {
        Ok(assignment) => assignment,
        Err(refusal) => return Err(refused(context, world, one, &refusal)),
    };
    let nodes = assignment.all_nodes().map(|node| world.nodes[node.index()].node.id.clone());
    one.promise(nodes);
    one.state = ReservationState::Planned;
    one.reason = "accepted for its hour".to_owned();
    Ok(plan(context, world, one))
}

fn refused(
    context: &Context,
    world: &World,
    one: &Reservation,
    refusal: &scheduler::Refusal,
) -> AskError {
    let why = match refusal.why {
        Refused::Past => "that hour is over".to_owned(),
        Refused::TooLong { most } => {
            format!("the queue {} gives nodes for at most {}", one.queue, short(micros(most)))
        }
        Refused::TooFarAhead { most } => {
            // To the planner it begins with its boots.
            let most = short(micros(most) + world.ahead());
            format!("the queue {} takes reservations at most {most} ahead", one.queue)
        }
        Refused::TooMuchReserved(_) => {
            format!("the queue {} has as much reserved ahead as it may", one.queue)
        }
        Refused::Nodes => format!("{} nodes are not free then for so long", one.count),
        Refused::Limit => {
            "a maximum of its queue or user, or the overlay, is in the way".to_owned()
        }
    };
    // Another hour or fewer nodes are of use where time and nodes are what is missing.
    if matches!(refusal.why, Refused::TooLong { .. } | Refused::TooFarAhead { .. }) {
        return AskError::NoSlot(why);
    }
    let mut text = why;
    if refusal.largest > 0 {
        text.push_str(&format!("; {} could be had then", refusal.largest));
    }
    let next = refusal.next_starts.iter();
    let next: Vec<_> = next.map(|at| offered(context, snapshot::hour(world, *at))).collect();
    if !next.is_empty() {
        text.push_str(&format!("; the next starts are {}", next.join(", ")));
    }
    AskError::NoSlot(text)
}

/// What would become of a reservation that waits in its queue.
fn foresee(
    context: &Context,
    world: &World,
    taken: &mut Taken,
    one: &Reservation,
    now: Micros,
) -> Result<ReservationPlan> {
    let claim = taken.claim(world, one).ok_or_else(|| AskError::NoQueue(one.queue.clone()))?;
    taken.snapshot.check()?;
    let mut planner = Planner::run(&taken.snapshot, seconds(now));
    let outcome = planner.add(&claim)?;
    let ids = |nodes: &[Vec<scheduler::NodeId>]| -> Vec<String> {
        nodes.iter().flatten().map(|node| world.nodes[node.index()].node.id.clone()).collect()
    };
    let mut shown = one.clone();
    match outcome {
        Outcome::Start(start) => {
            shown.state = ReservationState::Starting;
            (shown.code, shown.reason) = (ReasonCode::NodesFree, "its nodes are free".to_owned());
            shown.promise(ids(&start.nodes));
            (shown.start_at, shown.end_at) = (Some(now), Some(micros(start.end)));
        }
        Outcome::Planned(planned) => {
            shown.state = ReservationState::Planned;
            (shown.code, shown.reason) = words::reason(taken, planned.reason);
            shown.promise(ids(&planned.nodes));
            (shown.start_at, shown.end_at) =
                (Some(micros(planned.start)), Some(micros(planned.end)));
        }
        Outcome::Waiting(waiting) => {
            (shown.code, shown.reason) = words::reason(taken, waiting.reason);
        }
    }
    Ok(plan(context, world, &shown))
}

fn plan(context: &Context, world: &World, one: &Reservation) -> ReservationPlan {
    ReservationPlan {
        state: one.state,
        code: one.code,
        reason: one.reason.clone(),
        start_at: one.start_at.map(|at| shown(context, at)),
        end_at: one.end_at.map(|at| shown(context, at)),
        nodes: one.held().map(|held| world.name(&held.node_id).to_owned()).collect(),
        image_digest: one.image.digest.to_string(),
    }
}

/// Gives a reservation more time, as much as was asked for or, where that is wanted, as much as can be
/// had.
pub async fn extend(
    context: &Context,
    principal: &Principal,
    id: i64,
    by: Micros,
    as_far_as_possible: bool,
) -> Result<Option<Reservation>> {
    let mut tx = context.store.write().await?;
    let Some(mut one) = find(&mut tx, principal, id, Verb::Manage).await? else { return Ok(None) };
    let now = context.clock.now();
    let queue = tx.queue(&one.queue).await?;
    let longest = queue.map(|row| from_s(row.spec.max_walltime_s)).unwrap_or(one.walltime);
    let wanted = one.walltime.saturating_add(by);
    let mut why = None;
    if wanted > longest {
        why = Some(format!("the queue {} gives nodes for at most {}", one.queue, short(longest)));
    }
    let mut walltime = wanted.min(longest.max(one.walltime));
    let world = World::load(context, &mut tx).await?;
    match (one.state, one.end_at) {
        (ReservationState::Pending, _) => {}
        (ReservationState::Planned, _) if !one.is_advance => {
            // Another length, another hour: it is planned anew.
            one.state = ReservationState::Pending;
            (one.start_at, one.end_at) = (None, None);
            one.nodes.clear();
        }
        (
            ReservationState::Planned | ReservationState::Starting | ReservationState::Active,
            Some(end),
        ) => {
            let until = end + (walltime - one.walltime);
            let taken = snapshot::take(&world, world.live.iter(), now);
            let found =
                scheduler::extend(&taken.snapshot, seconds(now), claim_id(id), seconds(until));
            let found = found.map_err(|error| AskError::TooLate(error.to_string()))?;
            if found.is_cut {
                why = Some(in_the_way(context, &world, &one, end));
                walltime = one.walltime + (micros(found.end) - end).max(0);
            }
            let until = end + (walltime - one.walltime);
            if let Some(excess) =
                limits::first_excess(&world, world.live.iter(), &one, (end, until))
            {
                why = Some(limits::reason(excess));
                walltime = one.walltime + (excess.at - end);
            }
            one.end_at = Some(end + (walltime - one.walltime));
        }
        _ => {
            let text = format!("reservation {id} is {}", one.state.as_str());
            return Err(AskError::TooLate(text));
        }
    }
    let gained = walltime - one.walltime;
    if let Some(why) = &why
        && (!as_far_as_possible || gained < SECOND)
    {
        let text = match (gained >= SECOND, one.end_at) {
            (true, Some(end)) => format!(
                "{why}; it could be extended by {}, until {}",
                short(gained),
                shown(context, end)
            ),
            (true, None) => format!("{why}; it could be extended by {}", short(gained)),
            (false, _) => format!("{why}; it cannot be extended at all"),
        };
        return Err(AskError::CannotExtend(text));
    }
    one.walltime = walltime;
    one.warned = false;
    tx.set_reservation(&one).await?;
    let detail = match one.end_at {
        Some(end) => format!("by {}, until {}", short(gained), shown(context, end)),
        None => format!("by {}", short(gained)),
    };
    let step = Step { what: "extended", code: ReasonCode::Extended, detail };
    tell(&mut tx, &world, &one, &step, principal.name.as_str()).await?;
    tx.commit().await?;
    context.told();
    context.calendar_wake.notify_one();
    one.version += 1;
    Ok(Some(one))
}

/// What keeps a reservation's nodes from it after its end.
fn in_the_way(context: &Context, world: &World, one: &Reservation, end: Micros) -> String {
    let mine: Vec<&str> = one.held().map(|held| held.node_id.as_str()).collect();
    let others = world.live.iter().filter(|other| other.id != one.id);
    let next = others.filter_map(|other| {
        let node = other.held().find(|held| mine.contains(&held.node_id.as_str()))?;
        let what = "promised to another reservation";
        let (begins, until) = world.span(other)?;
        (until > end).then(|| (begins.max(end), node.node_id.as_str(), what))
    });
    let windows = world.windows.iter().filter_map(|window| {
        let node = window.nodes.iter().find(|id| mine.contains(&id.as_str()))?;
        Some((window.begin_at.max(end), node.as_str(), "in maintenance"))
    });
    match next.chain(windows).min() {
        Some((at, node, what)) => {
            format!("{} is {what} from {}", world.name(node), shown(context, at))
        }
        None => "nodes like its own are promised to others, or its queue or user would hold more than it may"
            .to_owned(),
    }
}

/// Why a reservation is as it is, and what would help. None: there is none that the caller may see.
pub async fn explain(
    context: &Context,
    principal: &Principal,
    id: i64,
) -> Result<Option<Explanation>> {
    let mut tx = context.store.read().await?;
    let Some(one) = find(&mut tx, principal, id, Verb::View).await? else { return Ok(None) };
    let now = context.clock.now();
    let world = World::load(context, &mut tx).await?;
    drop(tx);
    let taken = snapshot::take(&world, world.live.iter(), now);
    let mut told = Explanation {
        code: one.code,
        reason: one.reason.clone(),
        ahead: 0,
        is_rough: false,
        start_at: one.start_at.map(|at| shown(context, at)),
        promised_at: None,
        busy: 0,
        excluded: Vec::new(),
        without: Vec::new(),
    };
    let Some(found) = scheduler::explain(&taken.snapshot, seconds(now), claim_id(id))? else {
        return Ok(Some(told));
    };
    if let Some(reason) = found.reason
        && one.code != ReasonCode::ProjectLimit
    {
        (told.code, told.reason) = words::reason(&taken, reason);
    }
    let time = |at: scheduler::Time| {
        shown(context, if one.is_advance { snapshot::hour(&world, at) } else { micros(at) })
    };
    (told.ahead, told.is_rough, told.busy) = (found.position, found.is_rough, found.busy);
    told.start_at = found.start.map(time);
    told.promised_at = found.band.latest.map(time);
    told.excluded = excluded(&world, &one, &found.excluded);
    let without = found.without.into_iter();
    let without = without
        .map(|(rule, at)| Without { rule: words::rule(rule).to_owned(), start_at: time(at) });
    told.without = without.collect();
    Ok(Some(told))
}

fn excluded(world: &World, one: &Reservation, by: &scheduler::Excluded) -> Vec<Excluded> {
    let barred = |why: &str| {
        let nodes =
            world.barred(one).filter(|(id, code)| *code == why && world.place(id).is_some());
        u32::try_from(nodes.count()).unwrap_or(u32::MAX)
    };
    let rules = [
        ("health", by.health),
        ("queue-nodes", by.grant),
        (lend::UNDECLARED, barred(lend::UNDECLARED)),
        (lend::ONLY_COPY, barred(lend::ONLY_COPY)),
        ("named-nodes", by.location),
        ("overlay-home", by.overlay_home),
    ];
    let kept = rules.into_iter().filter(|(_, nodes)| *nodes > 0);
    kept.map(|(rule, nodes)| Excluded { rule: rule.to_owned(), nodes }).collect()
}

/// A reservation that the caller may do this with; one that it may not even see is told as one that is
/// not there.
pub(super) async fn find(
    tx: &mut Tx,
    principal: &Principal,
    id: i64,
    verb: Verb,
) -> Result<Option<Reservation>> {
    let Some(one) = tx.reservation(id).await? else { return Ok(None) };
    let object =
        Object::Reservation { owner_id: &one.owner_id, tenant: &one.tenant, queue: &one.queue };
    if authorize(principal, Verb::View, object).is_err() {
        return Ok(None);
    }
    authorize(principal, verb, object)?;
    Ok(Some(one))
}

/// Whether a queue can be added to those that there are.
pub async fn check_queue(tx: &mut Tx, spec: &QueueSpec) -> Result<()> {
    let rows = tx.queues().await?;
    if let Some(parent) = &spec.parent {
        if !rows.iter().any(|row| row.spec.name == *parent) {
            return Err(AskError::NoQueue(parent.clone()));
        }
        let live = tx.live_reservations().await?;
        if live.iter().any(|one| one.queue == *parent) {
            let text = format!("reservations wait in {parent}; a queue with others below has none");
            return Err(AskError::TooLate(text));
        }
    }
    let mut specs: Vec<QueueSpec> = rows.into_iter().map(|row| row.spec).collect();
    specs.push(spec.clone());
    crate::config::check_queues(&specs).map_err(AskError::Bad)
}

/// The steady clock's time of a moment that people name.
pub(super) fn steady(context: &Context, wall: Micros) -> Micros {
    context.clock.now() + (wall - clock::wall())
}

/// A moment of the steady clock as people read it, to the second.
pub(super) fn shown(context: &Context, at: Micros) -> String {
    let wall = context.clock.to_wall(at);
    let rounded = (wall + SECOND / 2).div_euclid(SECOND);
    jiff::Timestamp::from_second(rounded).map(|at| at.to_string()).unwrap_or_default()
}

/// The same of an hour that is offered: one that can be had when it is named so.
pub(super) fn offered(context: &Context, at: Micros) -> String {
    shown(context, at + SECOND / 2)
}

/// So many seconds; the longest time there is where they are more.
pub(crate) fn from_s(seconds: u64) -> Micros {
    Micros::try_from(seconds).unwrap_or(Micros::MAX / SECOND).saturating_mul(SECOND)
}

/// The same of a span of time.
pub(super) fn short(time: Micros) -> String {
    short_s((time / SECOND).unsigned_abs())
}

/// A length as people read it: `2 h 30 min`.
pub(super) fn short_s(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")];
    let parts = parts.into_iter().filter(|(n, _)| *n > 0).take(2);
    let parts: Vec<_> = parts.map(|(n, unit)| format!("{n} {unit}")).collect();
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}
