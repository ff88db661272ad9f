//! Nodes: what the inventory says, what is wanted, what is seen; their boots.

use std::{path::Path as FilePath, sync::Arc};

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    hardware::Hardware,
    names::{NodeGroupName, NodeName},
    node::{
        ApplyRequest, ApplyResult, Desired, Discovered, Drain, DrainState, Drift, Fault, HostKey,
        ManageRequest, Node, NodeState, Observed, Rendered, Tried,
    },
    operation::BootReport,
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Answer, Caller, Fail, Json, Page, Path, Query, Tagged,
    known::Known,
    reports::{boot_report, stage_times},
};
use crate::{
    auth::{Object, Verb},
    boots, clock,
    condition::Condition,
    context::Context,
    enroll,
    inventory::{self, Inventory, Seen},
    lifecycle::{Standing, Step},
    model::{self, Attempt, AttemptState, Power, SECOND, Silence},
    nodeset,
    reconcile::Loaded,
    store::{DiscoveredRow, HardwareRow, HealthRow, NewEvent, Tx},
};

/// Which nodes.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Filter {
    /// A node set; all nodes where none is given.
    nodeset: Option<String>,
    /// Only nodes for which this holds: `memory>=64G and rack==r1`.
    #[serde(rename = "where")]
    #[param(rename = "where")]
    condition: Option<String>,
}

/// A node group and its nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeGroup {
    name: NodeGroupName,
    nodes: Vec<NodeName>,
}

/// Nodes.
#[utoipa::path(get, path = "/v1/nodes", params(Filter, Page), responses((status = 200, body = List<Node>), (status = 422, body = Problem)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(filter): Query<Filter>,
    Query(page): Query<Page>,
) -> Answer<Json<List<Node>>> {
    caller.may(Verb::View, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let mut nodes = tx.nodes().await?;
    if let Some(set) = &filter.nodeset {
        nodes = nodeset::resolve(set, nodes)?;
    }
    let Some(text) = &filter.condition else {
        let nodes = page.of(nodes, |node| node.name.to_string())?;
        let next_page_token = nodes.next_page_token;
        let items = shown_all(&context, &mut tx, &caller, nodes.items).await?;
        return Ok(Json(List { items, next_page_token }));
    };
    let labels = nodes.iter().flat_map(|node| node.spec.labels.keys().cloned()).collect();
    let condition = Condition::parse(text, &labels)?;
    let mut items = Vec::new();
    // Of the nodes as the caller may see them: nobody finds out by asking what is not shown.
    for node in shown_all(&context, &mut tx, &caller, nodes).await? {
        let inventory = match condition.needs_inventory() {
            true => tx.hardware(&node.id).await?.inventory.map(|(inventory, _)| inventory),
            false => None,
        };
        if condition.holds(&node, inventory.as_ref()) {
            items.push(node);
        }
    }
    Ok(Json(page.of(items, |node| node.name.to_string())?))
}

/// One node.
#[utoipa::path(get, path = "/v1/nodes/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Node), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Tagged<Node>> {
    caller.may(Verb::View, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let node = find(&mut tx, &name).await?;
    let row = tx.hardware(&node.id).await?;
    let summary = row.inventory.as_ref().map(|(found, _)| found.summary());
    let health = HealthRow { health: row.health.clone(), summary, watts: row.watts };
    let loaded = Loaded::read(&context, &mut tx, node).await?;
    let mut node = shown(&context, &mut tx, &caller, loaded, health, &mut Known::default()).await?;
    node.hardware = Some(Box::new(shown_hardware(row)));
    Ok(Tagged(node))
}

fn shown_hardware(row: HardwareRow) -> Hardware {
    let (inventory, inventory_at) = row.inventory.unzip();
    Hardware {
        inventory,
        inventory_at: inventory_at.map(clock::rfc3339),
        bmc: row.bmc,
        bmc_at: row.bmc_at.map(clock::rfc3339),
        bmc_error: row.bmc_error,
    }
}

/// Node groups.
#[utoipa::path(get, path = "/v1/node-groups", params(Page), responses((status = 200, body = List<NodeGroup>)))]
pub(super) async fn groups(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<NodeGroup>>> {
    caller.may(Verb::View, Object::Nodes)?;
    let nodes = context.store.read().await?.nodes().await?;
    let items = nodeset::groups(&nodes)
        .into_iter()
        .map(|(name, nodes)| NodeGroup { name, nodes })
        .collect();
    Ok(Json(page.of(items, |entry: &NodeGroup| entry.name.to_string())?))
}

/// Gives nodes to haasd, or takes them away from it.
#[utoipa::path(post, path = "/v1/nodes/manage", request_body = ManageRequest,
    responses((status = 200, body = List<Node>), (status = 404, body = Problem)))]
