//! `power`: on, off, cycle, status.

use clap::{Args, Subcommand};
use haas_api::{
    List,
    node::Node,
    operation::{PowerRequest, PowerVerb},
};

use crate::{
    cli::{Session, nodeset},
    error::Error,
    format,
    switch::{self, Common},
    table::{Table, Tone, or_dash, toned},
};

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
    #[command(after_help = "Examples:\n  haasctl power status n[01-16]")]
    Status {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
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
            Self::Status { nodeset } => {
                let list = List::whole(session.client()?.nodes(Some(&nodeset)).await?);
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
