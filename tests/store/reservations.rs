//! Queues and reservations, and that whoever was first is not overwritten.

use std::sync::Arc;

use controller::{
    auth::Granted,
    model::{Assigned, ImageWanted, Node, Reservation},
    store::{
        CopyRow, GrantTo, MaintenanceRow, NewGrantRow, QueueRow, StepRow, Store, StoreError, Tx,
        Used,
    },
};
use haas_api::{
    agent::BootStage,
    grant::GrantRole,
    hardware::Inventory,
    queue::QueueSpec,
    reservation::{OnNodeLoss, ReasonCode, ReservationState},
};

use crate::{
    attempts::failure,
    promises::Db,
    samples::{attempt, digest, node, open, reread, user, want, wanted},
};

promises!(
    queues_come_each_behind_the_one_above_it,
    a_queue_goes_with_its_grants,
    a_reservation_is_found_as_it_was_written,
    who_changes_a_reservation_that_somebody_changed_is_told,
    what_plans_are_made_from_is_counted,
    a_node_is_lent_while_its_reservation_has_it,
    what_is_over_is_past_use,
    what_was_read_before_is_never_taken_for_what_is,
    node_hours_are_those_within_the_time_that_is_asked_for,
    maintenance_is_there_until_it_is_over_and_changes_plans,
    copies_are_those_whose_owners_have_not_agreed,
    the_line_of_time_is_kept_in_order,
    nodes_stand_as_is_wanted_and_as_they_run,
    how_nodes_stood_is_never_taken_for_how_they_stand,
    places_that_were_never_made_are_forgotten_where_nothing_wants_them,
    the_image_that_ran_over_an_overlay_is_known_by_the_name_that_was_asked_for,
);

fn queue(name: &str, parent: Option<&str>) -> QueueRow {
    let parent = parent.map(|name| name.parse().unwrap());
    let spec = QueueSpec { parent, ..QueueSpec::named(name.parse().unwrap()) };
    QueueRow { spec, from_file: false }
}

fn sample(state: ReservationState, nodes: Vec<Assigned>) -> Reservation {
    Reservation {
        id: 0,
        version: 1,
        state,
        code: ReasonCode::OverlayInUse,
        reason: "another has it".into(),
        owner_id: "owner".into(),
        tenant: "tenant".into(),
        queue: "default".parse().unwrap(),
        count: 2,
        walltime: 3_600_000_000,
        is_advance: true,
        among: Some(vec!["x".into()]),
        image: ImageWanted { digest: digest("a"), name: "a:latest".into() },
        follow_tag: true,
        overlay_id: Some("overlay".into()),
        on_node_loss: OnNodeLoss::Shrink,
        submitted_at: 5,
        start_at: Some(10),
        end_at: Some(20),
        ready_at: None,
        warned: false,
        actor: "alice".into(),
        key: None,
        request: "digest".into(),
        nodes,
    }
}

fn assigned(node_id: &str, rank: u32, generation: i64, lost: bool) -> Assigned {
    Assigned { node_id: node_id.into(), rank, generation, lost }
}

async fn add(store: &Store, one: &Reservation) -> Reservation {
    let mut tx = store.write().await.unwrap();
    let id = tx.add_reservation(one).await.unwrap();
    tx.commit().await.unwrap();
    read(store, id).await
}

async fn read(store: &Store, id: i64) -> Reservation {
    store.read().await.unwrap().reservation(id).await.unwrap().expect("it was added")
}