pub(super) async fn manage(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<ManageRequest>,
) -> Answer<Json<List<Node>>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let mut tx = context.store.write().await?;
    let nodes = nodeset::resolve(&request.nodeset, tx.nodes().await?)?;
    let running = tx.running_operations().await?;
    for node in nodes.iter().filter(|node| node.managed != request.managed) {
        if !request.managed
            && let Some(operation) = running.iter().find(|o| o.is_under_way(&node.id))
        {
            return Err(Fail::conflict(
                "node-switching",
                format!("{}: {} is under way; wait for it", node.name, operation.summary),
            ));
        }
        tx.set_managed(&node.id, request.managed).await?;
        if request.managed {
            give_back(&mut tx, node).await?;
        }
        tx.add_event(NewEvent {
            at: clock::wall(),
            kind: if request.managed { "managed" } else { "unmanaged" },
            node: Some(node.name.as_str()),
            operation: None,
            actor: caller.0.name.as_str(),
            data: serde_json::Value::Null,
            tenant: None,
        })
        .await?;
    }
    let what = if request.managed { "managed" } else { "unmanaged" };
    caller
        .commit(tx, StatusCode::OK, format!("{what} {} ({} nodes)", request.nodeset, nodes.len()))
        .await?;
    context.changed();
    let mut tx = context.store.read().await?;
    let nodes = nodeset::resolve(&request.nodeset, tx.nodes().await?)?;
    let items = shown_all(&context, &mut tx, &caller, nodes).await?;
    Ok(Json(List::whole(items)))
}

/// A node that comes back to haasd and does not run what was wanted of it when it went is not touched
/// until somebody says what it shall do.
async fn give_back(tx: &mut Tx, node: &model::Node) -> Answer<()> {
    let desired = tx.desired(&node.id, node.generation).await?;
    let attempt = tx.last_attempt(&node.id).await?;
    let runs = attempt.is_some_and(|a| a.state == AttemptState::Ready);
    if desired.is_some_and(|desired| desired.wanted.power_on) && !runs {
        let reason = format!(
            "it was not haasd's for a time: say what it shall run, `haasctl switch {0} ...` or `haasctl power \
             on {0}`",
            node.name
        );
        let (generation, code) = (node.generation, "given-back");
        tx.set_fault(&node.id, &model::Fault::new(generation, code, reason)).await?;
    }
    Ok(())
}

/// Takes an inventory file, whole or not at all, or says what it would change.
#[utoipa::path(post, path = "/v1/nodes/apply", request_body = ApplyRequest,
    responses((status = 200, body = ApplyResult), (status = 422, body = Problem)))]
pub(super) async fn apply(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<ApplyRequest>,
) -> Answer<Json<ApplyResult>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let inventory = Inventory::parse(&request.text, &request.file, &context.config.networks)
        .map_err(enroll::EnrollError::from)?;
    let diff = enroll::apply(
        &context,
        FilePath::new(&request.file),
        &inventory,
        caller.0.name.as_str(),
        request.dry_run,
    )
    .await?;
    let [added, removed, changed] = [diff.added.len(), diff.removed.len(), diff.changed.len()];
    let dry = if request.dry_run { "dry run: " } else { "" };
    caller.did(format!("{dry}{added} nodes added, {removed} removed, {changed} changed"));
    let names = |list: &[NodeName]| list.iter().map(ToString::to_string).collect();
    Ok(Json(ApplyResult {
        added: names(&diff.added),
        removed: names(&diff.removed),
        changed: diff.changed.iter().map(|(name, _)| name.to_string()).collect(),
        diff: diff.to_string(),
        applied: !request.dry_run,
    }))
}

/// Machines that were seen on the network and are in no inventory.
#[utoipa::path(get, path = "/v1/nodes/discovered", params(Page), responses((status = 200, body = List<Discovered>)))]
pub(super) async fn discovered(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Discovered>>> {
    caller.may(Verb::View, Object::Nodes)?;
    let rows = context.store.read().await?.discovered().await?;
    let items = rows
        .into_iter()
        .map(|row| Discovered {
            stanza: (row.kind != "bmc").then(|| stanza(&row)),
            mac: row.mac,
            kind: row.kind,
            description: row.description,
            network: row.network,
            first_seen: clock::rfc3339(row.first_seen),
            last_seen: clock::rfc3339(row.last_seen),
        })
        .collect();
    Ok(Json(page.of(items, |entry: &Discovered| entry.mac.to_string())?))
}

/// A node's last boots, newest first, as far as they were the caller's.
#[utoipa::path(get, path = "/v1/nodes/{name}/boots", params(Page, ("name" = String, Path)),
    responses((status = 200, body = List<BootReport>), (status = 404, body = Problem)))]
