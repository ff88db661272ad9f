//! `project`: tenants, their members and limits.

use clap::{Args, Subcommand};
use haas_api::{
    List,
    grant::Subject,
    names::UserName,
    project::{
        Access, Limits, Member, MemberRole, MembersChange, NewProject, Project, ProjectChange,
    },
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
    /// List the projects that you are in.
    #[command(after_help = "Examples:\n  haasctl project list")]
    List,
    /// Show a project's members, limits and what it has.
    #[command(after_help = "Examples:\n  haasctl project show vision")]
    Show {
        /// The project.
        name: UserName,
    },
    /// Make a project.
    #[command(after_help = "\
Examples:
  haasctl project create vision --owner alice
  haasctl project create course --owner bob --access user --nodes 8 --overlays 40")]
    Create {
        /// Its name.
        name: UserName,
        /// Its first owner.
        #[arg(long, value_name = "USER")]
        owner: UserName,
        /// What members are on its nodes.
        #[arg(long, value_enum, default_value = "root")]
        access: AccessArg,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Change what a project's members are on its nodes, or how much it may have.
    #[command(after_help = "\
Examples:
  haasctl project set vision --access user
  haasctl project set vision --nodes 16 --overlays none")]
    Set {
        /// The project.
        name: UserName,
        /// What members are on its nodes, from their next boot on.
        #[arg(long, value_enum)]
        access: Option<AccessArg>,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Take users or groups into a project, or give them another role.
    #[command(after_help = "\
Examples:
  haasctl project add vision bob
  haasctl project add vision group:staff carol --role manager")]
    Add {
        /// The project.
        name: UserName,
        /// Who: `NAME` or `group:NAME`.
        #[arg(required = true)]
        members: Vec<Subject>,
        /// What they may do.
        #[arg(long, value_enum, default_value = "user")]
        role: MemberRoleArg,
    },
    /// Take users or groups out of a project.
    #[command(after_help = "Examples:\n  haasctl project remove vision bob")]
    Remove {
        /// The project.
        name: UserName,
        /// Who: `NAME` or `group:NAME`.
        #[arg(required = true)]
        members: Vec<Subject>,
    },
    /// Remove a project that has neither nodes nor overlays nor images any more.
    #[command(after_help = "Examples:\n  haasctl project rm vision")]
    Rm {
        /// The project.
        name: UserName,
        #[command(flatten)]
        yes: Yes,
    },
}

/// How much a project may have.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Nodes that are on for it at once, or `none` for no limit.
    #[arg(long, value_name = "N", value_parser = limit)]
    nodes: Option<Limit>,
    /// Overlays, or `none` for no limit.
    #[arg(long, value_name = "N", value_parser = limit)]
    overlays: Option<Limit>,
    /// Names of images, or `none` for no limit.
    #[arg(long, value_name = "N", value_parser = limit)]
    images: Option<Limit>,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy)]
struct Limit(Option<u32>);

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        number => number
            .parse()
            .map(|n| Limit(Some(n)))
            .map_err(|_| "a limit is a number, or none".to_owned()),
    }
}

impl LimitArgs {
    /// The limits that are meant where these were in force; none where nothing was said.
    fn over(&self, present: Limits) -> Option<Limits> {
        if self.nodes.is_none() && self.overlays.is_none() && self.images.is_none() {
            return None;
        }
        Some(Limits {
            nodes: self.nodes.map_or(present.nodes, |limit| limit.0),
            overlays: self.overlays.map_or(present.overlays, |limit| limit.0),
            images: self.images.map_or(present.images, |limit| limit.0),
        })
    }
}

/// What members are on a project's nodes.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum AccessArg {
    /// Root, and themselves.
    Root,
    /// Themselves, and everything by sudo; managers and owners are root too.
    Sudo,
    /// Themselves; root are managers and owners only.
    User,
}

