//! Nodes that ask netboot for a boot that nobody has begun: who is believed, and what comes of it.

use haas_api::agent::ShutdownHow;
use iscsi_target::{Admission, Exports as _, LoginRequest, Refusal, SessionObserver};

use super::{Targets, targets};
use crate::{
    images::manifest::target_name,
    lifecycle,
    model::{Attempt, AttemptState, Cause, Micros, SECOND},
    netboot::{
        boot_target::{BootTargets, DhcpKind, DhcpSeen, DhcpVerdict},
        firmware::Client,
    },
    testing::Bench,
};

use haas_api::agent::BootStage;

/// Long enough for everybody to have called who runs.
const LONG: Micros = 60 * SECOND;

/// A node with a BMC, n01, and one that only a person can switch, n02. Both are off.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.add_image("a").await;
    bench.give_disks().await;
    bench.add_nodes([1]).await;
    bench.add_node_by_hand(2).await;
    bench
}

/// The node's attempt, ready. Its agent was never heard of.
async fn runs(bench: &Bench, number: u8) -> Attempt {
    let attempt = bench.begin_boot(number).await;
    let attempt = bench.advance(&attempt, BootStage::Ready).await;
    assert_eq!(attempt.state, AttemptState::Ready);
    attempt
}

/// The node's firmware asks a haasd that has been up for so long. Whether it is offered a boot.
async fn asks(bench: &Bench, number: u8, up: Micros) -> bool {
    let seen = DhcpSeen {
        network: "lab".into(),
        mac: bench.node(number).await.boot_mac,
        kind: DhcpKind::Discover,
        client: Client::Ipxe,
        vendor_class: None,
        bmc: None,
        guid: None,
        hostname: None,
        relay: None,
        requested: None,
        ciaddr: None,
        server: None,
    };
    let targets = Targets::new(bench.context.clone()).up_for(up);
    matches!(targets.dhcp(seen).await, DhcpVerdict::Boot(..))
}

async fn last(bench: &Bench, number: u8) -> Attempt {
    let node = bench.node(number).await;
    let mut tx = bench.context.store.read().await.unwrap();
    tx.last_attempt(&node.id).await.unwrap().unwrap()
}

async fn says_goodbye(bench: &Bench, attempt: &Attempt, how: ShutdownHow) {
    let mut tx = bench.context.store.write().await.unwrap();
    let now = bench.context.clock.now();
    tx.agent_spoke(&attempt.node_id, &attempt.id, now).await.unwrap();
    tx.set_goodbye(&attempt.node_id, how).await.unwrap();
    tx.commit().await.unwrap();
}

/// What the target grants an attempt's initiator at its node's address; who counts its session.
async fn admitted(bench: &Bench, attempt: &Attempt) -> Option<std::sync::Arc<dyn SessionObserver>> {
    let row = bench.context.store.read().await.unwrap().images().await.unwrap().remove(0);
    let target = target_name(&row.digest);
    let peer = std::net::SocketAddr::from(([127, 77, 0, 1], 40_000));
    let request = LoginRequest { initiator: &attempt.initiator, target: &target, peer };
    match bench.context.exports.admit(&request) {
        Admission::Granted(grant) => grant.observer,
        Admission::Refused(refusal) => {
            assert_eq!(refusal, Refusal::NotAuthorized);
            None
        }
    }
}

#[tokio::test]
async fn a_boot_that_nobody_began_is_confirmed_only_where_nobody_could_have_begun_it() {
    let bench = bench().await;
    for (number, confirmed) in [(1, false), (2, true)] {
        let before = runs(&bench, number).await;
        assert!(lifecycle::is_confirmed(&bench.node(number).await, &before));
        assert!(asks(&bench, number, LONG).await, "its firmware must not turn to its disk");
        let attempt = last(&bench, number).await;
        assert_ne!(attempt.id, before.id);
        assert_eq!((attempt.cause, attempt.by_itself), (Cause::Unplanned, true));
        let node = bench.node(number).await;
        assert_eq!(lifecycle::is_confirmed(&node, &attempt), confirmed, "{}", node.name);
        assert!(asks(&bench, number, LONG).await);
        assert_eq!(last(&bench, number).await.id, attempt.id, "iPXE asks after the firmware");
    }
}

