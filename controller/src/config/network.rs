//! `[[network]]`: one network that nodes boot from, and what no two of them may share.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    DhcpMode, Network,
    read::DURATION,
    reader::{Table, Value},
    units,
};

const CIDR: &str = "a network such as \"10.77.0.0/24\"";
const IPV4: &str = "an IPv4 address such as \"10.77.0.1\"";

pub(super) fn networks(
    root: &Table<'_>,
    addresses_of: &dyn Fn(&str) -> Option<Vec<Ipv4Addr>>,
) -> Vec<Network> {
    let mut networks: Vec<(Network, usize)> = Vec::new();
    let tables = root.tables("network");
    if tables.is_empty() && root.get("network").is_none() {
        root.refuse("network", "is missing", "at least one [[network]]");
    }
    for table in tables {
        let line = table.line();
        if let Some(network) = network(&table, addresses_of) {
            for (other, line) in &networks {
                clash(&table, &network, other, *line);
            }
            networks.push((network, line));
        }
        table.refuse_unknown();
    }
    networks.into_iter().map(|(network, _)| network).collect()
}

fn clash(table: &Table<'_>, network: &Network, other: &Network, line: usize) {
    if network.name == other.name {
        let wrong = format!("{:?} is already the name of the network in line {line}", network.name);
        table.refuse(&table.path_of("name"), wrong, "a name of its own");
    }
    if network.cidr.contains(&other.cidr) || other.cidr.contains(&network.cidr) {
        let wrong = format!("{} overlaps {} in line {line}", network.cidr, other.cidr);
        table.refuse(&table.path_of("cidr"), wrong, "networks that share no address");
    }
    // Behind a relay many networks come in through one interface. On the wire itself, nothing in a
    // DHCPDISCOVER would say which of the two is meant.
    let direct = |n: &Network| n.cidr.contains(&n.controller);
    if network.interface == other.interface && direct(network) && direct(other) {
        let wrong = format!("{:?} also carries the network in line {line}", network.interface);
        table.refuse(
            &table.path_of("interface"),
            wrong,
            "one network on an interface, the others behind a relay (controller outside their cidr)",
        );
    }
}

