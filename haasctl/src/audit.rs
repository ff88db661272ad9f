//! `audit`: who changed what, or tried to.

use clap::Args;
use haas_api::{List, audit::AuditEntry};

use crate::{
    cli::Session,
    error::Error,
    format,
    table::{Table, number},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl audit
  haasctl audit --user alice
  haasctl audit --after 1200 -o json")]
pub(crate) struct AuditArgs {
    /// Only what this user did, by the name that it had.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only entries after this number.
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    after: u64,
}

impl AuditArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let mut entries: Vec<AuditEntry> = Vec::new();
        loop {
            let after = entries.last().map_or(self.after, |entry| entry.seq);
            let more = client.audit(after, self.user.as_deref()).await?;
            if more.is_empty() {
                break;
            }
            entries.extend(more);
        }
        let list = List::whole(entries);
        session.out.show(&list, || table(&list.items))
    }
}

fn table(entries: &[AuditEntry]) -> Table {
    let mut table = Table::new(["SEQ", "WHEN", "WHO", "FROM", "WHAT", "STATUS", "CAME TO"]);
    for entry in entries {
        table.row([
            number(entry.seq),
            format::time(&entry.at).into(),
            (&entry.actor).into(),
            (&entry.from).into(),
            (&entry.action).into(),
            number(entry.status),
            (&entry.detail).into(),
        ]);
    }
    table
}
