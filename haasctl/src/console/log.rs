//! `console --log`: what was logged.

use clap::Args;
use haas_api::{
    client::ClientError,
    console::{ConsoleLine, ConsoleLog, plain},
    names::NodeName,
};

use crate::{cli::Session, error::Error, format, wait::Backoff};

/// Lines of one answer while following.
const AT_ONCE: u32 = 1000;
/// Seconds that haasd waits for more.
const WAIT_S: u32 = 20;

#[derive(Debug, Args)]
pub(super) struct Part {
    /// With --log: the last so many lines, up to 10000.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, requires = "log")]
    lines: u32,
    /// With --log: go on with what comes.
    #[arg(long, requires = "log")]
    follow: bool,
    /// With --log: as the node sent it, control sequences and all.
    #[arg(long, requires = "log")]
    raw: bool,
}

impl Part {
    pub(super) async fn run(self, session: &Session<'_>, node: &NodeName) -> Result<(), Error> {
        let client = session.client()?;
        let mut log = client.console_log(node, self.lines, None, 0).await?;
        self.show(session, &log)?;
        if !log.logged {
            let detail = "is not logged now: haasd.toml has no `[console] log = true`, or the node is not managed or has no console";
            session.out.note(&format!("the console of {node} {detail}"))?;
        }
        let mut backoff = Backoff::default();
        let mut told = false;
        if !self.follow {
            return Ok(());
        }
        loop {
            match client.console_log(node, AT_ONCE, Some(&log.cursor), WAIT_S).await {
                Ok(more) => {
                    self.show(session, &more)?;
                    log = more;
                    backoff.reset();
                    told = false;
                }
                Err(error) if ClientError::is_transient(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        session.out.note(&format!("{error}; trying again"))?;
                    }
                    backoff.pause().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn show(&self, session: &Session<'_>, log: &ConsoleLog) -> Result<(), Error> {
        log.items.iter().try_for_each(|line| session.out.item(line, || self.text(line)))
    }

    fn text(&self, line: &ConsoleLine) -> String {
        let text = if self.raw { line.text.clone() } else { plain(&line.text) };
        match line.mark {
            true => format!("{} -- {text} --", format::time(&line.at)),
            false => format!("{} {text}", format::time(&line.at)),
        }
    }
}
