//! Tokens and passwords.

use controller::{
    auth::Granted,
    store::{GrantTo, MemberId, NewGrantRow, Store, TokenRow},
};
use haas_api::{grant::GrantRole, project::MemberRole};

use crate::{promises::Db, samples::user};

promises!(
    a_token_is_found_by_its_hash_until_it_ends,
    a_users_tokens_are_listed_ended_one_by_one_and_all_at_once,
    tokens_go_with_their_user,
    a_password_is_kept_for_a_user_and_for_nobody_else,
    tokens_that_are_over_are_deleted_and_others_stay,
    a_removed_users_tokens_open_nothing,
    every_change_of_who_may_is_counted_here_and_for_other_processes,
);

fn token(id: &str, expires_at: Option<i64>) -> TokenRow {
    TokenRow {
        id: id.to_owned(),
        name: format!("for {id}"),
        read_only: id == "t2",
        feed_only: id == "t3",
        created_at: 40,
        expires_at,
        last_used_at: None,
    }
}

async fn add(store: &Store, user: &str, tokens: &[TokenRow]) {
    let mut tx = store.write().await.unwrap();
    for token in tokens {
        tx.add_token(user, token, &format!("hash-{}", token.id)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn a_token_is_found_by_its_hash_until_it_ends(db: Db) {
    let alice = user(&db.store, "alice").await;
    let (lasting, short) = (token("t1", None), token("t2", Some(50)));
    add(&db.store, &alice, &[lasting.clone(), short.clone()]).await;
    let mut tx = db.store.read().await.unwrap();
    let mut found = async |hash: &str, now| {
        let found = tx.token_by_hash(hash, now).await.unwrap();
        found.map(|(user, token)| (user.id, token))
    };
    assert_eq!(found("hash-t1", 1 << 50).await, Some((alice.clone(), lasting)));
    assert_eq!(found("hash-t2", 49).await, Some((alice, short)));
    assert_eq!(found("hash-t2", 50).await, None);
    assert_eq!(found("hash-t3", 0).await, None);
}

async fn a_users_tokens_are_listed_ended_one_by_one_and_all_at_once(db: Db) {
    let alice = user(&db.store, "alice").await;
    let bob = user(&db.store, "bob").await;
    add(&db.store, &alice, &[token("t1", None), token("t2", None), token("t3", None)]).await;
    add(&db.store, &bob, &[token("t4", None)]).await;
    let mut tx = db.store.write().await.unwrap();
    assert!(!tx.remove_token(&bob, "t1").await.unwrap(), "it is not his");
    assert!(tx.remove_token(&alice, "t1").await.unwrap());
    assert!(!tx.remove_token(&alice, "t1").await.unwrap());
    tx.touch_token("t3", 77).await.unwrap();
    let left = tx.tokens(&alice).await.unwrap();
    assert_eq!(left, [token("t2", None), TokenRow { last_used_at: Some(77), ..token("t3", None) }]);
    tx.remove_tokens(&alice).await.unwrap();
    assert_eq!(tx.tokens(&alice).await.unwrap(), []);
    assert_eq!(tx.tokens(&bob).await.unwrap().len(), 1);
}

async fn tokens_go_with_their_user(db: Db) {
    let alice = user(&db.store, "alice").await;
    add(&db.store, &alice, &[token("t1", None)]).await;
    let mut tx = db.store.write().await.unwrap();
    assert!(tx.remove_user(&alice).await.unwrap());
    tx.commit().await.unwrap();
    let mut tx = db.store.read().await.unwrap();
    assert_eq!(tx.token_by_hash("hash-t1", 0).await.unwrap(), None);
}

async fn a_password_is_kept_for_a_user_and_for_nobody_else(db: Db) {
    let alice = user(&db.store, "alice").await;
    let bob = user(&db.store, "bob").await;
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.password(&alice).await.unwrap(), None);
    tx.set_password(&alice, "$argon2id$x").await.unwrap();
    assert_eq!(tx.password(&alice).await.unwrap().as_deref(), Some("$argon2id$x"));
    assert_eq!(tx.password(&bob).await.unwrap(), None);
    assert_eq!(tx.password("nobody").await.unwrap(), None);
}

async fn tokens_that_are_over_are_deleted_and_others_stay(db: Db) {
    let alice = user(&db.store, "alice").await;
    let tokens = [token("t1", None), token("t2", Some(50)), token("t3", Some(51))];
    add(&db.store, &alice, &tokens).await;
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.remove_tokens_over(50).await.unwrap(), 1);
    let left = tx.tokens(&alice).await.unwrap();
    assert_eq!(left, [token("t1", None), token("t3", Some(51))]);
}

async fn a_removed_users_tokens_open_nothing(db: Db) {
    let alice = user(&db.store, "alice").await;
    add(&db.store, &alice, &[token("t1", None)]).await;
    let mut tx = db.store.write().await.unwrap();
    tx.set_destroy_at(&alice, Some(50)).await.unwrap();
    assert_eq!(tx.token_by_hash("hash-t1", 0).await.unwrap(), None);
}

async fn every_change_of_who_may_is_counted_here_and_for_other_processes(db: Db) {
    let alice = user(&db.store, "alice").await;
    add(&db.store, &alice, &[token("t1", None), token("t2", None)]).await;
    let mut tx = db.store.write().await.unwrap();
    let group = tx.add_group(&"staff".parse().unwrap(), &alice, 1).await.unwrap();
    let (name, limits) = ("vision".parse().unwrap(), Default::default());
    let project = tx.add_project(&name, haas_api::project::Access::Root, limits, 1).await.unwrap();
    tx.commit().await.unwrap();

    let member = MemberId::User(alice.clone());
    let to = GrantTo::Account { id: alice.clone(), name: "alice".parse().unwrap() };
    let object = Granted::NodeGroup("rack1".parse().unwrap());
    let mut grant = String::new();
    for change in 0..10 {
        let (age, count) = (db.store.powers_age(), db.store.powers_changes().await.unwrap());
        let mut tx = db.store.write().await.unwrap();
        match change {
            0 => tx.add_group_member(&group, &alice).await.unwrap(),
            1 => assert!(tx.remove_group_member(&group, &alice).await.unwrap()),
            2 => {
                let member = MemberId::Group(group.clone());
                tx.set_member(&project, &member, MemberRole::User).await.unwrap();
            }
            3 => tx.remove_group(&group).await.unwrap(),
            4 => tx.set_member(&project, &member, MemberRole::Owner).await.unwrap(),
            5 => assert!(tx.remove_member(&project, &member).await.unwrap()),
            6 => {
                let (to, object) = (&to, &object);
                let new = NewGrantRow { to, object, role: GrantRole::Use, actor: "admin", at: 1 };
                grant = tx.add_grant(new).await.unwrap();
            }
            7 => assert!(tx.remove_grant(&grant).await.unwrap()),
            8 => assert!(tx.remove_token(&alice, "t1").await.unwrap()),
            _ => assert!(tx.remove_user(&alice).await.unwrap()),
        }
        assert_eq!(db.store.powers_age(), age, "nothing is committed yet");
        tx.commit().await.unwrap();
        assert!(db.store.powers_age() > age, "change {change}");
        assert!(db.store.powers_changes().await.unwrap() > count, "change {change}");
    }
    let (age, count) = (db.store.powers_age(), db.store.powers_changes().await.unwrap());
    user(&db.store, "bob").await;
    assert_eq!((db.store.powers_age(), db.store.powers_changes().await.unwrap()), (age, count));
}
