//! What all nodes, or all nodes of a group, have alike stands once: in `[defaults]` or in the
//! `[[group]]`. Read back by haasd's rules, each node has what it had.

use std::collections::{BTreeMap, BTreeSet};

use haas_api::names::NodeGroupName;

use super::draft::{Account, Draft, Node, Said};

/// What one table holds beside names, NICs and addresses.
#[derive(Debug, Default, Clone)]
pub(super) struct Layer {
    pub(super) firmware: Option<&'static str>,
    pub(super) arch: Option<&'static str>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) kernel_args: Vec<String>,
    /// Which of the accounts its nodes' BMCs have.
    pub(super) account: Option<usize>,
}

impl Layer {
    /// Moves into a new layer what all of these have alike and the file says of it. None if there
    /// are none.
    fn common(mut layers: Vec<&mut Self>, said: Option<&Said>) -> Option<Self> {
        let may = |word: &String| said.is_none_or(|said| said.words.contains(word));
        let first = (*layers.first()?).clone();
        let mut shared = Self {
            firmware: first.firmware.filter(|f| layers.iter().all(|l| l.firmware == Some(*f))),
            arch: first.arch.filter(|a| layers.iter().all(|l| l.arch == Some(*a))),
            ..Self::default()
        };
        for (key, value) in first.labels {
            if may(&key) && layers.iter().all(|layer| layer.labels.get(&key) == Some(&value)) {
                shared.labels.insert(key, value);
            }
        }
        // Arguments add up in order, so only those that all begin with can be moved.
        for (at, arg) in first.kernel_args.into_iter().enumerate() {
            if !may(&arg) || !layers.iter().all(|layer| layer.kernel_args.get(at) == Some(&arg)) {
                break;
            }
            shared.kernel_args.push(arg);
        }
        for layer in &mut layers {
            layer.firmware = layer.firmware.filter(|_| shared.firmware.is_none());
            layer.arch = layer.arch.filter(|_| shared.arch.is_none());
            layer.labels.retain(|key, _| !shared.labels.contains_key(key));
            layer.kernel_args.drain(..shared.kernel_args.len());
        }
        Some(shared)
    }
}

pub(super) struct Layers {
    /// Different accounts of BMCs, the most frequent first; that one stands in `[defaults]`.
    pub(super) accounts: Vec<Account>,
    pub(super) defaults: Layer,
    pub(super) groups: Vec<(NodeGroupName, Layer)>,
    /// What is left for each node.
    pub(super) nodes: Vec<Layer>,
}

impl Layers {
    pub(super) fn of(draft: &Draft) -> Self {
        let accounts = accounts(draft);
        let mut nodes: Vec<Layer> =
            draft.nodes.iter().map(|node| own_layer(node, &accounts)).collect();
        // With one node nothing is repeated.
        let many = nodes.len() > 1;
        let all = nodes.iter_mut().filter(|_| many).collect();
        let mut defaults = Layer::common(all, None).unwrap_or_default();
        if defaults.firmware.is_none() {
            // Where each node says which, the most frequent one need not be said again.
            defaults.firmware = most_frequent(&nodes);
            for own in &mut nodes {
                own.firmware = own.firmware.filter(|own| Some(*own) != defaults.firmware);
            }
        }
        let mut groups = Vec::new();
        let mut seen = BTreeSet::new();
        for group in draft.nodes.iter().flat_map(|node| &node.groups) {
            if !seen.insert(group) {
                continue;
            }
            let said = draft.said.get(group);
            let inside = draft.nodes.iter().zip(&mut nodes);
            let inside: Vec<_> = inside
                .filter(|(node, _)| node.groups.contains(group))
                .map(|(_, own)| own)
                .collect();
            let account = inside[0].account.filter(|account| {
                let may = said.is_none_or(|said| said.account);
                may && *account > 0 && inside.iter().all(|own| own.account == Some(*account))
            });
            let shared = if inside.len() > 1 { Layer::common(inside, said) } else { None };
            let shared = shared.unwrap_or_default();
            groups.push((group.clone(), Layer { account, ..shared }));
        }
        Self { accounts, defaults, groups, nodes }
    }
}

/// The firmware that most nodes have, if every one says which.
fn most_frequent(nodes: &[Layer]) -> Option<&'static str> {
    let count = |firmware| nodes.iter().filter(|own| own.firmware == Some(firmware)).count();
    let (bios, uefi) = (count("bios"), count("uefi"));
    let all = !nodes.is_empty() && bios + uefi == nodes.len();
    all.then_some(if uefi > bios { "uefi" } else { "bios" })
}

