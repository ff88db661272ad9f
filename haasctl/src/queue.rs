//! `queue`: where reservations wait.

use clap::{Args, Subcommand};
use haas_api::{
    List,
    names::{NodeGroupName, QueueName},
    queue::{Queue, QueuePolicy, QueueSpec},
};

use crate::{
    cli::Session,
    confirm::Yes,
    error::Error,
    table::{Table, number, or_dash},
    times,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the queues, each below the one above it.
    #[command(after_help = "Examples:\n  haasctl queue tree")]
    Tree,
    /// Make a queue.
    #[command(after_help = "\
Examples:
  haasctl queue create course --open --max 25 --max-time 4h
  haasctl queue create gpu --node-group rack1 --policy fifo --guaranteed 20")]
    Create(Box<CreateArgs>),
    /// Remove a queue in which nothing is.
    #[command(after_help = "Examples:\n  haasctl queue rm course")]
    Rm {
        /// Its name.
        name: QueueName,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name.
    name: QueueName,
    /// The queue above it.
    #[arg(long, value_name = "QUEUE")]
    parent: Option<QueueName>,
    /// In which order its reservations have their turn.
    #[arg(long, value_enum, default_value = "fair")]
    policy: PolicyArg,
    /// A node group whose nodes it gives; may be said several times. Without it: those of the queue above,
    /// or all.
    #[arg(long, value_name = "GROUP")]
    node_group: Vec<NodeGroupName>,
    /// Everybody may use it; else only those whom it is granted to.
    #[arg(long)]
    open: bool,
    /// What it can count on, in percent of all nodes.
    #[arg(long, value_name = "PERCENT")]
    guaranteed: Option<u32>,
    /// What it may hold, in percent of all nodes.
    #[arg(long, value_name = "PERCENT")]
    max: Option<u32>,
    /// What one user may hold of it, in percent of all nodes.
    #[arg(long, value_name = "PERCENT")]
    user_max: Option<u32>,
    /// Its weight against the queues beside it.
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Of queues beside each other the one of higher priority goes first.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    priority: Option<i32>,
    /// How long a reservation is that does not say it.
    #[arg(long, value_name = "TIME", value_parser = times::length)]
    time: Option<u64>,
    /// The longest reservation.
    #[arg(long, value_name = "TIME", value_parser = times::length)]
    max_time: Option<u64>,
    /// How far ahead a reservation may begin that names its hour.
    #[arg(long, value_name = "TIME", value_parser = times::length)]
    max_ahead: Option<u64>,
    /// How much may be reserved ahead, in percent of all nodes.
    #[arg(long, value_name = "PERCENT")]
    max_reserved: Option<u32>,
    /// End a reservation on whose nodes nobody has logged in within this time.
    #[arg(long, value_name = "TIME", value_parser = times::length)]
    no_show: Option<u64>,
}

/// In which order a queue's reservations have their turn.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PolicyArg {
    /// Whoever was first.
    Fifo,
    /// Whoever used least lately.
    Fair,
    /// Whoever was first, and no user holds more than his part.
    Capacity,
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        match self {
            Self::Tree => {
                let list = List::whole(client.queues().await?);
                session.out.show(&list, || tree(&list.items))
            }
            Self::Create(args) => {
                let made = client.new_queue(&args.spec()).await?;
                session.out.show_text(&made, || format!("Queue {} is there.", made.name))
            }
            Self::Rm { name, yes } => {
                yes.ask(session, &format!("Remove the queue {name} and its grants?"))?;
                client.remove_queue(&name).await?;
                session.out.note(&format!("Queue {name} is removed."))
            }
        }
    }
}

impl CreateArgs {
    fn spec(self) -> QueueSpec {
        let default = QueueSpec::named(self.name);
        let max_walltime_s = self.max_time.unwrap_or(default.max_walltime_s);
        QueueSpec {
            parent: self.parent,
            policy: match self.policy {
                PolicyArg::Fifo => QueuePolicy::Fifo,
                PolicyArg::Fair => QueuePolicy::Fair,
                PolicyArg::Capacity => QueuePolicy::Capacity,
            },
            node_groups: self.node_group,
            open: self.open,
            guaranteed: self.guaranteed.unwrap_or(default.guaranteed),
            max: self.max.unwrap_or(default.max),
            user_max: self.user_max,
            weight: self.weight.unwrap_or(default.weight),
            priority: self.priority.unwrap_or(default.priority),
            walltime_s: self.time.unwrap_or(default.walltime_s.min(max_walltime_s)),
            max_walltime_s,
            max_ahead_s: self.max_ahead.unwrap_or(default.max_ahead_s),
            max_reserved: self.max_reserved.unwrap_or(default.max_reserved),
            no_show_s: self.no_show,
            ..default
        }
    }
}

fn tree(queues: &[Queue]) -> Table {
    let mut table = Table::new([
        "QUEUE", "POLICY", "NODES", "HELD", "WAIT", "SURE", "MAX", "LONGEST", "MAY USE",
    ]);
    below(&mut table, queues, None, 0);
    table
}

fn below(table: &mut Table, queues: &[Queue], parent: Option<&QueueName>, depth: usize) {
    for queue in queues.iter().filter(|queue| queue.spec.parent.as_ref() == parent) {
        let spec = &queue.spec;
        let policy = match spec.policy {
            QueuePolicy::Fifo => "fifo",
            QueuePolicy::Fair => "fair",
            QueuePolicy::Capacity => "capacity",
        };
        table.row([
            format!("{}{}", "  ".repeat(depth), spec.name).into(),
            policy.into(),
            number(queue.nodes),
            number(queue.held),
            number(queue.waiting),
            number(format!("{}%", spec.guaranteed)),
            number(format!("{}%", spec.max)),
            times::shown(spec.max_walltime_s).into(),
            or_dash(queue.may_use.then_some("yes")),
        ]);
        below(table, queues, Some(&spec.name), depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_stand_below_the_one_above_them() {
        let queue = |name: &str, parent: Option<&str>| Queue {
            spec: QueueSpec {
                parent: parent.map(|name| name.parse().unwrap()),
                ..QueueSpec::named(name.parse().unwrap())
            },
            from_file: false,
            may_use: name == "gpu",
            nodes: 16,
            held: 4,
            waiting: 2,
        };
        let list = [queue("lab", None), queue("course", None), queue("gpu", Some("lab"))];
        assert_eq!(
            tree(&list).render(None, false),
            "QUEUE   POLICY  NODES  HELD  WAIT  SURE  MAX   LONGEST      MAY USE\n\
             lab     fair       16     4     2    0%  100%  14-00:00:00  -\n  \
             gpu   fair       16     4     2    0%  100%  14-00:00:00  yes\n\
             course  fair       16     4     2    0%  100%  14-00:00:00  -\n"
        );
    }
}
