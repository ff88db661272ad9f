//! What other machines on the nodes' networks do: DHCP servers that are not ours, machines that
//! have a node's address. haasd cannot mend it, so a person is told, by events and by the boot that
//! it holds.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
};

use haas_api::{
    agent::{AddressLease, BootStage, Failure},
    names::Mac,
};
use serde_json::json;
use tracing::{info, warn};

use crate::{
    clock,
    config::Network,
    context::Context,
    model::{Attempt, AttemptState, Micros, Node, SECOND},
    netboot::boot_target::{DhcpKind, DhcpSeen, Hindrance},
    store::{NewEvent, Result, Tx},
};

/// What was told of other servers lately: each of their clients would have it told again.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<(String, Ipv4Addr, bool), Micros>>);

impl Told {
    /// Whether it is to be told now.
    pub(super) fn is_due(
        &self,
        network: &str,
        server: Ipv4Addr,
        refused: bool,
        now: Micros,
    ) -> bool {
        const AGAIN: Micros = 600 * SECOND;
        const MOST: usize = 64;
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now - *at < AGAIN);
        let key = (network.to_owned(), server, refused);
        // Whoever names a new server in each request must not fill memory and events.
        if told.contains_key(&key) || told.len() >= MOST {
            return false;
        }
        told.insert(key, now);
        true
    }
}

/// Another DHCP server answers in a network whose addresses haasd gives.
pub(super) async fn other_server(
    context: &Context,
    network: &Network,
    server: Ipv4Addr,
    refused: bool,
) -> Result<()> {
    let (name, interface) = (&network.name, &network.interface);
    let data = json!({ "network": name, "interface": interface, "server": server, "refused": refused,
        "cause": other_server_words(server) });
    add(context, "other-dhcp-server", None, data).await
}

fn other_server_words(server: Ipv4Addr) -> String {
    format!(
        "another DHCP server, {server}, answers in this network: switch it off there, or set dhcp = \"proxy\" in \
         haasd.toml, or probe = false to answer beside it"
    )
}

/// A client found that another machine has the address that we gave it.
pub(super) async fn declined(context: &Context, mac: Mac, address: Ipv4Addr) -> Result<()> {
    warn!(%mac, %address, "declined: another machine has this address");
    let node = context.store.read().await?.node_by_mac(mac).await?;
    let data = json!({ "address": address, "mac": mac });
    add(context, "address-declined", node.as_ref(), data).await
}

/// Holds the boot of a node that is not answered. Says whether there is a reason not to.
pub(super) async fn hindered(context: &Context, mac: Mac, why: Hindrance) -> Result<bool> {
    let mut tx = context.store.read().await?;
    let Some(node) = tx.node_by_mac(mac).await? else { return Ok(true) };
    let attempt = tx.last_attempt(&node.id).await?;
    drop(tx);
    let (code, cause) = match why {
        Hindrance::AddressTaken(_, owner) if node.spec.owns(owner).is_some() => return Ok(false),
        Hindrance::AddressTaken(address, owner) => (
            "address-taken",
            format!(
                "another machine, {owner}, answers for {address}, the address of {}: find it and give it \
                 another one, or give the node another one in nodes.toml",
                node.name
            ),
        ),
        Hindrance::OtherServer(server) => ("other-dhcp-server", other_server_words(server)),
    };
    hold(context, attempt.as_ref(), code, cause).await?;
    Ok(true)
}

/// Takes note of the address that a booting node takes from the server of a `proxy` network. The
/// inventory's own address is never changed by it: the boot is held.
pub(super) async fn leased(
    context: &Context,
    node: &Node,
    attempt: &Attempt,
    network: &Network,
    seen: &DhcpSeen,
) -> Result<()> {
    let Some(address) = seen.requested.or(seen.ciaddr).filter(|_| seen.kind == DhcpKind::Request)
    else {
        return Ok(());
    };
    let server = seen.server.map_or_else(|| "of the network".to_owned(), |s| s.to_string());
    if !network.cidr.contains(&address) {
        let cause = format!(
            "the DHCP server {server} gives {} the address {address}, which is not in the network {} ({}): \
             correct cidr in haasd.toml, or that server",
            node.name, network.name, network.cidr
        );
        return hold(context, Some(attempt), "other-address", cause).await;
    }
    if let Some(own) = node.spec.address {
        if own == address {
            return Ok(());
        }
        let cause = format!(
            "the DHCP server {server} gives {} the address {address}, nodes.toml says {own}: reserve {own} for {} \
             there, or leave the address out in nodes.toml",
            node.name, node.boot_mac
        );
        return hold(context, Some(attempt), "other-address", cause).await;
    }
    if node.address == Some(address) {
        return Ok(());
    }
    let mut tx = context.store.write().await?;
    if let Some(other) =
        tx.all_nodes().await?.into_iter().find(|n| n.address == Some(address) && n.id != node.id)
    {
        if has_address_in_use(&mut tx, &other).await? {
            drop(tx);
            let cause = format!(
                "the DHCP server {server} gives {} the address {address}, with which {} runs: give each node \
                 its own there",
                node.name, other.name
            );
            return hold(context, Some(attempt), "other-address", cause).await;
        }
        tx.set_address(&other.id, None).await?;
    }
    tx.set_address(&node.id, Some(address)).await?;
    tx.commit().await?;
    // Its initiator logs in from there.
    context.exports.reload(&context.store).await?;
    info!(node = %node.name, boot = %attempt.id, %address, server, "has a leased address");
    Ok(())
}

