//! Reservations, and the calendar.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use haas_api::{
    List,
    problem::Problem,
    reservation::{
        AssignedNode, Calendar, Explanation, ExtendReservation, NewReservation, Reservation,
        ReservationPlan, ReservationState, ReservationStep,
    },
};
use serde::Deserialize;

use super::{Answer, Caller, Fail, IdempotencyKey, Json, Page, Path, Query, Tagged, nodes, queues};
use crate::{
    auth::{Object, Verb},
    calendar::{self, Asked, Wish},
    clock,
    condition::Condition,
    context::Context,
    model::{self, Assigned, Micros, SECOND},
    store::{ByNode, StandingRow, StepRow, Tx},
};

/// The most reservations of a list that shows also those that are over.
const MOST: i64 = 1000;

/// How far a calendar reaches where nothing is said: a week.
const WEEK: u64 = 7 * 86_400;

/// How far it can reach, seconds.
const YEAR: u64 = 366 * 86_400;

/// Which reservations.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Filter {
    /// Also those that are over: the last 1000 of all.
    #[serde(default)]
    all: bool,
    /// Only the caller's own.
    #[serde(default)]
    mine: bool,
}

/// Which part of which calendar.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Span {
    /// The queue; the only one that the caller may use where none is given.
    queue: Option<String>,
    /// How far it reaches, in seconds; a week where nothing is given.
    span_s: Option<u64>,
    /// Also the next starts for so many nodes.
    nodes: Option<u32>,
    /// For so long, in seconds; as the queue says where nothing is given.
    walltime_s: Option<u64>,
}

/// Asks for nodes. A reservation that names its hour is accepted or refused at once; another waits in its
/// queue.
#[utoipa::path(post, path = "/v1/reservations", request_body = NewReservation,
    responses((status = 200, body = ReservationPlan, description = "dry run"),
        (status = 201, body = Reservation), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    key: IdempotencyKey,
    Json(new): Json<NewReservation>,
) -> Answer<Response> {
    let holds_for = match &new.condition {
        Some(text) => Some(holding(&context, &caller, text).await?),
        None => None,
    };
    let wish = Wish { principal: &caller.0, key: key.0, new: &new, holds_for };
    match calendar::reserve(&context, wish).await? {
        Asked::Planned(plan) => {
            caller.did("dry run");
            Ok(Json(plan).into_response())
        }
        Asked::Made(made) => {
            caller.did(format!("reservation {}", made.id));
            let mut tx = context.store.read().await?;
            let shown = Shower::of(&context, &mut tx).await?.whole(&mut tx, *made).await?;
            Ok((StatusCode::CREATED, Json(shown)).into_response())
        }
    }
}

/// The ids of the nodes for which a condition holds, as the caller may see them.
async fn holding(context: &Context, caller: &Caller, text: &str) -> Answer<Vec<String>> {
    let mut tx = context.store.read().await?;
    let nodes = tx.nodes().await?;
    let labels: BTreeSet<String> =
        nodes.iter().flat_map(|node| node.spec.labels.keys().cloned()).collect();
    let condition = Condition::parse(text, &labels)?;
    let mut ids = Vec::new();
    for node in nodes::shown_all(context, &mut tx, caller, nodes).await? {
        let inventory = match condition.needs_inventory() {
            true => tx.hardware(&node.id).await?.inventory.map(|(inventory, _)| inventory),
            false => None,
        };
        if condition.holds(&node, inventory.as_ref()) {
            ids.push(node.id);
        }
    }
    Ok(ids)
}

/// The reservations that are not over, as far as the caller may see them; the newest first.
#[utoipa::path(get, path = "/v1/reservations", params(Filter, Page),
    responses((status = 200, body = List<Reservation>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(filter): Query<Filter>,
    Query(page): Query<Page>,
) -> Answer<Json<List<Reservation>>> {
    let mut tx = context.store.read().await?;
    let mut rows = if filter.all {
        tx.reservations(MOST).await?
    } else {
        let mut live = tx.live_reservations().await?;
        live.reverse();
        live
    };
    rows.retain(|one| {
        let is_mine = one.owner_id == caller.0.user_id;
        (is_mine || !filter.mine) && caller.may(Verb::View, object(one)).is_ok()
    });
    let shower = Shower::of(&context, &mut tx).await?;
    let items = rows.into_iter().map(|one| shower.shown(one)).collect();
    Ok(Json(page.of(items, |one: &Reservation| one.id.to_string())?))
}

/// One reservation, with its line of time.
#[utoipa::path(get, path = "/v1/reservations/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Reservation), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Tagged<Reservation>> {
    let mut tx = context.store.read().await?;
    let one = tx.reservation(number(&id)?).await?;
    let one = one.filter(|one| caller.may(Verb::View, object(one)).is_ok());
    let one = one.ok_or_else(|| absent(&id))?;
    Ok(Tagged(Shower::of(&context, &mut tx).await?.whole(&mut tx, one).await?))
}

