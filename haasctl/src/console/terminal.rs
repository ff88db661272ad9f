//! The terminal while a console has it: keys go on as they are.

use std::io;

use nix::sys::{
    signal::{Signal, raise},
    termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
};

/// The terminal in raw mode; as it was when this is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn enter() -> io::Result<Self> {
        let raw = Self { before: tcgetattr(io::stdin())? };
        raw.set()?;
        Ok(raw)
    }

    /// Stops this process as Ctrl-Z does, with the terminal as it was; comes back when it goes on.
    pub(super) fn suspend(&self) -> io::Result<()> {
        self.put_back()?;
        raise(Signal::SIGTSTP)?;
        self.set()
    }

    fn set(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        Ok(tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?)
    }

    fn put_back(&self) -> io::Result<()> {
        Ok(tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before)?)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = self.put_back();
    }
}
