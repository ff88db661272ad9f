//! Groups for ClusterShell: a file of its "file based group sources", clustershell-groups.conf(5).

use std::fmt::Write;

use haas_api::node::Node;

use super::groups;
use crate::format;

pub(super) fn write(nodes: &[Node]) -> String {
    if nodes.is_empty() {
        return "# haasd has no node\n".to_owned();
    }
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
    // `@*` and `-a` mean this one.
    let mut text = format!("all: {}\n", format::fold(&names));
    for (group, names) in groups(nodes) {
        let _ = match group {
            "all" => writeln!(text, "# the node group all is left out: all: means all nodes here"),
            group => writeln!(text, "{group}: {}", format::fold(&names)),
        };
    }
    text
}
