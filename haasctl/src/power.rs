//! `power`: on, off, cycle, status.

use std::time::Duration;

use clap::{Args, Subcommand};
use haas_api::{
    List,
    client::Client,
    node::Node,
    operation::{PowerRequest, PowerStatusRequest, PowerVerb},
};

use crate::{
    cli::{Session, nodeset},
    error::Error,
    format,
    switch::{self, Common},
    table::{Table, Tone, or_dash, toned},
};

/// How soon haasd is asked whether all BMCs have answered, and how often where that takes long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Power nodes on, into the image and overlay that they have.
    #[command(after_help = "Examples:\n  haasctl power on n[01-16] --wait")]
    On(PowerArgs),
    /// Power nodes off, in order.
    #[command(
        after_help = "Examples:\n  haasctl power off n03\n  haasctl power off @rack1 --dry-run"
    )]
    Off(PowerArgs),
    /// Power nodes off in order, then on.
    #[command(after_help = "Examples:\n  haasctl power cycle n03 --wait")]
    Cycle(PowerArgs),
    /// Show what the nodes' BMCs say.
    #[command(
        after_help = "Examples:\n  haasctl power status n[01-16]\n  haasctl power status @rack1 --fresh"
    )]
    Status {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
        /// Ask the BMCs now, in place of what they said last.
        #[arg(long)]
        fresh: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PowerArgs {
    /// The nodes, `n[01-16],@rack1`.
    #[arg(value_parser = nodeset)]
    nodeset: String,
    #[command(flatten)]
    common: Common,
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        match self {
            Self::On(args) => args.run(session, PowerVerb::On).await,
            Self::Off(args) => args.run(session, PowerVerb::Off).await,
            Self::Cycle(args) => args.run(session, PowerVerb::Cycle).await,
            Self::Status { nodeset, fresh } => {
                let client = session.client()?;
                let nodes = match fresh {
                    true => fresh_status(&client, nodeset).await?,
                    false => client.nodes(Some(&nodeset)).await?,
                };
                let list = List::whole(nodes);
                session.out.show(&list, || table(&list.items))
            }
        }
    }
}

impl PowerArgs {
    pub(crate) async fn run(self, session: &Session<'_>, action: PowerVerb) -> Result<(), Error> {
        let client = session.client()?;
        let request = PowerRequest {
            nodeset: self.nodeset,
            action,
            force: self.common.force,
            dry_run: self.common.dry_run,
        };
        let submitted = client.power(&request).await?;
        switch::finish(session, &client, submitted, &self.common.wait).await
    }
}

/// The nodes as their BMCs say now.
async fn fresh_status(client: &Client, nodeset: String) -> Result<Vec<Node>, Error> {
    let begun = client.ask_power(&PowerStatusRequest { nodeset }).await?;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(nodes) = client.power_status(&begun.id).await?.nodes {
            return Ok(nodes);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new(["NODE", "POWER", "SEEN", "DRIVER", "ERROR"]);
    for node in nodes {
        let seen = &node.observed;
        let tone = match seen.power.as_str() {
            "on" => Tone::Good,
            "off" => Tone::Plain,
            _ => Tone::Bad,
        };
        table.row([
            (&node.name).into(),
            toned(&seen.power, tone),
            or_dash(seen.power_at.as_deref().map(format::time)),
            (&node.power_driver).into(),
            or_dash(seen.power_error.as_deref()),
        ]);
    }
    table
}