async fn queues_come_each_behind_the_one_above_it(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    for row in [queue("z", None), queue("a", Some("z")), queue("m", Some("a"))] {
        tx.set_queue(&row).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut tx = db.store.read().await.unwrap();
    let names: Vec<_> =
        tx.queues().await.unwrap().into_iter().map(|row| row.spec.name.to_string()).collect();
    assert_eq!(names, ["default", "z", "a", "m"], "the first one is there from the start");
    assert_eq!(tx.queue(&"m".parse().unwrap()).await.unwrap(), Some(queue("m", Some("a"))));
    assert_eq!(tx.queue(&"n".parse().unwrap()).await.unwrap(), None);
}

async fn a_queue_goes_with_its_grants(db: Db) {
    let alice = user(&db.store, "alice").await;
    let object = Granted::Queue("gpu".parse().unwrap());
    let to = GrantTo::Account { id: alice.clone(), name: "alice".parse().unwrap() };
    let mut tx = db.store.write().await.unwrap();
    tx.set_queue(&queue("gpu", None)).await.unwrap();
    let role = GrantRole::Use;
    let new = NewGrantRow { to: &to, object: &object, role, actor: "admin", at: 1 };
    tx.add_grant(new).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.powers(&alice).await.unwrap().grants.get(&object), Some(&role));
    assert_eq!(tx.grants().await.unwrap()[0].object, object);
    assert!(tx.remove_queue(&"gpu".parse().unwrap()).await.unwrap());
    assert!(!tx.remove_queue(&"gpu".parse().unwrap()).await.unwrap());
    assert_eq!(tx.powers(&alice).await.unwrap().grants.len(), 0);
}

async fn a_reservation_is_found_as_it_was_written(db: Db) {
    let (one, two) = (node(&db.store, 1).await, node(&db.store, 2).await);
    let nodes = vec![assigned(&one.id, 0, 7, true), assigned(&two.id, 0, 0, false)];
    let new = Reservation { key: Some("k".into()), ..sample(ReservationState::Active, nodes) };
    let found = add(&db.store, &new).await;
    assert_eq!(found, Reservation { id: found.id, ..new.clone() });
    let other = add(&db.store, &sample(ReservationState::Ended, Vec::new())).await;
    assert_eq!(other.id, found.id + 1);
    let mut tx = db.store.read().await.unwrap();
    let by_key = tx.reservation_by_key("owner", "k").await.unwrap();
    assert_eq!(by_key.map(|one| one.id), Some(found.id));
    assert_eq!(tx.reservation_by_key("somebody", "k").await.unwrap(), None);
    let ids = |list: Vec<Reservation>| list.into_iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!(ids(tx.live_reservations().await.unwrap()), [found.id]);
    assert_eq!(ids(tx.reservations(10).await.unwrap()), [other.id, found.id]);
    assert_eq!(ids(tx.reservations(1).await.unwrap()), [other.id]);
    let images = tx.reservations_of_image(&digest("a")).await.unwrap();
    assert_eq!(images, [found.id], "what is over boots nothing");
    assert_eq!(tx.reservation(99).await.unwrap(), None);
}

async fn who_changes_a_reservation_that_somebody_changed_is_told(db: Db) {
    let one = node(&db.store, 1).await;
    let before = add(&db.store, &sample(ReservationState::Pending, Vec::new())).await;
    let after = Reservation {
        state: ReservationState::Planned,
        nodes: vec![assigned(&one.id, 0, 0, false)],
        warned: true,
        ..before.clone()
    };
    let mut tx = db.store.write().await.unwrap();
    tx.set_reservation(&after).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(read(&db.store, before.id).await, Reservation { version: 2, ..after });
    let mut tx = db.store.write().await.unwrap();
    let late = tx.set_reservation(&before).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
}