fn own_layer(node: &Node, accounts: &[Account]) -> Layer {
    let account = node.bmc.as_ref().map(|bmc| &bmc.account);
    Layer {
        firmware: node.firmware,
        arch: node.arch,
        labels: node.labels.clone(),
        kernel_args: node.kernel_args.clone(),
        account: account.and_then(|own| accounts.iter().position(|known| known == own)),
    }
}

/// The different accounts of BMCs, the most frequent first.
fn accounts(draft: &Draft) -> Vec<Account> {
    let mut counted: Vec<(&Account, usize)> = Vec::new();
    let mut nodes: Vec<_> = draft.nodes.iter().collect();
    nodes.sort_by_key(|node| node.line);
    for bmc in nodes.into_iter().filter_map(|node| node.bmc.as_ref()) {
        match counted.iter_mut().find(|(account, _)| **account == bmc.account) {
            Some((_, count)) => *count += 1,
            None => counted.push((&bmc.account, 1)),
        }
    }
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counted.into_iter().map(|(account, _)| account.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::draft::{Bmc, Nic};

    /// What haasd makes of the layers for a node: defaults, groups in the file's order, the node.
    fn read_back(layers: &Layers, node: &Node, own: &Layer) -> Layer {
        let groups = layers.groups.iter().filter(|(name, _)| node.groups.contains(name));
        let over = |below: Layer, layer: &Layer| {
            let mut labels = below.labels;
            labels.extend(layer.labels.clone());
            Layer {
                firmware: layer.firmware.or(below.firmware),
                arch: layer.arch.or(below.arch),
                labels,
                kernel_args: [below.kernel_args, layer.kernel_args.clone()].concat(),
                account: None,
            }
        };
        over(groups.fold(layers.defaults.clone(), |below, (_, layer)| over(below, layer)), own)
    }

    #[test]
    fn whatever_is_shared_each_node_has_what_it_had() {
        // A small generator of its own, so that a failure comes again.
        let mut state = 7_u64;
        let mut pick = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut shared = 0;
        for _ in 0..500 {
            let mut draft = Draft::default();
            for line in 0..=pick(6) {
                let name = format!("n{line}").parse().unwrap();
                let mac = format!("52:54:00:00:00:{line:02x}").parse().unwrap();
                let mut node = Node::new(1, name, vec![Nic { line: 1, mac, role: "boot" }]);
                for group in ["a", "b", "c"] {
                    node.groups.extend((pick(2) == 0).then(|| group.parse().unwrap()));
                    if pick(2) == 0 {
                        node.labels.insert(group.to_owned(), pick(2).to_string());
                    }
                }
                node.kernel_args = (0..pick(4)).map(|_| format!("x{}", pick(2))).collect();
                node.firmware = [Some("bios"), Some("uefi"), None][pick(3) as usize];
                node.bmc = (pick(3) > 0).then(|| Bmc {
                    line: 1,
                    address: [10, 0, 0, line as u8].into(),
                    port: None,
                    mac: None,
                    account: Account { user: Some(format!("u{}", pick(2))), password: None },
                });
                draft.nodes.push(node);
            }
            let layers = Layers::of(&draft);
            for (node, own) in draft.nodes.iter().zip(&layers.nodes) {
                let whole = own_layer(node, &layers.accounts);
                let read = read_back(&layers, node, own);
                assert_eq!((read.firmware, read.arch), (whole.firmware, whole.arch), "{draft:?}");
                assert_eq!(read.labels, whole.labels, "{draft:?}");
                assert_eq!(read.kernel_args, whole.kernel_args, "{draft:?}");
            }
            // Of the accounts, what a group has holds for all in it.
            for (node, own) in draft.nodes.iter().zip(&layers.nodes) {
                let groups = layers.groups.iter().filter(|(name, _)| node.groups.contains(name));
                for account in groups.filter_map(|(_, layer)| layer.account) {
                    assert_eq!(own.account, Some(account), "{draft:?}");
                }
            }
            shared += layers.groups.iter().filter(|(_, layer)| !layer.labels.is_empty()).count();
        }
        assert!(shared > 50, "hardly anything was shared: {shared}");
    }
}
