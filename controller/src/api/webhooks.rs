//! Webhooks: where events are sent to.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haas_api::{
    List,
    problem::Problem,
    webhook::{DeadEvent, MadeWebhook, NewWebhook, Webhook, WebhookTest},
};

use super::{Answer, Caller, Fail, Json, Page, Path, Query};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    metrics::METRICS,
    store::{NewEvent, Tx, WebhookRow},
    webhooks,
};

/// The most webhooks. Each reads the whole event log.
const MOST: usize = 32;

/// The most entries of what a webhook gave up.
const MOST_DEAD: i64 = 1000;

/// Webhooks, and how they stand.
#[utoipa::path(get, path = "/v1/webhooks", params(Page), responses((status = 200, body = List<Webhook>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Webhook>>> {
    caller.may(Verb::View, Object::Webhooks)?;
    let mut tx = context.store.read().await?;
    let last = tx.last_event().await?;
    let items = tx.webhooks().await?.into_iter().map(|row| shown(row, last)).collect();
    Ok(Json(page.of(items, |webhook: &Webhook| webhook.name.to_string())?))
}

/// Makes a webhook. What its requests are signed with is shown this once.
#[utoipa::path(post, path = "/v1/webhooks", request_body = NewWebhook,
    responses((status = 201, body = MadeWebhook), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn add(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(new): Json<NewWebhook>,
) -> Answer<(StatusCode, Json<MadeWebhook>)> {
    caller.may(Verb::Manage, Object::Webhooks)?;
    webhooks::check_url(&context.config, &new.url).map_err(|why| Fail::bad("bad-url", why))?;
    let is_word = |kind: &String| {
        !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
    };
    if let Some(odd) = new.kinds.iter().find(|kind| !is_word(kind)) {
        return Err(Fail::bad("bad-kind", format!("{odd:?} is no kind of event, such as `fault`")));
    }
    let mut tx = context.store.write().await?;
    let known = tx.webhooks().await?;
    if known.iter().any(|row| row.name == new.name) {
        let detail = format!("there is a webhook {} already", new.name);
        return Err(Fail::conflict("conflict", detail));
    }
    if known.len() >= MOST {
        return Err(Fail::conflict("quota", format!("there are {MOST} webhooks already")));
    }
    let last = tx.last_event().await?;
    let first = tx.first_event().await?.unwrap_or(last + 1);
    let row = WebhookRow {
        id: ulid::Ulid::new().to_string(),
        name: new.name,
        url: new.url,
        kinds: new.kinds,
        actor: caller.0.name.to_string(),
        created_at: clock::wall(),
        position: new.from.map_or(last, |from| from.clamp(first - 1, last)),
        delivered_at: None,
        failures: 0,
        failing_since: None,
        last_error: None,
        dead: 0,
    };
    tx.add_webhook(&row).await?;
    note(&mut tx, &caller, "webhook-added", &row).await?;
    caller.commit(tx, StatusCode::CREATED, format!("webhook {} ({})", row.name, row.id)).await?;
    context.told();
    let secret = webhooks::secret(&context, &row.id).expose().clone();
    let made = MadeWebhook { webhook: shown(row, last), secret };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Removes a webhook with what it has yet to deliver.
#[utoipa::path(delete, path = "/v1/webhooks/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    caller.may(Verb::Manage, Object::Webhooks)?;
    let mut tx = context.store.write().await?;
    let row = find(&mut tx, &name).await?;
    tx.remove_webhook(&row.id).await?;
    note(&mut tx, &caller, "webhook-removed", &row).await?;
    caller
        .commit(tx, StatusCode::NO_CONTENT, format!("removed webhook {name} ({})", row.id))
        .await?;
    METRICS.forget_webhook(row.name.as_str());
    context.told();
    Ok(StatusCode::NO_CONTENT)
}

/// The events that a webhook gave up, the newest first.
#[utoipa::path(get, path = "/v1/webhooks/{name}/dead", params(("name" = String, Path)),
    responses((status = 200, body = List<DeadEvent>), (status = 404, body = Problem)))]
pub(super) async fn dead(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<List<DeadEvent>>> {
    caller.may(Verb::View, Object::Webhooks)?;
    let mut tx = context.store.read().await?;
    let row = find(&mut tx, &name).await?;
    let dead = tx.dead_events(&row.id, MOST_DEAD).await?.into_iter();
    let items = dead.map(|row| DeadEvent {
        seq: row.seq,
        given_up_at: clock::rfc3339(row.given_up_at),
        error: row.error,
    });
    Ok(Json(List::whole(items.collect())))
}

/// Sends a webhook an event of the kind `test`, which is in no log, and says what came of it.
#[utoipa::path(post, path = "/v1/webhooks/{name}/test", params(("name" = String, Path)),
    responses((status = 200, body = WebhookTest), (status = 404, body = Problem)))]
pub(super) async fn test(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<WebhookTest>> {
    caller.may(Verb::Manage, Object::Webhooks)?;
    let row = find(&mut context.store.read().await?, &name).await?;
    let test = webhooks::test(&context, &row, caller.0.name.as_str()).await;
    caller.did(test.outcome.clone());
    Ok(Json(test))
}

async fn find(tx: &mut Tx, name: &str) -> Answer<WebhookRow> {
    let row = tx.webhooks().await?.into_iter().find(|row| row.name.as_str() == name);
    row.ok_or_else(|| Fail::not_found("no-webhook", format!("there is no webhook {name}")))
}

async fn note(tx: &mut Tx, caller: &Caller, kind: &str, row: &WebhookRow) -> Answer<()> {
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind,
        node: None,
        operation: None,
        actor: caller.0.name.as_str(),
        data: serde_json::json!({ "webhook": row.name }),
        // For admins: nobody's node is concerned.
        tenant: Some(""),
    })
    .await?;
    Ok(())
}

fn shown(row: WebhookRow, last: i64) -> Webhook {
    Webhook {
        name: row.name,
        url: row.url,
        kinds: row.kinds,
        actor: row.actor,
        created_at: clock::rfc3339(row.created_at),
        position: row.position,
        behind: (last - row.position).max(0),
        delivered_at: row.delivered_at.map(clock::rfc3339),
        failures: row.failures,
        failing_since: row.failing_since.map(clock::rfc3339),
        last_error: row.last_error,
        dead: row.dead,
    }
}
