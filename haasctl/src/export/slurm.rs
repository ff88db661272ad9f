//! Lines for slurm.conf(5). Slurm pairs the names of a line with its addresses in their order, so
//! both are folded together.

use std::fmt::Write;

use haas_api::node::Node;

use super::{fold, groups};

const HEAD: &str = "\
# Processors and memory are as the nodes' agents found them. Complete each NodeName line that has none
# with what `slurmd -C` says on one of its nodes, and with Gres= if it has GPUs. Then name the nodes, or a
# NodeSet, in a PartitionName line.
";

/// Nodes of one line.
struct Run<'a> {
    names: Vec<&'a str>,
    addresses: Vec<&'a str>,
    features: String,
    hardware: String,
}

pub(super) fn write(nodes: &[Node]) -> String {
    let mut text = HEAD.to_owned();
    let mut runs: Vec<Run<'_>> = Vec::new();
    for node in nodes {
        let mut features: Vec<_> = node.groups.iter().map(|group| group.as_str()).collect();
        features.sort_unstable();
        let (features, hardware) = (features.join(","), hardware(node));
        match runs.last_mut() {
            Some(run)
                if run.features == features && run.hardware == hardware && run.takes(node) =>
            {
                run.names.push(node.name.as_str());
                run.addresses.extend(node.address.as_deref());
            }
            _ => runs.push(Run {
                names: vec![node.name.as_str()],
                addresses: node.address.as_deref().into_iter().collect(),
                features,
                hardware,
            }),
        }
    }
    for run in runs {
        let _ = write!(text, "NodeName={}", fold::brackets(&run.names));
        if !run.addresses.is_empty() {
            let _ = write!(text, " NodeAddr={}", fold::brackets(&run.addresses));
        }
        text.push_str(&run.hardware);
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

/// Processors and memory; nothing where they are not known, or the sockets differ.
fn hardware(node: &Node) -> String {
    let Some(known) = &node.summary else { return String::new() };
    let (sockets, cores, threads) = (known.sockets, known.cores, known.threads);
    let divides = |part: u32, whole: u32| part > 0 && whole.is_multiple_of(part);
    if !divides(sockets, cores) || !divides(cores, threads) {
        return String::new();
    }
    format!(
        " Sockets={sockets} CoresPerSocket={} ThreadsPerCore={} RealMemory={}",
        cores / sockets,
        threads / cores,
        known.usable >> 20
    )
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
