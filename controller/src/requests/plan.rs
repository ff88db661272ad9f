//! What a request will do with each node, and which nodes refuse it.

use std::collections::HashMap;

use haas_api::{
    agent::ShutdownHow,
    names::{ImageRef, OverlayRef},
    operation::{PlannedNode, PowerVerb, SwitchRequest},
    problem::NodeProblem,
};

use super::RequestError;
use crate::{
    auth::{Principal, Verb},
    inventory::PowerSpec,
    lifecycle::agent_is_live,
    model::{
        Attempt, AttemptState, BootOnce, Desired, ImageWanted, Micros, NewDesired, Node, Power,
    },
    reconcile::Loaded,
    store::{OverlayRow, Tx},
};

/// A node that a request names.
#[derive(Debug)]
pub(super) struct Candidate {
    loaded: Loaded,
    /// `owner/name` of the overlay that is wanted of it now.
    overlay: Option<String>,
    /// What is under way on it.
    busy_with: Option<String>,
    /// Whose reservation has it.
    lent_to: Option<String>,
    /// What runs there as far as anybody knows.
    runs: Runs,
    /// Whether the site's drain hook is called before what runs for somebody is ended.
    is_hooked: bool,
}

/// What runs on a node as far as anybody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Runs {
    /// Nothing of ours, or nothing any more.
    Nothing,
    /// The system of its attempt. `silent`: its agent does not call at the moment, so that what it
    /// said last of `logins` counts.
    Something { logins: Vec<String>, silent: bool },
}

impl Candidate {
    pub(super) fn new(
        loaded: Loaded,
        overlay: Option<String>,
        busy_with: Option<String>,
        lent_to: Option<String>,
        is_hooked: bool,
        now: Micros,
    ) -> Self {
        let runs = Runs::of(&loaded, now);
        Self { loaded, overlay, busy_with, lent_to, runs, is_hooked }
    }

    /// Who has the node now, be it off; none: it is free.
    pub(super) fn tenant(&self) -> Option<&str> {
        let wanted = self.loaded.desired.as_ref().and_then(Desired::tenant);
        wanted.or(self.lent_to.as_deref())
    }

    /// What is wanted of it now.
    pub(super) fn wanted(&self) -> Option<&NewDesired> {
        self.loaded.desired.as_ref().map(|desired| &desired.wanted)
    }

    pub(super) fn node(&self) -> &Node {
        &self.loaded.node
    }

    /// Why this node cannot have the request, whatever it is.
    fn refusal(&self, force: bool, ends_what_runs: bool) -> Option<NodeProblem> {
        let node = &self.loaded.node;
        let problem = |code: &str, reason: String| {
            Some(NodeProblem { node: node.name.to_string(), code: code.to_owned(), reason })
        };
        if !node.managed {
            return problem(
                "unmanaged",
                format!("not managed; `haasctl node manage {}` gives it to haas", node.name),
            );
        }
        if let (Some(what), false) = (&self.busy_with, force) {
            return problem("node-switching", format!("{what}; wait for it, or say --force"));
        }
        match &self.runs {
            Runs::Something { logins, .. } if !logins.is_empty() && ends_what_runs && !force => {
                let who = logins.join(", ");
                problem("node-busy", format!("logged in: {who}; say --force to end them"))
            }
            Runs::Something { silent: true, .. } if ends_what_runs && !force => problem(
                "node-silent",
                "it is on and its agent is silent, so nobody knows who works there; say --force to \
                 end it"
                    .to_owned(),
            ),
            Runs::Something { .. } | Runs::Nothing => None,
        }
    }

    fn shown_now(&self) -> String {
        match &self.loaded.desired {
            Some(desired) => shown(&desired.wanted, self.overlay.as_deref()),
            None => "nothing".to_owned(),
        }
    }

