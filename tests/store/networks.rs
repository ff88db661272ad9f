//! What was seen of networks.

use crate::promises::Db;

promises!(the_last_time_that_haasd_was_alone_is_kept_for_each_network);

async fn the_last_time_that_haasd_was_alone_is_kept_for_each_network(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.alone_at("rack").await.unwrap(), None);
    tx.set_alone("rack", 5).await.unwrap();
    tx.set_alone("rack", 7).await.unwrap();
    tx.set_alone("other", 1).await.unwrap();
    tx.set_alone("crowded", 9).await.unwrap();
    tx.set_not_alone("crowded").await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.again().await.read().await.unwrap();
    assert_eq!(tx.alone_at("rack").await.unwrap(), Some(7));
    assert_eq!(tx.alone_at("other").await.unwrap(), Some(1));
    assert_eq!(tx.alone_at("crowded").await.unwrap(), None);
}
