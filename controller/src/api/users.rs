//! Users and their ssh keys.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use haas_api::{
    List,
    names::UserName,
    problem::Problem,
    user::{NewUser, RemovedUser, User, UserChange, UserKind},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, Caller, Fail, IfMatch, Json, Page, Path, Query, Tagged, overlays, projects};
use crate::{
    auth::{Object, Verb},
    calendar, clock,
    context::Context,
    housekeeping::{self, Destroyed},
    model::{AccountKind, SECOND},
    store::{Tx, UserRow},
};

/// Who the caller is.
#[utoipa::path(get, path = "/v1/whoami", responses((status = 200, body = User)))]
pub(super) async fn whoami(
    State(context): State<Arc<Context>>,
    caller: Caller,
) -> Answer<Json<User>> {
    let mut tx = context.store.read().await?;
    Ok(Json(shown(find(&mut tx, caller.0.name.as_str()).await?)))
}

/// All users.
#[utoipa::path(get, path = "/v1/users", params(Page), responses((status = 200, body = List<User>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<User>>> {
    caller.may(Verb::View, Object::User { id: None })?;
    let users = context.store.read().await?.users().await?;
    let items = users.into_iter().map(shown).collect();
    Ok(Json(page.of(items, |user: &User| user.id.clone())?))
}

/// Adds a user.
#[utoipa::path(post, path = "/v1/users", request_body = NewUser,
    responses((status = 201, body = User), (status = 409, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(new): Json<NewUser>,
) -> Answer<(StatusCode, Json<User>)> {
    caller.may(Verb::Manage, Object::User { id: None })?;
    check_keys(&new.ssh_keys)?;
    let mut tx = context.store.write().await?;
    check_name(&new.name)?;
    let user = tx.add_user(&new.name, new.kind, new.role, &new.ssh_keys, clock::wall()).await?;
    caller.commit(tx, StatusCode::CREATED, format!("user {} ({})", user.name, user.id)).await?;
    Ok((StatusCode::CREATED, Json(shown(user))))
}

pub(super) fn check_name(name: &UserName) -> Answer<()> {
    if is_of_the_system(name.as_str()) {
        return Err(Fail::bad(
            "bad-user-name",
            format!("{name} is a name that systems have for themselves; take another"),
        ));
    }
    Ok(())
}

/// Whether Debian or Red Hat systems have an account of this name from the beginning: on a node it
/// would be that account.
fn is_of_the_system(name: &str) -> bool {
    const NAMES: [&str; 53] = [
        "adm",
        "apache",
        "audio",
        "avahi",
        "backup",
        "bin",
        "chrony",
        "daemon",
        "dbus",
        "disk",
        "docker",
        "ftp",
        "games",
        "gdm",
        "haas",
        "haasd",
        "halt",
        "input",
        "irc",
        "kvm",
        "list",
        "lp",
        "mail",
        "man",
        "messagebus",
        "mysql",
        "news",
        "nobody",
        "none",
        "ntp",
        "operator",
        "polkitd",
        "postfix",
        "postgres",
        "proxy",
        "render",
        "root",
        "rpc",
        "shadow",
        "shutdown",
        "sshd",
        "staff",
        "sudo",
        "sync",
        "sys",
        "tss",
        "tty",
        "users",
        "utmp",
        "uucp",
        "video",
        "www-data",
        "wheel",
    ];
    NAMES.contains(&name) || name.starts_with("systemd") || name.starts_with('_')
}

/// One user.
#[utoipa::path(get, path = "/v1/users/{name}", params(("name" = String, Path)),
    responses((status = 200, body = User), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Tagged<User>> {
    let user = find_any(&mut context.store.read().await?, &name).await?;
    caller.may(Verb::View, Object::User { id: Some(&user.id) })?;
    Ok(Tagged(shown(user)))
}

/// The most ssh keys of a user.
const MOST_KEYS: usize = 64;
/// The longest of them with its name, bytes; of RSA with 16,384 bits it has 2,800.
const MOST_OF_A_KEY: usize = 8 << 10;

/// Replaces a user's ssh keys. Nodes get them at their next boot.
#[utoipa::path(patch, path = "/v1/users/{name}", params(("name" = String, Path)),
    request_body = UserChange,
    responses((status = 200, body = User), (status = 404, body = Problem)))]
pub(super) async fn change(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    seen: IfMatch,
    Json(change): Json<UserChange>,
) -> Answer<Tagged<User>> {
    let mut tx = context.store.write().await?;
    let user = find(&mut tx, &name).await?;
    caller.may(Verb::Manage, Object::User { id: Some(&user.id) })?;
    seen.check(&shown(user.clone()))?;
    check_keys(&change.ssh_keys)?;
    tx.set_ssh_keys(&user.id, &change.ssh_keys).await?;
    let user = find(&mut tx, &name).await?;
    caller.commit(tx, StatusCode::OK, format!("{} ssh keys", user.ssh_keys.len())).await?;
    Ok(Tagged(shown(user)))
}

/// How a user is removed.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Removal {
    /// Destroy it at once, with its overlays.
    #[serde(default)]
    now: bool,
}