    /// For whom it runs something now, empty for a spare; none: it runs nothing.
    fn runs_for(&self) -> Option<&str> {
        match self.runs {
            Runs::Something { .. } => {
                self.loaded.serves.as_ref().map(|serves| serves.wanted.tenant.as_str())
            }
            Runs::Nothing => None,
        }
    }

    fn notes(&self) -> Vec<String> {
        match &self.runs {
            Runs::Something { logins, .. } => {
                logins.iter().map(|login| format!("ends the login {login}")).collect()
            }
            Runs::Nothing => Vec::new(),
        }
    }

    fn planned(
        self,
        wanted: NewDesired,
        overlay: Option<&str>,
        new_shard: bool,
        action: &str,
    ) -> Planned {
        let mut notes = self.notes();
        if action != "nothing" && self.is_hooked && self.runs_for().is_some_and(|t| !t.is_empty()) {
            notes.push("asks the drain hook first".to_owned());
        }
        if new_shard {
            notes.push(format!("makes a new, empty shard (rank {})", wanted.rank));
        }
        let shown = PlannedNode {
            node: self.loaded.node.name.to_string(),
            from: self.shown_now(),
            to: shown(&wanted, overlay),
            rank: wanted.power_on.then_some(wanted.rank),
            action: action.to_owned(),
            notes,
        };
        let runs = match self.runs {
            Runs::Something { silent, .. } => {
                let loaded = self.loaded.attempt.zip(self.loaded.serves);
                loaded.map(|(attempt, serves)| Running { attempt, wanted: serves.wanted, silent })
            }
            Runs::Nothing => None,
        };
        Planned { node: self.loaded.node, wanted, new_shard, runs, shown }
    }
}

impl Runs {
    fn of(loaded: &Loaded, now: Micros) -> Self {
        let Loaded { node, attempt, .. } = loaded;
        let Some(attempt) = attempt.as_ref().filter(|a| {
            node.agent_attempt.as_deref() == Some(&a.id)
                // After a kexec something runs, and nobody knows what.
                && node.goodbye.is_none_or(|how| how == ShutdownHow::Kexec)
                && matches!(a.state, AttemptState::Open | AttemptState::Ready)
        }) else {
            return Self::Nothing;
        };
        let silent = !agent_is_live(node, attempt, now);
        if silent && node.power == Power::Off {
            return Self::Nothing;
        }
        let logins = node.heartbeat.as_ref().map(|heartbeat| heartbeat.logins.clone());
        Self::Something {
            logins: logins.unwrap_or_default(),
            // Who holds a node before it was ever ready lets nobody in.
            silent: silent && attempt.state == AttemptState::Ready,
        }
    }
}

/// What a request will do with one node.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) node: Node,
    pub(super) wanted: NewDesired,
    pub(super) new_shard: bool,
    /// What the node runs now; none: nothing.
    pub(super) runs: Option<Running>,
    pub(super) shown: PlannedNode,
}

/// What a node runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) attempt: Attempt,
    pub(super) wanted: NewDesired,
    /// Its agent does not call at the moment.
    pub(super) silent: bool,
}

impl Planned {
    /// For whom the node runs something now, empty for a spare; none: it runs nothing.
    pub(super) fn runs_for(&self) -> Option<&str> {
        self.runs.as_ref().map(|runs| runs.wanted.tenant.as_str())
    }
}

/// What a switch goes to, as far as it was said.
#[derive(Debug)]
pub(super) struct Target {
    image: Option<ImageWanted>,
    overlay: OverlayTarget,
    rescue: bool,
}

#[derive(Debug)]
enum OverlayTarget {
    Keep,
    Ram,
    Overlay { id: String, name: String },
}

/// Resolves names, once for the whole set.
pub(super) async fn target(
    tx: &mut Tx,
    principal: &Principal,
    request: &SwitchRequest,
) -> Result<Target, RequestError> {
    let image = match &request.image {
        None => None,
        Some(image) => {
            let digest = super::image(tx, principal, Verb::Use, image).await?;
            Some(ImageWanted { digest, name: image.to_string() })
        }
    };
    let overlay = match &request.overlay {
        None => OverlayTarget::Keep,
        Some(named) => match overlay(tx, principal, named).await? {
            None => OverlayTarget::Ram,
            Some(found) => OverlayTarget::Overlay { name: found.full_name(), id: found.id },
        },
    };
    Ok(Target { image, overlay, rescue: request.rescue })
}

