//! Operations and the result of each of their nodes.

use controller::model::{Operation, OperationNode};
use haas_api::operation::{MinSuccess, NodeProgress, OperationState, Strategy};

use crate::{promises::Db, samples::node};

promises!(
    an_operation_is_read_as_it_was_written_its_nodes_in_their_order,
    only_news_of_a_node_is_news,
    an_operation_ends_once,
    operations_are_listed_newest_first_and_worked_on_oldest_first,
);

fn operation(id: &str, created_at: i64, nodes: &[&str]) -> Operation {
    Operation {
        id: id.into(),
        kind: "switch".into(),
        actor: "admin".into(),
        actor_id: "admin-id".into(),
        tenant: "tenant-id".into(),
        summary: "switch n[01-02]".into(),
        request: "request".into(),
        key: None,
        at_most: Some(1),
        strategy: Strategy::Rolling,
        min_success: Some(MinSuccess::Percent(95)),
        committed_at: None,
        reason: String::new(),
        state: OperationState::Running,
        created_at,
        ended_at: None,
        nodes: nodes
            .iter()
            .map(|id| OperationNode {
                node_id: (*id).to_owned(),
                generation: 4,
                state: NodeProgress::Waiting,
                reason: "accepted".into(),
                failure: None,
                goes_back: false,
            })
            .collect(),
    }
}

async fn an_operation_is_read_as_it_was_written_its_nodes_in_their_order(db: Db) {
    let (a, b) = (node(&db.store, 1).await.id, node(&db.store, 2).await.id);
    for (id, nodes) in [("op1", [&*a, &*b]), ("op2", [&*b, &*a])] {
        let written = Operation { at_most: None, ..operation(id, 5, &nodes) };
        let mut tx = db.store.write().await.unwrap();
        tx.add_operation(&written).await.unwrap();
        tx.commit().await.unwrap();
        let found = db.store.read().await.unwrap().operation(id).await.unwrap();
        assert_eq!(found, Some(written));
    }
    assert_eq!(db.store.read().await.unwrap().operation("op3").await.unwrap(), None);
}

async fn only_news_of_a_node_is_news(db: Db) {
    let id = node(&db.store, 1).await.id;
    let mut tx = db.store.write().await.unwrap();
    tx.add_operation(&operation("op", 5, &[&id])).await.unwrap();
    for (state, reason, news) in [
        (NodeProgress::Waiting, "accepted", false),
        (NodeProgress::Running, "boots", true),
        (NodeProgress::Running, "boots", false),
        (NodeProgress::Running, "boots, stage 'agent'", true),
        (NodeProgress::Superseded, "a later request", true),
    ] {
        assert_eq!(tx.set_operation_node("op", &id, 4, state, reason).await.unwrap(), news);
        let node = tx.operation("op").await.unwrap().unwrap().nodes.remove(0);
        assert_eq!((node.state, node.reason.as_str()), (state, reason));
    }
}

async fn an_operation_ends_once(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    tx.add_operation(&operation("op", 5, &[])).await.unwrap();
    assert!(tx.end_operation("op", OperationState::Failed, 9).await.unwrap());
    assert!(!tx.end_operation("op", OperationState::Succeeded, 10).await.unwrap());
    let over = tx.operation("op").await.unwrap().unwrap();
    assert_eq!((over.state, over.ended_at), (OperationState::Failed, Some(9)));
    assert_eq!(tx.running_operations().await.unwrap(), []);
}

async fn operations_are_listed_newest_first_and_worked_on_oldest_first(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    for (id, at) in [("b", 2), ("a", 1), ("c", 3)] {
        tx.add_operation(&operation(id, at, &[])).await.unwrap();
    }
    let ids = |list: Vec<Operation>| list.into_iter().map(|o| o.id).collect::<Vec<_>>();
    assert_eq!(ids(tx.operations(2).await.unwrap()), ["c", "b"]);
    assert_eq!(ids(tx.running_operations().await.unwrap()), ["a", "b", "c"]);
}
