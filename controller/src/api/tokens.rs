//! Users' tokens.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    problem::Problem,
    user::{NewToken, Token, TokenRequest},
};

use super::{Answer, Caller, Fail, Json, Page, Path, Query, users::find};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    model::SECOND,
    store::{StoreError, TokenRow, Tx, UserRow},
    tokens,
};

/// The longest life that can be asked for, seconds.
const YEAR: u64 = 366 * 24 * 3600;

/// A user's tokens, without their secrets.
#[utoipa::path(get, path = "/v1/users/{name}/tokens", params(("name" = String, Path), Page),
    responses((status = 200, body = List<Token>), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    Query(page): Query<Page>,
) -> Answer<Json<List<Token>>> {
    let mut tx = context.store.read().await?;
    let user = find(&mut tx, &name).await?;
    caller.may(Verb::View, Object::User { id: Some(&user.id) })?;
    let items = tx.tokens(&user.id).await?.into_iter().map(shown).collect();
    Ok(Json(page.of(items, |token: &Token| token.id.clone())?))
}

/// Makes a token for a user. It is shown this once.
#[utoipa::path(post, path = "/v1/users/{name}/tokens", params(("name" = String, Path)),
    request_body = TokenRequest,
    responses((status = 201, body = NewToken), (status = 404, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
    Json(wanted): Json<TokenRequest>,
) -> Answer<(StatusCode, Json<NewToken>)> {
    let mut tx = context.store.write().await?;
    let user = find(&mut tx, &name).await?;
    caller.may(Verb::Manage, Object::User { id: Some(&user.id) })?;
    check(&wanted)?;
    let token = make_token(&mut tx, &user, wanted).await?;
    caller.commit(tx, StatusCode::CREATED, format!("token {} of {name}", token.id)).await?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// Ends a token at once.
#[utoipa::path(delete, path = "/v1/users/{name}/tokens/{id}",
    params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path((name, id)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let mut tx = context.store.write().await?;
    let user = find(&mut tx, &name).await?;
    caller.may(Verb::Manage, Object::User { id: Some(&user.id) })?;
    if !tx.remove_token(&user.id, &id).await? {
        return Err(Fail::not_found("no-token", format!("{name} has no token {id}")));
    }
    caller.commit(tx, StatusCode::NO_CONTENT, format!("ended token {id} of {name}")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether there can be such a token.
pub(super) fn check(wanted: &TokenRequest) -> Answer<()> {
    let plain = |c: char| !c.is_control();
    if wanted.name.len() > 100 || !wanted.name.chars().all(plain) {
        return Err(Fail::bad("bad-token-name", "a token's name is a line of at most 100 bytes"));
    }
    if wanted.expires_in_s.is_some_and(|seconds| !(1..=YEAR).contains(&seconds)) {
        return Err(Fail::bad("bad-expiry", "a token ends in 1 second to 366 days, or never"));
    }
    Ok(())
}

/// Makes a token for a user, in the caller's transaction.
pub(crate) async fn make_token(
    tx: &mut Tx,
    user: &UserRow,
    wanted: TokenRequest,
) -> Result<NewToken, StoreError> {
    let now = clock::wall();
    let life = wanted.expires_in_s.map(|s| i64::try_from(s).unwrap_or(i64::MAX) * SECOND);
    let row = TokenRow {
        id: ulid::Ulid::new().to_string(),
        name: wanted.name,
        read_only: wanted.read_only || wanted.feed_only,
        feed_only: wanted.feed_only,
        created_at: now,
        expires_at: life.map(|life| now + life),
        last_used_at: None,
    };
    let token = tokens::random();
    tx.add_token(&user.id, &row, &tokens::hash(token.expose())).await?;
    let expires_at = row.expires_at.map(clock::rfc3339);
    Ok(NewToken { id: row.id, token: token.expose().clone(), expires_at })
}

fn shown(row: TokenRow) -> Token {
    Token {
        id: row.id,
        name: row.name,
        read_only: row.read_only,
        feed_only: row.feed_only,
        created_at: clock::rfc3339(row.created_at),
        expires_at: row.expires_at.map(clock::rfc3339),
        last_used_at: row.last_used_at.map(clock::rfc3339),
    }
}