/// The overlay that is meant; none: RAM.
pub(crate) async fn overlay(
    tx: &mut Tx,
    principal: &Principal,
    named: &OverlayRef,
) -> Result<Option<OverlayRow>, RequestError> {
    let (owner, label) = match named {
        OverlayRef::None => return Ok(None),
        OverlayRef::Mine(label) => (&principal.name, label),
        OverlayRef::Owned(owner, label) => (owner, label),
    };
    let absent = || RequestError::NoOverlay(format!("{owner}/{label}"));
    let account = tx.account(owner.as_str()).await?.ok_or_else(absent)?;
    Ok(Some(tx.overlay(&account.id, label).await?.ok_or_else(absent)?))
}

/// What the calendar decided about a node: who reserved it may have it, and who had it before has no
/// say any more.
pub(super) fn lent(
    node: Candidate,
    wanted: NewDesired,
    overlay: Option<&str>,
    new_shard: bool,
) -> Planned {
    let action = if wanted.power_on { action_for(&node, &wanted) } else { "power-off" };
    node.planned(wanted, overlay, new_shard, action)
}

/// A switch of each node, or the reasons of those that cannot.
pub(super) async fn switch(
    tx: &mut Tx,
    nodes: Vec<Candidate>,
    target: &Target,
    request: &SwitchRequest,
) -> Result<Vec<Planned>, RequestError> {
    let force = request.force;
    let mut ranks = match &target.overlay {
        OverlayTarget::Overlay { id, .. } => Ranks::of(tx, id).await?,
        OverlayTarget::Keep | OverlayTarget::Ram => Ranks::default(),
    };
    let mut refused = Vec::new();
    let mut planned = Vec::new();
    for (position, node) in nodes.into_iter().enumerate() {
        let now = node.loaded.desired.as_ref().map(|d| d.wanted.clone());
        let name = node.loaded.node.name.to_string();
        let Some(image) =
            target.image.clone().or_else(|| now.as_ref().and_then(|w| w.image.clone()))
        else {
            refused.push(NodeProblem {
                node: name,
                code: "no-image".into(),
                reason: "it has no image yet; say --image".into(),
            });
            continue;
        };
        if now.is_none() && matches!(target.overlay, OverlayTarget::Keep) {
            refused.push(NodeProblem {
                node: name,
                code: "no-overlay".into(),
                reason: "it has no overlay yet; say --overlay NAME, or none for RAM".into(),
            });
            continue;
        }
        let keeps = matches!(target.overlay, OverlayTarget::Keep);
        let is_gone =
            node.overlay.is_none() && now.as_ref().is_some_and(|w| w.overlay_id.is_some());
        if keeps && is_gone {
            refused.push(NodeProblem {
                node: name,
                code: "overlay-gone".into(),
                reason: "the overlay that it had is gone; say --overlay".into(),
            });
            continue;
        }
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        let (overlay_id, overlay_name, rank, new_shard) = match &target.overlay {
            OverlayTarget::Keep => (
                now.as_ref().and_then(|w| w.overlay_id.clone()),
                node.overlay.clone(),
                now.as_ref().map_or(position, |w| w.rank),
                false,
            ),
            OverlayTarget::Ram => (None, None, position, false),
            OverlayTarget::Overlay { id, name } => {
                let (rank, new) = ranks.rank_of(&node.loaded.node.id);
                (Some(id.clone()), Some(name.clone()), rank, new)
            }
        };
        if target.rescue && (overlay_id.is_none() || new_shard) {
            let reason = match &overlay_name {
                Some(overlay) => format!("it has nothing of the overlay {overlay} to rescue"),
                None => "it has no overlay to rescue; say --overlay".to_owned(),
            };
            refused.push(NodeProblem { node: name, code: "nothing-to-rescue".into(), reason });
            continue;
        }
        let wanted = NewDesired {
            power_on: true,
            image: Some(image),
            overlay_id,
            rank,
            rescue: target.rescue,
            forced: force,
            reboot: request.reboot,
            boot_once: None,
            kexec_from: None,
            cause: String::new(),
            actor: String::new(),
            actor_id: String::new(),
            tenant: String::new(),
            operation_id: None,
        };
        let action = action_for(&node, &wanted);
        if let Some(problem) = node.refusal(force, action != "nothing") {
            refused.push(problem);
            continue;
        }
        planned.push(node.planned(wanted, overlay_name.as_deref(), new_shard, action));
    }
    all_or_nothing(planned, refused)
}

