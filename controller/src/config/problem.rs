//! What is wrong in a file that a person wrote: where, what, and what would be right.

use std::fmt;

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The key, as `node.power.address`.
    pub key: String,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

/// Everything that is wrong in a file, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file, as it was named.
    pub file: String,
    /// At least one.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            let Problem { line, column, key, wrong, right } = problem;
            let newline = if i == 0 { "" } else { "\n" };
            let key = if key.is_empty() { String::new() } else { format!(" {key}:") };
            write!(f, "{newline}{}:{line}:{column}:{key} {wrong}; {right}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
