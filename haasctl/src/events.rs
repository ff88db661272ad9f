//! `events`: what happens, as it happens.

use clap::Args;
use haas_api::event::Event;

use crate::{cli::Session, error::Error, format, wait::Backoff};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl events
  haasctl events --from 0 -o json
  haasctl events --operation 01JD3F7Q8Z")]
pub(crate) struct EventsArgs {
    /// Begin with the event of this number; with what happens from now on where none is given.
    #[arg(long, value_name = "NUMBER")]
    from: Option<i64>,
    /// Only events of this operation.
    #[arg(long, value_name = "ID")]
    operation: Option<String>,
}

impl EventsArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let mut events = session.client()?.events(self.from, self.operation.as_deref());
        let mut backoff = Backoff::default();
        // Whether haasd was ever there: if not, a wrong address should not be tried for ever.
        let mut answered = false;
        let mut told = false;
        loop {
            match events.next().await {
                Ok(event) => {
                    session.out.item(&event, || line(&event))?;
                    backoff.reset();
                    answered = true;
                    told = false;
                }
                Err(error) if error.is_transient() && (answered || !is_unreachable(&error)) => {
                    answered = true;
                    if !std::mem::replace(&mut told, true) {
                        session.out.note(&format!("{error}; trying again"))?;
                    }
                    backoff.pause().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_unreachable(error: &haas_api::client::ClientError) -> bool {
    matches!(error, haas_api::client::ClientError::Unreachable { .. })
}

fn line(event: &Event) -> String {
    let mut line = format!("{} {} {}", event.seq, format::time(&event.at), event.kind);
    for (name, value) in [("node", &event.node), ("operation", &event.operation)] {
        if let Some(value) = value {
            line.push_str(&format!(" {name}={value}"));
        }
    }
    line.push_str(&format!(" by={}", event.actor));
    if !event.data.is_null() {
        line.push_str(&format!(" {}", event.data));
    }
    line
}
