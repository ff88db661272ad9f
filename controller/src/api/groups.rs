//! Groups of users.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    group::{Group, GroupChange, NewGroup},
    names::UserName,
    problem::Problem,
};

use super::{
    Answer, Caller, Fail, IfMatch, Json, Page, Path, Query, Tagged, caller::changes, projects,
    users,
};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    store::{GroupRow, Tx},
};

/// The most groups that one user owns, so that nobody fills the database with names.
const MOST_OWNED: usize = 100;

/// The groups that the caller is in or owns; all for admins.
#[utoipa::path(get, path = "/v1/groups", params(Page), responses((status = 200, body = List<Group>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Group>>> {
    let mut tx = context.store.read().await?;
    let mut items = Vec::new();
    for group in tx.groups().await? {
        let group = Known::of(&mut tx, group).await?;
        if caller.may(Verb::View, group.object(&caller)).is_ok() {
            items.push(group.shown());
        }
    }
    Ok(Json(page.of(items, |group: &Group| group.id.clone())?))
}

/// Makes a group. The caller owns it and is in it.
#[utoipa::path(post, path = "/v1/groups", request_body = NewGroup,
    responses((status = 201, body = Group), (status = 409, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(new): Json<NewGroup>,
) -> Answer<(StatusCode, Json<Group>)> {
    let me = &caller.0.user_id;
    let mut tx = context.store.write().await?;
    let groups = tx.groups().await?;
    let owned = groups.iter().filter(|group| group.owner_id.as_ref() == Some(me)).count();
    if owned >= MOST_OWNED && !caller.0.is_admin() {
        let detail = format!("you own {owned} groups already; remove some");
        return Err(Fail::conflict("quota", detail));
    }
    let id = tx.add_group(&new.name, me, clock::wall()).await?;
    tx.add_group_member(&id, me).await?;
    let group = find(&mut tx, new.name.as_str()).await?;
    caller.commit(tx, StatusCode::CREATED, format!("group {} ({id})", new.name)).await?;
    Ok((StatusCode::CREATED, Json(group.shown())))
}

/// One group.
#[utoipa::path(get, path = "/v1/groups/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Group), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Tagged<Group>> {
    let group = find(&mut context.store.read().await?, &name).await?;
    caller.may(Verb::View, group.object(&caller))?;
    Ok(Tagged(group.shown()))
}

/// Takes users in and out, all of them or none. Everybody may leave.
#[utoipa::path(patch, path = "/v1/groups/{name}", params(("name" = String, Path)),
    request_body = GroupChange,
    responses((status = 200, body = Group), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn change(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    seen: IfMatch,
    Json(change): Json<GroupChange>,
) -> Answer<Tagged<Group>> {
    let mut tx = context.store.write().await?;
    let group = find(&mut tx, &name).await?;
    let leaves = change.add.is_empty() && change.remove == [caller.0.name.clone()];
    if !(leaves && group.has(&caller)) {
        caller.may(Verb::Manage, group.object(&caller))?;
    }
    let id = group.row.id.clone();
    seen.check(&group.shown())?;
    for user in &change.add {
        let user = users::find(&mut tx, user.as_str()).await?;
        tx.add_group_member(&id, &user.id).await?;
    }
    for user in &change.remove {
        let user = users::find(&mut tx, user.as_str()).await?;
        let owned = tx.owned_by(&user.id).await?;
        if !tx.remove_group_member(&id, &user.id).await? {
            let detail = format!("{} is not in the group {name}", user.name);
            return Err(Fail::not_found("no-member", detail));
        }
        for project in owned {
            projects::has_owner_without(&mut tx, &project, None).await?;
        }
    }
    let group = find(&mut tx, &name).await?;
    caller.commit(tx, StatusCode::OK, changes(&change.add, &change.remove)).await?;
    Ok(Tagged(group.shown()))
}

/// Removes a group. What was granted to it is granted to nobody then.
#[utoipa::path(delete, path = "/v1/groups/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    let mut tx = context.store.write().await?;
    let group = find(&mut tx, &name).await?;
    caller.may(Verb::Manage, group.object(&caller))?;
    let mut owned = Vec::new();
    for (member, _) in &group.members {
        owned.extend(tx.owned_by(member).await?);
    }
    tx.remove_group(&group.row.id).await?;
    for project in owned {
        projects::has_owner_without(&mut tx, &project, None).await?;
    }
    caller
        .commit(tx, StatusCode::NO_CONTENT, format!("removed group {name} ({})", group.row.id))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A group and who is in it.
struct Known {
    row: GroupRow,
    members: Vec<(String, UserName)>,
}

impl Known {
    async fn of(tx: &mut Tx, row: GroupRow) -> Answer<Self> {
        let members = tx.group_members(&row.id).await?;
        Ok(Self { row, members })
    }

    fn has(&self, caller: &Caller) -> bool {
        self.members.iter().any(|(id, _)| *id == caller.0.user_id)
    }

    fn object(&self, caller: &Caller) -> Object<'_> {
        Object::Group { owner_id: self.row.owner_id.as_deref(), is_in: self.has(caller) }
    }

    fn shown(self) -> Group {
        Group {
            id: self.row.id,
            name: self.row.name,
            owner: self.row.owner,
            members: self.members.into_iter().map(|(_, name)| name).collect(),
            created_at: clock::rfc3339(self.row.created_at),
        }
    }
}

async fn find(tx: &mut Tx, name: &str) -> Answer<Known> {
    let row = tx.group(name).await?;
    let row =
        row.ok_or_else(|| Fail::not_found("no-group", format!("there is no group {name}")))?;
    Known::of(tx, row).await
}
