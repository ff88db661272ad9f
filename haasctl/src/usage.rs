//! `usage`: node-hours by project, user and queue.

use clap::Args;
use haas_api::{
    List,
    usage::{self, Usage},
};

use crate::{
    cli::Session,
    error::Error,
    table::{Table, number},
    times,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl usage
  haasctl usage --begin 2026-11-01 --end 2026-12-01 --csv > november.csv")]
pub(crate) struct UsageArgs {
    /// From when: 2026-11-01, 2026-11-01T08:00; from the first reservation on where nothing is given.
    #[arg(long, value_name = "MOMENT")]
    begin: Option<String>,
    /// Until when; now where nothing is given.
    #[arg(long, value_name = "MOMENT")]
    end: Option<String>,
    /// As CSV, for spreadsheets and programs that write bills.
    #[arg(long)]
    csv: bool,
}

impl UsageArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let now = jiff::Zoned::now();
        let moment = |text: &Option<String>| -> Result<Option<String>, Error> {
            let Some(text) = text else { return Ok(None) };
            let at = times::moment(text, &now).map_err(Error::Usage)?;
            Ok(Some(at.unwrap_or(now.timestamp()).to_string()))
        };
        let (begin, end) = (moment(&self.begin)?, moment(&self.end)?);
        let used = session.client()?.usage(begin.as_deref(), end.as_deref()).await?;
        if self.csv {
            return session.out.text(usage::csv(&used).trim_end_matches('\n'));
        }
        let list = List::whole(used);
        session.out.show(&list, || table(&list.items))
    }
}

fn table(used: &[Usage]) -> Table {
    let mut table = Table::new(["PROJECT", "USER", "QUEUE", "RESERVATIONS", "NODE-HOURS"]);
    for line in used {
        table.row([
            (&line.project).into(),
            (&line.user).into(),
            (&line.queue).into(),
            number(line.reservations),
            number(format!("{:.2}", line.node_hours)),
        ]);
    }
    table
}