async fn what_plans_are_made_from_is_counted(db: Db) {
    let count = async || db.store.read().await.unwrap().calendar_changes().await.unwrap();
    let first = count().await;
    let one = add(&db.store, &sample(ReservationState::Pending, Vec::new())).await;
    let second = count().await;
    assert!(second > first);
    let mut tx = db.store.write().await.unwrap();
    tx.set_reservation(&one).await.unwrap();
    tx.commit().await.unwrap();
    let third = count().await;
    assert!(third > second);
    let mut tx = db.store.write().await.unwrap();
    tx.set_queue(&queue("gpu", None)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(count().await > third);
}

async fn a_node_is_lent_while_its_reservation_has_it(db: Db) {
    let ids: Vec<String> =
        [node(&db.store, 1).await.id, node(&db.store, 2).await.id, node(&db.store, 3).await.id]
            .into();
    let nodes = vec![
        assigned(&ids[0], 0, 3, false),
        assigned(&ids[1], 1, 3, true),
        assigned(&ids[2], 2, 0, false),
    ];
    let one = add(&db.store, &sample(ReservationState::Starting, nodes)).await;
    let lent = async |id: &str| db.store.read().await.unwrap().lent_to(id).await.unwrap();
    assert_eq!(lent(&ids[0]).await.as_deref(), Some("tenant"));
    assert_eq!(lent(&ids[1]).await, None, "it is lost");
    assert_eq!(lent(&ids[2]).await, None, "it is only promised");
    let mut tx = db.store.write().await.unwrap();
    let over = Reservation { state: ReservationState::Ending, ..one };
    tx.set_reservation(&over).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(lent(&ids[0]).await, None);
}

async fn what_is_over_is_past_use(db: Db) {
    let first = add(&db.store, &sample(ReservationState::Ended, Vec::new())).await;
    add(&db.store, &sample(ReservationState::Active, Vec::new())).await;
    let never = Reservation { start_at: None, ..sample(ReservationState::Failed, Vec::new()) };
    add(&db.store, &never).await;
    let mut tx = db.store.read().await.unwrap();
    let held = tx.held_before(19).await.unwrap();
    let used = Used {
        id: first.id,
        owner_id: "owner".into(),
        queue: "default".into(),
        nodes: 2,
        start_at: 10,
        end_at: 20,
    };
    assert_eq!(held, [Arc::new(used)]);
    assert_eq!(tx.held_before(20).await.unwrap(), []);
    assert_eq!(tx.held_before(19).await.unwrap(), held, "as far back as before");
}

async fn the_line_of_time_is_kept_in_order(db: Db) {
    let one = add(&db.store, &sample(ReservationState::Pending, Vec::new())).await;
    let steps: Vec<StepRow> = [("submitted", ReasonCode::Submitted), ("active", ReasonCode::Ready)]
        .into_iter()
        .map(|(what, code)| StepRow { at: 3, what: what.into(), code, detail: "x".into() })
        .collect();
    let mut tx = db.store.write().await.unwrap();
    for step in &steps {
        tx.add_step(one.id, step).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut tx = db.store.read().await.unwrap();
    assert_eq!(tx.steps(one.id).await.unwrap(), steps);
    assert_eq!(tx.steps(one.id + 1).await.unwrap(), []);
}

async fn nodes_stand_as_is_wanted_and_as_they_run(db: Db) {
    node(&db.store, 1).await;
    let two = node(&db.store, 2).await;
    assert_eq!(db.store.read().await.unwrap().standings().await.unwrap().len(), 0);
    want(&db.store, 2, &wanted("a", None)).await;
    let node = reread(&db.store, 2).await;
    let attempt = crate::samples::open(&db.store, &node, "b1", 40).await;
    want(&db.store, 2, &wanted("b", None)).await;
    let standings = db.store.read().await.unwrap().standings().await.unwrap();
    assert_eq!(standings.len(), 1);
    let standing = &standings[&two.id];
    assert_eq!((standing.power_on, standing.tenant.as_str()), (true, "tenant-id"));
    let runs = standing.runs.as_ref().expect("it boots");
    assert_eq!((runs.is_ready, runs.opened_at, runs.generation), (false, 40, 1));
    assert_eq!(runs.image, Some(digest("a")), "what it runs, not what is wanted by now");
    let mut tx = db.store.write().await.unwrap();
    tx.end_attempts(&attempt.node_id, 50).await.unwrap();
    assert_eq!(tx.standings().await.unwrap()[&two.id].runs, None);
}

/// One that knows from before how nodes stand against one that knows nothing, after each change there is.
async fn how_nodes_stood_is_never_taken_for_how_they_stand(db: Db) {
    let stands = async |what: &str| {
        let (mut warm, again) = (db.store.read().await.unwrap(), db.again().await);
        let mut cold = again.read().await.unwrap();
        let (standings, summaries) =
            (warm.standings().await.unwrap(), warm.summaries().await.unwrap());
        assert_eq!(standings, cold.standings().await.unwrap(), "{what}");
        assert_eq!(summaries, cold.summaries().await.unwrap(), "{what}");
        standings.values().map(|standing| (**standing).clone()).next()
    };
    node(&db.store, 1).await;
    assert_eq!(stands("added").await, None);
    want(&db.store, 1, &wanted("a", None)).await;
    let wanted_first = stands("wanted").await.unwrap();
    assert_eq!((wanted_first.power_on, wanted_first.runs), (true, None));
    let node = reread(&db.store, 1).await;
    let first = open(&db.store, &node, "b1", 10).await;
    assert!(!stands("opened").await.unwrap().runs.unwrap().is_ready);
    let mut tx = db.store.write().await.unwrap();
    tx.advance(&first, BootStage::Script, 20).await.unwrap();
    let script = tx.attempt("b1").await.unwrap().unwrap();
    tx.advance(&script, BootStage::Ready, 30).await.unwrap();
    assert!(tx.standings().await.unwrap()[&node.id].runs.as_ref().unwrap().is_ready);
    tx.commit().await.unwrap();
    assert!(stands("ready").await.unwrap().runs.unwrap().is_ready);
    let generation = want(&db.store, 1, &wanted("a", None)).await;
    assert_eq!(stands("wanted anew").await.unwrap().runs.unwrap().generation, 1);
    let mut tx = db.store.write().await.unwrap();
    tx.adopt_attempt("b1", generation).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stands("adopted").await.unwrap().runs.unwrap().generation, generation);
    let node = reread(&db.store, 1).await;
    let mut next = attempt(&node, "b2", 40);
    next.kexec_of = Some("b1".into());
    let mut tx = db.store.write().await.unwrap();
    tx.open_beside(&next, "token of b2").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stands("beside").await.unwrap().runs.unwrap().opened_at, 10);
    let mut tx = db.store.write().await.unwrap();
    assert!(tx.kexec_begun(&next, 50).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(stands("kexec").await.unwrap().runs.unwrap().opened_at, 40);
    let mut tx = db.store.write().await.unwrap();
    tx.fail_attempt("b2", &failure(), 60).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stands("failed").await.unwrap().runs, None);
    open(&db.store, &node, "b3", 70).await;
    assert!(stands("opened again").await.unwrap().runs.is_some());
    let mut tx = db.store.write().await.unwrap();
    tx.end_attempts(&node.id, 80).await.unwrap();
    drop(tx);
    assert!(stands("taken back").await.unwrap().runs.is_some());
    let mut tx = db.store.write().await.unwrap();
    tx.end_attempts(&node.id, 80).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stands("ended").await.unwrap().runs, None);
    let mut tx = db.store.write().await.unwrap();
    tx.set_inventory(&node.id, &Inventory { memory: 7, ..Inventory::default() }, "b3", 80)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    stands("first told of").await;
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.summaries().await.unwrap()[&node.id].memory, 7);
    tx.set_inventory(&node.id, &Inventory::default(), "b4", 90).await.unwrap();
    tx.commit().await.unwrap();
    stands("told of anew").await;
    let mut tx = db.store.write().await.unwrap();
    tx.remove_node(&node.id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stands("gone").await, None);
}

