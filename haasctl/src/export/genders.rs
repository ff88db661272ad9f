//! genders(5): a line for nodes that are alike, with their groups and labels as attributes.

use std::fmt::Write;

use haas_api::node::Node;

use super::fold;

pub(super) fn write(nodes: &[Node]) -> String {
    let mut text = String::new();
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for node in nodes {
        let attributes = attributes(node, &mut text);
        let name = node.name.as_str();
        match lines.iter_mut().find(|(known, _)| *known == attributes) {
            Some((_, names)) => names.push(name),
            None => lines.push((attributes, vec![name])),
        }
    }
    for (attributes, names) in lines {
        let _ = writeln!(text, "{}  {attributes}", fold::list(&names));
    }
    text
}

/// The attributes of a node; what genders cannot hold is told in a comment.
fn attributes(node: &Node, comments: &mut String) -> String {
    let mut attributes = vec!["all".to_owned()];
    let mut groups: Vec<_> = node.groups.iter().map(|group| group.as_str().to_owned()).collect();
    groups.sort();
    attributes.extend(groups.into_iter().filter(|group| group != "all"));
    for (key, value) in &node.labels {
        let why = if value.contains([',', ' ', '\t', '#']) || value.is_empty() {
            "its value has a comma or a space, or is empty"
        } else if attributes.contains(key) {
            "a node group has its name"
        } else {
            // %n is the node's name to genders, and %% is %.
            attributes.push(format!("{key}={}", value.replace('%', "%%")));
            continue;
        };
        let _ = writeln!(comments, "# {}: the label {key} is left out: {why}", node.name);
    }
    attributes.join(",")
}