impl From<AccessArg> for Access {
    fn from(access: AccessArg) -> Self {
        match access {
            AccessArg::Root => Self::Root,
            AccessArg::Sudo => Self::Sudo,
            AccessArg::User => Self::User,
        }
    }
}

/// What a member may do in a project.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum MemberRoleArg {
    /// Looks.
    Viewer,
    /// Switches its nodes, boots its images with its overlays, logs in on its nodes.
    User,
    /// Makes and removes its overlays and images; takes in viewers and users.
    Manager,
    /// Everything in the project.
    Owner,
}

impl From<MemberRoleArg> for MemberRole {
    fn from(role: MemberRoleArg) -> Self {
        match role {
            MemberRoleArg::Viewer => Self::Viewer,
            MemberRoleArg::User => Self::User,
            MemberRoleArg::Manager => Self::Manager,
            MemberRoleArg::Owner => Self::Owner,
        }
    }
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let out = session.out;
        let project = match self {
            Self::List => {
                let list = List::whole(client.projects().await?);
                return out.show(&list, || list_table(&list.items));
            }
            Self::Rm { name, yes } => {
                yes.ask(session, &format!("Remove the project {name}?"))?;
                client.remove_project(&name).await?;
                return out.note(&format!("Project {name} is removed."));
            }
            Self::Show { name } => client.project(&name).await?,
            Self::Create { name, owner, access, limits } => {
                let limits = limits.over(Limits::default()).unwrap_or_default();
                let access = Some(access.into());
                client.new_project(&NewProject { name, owner, access, limits }).await?
            }
            Self::Set { name, access, limits } => {
                let limits = limits.over(client.project(&name).await?.limits);
                let change = ProjectChange { access: access.map(Into::into), limits };
                client.change_project(&name, &change).await?
            }
            Self::Add { name, members, role } => {
                let set = members.into_iter();
                let set = set.map(|member| Member { member, role: role.into() }).collect();
                client.change_members(&name, &MembersChange { set, remove: Vec::new() }).await?
            }
            Self::Remove { name, members } => {
                let change = MembersChange { set: Vec::new(), remove: members };
                client.change_members(&name, &change).await?
            }
        };
        out.show(&project, || members_table(&project))
    }
}

fn list_table(projects: &[Project]) -> Table {
    let of = |used: u32, limit: Option<u32>| match limit {
        Some(limit) => format!("{used} of {limit}"),
        None => used.to_string(),
    };
    let mut table =
        Table::new(["NAME", "ACCESS", "NODES", "OVERLAYS", "IMAGES", "MEMBERS", "CREATED"]);
    for project in projects {
        let (used, limits) = (project.used, project.limits);
        table.row([
            (&project.name).into(),
            access(project.access).into(),
            of(used.nodes, limits.nodes).into(),
            of(used.overlays, limits.overlays).into(),
            of(used.images, limits.images).into(),
            number(project.members.len()),
            format::time(&project.created_at).into(),
        ]);
    }
    table
}

fn members_table(project: &Project) -> Table {
    let mut table = Table::new(["PROJECT", "MEMBER", "ROLE"]);
    for member in &project.members {
        let role = match member.role {
            MemberRole::Viewer => "viewer",
            MemberRole::User => "user",
            MemberRole::Manager => "manager",
            MemberRole::Owner => "owner",
        };
        table.row([(&project.name).into(), member.member.to_string().into(), or_dash(Some(role))]);
    }
    table
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Root => "root",
        Access::Sudo => "sudo",
        Access::User => "user",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_not_named_stays() {
        let present = Limits { nodes: Some(4), overlays: Some(9), images: None };
        let said = LimitArgs { nodes: Some(Limit(None)), overlays: None, images: None };
        assert_eq!(said.over(present), Some(Limits { nodes: None, ..present }));
        let nothing = LimitArgs { nodes: None, overlays: None, images: None };
        assert_eq!(nothing.over(present), None);
        assert!(limit("some").is_err());
    }
}
