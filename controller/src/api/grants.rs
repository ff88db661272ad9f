//! Grants: what somebody may do beyond what is their own.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    grant::{Grant, GrantObject, NewGrant, Subject},
    names::ImageRef,
    problem::Problem,
};

use super::{Answer, Caller, Fail, Json, Page, Path, Query};
use crate::{
    auth::{Granted, Object, Verb},
    clock,
    context::Context,
    store::{GrantRow, GrantTo, NewGrantRow, Tx},
};

/// The grants that the caller has or has made; all for admins.
#[utoipa::path(get, path = "/v1/grants", params(Page), responses((status = 200, body = List<Grant>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Grant>>> {
    let mut tx = context.store.read().await?;
    let groups = tx.groups_of(&caller.0.user_id).await?;
    let mut items = Vec::new();
    for row in tx.grants().await? {
        let is_mine = match &row.to {
            GrantTo::Account { id, .. } => {
                *id == caller.0.user_id || caller.0.powers.projects.contains_key(id)
            }
            GrantTo::Group { id, .. } => groups.contains(id),
        };
        if is_mine || may_grant(&mut tx, &caller, &row.object).await?.is_ok() {
            items.extend(shown(row));
        }
    }
    Ok(Json(page.of(items, |grant: &Grant| grant.id.clone())?))
}

/// Grants something. An earlier grant of the same to the same gives way to it.
#[utoipa::path(post, path = "/v1/grants", request_body = NewGrant,
    responses((status = 201, body = Grant), (status = 404, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(new): Json<NewGrant>,
) -> Answer<(StatusCode, Json<Grant>)> {
    let mut tx = context.store.write().await?;
    let object = object(&mut tx, &caller, &new.object).await?;
    may_grant(&mut tx, &caller, &object).await??;
    let to = subject(&mut tx, &new.subject).await?;
    let (actor, at) = (caller.0.name.as_str(), clock::wall());
    let id =
        tx.add_grant(NewGrantRow { to: &to, object: &object, role: new.role, actor, at }).await?;
    caller
        .commit(
            tx,
            StatusCode::CREATED,
            format!("{} may {:?} {} (grant {id})", new.subject, new.role, new.object),
        )
        .await?;
    let grant = Grant {
        id,
        subject: new.subject,
        object: new.object,
        role: new.role,
        actor: actor.to_owned(),
        created_at: clock::rfc3339(at),
    };
    Ok((StatusCode::CREATED, Json(grant)))
}

/// Ends a grant.
#[utoipa::path(delete, path = "/v1/grants/{id}", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    let absent = || Fail::not_found("no-grant", format!("there is no grant {id}"));
    let mut tx = context.store.write().await?;
    let row = tx.grants().await?.into_iter().find(|row| row.id == id).ok_or_else(absent)?;
    may_grant(&mut tx, &caller, &row.object).await??;
    tx.remove_grant(&id).await?;
    caller.commit(tx, StatusCode::NO_CONTENT, format!("ended grant {id}")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether the caller may say who may do what with it: who manages it may.
async fn may_grant(tx: &mut Tx, caller: &Caller, object: &Granted) -> Answer<Answer<()>> {
    Ok(match object {
        Granted::NodeGroup(_) => caller.may(Verb::Manage, Object::Nodes),
        Granted::Image(name) => {
            let project = tx.image_owner(name).await?;
            caller.may(Verb::Manage, Object::Image { name, project: project.as_deref() })
        }
        Granted::Overlay(id) => match tx.overlay_by_id(id).await? {
            Some(overlay) => {
                let object = Object::Overlay { id: Some(id), owner_id: &overlay.owner_id };
                caller.may(Verb::Manage, object)
            }
            None => Err(Fail::not_found("no-overlay", "the overlay was removed meanwhile")),
        },
        Granted::Queue(_) => caller.may(Verb::Manage, Object::Queue { name: None, open: false }),
    })
}

/// What is meant, if it is there.
async fn object(tx: &mut Tx, caller: &Caller, object: &GrantObject) -> Answer<Granted> {
    match object {
        GrantObject::NodeGroup(group) => {
            // For admins only, who may also name a group before its first node is there.
            caller.may(Verb::Manage, Object::Nodes)?;
            let is_known = tx.nodes().await?.iter().any(|node| node.spec.groups.contains(group));
            if !is_known {
                let detail = format!("no node of the inventory is in the node group {group}");
                return Err(Fail::not_found("no-node-group", detail));
            }
            Ok(Granted::NodeGroup(group.clone()))
        }
        GrantObject::Image(name) => {
            let images = tx.images().await?;
            let mut tags = images.iter().flat_map(|image| &image.tags);
            if !tags.any(|tag| matches!(tag, ImageRef::Tag(known, _) if known == name)) {
                let detail = format!("there is no image {name}; `haasctl image list` shows all");
                return Err(Fail::not_found("no-image", detail));
            }
            Ok(Granted::Image(name.clone()))
        }
        GrantObject::Overlay(owner, label) => {
            let absent =
                || Fail::not_found("no-overlay", format!("there is no overlay {owner}/{label}"));
            let account = tx.account(owner.as_str()).await?.ok_or_else(absent)?;
            let overlay = tx.overlay(&account.id, label).await?.ok_or_else(absent)?;
            Ok(Granted::Overlay(overlay.id))
        }
        GrantObject::Queue(name) => match tx.queue(name).await? {
            Some(_) => Ok(Granted::Queue(name.clone())),
            None => Err(Fail::not_found("no-queue", format!("there is no queue {name}"))),
        },
    }
}

async fn subject(tx: &mut Tx, subject: &Subject) -> Answer<GrantTo> {
    let absent = |what: &str| Fail::not_found("no-subject", format!("there is no {what}"));
    match subject {
        Subject::Account(name) => {
            let account = tx.account(name.as_str()).await?;
            let account = account.ok_or_else(|| absent(&format!("user or project {name}")))?;
            Ok(GrantTo::Account { id: account.id, name: account.name })
        }
        Subject::Group(name) => {
            let group = tx.group(name.as_str()).await?;
            let group = group.ok_or_else(|| absent(&format!("group {name}")))?;
            Ok(GrantTo::Group { id: group.id, name: group.name })
        }
    }
}

/// None for a grant of an overlay that has just gone.
fn shown(row: GrantRow) -> Option<Grant> {
    let object = match row.object {
        Granted::NodeGroup(name) => GrantObject::NodeGroup(name),
        Granted::Image(name) => GrantObject::Image(name),
        Granted::Overlay(_) => {
            let (owner, label) = row.overlay?;
            GrantObject::Overlay(owner, label)
        }
        Granted::Queue(name) => GrantObject::Queue(name),
    };
    Some(Grant {
        id: row.id,
        subject: match row.to {
            GrantTo::Account { name, .. } => Subject::Account(name),
            GrantTo::Group { name, .. } => Subject::Group(name),
        },
        object,
        role: row.role,
        actor: row.actor,
        created_at: clock::rfc3339(row.created_at),
    })
}
