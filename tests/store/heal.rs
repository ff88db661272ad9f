//! Nodes out of service, what was tried with them, and what haasd did by itself.

use controller::{
    model::{
        BootTimes, Drain, DrainState, Ending, Given, HookCall, IdleOff, SECOND, Silence, Tried,
    },
    power::BmcReport,
};
use haas_api::agent::BootStage;

use crate::{
    promises::Db,
    samples::{digest, node, open, reread, want, wanted},
};

promises!(
    a_node_is_out_of_service_until_it_is_resumed,
    what_was_tried_holds_until_something_else_is_wanted_or_it_is_ready,
    what_a_node_was_given_stays_with_its_boot,
    a_drain_hooks_time_counts_from_its_first_call_for_a_state,
    actions_by_itself_are_counted_from_the_last_back_and_forgotten_after_a_day,
    each_start_of_haasd_has_a_later_epoch,
    the_time_off_for_idleness_ends_with_the_next_state,
    what_is_saved_is_what_a_node_drew_while_it_was_idle_times_the_time,
);

async fn a_node_is_out_of_service_until_it_is_resumed(db: Db) {
    let before = node(&db.store, 1).await;
    let drain = Drain {
        state: DrainState::Maintenance,
        reason: "new DIMM".into(),
        actor: "bob".into(),
        since: 5,
        generation: 3,
    };
    for drain in [Some(&drain), None] {
        let mut tx = db.store.write().await.unwrap();
        tx.set_drain(&before.id, drain).await.unwrap();
        tx.commit().await.unwrap();
        let after = reread(&db.store, 1).await;
        assert_eq!(after.drain.as_ref(), drain);
        assert!(after.version > before.version, "who read it before must notice");
    }
}

async fn what_was_tried_holds_until_something_else_is_wanted_or_it_is_ready(db: Db) {
    let id = node(&db.store, 1).await.id;
    let tried = [Tried { what: "hard-off".into(), at: 5, error: Some("no answer".into()) }];
    let again = async || {
        let mut tx = db.store.write().await.unwrap();
        tx.set_tried(&id, &tried).await.unwrap();
        tx.set_ending(&id, Some((Ending::BmcReset, 5))).await.unwrap();
        tx.set_silence(&id, Some(Silence::Unreachable)).await.unwrap();
        tx.set_hardware_faults(&id, 2).await.unwrap();
        tx.commit().await.unwrap();
        let node = reread(&db.store, 1).await;
        assert_eq!((node.tried.as_slice(), node.hardware_faults), (&tried[..], 2));
        assert_eq!(node.silence, Some(Silence::Unreachable));
    };
    again().await;
    want(&db.store, 1, &wanted("a", None)).await;
    let node = reread(&db.store, 1).await;
    assert_eq!((node.tried.len(), node.ending, node.hardware_faults), (0, None, 2));
    again().await;
    let mut times = BootTimes::default();
    times.add(&[(BootStage::Firmware, 1), (BootStage::Ready, 9)]);
    let mut tx = db.store.write().await.unwrap();
    tx.set_boot_times(&id, &times).await.unwrap();
    tx.commit().await.unwrap();
    let node = reread(&db.store, 1).await;
    assert_eq!((node.tried.len(), node.hardware_faults), (0, 0));
    assert_eq!(node.boot_times, times);
}

async fn a_drain_hooks_time_counts_from_its_first_call_for_a_state(db: Db) {
    let id = node(&db.store, 1).await.id;
    let asked = async |generation, at| {
        let mut tx = db.store.write().await.unwrap();
        tx.hook_asked(&id, generation, at).await.unwrap();
        tx.commit().await.unwrap();
        db.store.read().await.unwrap().hook_call(&id).await.unwrap().unwrap()
    };
    let answered = async |generation, goes_on, said| {
        let mut tx = db.store.write().await.unwrap();
        tx.hook_answered(&id, generation, goes_on, said).await.unwrap();
        tx.commit().await.unwrap();
        db.store.read().await.unwrap().hook_call(&id).await.unwrap().unwrap()
    };
    assert_eq!(db.store.read().await.unwrap().hook_call(&id).await.unwrap(), None);
    let first = asked(2, 10).await;
    let expected =
        HookCall { generation: 2, since: 10, asked_at: 10, goes_on: false, said: String::new() };
    assert_eq!(first, expected);
    answered(2, false, "2 jobs").await;
    let again = asked(2, 40).await;
    assert_eq!((again.since, again.asked_at, again.said.as_str()), (10, 40, "2 jobs"));
    assert!(answered(2, true, "").await.goes_on);
    // The answer for an older state comes late.
    let next = asked(3, 50).await;
    assert_eq!((next.since, next.goes_on, next.said.as_str()), (50, false, ""));
    assert!(!answered(2, true, "").await.goes_on);
    // No clock may begin before it.
    assert!(db.store.read().await.unwrap().latest_steady().await.unwrap() >= 50);
}