pub(super) async fn boots(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    Query(page): Query<Page>,
) -> Answer<Json<List<BootReport>>> {
    caller.may(Verb::View, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let node = find(&mut tx, &name).await?;
    let (mut items, mut known) = (Vec::new(), Known::default());
    for attempt in tx.attempts_of(&node.id, 50).await? {
        let desired = tx.desired(&node.id, attempt.generation).await?;
        let desired = desired.as_ref();
        let tenant = desired.map_or("", |desired| &desired.wanted.tenant);
        if caller.may(Verb::View, Object::Deed { actor: None, tenant }).is_err() {
            continue;
        }
        let (known, name) = (&mut known, node.name.as_str());
        items.push(boot_report(&context, &mut tx, known, name, attempt, desired).await?);
    }
    Ok(Json(page.of(items, |entry: &BootReport| entry.attempt.clone())?))
}

/// What a node would be given if it booted now.
#[utoipa::path(get, path = "/v1/nodes/{name}/render", params(("name" = String, Path)),
    responses((status = 200, body = Rendered), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn render(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<Rendered>> {
    let mut tx = context.store.read().await?;
    let node = find(&mut tx, &name).await?;
    let desired = tx.desired(&node.id, node.generation).await?;
    let tenant = desired.as_ref().map_or("", |desired| desired.wanted.tenant.as_str());
    // It names the overlay, also that of a node which is to be off.
    caller.may(Verb::View, Object::Deed { actor: None, tenant })?;
    drop(tx);
    let rendered = boots::preview(&context, &node)
        .await
        .map_err(|reason| Fail::conflict("cannot-render", reason))?;
    Ok(Json(rendered))
}

/// Whether a reboot would change what nodes run, of those whose boots the caller may see.
#[utoipa::path(get, path = "/v1/drift", params(Filter, Page), responses((status = 200, body = List<Drift>)))]
pub(super) async fn drift(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(filter): Query<Filter>,
    Query(page): Query<Page>,
) -> Answer<Json<List<Drift>>> {
    caller.may(Verb::View, Object::Nodes)?;
    let mut tx = context.store.read().await?;
    let mut nodes = tx.nodes().await?;
    if let Some(set) = &filter.nodeset {
        nodes = nodeset::resolve(set, nodes)?;
    }
    let nodes = page.of(nodes, |node| node.name.to_string())?;
    let mut seen = Vec::with_capacity(nodes.items.len());
    for node in nodes.items {
        let loaded = Loaded::read(&context, &mut tx, node).await?;
        let tenants = [&loaded.serves, &loaded.desired].into_iter().flatten();
        let may = tenants
            .map(|desired| desired.wanted.tenant.as_str())
            .all(|tenant| caller.may(Verb::View, Object::Deed { actor: None, tenant }).is_ok());
        seen.extend(may.then_some(loaded));
    }
    drop(tx);
    let agent = boots::drift::agent(&context).await;
    let mut items = Vec::with_capacity(seen.len());
    for loaded in seen {
        items.push(boots::drift::of(&context, &loaded, &agent).await?);
    }
    Ok(Json(List { items, next_page_token: nodes.next_page_token }))
}

fn stanza(row: &DiscoveredRow) -> String {
    let seen = Seen { hints: vec![row.description.clone()], ..Seen::default() };
    inventory::stanza_for(row.mac, &seen)
}

pub(super) async fn find(tx: &mut Tx, name: &str) -> Answer<model::Node> {
    tx.node(name)
        .await?
        .ok_or_else(|| Fail::not_found("no-node", format!("the inventory has no node {name}")))
}

pub(super) async fn shown_all(
    context: &Context,
    tx: &mut Tx,
    caller: &Caller,
    nodes: Vec<model::Node>,
) -> Answer<Vec<Node>> {
    let mut items = Vec::with_capacity(nodes.len());
    let mut healths = tx.healths().await?;
    let mut known = Known::of_all(tx).await?;
    for loaded in Loaded::read_many(context, tx, nodes).await? {
        let health = healths.remove(&loaded.node.id).unwrap_or_default();
        items.push(shown(context, tx, caller, loaded, health, &mut known).await?);
    }
    Ok(items)
}

/// A node as the caller may see it. Of one that somebody else has, or had last, it is told how it
/// stands, and not what runs or ran there. The row says how well it is, and its hardware in a few numbers.
async fn shown(
    context: &Context,
    tx: &mut Tx,
    caller: &Caller,
    mut loaded: Loaded,
    HealthRow { health, summary, watts }: HealthRow,
    known: &mut Known,
) -> Answer<Node> {
    let step = loaded.decide(context, true, context.clock.now());
    let (state, mut reason) = in_words(&step, &loaded);
    let tenant = match &loaded.desired {
        Some(desired) => known.account(tx, &desired.wanted.tenant).await?,
        None => None,
    };
    let is_on = loaded.desired.as_ref().is_some_and(|desired| desired.wanted.power_on);
    let is_others = loaded.desired.as_ref().is_some_and(|desired| {
        let deed = Object::Deed { actor: None, tenant: &desired.wanted.tenant };
        caller.may(Verb::View, deed).is_err()
    });
    if is_others {
        loaded.desired = None;
        loaded.attempt = None;
        loaded.node.heartbeat = None;
        loaded.node.fault = None;
        reason = if is_on { "somebody has it" } else { "free" }.to_owned();
    }
    let Loaded { node, desired, attempt, .. } = loaded;
    let console = match state {
        NodeState::Fault => shown_console(tx, caller, &node).await?,
        _ => Vec::new(),
    };
    let desired = match desired {
        Some(desired) => {
            let overlay = known.overlay(tx, desired.wanted.overlay_id.as_deref()).await?;
            Some(shown_desired(desired, overlay))
        }
        None => None,
    };
    let idle_off = known.idle_off(tx, &node.id).await?;
    #[expect(clippy::cast_precision_loss, reason = "numbers with a fraction, for people")]
    let (idle_off_hours, idle_saved_kwh) =
        (idle_off.time as f64 / (3_600 * SECOND) as f64, idle_off.joules as f64 / 3.6e6);
    let live = attempt.as_ref().filter(|a| a.state == AttemptState::Open);
    let host_keys = match &attempt {
        Some(attempt) => shown_host_keys(tx, known, attempt).await?,
        None => Vec::new(),
    };
    let steady = |at: model::Micros| clock::rfc3339(context.clock.to_wall(at));
    let fault = node.fault.clone().filter(|fault| fault.generation == node.generation);
    Ok(Node {
        id: node.id,
        address: node.address.map(|a| a.to_string()),
        mac: node.boot_mac,
        groups: node.spec.groups.iter().cloned().collect(),
        labels: node.spec.labels.clone(),
        power_driver: node.spec.power.driver().to_owned(),
        managed: node.managed,
        state,
        reason,
        console,
        drain: node.drain.map(shown_drain),
        fault: fault.and_then(|fault| shown_fault(context, fault)),
        tenant: tenant.filter(|_| is_on && !is_others),
        desired,
        observed: Observed {
            power: node.power.as_str().to_owned(),
            power_at: node.power_at.map(steady),
            power_error: node.power_error,
            stage: live.map(|a| a.stage),
            agent_at: node.agent_at.map(steady),
            logins: node.heartbeat.as_ref().map(|h| h.logins.clone()).unwrap_or_default(),
            root_attached: node.heartbeat.as_ref().map(|h| h.root_attached),
            store_free: node.heartbeat.as_ref().and_then(|h| h.store_free),
            checks: attempt.map(|a| a.checks).unwrap_or_default(),
            watts,
            idle_off_hours,
            idle_saved_kwh,
            lease: node.heartbeat.and_then(|h| h.lease),
            host_keys,
        },
        health,
        summary,
        hardware: None,
        name: node.name,
    })
}

/// The last lines before a fault, for those whose node it was.
async fn shown_console(tx: &mut Tx, caller: &Caller, node: &model::Node) -> Answer<Vec<String>> {
    let found = tx.fault_console(&node.id, node.generation).await?;
    let may = |tenant: &str| caller.may(Verb::View, Object::Deed { actor: None, tenant }).is_ok();
    Ok(found.filter(|(tenant, _)| may(tenant)).map(|(_, lines)| lines).unwrap_or_default())
}

fn shown_drain(drain: model::Drain) -> Drain {
    Drain {
        state: match drain.state {
            model::DrainState::Drain => DrainState::Drain,
            model::DrainState::Maintenance => DrainState::Maintenance,
            model::DrainState::Quarantine => DrainState::Quarantine,
        },
        reason: drain.reason,
        actor: drain.actor,
        since: clock::rfc3339(drain.since),
    }
}

fn shown_fault(context: &Context, fault: model::Fault) -> Option<Fault> {
    let evidence = fault.evidence?;
    let steady = |at: model::Micros| clock::rfc3339(context.clock.to_wall(at));
    let tried = evidence.tried.into_iter().map(|tried| Tried {
        at: steady(tried.at),
        what: tried.what,
        error: tried.error,
    });
    Some(Fault {
        code: fault.code,
        at: steady(evidence.at),
        tried: tried.collect(),
        stages: stage_times(&evidence.stages, evidence.at),
    })
}

/// The host keys of what runs; those of a boot that is over are nobody's.
async fn shown_host_keys(
    tx: &mut Tx,
    known: &mut Known,
    attempt: &Attempt,
) -> Answer<Vec<HostKey>> {
    if !matches!(attempt.state, AttemptState::Open | AttemptState::Ready) {
        return Ok(Vec::new());
    }
    let rows = known.host_keys(tx, &attempt.id).await?.into_iter();
    Ok(rows
        .map(|row| HostKey {
            key: row.key,
            names: row.names,
            certified_until: row.certified_until.map(clock::rfc3339),
        })
        .collect())
}

fn shown_desired(desired: model::Desired, overlay: Option<String>) -> Desired {
    let image = desired.wanted.image;
    Desired {
        generation: desired.generation,
        on: desired.wanted.power_on,
        image: image.as_ref().map(|i| i.name.clone()),
        image_digest: image.map(|i| i.digest.to_string()),
        overlay,
        rescue: desired.wanted.rescue,
        rank: desired.wanted.rank,
        since: clock::rfc3339(desired.created_at),
        actor: desired.wanted.actor,
    }
}

/// A node's state, and why it is in it.
pub(crate) fn in_words(step: &Step, loaded: &Loaded) -> (NodeState, String) {
    let word = |state, text: &str| (state, text.to_owned());
    match step {
        Step::Converged(Standing::Unmanaged) => {
            word(NodeState::Unmanaged, "`haasctl node manage` gives it to haas")
        }
        Step::Converged(Standing::Idle) => word(NodeState::Idle, "nothing is wanted of it yet"),
        Step::Converged(Standing::Off) => word(NodeState::Off, "off, as is wanted"),
        Step::Converged(Standing::Prepared) => word(
            NodeState::Switching,
            "ready, and lets users in when the others of its operation are",
        ),
        Step::Converged(Standing::Ready) => word(NodeState::Ready, "ready"),
        Step::Converged(Standing::Unreachable) => word(
            NodeState::Unreachable,
            match loaded.node.spec.power {
                inventory::PowerSpec::Manual => "its agent is silent, and there is no BMC to ask",
                inventory::PowerSpec::Ipmi { .. }
                | inventory::PowerSpec::Redfish(_)
                | inventory::PowerSpec::Exec { .. } => {
                    "it is on and its agent is silent: it hangs, or is cut off from the network; look at its \
                     console. haasd does not reset it"
                }
            },
        ),
        Step::Converged(Standing::Lost) => {
            let error = loaded.node.power_error.as_deref().unwrap_or("no answer");
            let reason = format!(
                "neither its agent nor its BMC answers: its power may be gone, or the network there; haasd goes \
                 on asking ({error})"
            );
            (NodeState::Unreachable, reason)
        }
        Step::Converged(Standing::Held) => {
            let state = match loaded.node.power {
                Power::Off => NodeState::Off,
                Power::On | Power::Unknown => NodeState::HandedOver,
            };
            word(state, "out of service: haasd does only what an admin asks for")
        }
        Step::Converged(Standing::Kexec) => word(
            NodeState::Unreachable,
            "another kernel was started on it (kexec); `haasctl power cycle --force` boots it anew",
        ),
        Step::Converged(Standing::HandedOver) => word(
            NodeState::HandedOver,
            "started as was asked, out of haasd's hands until it boots from the network again",
        ),
        Step::Converged(Standing::PoweredOff) => word(NodeState::Off, "was shut down from inside"),
        Step::Wait { reason, .. } => (NodeState::Switching, reason.clone()),
        Step::Queued => word(NodeState::Switching, "waits for its turn"),
        Step::Do(_) => match &loaded.attempt {
            Some(a) if a.state == AttemptState::Ready && a.generation == loaded.node.generation => {
                match loaded.node.silence {
                    None => word(NodeState::Ready, "ready"),
                    Some(Silence::On | Silence::NoBmc) => {
                        in_words(&Step::Converged(Standing::Unreachable), loaded)
                    }
                    Some(Silence::Unreachable) => {
                        in_words(&Step::Converged(Standing::Lost), loaded)
                    }
                }
            }
            _ => word(NodeState::Switching, loaded.node.power_error.as_deref().unwrap_or("works")),
        },
        Step::Fault(fault) => (NodeState::Fault, fault.reason.clone()),
    }
}
