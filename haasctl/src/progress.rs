//! How far each node of an operation is. Knows no network and no terminal: what arrives is told to
//! it, and it says what to show.

use haas_api::{
    agent::BootStage,
    event::Event,
    operation::{NodeProgress, Operation, OperationNode},
};

use crate::{
    format,
    table::{Table, Tone, number, toned},
};

/// How far each node is.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Whether events arrive at the moment. While they do and tell stages, stages are taken from
    /// them, since one look at the operation can miss a short one.
    pub(crate) stream_stands: bool,
    created_at: String,
    stages_by_event: bool,
    nodes: Vec<NodeView>,
    lines: Vec<String>,
}

#[derive(Debug)]
struct NodeView {
    name: String,
    state: NodeProgress,
    reason: String,
    stage: Option<BootStage>,
    /// Whether the stage came from an event.
    by_event: bool,
    /// Seconds after the operation's beginning at which the stage or the end was reached.
    since: f64,
}

impl Progress {
    /// For an operation that was asked for at `created_at`.
    pub(crate) fn new(created_at: &str) -> Self {
        Self {
            stream_stands: false,
            created_at: created_at.to_owned(),
            stages_by_event: false,
            nodes: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// The operation as it is, `elapsed` seconds after its beginning.
    pub(crate) fn on_operation(&mut self, operation: &Operation, elapsed: f64) {
        let trust_events = self.stream_stands && self.stages_by_event;
        for node in &operation.nodes {
            let known = self.nodes.iter().position(|view| view.name == node.node);
            let index = known.unwrap_or_else(|| {
                self.nodes.push(NodeView::new(node, elapsed));
                self.nodes.len() - 1
            });
            let view = &mut self.nodes[index];
            if node.stage.is_some() && node.stage != view.stage && !trust_events {
                view.stage = node.stage;
                view.by_event = false;
                view.since = elapsed;
                self.lines.extend(view.stage_line());
            }
            view.reason.clone_from(&node.reason);
            if view.state != node.state {
                view.state = node.state;
                self.lines.extend(view.end_line(elapsed));
                if node.state.is_over() {
                    view.since = elapsed;
                }
            }
        }
    }

    /// An event of the operation, come `elapsed` seconds after its beginning.
    pub(crate) fn on_event(&mut self, event: &Event, elapsed: f64) {
        let stage = event.data.get("stage").cloned();
        let Some(stage) = stage.and_then(|value| serde_json::from_value::<BootStage>(value).ok())
        else {
            return;
        };
        self.stages_by_event = true;
        let Some(view) =
            self.nodes.iter_mut().find(|view| Some(view.name.as_str()) == event.node.as_deref())
        else {
            return;
        };
        // The stream may tell again what a look at the operation has shown already.
        let told_already = !view.by_event && view.stage.is_some_and(|shown| stage <= shown);
        if view.stage == Some(stage) || told_already || view.state.is_over() {
            return;
        }
        view.stage = Some(stage);
        view.by_event = true;
        // haasd's clock against haasd's clock, so that ours does not matter.
        view.since = format::seconds_between(&self.created_at, &event.at)
            .filter(|seconds| *seconds >= 0.0)
            .unwrap_or(elapsed);
        self.lines.extend(view.stage_line());
    }

    /// The lines that are new since the last call, for output that is no terminal.
    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// The whole as a table for a terminal of this size. Where not all nodes fit, those that are
    /// there already are left out first.
    pub(crate) fn picture(&self, elapsed: f64, width: u16, height: u16) -> String {
        let room = usize::from(height).saturating_sub(3).max(1);
        let mut shown: Vec<&NodeView> = self.nodes.iter().collect();
        if shown.len() > room {
            shown.sort_by_key(|view| match view.state {
                NodeProgress::Failed | NodeProgress::Superseded => 0,
                NodeProgress::Running => 1,
                NodeProgress::Waiting => 2,
                NodeProgress::Prepared | NodeProgress::RolledBack => 3,
                NodeProgress::Succeeded => 4,
            });
            shown.truncate(room);
        }
        let mut table = Table::new(["NODE", "STAGE", "", "S", "WHAT"]);
        for view in &shown {
            let tone = match view.state {
                NodeProgress::Succeeded => Tone::Good,
                NodeProgress::Failed | NodeProgress::Superseded => Tone::Bad,
                NodeProgress::Running => Tone::Busy,
                NodeProgress::Prepared => Tone::Good,
                NodeProgress::Waiting | NodeProgress::RolledBack => Tone::Faint,
            };
            let seconds = if view.state.is_over() { view.since } else { elapsed - view.since };
            table.row([
                (&view.name).into(),
                toned(view.word(), tone),
                view.bar().into(),
                number(format!("{:.0}", seconds.max(0.0))),
                (&view.reason).into(),
            ]);
        }
        let there = self.nodes.iter().filter(|v| v.state == NodeProgress::Succeeded).count();
        // One row per node: text that is too long is cut, or drawing over it would go wrong.
        let mut text: String = table
            .render(None, false)
            .lines()
            .map(|line| line.chars().take(usize::from(width)).collect::<String>() + "\n")
            .collect();
        text.push_str(&format!("{there} of {} there, {elapsed:.0} s\n", self.nodes.len()));
        text
    }
}

impl NodeView {
    fn new(node: &OperationNode, elapsed: f64) -> Self {
        Self {
            name: node.node.clone(),
            state: NodeProgress::Waiting,
            reason: node.reason.clone(),
            stage: None,
            by_event: false,
            since: elapsed,
        }
    }

    fn stage_line(&self) -> Option<String> {
        self.stage.map(|stage| format!("{} {stage} {:.1}s", self.name, self.since))
    }

    /// For an end that no stage tells.
    fn end_line(&self, elapsed: f64) -> Option<String> {
        let name = &self.name;
        match self.state {
            NodeProgress::Waiting | NodeProgress::Running => None,
            NodeProgress::Prepared => Some(format!("{name} prepared {elapsed:.1}s")),
            NodeProgress::RolledBack => Some(format!("{name} rolled back {elapsed:.1}s")),
            NodeProgress::Succeeded if self.stage == Some(BootStage::Ready) => None,
            NodeProgress::Succeeded => Some(format!("{name} succeeded {elapsed:.1}s")),
            NodeProgress::Failed => Some(format!("{name} failed {elapsed:.1}s: {}", self.reason)),
            NodeProgress::Superseded => {
                Some(format!("{name} superseded {elapsed:.1}s: {}", self.reason))
            }
        }
    }

    fn word(&self) -> &'static str {
        match (self.state, self.stage) {
            (NodeProgress::Succeeded, _) => "done",
            (NodeProgress::Failed, _) => "failed",
            (NodeProgress::Superseded, _) => "superseded",
            (NodeProgress::Prepared, _) => "prepared",
            (NodeProgress::RolledBack, _) => "rolled back",
            (_, Some(stage)) => stage.as_str(),
            (NodeProgress::Waiting, None) => "waiting",
            (NodeProgress::Running, None) => "running",
        }
    }

    fn bar(&self) -> String {
        let all = BootStage::ALL.len();
        let done = match (self.state, self.stage) {
            (NodeProgress::Succeeded, _) => all,
            (_, Some(stage)) => BootStage::ALL.iter().filter(|s| **s <= stage).count(),
            (_, None) => 0,
        };
        format!("[{}{}]", "#".repeat(done), ".".repeat(all - done))
    }
}

#[cfg(test)]
mod tests {
    use haas_api::operation::OperationState;

