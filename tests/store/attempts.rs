//! Boot attempts: one that lives per node, one token each, only forward.

use std::net::{IpAddr, Ipv4Addr};

use controller::model::{Attempt, AttemptState, Cause};
use haas_api::{
    agent::{BootStage, Failure, Kexec},
    check::{CheckReport, CheckState},
};

use crate::{
    promises::Db,
    samples::{attempt, node, open, want, wanted},
};

/// Where an agent calls from.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 11));

promises!(
    an_attempt_is_found_as_it_was_opened,
    an_attempt_that_an_older_haasd_opened_knows_no_secret,
    a_new_attempt_ends_the_one_before,
    many_that_open_at_once_leave_one_alive,
    one_that_stands_beside_is_the_nodes_own_when_its_kernel_was_started_and_not_before,
    a_token_is_spent_once_though_many_try,
    a_credential_whose_answer_was_lost_is_replaced,
    the_token_of_an_attempt_that_is_over_is_worthless,
    an_attempt_goes_only_forward,
    ready_is_adopted_and_open_is_not,
    what_is_over_is_not_failed_or_brought_back,
    failures_are_told_per_generation,
    bytes_add_up,
    ready_checks_are_kept_with_their_attempt,
    what_is_read_of_all_nodes_is_what_is_read_of_each,
);

async fn what_is_read_of_all_nodes_is_what_is_read_of_each(db: Db) {
    let failure = |code: &str| Failure::new(BootStage::Kernel, code, "nobody called");
    for number in 1..=3 {
        node(&db.store, number).await;
        want(&db.store, number, &wanted("a", None)).await;
    }
    // The first has failed twice and boots again, the second runs what was wanted before, and of the
    // third nothing has been booted yet.
    let first = crate::samples::reread(&db.store, 1).await;
    for (id, at) in [("one", 10), ("two", 20)] {
        open(&db.store, &first, id, at).await;
        let mut tx = db.store.write().await.unwrap();
        tx.fail_attempt(id, &failure(id), at + 1).await.unwrap();
        tx.commit().await.unwrap();
    }
    open(&db.store, &first, "three", 30).await;
    let second = crate::samples::reread(&db.store, 2).await;
    let runs = open(&db.store, &second, "runs", 10).await;
    let mut tx = db.store.write().await.unwrap();
    tx.spend_token("runs", "credential", HERE).await.unwrap();
    assert!(tx.advance(&runs, BootStage::Ready, 20).await.unwrap());
    tx.commit().await.unwrap();
    want(&db.store, 2, &wanted("b", None)).await;

    let mut tx = db.store.read().await.unwrap();
    let (desired, attempts) =
        (tx.all_desired().await.unwrap(), tx.all_last_attempts().await.unwrap());
    let (before, failures) =
        (tx.all_served_before().await.unwrap(), tx.all_failures().await.unwrap());
    assert!(tx.all_next_attempts().await.unwrap().is_empty());
    for node in tx.nodes().await.unwrap() {
        let last = tx.last_attempt(&node.id).await.unwrap();
        assert_eq!(attempts.get(&node.id), last.as_ref());
        let wanted = tx.desired(&node.id, node.generation).await.unwrap();
        assert_eq!(desired.get(&node.id), wanted.as_ref());
        let served = match last.filter(|last| last.generation != node.generation) {
            Some(last) => tx.desired(&node.id, last.generation).await.unwrap(),
            None => None,
        };
        assert_eq!(before.get(&node.id), served.as_ref());
        let why = tx.failures(&node.id, node.generation).await.unwrap();
        assert_eq!(failures.get(&node.id).cloned().unwrap_or_default(), why);
    }
    assert_eq!(failures[&first.id], [failure("one"), failure("two")]);
    assert_eq!(before.keys().collect::<Vec<_>>(), [&second.id]);
    let places = tx.node_places().await.unwrap();
    assert_eq!(places.len(), 3);
    assert!(places.iter().all(|place| place.present && place.store_id.is_none()));
}

