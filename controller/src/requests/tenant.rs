//! For whom nodes are: whether the caller may have them run what is planned, which user or project
//! has them then, and whether that is within its limit (ADR 0007).

use std::collections::BTreeMap;

use haas_api::{
    names::{Digest, ImageRef, UserName},
    problem::NodeProblem,
};

use super::{RequestError, plan::Planned};
use crate::{
    auth::{Object, Principal, Verb, authorize},
    context::Context,
    lend::{self, Refusal},
    model::{AccountKind, Desired, DrainState, NewDesired},
    store::Tx,
};

/// Checks that the caller may have each node run what is planned, and notes for whom it then is.
pub(super) async fn settle(
    context: &Context,
    tx: &mut Tx,
    principal: &Principal,
    project: Option<&UserName>,
    planned: &mut [Planned],
) -> Result<(), RequestError> {
    let project = named(tx, principal, project).await?;
    for entry in planned.iter_mut() {
        let tenant = tenant(tx, principal, project.as_deref(), &entry.wanted).await?;
        entry.wanted.tenant = tenant;
    }
    begins_anew(planned)?;
    in_service(tx, principal, planned).await?;
    may_be_lent(context, tx, principal, planned).await?;
    within_limits(tx, planned).await
}

/// The project of this name, if the caller works in it.
async fn named(
    tx: &mut Tx,
    principal: &Principal,
    project: Option<&UserName>,
) -> Result<Option<String>, RequestError> {
    let Some(name) = project else { return Ok(None) };
    let row = tx.project(name.as_str()).await?;
    let id = row.ok_or_else(|| RequestError::NoProject(name.to_string()))?.id;
    authorize(principal, Verb::Use, Object::Project { id: Some(&id) })?;
    Ok(Some(id))
}

/// Whose nodes would be that run this overlay, if the caller may use it.
pub(crate) async fn whose(
    tx: &mut Tx,
    principal: &Principal,
    project: Option<&UserName>,
    overlay_id: Option<&str>,
) -> Result<String, RequestError> {
    let project = named(tx, principal, project).await?;
    let wanted = NewDesired {
        power_on: true,
        overlay_id: overlay_id.map(str::to_owned),
        ..super::plan::nothing()
    };
    tenant(tx, principal, project.as_deref(), &wanted).await
}

