//! Writers have their turns one after the other, and share commits: nobody's is lost for another's.

use std::collections::BTreeSet;

use controller::store::{NewEvent, Store, Tx};

use crate::{promises::Db, samples::spec};

promises!(
    each_of_many_writers_counts_and_none_of_those_that_gave_up,
    what_one_fails_with_is_not_the_others,
    who_is_gone_in_the_middle_of_his_turn_leaves_nothing_behind,
    a_writer_who_waits_for_his_turn_sees_what_was_written_before,
);

async fn note(tx: &mut Tx, kind: &str) {
    let event = NewEvent {
        at: 1,
        kind,
        node: None,
        operation: None,
        actor: "test",
        data: serde_json::Value::Null,
        tenant: None,
    };
    tx.add_event(event).await.unwrap();
}

async fn noted(store: &Store) -> Vec<(i64, String)> {
    let events = store.read().await.unwrap().events_after(0, 1_000).await.unwrap();
    events.into_iter().map(|row| (row.event.seq, row.event.kind)).collect()
}

async fn each_of_many_writers_counts_and_none_of_those_that_gave_up(db: Db) {
    let gives_up = |n: usize| n.is_multiple_of(3);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..250 {
        let store = db.store.clone();
        tasks.spawn(async move {
            let mut tx = store.write().await.unwrap();
            note(&mut tx, &n.to_string()).await;
            if gives_up(n) {
                drop(tx);
                return;
            }
            tx.commit().await.unwrap();
            // It lasts from the moment on at which this one has heard of it.
            assert!(noted(&store).await.iter().any(|(_, kind)| *kind == n.to_string()));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let again = db.again().await;
    let events = noted(&again).await;
    again.close().await;
    let kinds: BTreeSet<_> = events.iter().map(|(_, kind)| kind.clone()).collect();
    let expected = (0..250).filter(|n| !gives_up(*n)).map(|n| n.to_string()).collect();
    assert_eq!(kinds, expected);
    let numbers: Vec<_> = events.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (1..=i64::try_from(kinds.len()).unwrap()).collect::<Vec<_>>());
}

async fn what_one_fails_with_is_not_the_others(db: Db) {
    let well = async |kind: &str| {
        let mut tx = db.store.write().await.unwrap();
        note(&mut tx, kind).await;
        tx.commit().await.unwrap();
    };
    let badly = async || {
        let mut tx = db.store.write().await.unwrap();
        note(&mut tx, "bad").await;
        tx.add_node(&spec(1), 1).await.unwrap();
        assert!(tx.add_node(&spec(1), 1).await.is_err(), "there is one of this name");
    };
    // They wait for each other, so that they share what they can.
    tokio::join!(well("first"), badly(), well("second"), badly(), well("third"));
    let kinds: Vec<_> = noted(&db.store).await.into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, ["first", "second", "third"]);
    assert_eq!(db.store.read().await.unwrap().nodes().await.unwrap(), []);
}

async fn who_is_gone_in_the_middle_of_his_turn_leaves_nothing_behind(db: Db) {
    for round in 0..20 {
        let (store, kind) = (db.store.clone(), format!("kept {round}"));
        let writes = tokio::spawn(async move {
            let mut tx = store.write().await.unwrap();
            note(&mut tx, &kind).await;
            tx.commit().await.unwrap();
        });
        let store = db.store.clone();
        let (begins, has_begun) = tokio::sync::oneshot::channel();
        let goes = tokio::spawn(async move {
            let mut tx = store.write().await.unwrap();
            begins.send(()).unwrap();
            loop {
                note(&mut tx, "lost").await;
            }
        });
        has_begun.await.unwrap();
        goes.abort();
        writes.await.unwrap();
    }
    // Another process must not wait for ever either.
    let again = db.again().await;
    let mut tx = again.write().await.unwrap();
    note(&mut tx, "kept by another").await;
    tx.commit().await.unwrap();
    again.close().await;
    let events = noted(&db.store).await;
    assert!(events.iter().all(|(_, kind)| kind.starts_with("kept")), "{events:?}");
    assert_eq!(events.len(), 21);
}

async fn a_writer_who_waits_for_his_turn_sees_what_was_written_before(db: Db) {
    let mut first = db.store.write().await.unwrap();
    first.add_node(&spec(1), 1).await.unwrap();
    let second = async {
        let mut tx = db.store.write().await.unwrap();
        let seen = tx.nodes().await.unwrap().len();
        tx.add_node(&spec(2), 1).await.unwrap();
        tx.commit().await.unwrap();
        seen
    };
    let (committed, seen) = tokio::join!(first.commit(), second);
    committed.unwrap();
    assert_eq!(seen, 1);
    let places = db.store.read().await.unwrap().node_places().await.unwrap();
    assert_eq!(places.len(), 2);
}
