//! What can go wrong, and the exit code that scripts branch on.

use std::{io, path::PathBuf};

use haas_api::client::ClientError;

/// The exit codes. Stable: scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    General = 1,
    Usage = 2,
    /// A set of nodes was served in part.
    Partial = 3,
    NotFound = 4,
    /// Busy, reserved, in use, overtaken.
    Conflict = 5,
    Auth = 6,
    Timeout = 7,
    Unreachable = 8,
    /// Ctrl-C, as shells count it.
    Interrupted = 130,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{summary}")]
    Nodes { exit: Exit, summary: String },
    /// What was run on nodes did not end well; the code is the highest of theirs.
    #[error("{summary}")]
    Commands { code: u8, summary: String },
    #[error("{0}")]
    Timeout(String),
    #[error("{0}")]
    Interrupted(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Failed(String),
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the configuration {} cannot be used: {reason}", path.display())]
    Config { path: PathBuf, reason: String },
    #[error("the result cannot be written")]
    Output(#[from] io::Error),
}

impl Error {
    /// The exit code for this.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Commands { code, .. } => *code,
            _ => self.exit() as u8,
        }
    }

    /// The exit code that haasctl itself has for this.
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Config { .. } => Exit::Usage,
            Self::Client(error) => client_exit(error),
            Self::Nodes { exit, .. } => *exit,
            Self::Timeout(_) => Exit::Timeout,
            Self::Interrupted(_) => Exit::Interrupted,
            Self::NotFound(_) => Exit::NotFound,
            Self::Commands { .. } | Self::Failed(_) | Self::Io { .. } | Self::Output(_) => {
                Exit::General
            }
        }
    }
}

fn client_exit(error: &ClientError) -> Exit {
    match error {
        ClientError::Problem(problem) => match problem.status {
            400 | 422 => Exit::Usage,
            401 | 403 => Exit::Auth,
            404 => Exit::NotFound,
            409 => Exit::Conflict,
            408 | 504 => Exit::Timeout,
            502 | 503 => Exit::Unreachable,
            _ => Exit::General,
        },
        ClientError::Unreachable { .. }
        | ClientError::WrongCertificate { .. }
        | ClientError::Ended { .. } => Exit::Unreachable,
        ClientError::Protocol { .. } => Exit::General,
        ClientError::Setup(_) => Exit::Usage,
    }
}

/// For `map_err`: adds what was being done.
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

#[cfg(test)]
mod tests {
    use haas_api::problem::Problem;

    use super::*;

    fn problem(status: u16) -> Error {
        Error::Client(ClientError::Problem(Box::new(Problem {
            status,
            code: "x".to_owned(),
            title: "x".to_owned(),
            detail: "x".to_owned(),
            nodes: Vec::new(),
        })))
    }

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        for (status, code) in [
            (400, 2),
            (422, 2),
            (401, 6),
            (403, 6),
            (404, 4),
            (409, 5),
            (408, 7),
            (504, 7),
            (503, 8),
            (500, 1),
            (507, 1),
        ] {
            assert_eq!(problem(status).code(), code, "HTTP {status}");
        }
        let ended = Error::Client(ClientError::Ended { url: String::new() });
        let wrong = Error::Client(ClientError::WrongCertificate {
            url: String::new(),
            reason: String::new(),
        });
        for (error, code) in [
            (Error::Usage(String::new()), 2),
            (Error::Timeout(String::new()), 7),
            (Error::Nodes { exit: Exit::Partial, summary: String::new() }, 3),
            (Error::NotFound(String::new()), 4),
            (Error::Commands { code: 42, summary: String::new() }, 42),
            (Error::Failed(String::new()), 1),
            (Error::Interrupted(String::new()), 130),
            (ended, 8),
            (wrong, 8),
        ] {
            assert_eq!(error.code(), code, "{error:?}");
        }
    }
}
