//! `grant`: what somebody may do beyond what is their own.

use clap::Subcommand;
use haas_api::{
    List,
    grant::{Grant, GrantObject, GrantRole, NewGrant, Subject},
};

use crate::{cli::Session, error::Error, format, table::Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the grants that you have, or have the say over.
    #[command(after_help = "Examples:\n  haasctl grant list")]
    List,
    /// Grant nodes, an image, an overlay or a queue to a user, a project or a group.
    #[command(after_help = "\
Examples:
  haasctl grant add vision node-group:rack1 use
  haasctl grant add group:staff image:debian-12 use
  haasctl grant add vision queue:gpu use
  haasctl grant add bob overlay:alice/dev view")]
    Add {
        /// To whom: `NAME` of a user or project, or `group:NAME`.
        subject: Subject,
        /// What: `node-group:NAME`, `image:NAME`, `overlay:OWNER/NAME` or `queue:NAME`.
        object: GrantObject,
        /// To do what.
        #[arg(value_enum)]
        role: RoleArg,
    },
    /// End a grant.
    #[command(after_help = "Examples:\n  haasctl grant remove 01JD3F7Q8Z")]
    Remove {
        /// Its id, as `grant list` shows it.
        id: String,
    },
}

/// What is granted.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum RoleArg {
    /// Look at it.
    View,
    /// Boot it; of nodes: switch and power those that nobody else has; of a queue: reserve through it.
    Use,
    /// Change and remove it, and grant it on; of nodes: also take those that somebody else has; of a queue:
    /// extend and release whatever was reserved through it.
    Manage,
}

impl From<RoleArg> for GrantRole {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::View => Self::View,
            RoleArg::Use => Self::Use,
            RoleArg::Manage => Self::Manage,
        }
    }
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        match self {
            Self::List => {
                let list = List::whole(client.grants().await?);
                session.out.show(&list, || table(&list.items))
            }
            Self::Add { subject, object, role } => {
                let grant =
                    client.new_grant(&NewGrant { subject, object, role: role.into() }).await?;
                session.out.show(&grant, || table(std::slice::from_ref(&grant)))
            }
            Self::Remove { id } => {
                client.remove_grant(&id).await?;
                session.out.note(&format!("Grant {id} has ended."))
            }
        }
    }
}

fn table(grants: &[Grant]) -> Table {
    let mut table = Table::new(["ID", "WHO", "OF", "MAY", "BY", "SINCE"]);
    for grant in grants {
        let role = match grant.role {
            GrantRole::View => "view",
            GrantRole::Use => "use",
            GrantRole::Manage => "manage",
        };
        table.row([
            (&grant.id).into(),
            grant.subject.to_string().into(),
            grant.object.to_string().into(),
            role.into(),
            (&grant.actor).into(),
            format::time(&grant.created_at).into(),
        ]);
    }
    table
}
