//! The keys of the nodes' ssh servers: each boot has its own.

use controller::store::HostKeyRow;

use crate::{
    promises::Db,
    samples::{node, open},
};

promises!(the_keys_of_a_boot_are_its_own_and_are_replaced_whole,);

async fn the_keys_of_a_boot_are_its_own_and_are_replaced_whole(db: Db) {
    let node = node(&db.store, 1).await;
    open(&db.store, &node, "b1", 10).await;
    open(&db.store, &node, "b2", 20).await;
    let row = |key: &str, certified_until| HostKeyRow {
        key: key.to_owned(),
        names: vec!["n01".to_owned(), "10.0.0.1".to_owned()],
        certified_until,
    };
    let first = [row("ssh-rsa A", None), row("ssh-ed25519 B", Some(7))];
    for keys in [&first[..], &[row("ssh-ed25519 C", Some(9))]] {
        let mut tx = db.store.write().await.unwrap();
        tx.set_host_keys("b1", keys).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.store.read().await.unwrap();
        assert_eq!(tx.host_keys("b1").await.unwrap(), keys);
        assert_eq!(tx.host_keys("b2").await.unwrap(), []);
    }
}
