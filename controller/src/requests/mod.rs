//! Requests that change what is wanted of nodes: switch, rollback, power.
//!
//! Each is planned whole, refused whole with a reason per node, or written whole in one transaction:
//! a desired state with the next generation for each node, the operation and its events. Nothing
//! here speaks to hardware; the reconciler does the rest.

mod back;
mod kexec;
mod lend;
mod plan;
mod steer;
mod tenant;

use haas_api::{
    names::Digest,
    operation::{
        MinSuccess, NodeProgress, OperationState, Plan, PowerRequest, PowerVerb, RollbackRequest,
        Strategy, SwitchRequest,
    },
    problem::NodeProblem,
};
use serde_json::json;
use tracing::info;

use crate::{
    auth::{Object, Principal, Verb, authorize},
    clock,
    context::Context,
    model::{NewDesired, Node, Operation, OperationNode},
    nodeset::{self, NodeSetError},
    reconcile::Loaded,
    store::{NewEvent, StoreError, Tx},
};

use plan::Candidate;

pub(crate) use back::{Which, keep_running, send_back};
pub(crate) use lend::{lend, take_back, wanted_of};
pub(crate) use plan::overlay;
pub use steer::{Steer, steer};
pub use tenant::image;
pub(crate) use tenant::whose;

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It was a dry run.
    Planned(Plan),
    /// It is under way.
    Started(Box<Operation>),
}

/// Why a request was refused; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The node set.
    #[error(transparent)]
    NodeSet(#[from] NodeSetError),
    /// No such image.
    #[error("there is no image {0}; `haasctl image list` shows what there is")]
    NoImage(String),
    /// No such overlay.
    #[error("there is no overlay {0}; make it with `haasctl overlay create`")]
    NoOverlay(String),
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] crate::auth::Denied),
    /// The caller is in several projects.
    #[error("you are in the projects {0}; say for which the nodes are: --project NAME")]
    WhichProject(String),
    /// The overlay is of another project than the one that was named.
    #[error(
        "the overlay is the project {0}'s, and so are nodes that run it: --project {0}, or none"
    )]
    OverlayOfProject(String),
    /// No such project.
    #[error("there is no project {0}")]
    NoProject(String),
    /// The project has as many nodes as it may.
    #[error(
        "the project {project} may have {limit} nodes at once; it has {has} beside these {more}"
    )]
    TooManyNodes {
        /// Its name.
        project: String,
        /// How many it may have.
        limit: u32,
        /// How many it has, these aside.
        has: usize,
        /// How many this request wants.
        more: usize,
    },
    /// Some nodes cannot.
    #[error("{} of the nodes cannot: {}", .0.len(), .0.iter().map(|n| format!("{} ({})", n.node, n.reason)).collect::<Vec<_>>().join(", "))]
    Nodes(Vec<NodeProblem>),
    /// More nodes must get there than there are.
    #[error("{least} nodes must get there, and the set has {all}")]
    MinSuccess {
        /// What was asked.
        least: MinSuccess,
        /// How many there are.
        all: usize,
    },
    /// No such operation, for this caller.
    #[error("there is no operation {0}")]
    NoOperation(String),
    /// The operation is too far for this.
    #[error("{0}")]
    TooLate(String),
    /// The Idempotency-Key stands for something else.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// The store said no; a conflict means that somebody was first.
    #[error("the request could not be written")]
    Store(#[from] StoreError),
}

/// Moves nodes to an image and an overlay.
pub async fn switch(
    context: &Context,
    principal: &Principal,
    key: Option<String>,
    request: &SwitchRequest,
) -> Result<Outcome, RequestError> {
    let mut tx = begin(context, request.dry_run).await?;
    let asked = digest_of("switch", request);
    if let Some(started) = started_before(&mut tx, principal, &key, &asked).await? {
        tx.commit().await?;
        return Ok(started);
    }
    let nodes = candidates(context, &mut tx, principal, &request.nodeset).await?;
    let target = plan::target(&mut tx, principal, request).await?;
    let mut planned = plan::switch(&mut tx, nodes, &target, request).await?;
    if let Some(least) = request.min_success.filter(|least| least.of(planned.len()) > planned.len())
    {
        return Err(RequestError::MinSuccess { least, all: planned.len() });
    }
    let project = request.project.as_ref();
    if request.spare {
        tenant::leave_to_nobody(&mut tx, principal, &mut planned).await?;
    } else {
        tenant::settle(context, &mut tx, principal, project, &mut planned).await?;
    }
    if request.fast {
        kexec::choose(context, &mut tx, &mut planned).await?;
    }
    if request.dry_run {
        return Ok(Outcome::planned(planned));
    }
    let mut summary = format!("switch {}", fold(&planned));
    if let Some(image) = &request.image {
        summary.push_str(&format!(" to {image}"));
    }
    if let Some(overlay) = &request.overlay {
        summary.push_str(&format!(" with overlay {overlay}"));
    }
    if request.rescue {
        summary.push_str(" to rescue it");
    }
    if request.fast {
        summary.push_str(", without firmware where that can be");
    }
    if let Some(least) = request.min_success {
        summary.push_str(&format!(", of which {least} must get there"));
    }
    let operation = Asked {
        at_most: request.at_most,
        strategy: request.strategy,
        min_success: request.min_success,
        ..Asked::new("switch", summary, key, asked)
    };
    start(context, tx, principal, operation, planned).await
}

