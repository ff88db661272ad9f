//! What nodes are made of: the last that was told of each.

use controller::{
    power::{BmcReport, SelReport},
    store::{AskedRow, HealthRow},
};
use haas_api::hardware::{BmcInfo, Cpu, Health, Inventory, Level, SelEntry, Sensor};

use crate::{promises::Db, samples::node};

promises!(
    what_was_told_last_of_a_nodes_hardware_is_kept,
    a_bmc_that_cannot_be_asked_takes_nothing_away,
    what_nodes_draw_is_summed_up_over_those_that_told_it_lately,
);

fn inventory(cores: u32) -> Inventory {
    Inventory { cpus: vec![Cpu { cores, ..Cpu::default() }], memory: 7, ..Inventory::default() }
}

async fn what_was_told_last_of_a_nodes_hardware_is_kept(db: Db) {
    let (one, two) = (node(&db.store, 1).await, node(&db.store, 2).await);
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.hardware(&one.id).await.unwrap().inventory, None);
    tx.set_inventory(&one.id, &inventory(4), "b1", 10).await.unwrap();
    tx.set_inventory(&one.id, &inventory(8), "b2", 20).await.unwrap();
    let health = Health { level: Level::Warning, reasons: vec!["hot".to_owned()] };
    tx.set_health(&one.id, &health).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.store.read().await.unwrap();
    let row = tx.hardware(&one.id).await.unwrap();
    assert_eq!(row.inventory, Some((inventory(8), 20)));
    assert_eq!(row.inventory_boot.as_deref(), Some("b2"));
    assert_eq!(row.health, health);
    let all = tx.healths().await.unwrap();
    let HealthRow { health: known, summary, watts } = &all[&one.id];
    assert_eq!((known, summary.as_ref().unwrap().cores, *watts), (&health, 8, None));
    assert!(!all.contains_key(&two.id), "nothing was told of it");
}

async fn a_bmc_that_cannot_be_asked_takes_nothing_away(db: Db) {
    let one = node(&db.store, 1).await;
    let sensor = Sensor { name: "CPU".to_owned(), value: Some(45.5), ..Sensor::default() };
    let entry = SelEntry { id: 3, ..SelEntry::default() };
    let sel = SelReport { total: 1, used_percent: Some(2), items: vec![entry] };
    let info = BmcInfo { protocol: "IPMI 2.0".to_owned(), ..BmcInfo::default() };
    let report = BmcReport {
        info: info.clone(),
        sensors: vec![sensor.clone()],
        watts: Some(212),
        sel: sel.clone(),
    };
    let mut tx = db.store.write().await.unwrap();
    tx.set_bmc(&one.id, &report, 10).await.unwrap();
    assert_eq!(tx.hardware(&one.id).await.unwrap().watts, Some(212));
    tx.set_bmc_error(&one.id, "silent", 20).await.unwrap();
    tx.set_clear(&one.id, Some("admin")).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.store.write().await.unwrap();
    let row = tx.hardware(&one.id).await.unwrap();
    assert_eq!((row.bmc, row.sensors, row.sel), (Some(info), vec![sensor], sel));
    assert_eq!(row.watts, None, "what it draws is of the moment");
    assert_eq!((row.bmc_at, row.bmc_error.as_deref()), (Some(10), Some("silent")));
    let asked = AskedRow { asked_at: Some(20), clear_by: Some("admin".to_owned()) };
    assert_eq!(tx.bmcs_asked().await.unwrap()[&one.id], asked);
    tx.set_bmc(&one.id, &report, 30).await.unwrap();
    tx.set_clear(&one.id, None).await.unwrap();
    let row = tx.hardware(&one.id).await.unwrap();
    assert_eq!((row.bmc_error, row.clear_by, row.bmc_at), (None, None, Some(30)));
}

async fn what_nodes_draw_is_summed_up_over_those_that_told_it_lately(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.drawn_since(0).await.unwrap(), (0, 0));
    drop(tx);
    for (number, watts, at) in [(1, Some(212), 10), (2, Some(300), 20), (3, None, 20)] {
        let id = node(&db.store, number).await.id;
        let mut tx = db.store.write().await.unwrap();
        let report = BmcReport { watts, ..BmcReport::default() };
        tx.set_bmc(&id, &report, at).await.unwrap();
        tx.commit().await.unwrap();
        let row = db.store.read().await.unwrap().healths().await.unwrap()[&id].clone();
        assert_eq!(row.watts, watts);
    }
    let mut tx = db.store.read().await.unwrap();
    assert_eq!(tx.drawn_since(0).await.unwrap(), (512, 2));
    assert_eq!(tx.drawn_since(15).await.unwrap(), (300, 1));
}
