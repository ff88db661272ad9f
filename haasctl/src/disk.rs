//! `disk`: the disks of nodes that can hold overlays.

use clap::Subcommand;
use haas_api::{
    List,
    agent::DiskState,
    names::NodeName,
    overlay::{ClaimDisk, NodeDisk},
};

use crate::{
    cli::Session,
    error::Error,
    format,
    table::{Table, number, or_dash},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List a node's disks as its agent last saw them.
    #[command(after_help = "Examples:\n  haasctl disk list n01")]
    List {
        /// The node.
        node: NodeName,
    },
    /// Let haasd wipe a disk that is not blank, for the overlay store. What is on it will be lost.
    #[command(after_help = "Examples:\n  haasctl disk claim n01 --serial S3Z8NB0K --wipe")]
    Claim {
        /// The node.
        node: NodeName,
        /// The disk's serial number, as `disk list` shows it.
        #[arg(long)]
        serial: String,
        /// Says that what is on the disk may be lost.
        #[arg(long, required = true)]
        wipe: bool,
    },
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let list = match self {
            Self::List { node } => List::whole(client.disks(&node).await?),
            Self::Claim { node, serial, wipe } => {
                let disk = client.claim_disk(&node, &ClaimDisk { serial, wipe }).await?;
                return session.out.show(&disk, || table(std::slice::from_ref(&disk)));
            }
        };
        session.out.show(&list, || table(&list.items))
    }
}

fn table(disks: &[NodeDisk]) -> Table {
    let mut table =
        Table::new(["NODE", "DISK", "SERIAL", "MODEL", "SIZE", "STATE", "CLAIMED", "SEEN"]);
    for one in disks {
        let state = match &one.disk.state {
            DiskState::Blank => "blank".to_owned(),
            DiskState::Ours { .. } => "overlay store".to_owned(),
            DiskState::Foreign { owner } => format!("foreign store: {owner}"),
            DiskState::Other { looks_like } => format!("not blank: {looks_like}"),
            DiskState::Unusable { reason } => format!("unusable: {reason}"),
        };
        table.row([
            (&one.node).into(),
            (&one.disk.name).into(),
            or_dash(one.disk.serial.as_deref()),
            or_dash(one.disk.model.as_deref()),
            number(format::bytes(one.disk.size)),
            state.into(),
            if one.claimed { "yes" } else { "no" }.into(),
            format::time(&one.seen_at).into(),
        ]);
    }
    table
}