async fn what_a_node_was_given_stays_with_its_boot(db: Db) {
    let node = node(&db.store, 1).await;
    let attempt = open(&db.store, &node, "boot-1", 1).await;
    let given = Given {
        image: digest("image"),
        kernel: digest("kernel"),
        initramfs: digest("initramfs"),
        agent: digest("agent"),
        cmdline: "ro quiet".into(),
        script: "#!ipxe".into(),
    };
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.given(&attempt.id).await.unwrap(), None);
    tx.set_given(&attempt.id, &given).await.unwrap();
    assert_eq!(tx.given(&attempt.id).await.unwrap(), Some(given));
    assert_eq!(tx.given("none").await.unwrap(), None);
    assert_eq!(tx.last_attempt(&node.id).await.unwrap().map(|a| a.epoch), Some(7));
}

async fn actions_by_itself_are_counted_from_the_last_back_and_forgotten_after_a_day(db: Db) {
    let id = node(&db.store, 1).await.id;
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.auto_action_back(1).await.unwrap(), None);
    for at in [10, 30, 20] {
        tx.add_auto_action(&id, "hard-off", 1, at * SECOND).await.unwrap();
    }
    for (back, at) in [(1, Some(30)), (2, Some(20)), (3, Some(10)), (4, None)] {
        assert_eq!(tx.auto_action_back(back).await.unwrap(), at.map(|at: i64| at * SECOND));
    }
    tx.add_auto_action(&id, "hard-off", 1, 90_000 * SECOND).await.unwrap();
    assert_eq!(tx.auto_action_back(2).await.unwrap(), None);
}

async fn each_start_of_haasd_has_a_later_epoch(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    tx.set_cluster("lab", "boot-1", 5, 1).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.store.begin_epoch().await.unwrap(), 1);
    let other = db.again().await;
    assert_eq!(other.begin_epoch().await.unwrap(), 2);
    assert_eq!(db.store.read().await.unwrap().epoch().await.unwrap(), 2);
    other.close().await;
}

async fn the_time_off_for_idleness_ends_with_the_next_state(db: Db) {
    let id = node(&db.store, 1).await.id;
    let mut idle = wanted("a", None);
    (idle.power_on, idle.cause) = (false, "idle".into());
    for (wanted, at) in
        [(wanted("a", None), 1), (idle.clone(), 10), (wanted("b", None), 25), (idle, 40)]
    {
        let node = reread(&db.store, 1).await;
        let mut tx = db.store.write().await.unwrap();
        tx.add_desired(&node, &wanted, at * SECOND).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = db.store.read().await.unwrap();
    let off = tx.idle_off(&id, 47 * SECOND).await.unwrap();
    assert_eq!((off.time, off.joules), ((15 + 7) * SECOND, 0), "nobody knows what it drew");
}

async fn what_is_saved_is_what_a_node_drew_while_it_was_idle_times_the_time(db: Db) {
    let mut idle = wanted("a", None);
    (idle.power_on, idle.cause) = (false, "idle".into());
    for (number, told_at) in [(1, 5), (2, 5), (3, 2)] {
        let node = node(&db.store, number).await;
        let mut tx = db.store.write().await.unwrap();
        if number != 2 {
            let report = BmcReport { watts: Some(200), ..BmcReport::default() };
            tx.set_bmc(&node.id, &report, told_at * SECOND).await.unwrap();
        }
        let generation = tx.add_desired(&node, &idle, 10 * SECOND).await.unwrap();
        // Idle since 3: what was told before says what it drew for somebody.
        tx.note_idle_watts(&node.id, generation, 3 * SECOND).await.unwrap();
        tx.commit().await.unwrap();
    }
    let first = reread(&db.store, 1).await;
    let mut tx = db.store.write().await.unwrap();
    // What it draws while it is off is not what it saves.
    let report = BmcReport { watts: Some(7), ..BmcReport::default() };
    tx.set_bmc(&first.id, &report, 20 * SECOND).await.unwrap();
    let off = tx.idle_off(&first.id, 70 * SECOND).await.unwrap();
    assert_eq!(off, IdleOff { time: 60 * SECOND, joules: 12_000 });
    let all = tx.idle_off_of_all(70 * SECOND).await.unwrap();
    assert_eq!(all, IdleOff { time: 180 * SECOND, joules: 12_000 });
}
