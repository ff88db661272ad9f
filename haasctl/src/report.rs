//! What an operation came to: where each node's seconds and bytes went, and who is not there.

use haas_api::{
    agent::BootStage,
    console::plain,
    operation::{BootReport, NodeProgress, Operation, OperationState},
};

use crate::{
    error::{Error, Exit},
    format,
    out::Out,
    table::{Table, Tone, number, toned},
};

/// One row per node: seconds per stage, their sum, and the bytes moved. None if no node booted.
pub(crate) fn boot_table(operation: &Operation) -> Option<Table> {
    let boots: Vec<&BootReport> =
        operation.nodes.iter().filter_map(|node| node.boot.as_ref()).collect();
    if boots.is_empty() {
        return None;
    }
    let stages: Vec<BootStage> = BootStage::ALL
        .into_iter()
        .filter(|stage| boots.iter().any(|boot| shown(*stage, seconds(boot, *stage))))
        .collect();
    let mut header = vec!["NODE".to_owned()];
    header.extend(stages.iter().map(|stage| stage.as_str().to_uppercase()));
    header.extend(["TOTAL s", "KERNEL+INITRAMFS", "ISCSI"].map(str::to_owned));
    let mut table = Table::new(header);
    for node in &operation.nodes {
        let Some(boot) = &node.boot else { continue };
        let mut row = vec![(&node.node).into()];
        row.extend(stages.iter().map(|stage| match seconds(boot, *stage) {
            Some(seconds) => number(format!("{seconds:.1}")),
            None => toned("-", Tone::Faint),
        }));
        row.push(number(format!("{:.1}", total(boot))));
        row.push(number(format::signed_bytes(boot.boot_bytes)));
        row.push(number(format::signed_bytes(boot.root_bytes)));
        table.row(row);
    }
    Some(table)
}

/// All seconds of a boot.
pub(crate) fn total(boot: &BootReport) -> f64 {
    boot.stages.iter().map(|stage| stage.seconds).sum()
}

/// `ready` is an end and not a stretch, so it has a column only if it took time.
fn shown(stage: BootStage, seconds: Option<f64>) -> bool {
    seconds.is_some_and(|seconds| stage != BootStage::Ready || seconds >= 0.05)
}

fn seconds(boot: &BootReport, stage: BootStage) -> Option<f64> {
    let of_stage = boot.stages.iter().filter(|time| time.stage == stage);
    of_stage.map(|time| time.seconds).reduce(|a, b| a + b)
}

/// Says on standard error which nodes are not there and why; an error unless enough are.
pub(crate) fn outcome(out: &Out, operation: &Operation) -> Result<(), Error> {
    for line in failures(operation) {
        out.note(&line)?;
    }
    match operation.state {
        OperationState::Succeeded => Ok(()),
        OperationState::Running
        | OperationState::Paused
        | OperationState::RollingBack
        | OperationState::Failed
        | OperationState::RolledBack => Err(verdict(operation)),
    }
}

fn failures(operation: &Operation) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &operation.nodes {
        if node.state == NodeProgress::Succeeded {
            continue;
        }
        if node.state == NodeProgress::RolledBack && node.failure.is_none() {
            continue;
        }
        let reason = node.failure.as_ref().unwrap_or(&node.reason);
        lines.push(format!("{}: {}", node.node, plain(reason)));
        if let Some(boot) = &node.boot {
            lines.extend(boot.kernel_log.iter().map(|line| format!("    {}", plain(line))));
        }
    }
    lines
}

fn verdict(operation: &Operation) -> Error {
    let count = |state| operation.nodes.iter().filter(|node| node.state == state).count();
    let all = operation.nodes.len();
    let there = count(NodeProgress::Succeeded);
    let superseded = count(NodeProgress::Superseded);
    let mut summary = format!("{there} of {all} nodes are there");
    let others = [
        (count(NodeProgress::RolledBack), "rolled back"),
        (count(NodeProgress::Failed), "failed"),
        (superseded, "superseded"),
    ];
    for (count, word) in others {
        if count > 0 {
            summary.push_str(&format!(", {count} {word}"));
        }
    }
    if !operation.reason.is_empty() {
        summary.push_str(&format!(": {}", operation.reason));
    }
    let exit = match there {
        0 if superseded == all => Exit::Conflict,
        0 => Exit::General,
        _ => Exit::Partial,
    };
    Error::Nodes { exit, summary }
}

