//! What a node must not reach, and whether it does: BMCs, and ports of the controller that are none of
//! nodes' business. Its agent tries before any code of the image or a user runs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use haas_api::agent::{BootStage, Door, DoorKind, Failure};
use serde_json::json;
use tracing::warn;

use super::event;
use crate::{
    config::{Network, Reach},
    context::Context,
    hardware,
    inventory::PowerSpec,
    model::{Attempt, AttemptState, Node},
    store::{NodePlace, Result, Tx},
};

/// BMCs of other nodes that one boot tries: over the boots of a rack all have their turn, and none is asked
/// by hundreds of nodes at once.
const OTHERS: usize = 7;

/// What this boot's agent tries to reach. None of it is a secret: a node's user could try as well.
pub(super) async fn to_try(
    context: &Context,
    tx: &mut Tx,
    places: &[NodePlace],
    node: &Node,
    network: &Network,
    attempt: &Attempt,
) -> Result<Vec<Door>> {
    if context.config.reachability.check == Reach::Off {
        return Ok(Vec::new());
    }
    let others: Vec<_> =
        places.iter().filter(|one| one.present && one.id != node.id).map(|one| &one.id).collect();
    let turn = attempt.id.bytes().map(usize::from).sum::<usize>();
    let first = turn.checked_rem(others.len()).unwrap_or(0);
    let mut doors = of_bmc(node);
    for id in others.iter().cycle().skip(first).take(others.len().min(OTHERS)) {
        if let Some(other) = tx.node_by_id(id).await? {
            doors.extend(of_bmc(&other));
        }
    }
    for at in ports(context, node, network) {
        let what = format!("port {} of the controller", at.port());
        doors.push(Door { address: at.ip(), port: at.port(), kind: DoorKind::Tcp, what });
    }
    // From a node loopback leads nowhere but to itself.
    doors.retain(|door| !door.address.is_loopback());
    Ok(doors)
}

fn of_bmc(node: &Node) -> Vec<Door> {
    let what = format!("the BMC of {}", node.name);
    let door = |address: IpAddr, port, kind| Door { address, port, kind, what: what.clone() };
    match &node.spec.power {
        PowerSpec::Ipmi { address, port, .. } => {
            vec![door(*address, *port, DoorKind::Rmcp), door(*address, 443, DoorKind::Tcp)]
        }
        PowerSpec::Redfish(spec) => vec![
            door(spec.address, spec.port, DoorKind::Tcp),
            door(spec.address, 623, DoorKind::Rmcp),
        ],
        PowerSpec::Exec { .. } | PowerSpec::Manual => Vec::new(),
    }
}

/// Ports of the controller: those of the configuration, and where metrics are, if the node may not read
/// them.
fn ports(context: &Context, node: &Node, network: &Network) -> BTreeSet<SocketAddr> {
    let controller = IpAddr::V4(network.controller);
    let named = context.config.reachability.controller_ports.iter();
    let mut ports: BTreeSet<_> = named.map(|port| SocketAddr::new(controller, *port)).collect();
    let metrics = &context.config.metrics;
    let may_read = node.address.is_some_and(|address| metrics.may_read(IpAddr::V4(address)));
    if !may_read {
        ports.extend(metrics.listen.iter().map(|at| match at.ip().is_unspecified() {
            true => SocketAddr::new(controller, at.port()),
            false => *at,
        }));
    }
    ports
}

/// Notes what an attempt's agent has reached of that.
pub async fn reaches(context: &Context, attempt: &str, doors: &[Door]) -> Result<()> {
    let mut tx = context.store.write().await?;
    // From the overlay on users are on the node, and may speak in its agent's name.
    let is_early = |a: &Attempt| a.state == AttemptState::Open && a.stage < BootStage::Overlay;
    let Some(attempt) = tx.attempt(attempt).await?.filter(is_early) else { return Ok(()) };
    let mut words: Vec<_> = doors.iter().take(64).map(in_words).collect();
    words.sort();
    words.dedup();
    tx.set_reaches(&attempt.node_id, &words, &attempt.id).await?;
    let node = tx.node_by_id(&attempt.node_id).await?;
    if !words.is_empty() {
        let data = json!({ "boot": attempt.id, "reaches": words });
        let node = event(&mut tx, &attempt, "node-reaches", data).await?;
        warn!(node, boot = %attempt.id, ?words, "the node reaches what it must not");
    }
    if let Some(node) = node {
        hardware::reckon(&mut tx, &node).await?;
    }
    tx.commit().await?;
    context.changed();
    Ok(())
}

fn in_words(door: &Door) -> String {
    let protocol = match door.kind {
        DoorKind::Tcp => "TCP",
        DoorKind::Rmcp => "RMCP",
    };
    let what: String = door.what.chars().filter(|c| !c.is_control()).take(80).collect();
    format!("{what} at {} ({protocol})", SocketAddr::new(door.address, door.port))
}

