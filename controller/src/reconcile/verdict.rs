//! Whether a transaction is to be committed or taken back. PURE.

use haas_api::operation::{MinSuccess, NodeProgress, OperationState, Strategy};

use crate::model::Operation;

/// What is to become of an operation now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet, or nothing ever.
    GoOn,
    /// Enough nodes are there and none is on its way: users are let in.
    Commit,
    /// All go back, for this reason.
    GoBack(String),
    /// Those that have not begun stay as they were, for this reason.
    Stop(String),
    /// It is over, in this state.
    End(OperationState),
}

/// Judges an operation by how its nodes stand. Nodes that a later request took over are of the set no
/// more.
pub(super) fn of(operation: &Operation) -> Verdict {
    let count = |which: fn(NodeProgress) -> bool| {
        operation.nodes.iter().filter(|node| which(node.state)).count()
    };
    let there = count(|s| matches!(s, NodeProgress::Prepared | NodeProgress::Succeeded));
    // One that was kept as it was goes back though the others go on.
    let failed = operation
        .nodes
        .iter()
        .filter(|n| n.state == NodeProgress::Failed || (n.goes_back && n.failure.is_some()))
        .count();
    let all = operation.nodes.len() - count(|s| s == NodeProgress::Superseded);
    let on_their_way = count(|s| matches!(s, NodeProgress::Waiting | NodeProgress::Running));
    let is_over = operation.nodes.iter().all(|node| node.state.is_over());

    match (operation.min_success, operation.state) {
        (Some(_), OperationState::Paused) if operation.committed_at.is_none() => Verdict::GoOn,
        (Some(least), OperationState::Running) if operation.committed_at.is_none() => {
            if all - failed < least.of(all) {
                Verdict::GoBack(missed(failed, all, least))
            } else if on_their_way == 0 {
                Verdict::Commit
            } else {
                Verdict::GoOn
            }
        }
        (_, OperationState::RollingBack) if is_over => Verdict::End(OperationState::RolledBack),
        (Some(least), _) if is_over => {
            let is_there = there > 0 && there >= least.of(all);
            Verdict::End(if is_there { OperationState::Succeeded } else { OperationState::Failed })
        }
        (None, _) if is_over => {
            let is_there = there == operation.nodes.len();
            Verdict::End(if is_there { OperationState::Succeeded } else { OperationState::Failed })
        }
        (None, OperationState::Running) if operation.strategy == Strategy::Rolling => {
            let mut nodes = operation.nodes.iter();
            let is_waited_for = nodes.any(|n| n.state == NodeProgress::Waiting && !n.goes_back);
            if failed > 0 && is_waited_for {
                Verdict::Stop("a node failed, so no other one was begun".to_owned())
            } else {
                Verdict::GoOn
            }
        }
        (Some(_) | None, _) => Verdict::GoOn,
    }
}

fn missed(failed: usize, all: usize, least: MinSuccess) -> String {
    let need = least.of(all);
    let of = match least {
        MinSuccess::Percent(percent) => format!("{need} ({percent}%)"),
        MinSuccess::Nodes(_) => need.to_string(),
    };
    format!("{failed} of {all} nodes failed, and {of} must get there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::testing::operation;
    use NodeProgress::{Failed, Prepared, RolledBack, Running, Succeeded, Superseded, Waiting};

    fn transaction(least: MinSuccess, states: &[NodeProgress]) -> Operation {
        Operation { min_success: Some(least), ..operation(states) }
    }

    const THREE: MinSuccess = MinSuccess::Nodes(3);

    #[test]
    fn users_are_let_in_only_when_nobody_is_on_its_way() {
        let judged = |states: &[_]| of(&transaction(THREE, states));
        assert_eq!(judged(&[Prepared, Prepared, Prepared, Running]), Verdict::GoOn);
        assert_eq!(judged(&[Prepared, Prepared, Prepared, Waiting]), Verdict::GoOn);
        assert_eq!(judged(&[Prepared, Prepared, Prepared, Failed]), Verdict::Commit);
        assert_eq!(judged(&[Prepared, Succeeded, Succeeded, Failed]), Verdict::Commit);
    }

    #[test]
    fn all_go_back_as_soon_as_too_many_have_failed() {
        let judged = of(&transaction(THREE, &[Failed, Running, Failed, Waiting]));
        let Verdict::GoBack(reason) = judged else { panic!("{judged:?}") };
        assert_eq!(reason, "2 of 4 nodes failed, and 3 must get there");
        let share = transaction(MinSuccess::Percent(95), &[Prepared, Failed]);
        let Verdict::GoBack(reason) = of(&share) else { panic!("{share:?}") };
        assert_eq!(reason, "1 of 2 nodes failed, and 2 (95%) must get there");
    }

    #[test]
    fn in_a_pause_nothing_is_decided() {
        for states in [[Prepared; 4], [Failed; 4]] {
            let mut paused = transaction(THREE, &states);
            paused.state = OperationState::Paused;
            assert_eq!(of(&paused), Verdict::GoOn, "{states:?}");
        }
    }

    #[test]
    fn who_was_taken_over_counts_for_nothing() {
        let share = |states: &[_]| of(&transaction(MinSuccess::Percent(100), states));
        assert_eq!(share(&[Prepared, Superseded, Prepared]), Verdict::Commit);
        assert!(matches!(share(&[Prepared, Superseded, Failed]), Verdict::GoBack(_)));
    }

    #[test]
    fn what_is_committed_is_never_taken_back() {
        let mut committed = transaction(THREE, &[Failed, Failed, Succeeded, Running]);
        committed.committed_at = Some(1);
        assert_eq!(of(&committed), Verdict::GoOn);
        committed.nodes[3].state = Succeeded;
        assert_eq!(of(&committed), Verdict::End(OperationState::Failed));
        committed.nodes[1].state = Succeeded;
        assert_eq!(of(&committed), Verdict::End(OperationState::Succeeded));
    }

    #[test]
    fn what_goes_back_ends_rolled_back_whoever_could_not() {
        let mut back = transaction(THREE, &[RolledBack, Failed, Running]);
        back.state = OperationState::RollingBack;
        assert_eq!(of(&back), Verdict::GoOn);
        back.nodes[2].state = RolledBack;
        assert_eq!(of(&back), Verdict::End(OperationState::RolledBack));
    }

    #[test]
    fn rolling_stops_at_the_first_that_fails() {
        let rolling =
            |states: &[_]| of(&Operation { strategy: Strategy::Rolling, ..operation(states) });
        assert_eq!(rolling(&[Succeeded, Running, Waiting]), Verdict::GoOn);
        assert!(matches!(rolling(&[Succeeded, Failed, Waiting]), Verdict::Stop(_)));
        assert_eq!(rolling(&[Succeeded, Failed, Running]), Verdict::GoOn);
        assert_eq!(rolling(&[Succeeded, Failed]), Verdict::End(OperationState::Failed));
        assert_eq!(of(&operation(&[Succeeded, Failed, Waiting])), Verdict::GoOn);
        assert_eq!(of(&operation(&[Succeeded])), Verdict::End(OperationState::Succeeded));
    }
}
