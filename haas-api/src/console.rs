//! Consoles: what `GET /v1/nodes/{name}/console` and `…/console/log` say.
//!
//! The first is a WebSocket. Characters are binary messages, both ways; text messages are a
//! [`ConsoleNote`] from haasd and a [`ConsoleAsk`] to it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::UserName;

/// What haasd says of a console beside its characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleNote {
    /// How it stands; first of all, and whenever it changes.
    State(ConsoleState),
    /// Characters that were left out, since this watcher was too slow, in pieces.
    Skipped(u64),
    /// It is over for this watcher, and why. Nothing comes after it.
    Ended(String),
}

/// How a console stands, for one of its watchers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleState {
    /// Whether the BMC sends characters.
    pub connected: bool,
    /// Why not, and what can be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who may type.
    pub writer: Option<UserName>,
    /// Whether that is this watcher.
    pub you_write: bool,
    /// Who watches, the writer among them.
    pub watchers: Vec<UserName>,
    /// Whether it is logged.
    pub logged: bool,
}

/// What a watcher asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleAsk {
    /// To type from now on, whoever does; and to have the console from another session of the BMC.
    Take,
    /// A BREAK.
    Break,
}

/// A part of a console's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleLog {
    /// Lines, the oldest first.
    pub items: Vec<ConsoleLine>,
    /// For `?after=`: what comes behind these.
    pub cursor: String,
    /// Whether haasd logs the node's console now.
    pub logged: bool,
}

/// A line of a console's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleLine {
    /// When it came.
    pub at: String,
    /// As the node sent it, control characters and all; see [`plain`]. What is no UTF-8 is U+FFFD.
    pub text: String,
    /// It is haasd that says this of the console: that it was lost, or is there again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mark: bool,
}

/// A line that does nothing to a terminal, whoever wrote it: without the sequences of ECMA-48, other
/// control characters as `^X`, and none that change the direction of writing.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => skip_escape(&mut characters),
            '\u{9b}' => skip_control_sequence(&mut characters),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(&mut characters),
            '\t' => shown.push('\t'),
            '\u{80}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => {}
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            '\0' => {}
            '\u{7f}' => shown.push_str("^?"),
            control @ '\u{1}'..='\u{1f}' => {
                shown.push('^');
                shown.push(char::from(control as u8 ^ 0x40));
            }
            other => shown.push(other),
        }
    }
    shown
}

fn skip_escape(characters: &mut std::str::Chars<'_>) {
    match characters.next() {
        Some('[') => skip_control_sequence(characters),
        Some('P' | 'X' | ']' | '^' | '_') => skip_string(characters),
        // Such as the choice of a character set: intermediate bytes, then one more.
        Some(' '..='/') => while matches!(characters.next(), Some(' '..='/')) {},
        _ => {}
    }
}

/// Up to its final byte.
fn skip_control_sequence(characters: &mut std::str::Chars<'_>) {
    while matches!(characters.next(), Some(' '..='?')) {}
}

/// Up to its end, BEL or ST.
fn skip_string(characters: &mut std::str::Chars<'_>) {
    while let Some(character) = characters.next() {
        match character {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                characters.next();
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_does_nothing_to_a_terminal() {
        for (line, shown) in [
            ("[    0.0] Linux version", "[    0.0] Linux version"),
            ("\u{1b}[0;32m  OK  \u{1b}[0m Started sshd\tnow", "  OK   Started sshd\tnow"),
            ("\u{1b}]0;title\u{7}a\u{1b}]52;c;cGF5bG9hZA==\u{1b}\\b", "ab"),
            ("\u{1b}Pq#0\u{1b}\\c\u{1b}(Bd\u{1b}ce", "cde"),
            ("\u{9b}31mred\u{9d}0;x\u{9c}!", "red!"),
            ("10%\r20%\u{8}\u{7}\0\u{7f}", "10%^M20%^H^G^?"),
            ("abc\u{202e}fed\u{2066}", "abcfed"),
            ("\u{1b}[31", ""),
            ("\u{1b}]0;never ends", ""),
            ("\u{1b}", ""),
            ("grüße", "grüße"),
        ] {
            assert_eq!(plain(line), shown, "{line:?}");
            assert_eq!(plain(shown), shown);
        }
    }

    #[test]
    fn notes_are_words_in_json() {
        let note = serde_json::to_string(&ConsoleNote::Ended("over".to_owned())).unwrap();
        assert_eq!(note, r#"{"ended":"over"}"#);
        assert_eq!(serde_json::to_string(&ConsoleAsk::Take).unwrap(), r#""take""#);
    }
}