async fn places_that_were_never_made_are_forgotten_where_nothing_wants_them(db: Db) {
    let alice = user(&db.store, "alice").await;
    let ids =
        [node(&db.store, 1).await.id, node(&db.store, 2).await.id, node(&db.store, 3).await.id];
    let mut tx = db.store.write().await.unwrap();
    let overlay = tx.add_overlay(&alice, &"dev".parse().unwrap(), 1).await.unwrap();
    for (id, rank) in ids.iter().zip(0..) {
        tx.add_shard(&overlay, id, rank).await.unwrap();
    }
    tx.shard_mounted(&overlay, &ids[0], "store", 1, None, 1).await.unwrap();
    tx.commit().await.unwrap();
    want(&db.store, 2, &wanted("a", Some(&overlay))).await;
    let mut tx = db.store.write().await.unwrap();
    tx.forget_unmade_shards(&overlay).await.unwrap();
    let left: Vec<_> =
        tx.shards(&overlay).await.unwrap().into_iter().map(|shard| shard.node_id).collect();
    assert_eq!(left, ids[..2], "one has data, one is about to");
}

async fn the_image_that_ran_over_an_overlay_is_known_by_the_name_that_was_asked_for(db: Db) {
    let alice = user(&db.store, "alice").await;
    node(&db.store, 1).await;
    let mut tx = db.store.write().await.unwrap();
    let overlay = tx.add_overlay(&alice, &"dev".parse().unwrap(), 1).await.unwrap();
    tx.add_image(&digest("a"), "manifest", 1).await.unwrap();
    tx.commit().await.unwrap();
    want(&db.store, 1, &wanted("a", Some(&overlay))).await;
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.image_over(&overlay, "a").await.unwrap(), Some(digest("a")));
    assert_eq!(tx.image_over(&overlay, "b").await.unwrap(), None);
    tx.remove_image(&digest("a")).await.unwrap();
    assert_eq!(tx.image_over(&overlay, "a").await.unwrap(), None);
}

