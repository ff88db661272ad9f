//! Nodes as the inventory names them, and what is seen of them and of strangers.

use controller::{
    model::{Ending, Fault, Power},
    store::DiscoveredRow,
};
use haas_api::agent::{Heartbeat, ShutdownHow};

use crate::{
    promises::Db,
    samples::{node, reread, spec, want, wanted},
};

promises!(
    a_new_node_is_unmanaged_and_nothing_is_wanted_of_it,
    a_removed_node_is_kept_and_comes_back_unmanaged,
    two_nodes_swap_their_nics_and_addresses,
    two_nodes_cannot_share_a_name_a_nic_or_an_address,
    a_failure_of_the_bmc_keeps_what_it_said_last_and_since_when_it_fails,
    something_new_that_is_wanted_lifts_fault_silence_and_hard_off,
    a_fault_of_an_older_generation_is_not_noted,
    an_agent_that_speaks_again_takes_its_goodbye_back,
    only_fewer_dirty_pages_count_as_falling,
    at_most_a_thousand_strangers_are_remembered_the_newest,
    a_stranger_that_the_inventory_names_is_none,
);

async fn a_new_node_is_unmanaged_and_nothing_is_wanted_of_it(db: Db) {
    let node = node(&db.store, 1).await;
    assert_eq!(node.spec, spec(1));
    assert_eq!((node.managed, node.present, node.generation), (false, true, 0));
    assert_eq!((node.power, node.power_at), (Power::Unknown, None));
    let mut tx = db.store.read().await.unwrap();
    assert_eq!(tx.desired(&node.id, 0).await.unwrap(), None);
    assert_eq!(tx.node_by_mac(node.boot_mac).await.unwrap(), Some(node));
}

async fn a_removed_node_is_kept_and_comes_back_unmanaged(db: Db) {
    let before = node(&db.store, 1).await;
    let mut tx = db.store.write().await.unwrap();
    tx.set_managed(&before.id, true).await.unwrap();
    tx.remove_node(&before.id).await.unwrap();
    assert_eq!(tx.node("n01").await.unwrap(), None);
    assert_eq!(tx.node_by_mac(before.boot_mac).await.unwrap(), None);
    assert_eq!(tx.nodes().await.unwrap(), []);
    assert_eq!(tx.all_nodes().await.unwrap().len(), 1);
    tx.set_spec(&before, &spec(1)).await.unwrap();
    tx.commit().await.unwrap();
    let after = reread(&db.store, 1).await;
    assert_eq!((after.id, after.managed), (before.id, false));
    assert!(after.version > before.version, "who read it before must notice");
}

async fn two_nodes_swap_their_nics_and_addresses(db: Db) {
    let (a, b) = (node(&db.store, 1).await, node(&db.store, 2).await);
    let (mut spec_a, mut spec_b) = (spec(1), spec(2));
    std::mem::swap(&mut spec_a.nics, &mut spec_b.nics);
    std::mem::swap(&mut spec_a.address, &mut spec_b.address);
    let mut tx = db.store.write().await.unwrap();
    for (node, _) in [(&a, &spec_a), (&b, &spec_b)] {
        tx.park_node(&node.id).await.unwrap();
    }
    for (node, spec) in [(&a, &spec_a), (&b, &spec_b)] {
        tx.set_spec(node, spec).await.unwrap();
    }
    tx.commit().await.unwrap();
    let after = reread(&db.store, 1).await;
    assert_eq!((after.boot_mac, after.address), (b.boot_mac, b.address));
}

async fn two_nodes_cannot_share_a_name_a_nic_or_an_address(db: Db) {
    node(&db.store, 1).await;
    let same_name = controller::inventory::NodeSpec { name: spec(1).name, ..spec(2) };
    let same_nic = controller::inventory::NodeSpec { nics: spec(1).nics, ..spec(2) };
    let same_address = controller::inventory::NodeSpec { address: spec(1).address, ..spec(2) };
    for clash in [same_name, same_nic, same_address] {
        let mut tx = db.store.write().await.unwrap();
        assert!(tx.add_node(&clash, 1).await.is_err(), "{clash:?}");
    }
}

async fn a_failure_of_the_bmc_keeps_what_it_said_last_and_since_when_it_fails(db: Db) {
    let id = node(&db.store, 1).await.id;
    let seen = [
        (Ok(Power::On), 10, (Power::On, Some(10), None, None)),
        (Err("no route".to_owned()), 20, (Power::On, Some(10), Some("no route"), Some(20))),
        (Err("no answer".to_owned()), 30, (Power::On, Some(10), Some("no answer"), Some(20))),
        (Ok(Power::Off), 40, (Power::Off, Some(40), None, None)),
    ];
    for (said, at, (power, power_at, error, failed_at)) in seen {
        let mut tx = db.store.write().await.unwrap();
        tx.set_power(&id, said, at).await.unwrap();
        tx.commit().await.unwrap();
        let node = reread(&db.store, 1).await;
        assert_eq!((node.power, node.power_at), (power, power_at));
        assert_eq!((node.power_error.as_deref(), node.power_failed_at), (error, failed_at));
    }
}