#[cfg(test)]
mod tests {
    use haas_api::operation::{OperationNode, StageTime};

    use super::*;

    fn boot(stages: &[(BootStage, f64)]) -> BootReport {
        BootReport {
            attempt: "a".to_owned(),
            node: "n01".to_owned(),
            generation: 1,
            cause: "switch".to_owned(),
            state: "ready".to_owned(),
            what: "minimal:latest".to_owned(),
            started_at: "2026-11-21T00:00:00Z".to_owned(),
            stages: stages.iter().map(|&(stage, seconds)| StageTime { stage, seconds }).collect(),
            boot_bytes: 19_500_000,
            root_bytes: 3_200_000,
            failure: None,
            checks: Vec::new(),
            kernel_log: Vec::new(),
        }
    }

    fn operation(nodes: &[(NodeProgress, Option<BootReport>)]) -> Operation {
        Operation {
            id: "op".to_owned(),
            kind: "switch".to_owned(),
            actor: "alice".to_owned(),
            summary: String::new(),
            state: OperationState::Failed,
            reason: String::new(),
            min_success: None,
            committed_at: None,
            created_at: String::new(),
            ended_at: None,
            nodes: nodes
                .iter()
                .enumerate()
                .map(|(index, (state, boot))| OperationNode {
                    node: format!("n{index:02}"),
                    generation: 1,
                    state: *state,
                    reason: "the disk is full".to_owned(),
                    failure: None,
                    stage: None,
                    boot: boot.clone(),
                })
                .collect(),
        }
    }

    #[test]
    fn the_table_says_where_seconds_and_bytes_went() {
        let first = boot(&[
            (BootStage::Power, 1.0),
            (BootStage::Kernel, 2.25),
            (BootStage::Kernel, 0.5),
            (BootStage::Ready, 0.0),
        ]);
        let second = boot(&[(BootStage::Power, 1.5)]);
        let operation = operation(&[
            (NodeProgress::Succeeded, Some(first)),
            (NodeProgress::Failed, Some(second)),
            (NodeProgress::Failed, None),
        ]);
        assert_eq!(
            boot_table(&operation).unwrap().render(None, false),
            "NODE  POWER  KERNEL  TOTAL s  KERNEL+INITRAMFS  ISCSI\n\
             n00     1.0     2.8      3.8           19.5 MB  3.2 MB\n\
             n01     1.5  -           1.5           19.5 MB  3.2 MB\n"
        );
    }

    #[test]
    fn what_a_node_says_of_its_failure_does_nothing_to_a_terminal() {
        let mut failed = boot(&[]);
        failed.kernel_log = vec!["\u{1b}]0;title\u{7}[1.0] panic\u{1b}[2J\r".to_owned()];
        let mut operation = operation(&[(NodeProgress::Failed, Some(failed))]);
        operation.nodes[0].reason = "overlay: \u{1b}[31mfull".to_owned();
        assert_eq!(failures(&operation), ["n00: overlay: full", "    [1.0] panic^M"]);
    }

    #[test]
    fn the_exit_code_tells_part_from_nothing() {
        use NodeProgress::{Failed, Succeeded, Superseded};
        for (states, code) in [
            (vec![Succeeded, Failed], 3),
            (vec![Failed, Failed], 1),
            (vec![Superseded, Failed], 1),
            (vec![Superseded, Superseded], 5),
            (vec![Superseded, Succeeded], 3),
        ] {
            let nodes: Vec<_> = states.iter().map(|state| (*state, None)).collect();
            assert_eq!(verdict(&operation(&nodes)).code(), code, "{states:?}");
        }
        let some = operation(&[(Succeeded, None), (Failed, None)]);
        assert_eq!(verdict(&some).to_string(), "1 of 2 nodes are there, 1 failed");
        assert_eq!(failures(&some), ["n01: the disk is full"]);
        assert!(boot_table(&some).is_none());
    }
}
