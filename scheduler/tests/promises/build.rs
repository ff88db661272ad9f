//! Small clusters and claims, with as few words as can be.

use roaring::RoaringBitmap;
use scheduler::{
    Affinity, Assignment, Claim, ClaimId, Grant, Health, ImageId, Node, NodeId, OnNodeLoss,
    Overlay, OverlayId, OverlayUse, Plan, Power, ProjectId, Queue, QueueId, RackId, Request,
    Settings, ShapeId, Snapshot, Time, UserId, Vector, plan,
};

/// So many like nodes in one rack, which project 0 may use, and one queue.
pub(crate) fn cluster(nodes: u32) -> Snapshot {
    let vector = Vector { nodes: 1, cores: 8, ..Vector::default() };
    let gpu = Vector { gpus: 2, ..vector };
    Snapshot {
        shapes: vec![vector, gpu],
        nodes: vec![node(); nodes as usize],
        queues: vec![Queue::root()],
        grants: vec![Grant { project: ProjectId(0), nodes: (0..nodes).collect() }],
        settings: Settings::default(),
        ..Snapshot::default()
    }
}

pub(crate) fn node() -> Node {
    Node {
        shape: ShapeId(0),
        rack: RackId(0),
        labels: 0,
        health: Health::Ready,
        power: Power::On { idle_since: 0 },
        runs: None,
        shards: Vec::new(),
        disk_gib: 10,
    }
}

/// A claim for so many nodes for so long; its number is also when it was submitted.
pub(crate) fn claim(id: u64, count: u32, walltime: Time) -> Claim {
    Claim {
        id: ClaimId(id),
        queue: QueueId(0),
        user: UserId(0),
        project: ProjectId(0),
        submitted: id as Time - 1_000,
        walltime,
        requests: vec![Request::of(count)],
        image: ImageId(0),
        overlay: None,
        barred: RoaringBitmap::new(),
        preemptible: false,
        on_node_loss: OnNodeLoss::Fail,
        promise: None,
    }
}

/// A claim that runs on these nodes since time 0.
pub(crate) fn running(id: u64, nodes: &[u32], end: Time) -> Assignment {
    Assignment {
        claim: claim(id, nodes.len() as u32, end),
        nodes: vec![ids(nodes)],
        start: 0,
        end,
        claim_by: None,
        is_advance: false,
    }
}

/// An accepted advance claim on these nodes.
pub(crate) fn reserved(id: u64, nodes: &[u32], start: Time, end: Time) -> Assignment {
    let one = running(id, nodes, end - start);
    Assignment { start, end, is_advance: true, ..one }
}

/// An overlay with its ranks on these nodes, and the use of it.
pub(crate) fn with_overlay(snapshot: &mut Snapshot, homes: &[u32]) -> OverlayUse {
    let homes = ids(homes).into_iter().map(Some).collect();
    snapshot.overlays.push(Overlay { disk_gib: 1, homes });
    let overlay = OverlayId(snapshot.overlays.len() as u32 - 1);
    OverlayUse { overlay, affinity: Affinity::Require, fork: false }
}

pub(crate) fn ids(nodes: &[u32]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

pub(crate) fn set(nodes: &[u32]) -> RoaringBitmap {
    nodes.iter().copied().collect()
}

pub(crate) fn plan_at(snapshot: &Snapshot, now: Time) -> Plan {
    plan(snapshot, now).expect("the snapshot can be planned with")
}

/// When a claim starts by a plan, if it says.
pub(crate) fn start_of(plan: &Plan, now: Time, id: u64) -> Option<Time> {
    let starts = plan.starts.iter().filter(|start| start.claim == ClaimId(id)).map(|_| now);
    let planned = plan.planned.iter().filter(|planned| planned.claim == ClaimId(id));
    starts.chain(planned.map(|planned| planned.start)).next()
}

/// The nodes on which a claim starts now.
pub(crate) fn nodes_of(plan: &Plan, id: u64) -> Vec<u32> {
    let starts = plan.starts.iter().filter(|start| start.claim == ClaimId(id));
    starts.flat_map(|start| start.nodes.iter().flatten().map(|node| node.0)).collect()
}
