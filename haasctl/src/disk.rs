//! `disk`: the disks of nodes that can hold overlays.

use clap::Subcommand;
use haas_api::{
    List,
    agent::DiskState,
    names::NodeName,
    overlay::{AcceptDisk, ClaimDisk, NodeDisk, RepairDisk},
};

use crate::{
    cli::Session,
    confirm::Yes,
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
    /// Let a node go on with the overlay store that is on its disk, though it is another node's, not the
    /// one that the node had, or an older copy. The node that had it has lost it.
    #[command(after_help = "Examples:\n  haasctl disk accept n01\n  \
        haasctl disk accept n01 --serial S3Z8NB0K")]
    Accept {
        /// The node.
        node: NodeName,
        /// The disk's serial number, where several disks hold such a store.
        #[arg(long)]
        serial: Option<String>,
    },
    /// Let a node that is held for a damaged overlay store repair it once, whatever that takes.
    /// Files of any overlay on it may be lost.
    #[command(after_help = "Examples:\n  haasctl disk repair n01 --yes")]
    Repair {
        /// The node.
        node: NodeName,
        #[command(flatten)]
        yes: Yes,
    },
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let disk = match self {
            Self::List { node } => {
                let list = List::whole(client.disks(&node).await?);
                return session.out.show(&list, || table(&list.items));
            }
            Self::Claim { node, serial, wipe } => {
                client.claim_disk(&node, &ClaimDisk { serial, wipe }).await?
            }
            Self::Accept { node, serial } => {
                client.accept_disk(&node, &AcceptDisk { serial }).await?
            }
            Self::Repair { node, yes } => {
                yes.ask(
                    session,
                    &format!("The repair may lose files of all overlays on {node}. Repair?"),
                )?;
                client.repair_disk(&node, &RepairDisk { may_lose_files: true }).await?
            }
        };
        session.out.show(&disk, || table(std::slice::from_ref(&disk)))
    }
}

fn table(disks: &[NodeDisk]) -> Table {
    let mut table =
        Table::new(["NODE", "DISK", "SERIAL", "MODEL", "SIZE", "STATE", "CLAIMED", "SEEN"]);
    for one in disks {
        let state = match &one.disk.state {
            DiskState::Blank => "blank".to_owned(),
            DiskState::Ours { .. } => "overlay store".to_owned(),
            DiskState::Foreign { owner, .. } => format!("foreign store: {owner}"),
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
