//! `group`: groups of users.

use clap::Subcommand;
use haas_api::{
    List,
    group::{Group, GroupChange, NewGroup},
    names::{GroupName, UserName},
};

use crate::{
    cli::Session,
    confirm::Yes,
    error::Error,
    format,
    table::{Table, or_dash},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List groups: your own and those that you are in.
    #[command(after_help = "Examples:\n  haasctl group list")]
    List,
    /// Make a group. You own it and are in it.
    #[command(after_help = "Examples:\n  haasctl group create staff")]
    Create {
        /// Its name.
        name: GroupName,
    },
    /// Take users into a group.
    #[command(after_help = "Examples:\n  haasctl group add staff alice bob")]
    Add {
        /// The group.
        name: GroupName,
        /// Who comes in.
        #[arg(required = true, value_name = "USER")]
        users: Vec<UserName>,
    },
    /// Take users out of a group.
    #[command(after_help = "Examples:\n  haasctl group remove staff bob")]
    Remove {
        /// The group.
        name: GroupName,
        /// Who goes.
        #[arg(required = true, value_name = "USER")]
        users: Vec<UserName>,
    },
    /// Remove a group, and what was granted to it.
    #[command(after_help = "Examples:\n  haasctl group rm staff")]
    Rm {
        /// The group.
        name: GroupName,
        #[command(flatten)]
        yes: Yes,
    },
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let out = session.out;
        let group = match self {
            Self::List => {
                let list = List::whole(client.groups().await?);
                return out.show(&list, || table(&list.items));
            }
            Self::Rm { name, yes } => {
                yes.ask(session, &format!("Remove the group {name} and what was granted to it?"))?;
                client.remove_group(&name).await?;
                return out.note(&format!("Group {name} is removed."));
            }
            Self::Create { name } => client.new_group(&NewGroup { name }).await?,
            Self::Add { name, users } => {
                let change = GroupChange { add: users, remove: Vec::new() };
                client.change_group(&name, &change).await?
            }
            Self::Remove { name, users } => {
                let change = GroupChange { add: Vec::new(), remove: users };
                client.change_group(&name, &change).await?
            }
        };
        out.show(&group, || table(std::slice::from_ref(&group)))
    }
}

fn table(groups: &[Group]) -> Table {
    let mut table = Table::new(["NAME", "OWNER", "MEMBERS", "CREATED"]);
    for group in groups {
        let members: Vec<_> = group.members.iter().map(UserName::as_str).collect();
        table.row([
            (&group.name).into(),
            or_dash(group.owner.as_ref().map(UserName::as_str)),
            members.join(" ").into(),
            format::time(&group.created_at).into(),
        ]);
    }
    table
}