async fn one_that_stands_beside_is_the_nodes_own_when_its_kernel_was_started_and_not_before(
    db: Db,
) {
    node(&db.store, 1).await;
    want(&db.store, 1, &wanted("a", None)).await;
    let node = crate::samples::reread(&db.store, 1).await;
    let runs = open(&db.store, &node, "runs", 10).await;
    let mut tx = db.store.write().await.unwrap();
    tx.spend_token("runs", "credential", HERE).await.unwrap();
    assert!(tx.advance(&runs, BootStage::Ready, 20).await.unwrap());
    let kexec = Kexec { machine: "x86_64".into(), memory_mib: 7, obstacle: None };
    tx.set_can_kexec("runs", Some(&kexec)).await.unwrap();
    tx.commit().await.unwrap();
    let beside = |id: &str, at| Attempt {
        cause: Cause::Kexec,
        kexec_of: Some("runs".into()),
        ..attempt(&node, id, at)
    };
    // The first one is given up.
    for (id, at) in [("first", 30), ("second", 40)] {
        let mut tx = db.store.write().await.unwrap();
        tx.open_beside(&beside(id, at), &format!("token of {id}")).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.store.read().await.unwrap();
        let last = tx.last_attempt(&node.id).await.unwrap().unwrap();
        assert_eq!((last.id.as_str(), last.can_kexec.as_ref()), ("runs", Some(&kexec)));
        let next = tx.next_attempt(&node.id).await.unwrap().unwrap();
        assert_eq!((next.id.as_str(), next.kexec_of.as_deref()), (id, Some("runs")));
        assert_eq!(tx.live_attempts().await.unwrap().len(), 2, "both may log in");
        drop(tx);
        if id == "first" {
            let mut tx = db.store.write().await.unwrap();
            tx.fail_attempt(id, &failure(), 35).await.unwrap();
            assert!(!tx.kexec_begun(&beside(id, at), 36).await.unwrap(), "it is over");
            tx.commit().await.unwrap();
            let mut tx = db.store.read().await.unwrap();
            assert_eq!(tx.next_attempt(&node.id).await.unwrap(), None);
            let last = tx.last_attempt(&node.id).await.unwrap().unwrap();
            assert_eq!((last.id.as_str(), last.state), ("runs", AttemptState::Ready));
        }
    }
    for is_news in [true, false] {
        let mut tx = db.store.write().await.unwrap();
        assert_eq!(tx.kexec_begun(&beside("second", 40), 50).await.unwrap(), is_news);
        tx.commit().await.unwrap();
        let mut tx = db.store.read().await.unwrap();
        let last = tx.last_attempt(&node.id).await.unwrap().unwrap();
        assert_eq!((last.id.as_str(), last.state), ("second", AttemptState::Open));
        assert_eq!((last.stage_since, last.counted_from), (50, 50));
        assert_eq!(tx.next_attempt(&node.id).await.unwrap(), None);
        let before = tx.attempt("runs").await.unwrap().unwrap();
        assert_eq!((before.state, before.ended_at), (AttemptState::Ended, Some(50)));
    }
}

async fn the(db: &Db, id: &str) -> Attempt {
    db.store.read().await.unwrap().attempt(id).await.unwrap().expect("it was opened")
}

pub(crate) fn failure() -> Failure {
    Failure {
        stage: BootStage::Dhcp,
        code: "no-script".into(),
        cause: "it hangs".into(),
        kernel_log: vec!["[0.0] panic".into()],
        retryable: true,
    }
}

async fn an_attempt_is_found_as_it_was_opened(db: Db) {
    let node = node(&db.store, 1).await;
    let opened = open(&db.store, &node, "b1", 10).await;
    assert!(opened.chap && !opened.by_itself);
    let mut tx = db.store.read().await.unwrap();
    assert_eq!(tx.attempt("b1").await.unwrap().as_ref(), Some(&opened));
    assert_eq!(tx.last_attempt(&node.id).await.unwrap().as_ref(), Some(&opened));
    assert_eq!(tx.attempt_by_token("token of b1").await.unwrap(), Some(opened));
    assert_eq!(tx.attempt_by_token("b1").await.unwrap(), None);
    assert_eq!(tx.attempt_by_credential("token of b1").await.unwrap(), None);
}

async fn an_attempt_that_an_older_haasd_opened_knows_no_secret(db: Db) {
    let node = node(&db.store, 1).await;
    db.execute(format!(
        "insert into attempts (id, node_id, generation, cause, state, stage, stage_since, stages,
           token_hash, agent_seq, initiator, opened_at, counted_from, boot_bytes, root_bytes)
         values ('old', '{}', 0, 'unplanned', 'ready', 'ready', 1, '[]', 'h', 9, 'iqn.x:old', 1, 1, 0, 0)",
        node.id
    ))
    .await;
    let old = the(&db, "old").await;
    assert!(!old.chap && !old.by_itself, "its node goes on as it is: {old:?}");
}

