//! Overlays, their shards with ranks, and the disks that hold them.

use controller::store::StoreError;
use haas_api::agent::{Disk, DiskState};

use crate::{
    promises::Db,
    samples::{node, open, reread, user, want, wanted},
};

promises!(
    an_overlay_is_its_owners_and_names_are_taken_once_per_owner,
    a_rank_belongs_to_one_node_of_an_overlay,
    a_shard_is_known_to_exist_once_its_node_has_made_it,
    what_a_given_up_disk_held_is_forgotten_and_ranks_are_kept,
    an_overlay_is_in_use_while_it_is_wanted_or_still_runs,
    stores_change_places_with_all_that_is_in_them,
    one_store_is_never_two_nodes,
    a_claim_survives_the_next_look_at_the_disks_and_follows_the_serial,
);

async fn an_overlay_is_its_owners_and_names_are_taken_once_per_owner(db: Db) {
    let (alice, bob) = (user(&db.store, "alice").await, user(&db.store, "bob").await);
    let dev = "dev".parse().unwrap();
    let mut tx = db.store.write().await.unwrap();
    let hers = tx.add_overlay(&alice, &dev, 1).await.unwrap();
    let his = tx.add_overlay(&bob, &dev, 2).await.unwrap();
    assert!(matches!(tx.add_overlay(&alice, &dev, 3).await, Err(StoreError::Taken(_))));
    let found = tx.overlay(&alice, &dev).await.unwrap().unwrap();
    assert_eq!((found.full_name().as_str(), &found.id), ("alice/dev", &hers));
    assert_eq!(tx.overlay_by_id(&his).await.unwrap().unwrap().owner, "bob");
    assert_eq!(tx.overlays().await.unwrap().len(), 2);
    tx.remove_overlay(&hers).await.unwrap();
    assert_eq!(tx.overlay(&alice, &dev).await.unwrap(), None);
    assert_ne!(tx.add_overlay(&alice, &dev, 4).await.unwrap(), hers, "a new one is a new one");
}

async fn a_rank_belongs_to_one_node_of_an_overlay(db: Db) {
    let alice = user(&db.store, "alice").await;
    let (n1, n2) = (node(&db.store, 1).await.id, node(&db.store, 2).await.id);
    let mut tx = db.store.write().await.unwrap();
    let dev = tx.add_overlay(&alice, &"dev".parse().unwrap(), 1).await.unwrap();
    let lab = tx.add_overlay(&alice, &"lab".parse().unwrap(), 1).await.unwrap();
    tx.add_shard(&dev, &n2, 1).await.unwrap();
    tx.add_shard(&dev, &n1, 0).await.unwrap();
    tx.add_shard(&lab, &n2, 0).await.unwrap();
    tx.commit().await.unwrap();
    let ranks: Vec<_> = db.store.read().await.unwrap().shards(&dev).await.unwrap();
    let ranks: Vec<_> = ranks.iter().map(|s| (s.rank, s.node_id.as_str())).collect();
    assert_eq!(ranks, [(0, n1.as_str()), (1, n2.as_str())]);
    for (overlay, node, rank) in [(&lab, &n1, 0), (&lab, &n2, 5)] {
        let mut tx = db.store.write().await.unwrap();
        assert!(tx.add_shard(overlay, node, rank).await.is_err(), "{rank} was given twice");
    }
}

async fn a_shard_is_known_to_exist_once_its_node_has_made_it(db: Db) {
    let alice = user(&db.store, "alice").await;
    let n1 = node(&db.store, 1).await.id;
    let mut tx = db.store.write().await.unwrap();
    let dev = tx.add_overlay(&alice, &"dev".parse().unwrap(), 1).await.unwrap();
    tx.add_shard(&dev, &n1, 0).await.unwrap();
    assert_eq!(tx.copies(Some(&n1)).await.unwrap(), []);
    tx.shard_mounted(&dev, &n1, "store", 4096, Some("minimal:latest"), 7).await.unwrap();
    // Later the overlay lies on the node, and another one runs there.
    tx.shard_mounted(&dev, &n1, "store", 8192, None, 9).await.unwrap();
    let [shard] = &tx.shards(&dev).await.unwrap()[..] else { panic!("it was made") };
    assert_eq!((shard.bytes, shard.last_used_at), (Some(8192), Some(7)));
    assert_eq!(shard.last_image.as_deref(), Some("minimal:latest"));
}

async fn what_a_given_up_disk_held_is_forgotten_and_ranks_are_kept(db: Db) {
    let alice = user(&db.store, "alice").await;
    let n1 = node(&db.store, 1).await.id;
    let mut tx = db.store.write().await.unwrap();
    let dev = tx.add_overlay(&alice, &"dev".parse().unwrap(), 1).await.unwrap();
    tx.add_shard(&dev, &n1, 3).await.unwrap();
    tx.shard_mounted(&dev, &n1, "store", 4096, None, 7).await.unwrap();
    tx.forget_shards(&n1).await.unwrap();
    assert_eq!(tx.copies(Some(&n1)).await.unwrap(), []);
    let [shard] = &tx.shards(&dev).await.unwrap()[..] else { panic!("the rank is gone") };
    assert_eq!((shard.rank, shard.bytes), (3, None));
}

