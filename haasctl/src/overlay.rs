//! `overlay`: the persistent writable layers of users.

use clap::Subcommand;
use haas_api::{
    List,
    client::Client,
    names::{OverlayLabel, OverlayRef, UserName},
    overlay::{NewOverlay, Overlay, OverlayChange},
};

use crate::{
    cli::Session,
    confirm::Yes,
    error::Error,
    export, format,
    table::{Table, number, or_dash},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List overlays and where their parts are.
    #[command(after_help = "Examples:\n  haasctl overlay list")]
    List,
    /// Make an overlay. A switch to a new name of one's own makes it too.
    #[command(
        after_help = "Examples:\n  haasctl overlay create dev\n  haasctl overlay create alice/dev"
    )]
    Create {
        /// `name` (mine) or `owner/name`.
        overlay: OverlayRef,
    },
    /// Remove an overlay. What it held on each node is deleted at that node's next boot.
    #[command(
        after_help = "Examples:\n  haasctl overlay rm dev\n  haasctl overlay rm alice/dev --yes"
    )]
    Rm {
        /// `name` (mine) or `owner/name`.
        overlay: OverlayRef,
        #[command(flatten)]
        yes: Yes,
    },
    /// Show what each part of overlays takes on its node's disk.
    #[command(after_help = "Examples:\n  haasctl overlay du\n  haasctl overlay du alice/dev")]
    Du {
        /// `name` (mine) or `owner/name`; all where none is given.
        overlay: Option<OverlayRef>,
    },
    /// Agree that others are root on the nodes whose disks hold an overlay: they could read and destroy it.
    ///
    /// Without that such nodes are lent with root to nobody else, since each part of an overlay is on one
    /// node only.
    #[command(after_help = "\
Examples:
  haasctl overlay share-disk dev --yes
  haasctl overlay share-disk alice/dev --off")]
    ShareDisk {
        /// `name` (mine) or `owner/name`.
        overlay: OverlayRef,
        /// Agree no more. Who is on such a node stays there.
        #[arg(long)]
        off: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// Write a file of hosts for MPI: the nodes that hold an overlay's parts, rank 0 first.
    #[command(after_help = "\
Examples:
  haasctl overlay hostfile dev > hosts
  haasctl overlay hostfile alice/dev")]
    Hostfile {
        /// `name` (mine) or `owner/name`.
        overlay: OverlayRef,
    },
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        match self {
            Self::List => {
                let list = List::whole(client.overlays().await?);
                session.out.show(&list, || list_table(&list.items))
            }
            Self::Create { overlay } => {
                let new = match overlay {
                    OverlayRef::None => return Err(none_is_no_overlay()),
                    OverlayRef::Mine(name) => NewOverlay { owner: None, name },
                    OverlayRef::Owned(owner, name) => NewOverlay { owner: Some(owner), name },
                };
                let made = client.new_overlay(&new).await?;
                session.out.show_text(&made, || format!("{}/{}", made.owner, made.name))
            }
            Self::Rm { overlay, yes } => {
                let (owner, name) = whole_name(&client, overlay).await?;
                let question = format!(
                    "Remove overlay {owner}/{name}? Nobody can get at what is in it any more."
                );
                yes.ask(session, &question)?;
                client.remove_overlay(&owner, &name).await?;
                session.out.note(&format!("Overlay {owner}/{name} is removed."))
            }
            Self::Du { overlay } => {
                let overlays = match overlay {
                    Some(overlay) => vec![find(&client, overlay).await?],
                    None => client.overlays().await?,
                };
                let list = List::whole(overlays);
                session.out.show(&list, || du_table(&list.items))
            }
            Self::ShareDisk { overlay, off, yes } => {
                let (owner, name) = whole_name(&client, overlay).await?;
                if !off {
                    let question =
                        format!("Let others be root on the nodes whose disks hold {owner}/{name}?");
                    yes.ask(session, &question)?;
                }
                let change = OverlayChange { shares_disk: !off };
                let overlay = client.change_overlay(&owner, &name, &change).await?;
                session.out.show_text(&overlay, || match off {
                    true => format!("{owner}/{name} shares its nodes' disks with nobody."),
                    false => {
                        format!("{owner}/{name} shares its nodes' disks with whoever has them.")
                    }
                })
            }
            Self::Hostfile { overlay } => {
                let overlay = find(&client, overlay).await?;
                if overlay.shards.is_empty() {
                    return Err(Error::NotFound(format!(
                        "no node holds a part of {}/{} yet; switch nodes to it first",
                        overlay.owner, overlay.name
                    )));
                }
                session.out.text(&export::of_overlay(&overlay))
            }
        }
    }
}

