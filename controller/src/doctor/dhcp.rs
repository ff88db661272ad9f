//! Who else gives addresses in the networks of the nodes.

use std::{io, net::Ipv4Addr};

use futures_util::future::join_all;
use haas_api::doctor::Finding;

use crate::{
    config::{Config, DhcpMode, Network},
    netboot::dhcp::wire::Wire,
};

const TOPIC: &str = "DHCP";

/// Asks in all networks at once, as any client would. It takes some seconds.
pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    let asked = config.networks.iter().filter(|n| n.is_direct() && n.dhcp != DhcpMode::Off);
    let asked = asked.map(async |network| {
        let seen = match Wire::new(&network.interface) {
            Ok(wire) => wire.other_server(config.ports.dhcp).await,
            Err(error) => Err(error),
        };
        finding(network, seen)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn finding(network: &Network, seen: io::Result<Option<Ipv4Addr>>) -> Option<Finding> {
    let Network { name, interface, dhcp, probe, .. } = network;
    let at = format!("{interface} (network {name})");
    let other = |server| format!("another DHCP server, {server}, answers at {at}");
    let both =
        format!("set dhcp = \"proxy\" for the network {name}, or switch that server off there");
    Some(match (seen, dhcp) {
        // No Ethernet: nobody boots over it.
        (Err(error), _) if error.kind() == io::ErrorKind::InvalidInput => return None,
        (Err(error), _) => Finding::warning(
            TOPIC,
            format!("cannot look for DHCP servers at {at}: {error}"),
            "another server in a network of haasd's own keeps nodes from booting",
            "run it as root, with the interface up".to_owned(),
        ),
        (Ok(Some(server)), DhcpMode::Own) if *probe => Finding::wrong(
            TOPIC,
            other(server),
            "haasd gives no addresses there as long as it does: no node boots",
            both,
        ),
        (Ok(Some(server)), DhcpMode::Own) => Finding::warning(
            TOPIC,
            other(server),
            "with probe = false both answer, and a node that takes its offer does not boot",
            both,
        ),
        (Ok(None), DhcpMode::Own) => {
            Finding::good(TOPIC, format!("no other DHCP server answers at {at}"))
        }
        (Ok(None), _) => Finding::warning(
            TOPIC,
            format!("no DHCP server offers an unknown machine an address at {at}"),
            "with dhcp = \"proxy\" another server gives the nodes their addresses; one that knows them \
             by name may answer only them",
            "look at that server, or set dhcp = \"own\" and a pool".to_owned(),
        ),
        (Ok(Some(server)), _) => {
            Finding::good(TOPIC, format!("{server} gives addresses at {at}, haasd boot files"))
        }
    })
}

#[cfg(test)]
mod tests {
    use haas_api::doctor::FindingState;

    use super::*;
    use crate::testing::network;

    #[test]
    fn another_server_is_wrong_only_where_haasd_gives_the_addresses() {
        let server = Ipv4Addr::new(10, 77, 0, 2);
        let (good, warning, wrong) =
            (FindingState::Good, FindingState::Warning, FindingState::Wrong);
        for (dhcp, probe, seen, state) in [
            (DhcpMode::Own, true, Some(server), wrong),
            (DhcpMode::Own, false, Some(server), warning),
            (DhcpMode::Own, true, None, good),
            (DhcpMode::Proxy, true, Some(server), good),
            (DhcpMode::Proxy, true, None, warning),
        ] {
            let network = Network { dhcp, probe, ..network() };
            let found = finding(&network, Ok(seen)).unwrap();
            assert_eq!(found.state, state, "{found:?}");
            assert!(found.what.contains("lab"), "{found:?}");
        }
        let closed = || Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(finding(&network(), closed()).unwrap().state, warning);
        let loopback = Err(io::ErrorKind::InvalidInput.into());
        assert!(finding(&network(), loopback).is_none());
    }
}