#[tokio::test]
async fn a_haasd_that_has_just_started_believes_nobody_who_may_run() {
    let bench = bench().await;
    let attempt = runs(&bench, 1).await;
    assert!(!asks(&bench, 1, targets::SESSIONS_CALL - SECOND).await, "it may call any moment");
    let session = admitted(&bench, &attempt).await.expect("its initiator may log in");
    session.opened();
    assert!(!asks(&bench, 1, targets::AGENTS_CALL - SECOND).await, "its kernel reads its root");
    assert_eq!(last(&bench, 1).await, attempt);
    session.closed();
    assert!(asks(&bench, 1, targets::SESSIONS_CALL).await, "nobody runs there");
    // A session that a crash has left is no sign of life later, when the agent is missed.
    let attempt = bench.advance(&last(&bench, 1).await, BootStage::Ready).await;
    admitted(&bench, &attempt).await.expect("it may").opened();
    assert!(asks(&bench, 1, targets::AGENTS_CALL).await);
}

#[tokio::test]
async fn a_node_that_its_own_root_reboots_is_left_to_its_bmc_unless_it_has_none() {
    let bench = bench().await;
    for (number, answered) in [(1, false), (2, true)] {
        let attempt = runs(&bench, number).await;
        says_goodbye(&bench, &attempt, ShutdownHow::Reboot).await;
        assert_eq!(asks(&bench, number, 0).await, answered, "node {number}");
        assert_eq!(last(&bench, number).await.id == attempt.id, !answered);
    }
}

#[tokio::test]
async fn a_boot_that_went_down_on_its_way_is_tried_again_from_off_and_reads_nothing_more() {
    let bench = bench().await;
    for (number, answered) in [(1, false), (2, true)] {
        let attempt = bench.begin_boot(number).await;
        let attempt = bench.advance(&attempt, BootStage::Agent).await;
        if number == 1 {
            assert!(admitted(&bench, &attempt).await.is_some());
        }
        assert_eq!(asks(&bench, number, LONG).await, answered, "node {number}");
        let mut tx = bench.context.store.read().await.unwrap();
        let lost = tx.attempt(&attempt.id).await.unwrap().unwrap();
        assert_eq!(lost.state, AttemptState::Failed);
        drop(tx);
        assert!(admitted(&bench, &attempt).await.is_none());
        assert_eq!(last(&bench, number).await.by_itself, answered, "node {number}");
    }
}

#[tokio::test]
async fn other_nodes_are_named_in_the_plan_to_mount_by_and_in_no_other() {
    let bench = Bench::new().await;
    bench.add_image("a").await;
    bench.add_nodes([1, 2]).await;
    let (context, attempt) = (&bench.context, bench.begin_boot(1).await);
    let named = async |attempt: &Attempt| {
        let plan = super::plan(context, attempt).await.unwrap().unwrap();
        let names: Vec<_> = plan.net.hosts.iter().map(|(_, name)| name.to_string()).collect();
        (plan.baseline, names)
    };
    assert_eq!(named(&attempt).await, (true, vec![]));
    let told = super::baseline_told(context, &attempt.id, Vec::new()).await.unwrap().unwrap();
    assert_eq!(told.net.hosts.len(), 2);
    // Another that has come since is named too.
    bench.add_nodes([3]).await;
    assert_eq!(named(&attempt).await, (false, ["n01", "n02", "n03"].map(str::to_owned).into()));
    let attempt = bench.advance(&attempt, BootStage::Overlay).await;
    assert_eq!(named(&attempt).await, (false, vec![]));
}
