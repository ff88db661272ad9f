//! `operation`: switches, rollbacks and power requests in progress or over.

use std::time::Duration;

use clap::Subcommand;
use haas_api::{
    List,
    operation::{NodeProgress, Operation, OperationNode, OperationState},
};

use crate::{
    cli::Session,
    error::Error,
    format, report,
    table::{Field, Table, Tone, or_dash, toned},
    wait,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List operations.
    #[command(after_help = "Examples:\n  haasctl operation list")]
    List,
    /// Show an operation and how each of its nodes stands.
    #[command(after_help = "Examples:\n  haasctl operation show 01JD3F7Q8Z")]
    Show {
        /// The operation.
        id: String,
    },
    /// Wait for an operation, as `switch --wait` does.
    #[command(after_help = "\
Examples:
  haasctl operation wait 01JD3F7Q8Z
  haasctl operation wait 01JD3F7Q8Z --timeout 900")]
    Wait {
        /// The operation.
        id: String,
        /// Give up waiting after this many seconds (exit code 7). The operation goes on.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Let nodes that are under way go on, begin no other one, and neither commit nor take back.
    #[command(after_help = "Examples:\n  haasctl operation pause 01JD3F7Q8Z")]
    Pause {
        /// The operation.
        id: String,
    },
    /// Let a paused operation go on.
    #[command(after_help = "Examples:\n  haasctl operation resume 01JD3F7Q8Z")]
    Resume {
        /// The operation.
        id: String,
    },
    /// End an operation early. With --min-success all its nodes go back to what they ran before; else
    /// those stay as they are that have not begun.
    #[command(after_help = "Examples:\n  haasctl operation abort 01JD3F7Q8Z")]
    Abort {
        /// The operation.
        id: String,
    },
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        match self {
            Self::List => {
                let list = List::whole(client.operations().await?);
                session.out.show(&list, || list_table(&list.items))
            }
            Self::Show { id } => {
                let operation = client.operation(&id).await?;
                session.out.show_text(&operation, || show_text(&operation))
            }
            Self::Wait { id, timeout } => {
                let operation = client.operation(&id).await?;
                let timeout = timeout.map(Duration::from_secs);
                wait::follow(session, &client, operation, timeout).await
            }
            Self::Pause { id } => shown(session, &client.pause_operation(&id).await?),
            Self::Resume { id } => shown(session, &client.resume_operation(&id).await?),
            Self::Abort { id } => shown(session, &client.abort_operation(&id).await?),
        }
    }
}

fn shown(session: &Session<'_>, operation: &Operation) -> Result<(), Error> {
    session.out.show_text(operation, || show_text(operation))
}

fn list_table(operations: &[Operation]) -> Table {
    let mut table = Table::new(["ID", "CREATED", "STATE", "THERE", "BY", "SUMMARY"]);
    for operation in operations {
        let there =
            operation.nodes.iter().filter(|node| node.state == NodeProgress::Succeeded).count();
        table.row([
            (&operation.id).into(),
            format::time(&operation.created_at).into(),
            state(operation.state),
            format!("{there}/{}", operation.nodes.len()).into(),
            (&operation.actor).into(),
            (&operation.summary).into(),
        ]);
    }
    table
}

fn state(state: OperationState) -> Field {
    match state {
        OperationState::Running => toned("running", Tone::Busy),
        OperationState::Succeeded => toned("succeeded", Tone::Good),
        OperationState::Failed => toned("failed", Tone::Bad),
        OperationState::Paused => toned("paused", Tone::Faint),
        OperationState::RollingBack => toned("rolling back", Tone::Bad),
        OperationState::RolledBack => toned("rolled back", Tone::Bad),
    }
}

/// What a node does, and why it did not get there where it goes back.
fn reason(node: &OperationNode) -> String {
    match &node.failure {
        Some(failure) => format!("{}; it had failed: {failure}", node.reason),
        None => node.reason.clone(),
    }
}

fn show_text(operation: &Operation) -> String {
    let mut head = Table::pairs();
    head.pair("id", &operation.id);
    head.pair("summary", &operation.summary);
    head.pair("state", state(operation.state));
    if !operation.reason.is_empty() {
        head.pair("reason", &operation.reason);
    }
    if let Some(least) = operation.min_success {
        head.pair("must get there", least.to_string());
        head.pair("committed", or_dash(operation.committed_at.as_deref().map(format::time)));
    }
    head.pair("by", &operation.actor);
    head.pair("created", format::time(&operation.created_at));
    head.pair("ended", or_dash(operation.ended_at.as_deref().map(format::time)));
    let mut nodes = Table::new(["NODE", "STATE", "STAGE", "GENERATION", "REASON"]);
    for node in &operation.nodes {
        let state = match node.state {
            NodeProgress::Waiting => "waiting",
            NodeProgress::Running => "running",
            NodeProgress::Prepared => "prepared",
            NodeProgress::Succeeded => "succeeded",
            NodeProgress::Failed => "failed",
            NodeProgress::Superseded => "superseded",
            NodeProgress::RolledBack => "rolled back",
        };
        nodes.row([
            (&node.node).into(),
            state.into(),
            or_dash(node.stage),
            node.generation.into(),
            reason(node).into(),
        ]);
    }
    let mut text = head.render(None, false) + "\n" + &nodes.render(None, false);
    if let Some(boots) = report::boot_table(operation) {
        text.push('\n');
        text.push_str(&boots.render(None, false));
    }
    text
}
