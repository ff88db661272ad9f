//! Whose turn it is among the nodes of an operation. PURE.

use std::collections::HashMap;

use haas_api::operation::{NodeProgress, OperationState, Strategy};

use crate::model::Operation;

/// For each node of an operation that lets only some begin, whether it may. Nodes of no such operation
/// are absent: they wait for nobody. A node that has begun keeps its turn.
pub(super) fn of(operations: &[Operation]) -> HashMap<String, bool> {
    let mut turns = HashMap::new();
    for operation in operations {
        let Some(limit) = limit(operation) else { continue };
        let begun = operation.nodes.iter().filter(|node| node.state == NodeProgress::Running);
        let mut free = limit.saturating_sub(begun.count());
        for node in &operation.nodes {
            let turn = match node.state {
                NodeProgress::Running | NodeProgress::Prepared => true,
                NodeProgress::Waiting if free > 0 => {
                    free -= 1;
                    true
                }
                NodeProgress::Waiting => false,
                NodeProgress::Succeeded
                | NodeProgress::Failed
                | NodeProgress::Superseded
                | NodeProgress::RolledBack => continue,
            };
            turns.insert(node.node_id.clone(), turn);
        }
    }
    turns
}

/// How many nodes may be under way at once; none: all.
fn limit(operation: &Operation) -> Option<usize> {
    let at_most = operation.at_most.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    match (operation.state, operation.strategy) {
        (OperationState::Paused, _) => Some(0),
        (_, Strategy::Rolling) => Some(at_most.unwrap_or(1)),
        (_, Strategy::All) => at_most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::testing::operation;
    use NodeProgress::{Failed, Prepared, Running, Succeeded, Waiting};

    fn turns(operation: Operation) -> Vec<Option<bool>> {
        let turns = of(std::slice::from_ref(&operation));
        operation.nodes.iter().map(|node| turns.get(&node.node_id).copied()).collect()
    }

    #[test]
    fn at_most_so_many_are_under_way_and_who_has_begun_goes_on() {
        let mut some = operation(&[Succeeded, Failed, Waiting, Running, Waiting, Waiting]);
        assert_eq!(turns(some.clone()), [None; 6], "nothing is said of how many");
        some.at_most = Some(2);
        let expected = [None, None, Some(true), Some(true), Some(false), Some(false)];
        assert_eq!(turns(some), expected);
    }

    #[test]
    fn a_node_that_is_prepared_takes_nobodys_turn() {
        let mut some = operation(&[Prepared, Prepared, Waiting, Waiting]);
        some.at_most = Some(1);
        assert_eq!(turns(some), [Some(true), Some(true), Some(true), Some(false)]);
    }

    #[test]
    fn rolling_is_one_at_a_time_where_nothing_else_is_said() {
        let mut some = operation(&[Waiting, Waiting, Waiting]);
        some.strategy = Strategy::Rolling;
        assert_eq!(turns(some.clone()), [Some(true), Some(false), Some(false)]);
        some.at_most = Some(2);
        assert_eq!(turns(some), [Some(true), Some(true), Some(false)]);
    }

    #[test]
    fn in_a_pause_nobody_begins_and_who_has_begun_goes_on() {
        let mut some = operation(&[Running, Waiting]);
        some.state = OperationState::Paused;
        assert_eq!(turns(some), [Some(true), Some(false)]);
    }
}