/// A rollback of each node, or the reasons of those that cannot.
pub(super) async fn rollback(
    tx: &mut Tx,
    nodes: Vec<Candidate>,
    force: bool,
) -> Result<Vec<Planned>, RequestError> {
    let mut refused = Vec::new();
    let mut planned = Vec::new();
    for node in nodes {
        let name = node.loaded.node.name.to_string();
        let before = match &node.loaded.desired {
            Some(now) => tx.desired_before(&node.loaded.node.id, now).await?,
            None => None,
        };
        let Some(before) = before else {
            refused.push(NodeProblem {
                node: name,
                code: "nothing-before".into(),
                reason: "it has run nothing else before".into(),
            });
            continue;
        };
        let overlay = match &before.wanted.overlay_id {
            Some(id) => match tx.overlay_by_id(id).await? {
                Some(overlay) => Some(overlay.full_name()),
                None => {
                    refused.push(NodeProblem {
                        node: name,
                        code: "overlay-gone".into(),
                        reason: "the overlay that it had was removed".into(),
                    });
                    continue;
                }
            },
            None => None,
        };
        let image_is_there = match &before.wanted.image {
            Some(image) => {
                tx.resolve_image(&ImageRef::Digest(image.digest.clone())).await?.is_some()
            }
            None => false,
        };
        if !image_is_there {
            refused.push(NodeProblem {
                node: name,
                code: "image-gone".into(),
                reason: "the image that it had was removed".into(),
            });
            continue;
        }
        let wanted = NewDesired {
            forced: force,
            reboot: false,
            boot_once: None,
            kexec_from: None,
            ..before.wanted
        };
        let action = action_for(&node, &wanted);
        if let Some(problem) = node.refusal(force, action != "nothing") {
            refused.push(problem);
            continue;
        }
        planned.push(node.planned(wanted, overlay.as_deref(), false, action));
    }
    all_or_nothing(planned, refused)
}

