//! Lines for slurm.conf(5). Slurm pairs the names of a line with its addresses in their order, so
//! both are folded together.

use std::fmt::Write;

use haas_api::node::Node;

use super::{fold, groups};

const HEAD: &str = "\
# haasd does not know processors and memory. Complete each NodeName line with what `slurmd -C` says
# on one of its nodes: CPUs=, Sockets=, CoresPerSocket=, ThreadsPerCore=, RealMemory=, and Gres= if
# it has GPUs. Then name the nodes, or a NodeSet, in a PartitionName line.
";

/// Nodes of one line.
struct Run<'a> {
    names: Vec<&'a str>,
    addresses: Vec<&'a str>,
    features: String,
}

pub(super) fn write(nodes: &[Node]) -> String {
    let mut text = HEAD.to_owned();
    let mut runs: Vec<Run<'_>> = Vec::new();
    for node in nodes {
        let mut features: Vec<_> = node.groups.iter().map(|group| group.as_str()).collect();
        features.sort_unstable();
        let features = features.join(",");
        match runs.last_mut() {
            Some(run) if run.features == features && run.takes(node) => {
                run.names.push(node.name.as_str());
                run.addresses.extend(node.address.as_deref());
            }
            _ => runs.push(Run {
                names: vec![node.name.as_str()],
                addresses: node.address.as_deref().into_iter().collect(),
                features,
            }),
        }
    }
    for run in runs {
        let _ = write!(text, "NodeName={}", fold::brackets(&run.names));
        if !run.addresses.is_empty() {
            let _ = write!(text, " NodeAddr={}", fold::brackets(&run.addresses));
        }
        if !run.features.is_empty() {
            let _ = write!(text, " Features={}", run.features);
        }
        text.push('\n');
    }
    for (group, _) in groups(nodes) {
        // To Slurm this word means every node.
        let _ = match group.eq_ignore_ascii_case("all") {
            true => writeln!(text, "# {group} can be the name of no NodeSet"),
            false => writeln!(text, "NodeSet={group} Feature={group}"),
        };
    }
    text
}

impl Run<'_> {
    /// Whether a node's name and address go on behind the last ones.
    fn takes(&self, node: &Node) -> bool {
        if !fold::goes_with(self.names[0], node.name.as_str()) {
            return false;
        }
        let last = |text: &str| fold::number(text).map(|(_, number, _)| number);
        match (self.addresses.last(), node.address.as_deref()) {
            (None, None) => true,
            (Some(before), Some(next)) => {
                // Addresses of other families than IPv4 end in hexadecimal digits.
                !next.contains(':') && fold::goes_with(before, next) && last(before) < last(next)
            }
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}
