//! Users.

use controller::store::StoreError;
use haas_api::user::{Role, UserKind};

use crate::{promises::Db, samples::user};

promises!(
    a_user_is_found_by_name_and_id,
    a_name_is_taken_once,
    every_user_has_a_uid_of_its_own_though_many_are_added_at_once,
    a_user_who_owns_overlays_stays,
    ssh_keys_are_replaced_whole,
    a_removed_user_is_there_until_it_is_destroyed,
);

async fn a_user_is_found_by_name_and_id(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let keys = ["ssh-ed25519 AAAA a".to_owned()];
    let alice = tx
        .add_user(&"alice".parse().unwrap(), UserKind::Person, Role::Admin, &keys, 42)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!((alice.role, alice.created_at, &alice.ssh_keys[..]), (Role::Admin, 42, &keys[..]));
    let mut tx = db.store.read().await.unwrap();
    assert_eq!(tx.user("alice").await.unwrap().as_ref(), Some(&alice));
    assert_eq!(tx.user_by_id(&alice.id).await.unwrap().as_ref(), Some(&alice));
    assert_eq!(tx.user("bob").await.unwrap(), None);
}

async fn a_name_is_taken_once(db: Db) {
    user(&db.store, "alice").await;
    let mut tx = db.store.write().await.unwrap();
    let second =
        tx.add_user(&"alice".parse().unwrap(), UserKind::Service, Role::User, &[], 1).await;
    assert!(matches!(second, Err(StoreError::Taken(_))), "{second:?}");
}

async fn every_user_has_a_uid_of_its_own_though_many_are_added_at_once(db: Db) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = db.store.clone();
        tasks.spawn(async move { user(&store, &format!("user{n}")).await });
    }
    tasks.join_all().await;
    let users = db.store.read().await.unwrap().users().await.unwrap();
    let mut uids: Vec<_> = users.iter().map(|u| u.uid).collect();
    uids.sort_unstable();
    assert_eq!(uids, (10_000..10_020).collect::<Vec<_>>());
}

async fn a_user_who_owns_overlays_stays(db: Db) {
    let alice = user(&db.store, "alice").await;
    let mut tx = db.store.write().await.unwrap();
    let overlay = tx.add_overlay(&alice, &"dev".parse().unwrap(), 1).await.unwrap();
    assert!(!tx.remove_user(&alice).await.unwrap());
    tx.remove_overlay(&overlay).await.unwrap();
    assert!(tx.remove_user(&alice).await.unwrap());
    assert!(!tx.remove_user(&alice).await.unwrap());
}

async fn ssh_keys_are_replaced_whole(db: Db) {
    let alice = user(&db.store, "alice").await;
    for keys in [vec!["ssh-rsa A".to_owned(), "ssh-rsa B".to_owned()], Vec::new()] {
        let mut tx = db.store.write().await.unwrap();
        tx.set_ssh_keys(&alice, &keys).await.unwrap();
        assert_eq!(tx.user("alice").await.unwrap().unwrap().ssh_keys, keys);
        tx.commit().await.unwrap();
    }
}

async fn a_removed_user_is_there_until_it_is_destroyed(db: Db) {
    let alice = user(&db.store, "alice").await;
    user(&db.store, "bob").await;
    let mut tx = db.store.write().await.unwrap();
    tx.set_destroy_at(&alice, Some(50)).await.unwrap();
    assert_eq!(tx.user("alice").await.unwrap(), None);
    let row = tx.any_user("alice").await.unwrap().unwrap();
    assert_eq!((row.destroy_at, row.logs_in()), (Some(50), false));
    assert_eq!(tx.users().await.unwrap().len(), 2);
    assert_eq!(tx.users_to_destroy(49).await.unwrap(), []);
    assert_eq!(tx.users_to_destroy(50).await.unwrap(), [row]);
    tx.set_destroy_at(&alice, None).await.unwrap();
    assert!(tx.user("alice").await.unwrap().unwrap().logs_in());
    assert_eq!(tx.users_to_destroy(50).await.unwrap(), []);
}
