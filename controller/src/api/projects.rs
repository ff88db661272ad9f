//! Projects and their members.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    grant::Subject,
    problem::Problem,
    project::{
        Access, Member, MemberRole, MembersChange, NewProject, Project, ProjectChange, Used,
    },
};

use super::{
    Answer, Caller, Fail, IfMatch, Json, Page, Path, Query, Tagged,
    caller::changes,
    users::{self, check_name},
};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    store::{MemberId, ProjectRow, Tx},
};

/// The projects that the caller is in; all for admins.
#[utoipa::path(get, path = "/v1/projects", params(Page),
    responses((status = 200, body = List<Project>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Project>>> {
    let mut tx = context.store.read().await?;
    let mut items = Vec::new();
    for row in tx.projects().await? {
        if caller.may(Verb::View, Object::Project { id: Some(&row.id) }).is_ok() {
            items.push(shown(&mut tx, row).await?);
        }
    }
    Ok(Json(page.of(items, |project: &Project| project.id.clone())?))
}

/// Makes a project.
#[utoipa::path(post, path = "/v1/projects", request_body = NewProject,
    responses((status = 201, body = Project), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(new): Json<NewProject>,
) -> Answer<(StatusCode, Json<Project>)> {
    caller.may(Verb::Manage, Object::Project { id: None })?;
    check_name(&new.name)?;
    let mut tx = context.store.write().await?;
    let owner = users::find(&mut tx, new.owner.as_str()).await?;
    let access = new.access.unwrap_or(Access::Root);
    let id = tx.add_project(&new.name, access, new.limits, clock::wall()).await?;
    tx.set_member(&id, &MemberId::User(owner.id), MemberRole::Owner).await?;
    let row = find(&mut tx, new.name.as_str()).await?;
    let project = shown(&mut tx, row).await?;
    caller
        .commit(
            tx,
            StatusCode::CREATED,
            format!("project {} ({id}), owner {}", new.name, new.owner),
        )
        .await?;
    Ok((StatusCode::CREATED, Json(project)))
}

/// One project.
#[utoipa::path(get, path = "/v1/projects/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Project), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Tagged<Project>> {
    let mut tx = context.store.read().await?;
    let row = find(&mut tx, &name).await?;
    caller.may(Verb::View, Object::Project { id: Some(&row.id) })?;
    Ok(Tagged(shown(&mut tx, row).await?))
}

/// Changes what a project may have, and what its members are on its nodes.
#[utoipa::path(patch, path = "/v1/projects/{name}", params(("name" = String, Path)),
    request_body = ProjectChange,
    responses((status = 200, body = Project), (status = 404, body = Problem)))]
pub(super) async fn change(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    seen: IfMatch,
    Json(change): Json<ProjectChange>,
) -> Answer<Tagged<Project>> {
    let mut tx = context.store.write().await?;
    let row = find(&mut tx, &name).await?;
    // Limits are set from outside.
    let id = change.limits.is_none().then_some(row.id.as_str());
    caller.may(Verb::Own, Object::Project { id })?;
    seen.check(&shown(&mut tx, row.clone()).await?)?;
    let (access, limits) =
        (change.access.unwrap_or(row.access), change.limits.unwrap_or(row.limits));
    tx.set_project(&row.id, access, limits).await?;
    let row = find(&mut tx, &name).await?;
    let project = shown(&mut tx, row).await?;
    caller
        .commit(tx, StatusCode::OK, format!("access {:?}, {:?}", project.access, project.limits))
        .await?;
    Ok(Tagged(project))
}

/// Removes a project that has neither nodes nor overlays nor images any more.
#[utoipa::path(delete, path = "/v1/projects/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    caller.may(Verb::Manage, Object::Project { id: None })?;
    let mut tx = context.store.write().await?;
    let row = find(&mut tx, &name).await?;
    if !tx.remove_project(&row.id).await? {
        return Err(Fail::conflict(
            "project-in-use",
            format!("{name} still has nodes, overlays or images; take them away first"),
        ));
    }
    caller
        .commit(tx, StatusCode::NO_CONTENT, format!("removed project {name} ({})", row.id))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes members in and out and changes their roles, all of it or nothing. Managers do so with
