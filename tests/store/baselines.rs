//! How machines were and are, for whom they were compared, and which overlays share their disks.

use haas_api::baseline::{Facts, Part};

use crate::{promises::Db, samples};

promises!(
    what_is_recorded_is_apart_from_what_is_seen_and_is_forgotten_with_the_comparison,
    an_overlay_shares_its_disks_only_while_its_owner_says_so,
);

fn facts(part: Part, value: &str) -> Facts {
    Facts::from([(part, [("name".to_owned(), value.to_owned())].into())])
}

async fn what_is_recorded_is_apart_from_what_is_seen_and_is_forgotten_with_the_comparison(db: Db) {
    let node = samples::node(&db.store, 1).await;
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.baseline(&node.id).await.unwrap(), Default::default());
    let (was, is) = (facts(Part::BmcUsers, "root"), facts(Part::BmcUsers, "eve"));
    tx.set_baseline_seen(&node.id, &was).await.unwrap();
    tx.record_baseline(&node.id, &was, "haasd", 5).await.unwrap();
    tx.set_baseline_seen(&node.id, &is).await.unwrap();
    tx.set_baseline_asked(&node.id, 7, Some("no answer")).await.unwrap();
    tx.set_checked_for(&node.id, "alice").await.unwrap();
    let row = tx.baseline(&node.id).await.unwrap();
    assert_eq!((row.recorded, row.seen), (was, is.clone()));
    assert_eq!(row.recorded_at, Some((5, "haasd".to_owned())));
    assert_eq!((row.asked_at, row.asked_error.as_deref()), (Some(7), Some("no answer")));
    tx.record_baseline(&node.id, &is, "admin", 9).await.unwrap();
    let row = tx.baseline(&node.id).await.unwrap();
    assert_eq!((row.recorded, row.seen), (is.clone(), is));
    tx.set_scratch_of(&node.id, "alice").await.unwrap();
    let tenancy = tx.tenancy(&node.id).await.unwrap();
    assert_eq!(tenancy.checked_for.as_deref(), Some("alice"));

    tx.forget_baseline(&node.id).await.unwrap();
    assert_eq!(tx.baseline(&node.id).await.unwrap(), Default::default());
    let tenancy = tx.tenancy(&node.id).await.unwrap();
    assert_eq!((tenancy.checked_for, tenancy.scratch_of.as_deref()), (None, Some("alice")));
}

async fn an_overlay_shares_its_disks_only_while_its_owner_says_so(db: Db) {
    let alice = samples::user(&db.store, "alice").await;
    let mut tx = db.store.write().await.unwrap();
    let id = tx.add_overlay(&alice, &"dev".parse().unwrap(), 1).await.unwrap();
    assert!(!tx.overlay_by_id(&id).await.unwrap().unwrap().shares_disk);
    for shares in [true, false] {
        tx.set_shares_disk(&id, shares).await.unwrap();
        let listed = tx.overlays().await.unwrap();
        assert_eq!(listed.iter().map(|one| one.shares_disk).collect::<Vec<_>>(), [shares]);
    }
}