/// What plans are made from, as a transaction sees it.
async fn seen(tx: &mut Tx) -> (Vec<Reservation>, Vec<Arc<Used>>, Vec<Node>) {
    let (live, past) = (tx.live_reservations().await.unwrap(), tx.held_before(12).await.unwrap());
    (live, past, tx.all_nodes().await.unwrap())
}

/// One that knows everything from before against one that knows nothing, after each of many changes.
async fn what_was_read_before_is_never_taken_for_what_is(db: Db) {
    use ReservationState::{Active, Cancelled, Ended, Ending, Failed, Pending};
    let (one, two) = (node(&db.store, 1).await, node(&db.store, 2).await);
    let mut ids = Vec::new();
    // Two readers of old: what they see does not change while others write.
    let mut of_old = None;
    for step in 0..60_i64 {
        if step % 7 == 0 {
            let (mut warm, mut cold) = (db.store.read().await, db.again().await.read().await);
            for tx in [&mut warm, &mut cold] {
                tx.as_mut().unwrap().calendar_changes().await.unwrap();
            }
            of_old = Some((warm.unwrap(), cold.unwrap()));
        }
        let mut tx = db.store.write().await.unwrap();
        if step % 3 == 0 {
            ids.push(tx.add_reservation(&sample(Pending, Vec::new())).await.unwrap());
        }
        let place = usize::try_from(step * 5).unwrap() % ids.len();
        let now = tx.reservation(ids[place]).await.unwrap().unwrap();
        let state = match now.state {
            Pending if step % 4 == 0 => Cancelled,
            Pending => Active,
            Active if step % 2 == 0 => Ending,
            Active => Failed,
            Ending => Ended,
            over => {
                let late = tx.set_reservation(&Reservation { state: over, ..now }).await;
                assert!(matches!(late, Err(StoreError::Conflict(_))), "what is over stays so");
                if step % 3 == 0 {
                    ids.pop();
                }
                continue;
            }
        };
        let nodes = vec![assigned(&one.id, 0, step, false)];
        let changed = Reservation { state, nodes, end_at: Some(step), ..now };
        tx.set_reservation(&changed).await.unwrap();
        let which = if step % 2 == 0 { &one.id } else { &two.id };
        tx.set_hardware_faults(which, step).await.unwrap();
        // Whoever writes sees what he wrote, and where it is taken back nobody else ever does.
        let (own, _, nodes) = seen(&mut tx).await;
        assert!(nodes.iter().any(|node| node.id == *which && node.hardware_faults == step));
        let is_live = matches!(state, Pending | Active | Ending);
        assert_eq!(
            own.iter().any(|one| one.id == changed.id && one.nodes == changed.nodes),
            is_live
        );
        if step % 5 != 4 {
            tx.commit().await.unwrap();
        } else if step % 3 == 0 {
            drop(tx);
            ids.pop();
        }
        let again = db.again().await;
        let fresh = seen(&mut again.read().await.unwrap()).await;
        assert_eq!(seen(&mut db.store.read().await.unwrap()).await, fresh, "step {step}");
        if step % 7 == 4
            && let Some((mut warm, mut cold)) = of_old.take()
        {
            assert_eq!(seen(&mut warm).await, seen(&mut cold).await, "step {step}, of old");
            assert_eq!(seen(&mut db.store.read().await.unwrap()).await, fresh, "step {step}");
        }
    }
}