/// Gives a reservation more time.
#[utoipa::path(post, path = "/v1/reservations/{id}/extend", params(("id" = String, Path)),
    request_body = ExtendReservation,
    responses((status = 200, body = Reservation), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn extend(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(wanted): Json<ExtendReservation>,
) -> Answer<Json<Reservation>> {
    let by = calendar::from_s(wanted.by_s);
    if by < SECOND {
        return Err(Fail::bad("bad-time", "extend it by a second or more"));
    }
    let far = wanted.as_far_as_possible;
    let one = calendar::extend(&context, &caller.0, number(&id)?, by, far).await?;
    let one = one.ok_or_else(|| absent(&id))?;
    caller.did(format!("extended reservation {id} by {} s", wanted.by_s));
    let mut tx = context.store.read().await?;
    Ok(Json(Shower::of(&context, &mut tx).await?.whole(&mut tx, one).await?))
}

/// Gives a reservation's nodes back, or takes back one that has none yet.
#[utoipa::path(post, path = "/v1/reservations/{id}/release", params(("id" = String, Path)),
    responses((status = 200, body = Reservation), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn release(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Reservation>> {
    let one = calendar::cancel_or_release(&context, &caller.0, number(&id)?).await?;
    let one = one.ok_or_else(|| absent(&id))?;
    caller.did(format!("released reservation {id}"));
    let mut tx = context.store.read().await?;
    Ok(Json(Shower::of(&context, &mut tx).await?.whole(&mut tx, one).await?))
}

/// Why a reservation waits, and what would let it start earlier.
#[utoipa::path(get, path = "/v1/reservations/{id}/explain", params(("id" = String, Path)),
    responses((status = 200, body = Explanation), (status = 404, body = Problem)))]
pub(super) async fn explain(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Explanation>> {
    let told = calendar::explain(&context, &caller.0, number(&id)?).await?;
    Ok(Json(told.ok_or_else(|| absent(&id))?))
}

/// How many nodes of a queue are free when, and the next starts for some of them.
#[utoipa::path(get, path = "/v1/calendar", params(Span),
    responses((status = 200, body = Calendar), (status = 404, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn calendar(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(span): Query<Span>,
) -> Answer<Json<Calendar>> {
    let mut tx = context.store.read().await?;
    let queue = match &span.queue {
        Some(name) => queues::find(&mut tx, name).await?,
        None => {
            let rows = tx.queues().await?;
            let mut usable = calendar::leaf_queues(&rows).filter(|row| {
                let object = Object::Queue { name: Some(&row.spec.name), open: row.spec.open };
                caller.may(Verb::Use, object).is_ok()
            });
            match (usable.next(), usable.next()) {
                (Some(only), None) => only.clone(),
                _ => return Err(Fail::bad("which-queue", "say of which queue: ?queue=NAME")),
            }
        }
    };
    drop(tx);
    let (walltime_s, span_s) =
        (span.walltime_s.unwrap_or(queue.spec.walltime_s), span.span_s.unwrap_or(WEEK));
    if span_s > YEAR || walltime_s > queue.spec.max_walltime_s {
        let most = queue.spec.max_walltime_s;
        let detail = format!(
            "a calendar reaches a year ({YEAR} s), and walltime_s is at most the queue's {most}"
        );
        return Err(Fail::bad("bad-time", detail));
    }
    let wanted = span.nodes.map(|nodes| (nodes, calendar::from_s(walltime_s)));
    let reach = calendar::from_s(span_s);
    Ok(Json(calendar::calendar(&context, &queue, reach, wanted).await?))
}

pub(super) fn object(one: &model::Reservation) -> Object<'_> {
    Object::Reservation { owner_id: &one.owner_id, tenant: &one.tenant, queue: &one.queue }
}

fn absent(id: &str) -> Fail {
    Fail::not_found("no-reservation", format!("there is no reservation {id}"))
}

fn number(id: &str) -> Answer<i64> {
    id.parse().map_err(|_| absent(id))
}

/// Shows reservations: names for ids, wall clock for steady clock.
struct Shower<'a> {
    context: &'a Context,
    accounts: HashMap<String, String>,
    overlays: HashMap<String, String>,
    nodes: HashMap<String, String>,
    standings: ByNode<StandingRow>,
}

impl<'a> Shower<'a> {
    async fn of(context: &'a Context, tx: &mut Tx) -> Answer<Self> {
        let users = tx.users().await?.into_iter().map(|user| (user.id, user.name.to_string()));
        let mut accounts: HashMap<_, _> = users.collect();
        let projects = tx.projects().await?.into_iter();
        accounts.extend(projects.map(|project| (project.id, project.name.to_string())));
        let overlays = tx.overlays().await?.into_iter();
        let overlays = overlays.map(|overlay| (overlay.id.clone(), overlay.full_name())).collect();
        let nodes = tx.all_nodes().await?.into_iter();
        let nodes = nodes.map(|node| (node.id, node.name.to_string())).collect();
        let standings = tx.standings().await?;
        Ok(Self { context, accounts, overlays, nodes, standings })
    }

    /// With its line of time.
    async fn whole(&self, tx: &mut Tx, one: model::Reservation) -> Answer<Reservation> {
        let steps = tx.steps(one.id).await?;
        let first = steps.first().map_or(0, |step| step.at);
        let steps = steps.into_iter().map(|step| shown_step(step, first)).collect();
        Ok(Reservation { steps, ..self.shown(one) })
    }

    fn shown(&self, one: model::Reservation) -> Reservation {
        let steady = |at: Micros| clock::rfc3339(self.context.clock.to_wall(at));
        let name = |id: &String| self.accounts.get(id).unwrap_or(id).clone();
        let late = one.start_at.zip(one.ready_at).map(|(start, ready)| (ready - start) / SECOND);
        let assigned = one.nodes.iter().map(|held| AssignedNode {
            rank: held.rank,
            node: self.nodes.get(&held.node_id).unwrap_or(&held.node_id).clone(),
            state: self.stands(&one, held).to_owned(),
        });
        Reservation {
            assigned: assigned.collect(),
            id: one.id,
            state: one.state,
            code: one.code,
            user: name(&one.owner_id),
            project: name(&one.tenant),
            nodes: one.count,
            walltime_s: (one.walltime / SECOND).unsigned_abs(),
            image: one.image.name.clone(),
            image_digest: one.image.digest.to_string(),
            overlay: one.overlay_id.as_ref().map(|id| self.overlays.get(id).unwrap_or(id).clone()),
            on_node_loss: one.on_node_loss,
            is_advance: one.is_advance,
            submitted_at: steady(one.submitted_at),
            start_at: one.start_at.map(steady),
            end_at: one.end_at.map(steady),
            ready_at: one.ready_at.map(steady),
            late_s: late.filter(|late| *late > 0 && one.is_advance).map(i64::unsigned_abs),
            reason: one.reason,
            queue: one.queue,
            steps: Vec::new(),
        }
    }

    fn stands(&self, one: &model::Reservation, held: &Assigned) -> &'static str {
        let standing = self.standings.get(&held.node_id);
        let runs = standing.and_then(|standing| standing.runs.as_ref());
        let is_ready = runs.is_some_and(|runs| {
            runs.is_ready && runs.generation >= held.generation && runs.tenant == one.tenant
        });
        match one.state {
            _ if held.lost => "lost",
            ReservationState::Starting | ReservationState::Active if held.generation == 0 => {
                "promised"
            }
            ReservationState::Starting | ReservationState::Active if is_ready => "ready",
            ReservationState::Starting | ReservationState::Active => "switching",
            ReservationState::Pending | ReservationState::Planned => "promised",
            ReservationState::Ending
            | ReservationState::Ended
            | ReservationState::Cancelled
            | ReservationState::Failed => "given-back",
        }
    }
}

fn shown_step(step: StepRow, first: Micros) -> ReservationStep {
    #[expect(clippy::cast_precision_loss, reason = "seconds with a fraction, for people")]
    let after_s = (step.at - first) as f64 / SECOND as f64;
    ReservationStep {
        at: clock::rfc3339(step.at),
        after_s,
        what: step.what,
        code: step.code,
        detail: step.detail,
    }
}
