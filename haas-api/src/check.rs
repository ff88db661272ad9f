//! Ready checks: commands that must succeed in a node's own system before it is ready.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A command that must succeed before a node is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyCheck {
    /// The program and its arguments, never a shell.
    pub command: Vec<String>,
    /// Seconds within which it must succeed; until then it is run again.
    pub within_s: u64,
}

impl ReadyCheck {
    /// Seconds where nobody says how many.
    pub const WITHIN_S: u64 = 60;

    /// The most seconds that one check may take.
    pub const MOST_S: u64 = 3600;

    /// What is wrong with it, for whoever wrote it.
    pub fn problem(&self) -> Option<&'static str> {
        let Some(program) = self.command.first() else { return Some("names no program") };
        if program.is_empty() || (program.contains('/') && !program.starts_with('/')) {
            return Some("needs a program by its name, or by its whole path");
        }
        if self.command.iter().any(|word| word.chars().any(char::is_control)) {
            return Some("holds a control character");
        }
        let in_time = (1..=Self::MOST_S).contains(&self.within_s);
        (!in_time).then_some("may take from 1s to 1h")
    }
}

/// How a check of one boot stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    /// Its place among the boot's checks, from 0.
    pub position: u32,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Seconds within which it must succeed.
    pub within_s: u64,
    /// Whether it has succeeded.
    pub state: CheckState,
    /// How often it was run to an end.
    pub runs: u32,
    /// How the last run ended, in words: `exit code 1`. Empty before the first has ended.
    pub outcome: String,
    /// The last run's exit code; none where it did not end by itself.
    pub exit_code: Option<i32>,
    /// Milliseconds that the last run took.
    pub took_ms: u64,
    /// The last 4 KiB that the last run printed, standard error included.
    pub output: String,
}

/// Whether a check has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckState {
    /// It has not yet, and has time left.
    Running,
    /// It has.
    Passed,
    /// It has not in time. It is run now and then all the same: the node is ready when it succeeds.
    Failed,
}

/// A command as a person would type it.
pub fn command_line(command: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    let word = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &[&str], within_s: u64) -> ReadyCheck {
        ReadyCheck { command: command.iter().map(ToString::to_string).collect(), within_s }
    }

    #[test]
    fn a_check_names_a_program_and_a_time() {
        assert_eq!(check(&["nvidia-smi", "-L"], 60).problem(), None);
        assert_eq!(check(&["/bin/sh", "-c", "a | b"], 3600).problem(), None);
        for (wrong, word) in [
            (check(&[], 60), "no program"),
            (check(&[""], 60), "whole path"),
            (check(&["bin/sh"], 60), "whole path"),
            (check(&["sh", "-c", "a\nb"], 60), "control"),
            (check(&["true"], 0), "1s"),
            (check(&["true"], 3601), "1h"),
        ] {
            assert!(wrong.problem().is_some_and(|p| p.contains(word)), "{wrong:?}");
        }
    }

    #[test]
    fn a_command_can_be_typed_as_it_is_shown() {
        let line = |words: &[&str]| command_line(&check(words, 1).command);
        assert_eq!(line(&["mountpoint", "-q", "/scratch"]), "mountpoint -q /scratch");
        assert_eq!(line(&["sh", "-c", "it's | x", ""]), "sh -c 'it'\\''s | x' ''");
    }
}
