//! The one place that prints. Results go to standard output; notes, progress and errors to
//! standard error, so that a pipe gets results only.

use std::{
    error::Error as _,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use haas_api::client::ClientError;
use serde::Serialize;

use crate::{error::Error, table::Table};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// What the API says, for programs.
    Json,
    /// The same as YAML.
    Yaml,
}

/// The writer.
#[derive(Debug)]
pub(crate) struct Out {
    /// The format that was asked for.
    pub(crate) format: Format,
    colour: bool,
    stdout_is_terminal: bool,
    /// Whether progress may be redrawn in place.
    pub(crate) live: bool,
}

impl Out {
    /// A writer for this process' standard output and error.
    pub(crate) fn new(format: Format) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        // https://no-color.org: present and not empty.
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            format,
            colour: stdout_is_terminal && !dumb && !no_colour,
            stdout_is_terminal,
            live: io::stderr().is_terminal() && !dumb,
        }
    }

    /// Prints a result: as a table for people, or whole for programs.
    pub(crate) fn show<T: Serialize + ?Sized>(
        &self,
        value: &T,
        table: impl FnOnce() -> Table,
    ) -> Result<(), Error> {
        match self.format {
            Format::Table => self.table(&table()),
            Format::Json | Format::Yaml => self.value(value),
        }
    }

    /// Prints a result that has an own text for people.
    pub(crate) fn show_text<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        match self.format {
            Format::Table => self.text(&text()),
            Format::Json | Format::Yaml => self.value(value),
        }
    }

    /// Prints one of many values that come one by one: one line of JSON, one document of YAML, or
    /// the text.
    pub(crate) fn item<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        match self.format {
            Format::Table => self.text(&text()),
            Format::Json => self.text(&serde_json::to_string(value).map_err(io::Error::other)?),
            Format::Yaml => {
                let yaml = serde_norway::to_string(value).map_err(io::Error::other)?;
                self.text(&format!("---\n{yaml}"))
            }
        }
    }

    /// Prints a table.
    pub(crate) fn table(&self, table: &Table) -> Result<(), Error> {
        let width = if self.stdout_is_terminal { terminal_width() } else { None };
        self.text(&table.render(width, self.colour))
    }

    /// Prints text as it is, with a line end if it lacks one.
    pub(crate) fn text(&self, text: &str) -> Result<(), Error> {
        Ok(write_text(&mut io::stdout().lock(), text)?)
    }

    /// Prints something for people on standard error.
    pub(crate) fn note(&self, text: &str) -> Result<(), Error> {
        Ok(write_text(&mut io::stderr().lock(), text)?)
    }

    /// Clears the screen of a terminal before a new picture of the whole.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        if self.stdout_is_terminal && self.format == Format::Table {
            io::stdout().lock().write_all(b"\x1b[H\x1b[2J")?;
        }
        Ok(())
    }

    /// Draws `picture` on standard error over the last `over` lines.
    pub(crate) fn redraw(&self, over: usize, picture: &str) -> Result<(), Error> {
        let mut stderr = io::stderr().lock();
        if over > 0 {
            write!(stderr, "\x1b[{over}A\x1b[J")?;
        }
        stderr.write_all(picture.as_bytes())?;
        Ok(stderr.flush()?)
    }

    /// Says what went wrong, and gives the exit code.
    pub(crate) fn fail(&self, error: &Error) -> ExitCode {
        // The reader of a pipe has gone away: it had enough.
        if matches!(error, Error::Output(e) if e.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        // Nothing is left to do when even standard error cannot be written.
        let _ = write_text(&mut io::stderr().lock(), &describe(error));
        ExitCode::from(error.code())
    }

    fn value<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Error> {
        let text = match self.format {
            Format::Yaml => serde_norway::to_string(value).map_err(io::Error::other)?,
            Format::Json | Format::Table => {
                serde_json::to_string_pretty(value).map_err(io::Error::other)?
            }
        };
        self.text(&text)
    }
}

/// Columns of the terminal.
pub(crate) fn terminal_width() -> Option<u16> {
    terminal_size::terminal_size().map(|(width, _)| width.0)
}

/// Columns and rows of the terminal behind standard error.
pub(crate) fn terminal_picture() -> (u16, u16) {
    terminal_size::terminal_size_of(io::stderr()).map_or((80, 24), |(w, h)| (w.0, h.0))
}

fn write_text(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        to.write_all(b"\n")?;
    }
    to.flush()
}

/// The error with its causes, and one line for each node that it names.
fn describe(error: &Error) -> String {
    let mut text = format!("haasctl: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some libraries repeat their cause; say it once.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    if let Error::Client(ClientError::Problem(problem)) = error {
        for node in &problem.nodes {
            text.push_str(&format!("\n  {}: {} ({})", node.node, node.reason, node.code));
        }
        // A login that was wrong says so itself.
        if problem.code == "unauthorized" {
            text.push_str("\nThe token of this context is not valid; see haasctl context show.");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use haas_api::problem::{NodeProblem, Problem};

    use super::*;

    #[test]
    fn a_problem_is_told_with_each_node() {
        let error = Error::Client(ClientError::Problem(Box::new(Problem {
            status: 409,
            code: "node-busy".to_owned(),
            title: "node busy".to_owned(),
            detail: "1 of 2 nodes is in use; add --force to take it anyway".to_owned(),
            nodes: vec![NodeProblem {
                node: "n02".to_owned(),
                code: "logins".to_owned(),
                reason: "alice is logged in".to_owned(),
            }],
        })));
        assert_eq!(
            describe(&error),
            "haasctl: 1 of 2 nodes is in use; add --force to take it anyway\n  \
             n02: alice is logged in (logins)"
        );
    }

    #[test]
    fn causes_are_told_once() {
        let source = io::Error::other("no such thing");
        let error = Error::Io { what: "x cannot be read".to_owned(), source };
        assert_eq!(describe(&error), "haasctl: x cannot be read: no such thing");
    }
}