/// What runs for one is never handed to another as it is: a spare is booted anew, and what somebody has
/// only where that is asked for.
fn begins_anew(planned: &mut [Planned]) -> Result<(), RequestError> {
    let mut refused = Vec::new();
    for entry in planned.iter_mut().filter(|entry| entry.shown.action == "nothing") {
        match entry.runs_for() {
            Some("") if !entry.wanted.tenant.is_empty() => entry.shown.action = "reboot".to_owned(),
            Some(other) if other != entry.wanted.tenant => refused.push(NodeProblem {
                node: entry.node.name.to_string(),
                code: "node-lent".to_owned(),
                reason:
                    "it runs this for somebody else, who would leave it in its memory; say --reboot"
                        .to_owned(),
            }),
            Some(_) | None => {}
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(RequestError::Nodes(refused)) }
}

/// Checks that the nodes are free and may run what is planned as spares: on, in RAM, and nobody's.
pub(super) async fn leave_to_nobody(
    tx: &mut Tx,
    principal: &Principal,
    planned: &mut [Planned],
) -> Result<(), RequestError> {
    authorize(principal, Verb::Manage, Object::Nodes)?;
    let mut refused = Vec::new();
    for entry in planned.iter_mut() {
        let node = &entry.node;
        let now = tx.desired(&node.id, node.generation).await?;
        let (code, reason) = if now.as_ref().and_then(Desired::tenant).is_some() {
            ("node-lent", "somebody has it; a spare is nobody's: switch it off first")
        } else if entry.wanted.overlay_id.is_some() {
            ("spare-overlay", "a spare is nobody's and has no overlay; say --overlay none")
        } else {
            entry.wanted.tenant = String::new();
            continue;
        };
        let (node, code) = (node.name.to_string(), code.to_owned());
        refused.push(NodeProblem { node, code, reason: reason.to_owned() });
    }
    if !refused.is_empty() {
        return Err(RequestError::Nodes(refused));
    }
    in_service(tx, principal, planned).await
}

/// Refuses to have nodes run something that are out of service: drained ones but for who has them, and
/// those in maintenance or quarantine but for admins. Any of them may be switched off.
async fn in_service(
    tx: &mut Tx,
    principal: &Principal,
    planned: &[Planned],
) -> Result<(), RequestError> {
    let mut refused = Vec::new();
    for entry in planned.iter().filter(|entry| entry.wanted.power_on) {
        let node = &entry.node;
        let Some(drain) = &node.drain else { continue };
        let may = match drain.state {
            DrainState::Drain => {
                let now = tx.desired(&node.id, node.generation).await?;
                now.as_ref().and_then(Desired::tenant) == Some(entry.wanted.tenant.as_str())
            }
            DrainState::Maintenance | DrainState::Quarantine => {
                authorize(principal, Verb::Manage, Object::Nodes).is_ok()
            }
        };
        if may {
            continue;
        }
        let reason = match drain.state {
            DrainState::Drain => format!("drained by {}: {}", drain.actor, drain.reason),
            DrainState::Maintenance | DrainState::Quarantine => {
                format!("in {} by {}: {}", drain.state, drain.actor, drain.reason)
            }
        };
        let (node, code) = (node.name.to_string(), "node-drained".to_owned());
        refused.push(NodeProblem { node, code, reason });
    }
    if refused.is_empty() { Ok(()) } else { Err(RequestError::Nodes(refused)) }
}

/// Refuses to lend nodes whose disks are not fit for somebody who is root there. An admin lends them as he
/// sees fit.
async fn may_be_lent(
    context: &Context,
    tx: &mut Tx,
    principal: &Principal,
    planned: &[Planned],
) -> Result<(), RequestError> {
    if principal.is_admin() {
        return Ok(());
    }
    let mut refused = Vec::new();
    for entry in planned.iter().filter(|entry| entry.shown.action != "nothing") {
        let actor_id = principal.user_id.clone();
        let wanted = NewDesired { actor_id, ..entry.wanted.clone() };
        if let Some(Refusal { code, reason }) =
            lend::refusal(context, tx, &entry.node, &wanted).await?
        {
            let (node, code) = (entry.node.name.to_string(), code.to_owned());
            refused.push(NodeProblem { node, code, reason });
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(RequestError::Nodes(refused)) }
}

/// The tenant of all of these, if it is one.
pub(super) fn of_all(planned: &[Planned]) -> Option<String> {
    let first = &planned.first()?.wanted.tenant;
    planned.iter().all(|entry| entry.wanted.tenant == *first).then(|| first.clone())
}

/// The image of this reference, if the caller may do this with it. One that it may not even see is
/// told as one that is not there.
pub async fn image(
    tx: &mut Tx,
    principal: &Principal,
    verb: Verb,
    image: &ImageRef,
) -> Result<Digest, RequestError> {
    let absent = || RequestError::NoImage(image.to_string());
    let digest = tx.resolve_image(image).await?.ok_or_else(absent)?;
    let mut names = tx.names_of_image(&digest).await?;
    if let ImageRef::Tag(name, _) = image {
        names.retain(|(known, _)| known == name);
    }
    let may = |verb| {
        let mut refused = None;
        for (name, project) in &names {
            let object = Object::Image { name, project: project.as_deref() };
            match authorize(principal, verb, object) {
                Ok(()) => return Ok(()),
                Err(denied) => refused = Some(denied),
            }
        }
        // Without a name it is nobody's, and so the cluster's.
        match refused {
            Some(denied) => Err(denied),
            None => authorize(principal, verb, Object::Images),
        }
    };
    may(Verb::View).map_err(|_| absent())?;
    may(verb)?;
    Ok(digest)
}

/// Who has a node that runs this: the project that was named; else the owner of the overlay, where it
/// is a project or the caller is an admin, who switches nodes for others; else the one project that
/// the caller works in; else the caller.
async fn tenant(
    tx: &mut Tx,
    principal: &Principal,
    project: Option<&str>,
    wanted: &NewDesired,
) -> Result<String, RequestError> {
    let me = principal.user_id.clone();
    if !wanted.power_on {
        return Ok(me);
    }
    if let Some(wanted) = &wanted.image {
        image(tx, principal, Verb::Use, &ImageRef::Digest(wanted.digest.clone())).await?;
    }
    let mut owner = None;
    if let Some(id) = &wanted.overlay_id
        && let Some(overlay) = tx.overlay_by_id(id).await?
    {
        let object = Object::Overlay { id: Some(id), owner_id: &overlay.owner_id };
        authorize(principal, Verb::Use, object)?;
        owner = tx.user_by_id(&overlay.owner_id).await?;
    }
    let owner_project = owner.as_ref().filter(|owner| owner.kind == AccountKind::Project);
    if let Some(project) = project {
        // Its nodes would count for another, and be had by another's members.
        if let Some(owner) = owner_project.filter(|owner| owner.id != project)
            && !principal.is_admin()
        {
            return Err(RequestError::OverlayOfProject(owner.name.to_string()));
        }
        return Ok(project.to_owned());
    }
    match owner {
        Some(owner) if principal.is_admin() || owner.kind == AccountKind::Project => {
            return Ok(owner.id);
        }
        Some(_) | None => {}
    }
    // A node that is switched on or back again stays whose it was.
    let object = Object::Project { id: Some(&wanted.tenant) };
    if !wanted.tenant.is_empty() && authorize(principal, Verb::Use, object).is_ok() {
        return Ok(wanted.tenant.clone());
    }
    if principal.is_admin() {
        return Ok(me);
    }
    let mut works_in = Vec::new();
    for id in principal.powers.projects.keys() {
        if authorize(principal, Verb::Use, Object::Project { id: Some(id) }).is_ok() {
            works_in.push(id.clone());
        }
    }
    match works_in.as_slice() {
        [] => Ok(me),
        [only] => Ok(only.clone()),
        several => {
            let mut names = Vec::with_capacity(several.len());
            for id in several {
                names.extend(tx.project_by_id(id).await?.map(|project| project.name.to_string()));
            }
            Err(RequestError::WhichProject(names.join(", ")))
        }
    }
}

/// Refuses what would give a project more nodes than it may have at once.
async fn within_limits(tx: &mut Tx, planned: &[Planned]) -> Result<(), RequestError> {
    let mut more: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in planned.iter().filter(|entry| entry.wanted.power_on) {
        *more.entry(&entry.wanted.tenant).or_default() += 1;
    }
    let these: Vec<String> = planned.iter().map(|entry| entry.node.id.clone()).collect();
    for (tenant, more) in more {
        let Some(project) = tx.project_by_id(tenant).await? else { continue };
        let Some(limit) = project.limits.nodes else { continue };
        let has = tx.nodes_of_tenant(tenant, &these).await?;
        if has + more > usize::try_from(limit).unwrap_or(usize::MAX) {
            let project = project.name.to_string();
            return Err(RequestError::TooManyNodes { project, limit, has, more });
        }
    }
    Ok(())
}