async fn node_hours_are_those_within_the_time_that_is_asked_for(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let one = Reservation { id: 7, ..sample(ReservationState::Active, Vec::new()) };
    let other = Reservation { id: 8, owner_id: "other".into(), ..one.clone() };
    for node in ["x", "y"] {
        tx.node_given(&one, node, ("alice", "vision"), 100).await.unwrap();
    }
    tx.node_back(7, "x", 200).await.unwrap();
    // What is back already is not given back once more.
    tx.node_back(7, "x", 900).await.unwrap();
    tx.node_given(&other, "x", ("bob", "vision"), 250).await.unwrap();
    let mut used = async |begin, end, now| {
        let rows = tx.used(begin, end, now).await.unwrap();
        let shown = rows.into_iter().map(|row| (row.user, row.project, row.reservations, row.held));
        shown.collect::<Vec<_>>()
    };
    let line = |user: &str, held: i64| (user.to_owned(), "vision".to_owned(), 1u64, held);
    assert_eq!(used(0, 1_000, 300).await, [line("alice", 300), line("bob", 50)]);
    assert_eq!(used(150, 180, 300).await, [line("alice", 60)]);
    assert_eq!(used(0, 100, 300).await, []);
    assert_eq!(used(400, 500, 300).await, []);
}

async fn maintenance_is_there_until_it_is_over_and_changes_plans(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let before = tx.calendar_changes().await.unwrap();
    let window = |begin_at| MaintenanceRow {
        id: 0,
        nodes: vec!["x".into(), "y".into()],
        begin_at,
        end_at: begin_at + 10,
        reason: "a fan".into(),
        actor: "admin".into(),
    };
    let later = tx.add_maintenance(&window(50)).await.unwrap();
    let first = tx.add_maintenance(&window(5)).await.unwrap();
    assert_ne!(tx.calendar_changes().await.unwrap(), before);
    let (first, later) =
        (MaintenanceRow { id: first, ..window(5) }, MaintenanceRow { id: later, ..window(50) });
    assert_eq!(tx.maintenance(14).await.unwrap(), [first.clone(), later.clone()]);
    let id = later.id;
    assert_eq!(tx.maintenance(15).await.unwrap(), [later]);
    assert!(tx.remove_maintenance(id).await.unwrap());
    assert!(!tx.remove_maintenance(id).await.unwrap());
    assert_eq!(tx.maintenance(0).await.unwrap(), [first]);
}

async fn copies_are_those_whose_owners_have_not_agreed(db: Db) {
    let alice = user(&db.store, "alice").await;
    let (x, y) = (node(&db.store, 1).await, node(&db.store, 2).await);
    let mut tx = db.store.write().await.unwrap();
    let own = tx.add_overlay(&alice, &"own".parse().unwrap(), 1).await.unwrap();
    let shared = tx.add_overlay(&alice, &"shared".parse().unwrap(), 1).await.unwrap();
    tx.set_shares_disk(&shared, true).await.unwrap();
    for overlay in [&own, &shared] {
        for (node, rank) in [(&x, 0), (&y, 1)] {
            tx.add_shard(overlay, &node.id, rank).await.unwrap();
        }
        tx.shard_mounted(overlay, &x.id, "store", 1, None, 1).await.unwrap();
    }
    // A place that was never made holds nothing.
    let copy = CopyRow { node_id: x.id.clone(), overlay_id: own.clone(), owner_id: alice.clone() };
    assert_eq!(tx.copies(None).await.unwrap(), tx.copies(Some(&x.id)).await.unwrap());
    assert_eq!(tx.copies(Some(&x.id)).await.unwrap(), [copy]);
    assert_eq!(tx.copies(Some(&y.id)).await.unwrap(), []);
}
