//! The way in by a password, and the way out.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    extract::{ConnectInfo, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use haas_api::{
    problem::Problem,
    user::{Login, NewToken, PasswordChange, Registration, Role, TokenRequest, User, UserKind},
};

use super::{
    Answer, Caller, Fail, Json, Path, guard,
    tokens::{self, make_token},
    users::{check_keys, check_name, find, shown},
};
use crate::{
    auth::{Object, Verb, passwords},
    clock,
    context::Context,
    model::AccountKind,
    rates::asker,
    store::NewAudit,
};

/// Seconds that the token of a login lives when nobody says otherwise.
const LOGIN_LIVES: u64 = 30 * 24 * 3600;

/// Makes a token for whoever knows the password. Failures must wait longer and longer.
#[utoipa::path(post, path = "/v1/login", request_body = Login, security(()),
    responses((status = 201, body = NewToken), (status = 401, body = Problem),
        (status = 409, body = Problem), (status = 429, body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn login(
    State(context): State<Arc<Context>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Json(login): Json<Login>,
) -> Answer<Response> {
    let name = login.name.as_str();
    tokens::check(&login.token)?;
    if let Err(wait) = context.attempts.begin(name, from.ip(), Instant::now()) {
        return Err(Fail::too_often("too-many-logins", wait));
    }
    let mut tx = context.store.read().await?;
    let user = tx.user(name).await?;
    let kept = match &user {
        Some(user) => tx.password(&user.id).await?,
        None => None,
    };
    drop(tx);
    let is_right = passwords::is_right(login.password, kept.clone()).await?;
    let Some(user) = user.filter(|_| is_right) else {
        let refused = (StatusCode::UNAUTHORIZED, "wrong-login".to_owned());
        guard::note(&context, entry((name, ""), from, "POST /v1/login", refused)).await;
        let detail = "the name or the password is wrong, or this user has no password";
        return Err(Fail::new(StatusCode::UNAUTHORIZED, "wrong-login", detail));
    };
    context.attempts.succeeded(name, from.ip());
    let expires_in_s = Some(login.token.expires_in_s.unwrap_or(LOGIN_LIVES));
    let mut tx = context.store.write().await?;
    // What was right then may not be it now.
    if tx.password(&user.id).await? != kept {
        return Err(Fail::conflict("conflict", "the password was changed meanwhile"));
    }
    let token = make_token(&mut tx, &user, TokenRequest { expires_in_s, ..login.token }).await?;
    let done = (StatusCode::CREATED, format!("token {}", token.id));
    tx.add_audit(&entry((name, &user.id), from, "POST /v1/login", done)).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(token)).into_response())
}

/// Adds a user that may do nothing beyond its own, where `[auth] register = true`.
#[utoipa::path(post, path = "/v1/register", request_body = Registration, security(()),
    responses((status = 201, body = User), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn register(
    State(context): State<Arc<Context>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Json(new): Json<Registration>,
) -> Answer<Response> {
    if !context.config.auth.register {
        let detail = "nobody can register here; ask an admin for an account";
        return Err(Fail::new(StatusCode::FORBIDDEN, "no-registration", detail));
    }
    if let Err(wait) = context.doors.registrations.ask(asker(from.ip()), Instant::now()) {
        return Err(Fail::too_often("too-many-registrations", wait));
    }
    check_name(&new.name)?;
    check_keys(&new.ssh_keys)?;
    check_password(&new.password, new.name.as_str())?;
    let hash = passwords::hash(new.password).await?;
    let mut tx = context.store.write().await?;
    let user =
        tx.add_user(&new.name, UserKind::Person, Role::User, &new.ssh_keys, clock::wall()).await?;
    tx.set_password(&user.id, &hash).await?;
    let (name, id) = (user.name.as_str(), user.id.as_str());
    let done = (StatusCode::CREATED, format!("user {name} ({id})"));
    tx.add_audit(&entry((name, id), from, "POST /v1/register", done)).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(shown(user))).into_response())
}

