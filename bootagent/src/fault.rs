//! Why a stage of the boot could not be passed.

use haas_api::agent::{BootStage, Failure};

use crate::log;

/// How many lines of the kernel's log go with a failure.
const KERNEL_LINES: usize = 30;

/// Why a stage could not be passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause} [{code}]")]
pub(crate) struct Fault {
    /// A stable word for machines.
    pub code: &'static str,
    /// What failed and what to do, in a sentence.
    pub cause: String,
    /// Whether trying again by itself can help.
    pub retryable: bool,
}

impl Fault {
    /// Trying again can help: something that may be away for a while.
    pub(crate) fn retry(code: &'static str, cause: impl Into<String>) -> Self {
        Self { code, cause: cause.into(), retryable: true }
    }

    /// A person is needed: the node is held until haasd says that it shall try again.
    pub(crate) fn hold(code: &'static str, cause: impl Into<String>) -> Self {
        Self { code, cause: cause.into(), retryable: false }
    }

    /// The fault as haasd is told of it.
    pub(crate) fn at(&self, stage: BootStage) -> Failure {
        Failure {
            stage,
            code: self.code.to_owned(),
            cause: self.cause.clone(),
            kernel_log: log::last_lines(KERNEL_LINES),
            retryable: self.retryable,
        }
    }
}

/// Turns a failed system call into a fault that says what was tried.
pub(crate) trait OrFault<T> {
    /// Trying again can help.
    fn or_retry(self, code: &'static str, what: &str) -> Result<T, Fault>;
    /// A person is needed.
    fn or_hold(self, code: &'static str, what: &str) -> Result<T, Fault>;
}

impl<T, E: std::fmt::Display> OrFault<T> for Result<T, E> {
    fn or_retry(self, code: &'static str, what: &str) -> Result<T, Fault> {
        self.map_err(|error| Fault::retry(code, format!("{what}: {error}")))
    }

    fn or_hold(self, code: &'static str, what: &str) -> Result<T, Fault> {
        self.map_err(|error| Fault::hold(code, format!("{what}: {error}")))
    }
}
