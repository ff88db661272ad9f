//! `operation`: switches, rollbacks and power requests in progress or over.

use std::time::Duration;

use clap::Subcommand;
use haas_api::{
    List,
    operation::{NodeProgress, Operation, OperationState},
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
        }
    }
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
    }
}

fn show_text(operation: &Operation) -> String {
    let mut head = Table::pairs();
    head.pair("id", &operation.id);
    head.pair("summary", &operation.summary);
    head.pair("state", state(operation.state));
    head.pair("by", &operation.actor);
    head.pair("created", format::time(&operation.created_at));
    head.pair("ended", or_dash(operation.ended_at.as_deref().map(format::time)));
    let mut nodes = Table::new(["NODE", "STATE", "STAGE", "GENERATION", "REASON"]);
    for node in &operation.nodes {
        let state = match node.state {
            NodeProgress::Waiting => "waiting",
            NodeProgress::Running => "running",
            NodeProgress::Succeeded => "succeeded",
            NodeProgress::Failed => "failed",
            NodeProgress::Superseded => "superseded",
        };
        nodes.row([
            (&node.node).into(),
            state.into(),
            or_dash(node.stage),
            node.generation.into(),
            (&node.reason).into(),
        ]);
    }
    let mut text = head.render(None, false) + "\n" + &nodes.render(None, false);
    if let Some(boots) = report::boot_table(operation) {
        text.push('\n');
        text.push_str(&boots.render(None, false));
    }
    text
}
