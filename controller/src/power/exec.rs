//! Power by custom software (M8), called as [`program`] says.
//!
//! It is called with one more argument: `on`, `off`, `soft`, `status` (prints `on` or `off`),
//! `bootdev-pxe`, `bootdev-disk`, `bootdev-bios` or `bmc-reset`. Exit code 0 means done; stderr is the text of the error. It

use std::{fmt, time::Duration};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Instant, timeout_at};

use crate::metrics::METRICS;

use super::{BootDevice, LIMIT, Power, PowerAction, PowerDriver, PowerError, Turn, turn_at};
use crate::program::{self, ProgramFault};

/// What came of a power command.
#[derive(Debug, thiserror::Error)]
pub enum CommandFault {
    /// It could not be started, or ended with an error.
    #[error(transparent)]
    Program(#[from] ProgramFault),
    /// It did not end in time and was killed.
    #[error("was killed after {} s without an end", .0.as_secs_f32())]
    TimedOut(Duration),
    /// Another call for the same command held the turn all the time.
    #[error("not called: an earlier call has not ended for {} s", .0.as_secs_f32())]
    Busy(Duration),
    /// `status` printed something else.
    #[error("printed {0:?}; expected \"on\" or \"off\"")]
    Answer(String),
}

/// Calls one program.
pub(super) struct Exec {
    program: String,
    arguments: Vec<String>,
    turn: Turn,
    limit: Duration,
}

// The arguments may hold more than a log should.
impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Exec {
    pub(super) fn new(command: &[String]) -> Result<Self, PowerError> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(PowerError::Spec { driver: "exec", wrong: "command is empty" });
        };
        let turn = turn_at(format!("exec {command:?}"));
        Ok(Self { program: program.clone(), arguments: arguments.to_vec(), turn, limit: LIMIT })
    }

    #[cfg(test)]
    pub(super) fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    async fn call(&self, argument: &'static str) -> Result<String, PowerError> {
        let since = Instant::now();
        let deadline = since + self.limit;
        let outcome = match timeout_at(deadline, self.turn.lock()).await {
            Err(_) => Err(CommandFault::Busy(self.limit)),
            Ok(_turn) => match timeout_at(deadline, self.run(argument)).await {
                Err(_) => Err(CommandFault::TimedOut(self.limit)),
                Ok(outcome) => outcome,
            },
        };
        let call = if argument.starts_with("bootdev") { "bootdev" } else { argument };
        METRICS.bmc_called("exec", call, outcome.is_ok(), since.elapsed());
        outcome.map_err(|fault| self.error(argument, fault))
    }

    async fn run(&self, argument: &str) -> Result<String, CommandFault> {
        let arguments = self.arguments.iter().map(String::as_str).chain([argument]);
        Ok(program::output(&self.program, arguments).await?)
    }

    fn error(&self, argument: &'static str, fault: CommandFault) -> PowerError {
        PowerError::Command { program: self.program.clone(), argument, fault }
    }
}

impl PowerDriver for Exec {
    fn state(&self) -> BoxFuture<'_, Result<Power, PowerError>> {
        async {
            let answer = self.call("status").await?;
            match answer.trim() {
                "on" => Ok(Power::On),
                "off" => Ok(Power::Off),
                other => {
                    let shown = other.chars().take(100).collect();
                    Err(self.error("status", CommandFault::Answer(shown)))
                }
            }
        }
        .boxed()
    }

    fn set(&self, action: PowerAction) -> BoxFuture<'_, Result<(), PowerError>> {
        let argument = match action {
            PowerAction::On => "on",
            PowerAction::Off => "off",
            PowerAction::Soft => "soft",
        };
        self.call(argument).map(|outcome| outcome.map(|_| ())).boxed()
    }

    fn set_boot_device(&self, device: BootDevice) -> BoxFuture<'_, Result<(), PowerError>> {
        let argument = match device {
            BootDevice::Pxe => "bootdev-pxe",
            BootDevice::Disk => "bootdev-disk",
            BootDevice::Bios => "bootdev-bios",
        };
        self.call(argument).map(|outcome| outcome.map(|_| ())).boxed()
    }

    fn reset_bmc(&self) -> BoxFuture<'_, Result<(), PowerError>> {
        self.call("bmc-reset").map(|outcome| outcome.map(|_| ())).boxed()
    }
}
