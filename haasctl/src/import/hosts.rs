//! What the hosts in a DHCP server's file become. Such a file has more than nodes: switches,
//! printers, the nodes' BMCs. A BMC goes to its node by its name; what can be no node is left out.

use std::net::Ipv4Addr;

use haas_api::names::{Mac, NodeGroupName};

use super::{
    draft::{Account, Bmc, Draft, Nic, Node, Problems},
    text,
};

/// A host of a DHCP server's file.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) line: usize,
    pub(super) name: Option<String>,
    /// The first one boots.
    pub(super) macs: Vec<Mac>,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) groups: Vec<NodeGroupName>,
    pub(super) firmware: Option<&'static str>,
    pub(super) arch: Option<&'static str>,
    /// Another host block may say that it is of the same machine.
    pub(super) may_join: bool,
    /// Why it is served nothing.
    pub(super) ignored: bool,
    /// What it says and nodes.toml has no place for.
    pub(super) dropped: Vec<String>,
}

impl Host {
    /// How it is told in messages.
    fn who(&self) -> String {
        match (&self.name, self.macs.first()) {
            (Some(name), _) => text::comment(name),
            (None, Some(mac)) => mac.to_string(),
            (None, None) => "a host".to_owned(),
        }
    }
}

/// What a host is to a node whose name is a part of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Bmc,
    /// A NIC with this role.
    Nic(&'static str),
}

const BMCS: [&str; 11] =
    ["bmc", "ipmi", "ilo", "idrac", "drac", "imm", "xcc", "cimc", "oob", "mgmt", "sp"];

/// The node that a host's name says it belongs to: `n01-bmc`, `bmc-n01`, `n01.ipmi.lab`, `n01-ib0`.
fn part_of(name: &str) -> Option<(String, Part)> {
    let lower = name.to_ascii_lowercase();
    let mut labels = lower.split('.');
    let first = labels.next()?;
    let kind = |word: &str| {
        let stem = word.trim_end_matches(|c: char| c.is_ascii_digit());
        match stem {
            _ if BMCS.contains(&word) => Some(Part::Bmc),
            "ib" => Some(Part::Nic("ib")),
            "eth" | "data" => Some(Part::Nic("data")),
            _ => None,
        }
    };
    if labels.next().is_some_and(|label| BMCS.contains(&label)) {
        return Some((first.to_owned(), Part::Bmc));
    }
    let behind =
        first.rsplit_once('-').and_then(|(node, word)| Some((node.to_owned(), kind(word)?)));
    let before = || {
        let (word, node) = first.split_once('-')?;
        BMCS.contains(&word).then(|| (node.to_owned(), Part::Bmc))
    };
    behind.or_else(before)
}

/// Makes nodes of hosts.
pub(super) fn to_nodes(hosts: Vec<Host>, draft: &mut Draft, problems: &mut Problems) {
    let mut parts = Vec::new();
    let mut joining = Vec::new();
    let names: Vec<_> = hosts.iter().filter_map(|h| h.name.as_deref()).map(short).collect();
    for host in hosts {
        let part = host.name.as_deref().and_then(part_of);
        match part {
            Some((node, part)) if names.contains(&node) => parts.push((node, part, host)),
            Some((node, Part::Bmc)) => {
                let (who, line) = (host.who(), host.line);
                draft.leave_out(line, &who, &format!("the BMC of {node}, which is not here"));
            }
            Some((_, Part::Nic(_))) | None => joining.extend(whole(host, draft, problems)),
        }
    }
    for (node, part, host) in parts {
        let Some(at) = draft.nodes.iter().position(|known| known.name.as_str() == node) else {
            let (who, line) = (host.who(), host.line);
            draft.leave_out(line, &who, &format!("{node} is left out too"));
            continue;
        };
        attach(&node, at, part, host, draft);
    }
    // A second block with the same option host-name is another NIC of the machine.
    for host in joining {
        let name = host.name.as_deref().map(short).unwrap_or_default();
        if let Some(at) = draft.nodes.iter().position(|known| known.name.as_str() == name) {
            let told = "the first of its host blocks is taken for the NIC that boots".to_owned();
            if !draft.nodes[at].remarks.contains(&told) {
                draft.nodes[at].remarks.push(told);
            }
            attach(&name, at, Part::Nic("data"), host, draft);
        }
    }
}

