//! The schema, and the two rows that are there from the start.

use controller::store::{Store, StoreError};

use crate::promises::Db;

promises!(
    a_database_is_opened_again_with_all_that_it_held,
    what_was_not_committed_never_was,
    the_cluster_keeps_its_identity,
    an_inventory_file_is_remembered_by_its_hash,
);

async fn a_database_is_opened_again_with_all_that_it_held(db: Db) {
    let user = crate::samples::user(&db.store, "alice").await;
    let again = db.again().await;
    let found = again.read().await.unwrap().user("alice").await.unwrap();
    assert_eq!(found.map(|u| u.id), Some(user));
    again.close().await;
}

async fn what_was_not_committed_never_was(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    tx.add_node(&crate::samples::spec(1), 1).await.unwrap();
    assert_eq!(tx.nodes().await.unwrap().len(), 1);
    drop(tx);
    assert_eq!(db.store.read().await.unwrap().nodes().await.unwrap(), []);
}

async fn the_cluster_keeps_its_identity(db: Db) {
    assert_eq!(db.store.read().await.unwrap().cluster().await.unwrap(), None);
    for (boot, offset) in [("boot-1", 5), ("boot-2", -7)] {
        let mut tx = db.store.write().await.unwrap();
        tx.set_cluster("lab", boot, offset, 1).await.unwrap();
        tx.commit().await.unwrap();
        let found = db.store.read().await.unwrap().cluster().await.unwrap();
        assert_eq!(found, Some(("lab".into(), boot.into(), offset)));
    }
}

async fn an_inventory_file_is_remembered_by_its_hash(db: Db) {
    assert_eq!(db.store.read().await.unwrap().last_import("nodes.toml").await.unwrap(), None);
    for text in ["one", "two", "one"] {
        let hash = crate::samples::digest(text);
        let mut tx = db.store.write().await.unwrap();
        tx.add_import(&hash, "nodes.toml", 1).await.unwrap();
        tx.commit().await.unwrap();
        let last = db.store.read().await.unwrap().last_import("nodes.toml").await.unwrap();
        assert_eq!(last.as_deref(), Some(hash.as_str()));
    }
    // Another file that was applied since takes nothing away from what is known of this one.
    let mut tx = db.store.write().await.unwrap();
    tx.add_import(&crate::samples::digest("three"), "other.toml", 1).await.unwrap();
    let last = tx.last_import("nodes.toml").await.unwrap();
    assert_eq!(last.as_deref(), Some(crate::samples::digest("one").as_str()));
}

#[test]
fn another_kind_of_database_is_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(Store::open("mysql://root@localhost/haas"));
    assert!(matches!(refused, Err(StoreError::UnknownDatabase)));
}
