//! What happens to every request: before its handler it is found out who asks, and after it what
//! came of it goes into the audit log.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use haas_api::user::Role;
use tracing::{error, info};

use super::{Fail, fail::Code};
use crate::{
    auth::{
        Powers, Principal,
        principals::{Moment, TOUCHED_EACH},
    },
    clock,
    config::AuthMode,
    context::Context,
    model::Micros,
    rates::asker,
    store::{NewAudit, StoreError, TokenRow, UserRow},
    tokens,
};

/// The routes for those who have no token yet. They keep their own audit.
const OPEN: [&str; 2] = ["/v1/login", "/v1/register"];
/// The calendar's feed, whose readers know names and passwords only.
const FEED: &str = "/v1/calendar.ics";
/// Characters of a method and path that are kept.
const MOST_OF_ACTION: usize = 300;
/// A request as the audit log has it. Its handler says by it what it came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Deed {
    /// Where it came from.
    pub(super) peer: String,
    /// Method and path.
    pub(super) action: String,
    came_to: Arc<Mutex<String>>,
    /// The status that stands in the log already, written with what was done.
    noted: Arc<OnceLock<StatusCode>>,
}

impl Deed {
    pub(super) fn came_to(&self, what: String) {
        *self.came_to.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// The log has it, with this status.
    pub(super) fn noted(&self, status: StatusCode) {
        // A request has one transaction that is told; of more the first is it.
        let _ = self.noted.set(status);
    }

    fn entry(self, principal: Principal, response: &Response) -> NewAudit {
        let came_to = self.came_to.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let why = response.extensions().get::<Code>().map(|code| code.0.clone());
        let mut entry = self.ended(&principal, response.status());
        entry.detail = if came_to.is_empty() { why.unwrap_or_default() } else { came_to };
        entry
    }

    /// An entry that says how it ended.
    pub(super) fn ended(&self, principal: &Principal, status: StatusCode) -> NewAudit {
        NewAudit {
            at: clock::wall(),
            actor: principal.name.to_string(),
            actor_id: principal.user_id.clone(),
            token_id: principal.token_id.clone(),
            peer: self.peer.clone(),
            action: self.action.clone(),
            status: status.as_u16(),
            detail: String::new(),
        }
    }
}

/// Around every route but the health checks, the description and the agents' channel.
pub(super) async fn guard(
    State(context): State<Arc<Context>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    if OPEN.contains(&request.uri().path()) {
        if let Err(wait) = context.doors.logins.ask(asker(from.ip()), Instant::now()) {
            return Fail::too_often("too-many-logins", wait).into_response();
        }
        return to_its_end(async move { next.run(request).await }).await;
    }
    let is_feed = request.uri().path() == FEED;
    let asks = match is_feed {
        true => authenticate_feed(&context, from, request.headers()).await,
        false => authenticate_anyhow(&context, from, request.headers()).await,
    };
    let principal = match asks {
        Ok(principal) => principal,
        Err(fail) => {
            let mut response = fail.into_response();
            if is_feed && response.status() == StatusCode::UNAUTHORIZED {
                // Programs that show calendars ask their user then.
                let challenge = HeaderValue::from_static("Basic realm=\"haas\"");
                response.headers_mut().append(header::WWW_AUTHENTICATE, challenge);
            }
            return response;
        }
    };
    let changes = ![Method::GET, Method::HEAD].contains(request.method());
    let action = format!("{} {}", request.method(), request.uri().path());
    let action: String = action.chars().take(MOST_OF_ACTION).collect();
    let deed = Deed { peer: from.ip().to_string(), action, ..Deed::default() };
    // Whoever only looks may still go.
    let only_looks = principal.read_only && request.uri().path() != "/v1/logout";
    let work = async move {
        let response = if principal.feed_only && !is_feed {
            for_the_feed_only().into_response()
        } else if changes && only_looks {
            let detail = "this token only looks; make one without --read-only for changes";
            Fail::new(StatusCode::FORBIDDEN, "read-only-token", detail).into_response()
        } else {
            request.extensions_mut().insert(principal.clone());
            request.extensions_mut().insert(deed.clone());
            next.run(request).await
        };
        let status = response.status();
        let is_noted = deed.noted.get() == Some(&status);
        if (changes && !is_noted) || status == StatusCode::FORBIDDEN {
            note(&context, deed.entry(principal, &response)).await;
        }
        response
    };
    if changes { to_its_end(work).await } else { work.await }
}

/// Does the work, also when the client has gone meanwhile: what was changed stands in the audit log.
async fn to_its_end(work: impl Future<Output = Response> + Send + 'static) -> Response {
    tokio::spawn(work).await.unwrap_or_else(|panic| Fail::internal(&panic).into_response())
}

/// Adds to the audit log. What cannot be written there is at least in the other log.
pub(super) async fn note(context: &Context, entry: NewAudit) {
    let write = async {
        let mut tx = context.store.write().await?;
        tx.add_audit(&entry).await?;
        tx.commit().await
    };
    let written: Result<(), StoreError> = write.await;
    if let Err(e) = written {
        error!(error = &e as &dyn std::error::Error, ?entry, "cannot write the audit log");
    }
}

/// Who asks, by the token in the headers, which is good for more than the feed.
pub(super) async fn authenticate(
    context: &Arc<Context>,
    from: SocketAddr,
    headers: &HeaderMap,
) -> Result<Principal, Fail> {
    let principal = authenticate_anyhow(context, from, headers).await?;
    if principal.feed_only { Err(for_the_feed_only()) } else { Ok(principal) }
}

fn for_the_feed_only() -> Fail {
    let detail = "this token is good for the calendar's feed only";
    Fail::new(StatusCode::FORBIDDEN, "feed-token", detail)
}

/// Who asks, by any token in the headers.
async fn authenticate_anyhow(
    context: &Arc<Context>,
    from: SocketAddr,
    headers: &HeaderMap,
) -> Result<Principal, Fail> {
    let is_open = context.config.auth.mode == AuthMode::Off && from.ip().is_loopback();
    if is_open && !headers.contains_key(header::AUTHORIZATION) {
        return first_admin(context).await;
    }
    let token = authorization(headers)
        .and_then(|value| credentials(value, "Bearer"))
        .ok_or_else(|| refuse("this needs a token, as `Authorization: Bearer TOKEN`"))?;
    holder(context, from, token).await
}

/// What stands behind the name of a scheme, which is written in any case (RFC 9110, 11.1).
fn credentials<'v>(value: &'v str, scheme: &str) -> Option<&'v str> {
    let (name, rest) = value.split_once(' ')?;
    name.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