/// Whether another node may not get this node's address: it is the inventory's, or something runs
/// with it.
async fn has_address_in_use(tx: &mut Tx, node: &Node) -> Result<bool> {
    let attempt = tx.last_attempt(&node.id).await?;
    let runs = attempt.is_some_and(|a| a.ended_at.is_none() && a.state == AttemptState::Ready);
    Ok(node.spec.address.is_some() || (runs && node.goodbye.is_none()))
}

/// What the agent of a node, by id, says of its address's lease, where that is something new.
pub async fn lease_seen(
    context: &Context,
    node: &str,
    before: Option<&AddressLease>,
    now: Option<&AddressLease>,
) -> Result<()> {
    let trouble = |lease: Option<&AddressLease>| lease.and_then(|l| l.trouble.clone());
    let Some(now) = now.filter(|_| trouble(before) != trouble(now)) else { return Ok(()) };
    let Some(node) = context.store.read().await?.node_by_id(node).await? else { return Ok(()) };
    let server = now.server;
    match &now.trouble {
        Some(cause) => {
            warn!(node = %node.name, cause, "the lease of a running node's address is in trouble");
            add(context, "lease-trouble", Some(&node), json!({ "cause": cause })).await
        }
        None => add(context, "lease-held", Some(&node), json!({ "server": server })).await,
    }
}

async fn hold(
    context: &Context,
    attempt: Option<&Attempt>,
    code: &str,
    cause: String,
) -> Result<()> {
    let Some(attempt) = attempt.filter(|a| a.state == AttemptState::Open) else { return Ok(()) };
    let failure = Failure {
        retryable: true,
        ..Failure::new(attempt.stage.max(BootStage::Dhcp), code, cause)
    };
    super::held(context, &attempt.id, &failure).await
}