fn network(
    table: &Table<'_>,
    addresses_of: &dyn Fn(&str) -> Option<Vec<Ipv4Addr>>,
) -> Option<Network> {
    let name = table.need("name", "a name for messages").and_then(|v| v.text());
    let iface = table.need("interface", "the controller's interface in it");
    let iface = iface.and_then(|value| Some((interface(&value)?, value)));
    let cidr = table.need("cidr", CIDR).and_then(|value| cidr(&value));
    let modes = [("own", DhcpMode::Own), ("proxy", DhcpMode::Proxy), ("off", DhcpMode::Off)];
    let dhcp = table.need("dhcp", "\"own\" or \"proxy\" or \"off\"").and_then(|v| v.word(&modes));
    let gateway = table.get("gateway");
    let pool = table.get("pool");
    let controller = table.get("controller").map(|value| value.parsed(IPV4));
    let list = |key, right: &str| table.get(key).map(|v| v.items(right)).unwrap_or_default();
    let dns: Vec<_> =
        list("dns", "a list").iter().filter_map(|v| v.parsed("an IP address")).collect();
    let ntp: Vec<_> = list("ntp", "a list").iter().filter_map(|v| v.parsed(IPV4)).collect();
    let domain = table.get("domain").and_then(|value| {
        value.with("a DNS domain such as \"cluster.example\"", |text| {
            let label = |l: &str| {
                !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            (text.len() <= 253 && text.split('.').all(label)).then(|| text.to_owned())
        })
    });
    let mtu = table.get("mtu").and_then(|v| v.number(576..=9216)).and_then(|n| n.try_into().ok());
    let probe = table.get("probe").and_then(|v| v.flag()).unwrap_or(true);
    let lease_s = table.get("lease").and_then(|v| {
        v.with(DURATION, |t| units::seconds(t)?.try_into().ok().filter(|s| *s >= 60))
    });

    let (name, (interface, iface_value), cidr, dhcp) = (name?, iface?, cidr?, dhcp?);
    let controller = match controller {
        Some(given) => given?,
        None => own_address(&iface_value, &interface, cidr, addresses_of(&interface))?,
    };
    let gateway = gateway.and_then(|value| {
        let address: Ipv4Addr = value.parsed(IPV4)?;
        if !cidr.contains(&address) {
            return value.refuse(format!("{address} is outside {cidr}"), "an address inside it");
        }
        Some(address)
    });
    let pool = match pool {
        Some(value) if dhcp != DhcpMode::Own => value
            .refuse("is given, but haasd gives no addresses here", "no pool, or dhcp = \"own\""),
        Some(value) => self::pool(&value, cidr, controller, gateway),
        None => None,
    };
    let lease_s = lease_s.unwrap_or(3600);
    let (name, domain) = (name.to_owned(), domain);
    Some(Network {
        name,
        interface,
        cidr,
        controller,
        gateway,
        dns,
        domain,
        ntp,
        mtu,
        dhcp,
        pool,
        lease_s,
        probe,
    })
}

fn cidr(value: &Value<'_>) -> Option<Ipv4Net> {
    let net: Ipv4Net = value.parsed(CIDR)?;
    if net.addr() != net.network() {
        return value.refuse(format!("{net} is an address in a network"), net.trunc());
    }
    if !(8..=30).contains(&net.prefix_len()) {
        return value.refuse(format!("{net} is no size for nodes"), "a prefix from /8 to /30");
    }
    Some(net)
}

fn own_address(
    value: &Value<'_>,
    interface: &str,
    cidr: Ipv4Net,
    addresses: Option<Vec<Ipv4Addr>>,
) -> Option<Ipv4Addr> {
    let right = format!("an interface with an address inside {cidr}, or controller = \"ADDRESS\"");
    let Some(addresses) = addresses else {
        return value.refuse(format!("the controller has no interface {interface:?}"), right);
    };
    if let Some(address) = addresses.iter().find(|address| cidr.contains(*address)) {
        return Some(*address);
    }
    let has = match addresses.as_slice() {
        [] => "no IPv4 address".to_owned(),
        some => {
            format!("only {}", some.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(", "))
        }
    };
    value.refuse(format!("{interface:?} has {has}"), right)
}

fn pool(
    value: &Value<'_>,
    cidr: Ipv4Net,
    controller: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (first, last): (Ipv4Addr, Ipv4Addr) =
        value.with("first and last address such as \"10.77.0.200-10.77.0.250\"", |text| {
            let (first, last) = text.split_once('-')?;
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        })?;
    if last < first {
        return value.refuse(format!("{last} is before {first}"), "the lower address first");
    }
    let inside = |a: Ipv4Addr| cidr.contains(&a) && a != cidr.network() && a != cidr.broadcast();
    if !inside(first) || !inside(last) {
        let (low, high) = (u32::from(cidr.network()) + 1, u32::from(cidr.broadcast()) - 1);
        let right = format!("addresses from {} to {}", Ipv4Addr::from(low), Ipv4Addr::from(high));
        return value.refuse(format!("is not inside {cidr}"), right);
    }
    let taken = [(Some(controller), "the controller"), (gateway, "the gateway")];
    for (address, whose) in taken {
        if let Some(address) = address.filter(|a| (first..=last).contains(a)) {
            return value.refuse(format!("holds {address}, {whose}"), "a pool without it");
        }
    }
    Some((first, last))
}

/// An interface's IPv4 addresses as the system knows them; none when there is no such interface.
pub(super) fn addresses_of(interface: &str) -> Option<Vec<Ipv4Addr>> {
    let mut found = None;
    for entry in nix::ifaddrs::getifaddrs().ok()?.filter(|e| e.interface_name == interface) {
        let addresses: &mut Vec<Ipv4Addr> = found.get_or_insert_default();
        addresses.extend(entry.address.and_then(|a| a.as_sockaddr_in().map(|a| a.ip())));
    }
    found
}

// The kernel's own limits for a name (IFNAMSIZ; dev_valid_name).
pub(super) fn interface(value: &Value<'_>) -> Option<String> {
    value.with("an interface name such as \"eth0\", at most 15 characters", |name| {
        let valid = name.len() <= 15
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        valid.then(|| name.to_owned())
    })
}
