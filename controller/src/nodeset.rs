//! Node sets as people of this field write them: `n[01-16]`, `@rack1`, `@rack1!n03`.
//!
//! The syntax is that of the crate `nodeset` (ClusterShell's). Node groups are the inventory's own,
//! so `@name` is replaced by its nodes before that crate sees the text.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use haas_api::names::{NodeGroupName, NodeName};
use nodeset::{NodeSet, Parser, Resolver};

use crate::{
    model::Node,
    store::{self, Tx},
};

/// The most nodes that one set may name.
const MOST: usize = 100_000;

/// Why a node set was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeSetError {
    /// It names no node. It never means "all".
    #[error("the node set is empty; name nodes, as n[01-04], a node group, as @rack1, or @all")]
    Empty,
    /// It cannot be read.
    #[error("{0:?} is no node set; write it as n[01-16], n01,n03, @rack1 or @rack1!n03")]
    Syntax(String),
    /// It names far more nodes than exist.
    #[error("the node set names more than {MOST} nodes")]
    TooMany,
    /// A group that no node is in.
    #[error("there is no node group @{0}; {1}")]
    UnknownGroup(String, String),
    /// Nodes that the inventory does not have.
    #[error("the inventory has no node {}", some(.0))]
    UnknownNodes(Vec<String>),
}

/// The names of all nodes by id, also of those that the inventory has no more.
#[derive(Debug)]
pub struct NodeNames(HashMap<String, String>);

impl NodeNames {
    pub async fn read(tx: &mut Tx) -> store::Result<Self> {
        let nodes = tx.all_nodes().await?.into_iter();
        Ok(Self(nodes.map(|node| (node.id, node.name.to_string())).collect()))
    }

    /// Nodes by id as a node set.
    pub fn fold<'a>(&self, ids: impl IntoIterator<Item = &'a String>) -> String {
        fold(ids.into_iter().filter_map(|id| self.0.get(id)).map(String::as_str))
    }
}

/// The nodes that `text` names, in the order of the set (which is the order of their names), each
/// once. `@all` is every node of the inventory.
pub fn resolve(text: &str, nodes: Vec<Node>) -> Result<Vec<Node>, NodeSetError> {
    if text.trim().is_empty() {
        return Err(NodeSetError::Empty);
    }
    let expanded = expand_groups(text, &nodes)?;
    if expanded.split(|c: char| !c.is_ascii_digit()).any(|number| number.len() > 5) {
        return Err(NodeSetError::TooMany);
    }
    if brackets_in_a_name(&expanded) > 2 {
        return Err(NodeSetError::TooMany);
    }
    let resolver = Resolver::default();
    let set: NodeSet = Parser::with_resolver(&resolver, None)
        .parse(&expanded)
        .map_err(|_| NodeSetError::Syntax(text.to_owned()))?;
    if set.len() > MOST {
        return Err(NodeSetError::TooMany);
    }
    let mut known: BTreeMap<String, Node> =
        nodes.into_iter().map(|node| (node.name.to_string(), node)).collect();
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for name in set.iter() {
        match known.remove(&name) {
            Some(node) => found.push(node),
            None => unknown.push(name),
        }
    }
    match (found.is_empty(), unknown.is_empty()) {
        (_, false) => Err(NodeSetError::UnknownNodes(unknown)),
        (true, true) => Err(NodeSetError::Empty),
        (false, true) => Ok(found),
    }
}

/// The first of many names, and how many more there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Every node group with its nodes.
pub fn groups(nodes: &[Node]) -> BTreeMap<NodeGroupName, Vec<NodeName>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for node in nodes {
        for group in &node.spec.groups {
            groups.entry(group.clone()).or_default().push(node.name.clone());
        }
    }
    groups
}

/// Names folded into one set, as `n[01-04]`.
pub fn fold<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    match names.join(",").parse::<NodeSet>() {
        Ok(set) => set.to_string(),
        Err(_) => names.join(","),
    }
}

/// The most ranges that one name of the set has: with several, the number of nodes multiplies
/// beyond what can be counted before it is expanded.
fn brackets_in_a_name(text: &str) -> usize {
    let (mut most, mut here, mut inside) = (0, 0, false);
    for c in text.chars() {
        match c {
            '[' => {
                inside = true;
                here += 1;
                most = most.max(here);
            }
            ']' => inside = false,
            ',' | ' ' | '!' | '&' | '^' | '(' | ')' if !inside => here = 0,
            _ => {}
        }
    }
    most
}

fn expand_groups(text: &str, nodes: &[Node]) -> Result<String, NodeSetError> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('@') {
        expanded.push_str(&rest[..at]);
        let name = &rest[at + 1..];
        let end = name
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
            .unwrap_or(name.len());
        let (name, after) = name.split_at(end);
        let members: BTreeSet<&str> = nodes
            .iter()
            .filter(|node| name == "all" || node.spec.groups.iter().any(|g| g.as_str() == name))
            .map(|node| node.name.as_str())
            .collect();
        if members.is_empty() {
            let known = groups(nodes).into_keys().map(|g| format!("@{g}")).collect::<Vec<_>>();
            let known = match known.as_slice() {
                [] => "no node is in any, see [[group]] in nodes.toml".to_owned(),
                known => format!("there are: {}", known.join(", ")),
            };
            return Err(NodeSetError::UnknownGroup(name.to_owned(), known));
        }
        expanded.push('(');
        expanded.push_str(&members.into_iter().collect::<Vec<_>>().join(","));
        expanded.push(')');
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_group_is_told_with_those_that_there_are() {
        let told = resolve("@rack9", Vec::new()).unwrap_err().to_string();
        assert_eq!(
            told,
            "there is no node group @rack9; no node is in any, see [[group]] in nodes.toml"
        );
    }

    #[test]
    fn a_set_that_multiplies_beyond_counting_is_refused_before_it_is_expanded() {
        let set = "n[0-65535]a[0-65535]b[0-65535]c[0-65535]";
        assert_eq!(resolve(set, Vec::new()), Err(NodeSetError::TooMany));
        assert_eq!(brackets_in_a_name("r[1-4]n[01-16],r[5,6]n[1-2] & (a[1]b[2])"), 2);
    }
}