/// Ends the token that the request carries.
#[utoipa::path(post, path = "/v1/logout", responses((status = 204)))]
pub(super) async fn logout(
    State(context): State<Arc<Context>>,
    caller: Caller,
) -> Answer<StatusCode> {
    let mut tx = context.store.write().await?;
    tx.remove_token(&caller.0.user_id, &caller.0.token_id).await?;
    caller.commit(tx, StatusCode::NO_CONTENT, format!("ended token {}", caller.0.token_id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets a user's password and ends all its tokens. Who sets his own gets a new one, which lives as
/// that of a login.
#[utoipa::path(put, path = "/v1/users/{name}/password", params(("name" = String, Path)),
    request_body = PasswordChange,
    responses((status = 201, body = NewToken), (status = 204), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn change_password(
    State(context): State<Arc<Context>>,
    caller: Caller,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    Json(change): Json<PasswordChange>,
) -> Answer<Response> {
    let mut tx = context.store.read().await?;
    let user = find(&mut tx, &name).await?;
    caller.may(Verb::Manage, Object::User { id: Some(&user.id) })?;
    if user.kind == AccountKind::Service {
        let detail = format!("{name} is a service account: it has tokens and no password");
        return Err(Fail::bad("no-password", detail));
    }
    let kept = tx.password(&user.id).await?;
    drop(tx);
    check_password(&change.new, &name)?;
    let is_own = caller.0.user_id == user.id;
    // Whoever has found a token of somebody must not be able to keep him out with it.
    if is_own && kept.is_some() {
        if let Err(wait) = context.attempts.begin(&name, from.ip(), Instant::now()) {
            return Err(Fail::too_often("too-many-logins", wait));
        }
        let is_right = match change.old {
            Some(old) => passwords::is_right(old, kept.clone()).await?,
            None => false,
        };
        if !is_right {
            let detail = "the present password is needed, and this is not it";
            return Err(Fail::new(StatusCode::UNAUTHORIZED, "wrong-password", detail));
        }
        context.attempts.succeeded(&name, from.ip());
    }
    let hash = passwords::hash(change.new).await?;
    let mut tx = context.store.write().await?;
    // An admin may have set another one meanwhile, and ended the token that this came with. Who came
    // without one, as `mode = "off"` lets him, has none that could be ended.
    let tokens = tx.tokens(&caller.0.user_id).await?;
    let is_changed = is_own && tx.password(&user.id).await? != kept;
    let had_token = !caller.0.token_id.is_empty();
    let is_ended = had_token && !tokens.iter().any(|token| token.id == caller.0.token_id);
    if is_changed || is_ended {
        return Err(Fail::conflict("conflict", "the password was changed meanwhile"));
    }
    tx.set_password(&user.id, &hash).await?;
    tx.remove_tokens(&user.id).await?;
    let wanted = TokenRequest { expires_in_s: Some(LOGIN_LIVES), ..TokenRequest::default() };
    let token = match is_own {
        true => Some(make_token(&mut tx, &user, wanted).await?),
        false => None,
    };
    let status = if is_own { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    caller.commit(tx, status, format!("a new password for {name}, whose tokens are ended")).await?;
    Ok(match token {
        Some(token) => (status, Json(token)).into_response(),
        None => status.into_response(),
    })
}

fn check_password(password: &haas_api::user::Password, name: &str) -> Answer<()> {
    match passwords::problem(password, name) {
        Some(problem) => Err(Fail::bad("bad-password", problem)),
        None => Ok(()),
    }
}

/// An entry of the audit log by who has no token yet.
fn entry(
    (actor, actor_id): (&str, &str),
    from: SocketAddr,
    action: &str,
    (status, detail): (StatusCode, String),
) -> NewAudit {
    NewAudit {
        at: clock::wall(),
        actor: actor.to_owned(),
        actor_id: actor_id.to_owned(),
        token_id: String::new(),
        peer: from.ip().to_string(),
        action: action.to_owned(),
        status: status.as_u16(),
        detail,
    }
}
