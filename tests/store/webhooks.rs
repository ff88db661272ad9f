//! Webhooks: where each is in the event log, what it gave up, and what that keeps in the log.

use controller::store::{DeadEventRow, NewEvent, Store, WebhookRow};

use crate::promises::Db;

promises!(
    a_webhook_goes_through_the_log_and_remembers_how_it_fares,
    what_a_webhook_gave_up_is_kept_until_it_goes_or_the_event_is_forgotten,
    events_are_forgotten_from_the_oldest_on_but_never_before_a_webhook_is_done_with_them,
);

fn webhook(name: &str, position: i64) -> WebhookRow {
    WebhookRow {
        id: format!("id of {name}"),
        name: name.parse().unwrap(),
        url: "https://hooks.example/haas".to_owned(),
        kinds: vec!["fault".to_owned()],
        actor: "admin".to_owned(),
        created_at: 1,
        position,
        delivered_at: None,
        failures: 0,
        failing_since: None,
        last_error: None,
        dead: 0,
    }
}

async fn add(store: &Store, row: &WebhookRow) {
    let mut tx = store.write().await.unwrap();
    tx.add_webhook(row).await.unwrap();
    tx.commit().await.unwrap();
}

/// Events at these times.
async fn happen(store: &Store, times: impl IntoIterator<Item = i64>) {
    let mut tx = store.write().await.unwrap();
    for at in times {
        let event = NewEvent {
            at,
            kind: "fault",
            node: None,
            operation: None,
            actor: "haasd",
            data: serde_json::Value::Null,
            tenant: None,
        };
        tx.add_event(event).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn only(store: &Store) -> WebhookRow {
    store.read().await.unwrap().webhooks().await.unwrap().pop().expect("there is one")
}

async fn a_webhook_goes_through_the_log_and_remembers_how_it_fares(db: Db) {
    let row = webhook("chat", 3);
    add(&db.store, &row).await;
    assert_eq!(only(&db.store).await, row);
    let mut tx = db.store.write().await.unwrap();
    tx.webhook_failed(&row.id, "it answered 503", 50).await.unwrap();
    tx.webhook_failed(&row.id, "it answered 500", 60).await.unwrap();
    tx.commit().await.unwrap();
    let failing = only(&db.store).await;
    assert_eq!((failing.failures, failing.failing_since), (2, Some(50)));
    assert_eq!(failing.last_error.as_deref(), Some("it answered 500"));
    // What is not wanted is passed by and says nothing about the receiver.
    let mut tx = db.store.write().await.unwrap();
    assert!(tx.webhook_at(&row.id, 4, None).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(only(&db.store).await.failing_since, Some(50));
    let mut tx = db.store.write().await.unwrap();
    assert!(tx.webhook_at(&row.id, 5, Some(70)).await.unwrap());
    assert!(!tx.webhook_at("another", 5, None).await.unwrap());
    tx.commit().await.unwrap();
    let well = only(&db.store).await;
    assert_eq!((well.position, well.delivered_at), (5, Some(70)));
    assert_eq!((well.failures, well.failing_since), (0, None));
}

async fn what_a_webhook_gave_up_is_kept_until_it_goes_or_the_event_is_forgotten(db: Db) {
    let row = webhook("chat", 0);
    add(&db.store, &row).await;
    happen(&db.store, [10, 20, 30]).await;
    let mut tx = db.store.write().await.unwrap();
    for seq in [1, 2] {
        let dead = DeadEventRow { seq, given_up_at: 40, error: "it answered 422".to_owned() };
        tx.webhook_gave_up(&row.id, &dead).await.unwrap();
    }
    tx.commit().await.unwrap();
    let after = only(&db.store).await;
    assert_eq!((after.dead, after.position, after.failures), (2, 2, 0));
    let mut tx = db.store.read().await.unwrap();
    let dead = tx.dead_events(&row.id, 1).await.unwrap();
    assert_eq!(dead.iter().map(|row| row.seq).collect::<Vec<_>>(), [2], "the newest first");
    drop(tx);
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.forget_events(15).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(only(&db.store).await.dead, 1);
    let mut tx = db.store.write().await.unwrap();
    assert!(tx.remove_webhook(&row.id).await.unwrap());
    assert!(!tx.remove_webhook(&row.id).await.unwrap());
    assert!(tx.dead_events(&row.id, 9).await.unwrap().is_empty());
}

async fn events_are_forgotten_from_the_oldest_on_but_never_before_a_webhook_is_done_with_them(
    db: Db,
) {
    assert_eq!(db.store.read().await.unwrap().first_event().await.unwrap(), None);
    // The wall clock went back in between: order counts, not the time.
    happen(&db.store, [10, 20, 5, 30, 40]).await;
    let forget = async |before| {
        let mut tx = db.store.write().await.unwrap();
        let gone = tx.forget_events(before).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.store.read().await.unwrap();
        (gone, tx.first_event().await.unwrap(), tx.last_event().await.unwrap())
    };
    assert_eq!(forget(15).await, (1, Some(2), 5));
    add(&db.store, &webhook("chat", 3)).await;
    add(&db.store, &webhook("log", 5)).await;
    assert_eq!(forget(100).await, (2, Some(4), 5));
    let mut tx = db.store.write().await.unwrap();
    tx.remove_webhook("id of chat").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(forget(100).await, (1, Some(5), 5), "the last one stays");
}
