//! Desired states: append-only, one generation after the other, one writer each.

use controller::{
    model::{NewDesired, Node},
    store::{NewEvent, Store, StoreError},
};

use crate::{
    promises::Db,
    samples::{node, reread, want, wanted},
};

promises!(
    desired_states_are_counted_and_all_kept_as_they_were_written,
    of_two_writers_who_read_the_same_exactly_one_wins,
    of_many_writers_at_once_exactly_one_wins,
    whatever_else_changed_the_node_is_noticed,
    requests_that_overlap_do_not_deadlock,
    a_rollback_goes_to_the_last_state_that_ran_something_else,
);

async fn desired_states_are_counted_and_all_kept_as_they_were_written(db: Db) {
    let id = node(&db.store, 1).await.id;
    let off = NewDesired { power_on: false, ..wanted("b", None) };
    let ram = NewDesired { image: None, rank: 0, operation_id: None, ..wanted("c", None) };
    let all = [wanted("a", Some("o")), off, ram];
    for (state, generation) in all.iter().zip(1..) {
        assert_eq!(want(&db.store, 1, state).await, generation);
    }
    assert_eq!(reread(&db.store, 1).await.generation, 3);
    let mut tx = db.store.read().await.unwrap();
    for (state, generation) in all.iter().zip(1..) {
        let found = tx.desired(&id, generation).await.unwrap().unwrap();
        assert_eq!((&found.wanted, found.generation), (state, generation));
    }
    assert_eq!(tx.desired(&id, 4).await.unwrap(), None);
}

/// Writes on the node as it was read; true when that won.
async fn write(store: &Store, node: &Node) -> bool {
    let mut tx = store.write().await.unwrap();
    match tx.add_desired(node, &wanted("a", None), 1).await {
        Ok(_) => {
            tx.commit().await.unwrap();
            true
        }
        Err(StoreError::Conflict(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

async fn of_two_writers_who_read_the_same_exactly_one_wins(db: Db) {
    let read = node(&db.store, 1).await;
    assert!(write(&db.store, &read).await);
    assert!(!write(&db.store, &read).await);
    assert_eq!(reread(&db.store, 1).await.generation, 1);
}

async fn of_many_writers_at_once_exactly_one_wins(db: Db) {
    let read = node(&db.store, 1).await;
    let other = db.again().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = if n % 2 == 0 { db.store.clone() } else { other.clone() };
        let read = read.clone();
        tasks.spawn(async move { write(&store, &read).await });
    }
    let won = tasks.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!((won, reread(&db.store, 1).await.generation), (1, 1));
    other.close().await;
}

async fn whatever_else_changed_the_node_is_noticed(db: Db) {
    let read = node(&db.store, 1).await;
    let mut tx = db.store.write().await.unwrap();
    tx.set_managed(&read.id, true).await.unwrap();
    tx.commit().await.unwrap();
    assert!(!write(&db.store, &read).await);
    // What is merely seen of a node is no such change.
    let read = reread(&db.store, 1).await;
    let mut tx = db.store.write().await.unwrap();
    tx.agent_spoke(&read.id, "boot", 7).await.unwrap();
    tx.commit().await.unwrap();
    assert!(write(&db.store, &read).await);
}

async fn requests_that_overlap_do_not_deadlock(db: Db) {
    for number in 1..=4 {
        node(&db.store, number).await;
    }
    let other = db.again().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..24_u8 {
        let store = if n % 2 == 0 { db.store.clone() } else { other.clone() };
        tasks.spawn(async move {
            // Each writes its nodes with an event after each, as `requests` does.
            let mut tx = store.write().await.unwrap();
            for number in (1 + n % 4)..=4 {
                let node = tx.node(&format!("n{number:02}")).await.unwrap().unwrap();
                match tx.add_desired(&node, &wanted("a", None), 1).await {
                    Ok(_) => {}
                    Err(StoreError::Conflict(_)) => return,
                    Err(other) => panic!("{other}: {:?}", std::error::Error::source(&other)),
                }
                let data = serde_json::Value::Null;
                let event = NewEvent {
                    at: 1,
                    kind: "desired-changed",
                    node: None,
                    operation: None,
                    actor: "a",
                    data,
                    tenant: None,
                };
                tx.add_event(event).await.unwrap();
                tokio::task::yield_now().await;
            }
            tx.commit().await.unwrap();
        });
    }
    tasks.join_all().await;
    other.close().await;
}

async fn a_rollback_goes_to_the_last_state_that_ran_something_else(db: Db) {
    let id = node(&db.store, 1).await.id;
    let off = NewDesired { power_on: false, ..wanted("b", Some("o")) };
    let states = [
        wanted("a", Some("o")),
        wanted("a", None),
        wanted("b", Some("o")),
        off,
        wanted("b", Some("o")),
    ];
    let mut targets = Vec::new();
    for state in &states {
        let generation = want(&db.store, 1, state).await;
        let mut tx = db.store.read().await.unwrap();
        let now = tx.desired(&id, generation).await.unwrap().unwrap();
        let before = tx.desired_before(&id, &now).await.unwrap();
        targets.push(before.map(|d| d.generation));
    }
    assert_eq!(targets, [None, Some(1), Some(2), Some(2), Some(2)]);
}
