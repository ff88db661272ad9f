//! Events: numbered from 1 without a gap, in the order of their commits.

use controller::store::{EventRow, NewEvent, Tx};
use serde_json::json;

use crate::promises::Db;

promises!(
    an_event_is_read_as_it_was_written,
    events_are_read_in_order_and_in_portions,
    fifty_writers_at_once_leave_no_gap_though_some_roll_back,
    a_reader_never_sees_a_later_event_before_an_earlier_one,
    an_event_is_for_whose_operation_it_is_or_who_has_the_node,
);

async fn add(tx: &mut Tx, kind: &str) -> i64 {
    let event = NewEvent {
        at: 1_700_000_000_000_000,
        kind,
        node: Some("n01"),
        operation: None,
        actor: "admin",
        data: json!({ "from": "off" }),
        tenant: None,
    };
    tx.add_event(event).await.unwrap()
}

async fn an_event_is_read_as_it_was_written(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(add(&mut tx, "managed").await, 1);
    let [EventRow { event, at: 1_700_000_000_000_000, tenant: None }] =
        &tx.events_after(0, 9).await.unwrap()[..]
    else {
        panic!("one was added")
    };
    assert_eq!((event.seq, event.kind.as_str(), event.actor.as_str()), (1, "managed", "admin"));
    assert_eq!((event.node.as_deref(), event.operation.as_deref()), (Some("n01"), None));
    assert_eq!(
        (event.at.as_str(), &event.data),
        ("2023-11-14T22:13:20.000Z", &json!({"from": "off"}))
    );
}

async fn events_are_read_in_order_and_in_portions(db: Db) {
    assert_eq!(db.store.read().await.unwrap().last_event().await.unwrap(), 0);
    let mut tx = db.store.write().await.unwrap();
    for _ in 0..5 {
        add(&mut tx, "x").await;
    }
    assert_eq!(tx.last_event().await.unwrap(), 5);
    let portion = tx.events_after(1, 3).await.unwrap();
    assert_eq!(portion.iter().map(|e| e.event.seq).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(tx.events_after(5, 3).await.unwrap().is_empty());
}

async fn fifty_writers_at_once_leave_no_gap_though_some_roll_back(db: Db) {
    let other = db.again().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let store = if n % 2 == 0 { db.store.clone() } else { other.clone() };
        tasks.spawn(async move {
            for round in 0..3 {
                let mut tx = store.write().await.unwrap();
                add(&mut tx, "one").await;
                tokio::task::yield_now().await;
                add(&mut tx, "two").await;
                if (n + round) % 3 == 0 {
                    drop(tx);
                } else {
                    tx.commit().await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
    other.close().await;
    let events = db.store.read().await.unwrap().events_after(0, 1_000).await.unwrap();
    // Of the three rounds of each writer one was rolled back.
    assert_eq!(
        events.iter().map(|e| e.event.seq).collect::<Vec<_>>(),
        (1..=200).collect::<Vec<_>>()
    );
    for pair in events.chunks(2) {
        assert_eq!((pair[0].event.kind.as_str(), pair[1].event.kind.as_str()), ("one", "two"));
    }
}

async fn a_reader_never_sees_a_later_event_before_an_earlier_one(db: Db) {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = db.store.clone();
        writers.spawn(async move {
            for _ in 0..10 {
                let mut tx = store.write().await.unwrap();
                add(&mut tx, "x").await;
                tokio::task::yield_now().await;
                tx.commit().await.unwrap();
            }
        });
    }
    let mut seen = 0;
    while seen < 80 {
        let mut tx = db.store.read().await.unwrap();
        for EventRow { event, .. } in tx.events_after(seen, 7).await.unwrap() {
            assert_eq!(event.seq, seen + 1);
            seen = event.seq;
        }
    }
    writers.join_all().await;
}

async fn an_event_is_for_whose_operation_it_is_or_who_has_the_node(db: Db) {
    crate::samples::node(&db.store, 1).await;
    let whose = async |operation: Option<&str>, tenant: Option<&str>| {
        let mut tx = db.store.write().await.unwrap();
        let (kind, node, actor) = ("x", Some("n01"), "haasd");
        let data = json!(null);
        let event = NewEvent { at: 1, kind, node, operation, actor, data, tenant };
        let seq = tx.add_event(event).await.unwrap();
        tx.events_after(seq - 1, 1).await.unwrap()[0].tenant.clone()
    };
    assert_eq!(whose(None, None).await, None, "nobody has it");
    assert_eq!(whose(None, Some("me")).await.as_deref(), Some("me"));
    let wanted = |tenant: &str, operation: &str| controller::model::NewDesired {
        tenant: tenant.into(),
        operation_id: Some(operation.into()),
        ..crate::samples::wanted("a", None)
    };
    crate::samples::want(&db.store, 1, &wanted("first", "op1")).await;
    crate::samples::want(&db.store, 1, &wanted("second", "op2")).await;
    assert_eq!(whose(None, None).await.as_deref(), Some("second"));
    // What the end of the first one's boot says is not the second one's.
    assert_eq!(whose(Some("op1"), None).await.as_deref(), Some("first"));
    let off = controller::model::NewDesired { power_on: false, ..wanted("second", "op3") };
    crate::samples::want(&db.store, 1, &off).await;
    assert_eq!(whose(None, None).await, None);
}