async fn stores_change_places_with_all_that_is_in_them(db: Db) {
    let alice = user(&db.store, "alice").await;
    let (n1, n2) = (node(&db.store, 1).await.id, node(&db.store, 2).await.id);
    let mut tx = db.store.write().await.unwrap();
    let mut overlays = Vec::new();
    for name in ["both", "first", "unmade", "gone"] {
        overlays.push(tx.add_overlay(&alice, &name.parse().unwrap(), 1).await.unwrap());
    }
    let [both, first, unmade, gone] = &overlays[..] else { panic!("four") };
    for (overlay, node, rank) in
        [(both, &n1, 0), (both, &n2, 1), (first, &n1, 5), (unmade, &n1, 0), (unmade, &n2, 1)]
    {
        tx.add_shard(overlay, node, rank).await.unwrap();
    }
    tx.add_shard(gone, &n2, 0).await.unwrap();
    for (overlay, node, store) in
        [(both, &n1, "s1"), (both, &n2, "s2"), (first, &n1, "s1"), (gone, &n2, "s2")]
    {
        tx.shard_mounted(overlay, node, store, 1, None, 7).await.unwrap();
    }
    tx.remove_overlay(gone).await.unwrap();
    tx.set_store(&n1, Some("s1"), 4).await.unwrap();
    tx.set_store(&n2, Some("s2"), 7).await.unwrap();
    tx.commit().await.unwrap();
    // The second is to run with what the first had: it gets a rank to begin anew.
    want(&db.store, 1, &wanted("a", Some(first))).await;

    let (one, two) = (reread(&db.store, 1).await, reread(&db.store, 2).await);
    let mut tx = db.store.write().await.unwrap();
    tx.exchange_stores(&one, &two).await.unwrap();
    tx.commit().await.unwrap();
    let (one, two) = (reread(&db.store, 1).await, reread(&db.store, 2).await);
    assert_eq!((one.store_id.as_deref(), one.store_generation), (Some("s2"), 7));
    assert_eq!((two.store_id.as_deref(), two.store_generation), (Some("s1"), 4));
    let mut tx = db.store.read().await.unwrap();
    let mut all = Vec::new();
    for overlay in [both, first, unmade] {
        for shard in tx.shards(overlay).await.unwrap() {
            let on = if shard.node_id == n1 { 1 } else { 2 };
            all.push((shard.rank, on, shard.store_id));
        }
    }
    let (s1, s2) = (Some("s1".to_owned()), Some("s2".to_owned()));
    assert_eq!(
        all,
        [(0, 2, s1.clone()), (1, 1, s2), (5, 2, s1), (6, 1, None), (0, 1, None), (1, 2, None)]
    );
    assert_eq!(tx.removed_shards(&n1).await.unwrap(), std::slice::from_ref(gone));
    assert!(tx.removed_shards(&n2).await.unwrap().is_empty());
    let desired = tx.desired(&n1, one.generation).await.unwrap().expect("it was asked for");
    assert_eq!(desired.wanted.rank, 6, "the rank is the shard's");
}

async fn one_store_is_never_two_nodes(db: Db) {
    let (n1, n2) = (node(&db.store, 1).await.id, node(&db.store, 2).await.id);
    let mut tx = db.store.write().await.unwrap();
    tx.set_store(&n1, Some("s"), 1).await.unwrap();
    assert!(tx.set_store(&n2, Some("s"), 1).await.is_err());
}

async fn an_overlay_is_in_use_while_it_is_wanted_or_still_runs(db: Db) {
    node(&db.store, 1).await;
    want(&db.store, 1, &wanted("a", Some("dev"))).await;
    let users = async || db.store.read().await.unwrap().overlay_users("dev").await.unwrap();
    assert_eq!(users().await, ["n01"]);
    let node = reread(&db.store, 1).await;
    open(&db.store, &node, "b1", 10).await;
    want(&db.store, 1, &wanted("a", Some("other"))).await;
    assert_eq!(users().await, ["n01"], "its boot still lives");
    let mut tx = db.store.write().await.unwrap();
    tx.end_attempts(&node.id, 20).await.unwrap();
    tx.commit().await.unwrap();
    assert!(users().await.is_empty());
}

fn disk(name: &str, serial: Option<&str>) -> Disk {
    Disk {
        name: name.into(),
        serial: serial.map(str::to_owned),
        model: None,
        size: u64::MAX,
        state: DiskState::Other { looks_like: "ext4".into() },
    }
}

async fn a_claim_survives_the_next_look_at_the_disks_and_follows_the_serial(db: Db) {
    let id = node(&db.store, 1).await.id;
    let mut tx = db.store.write().await.unwrap();
    tx.set_disks(&id, &[disk("vdb", Some("S2")), disk("vda", None)], 1).await.unwrap();
    assert_eq!(tx.claim_disk(&id, "S1", true).await.unwrap(), 0);
    assert_eq!(tx.claim_disk(&id, "S2", true).await.unwrap(), 1);
    tx.set_disks(&id, &[disk("vdb", Some("S3")), disk("vdc", Some("S2"))], 2).await.unwrap();
    let found = tx.disks(&id).await.unwrap();
    let claims: Vec<_> = found.iter().map(|d| (d.disk.name.as_str(), d.claimed)).collect();
    assert_eq!(claims, [("vdb", false), ("vdc", true)]);
    assert_eq!((found[0].seen_at, &found[0].disk), (2, &disk("vdb", Some("S3"))));
    tx.claim_disk(&id, "S2", false).await.unwrap();
    assert!(tx.disks(&id).await.unwrap().iter().all(|d| !d.claimed));
}