/// Removes a user with its tokens, and takes back its reservations that have no nodes yet. It and its
/// overlays are kept for a while, in which it can be restored.
#[utoipa::path(delete, path = "/v1/users/{name}", params(("name" = String, Path), Removal),
    responses((status = 200, body = RemovedUser), (status = 204), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Answer<Response> {
    caller.may(Verb::Manage, Object::User { id: None })?;
    if name == caller.0.name.as_str() {
        return Err(Fail::conflict("self", "you cannot remove yourself"));
    }
    let mut tx = context.store.write().await?;
    let user = find_any(&mut tx, &name).await?;
    if tx.nodes_of_tenant(&user.id, &[]).await? > 0 {
        let detail = format!("{name} has nodes; switch them off or to somebody else first");
        return Err(Fail::conflict("user-has-nodes", detail));
    }
    for project in tx.owned_by(&user.id).await? {
        projects::has_owner_without(&mut tx, &project, Some(&user.id)).await?;
    }
    let by = caller.0.name.as_str();
    calendar::take_back_all_of(&context, &mut tx, &user.id, by).await?;
    let overlays = tx.overlays_of(&user.id).await?;
    let keep_s = context.config.auth.keep_removed_s;
    if removal.now || keep_s == 0 {
        return match housekeeping::destroy(&mut tx, user).await? {
            Destroyed::Gone(had) => {
                caller.commit(tx, StatusCode::NO_CONTENT, format!("destroyed: {had}")).await?;
                context.told();
                context.calendar_wake.notify_one();
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            Destroyed::InUse(nodes) => Err(Fail::conflict(
                "overlay-in-use",
                format!("{} run overlays of {name}; switch them to others", nodes.join(", ")),
            )),
        };
    }
    tx.remove_tokens(&user.id).await?;
    if user.destroy_at.is_none() {
        let keep = i64::try_from(keep_s).unwrap_or(i64::MAX).saturating_mul(SECOND);
        tx.set_destroy_at(&user.id, Some(clock::wall().saturating_add(keep))).await?;
    }
    let user = find_any(&mut tx, &name).await?;
    let mut kept = RemovedUser { user: shown(user), overlays: Vec::new() };
    for overlay in overlays {
        kept.overlays.push(overlays::shown(&mut tx, overlay).await?);
    }
    caller.commit(tx, StatusCode::OK, format!("removed user {name} ({})", kept.user.id)).await?;
    context.told();
    context.calendar_wake.notify_one();
    Ok(Json(kept).into_response())
}

/// Takes back that a user was removed, until it is destroyed. Its tokens have ended.
#[utoipa::path(post, path = "/v1/users/{name}/restore", params(("name" = String, Path)),
    responses((status = 200, body = User), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn restore(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<User>> {
    caller.may(Verb::Manage, Object::User { id: None })?;
    let mut tx = context.store.write().await?;
    let user = find_any(&mut tx, &name).await?;
    if user.destroy_at.is_none() {
        return Err(Fail::conflict("not-removed", format!("{name} was not removed")));
    }
    tx.set_destroy_at(&user.id, None).await?;
    let user = find(&mut tx, &name).await?;
    caller.commit(tx, StatusCode::OK, format!("restored user {name} ({})", user.id)).await?;
    Ok(Json(shown(user)))
}

/// The user of this name, unless it was removed.
pub(super) async fn find(tx: &mut Tx, name: &str) -> Answer<UserRow> {
    let user = find_any(tx, name).await?;
    if user.destroy_at.is_some() {
        let detail = format!("{name} was removed; haasctl user restore {name}");
        return Err(Fail::not_found("no-user", detail));
    }
    Ok(user)
}

/// The user of this name, also if it was removed.
async fn find_any(tx: &mut Tx, name: &str) -> Answer<UserRow> {
    tx.any_user(name)
        .await?
        .ok_or_else(|| Fail::not_found("no-user", format!("there is no user {name}")))
}

pub(super) fn check_keys(keys: &[String]) -> Answer<()> {
    if keys.len() > MOST_KEYS {
        return Err(Fail::bad("bad-ssh-key", format!("a user has at most {MOST_KEYS} ssh keys")));
    }
    for key in keys {
        let is_key = key.len() <= MOST_OF_A_KEY && ssh_key::PublicKey::from_openssh(key).is_ok();
        if !is_key || key.contains(char::is_control) {
            return Err(Fail::bad(
                "bad-ssh-key",
                "an ssh key is one line as in authorized_keys, such as 'ssh-ed25519 AAAA… name'",
            ));
        }
    }
    Ok(())
}

pub(super) fn shown(user: UserRow) -> User {
    User {
        id: user.id,
        name: user.name,
        kind: match user.kind {
            AccountKind::Service => UserKind::Service,
            // A project is shown as one elsewhere.
            AccountKind::Person | AccountKind::Project => UserKind::Person,
        },
        role: user.role,
        uid: user.uid,
        ssh_keys: user.ssh_keys,
        created_at: clock::rfc3339(user.created_at),
        destroyed_at: user.destroy_at.map(clock::rfc3339),
    }
}