async fn something_new_that_is_wanted_lifts_fault_silence_and_hard_off(db: Db) {
    let id = node(&db.store, 1).await.id;
    for (ending, after) in [(Ending::Hard, None), (Ending::Acpi, Some((Ending::Acpi, 9)))] {
        let generation = reread(&db.store, 1).await.generation;
        let fault = Fault::new(generation, "x", "y");
        let mut tx = db.store.write().await.unwrap();
        tx.set_fault(&id, &fault).await.unwrap();
        tx.set_power(&id, Err("no answer".into()), 5).await.unwrap();
        tx.set_ending(&id, Some((ending, 9))).await.unwrap();
        tx.commit().await.unwrap();
        let node = reread(&db.store, 1).await;
        assert_eq!((node.fault, node.ending), (Some(fault), Some((ending, 9))));
        want(&db.store, 1, &wanted("a", None)).await;
        let node = reread(&db.store, 1).await;
        assert_eq!((node.fault, node.power_failed_at, node.ending), (None, None, after));
    }
}

async fn a_fault_of_an_older_generation_is_not_noted(db: Db) {
    let id = node(&db.store, 1).await.id;
    want(&db.store, 1, &wanted("a", None)).await;
    let late = Fault::new(0, "x", "y");
    let mut tx = db.store.write().await.unwrap();
    tx.set_fault(&id, &late).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(reread(&db.store, 1).await.fault, None);
}

async fn an_agent_that_speaks_again_takes_its_goodbye_back(db: Db) {
    let id = node(&db.store, 1).await.id;
    let mut tx = db.store.write().await.unwrap();
    tx.agent_spoke(&id, "boot-1", 5).await.unwrap();
    tx.set_heartbeat(&id, &Heartbeat::default(), false, 5).await.unwrap();
    tx.set_goodbye(&id, ShutdownHow::Reboot).await.unwrap();
    let gone = tx.node_by_id(&id).await.unwrap().unwrap();
    assert_eq!((gone.goodbye, gone.heartbeat), (Some(ShutdownHow::Reboot), None));
    tx.agent_spoke(&id, "boot-2", 6).await.unwrap();
    let back = tx.node_by_id(&id).await.unwrap().unwrap();
    assert_eq!((back.goodbye, back.agent_at), (None, Some(6)));
    assert_eq!(back.agent_attempt.as_deref(), Some("boot-2"));
}

async fn only_fewer_dirty_pages_count_as_falling(db: Db) {
    let id = node(&db.store, 1).await.id;
    let mut tx = db.store.write().await.unwrap();
    for (fell, at, expected) in [(false, 5, None), (true, 6, Some(6)), (false, 7, Some(6))] {
        tx.set_heartbeat(&id, &Heartbeat::default(), fell, at).await.unwrap();
        assert_eq!(tx.node_by_id(&id).await.unwrap().unwrap().dirty_fell_at, expected);
    }
}

fn stranger(number: u32, last_seen: i64) -> DiscoveredRow {
    let [_, _, high, low] = number.to_be_bytes();
    DiscoveredRow {
        mac: format!("52:54:00:00:{high:02x}:{low:02x}").parse().unwrap(),
        kind: "node".into(),
        description: "PXEClient".into(),
        network: "lab".into(),
        first_seen: last_seen,
        last_seen,
    }
}

async fn at_most_a_thousand_strangers_are_remembered_the_newest(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    for number in 0..1_010 {
        tx.seen(&stranger(number, i64::from(number))).await.unwrap();
    }
    // Seen before, and now again: it is the newest.
    tx.seen(&DiscoveredRow { first_seen: 5_000, ..stranger(20, 5_000) }).await.unwrap();
    let found = tx.discovered().await.unwrap();
    assert_eq!(found.len(), 1_000);
    assert_eq!((found[0].first_seen, found[0].last_seen), (20, 5_000));
    assert_eq!(found.last().unwrap().last_seen, 10);
}

async fn a_stranger_that_the_inventory_names_is_none(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    tx.seen(&stranger(1, 5)).await.unwrap();
    tx.seen(&stranger(2, 6)).await.unwrap();
    tx.add_node(&spec(1), 7).await.unwrap();
    assert_eq!(tx.discovered().await.unwrap(), [stranger(2, 6)]);
}