    use super::*;

    fn node(name: &str, state: NodeProgress, stage: Option<BootStage>) -> OperationNode {
        OperationNode {
            node: name.to_owned(),
            generation: 1,
            state,
            reason: "why".to_owned(),
            failure: None,
            stage,
            boot: None,
        }
    }

    fn operation(nodes: Vec<OperationNode>) -> Operation {
        Operation {
            id: "op".to_owned(),
            kind: "switch".to_owned(),
            actor: "alice".to_owned(),
            summary: String::new(),
            state: OperationState::Running,
            reason: String::new(),
            min_success: None,
            committed_at: None,
            created_at: "2026-11-21T00:00:00Z".to_owned(),
            ended_at: None,
            nodes,
        }
    }

    fn event(node: &str, at: &str, stage: &str) -> Event {
        Event {
            seq: 1,
            at: at.to_owned(),
            kind: "boot-progressed".to_owned(),
            node: Some(node.to_owned()),
            operation: Some("op".to_owned()),
            actor: "haasd".to_owned(),
            data: serde_json::json!({ "stage": stage }),
        }
    }

    #[test]
    fn events_tell_each_stage_with_haasds_own_clock() {
        let mut progress = Progress::new("2026-11-21T00:00:00Z");
        progress.on_operation(&operation(vec![node("n01", NodeProgress::Running, None)]), 0.0);
        progress.stream_stands = true;
        progress.on_event(&event("n01", "2026-11-21T00:00:01.5Z", "dhcp"), 99.0);
        progress.on_event(&event("n01", "2026-11-21T00:00:03.24Z", "kernel"), 99.0);
        progress.on_event(&event("n09", "2026-11-21T00:00:03.24Z", "kernel"), 99.0);
        // A look at the operation that is behind or ahead of the events adds nothing.
        let behind = node("n01", NodeProgress::Running, Some(BootStage::Script));
        progress.on_operation(&operation(vec![behind]), 5.0);
        assert_eq!(progress.take_lines(), ["n01 dhcp 1.5s", "n01 kernel 3.2s"]);
        assert!(progress.take_lines().is_empty());
    }