/// Moves nodes back to what they ran before.
pub async fn rollback(
    context: &Context,
    principal: &Principal,
    key: Option<String>,
    request: &RollbackRequest,
) -> Result<Outcome, RequestError> {
    let mut tx = begin(context, request.dry_run).await?;
    let asked = digest_of("rollback", request);
    if let Some(started) = started_before(&mut tx, principal, &key, &asked).await? {
        tx.commit().await?;
        return Ok(started);
    }
    let nodes = candidates(context, &mut tx, principal, &request.nodeset).await?;
    let mut planned = plan::rollback(&mut tx, nodes, request.force).await?;
    tenant::settle(context, &mut tx, principal, None, &mut planned).await?;
    if request.dry_run {
        return Ok(Outcome::planned(planned));
    }
    let summary = format!("roll back {}", fold(&planned));
    let operation = Asked::new("rollback", summary, key, asked);
    start(context, tx, principal, operation, planned).await
}

/// Switches nodes on or off, or off and on.
pub async fn power(
    context: &Context,
    principal: &Principal,
    key: Option<String>,
    request: &PowerRequest,
) -> Result<Outcome, RequestError> {
    let mut tx = begin(context, request.dry_run).await?;
    let asked = digest_of("power", request);
    if let Some(started) = started_before(&mut tx, principal, &key, &asked).await? {
        tx.commit().await?;
        return Ok(started);
    }
    match request.action {
        PowerVerb::On | PowerVerb::Off | PowerVerb::Cycle => {}
        // What then runs there is out of haasd's hands.
        PowerVerb::BootBios | PowerVerb::BootDisk => {
            authorize(principal, Verb::Manage, Object::Nodes)?;
        }
    }
    let nodes = candidates(context, &mut tx, principal, &request.nodeset).await?;
    let mut planned = plan::power(nodes, request.action, request.force)?;
    tenant::settle(context, &mut tx, principal, None, &mut planned).await?;
    if request.dry_run {
        return Ok(Outcome::planned(planned));
    }
    let verb = match request.action {
        PowerVerb::On => "power on",
        PowerVerb::Off => "power off",
        PowerVerb::Cycle => "power cycle",
        PowerVerb::BootBios => "boot into the firmware's setup",
        PowerVerb::BootDisk => "boot from the disk",
    };
    let summary = format!("{verb} {}", fold(&planned));
    let operation = Asked::new("power", summary, key, asked);
    start(context, tx, principal, operation, planned).await
}

/// Refuses whoever may not switch all of these nodes on and off.
pub async fn may_power(
    tx: &mut Tx,
    principal: &Principal,
    nodes: &[Node],
) -> Result<(), RequestError> {
    // Who has each node is nothing to them.
    if principal.is_admin() {
        return Ok(());
    }
    let standings = tx.standings().await?;
    for node in nodes {
        let (name, groups) = (node.name.as_str(), &node.spec.groups);
        let tenant = match standings.get(&node.id).and_then(|standing| standing.tenant()) {
            Some(tenant) => Some(tenant.to_owned()),
            None => tx.lent_to(&node.id).await?,
        };
        let object = Object::Node { name, groups, tenant: tenant.as_deref() };
        authorize(principal, Verb::Use, object)?;
    }
    Ok(())
}

impl Outcome {
    fn planned(planned: Vec<plan::Planned>) -> Self {
        Self::Planned(Plan { nodes: planned.into_iter().map(|p| p.shown).collect() })
    }
}

/// The operation that the same request has started before, where the caller gave it a key. It may be one of
/// this moment that does not last yet: who answers with it commits first.
async fn started_before(
    tx: &mut Tx,
    principal: &Principal,
    key: &Option<String>,
    asked: &str,
) -> Result<Option<Outcome>, RequestError> {
    let Some(key) = key else { return Ok(None) };
    match tx.operation_by_key(principal.name.as_str(), key).await? {
        Some(operation) if operation.request == asked => {
            Ok(Some(Outcome::Started(Box::new(operation))))
        }
        Some(_) => Err(RequestError::KeyReused),
        None => Ok(None),
    }
}

/// What tells one request from another under the same key.
fn digest_of(kind: &str, request: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(request).expect("a request is plain data");
    Digest::of(format!("{kind} {text}").as_bytes()).to_string()
}

async fn begin(context: &Context, dry_run: bool) -> Result<Tx, StoreError> {
    if dry_run { context.store.read().await } else { context.store.write().await }
}