async fn find(client: &Client, overlay: OverlayRef) -> Result<Overlay, Error> {
    let (owner, name) = whole_name(client, overlay).await?;
    let mut overlays = client.overlays().await?.into_iter();
    overlays.find(|one| one.owner == owner && one.name == name).ok_or_else(|| {
        Error::NotFound(format!("there is no overlay {owner}/{name}; see haasctl overlay list"))
    })
}

async fn whole_name(
    client: &Client,
    overlay: OverlayRef,
) -> Result<(UserName, OverlayLabel), Error> {
    match overlay {
        OverlayRef::None => Err(none_is_no_overlay()),
        OverlayRef::Mine(name) => Ok((client.whoami().await?.name, name)),
        OverlayRef::Owned(owner, name) => Ok((owner, name)),
    }
}

fn none_is_no_overlay() -> Error {
    Error::Usage("\"none\" means no overlay at all; give the name of one".to_owned())
}

pub(crate) fn list_table(overlays: &[Overlay]) -> Table {
    let mut table = Table::new(["OVERLAY", "NODES", "SIZE", "LAST USED", "CREATED"]);
    for overlay in overlays {
        let nodes: Vec<_> = overlay.shards.iter().map(|shard| shard.node.as_str()).collect();
        // RFC 3339 in UTC sorts as text.
        let used = overlay.shards.iter().filter_map(|shard| shard.last_used_at.as_deref()).max();
        table.row([
            format!("{}/{}", overlay.owner, overlay.name).into(),
            format::fold(&nodes).into(),
            number(size(overlay.shards.iter().map(|shard| shard.bytes))),
            or_dash(used.map(format::time)),
            format::time(&overlay.created_at).into(),
        ]);
    }
    table
}

fn du_table(overlays: &[Overlay]) -> Table {
    let mut table = Table::new(["OVERLAY", "RANK", "NODE", "SIZE", "LAST IMAGE", "LAST USED"]);
    for overlay in overlays {
        for shard in &overlay.shards {
            table.row([
                format!("{}/{}", overlay.owner, overlay.name).into(),
                number(shard.rank),
                (&shard.node).into(),
                number(size([shard.bytes].into_iter())),
                or_dash(shard.last_image.as_deref()),
                or_dash(shard.last_used_at.as_deref().map(format::time)),
            ]);
        }
    }
    let all = overlays.iter().flat_map(|overlay| overlay.shards.iter().map(|shard| shard.bytes));
    table.row(["total".into(), "".into(), "".into(), number(size(all)), "".into(), "".into()]);
    table
}

/// The sum of what is known; a dash where nothing is.
fn size(bytes: impl Iterator<Item = Option<i64>>) -> String {
    bytes.flatten().reduce(i64::saturating_add).map_or_else(|| "-".to_owned(), format::signed_bytes)
}

#[cfg(test)]
mod tests {
    use haas_api::overlay::Shard;

    use super::*;

    #[test]
    fn parts_are_summed_where_they_are_known() {
        let shard = |node: &str, rank, bytes| Shard {
            node: node.to_owned(),
            rank,
            bytes,
            last_image: None,
            last_used_at: None,
        };
        let overlay = Overlay {
            id: "01J".to_owned(),
            owner: "alice".parse().unwrap(),
            name: "dev".parse().unwrap(),
            created_at: "2026-11-21T00:00:00Z".to_owned(),
            shards: vec![shard("n01", 0, Some(1500)), shard("n02", 1, None)],
            shares_disk: false,
        };
        let mut turned = overlay.clone();
        turned.shards.reverse();
        assert_eq!(export::of_overlay(&turned), "n01\nn02\n", "by rank, not as they come");
        let overlays = [overlay];
        assert_eq!(
            list_table(&overlays).render(None, false),
            "OVERLAY    NODES     SIZE    LAST USED  CREATED\n\
             alice/dev  n[01-02]  1.5 kB  -          2026-11-21 00:00:00Z\n"
        );
        let du = du_table(&overlays).render(None, false);
        let total: Vec<_> = du.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(total, ["total", "1.5", "kB"]);
    }
}
