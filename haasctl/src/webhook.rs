//! `webhook`: programs that are sent what happens.

use std::path::PathBuf;

use clap::Subcommand;
use haas_api::{
    List,
    names::WebhookName,
    webhook::{DeadEvent, NewWebhook, Webhook},
};

use crate::{
    cli::Session,
    config::write_private,
    error::Error,
    format,
    table::{Table, number, or_dash},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List webhooks and how they stand.
    #[command(after_help = "Examples:\n  haasctl webhook list")]
    List,
    /// Send events to a URL from now on. Requests are signed with a secret that is shown this once.
    #[command(after_help = "\
Examples:
  haasctl webhook add chat https://hooks.example/haas --secret-file chat.secret
  haasctl webhook add pager https://pager.example/in --kind fault,boot-failed --secret-file pager.secret
  haasctl webhook add ledger http://10.0.0.9:8080/haas --from 0")]
    Add {
        /// Its name.
        name: WebhookName,
        /// Where to send: https://… or http://….
        url: String,
        /// Only events of these kinds, with commas between them.
        #[arg(long, value_name = "KIND", value_delimiter = ',')]
        kind: Vec<String>,
        /// Begin behind the event of this number; 0 sends all that are kept.
        #[arg(long, value_name = "NUMBER")]
        from: Option<i64>,
        /// Write the secret to this file, for its owner alone, and do not show it.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Remove a webhook, with what it has yet to deliver.
    #[command(after_help = "Examples:\n  haasctl webhook remove chat")]
    Remove {
        /// Its name.
        name: WebhookName,
    },
    /// Send a test now, and say what came of it.
    #[command(after_help = "Examples:\n  haasctl webhook test chat")]
    Test {
        /// Its name.
        name: WebhookName,
    },
    /// List the events that a webhook gave up, the newest first.
    #[command(after_help = "Examples:\n  haasctl webhook dead chat")]
    Dead {
        /// Its name.
        name: WebhookName,
    },
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        match self {
            Self::List => {
                let list = List::whole(client.webhooks().await?);
                session.out.show(&list, || table(&list.items))
            }
            Self::Add { name, url, kind, from, secret_file } => {
                let new = NewWebhook { name, url, kinds: kind, from };
                let made = client.new_webhook(&new).await?;
                match secret_file {
                    Some(file) => {
                        write_private(&file, format!("{}\n", made.secret).as_bytes())?;
                        let list = List::whole(vec![made.webhook]);
                        session.out.show(&list, || table(&list.items))?;
                        session.out.note(&format!("The secret is in {}.", file.display()))
                    }
                    None => session.out.show_text(&made, || {
                        format!("{}\nKeep it: it is shown this once.", made.secret)
                    }),
                }
            }
            Self::Remove { name } => {
                client.remove_webhook(&name).await?;
                session.out.note(&format!("The webhook {name} is removed."))
            }
            Self::Test { name } => {
                let test = client.test_webhook(&name).await?;
                session
                    .out
                    .show_text(&test, || format!("{} ({} ms)", test.outcome, test.took_ms))?;
                if test.delivered {
                    return Ok(());
                }
                Err(Error::Failed(format!("the receiver of {name} has not taken the test")))
            }
            Self::Dead { name } => {
                let list = List::whole(client.dead_events(&name).await?);
                session.out.show(&list, || dead(&list.items))
            }
        }
    }
}

fn table(webhooks: &[Webhook]) -> Table {
    let mut table =
        Table::new(["NAME", "URL", "KINDS", "BEHIND", "DEAD", "DELIVERED", "FAILS SINCE", "ERROR"]);
    for hook in webhooks {
        let kinds = if hook.kinds.is_empty() { "all".to_owned() } else { hook.kinds.join(",") };
        let failing = hook.failing_since.as_deref();
        let error = failing.and(hook.last_error.as_deref());
        table.row([
            hook.name.to_string().into(),
            (&hook.url).into(),
            kinds.into(),
            number(hook.behind),
            number(hook.dead),
            or_dash(hook.delivered_at.as_deref().map(format::time)),
            or_dash(failing.map(format::time)),
            or_dash(error),
        ]);
    }
    table
}

fn dead(events: &[DeadEvent]) -> Table {
    let mut table = Table::new(["EVENT", "GIVEN UP", "ERROR"]);
    for event in events {
        let given_up = format::time(&event.given_up_at);
        table.row([number(event.seq), given_up.into(), (&event.error).into()]);
    }
    table
}
