//! One command, from its beginning to its end.

use std::time::{Duration, Instant};

use ipmi_rs_core::connection::Message;

use crate::{
    command::{Activate, Deactivate, GetHolder},
    error::Error,
    options::{Options, jittered},
};

/// What is asked of a BMC.
#[derive(Debug)]
pub(crate) enum Task {
    /// A command that does no harm if it is done twice.
    Ask(Message),
    /// A command that is sent at most once.
    Order(Message),
    /// Begin a console.
    Console(Step),
}

/// Steps to a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Begin one, if no other session has it.
    Activate,
    /// Some session has it: ask which. It is ours if the answer to our first packet was lost.
    AskHolder,
    /// Begin one, whoever has it.
    Take,
    /// End the one that there is.
    Deactivate,
    /// Begin one, after that.
    ActivateAgain,
}

impl Task {
    pub(crate) fn message(&self) -> Message {
        match self {
            Self::Ask(message) | Self::Order(message) => message.clone(),
            Self::Console(Step::Activate | Step::Take | Step::ActivateAgain) => Activate.into(),
            Self::Console(Step::AskHolder) => GetHolder.into(),
            Self::Console(Step::Deactivate) => Deactivate.into(),
        }
    }

    pub(crate) fn once(&self) -> bool {
        matches!(self, Self::Order(_))
    }
}

/// What a BMC answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The bytes behind the completion code.
    Data(Vec<u8>),
    /// The console is there.
    Console,
}

/// A task under way.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) task: Task,
    deadline: Instant,
    /// Packets that were sent for it, those of logins among them.
    packets: u32,
    /// Whether anything came back.
    heard: bool,
    /// Logins that may yet have no answer at all.
    silent_logins: u32,
    /// Whether the one packet of an order is on its way.
    ordered: bool,
    /// Sessions and logins that were given up for others.
    restarts: u32,
    /// Why the last of them was.
    last: Option<Error>,
}

impl Work {
    pub(super) fn new(task: Task, deadline: Instant, silent_logins: u32) -> Self {
        Self {
            task,
            deadline,
            packets: 0,
            heard: false,
            silent_logins,
            ordered: false,
            restarts: 0,
            last: None,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn sent(&mut self) {
        self.packets += 1;
    }

    pub(super) fn heard(&mut self) {
        self.heard = true;
    }

    pub(super) fn has_heard(&self) -> bool {
        self.heard
    }

    /// Notes a login that had no answer, and whether it was one too many.
    pub(super) fn is_dead(&mut self) -> bool {
        if !self.heard {
            self.silent_logins = self.silent_logins.saturating_sub(1);
        }
        self.silent_logins == 0 && !self.heard
    }

    pub(super) fn ordered(&mut self) {
        self.ordered = self.task.once();
    }

    /// Whether it must not be sent any more.
    pub(super) fn is_spent(&self) -> bool {
        self.ordered
    }

    /// How long the first answer of a login may take: longer if logins before had none, since some BMCs
    /// take seconds.
    pub(super) fn first_wait(&self, options: &Options) -> Duration {
        (0..self.restarts.min(8)).fold(options.first_wait, |wait, _| options.after(wait))
    }

    pub(super) fn note(&mut self, error: Error) {
        self.last = Some(error);
    }

    /// How long to wait with the next login.
    pub(super) fn restart(&mut self, error: Error, options: &Options) -> Duration {
        self.last = Some(error);
        self.restarts += 1;
        // The first is most likely a session that has ended, and no reason to wait.
        let waits = (1..self.restarts).take(8);
        let pause = waits.fold(Duration::ZERO, |wait, _| {
            if wait.is_zero() { options.first_wait } else { options.after(wait) }
        });
        jittered(pause)
    }

    /// Why it was not done in time.
    pub(super) fn failure(&mut self) -> Error {
        if self.ordered {
            return Error::Unanswered;
        }
        if self.packets == 0 {
            // It waited for others' logins all the time.
            return Error::Busy;
        }
        if !self.heard {
            return Error::Silent { packets: self.packets };
        }
        self.last.take().unwrap_or(Error::TooSlow)
    }
}