/// Where the configuration wants it so: why nobody is let in on a node that reaches something, or has not
/// told.
pub(super) async fn failure(
    context: &Context,
    tx: &mut Tx,
    attempt: &Attempt,
) -> Result<Option<Failure>> {
    if context.config.reachability.check != Reach::Refuse {
        return Ok(None);
    }
    let failure = |code: &str, cause: String| Failure::new(BootStage::Overlay, code, cause);
    let row = tx.hardware(&attempt.node_id).await?;
    Ok(if row.reaches_boot.as_ref() != Some(&attempt.id) {
        let cause = "its agent goes on, and has not told what the node reaches".to_owned();
        Some(failure("reach-not-told", cause))
    } else if row.reaches.is_empty() {
        None
    } else {
        let cause = format!(
            "it reaches {}; keep nodes off that by the switch or a firewall, or say [reachability] check = \
             \"warn\"",
            row.reaches.join(", ")
        );
        Some(failure("reaches", cause))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        boots::{plan, reached},
        hardware::health_of,
        testing::Bench,
    };

    async fn bench(check: Reach) -> (Bench, Attempt) {
        let bench = Bench::with(|config| {
            config.reachability.check = check;
            // Doors are in the plan behind it.
            config.baseline.check = false;
        })
        .await;
        for number in 1..=12 {
            let bmc = SocketAddr::from(([10, 9, 0, number], 623));
            bench.add_node_with_bmc(number, bmc).await;
        }
        bench.add_image("a").await;
        let attempt = bench.begin_boot(1).await;
        (bench, attempt)
    }

    async fn doors(bench: &Bench, attempt: &Attempt) -> Vec<Door> {
        plan(&bench.context, attempt).await.unwrap().unwrap().doors
    }

    #[tokio::test]
    async fn a_boot_tries_its_own_bmc_some_others_and_the_controllers_other_ports() {
        let (bench, attempt) = bench(Reach::Warn).await;
        let doors = doors(&bench, &attempt).await;
        let own = |door: &&Door| door.what == "the BMC of n01";
        assert_eq!(doors.iter().filter(own).count(), 2, "IPMI and HTTPS: {doors:?}");
        let bmcs: BTreeSet<_> =
            doors.iter().filter(|d| d.what.contains("BMC")).map(|d| d.address).collect();
        assert_eq!(bmcs.len(), 1 + OTHERS);
        // The controller of this bench is on loopback, which is not tried.
        assert!(doors.iter().all(|door| !door.address.is_loopback()));
        let (off, attempt) = self::bench(Reach::Off).await;
        assert_eq!(self::doors(&off, &attempt).await, []);
    }

    async fn stage(bench: &Bench, attempt: &Attempt) -> (BootStage, Option<String>) {
        reached(&bench.context, &attempt.id, BootStage::Overlay).await.unwrap();
        let mut tx = bench.context.store.read().await.unwrap();
        let now = tx.attempt(&attempt.id).await.unwrap().unwrap();
        (now.stage, now.failure.map(|failure| failure.code))
    }

    #[tokio::test]
    async fn what_is_reached_is_a_warning_and_nobody_is_kept_out_for_it() {
        let (bench, attempt) = bench(Reach::Warn).await;
        let open = doors(&bench, &attempt).await.remove(0);
        reaches(&bench.context, &attempt.id, &[open]).await.unwrap();
        let health = health_of(&bench.context, "n01").await;
        let told = "reaches the BMC of n01 at 10.9.0.1:623 (RMCP)";
        assert!(health.reasons.contains(&told.to_owned()), "{health:?}");
        assert!(bench.event_kinds().await.contains(&"node-reaches".to_owned()));
        assert_eq!(stage(&bench, &attempt).await, (BootStage::Overlay, None));
        // Once users may be there, nobody says that it is better by now.
        reaches(&bench.context, &attempt.id, &[]).await.unwrap();
        assert_eq!(health_of(&bench.context, "n01").await, health);
    }

    #[tokio::test]
    async fn where_it_is_refused_nobody_is_let_in_before_it_is_proved() {
        let (bench, attempt) = bench(Reach::Refuse).await;
        let held = |code: &str| (BootStage::Power, Some(code.to_owned()));
        assert_eq!(stage(&bench, &attempt).await, held("reach-not-told"));
        let open = doors(&bench, &attempt).await.remove(0);
        reaches(&bench.context, &attempt.id, &[open]).await.unwrap();
        assert_eq!(stage(&bench, &attempt).await, held("reaches"));
        reaches(&bench.context, &attempt.id, &[]).await.unwrap();
        assert_eq!(stage(&bench, &attempt).await.0, BootStage::Overlay);
    }
}