    #[test]
    fn without_events_the_operation_tells_stages() {
        let mut progress = Progress::new("2026-11-21T00:00:00Z");
        for (stage, elapsed) in
            [(BootStage::Dhcp, 1.0), (BootStage::Dhcp, 2.0), (BootStage::Agent, 4.0)]
        {
            let now = node("n01", NodeProgress::Running, Some(stage));
            progress.on_operation(&operation(vec![now]), elapsed);
        }
        assert_eq!(progress.take_lines(), ["n01 dhcp 1.0s", "n01 agent 4.0s"]);
        // The stream comes, and tells from the beginning.
        progress.on_event(&event("n01", "2026-11-21T00:00:01Z", "dhcp"), 5.0);
        progress.on_event(&event("n01", "2026-11-21T00:00:06Z", "root"), 6.0);
        assert_eq!(progress.take_lines(), ["n01 root 6.0s"]);
    }

    #[test]
    fn ends_are_told_once_with_their_reason() {
        let mut progress = Progress::new("2026-11-21T00:00:00Z");
        let ready = node("n01", NodeProgress::Succeeded, Some(BootStage::Ready));
        let failed = node("n02", NodeProgress::Failed, Some(BootStage::Root));
        let off = node("n03", NodeProgress::Succeeded, None);
        for _ in 0..2 {
            let now = operation(vec![ready.clone(), failed.clone(), off.clone()]);
            progress.on_operation(&now, 9.0);
        }
        assert_eq!(
            progress.take_lines(),
            ["n01 ready 9.0s", "n02 root 9.0s", "n02 failed 9.0s: why", "n03 succeeded 9.0s"]
        );
    }

    #[test]
    fn a_picture_fits_the_terminal_and_keeps_what_matters() {
        let mut progress = Progress::new("2026-11-21T00:00:00Z");
        let mut nodes: Vec<_> = (0..30)
            .map(|i| node(&format!("n{i:02}"), NodeProgress::Succeeded, Some(BootStage::Ready)))
            .collect();
        nodes.push(node("n30", NodeProgress::Failed, Some(BootStage::Root)));
        progress.on_operation(&operation(nodes), 9.0);
        let picture = progress.picture(9.0, 30, 10);
        assert!(picture.lines().count() <= 10, "{picture}");
        assert!(picture.lines().all(|line| line.chars().count() <= 30), "{picture}");
        assert!(picture.contains("n30   failed"), "{picture}");
        assert!(picture.contains("30 of 31 there"), "{picture}");
    }
}
