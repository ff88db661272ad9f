//! Files of hosts as `mpirun --hostfile` reads them: a node on each line, rank 0 first. haasd does not
//! know processors; Open MPI and MPICH then start one process on each node, or as many as they are told.

use std::fmt::Write;

use haas_api::{node::Node, overlay::Overlay};

/// The nodes by the ranks that they have now, those of the same rank by their names.
pub(super) fn of_nodes(nodes: &[Node]) -> String {
    let mut text = String::new();
    let mut ranked = Vec::new();
    for node in nodes {
        match &node.desired {
            Some(desired) => ranked.push((desired.rank, node.name.as_str())),
            None => drop(writeln!(text, "# {}: nothing is wanted of it", node.name)),
        }
    }
    // They come in the order of their names, which stays within a rank.
    ranked.sort_by_key(|(rank, _)| *rank);
    for (_, name) in ranked {
        let _ = writeln!(text, "{name}");
    }
    text
}

/// The nodes that hold a part of an overlay, by their ranks in it.
pub(crate) fn of_overlay(overlay: &Overlay) -> String {
    let mut shards: Vec<_> = overlay.shards.iter().collect();
    shards.sort_by_key(|shard| shard.rank);
    shards.into_iter().map(|shard| format!("{}\n", shard.node)).collect()
}