async fn a_new_attempt_ends_the_one_before(db: Db) {
    let (one, two) = (node(&db.store, 1).await, node(&db.store, 2).await);
    open(&db.store, &one, "b1", 10).await;
    open(&db.store, &two, "other", 10).await;
    open(&db.store, &one, "b2", 20).await;
    let before = the(&db, "b1").await;
    assert_eq!((before.state, before.ended_at), (AttemptState::Ended, Some(20)));
    let mut tx = db.store.read().await.unwrap();
    let mut live: Vec<_> = tx.live_attempts().await.unwrap().into_iter().map(|a| a.id).collect();
    live.sort();
    assert_eq!(live, ["b2", "other"]);
    let all: Vec<_> = tx.attempts_of(&one.id, 9).await.unwrap().into_iter().map(|a| a.id).collect();
    assert_eq!(all, ["b2", "b1"]);
    assert_eq!(tx.attempts_of(&one.id, 1).await.unwrap().len(), 1);
}

async fn many_that_open_at_once_leave_one_alive(db: Db) {
    let node = node(&db.store, 1).await;
    let other = db.again().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = if n % 2 == 0 { db.store.clone() } else { other.clone() };
        let attempt = attempt(&node, &format!("b{n}"), n);
        tasks.spawn(async move {
            let mut tx = store.write().await.unwrap();
            tx.open_attempt(&attempt, &attempt.id).await.unwrap();
            tokio::task::yield_now().await;
            tx.commit().await.unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(db.store.read().await.unwrap().live_attempts().await.unwrap().len(), 1);
    other.close().await;
}

async fn a_token_is_spent_once_though_many_try(db: Db) {
    let node = node(&db.store, 1).await;
    open(&db.store, &node, "b1", 10).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = db.store.clone();
        tasks.spawn(async move {
            let mut tx = store.write().await.unwrap();
            let won = tx.spend_token("b1", &format!("credential {n}"), HERE).await.unwrap();
            if won {
                tx.set_agent_seq("b1", 1).await.unwrap();
            }
            tx.commit().await.unwrap();
            won.then_some(n)
        });
    }
    let winners: Vec<i32> = tasks.join_all().await.into_iter().flatten().collect();
    let [winner] = winners[..] else { panic!("spent by {winners:?}") };
    let attempt = the(&db, "b1").await;
    assert!(attempt.token_spent);
    assert_eq!(attempt.agent_address, Some(HERE));
    let mut tx = db.store.read().await.unwrap();
    let found = tx.attempt_by_credential(&format!("credential {winner}")).await.unwrap();
    assert_eq!(found.map(|a| a.id).as_deref(), Some("b1"));
}

async fn a_credential_whose_answer_was_lost_is_replaced(db: Db) {
    let node = node(&db.store, 1).await;
    open(&db.store, &node, "b1", 10).await;
    let mut tx = db.store.write().await.unwrap();
    assert!(tx.spend_token("b1", "lost", HERE).await.unwrap());
    assert!(tx.spend_token("b1", "second", HERE).await.unwrap());
    assert!(tx.attempt_by_credential("lost").await.unwrap().is_none());
    tx.set_agent_seq("b1", 1).await.unwrap();
    assert!(!tx.spend_token("b1", "replayed", HERE).await.unwrap());
    assert!(tx.attempt_by_credential("second").await.unwrap().is_some());
}

async fn the_token_of_an_attempt_that_is_over_is_worthless(db: Db) {
    let node = node(&db.store, 1).await;
    open(&db.store, &node, "b1", 10).await;
    open(&db.store, &node, "b2", 20).await;
    let mut tx = db.store.write().await.unwrap();
    assert!(!tx.spend_token("b1", "credential", HERE).await.unwrap());
    tx.fail_attempt("b2", &failure(), 30).await.unwrap();
    assert!(!tx.spend_token("b2", "credential", HERE).await.unwrap());
    assert!(!tx.spend_token("never", "credential", HERE).await.unwrap());
}

async fn an_attempt_goes_only_forward(db: Db) {
    let node = node(&db.store, 1).await;
    let stale = open(&db.store, &node, "b1", 10).await;
    let mut tx = db.store.write().await.unwrap();
    tx.set_failure("b1", Some(&failure())).await.unwrap();
    assert!(tx.advance(&stale, BootStage::Script, 20).await.unwrap());
    let now = tx.attempt("b1").await.unwrap().unwrap();
    assert_eq!((now.stage, now.stage_since), (BootStage::Script, 20));
    assert_eq!(now.stages, [(BootStage::Power, 10), (BootStage::Script, 20)]);
    assert_eq!(now.failure, None, "a stage that is reached lifts what held it");
    for stage in [BootStage::Power, BootStage::Dhcp, BootStage::Script] {
        assert!(!tx.advance(&now, stage, 30).await.unwrap());
    }
    assert!(!tx.advance(&stale, BootStage::Kernel, 30).await.unwrap(), "somebody was first");
    assert!(tx.advance(&now, BootStage::Ready, 40).await.unwrap());
    let ready = tx.attempt("b1").await.unwrap().unwrap();
    assert_eq!((ready.state, ready.stage), (AttemptState::Ready, BootStage::Ready));
}

async fn ready_is_adopted_and_open_is_not(db: Db) {
    let node = node(&db.store, 1).await;
    let opened = open(&db.store, &node, "b1", 10).await;
    let mut tx = db.store.write().await.unwrap();
    tx.adopt_attempt("b1", 7).await.unwrap();
    assert_eq!(tx.attempt("b1").await.unwrap().unwrap().generation, 0);
    tx.advance(&opened, BootStage::Ready, 20).await.unwrap();
    tx.adopt_attempt("b1", 7).await.unwrap();
    assert_eq!(tx.attempt("b1").await.unwrap().unwrap().generation, 7);
}

async fn what_is_over_is_not_failed_or_brought_back(db: Db) {
    let node = node(&db.store, 1).await;
    let opened = open(&db.store, &node, "b1", 10).await;
    let mut tx = db.store.write().await.unwrap();
    tx.end_attempts(&node.id, 20).await.unwrap();
    tx.fail_attempt("b1", &failure(), 30).await.unwrap();
    assert!(!tx.advance(&opened, BootStage::Ready, 30).await.unwrap());
    tx.end_attempts(&node.id, 30).await.unwrap();
    let over = tx.attempt("b1").await.unwrap().unwrap();
    assert_eq!((over.state, over.ended_at), (AttemptState::Ended, Some(20)));
    assert_eq!(over.failure, None);
}

async fn failures_are_told_per_generation(db: Db) {
    node(&db.store, 1).await;
    for (generation, tries) in [(1, 2), (2, 1)] {
        want(&db.store, 1, &wanted("a", None)).await;
        let node = crate::samples::reread(&db.store, 1).await;
        for n in 0..tries {
            let id = format!("b{generation}{n}");
            open(&db.store, &node, &id, generation * 10 + n).await;
            let mut tx = db.store.write().await.unwrap();
            tx.fail_attempt(&id, &failure(), 99).await.unwrap();
            tx.commit().await.unwrap();
        }
        open(&db.store, &node, &format!("open{generation}"), 99 + generation).await;
        let mut tx = db.store.read().await.unwrap();
        let failures = tx.failures(&node.id, generation).await.unwrap();
        assert_eq!(failures, vec![failure(); usize::try_from(tries).unwrap()]);
    }
    let failed = the(&db, "b10").await;
    assert_eq!((failed.state, failed.failure), (AttemptState::Failed, Some(failure())));
}

async fn bytes_add_up(db: Db) {
    let node = node(&db.store, 1).await;
    open(&db.store, &node, "b1", 10).await;
    let mut tx = db.store.write().await.unwrap();
    for bytes in [1 << 40, 5] {
        tx.add_boot_bytes("b1", bytes).await.unwrap();
        tx.set_root_bytes("b1", bytes).await.unwrap();
    }
    tx.set_agent_seq("b1", 17).await.unwrap();
    tx.commit().await.unwrap();
    let now = the(&db, "b1").await;
    assert_eq!((now.boot_bytes, now.root_bytes, now.agent_seq), ((1 << 40) + 5, 5, 17));
}

async fn ready_checks_are_kept_with_their_attempt(db: Db) {
    let node = node(&db.store, 1).await;
    open(&db.store, &node, "b1", 10).await;
    let checks = vec![CheckReport {
        position: 0,
        command: vec!["sh".into(), "-c".into(), "it's 'x'".into()],
        within_s: 60,
        state: CheckState::Failed,
        runs: 7,
        outcome: "exit code 1".into(),
        exit_code: Some(1),
        took_ms: 12,
        output: "two\nlines\n".into(),
    }];
    let mut tx = db.store.write().await.unwrap();
    tx.set_checks("b1", &checks).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(the(&db, "b1").await.checks, checks);
    open(&db.store, &node, "b2", 20).await;
    assert!(the(&db, "b2").await.checks.is_empty());
}
