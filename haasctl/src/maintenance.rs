//! `maintenance`: nodes and times in which nothing is planned on them.

use clap::{Args, Subcommand};
use haas_api::{
    List,
    maintenance::{Maintenance, NewMaintenance},
};

use crate::{
    cli::{Session, nodeset},
    confirm::Yes,
    error::Error,
    format,
    table::{Table, number},
    times,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the windows that are not over.
    #[command(after_help = "Examples:\n  haasctl maintenance list")]
    List,
    /// Set a window: no reservation has these nodes then.
    #[command(after_help = "\
Examples:
  haasctl maintenance add @rack1 --begin 2026-12-24T08:00 -t 8h --reason 'new switches'
  haasctl maintenance add n07 --begin now -t 2h --reason 'a fan' --force")]
    Add(AddArgs),
    /// Remove a window.
    #[command(after_help = "Examples:\n  haasctl maintenance rm 3")]
    Rm {
        /// Its number.
        id: i64,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The nodes.
    #[arg(value_parser = nodeset)]
    nodeset: String,
    /// From when: now, 16:00, 2026-12-24T08:00, now+2h.
    #[arg(long, value_name = "MOMENT")]
    begin: String,
    /// For how long: 90 (minutes), 8:00:00, 2h.
    #[arg(short = 't', long, value_name = "TIME", value_parser = times::length)]
    time: u64,
    /// Why; reservations that wait for its end say so.
    #[arg(long)]
    reason: String,
    /// Also where reservations have nodes of it then: accepted hours go to other nodes or move, and what
    /// runs goes on until its end.
    #[arg(long)]
    force: bool,
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        match self {
            Self::List => {
                let list = List::whole(client.maintenance().await?);
                session.out.show(&list, || table(&list.items))
            }
            Self::Add(args) => {
                let made = client.new_maintenance(&args.window()?).await?;
                session.out.show_text(&made, || {
                    format!(
                        "Maintenance {} of {}: from {} until {}.",
                        made.id,
                        made.nodes,
                        format::time(&made.begin),
                        format::time(&made.end)
                    )
                })
            }
            Self::Rm { id, yes } => {
                yes.ask(session, &format!("Remove maintenance {id}?"))?;
                client.remove_maintenance(id).await?;
                session.out.note(&format!("Maintenance {id} is removed."))
            }
        }
    }
}

impl AddArgs {
    fn window(self) -> Result<NewMaintenance, Error> {
        let now = jiff::Zoned::now();
        let begin = times::moment(&self.begin, &now).map_err(Error::Usage)?;
        let begin = begin.unwrap_or(now.timestamp());
        let time = jiff::SignedDuration::from_secs(i64::try_from(self.time).unwrap_or(i64::MAX));
        let far = |_| Error::Usage("that is too far ahead".to_owned());
        let end = begin.checked_add(time).map_err(far)?;
        Ok(NewMaintenance {
            nodeset: self.nodeset,
            begin: begin.to_string(),
            end: end.to_string(),
            reason: self.reason,
            force: self.force,
        })
    }
}

fn table(windows: &[Maintenance]) -> Table {
    let mut table = Table::new(["ID", "NODES", "BEGIN", "END", "BY", "REASON"]);
    for window in windows {
        table.row([
            number(window.id),
            (&window.nodes).into(),
            format::time(&window.begin).into(),
            format::time(&window.end).into(),
            (&window.by).into(),
            (&window.reason).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_lasts_as_long_as_is_said() {
        let args = AddArgs {
            nodeset: "n1".into(),
            begin: "2026-12-24T08:00:00Z".into(),
            time: 7_200,
            reason: "a fan".into(),
            force: false,
        };
        let window = args.window().unwrap();
        assert_eq!(window.begin, "2026-12-24T08:00:00Z");
        assert_eq!(window.end, "2026-12-24T10:00:00Z");
    }
}