/// viewers and users, owners with all; everybody may leave.
#[utoipa::path(patch, path = "/v1/projects/{name}/members", params(("name" = String, Path)),
    request_body = MembersChange,
    responses((status = 200, body = Project), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn members(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    seen: IfMatch,
    Json(change): Json<MembersChange>,
) -> Answer<Tagged<Project>> {
    let mut tx = context.store.write().await?;
    let row = find(&mut tx, &name).await?;
    let object = Object::Project { id: Some(&row.id) };
    let before = shown(&mut tx, row.clone()).await?;
    let role_of = |member: &Subject| {
        before.members.iter().find(|known| known.member == *member).map(|known| known.role)
    };
    let me = Subject::Account(caller.0.name.clone());
    let leaves = change.set.is_empty() && change.remove == [me.clone()] && role_of(&me).is_some();
    if !leaves {
        caller.may(Verb::Manage, object)?;
    }
    seen.check(&before)?;
    let set = change.set.iter().map(|member| (&member.member, Some(member.role)));
    let remove = change.remove.iter().map(|member| (member, None));
    for (member, role) in set.chain(remove) {
        if !leaves && role.max(role_of(member)) >= Some(MemberRole::Manager) {
            caller.may(Verb::Own, object)?;
        }
        let id = member_id(&mut tx, member).await?;
        match role {
            Some(role) => tx.set_member(&row.id, &id, role).await?,
            None if tx.remove_member(&row.id, &id).await? => {}
            None => {
                let detail = format!("{member} is not in the project {name}");
                return Err(Fail::not_found("no-member", detail));
            }
        }
    }
    has_owner_without(&mut tx, &row.id, None).await?;
    let project = shown(&mut tx, row).await?;
    let set = change.set.iter().map(|one| format!("{} {:?}", one.member, one.role));
    caller.commit(tx, StatusCode::OK, changes(&set.collect::<Vec<_>>(), &change.remove)).await?;
    Ok(Tagged(project))
}

/// Refuses to leave a project without anybody who owns it, also when this user is gone.
pub(super) async fn has_owner_without(tx: &mut Tx, id: &str, user: Option<&str>) -> Answer<()> {
    if tx.owners(id).await?.iter().any(|owner| Some(owner.as_str()) != user) {
        return Ok(());
    }
    let name = tx.project_by_id(id).await?.map(|row| row.name.to_string()).unwrap_or_default();
    let detail = format!(
        "the project {name} would have no owner any more: name another one first \
         (`haasctl project add {name} USER --role owner`), or remove it"
    );
    Err(Fail::conflict("no-owner", detail))
}

async fn member_id(tx: &mut Tx, member: &Subject) -> Answer<MemberId> {
    match member {
        Subject::Account(name) => Ok(MemberId::User(users::find(tx, name.as_str()).await?.id)),
        Subject::Group(name) => {
            let group = tx.group(name.as_str()).await?;
            let absent = || Fail::not_found("no-group", format!("there is no group {name}"));
            Ok(MemberId::Group(group.ok_or_else(absent)?.id))
        }
    }
}

/// The project of this name.
pub(super) async fn find(tx: &mut Tx, name: &str) -> Answer<ProjectRow> {
    tx.project(name)
        .await?
        .ok_or_else(|| Fail::not_found("no-project", format!("there is no project {name}")))
}

/// Refuses one more of what a project has `has` of already, where its limit says so.
pub(super) fn within(
    what: &str,
    project: &ProjectRow,
    limit: Option<u32>,
    has: usize,
) -> Answer<()> {
    match limit {
        Some(limit) if has >= usize::try_from(limit).unwrap_or(usize::MAX) => {
            let name = &project.name;
            let detail = format!("the project {name} may have {limit} {what} and has {has}");
            Err(Fail::conflict("quota", detail))
        }
        Some(_) | None => Ok(()),
    }
}

async fn shown(tx: &mut Tx, row: ProjectRow) -> Answer<Project> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let overlays = tx.overlays().await?.iter().filter(|one| one.owner_id == row.id).count();
    let used = Used {
        nodes: count(tx.nodes_of_tenant(&row.id, &[]).await?),
        overlays: count(overlays),
        images: count(tx.images_of(&row.id).await?.len()),
    };
    let members = tx.members(&row.id).await?;
    let members = members.into_iter().filter_map(|member| {
        let subject = match (member.user, member.group) {
            (Some(user), _) => Subject::Account(user),
            (None, Some(group)) => Subject::Group(group),
            (None, None) => return None,
        };
        Some(Member { member: subject, role: member.role })
    });
    Ok(Project {
        members: members.collect(),
        id: row.id,
        name: row.name,
        access: row.access,
        limits: row.limits,
        used,
        created_at: clock::rfc3339(row.created_at),
    })
}
