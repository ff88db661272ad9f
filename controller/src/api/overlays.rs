//! Overlays.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    names::{OverlayLabel, UserName},
    overlay::{NewOverlay, Overlay, OverlayChange, Shard},
    problem::Problem,
};

use super::{Answer, Caller, Fail, IfMatch, Json, Page, Path, Query, projects};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    model::Reservation,
    store::{OverlayRow, Tx},
};

/// The overlays that the caller may see.
#[utoipa::path(get, path = "/v1/overlays", params(Page), responses((status = 200, body = List<Overlay>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Overlay>>> {
    let mut tx = context.store.read().await?;
    let mut items = Vec::new();
    for overlay in tx.overlays().await? {
        if caller.may(Verb::View, object(&overlay)).is_ok() {
            items.push(shown(&mut tx, overlay).await?);
        }
    }
    Ok(Json(page.of(items, |entry: &Overlay| entry.id.clone())?))
}

/// Makes an overlay. It takes no space until a node first writes to it.
#[utoipa::path(post, path = "/v1/overlays", request_body = NewOverlay,
    responses((status = 201, body = Overlay), (status = 409, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(new): Json<NewOverlay>,
) -> Answer<(StatusCode, Json<Overlay>)> {
    let mut tx = context.store.write().await?;
    let owner = new.owner.unwrap_or_else(|| caller.0.name.clone());
    let account = tx.account(owner.as_str()).await?.filter(|row| row.destroy_at.is_none());
    let owner = account.ok_or_else(|| {
        Fail::not_found("no-user", format!("there is no user or project {owner}"))
    })?;
    caller.may(Verb::Manage, Object::Overlay { id: None, owner_id: &owner.id })?;
    if let Some(project) = tx.project_by_id(&owner.id).await? {
        let has = tx.overlays().await?.iter().filter(|one| one.owner_id == owner.id).count();
        projects::within("overlays", &project, project.limits.overlays, has)?;
    }
    let id = tx.add_overlay(&owner.id, &new.name, clock::wall()).await?;
    let overlay = tx
        .overlay_by_id(&id)
        .await?
        .ok_or_else(|| Fail::not_found("no-overlay", "the overlay was removed meanwhile"))?;
    let overlay = shown(&mut tx, overlay).await?;
    caller
        .commit(
            tx,
            StatusCode::CREATED,
            format!("overlay {}/{} ({})", overlay.owner, overlay.name, overlay.id),
        )
        .await?;
    Ok((StatusCode::CREATED, Json(overlay)))
}

/// Changes whether others may be root on the nodes whose disks hold an overlay.
#[utoipa::path(patch, path = "/v1/overlays/{owner}/{name}",
    params(("owner" = String, Path), ("name" = String, Path)), request_body = OverlayChange,
    responses((status = 200, body = Overlay), (status = 404, body = Problem)))]
pub(super) async fn change(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path((owner, name)): Path<(UserName, OverlayLabel)>,
    Json(change): Json<OverlayChange>,
) -> Answer<Json<Overlay>> {
    let mut tx = context.store.write().await?;
    let overlay = find(&mut tx, &caller, &owner, &name).await?;
    tx.set_shares_disk(&overlay.id, change.shares_disk).await?;
    let changed = OverlayRow { shares_disk: change.shares_disk, ..overlay };
    let shown = shown(&mut tx, changed).await?;
    let word = if change.shares_disk { "shares" } else { "does not share" };
    caller
        .commit(tx, StatusCode::OK, format!("overlay {owner}/{name} {word} its nodes' disks"))
        .await?;
    Ok(Json(shown))
}

/// The overlay of this name, which the caller may manage.
async fn find(
    tx: &mut Tx,
    caller: &Caller,
    owner: &UserName,
    name: &OverlayLabel,
) -> Answer<OverlayRow> {
    let absent = || Fail::not_found("no-overlay", format!("there is no overlay {owner}/{name}"));
    let account = tx.account(owner.as_str()).await?.ok_or_else(absent)?;
    let overlay = tx.overlay(&account.id, name).await?;
    match &overlay {
        Some(overlay) => caller.may(Verb::Manage, object(overlay))?,
        None => caller.may(Verb::Manage, Object::Overlay { id: None, owner_id: &account.id })?,
    }
    overlay.ok_or_else(absent)
}

/// Removes an overlay that no node uses. What its shards held is deleted by each node when it next
/// opens its store.
#[utoipa::path(delete, path = "/v1/overlays/{owner}/{name}",
    params(("owner" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path((owner, name)): Path<(UserName, OverlayLabel)>,
    seen: IfMatch,
) -> Answer<StatusCode> {
    let mut tx = context.store.write().await?;
    let overlay = find(&mut tx, &caller, &owner, &name).await?;
    let current = shown(&mut tx, overlay.clone()).await?;
    seen.check(&current)?;
    let users = tx.overlay_users(&overlay.id).await?;
    if !users.is_empty() {
        return Err(Fail::conflict(
            "overlay-in-use",
            format!("{owner}/{name} is in use on {}; switch them to another", users.join(", ")),
        ));
    }
    let live = tx.live_reservations().await?;
    let wants = |one: &&Reservation| one.overlay_id.as_deref() == Some(overlay.id.as_str());
    if let Some(one) = live.iter().find(wants) {
        let detail = format!("{owner}/{name} is wanted by reservation {}; release that", one.id);
        return Err(Fail::conflict("overlay-in-use", detail));
    }
    tx.remove_overlay(&overlay.id).await?;
    caller
        .commit(
            tx,
            StatusCode::NO_CONTENT,
            format!("removed overlay {owner}/{name} ({})", overlay.id),
        )
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn object(overlay: &OverlayRow) -> Object<'_> {
    Object::Overlay { id: Some(&overlay.id), owner_id: &overlay.owner_id }
}

pub(super) async fn shown(tx: &mut Tx, overlay: OverlayRow) -> Answer<Overlay> {
    let mut shards = Vec::new();
    for shard in tx.shards(&overlay.id).await? {
        let node = tx.node_by_id(&shard.node_id).await?;
        shards.push(Shard {
            node: node.map_or(shard.node_id, |node| node.name.to_string()),
            rank: u32::try_from(shard.rank).unwrap_or(u32::MAX),
            bytes: shard.bytes,
            last_image: shard.last_image,
            last_used_at: shard.last_used_at.map(clock::rfc3339),
        });
    }
    let owner =
        overlay.owner.parse().map_err(|e: haas_api::names::NameError| Fail::internal(&e))?;
    Ok(Overlay {
        id: overlay.id,
        owner,
        name: overlay.name,
        created_at: clock::rfc3339(overlay.created_at),
        shards,
        shares_disk: overlay.shares_disk,
    })
}