async fn add(
    context: &Context,
    kind: &str,
    node: Option<&Node>,
    data: serde_json::Value,
) -> Result<()> {
    let name = node.map(|node| node.name.to_string());
    let mut tx = context.store.write().await?;
    let (at, node) = (clock::wall(), name.as_deref());
    tx.add_event(NewEvent { at, kind, node, operation: None, actor: "haasd", data, tenant: None })
        .await?;
    tx.commit().await?;
    context.told();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        boots::Targets,
        config::DhcpMode,
        netboot::{
            boot_target::{BootTargets, DhcpVerdict},
            firmware::Client,
        },
        testing::{Bench, network},
    };

    const SERVER: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 253);

    async fn proxied() -> Bench {
        let bench = Bench::on(Network { dhcp: DhcpMode::Proxy, ..network() }).await;
        bench.add_image("a").await;
        bench
    }

    /// iPXE on a node takes the other server's offer of this address; what haasd makes of it.
    async fn takes(bench: &Bench, number: u8, address: Ipv4Addr) -> DhcpVerdict {
        let node = bench.node(number).await;
        let seen = DhcpSeen {
            network: "lab".into(),
            mac: node.boot_mac,
            kind: DhcpKind::Request,
            client: Client::Ipxe,
            vendor_class: None,
            bmc: None,
            guid: None,
            hostname: None,
            relay: None,
            requested: Some(address),
            ciaddr: None,
            server: Some(SERVER),
        };
        Targets::new(bench.context.clone()).dhcp(seen).await
    }

    async fn held_for(bench: &Bench, attempt: &Attempt) -> Option<Failure> {
        let mut tx = bench.context.store.read().await.unwrap();
        tx.attempt(&attempt.id).await.unwrap().unwrap().failure
    }

    #[tokio::test]
    async fn a_node_without_an_address_has_what_the_other_server_gave_it_last() {
        let bench = proxied().await;
        for number in [1, 2] {
            bench.add_node_without_address(number).await;
        }
        let attempt = bench.begin_boot(1).await;
        for last in [50, 51] {
            let verdict = takes(&bench, 1, [127, 77, 0, last].into()).await;
            assert!(matches!(verdict, DhcpVerdict::Boot(..)), "{verdict:?}");
            assert_eq!(bench.node(1).await.address, Some([127, 77, 0, last].into()));
        }
        assert_eq!(held_for(&bench, &attempt).await, None);
        // n01 has not come up with it, and the server gives it to another.
        bench.begin_boot(2).await;
        takes(&bench, 2, [127, 77, 0, 51].into()).await;
        assert_eq!(bench.node(2).await.address, Some([127, 77, 0, 51].into()));
        assert_eq!(bench.node(1).await.address, None);
    }

    #[tokio::test]
    async fn an_address_that_contradicts_holds_the_boot_and_changes_nothing() {
        let bench = proxied().await;
        bench.add_nodes([1, 2]).await;
        bench.add_node_without_address(3).await;
        for (number, address, words) in [
            (1, [127, 77, 0, 50], "nodes.toml says 127.77.0.1"),
            (2, [127, 99, 0, 2], "127.77.0.0/24"),
            (3, [127, 77, 0, 1], "with which n01 runs"),
        ] {
            let attempt = bench.begin_boot(number).await;
            let before = bench.node(number).await.address;
            takes(&bench, number, address.into()).await;
            let failure = held_for(&bench, &attempt).await.expect("it is held");
            assert_eq!(failure.code, "other-address");
            let cause = failure.cause;
            assert!(cause.contains(words) && cause.contains("127.77.0.253"), "{cause}");
            assert_eq!(bench.node(number).await.address, before);
        }
    }

    #[tokio::test]
    async fn a_boot_says_who_is_in_its_way_unless_it_is_the_node_itself() {
        let bench = Bench::new().await;
        bench.add_image("a").await;
        bench.add_nodes([1]).await;
        let attempt = bench.begin_boot(1).await;
        let (node, address) = (bench.node(1).await, [127, 77, 0, 1].into());
        let why = |owner| Hindrance::AddressTaken(address, owner);
        let own = hindered(&bench.context, node.boot_mac, why(node.boot_mac)).await;
        assert_eq!((own.unwrap(), held_for(&bench, &attempt).await), (false, None));
        let other: Mac = "52:54:00:00:00:99".parse().unwrap();
        for (why, code, word) in [
            (why(other), "address-taken", "52:54:00:00:00:99"),
            (Hindrance::OtherServer(SERVER), "other-dhcp-server", "127.77.0.253"),
        ] {
            assert!(hindered(&bench.context, node.boot_mac, why).await.unwrap());
            let failure = held_for(&bench, &attempt).await.expect("it is held");
            assert!(failure.code == code && failure.cause.contains(word), "{failure:?}");
        }
        assert!(hindered(&bench.context, other, why(other)).await.unwrap(), "a stranger");
    }

    #[tokio::test]
    async fn trouble_with_a_lease_is_told_when_it_begins_and_when_it_ends() {
        let bench = Bench::new().await;
        bench.add_nodes([1]).await;
        let node = bench.node(1).await;
        let lease = |trouble: Option<&str>| AddressLease {
            trouble: trouble.map(str::to_owned),
            ..AddressLease::default()
        };
        let said = [None, None, Some("gone"), Some("gone"), Some("refused"), None, None];
        let mut before = None;
        for trouble in said {
            let now = lease(trouble);
            lease_seen(&bench.context, &node.id, before.as_ref(), Some(&now)).await.unwrap();
            before = Some(now);
        }
        // An agent that keeps no lease says nothing of one.
        lease_seen(&bench.context, &node.id, before.as_ref(), None).await.unwrap();
        let mut kinds = bench.event_kinds().await;
        kinds.retain(|kind| kind.starts_with("lease"));
        assert_eq!(kinds, ["lease-trouble", "lease-trouble", "lease-held"]);
    }

    #[test]
    fn another_server_is_told_now_and_then() {
        let (told, other) = (Told::default(), Ipv4Addr::new(127, 77, 0, 252));
        assert!(told.is_due("lab", SERVER, false, 0));
        assert!(!told.is_due("lab", SERVER, false, 599 * SECOND));
        assert!(told.is_due("lab", other, false, 599 * SECOND));
        assert!(told.is_due("lab", SERVER, true, 599 * SECOND), "now haasd is silent for it");
        assert!(told.is_due("lab", SERVER, false, 600 * SECOND));
    }
}
