//! What a node printed on its serial line, over all its boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::wait_for;

/// A node's console log. It only grows; each start of the node begins with a line `[rack] ...`.
#[derive(Clone, Debug)]
pub struct Console {
    path: PathBuf,
}

/// A place in a console log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(usize);

impl Console {
    pub(crate) fn new(path: PathBuf) -> Console {
        Console { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of what is there now.
    pub fn mark(&self) -> Mark {
        Mark(self.bytes().len())
    }

    /// What was printed since `mark`, without the terminal's control sequences.
    pub fn since(&self, mark: Mark) -> String {
        plain(self.bytes().get(mark.0..).unwrap_or_default())
    }

    /// All that was printed.
    pub fn text(&self) -> String {
        self.since(Mark::default())
    }

    /// The last lines, for a message.
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits until `text` was printed after `mark`; the error shows the last lines.
    pub fn wait_for(&self, text: &str, mark: Mark, limit: Duration) -> Result<()> {
        wait_for(&format!("{text:?} on the console"), limit, || self.since(mark).contains(text))
            .with_context(|| format!("{} ends with:\n{}", self.path.display(), self.tail(30)))
    }

    fn bytes(&self) -> Vec<u8> {
        // Before the first power on there is no log.
        fs::read(&self.path).unwrap_or_default()
    }
}

/// Drops carriage returns, NULs and ANSI sequences (`ESC [ ... letter`), which iPXE prints amply.
fn plain(bytes: &[u8]) -> String {
    let mut text = String::new();
    let raw = String::from_utf8_lossy(bytes);
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\u{1b}' => {
                chars.next();
            }
            '\r' | '\0' => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_dropped() {
        assert_eq!(plain(b"\x1b[1;37mi\x1b[0mPXE\r\n\0\x1bcok\x1b["), "iPXE\nok");
    }
}