/// A host name without its domain.
pub(super) fn short(name: &str) -> String {
    name.split('.').next().unwrap_or(name).to_ascii_lowercase()
}

/// Adds a node for a host; gives the host back if a node of its name is there and it may join it.
fn whole(host: Host, draft: &mut Draft, problems: &mut Problems) -> Option<Host> {
    let (who, line) = (host.who(), host.line);
    let mut leave_out = |why: &str| draft.leave_out(line, &who, why);
    if host.ignored {
        leave_out("the file says to ignore it");
        return None;
    }
    let Some(name) = &host.name else {
        leave_out("it has no name");
        return None;
    };
    let (name, domain) = match text::node_name(name) {
        Ok(named) => named,
        Err(_) => {
            leave_out("its name can be no node's: letters, digits and hyphens");
            return None;
        }
    };
    let Some(first) = host.macs.first() else {
        leave_out("it has no MAC");
        return None;
    };
    if let Some(known) = draft.nodes.iter().find(|node| node.name == name) {
        if host.may_join {
            return Some(host);
        }
        problems.add(line, format!("{name} is already the node in line {}", known.line));
        return None;
    }
    if let Some(domain) = domain {
        draft.drop(format!("domain {domain} (haasd.toml has the network's)"), name.as_str());
    }
    for what in host.dropped {
        draft.drop(what, name.as_str());
    }
    let mut nics = vec![Nic { line, mac: *first, role: "boot" }];
    nics.extend(host.macs[1..].iter().map(|mac| Nic { line, mac: *mac, role: "data" }));
    let mut node = Node::new(line, name, nics);
    if host.macs.len() > 1 {
        node.remarks.push("the first of its MACs is taken for the NIC that boots".to_owned());
    }
    node.address = host.address;
    node.groups = host.groups;
    node.firmware = host.firmware;
    node.arch = host.arch;
    draft.nodes.push(node);
    None
}

fn attach(name: &str, at: usize, part: Part, host: Host, draft: &mut Draft) {
    let (who, line) = (host.who(), host.line);
    match (part, host.address) {
        (Part::Bmc, None) => {
            draft.leave_out(line, &who, "a BMC without an address");
        }
        (Part::Bmc, Some(address)) if draft.nodes[at].bmc.is_none() => {
            let mac = host.macs.first().copied();
            let account = Account::default();
            let address = address.into();
            draft.nodes[at].bmc = Some(Bmc { line, address, port: None, mac, account });
        }
        (Part::Bmc, Some(_)) => {
            draft.leave_out(line, &who, &format!("{name} has a BMC already"));
        }
        (Part::Nic(role), address) => {
            let nics = host.macs.iter().map(|mac| Nic { line, mac: *mac, role });
            draft.nodes[at].nics.extend(nics);
            if let Some(address) = address {
                draft.drop(format!("address {address} of {who}"), name);
            }
            for what in host.dropped {
                draft.drop(what, name);
            }
        }
    }
}

/// What a boot file's name tells of the firmware and the processor that it is for.
pub(super) fn firmware_of(file: &str) -> (Option<&'static str>, Option<&'static str>) {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    if name.ends_with(".efi") {
        let arm = name.contains("aa64") || name.contains("arm64");
        (Some("uefi"), arm.then_some("aarch64"))
    } else if [".kpxe", ".0", ".pxe"].iter().any(|end| name.ends_with(end)) {
        (Some("bios"), None)
    } else {
        (None, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_belongs_to_a_node() {
        let bmc = |node: &str| Some((node.to_owned(), Part::Bmc));
        for name in ["n01-bmc", "N01-ILO", "bmc-n01", "n01.ipmi.lab", "n01-idrac.lab"] {
            assert_eq!(part_of(name), bmc("n01"), "{name}");
        }
        assert_eq!(part_of("gpu-n01-ib0"), Some(("gpu-n01".to_owned(), Part::Nic("ib"))));
        assert_eq!(part_of("n01-eth1"), Some(("n01".to_owned(), Part::Nic("data"))));
        for name in ["n01", "login-1", "spine", "ibis", "mgmt"] {
            assert_eq!(part_of(name), None, "{name}");
        }
    }
}