async fn candidates(
    context: &Context,
    tx: &mut Tx,
    principal: &Principal,
    set: &str,
) -> Result<Vec<Candidate>, RequestError> {
    let nodes = nodeset::resolve(set, tx.nodes().await?)?;
    let running = tx.running_operations().await?;
    let mut candidates = Vec::with_capacity(nodes.len());
    for node in nodes {
        let busy_with = running.iter().find(|o| o.is_under_way(&node.id)).map(|o| {
            let deed = Object::Deed { actor: Some(&o.actor_id), tenant: &o.tenant };
            match authorize(principal, Verb::View, deed) {
                Ok(()) => format!("{} is under way, asked for by {}", o.summary, o.actor),
                Err(_) => "what somebody else asked for is under way".to_owned(),
            }
        });
        let loaded = Loaded::read(context, tx, node).await?;
        let overlay = match loaded.desired.as_ref().and_then(|d| d.wanted.overlay_id.clone()) {
            Some(id) => tx.overlay_by_id(&id).await?.map(|o| o.full_name()),
            None => None,
        };
        let lent_to = tx.lent_to(&loaded.node.id).await?;
        let (is_hooked, now) = (context.config.drain_hook.is_some(), context.clock.now());
        let candidate = Candidate::new(loaded, overlay, busy_with, lent_to, is_hooked, now);
        let (node, tenant) = (candidate.node(), candidate.tenant());
        let (name, groups) = (node.name.as_str(), &node.spec.groups);
        authorize(principal, Verb::Use, Object::Node { name, groups, tenant })?;
        candidates.push(candidate);
    }
    Ok(candidates)
}

fn fold(planned: &[plan::Planned]) -> String {
    nodeset::fold(planned.iter().map(|p| p.node.name.as_str()))
}

/// An operation that is about to start.
struct Asked {
    kind: &'static str,
    summary: String,
    key: Option<String>,
    request: String,
    at_most: Option<u32>,
    strategy: Strategy,
    min_success: Option<MinSuccess>,
}

impl Asked {
    /// All its nodes at once, each on its own.
    fn new(kind: &'static str, summary: String, key: Option<String>, request: String) -> Self {
        Self {
            kind,
            summary,
            key,
            request,
            at_most: None,
            strategy: Strategy::All,
            min_success: None,
        }
    }
}

/// Who asked.
struct By<'a> {
    name: &'a str,
    id: &'a str,
}

/// Writes it: every node's desired state, the operation, the events, all or nothing.
async fn start(
    context: &Context,
    mut tx: Tx,
    principal: &Principal,
    asked: Asked,
    planned: Vec<plan::Planned>,
) -> Result<Outcome, RequestError> {
    let by = By { name: principal.name.as_str(), id: &principal.user_id };
    let tenant = tenant::of_all(&planned).unwrap_or_else(|| principal.user_id.clone());
    let operation = record(&mut tx, by, asked, &planned, tenant).await?;
    tx.commit().await?;
    info!(operation = %operation.id, actor = %principal.name, summary = operation.summary, "operation started");
    context.changed();
    Ok(Outcome::Started(Box::new(operation)))
}

/// Writes into this transaction what [`start`] commits.
async fn record(
    tx: &mut Tx,
    by: By<'_>,
    asked: Asked,
    planned: &[plan::Planned],
    tenant: String,
) -> Result<Operation, StoreError> {
    let id = ulid::Ulid::new().to_string();
    let mut nodes = Vec::with_capacity(planned.len());
    for entry in planned {
        let wanted = NewDesired {
            cause: asked.kind.to_owned(),
            actor: by.name.to_owned(),
            actor_id: by.id.to_owned(),
            operation_id: Some(id.clone()),
            ..entry.wanted.clone()
        };
        let generation = write(tx, &entry.node, &wanted, entry).await?;
        nodes.push(OperationNode {
            node_id: entry.node.id.clone(),
            generation,
            goes_back: false,
            state: NodeProgress::Waiting,
            reason: "accepted".to_owned(),
            failure: None,
        });
    }
    let operation = Operation {
        id,
        kind: asked.kind.to_owned(),
        actor: by.name.to_owned(),
        actor_id: by.id.to_owned(),
        tenant,
        summary: asked.summary,
        key: asked.key,
        request: asked.request,
        at_most: asked.at_most,
        strategy: asked.strategy,
        min_success: asked.min_success,
        committed_at: None,
        state: OperationState::Running,
        reason: String::new(),
        created_at: clock::wall(),
        ended_at: None,
        nodes,
    };
    tx.add_operation(&operation).await?;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind: "operation-started",
        node: None,
        operation: Some(&operation.id),
        actor: by.name,
        data: json!({ "summary": operation.summary }),
        tenant: None,
    })
    .await?;
    Ok(operation)
}

async fn write(
    tx: &mut Tx,
    node: &Node,
    wanted: &NewDesired,
    planned: &plan::Planned,
) -> Result<i64, StoreError> {
    if let (Some(overlay), true) = (&wanted.overlay_id, planned.new_shard) {
        tx.add_shard(overlay, &node.id, wanted.rank).await?;
    }
    let generation = tx.add_desired(node, wanted, clock::wall()).await?;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind: "desired-changed",
        node: Some(node.name.as_str()),
        operation: wanted.operation_id.as_deref(),
        actor: &wanted.actor,
        data: json!({ "generation": generation, "from": planned.shown.from, "to": planned.shown.to }),
        tenant: None,
    })
    .await?;
    Ok(generation)
}
