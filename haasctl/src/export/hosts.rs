//! hosts(5).

use std::fmt::Write;

use haas_api::node::Node;

pub(super) fn write(nodes: &[Node]) -> String {
    let mut text = String::new();
    for node in nodes {
        let _ = match &node.address {
            Some(address) => writeln!(text, "{address:<15}  {}", node.name),
            None => writeln!(text, "# {} has no address yet", node.name),
        };
    }
    text
}