/// Power of each node, or the reasons of those that cannot.
pub(super) fn power(
    nodes: Vec<Candidate>,
    verb: PowerVerb,
    force: bool,
) -> Result<Vec<Planned>, RequestError> {
    let mut refused = Vec::new();
    let mut planned = Vec::new();
    for node in nodes {
        let boot_once = match verb {
            PowerVerb::On | PowerVerb::Off | PowerVerb::Cycle => None,
            PowerVerb::BootBios => Some(BootOnce::Bios),
            PowerVerb::BootDisk => Some(BootOnce::Disk),
        };
        let mut refuse = |code: &str, reason: &str| {
            let node = node.loaded.node.name.to_string();
            refused.push(NodeProblem { node, code: code.into(), reason: reason.into() });
        };
        if boot_once.is_some() && node.loaded.node.spec.power == PowerSpec::Manual {
            refuse("no-bmc", "it has no BMC that could choose what it boots; do it at its console");
            continue;
        }
        let now = node.loaded.desired.as_ref().map(|d: &Desired| d.wanted.clone());
        // A machine that haas has never booted may have to be set up in its firmware first.
        let now = now.or_else(|| boot_once.map(|_| nothing()));
        let Some(now) = now.filter(|w| w.image.is_some() || boot_once.is_some()) else {
            refuse("no-image", "haas has never booted it; switch it to an image first");
            continue;
        };
        let boots = verb != PowerVerb::Off && boot_once.is_none();
        if boots && now.overlay_id.is_some() && node.overlay.is_none() {
            refuse("overlay-gone", "the overlay that it had is gone; switch it to another");
            continue;
        }
        let wanted = NewDesired {
            power_on: verb != PowerVerb::Off,
            reboot: verb == PowerVerb::Cycle,
            boot_once,
            kexec_from: None,
            forced: force,
            ..now
        };
        let action = match verb {
            PowerVerb::Off => "power-off",
            PowerVerb::Cycle => "reboot",
            PowerVerb::BootBios | PowerVerb::BootDisk => "hand-over",
            PowerVerb::On => action_for(&node, &wanted),
        };
        if let Some(problem) = node.refusal(force, action != "nothing") {
            refused.push(problem);
            continue;
        }
        let overlay = node.overlay.clone();
        planned.push(node.planned(wanted, overlay.as_deref(), false, action));
    }
    all_or_nothing(planned, refused)
}

/// What is wanted of a node of which nothing was ever wanted.
pub(super) fn nothing() -> NewDesired {
    NewDesired {
        power_on: false,
        image: None,
        overlay_id: None,
        rank: 0,
        rescue: false,
        forced: false,
        reboot: false,
        boot_once: None,
        kexec_from: None,
        cause: String::new(),
        actor: String::new(),
        actor_id: String::new(),
        tenant: String::new(),
        operation_id: None,
    }
}

fn all_or_nothing(
    planned: Vec<Planned>,
    refused: Vec<NodeProblem>,
) -> Result<Vec<Planned>, RequestError> {
    if refused.is_empty() { Ok(planned) } else { Err(RequestError::Nodes(refused)) }
}

fn action_for(node: &Candidate, wanted: &NewDesired) -> &'static str {
    let (Some(attempt), Runs::Something { .. }) = (&node.loaded.attempt, &node.runs) else {
        return "boot";
    };
    let same =
        node.loaded.serves.as_ref().is_some_and(|serves| serves.wanted.is_same_system(wanted));
    if same && attempt.state == AttemptState::Ready && !wanted.reboot {
        "nothing"
    } else {
        "reboot"
    }
}

fn shown(wanted: &NewDesired, overlay: Option<&str>) -> String {
    if !wanted.power_on {
        return "off".to_owned();
    }
    match wanted.boot_once {
        Some(BootOnce::Bios) => return "its firmware's setup, once".to_owned(),
        Some(BootOnce::Disk) => return "its own disk, once".to_owned(),
        None => {}
    }
    let image = wanted.image.as_ref().map_or("no image", |image| &image.name);
    let rescue = if wanted.rescue { " (rescue)" } else { "" };
    format!("{image} + {}{rescue}", overlay.unwrap_or("RAM"))
}

/// The ranks of one overlay: those that nodes have keep; new nodes get the next free ones.
#[derive(Debug, Default)]
struct Ranks {
    known: HashMap<String, u32>,
    next: u32,
}

impl Ranks {
    async fn of(tx: &mut Tx, overlay_id: &str) -> Result<Self, RequestError> {
        let mut ranks = Self::default();
        for shard in tx.shards(overlay_id).await? {
            let rank = u32::try_from(shard.rank).unwrap_or(u32::MAX);
            ranks.next = ranks.next.max(rank.saturating_add(1));
            ranks.known.insert(shard.node_id, rank);
        }
        Ok(ranks)
    }

    fn rank_of(&mut self, node_id: &str) -> (u32, bool) {
        if let Some(rank) = self.known.get(node_id) {
            return (*rank, false);
        }
        let rank = self.next;
        self.next += 1;
        (rank, true)
    }
}
