//! Asks before something cannot be undone.

use std::io::{self, BufRead, IsTerminal};

use crate::{
    cli::Session,
    error::{Error, io_error},
};

/// `-y`, for commands that ask.
#[derive(Debug, clap::Args)]
pub(crate) struct Yes {
    /// Do not ask. Needed where nobody can be asked.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

impl Yes {
    /// Returns if the caller agrees, else an error.
    pub(crate) fn ask(&self, session: &Session<'_>, question: &str) -> Result<(), Error> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Error::Usage(format!(
                "{question} Nobody can be asked here; add --yes to do it"
            )));
        }
        session.out.note(&format!("{question} [y/N]"))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(io_error("the answer cannot be read"))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Error::Failed("nothing was done".to_owned())),
        }
    }
}
