//! What nodes had printed when they came to be in fault.

use crate::{promises::Db, samples::node};

promises!(the_lines_of_a_fault_are_its_generations_and_give_way_to_those_of_a_newer_one,);

async fn the_lines_of_a_fault_are_its_generations_and_give_way_to_those_of_a_newer_one(db: Db) {
    let node = node(&db.store, 1).await;
    for (generation, tenant, lines) in [(1, "alice", &["panic", "\u{fffd}"][..]), (3, "", &[])] {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let mut tx = db.store.write().await.unwrap();
        tx.set_fault_console(&node.id, generation, tenant, &lines).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.store.read().await.unwrap();
        let found = tx.fault_console(&node.id, generation).await.unwrap();
        assert_eq!(found, Some((tenant.to_owned(), lines)));
        assert_eq!(tx.fault_console(&node.id, 2).await.unwrap(), None);
    }
    let mut tx = db.store.read().await.unwrap();
    assert_eq!(tx.fault_console(&node.id, 1).await.unwrap(), None);
}
