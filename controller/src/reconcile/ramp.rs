//! How fast the nodes of a group are switched on, so that the load of a rack rises step by step
//! (`[power_ramp]` in haasd.toml). It holds for every boot that haasd begins, whoever asked for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use haas_api::names::NodeGroupName;

use super::Loaded;
use crate::{
    inventory::PowerSpec,
    lifecycle::{Action, Step},
    model::{Micros, Node, SECOND},
};

/// When a node of each group was last switched on, on the steady clock.
#[derive(Debug, Default)]
pub(super) struct Ramp {
    /// Nodes that each group may have switched on in a minute.
    limits: BTreeMap<NodeGroupName, u32>,
    last: Mutex<HashMap<NodeGroupName, Micros>>,
}

impl Ramp {
    pub(super) fn new(limits: BTreeMap<NodeGroupName, u32>) -> Self {
        Self { limits, last: Mutex::default() }
    }

    /// Takes up what an earlier haasd has switched on.
    pub(super) fn learn(&self, nodes: &[Loaded]) {
        let mut last = self.lock();
        for entry in nodes {
            let Some(boot) = entry.attempt.as_ref().filter(|boot| !boot.by_itself) else {
                continue;
            };
            for (group, _) in self.limits_of(&entry.node) {
                let known = last.entry(group.clone()).or_insert(boot.opened_at);
                *known = (*known).max(boot.opened_at);
            }
        }
    }

    /// The step of a node at `now`: one that is to be switched on waits until its groups let it.
    pub(super) fn gate(&self, node: &Node, step: Step, now: Micros) -> Step {
        if !self.is_limited(node, &step) {
            return step;
        }
        let last = self.lock();
        let free = |(group, limit): (&NodeGroupName, u32)| {
            let at = last.get(group)? + 60 * SECOND / Micros::from(limit.max(1));
            (at > now).then(|| (at, format!("waits for power: {limit} nodes of {group} a minute")))
        };
        match self.limits_of(node).filter_map(free).max() {
            Some((until, reason)) => Step::Wait { reason, until },
            None => step,
        }
    }

    /// The node is switched on now.
    pub(super) fn take(&self, node: &Node, now: Micros) {
        let mut last = self.lock();
        for (group, _) in self.limits_of(node) {
            last.insert(group.clone(), now);
        }
    }

    /// Whether this step switches on a node of a group that has a limit.
    pub(super) fn is_limited(&self, node: &Node, step: &Step) -> bool {
        let Step::Do(action) = step else { return false };
        let action = match action {
            Action::Alone(action) => action,
            action => action,
        };
        matches!(action, Action::OpenAttempt(_))
            && node.spec.power != PowerSpec::Manual
            && self.limits_of(node).next().is_some()
    }

    fn limits_of<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = (&'a NodeGroupName, u32)> {
        self.limits
            .iter()
            .filter(|(group, _)| node.spec.groups.contains(*group))
            .map(|(group, limit)| (group, *limit))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeGroupName, Micros>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Cause, testing::Bench};

    #[tokio::test]
    async fn nodes_of_a_group_are_switched_on_one_after_the_other() {
        let bench = Bench::new().await;
        bench.add_nodes([1, 2]).await;
        let (a, b) = (bench.node(1).await, bench.node(2).await);
        let start = || Step::Do(Action::OpenAttempt(Cause::Desired));
        let ramp = Ramp::new([("rack1".parse().unwrap(), 30)].into());
        assert_eq!(ramp.gate(&a, start(), 100), start());
        ramp.take(&a, 100);
        let held = ramp.gate(&b, start(), 101);
        let Step::Wait { until, .. } = held else { panic!("{held:?}") };
        assert_eq!(until, 100 + 2 * SECOND);
        assert_eq!(ramp.gate(&b, start(), until), start());
        // A node whose power was cut, as that of its whole rack was.
        let alone = Step::Do(Action::Alone(Box::new(Action::OpenAttempt(Cause::Unplanned))));
        assert!(matches!(ramp.gate(&b, alone, 101), Step::Wait { .. }));
        // Only what switches a node on waits, and only where its group has a limit.
        let soft = Step::Do(Action::EndByAcpi);
        assert_eq!(ramp.gate(&b, soft.clone(), 101), soft);
        let other = Ramp::new([("rack2".parse().unwrap(), 1)].into());
        other.take(&a, 100);
        assert_eq!(other.gate(&b, start(), 101), start());
    }
}
