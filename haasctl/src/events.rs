//! `events`: what has happened, and what happens, as it happens.

use clap::Args;
use haas_api::{
    client::{ClientError, Wanted},
    event::Event,
};

use crate::{
    cli::{Session, nodeset},
    error::Error,
    format,
    wait::Backoff,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl events
  haasctl events --follow
  haasctl events --kind fault,boot-failed --nodes @rack1 --follow
  haasctl events --from 1200 -o json
  haasctl events --operation 01JD3F7Q8Z")]
pub(crate) struct EventsArgs {
    /// Go on with what happens, until Ctrl-C; without --from only with that.
    #[arg(short, long)]
    follow: bool,
    /// Begin with the event of this number.
    #[arg(long, value_name = "NUMBER")]
    from: Option<i64>,
    /// Only events of this operation.
    #[arg(long, value_name = "ID")]
    operation: Option<String>,
    /// Only events of these nodes.
    #[arg(long, value_name = "NODESET", value_parser = nodeset)]
    nodes: Option<String>,
    /// Only events of these kinds, with commas between them.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
}

impl EventsArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let mut events = session.client()?.events_of(Wanted {
            from: self.from.or((!self.follow).then_some(0)),
            operation: self.operation,
            nodeset: self.nodes,
            kinds: self.kind,
            so_far: !self.follow,
        });
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
                Err(_) if events.is_over() => return Ok(()),
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

fn is_unreachable(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. })
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