fn refuse(detail: &str) -> Fail {
    Fail::new(StatusCode::UNAUTHORIZED, "unauthorized", detail.to_owned())
}

/// Who asks for the calendar's feed. Programs that show calendars send a name and a password: these are a
/// user and a token that is good for nothing else. Others send a token as everywhere.
async fn authenticate_feed(
    context: &Arc<Context>,
    from: SocketAddr,
    headers: &HeaderMap,
) -> Result<Principal, Fail> {
    match authorization(headers) {
        Some(value) if credentials(value, "Bearer").is_none() => {
            let pair = credentials(value, "Basic").and_then(|text| STANDARD.decode(text).ok());
            let pair = pair.and_then(|bytes| String::from_utf8(bytes).ok());
            let (name, token) =
                pair.as_deref().and_then(|pair| pair.split_once(':')).ok_or_else(|| {
                    refuse("this needs a user's name, and as password a token for the feed")
                })?;
            let principal = holder(context, from, token).await?;
            if !principal.feed_only || principal.name.as_str() != name {
                return Err(refuse(
                    "calendar programs get a user's name and a token of his that is good for \
                     nothing else: haasctl user token NAME --feed-only",
                ));
            }
            Ok(principal)
        }
        Some(_) | None => authenticate_anyhow(context, from, headers).await,
    }
}

/// Whose token this is.
async fn holder(context: &Arc<Context>, from: SocketAddr, token: &str) -> Result<Principal, Fail> {
    let hash = tokens::hash(token.trim());
    let now = clock::wall();
    let at = Moment { age: context.store.powers_age(), now: Instant::now(), wall: now };
    if let Some(seen) = context.principals.get(&hash, at) {
        if seen.is_to_touch {
            touch_later(context, &seen.principal.token_id, now);
        }
        return Ok(seen.principal);
    }
    // Each counts as one that nobody has until it was found, so that many at once are no way around.
    let asker = asker(from.ip());
    if let Err(wait) = context.doors.tokens.ask(asker, at.now) {
        return Err(Fail::too_often("too-many-requests", wait));
    }
    let found = read_principal(context, &hash, now).await?;
    let (user, token, powers) =
        found.ok_or_else(|| refuse("this token is unknown, over or revoked"))?;
    context.doors.tokens.pardon(&asker);
    if token.last_used_at.is_none_or(|at| now - at >= TOUCHED_EACH) {
        touch_later(context, &token.id, now);
    }
    let principal = Principal {
        user_id: user.id,
        name: user.name,
        role: user.role,
        powers: Arc::new(powers),
        token_id: token.id,
        read_only: token.read_only,
        feed_only: token.feed_only,
    };
    context.principals.put(hash, principal.clone(), token.expires_at, at);
    Ok(principal)
}

/// Who is behind a token, and what it may.
async fn read_principal(
    context: &Context,
    hash: &str,
    now: Micros,
) -> Result<Option<(UserRow, TokenRow, Powers)>, StoreError> {
    let mut tx = context.store.read().await?;
    let Some((user, token)) = tx.token_by_hash(hash, now).await? else { return Ok(None) };
    let powers = tx.powers(&user.id).await?;
    Ok(Some((user, token, powers)))
}

/// Who calls from the controller itself, where `[auth] mode = "off"`.
async fn first_admin(context: &Context) -> Result<Principal, Fail> {
    let mut tx = context.store.read().await?;
    let users = tx.users().await?.into_iter();
    let admins = users.filter(|user| user.role == Role::Admin && user.destroy_at.is_none());
    let admin = admins.min_by_key(|user| user.created_at).ok_or_else(|| {
        Fail::new(StatusCode::UNAUTHORIZED, "unauthorized", "there is no admin to be taken for")
    })?;
    Ok(Principal {
        user_id: admin.id,
        name: admin.name,
        role: admin.role,
        powers: Arc::default(),
        token_id: String::new(),
        read_only: false,
        feed_only: false,
    })
}

/// Notes the use of a token; nobody waits for it.
fn touch_later(context: &Arc<Context>, token_id: &str, now: Micros) {
    let (context, id) = (context.clone(), token_id.to_owned());
    tokio::spawn(async move {
        if let Err(e) = touch(&context, &id, now).await {
            info!(error = &e as &dyn std::error::Error, "cannot note the use of a token");
        }
    });
}

async fn touch(context: &Context, id: &str, now: Micros) -> Result<(), StoreError> {
    let mut tx = context.store.write().await?;
    tx.touch_token(id, now).await?;
    tx.commit().await
}
