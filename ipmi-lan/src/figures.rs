//! What a fleet does, in numbers.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// What a fleet does and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Sessions that stand.
    pub sessions: usize,
    /// BMCs whose breaker is closed: calls are let through.
    pub working: usize,
    /// BMCs whose breaker is open: they are left alone for a while.
    pub left_alone: usize,
    /// BMCs whose breaker is half open: the next call finds out.
    pub doubtful: usize,
    /// Requests that were sent again, so far.
    pub sent_again: u64,
    /// Logins that were begun, so far.
    pub logins: u64,
}

/// What one BMC's link has done since it was asked last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) sent_again: u64,
    pub(crate) logins: u64,
}

/// The sums of a fleet. They never become less, whatever becomes of its BMCs.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    sent_again: AtomicU64,
    logins: AtomicU64,
}

impl Sums {
    pub(crate) fn add(&self, done: Done) {
        self.sent_again.fetch_add(done.sent_again, Ordering::Relaxed);
        self.logins.fetch_add(done.logins, Ordering::Relaxed);
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            sent_again: self.sent_again.load(Ordering::Relaxed),
            logins: self.logins.load(Ordering::Relaxed),
            ..Figures::default()
        }
    }
}

/// How one BMC stands, as its task has said last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing {
    pub(crate) has_session: bool,
    /// Until when it is left alone.
    pub(crate) paused_until: Option<Instant>,
}

/// The same, shared with those who ask.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<Standing>);

impl Shown {
    pub(crate) fn set(&self, standing: Standing) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = standing;
    }

    pub(crate) fn count(&self, figures: &mut Figures, now: Instant) {
        let standing = *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        figures.sessions += usize::from(standing.has_session);
        match standing.paused_until {
            None => figures.working += 1,
            Some(until) if until > now => figures.left_alone += 1,
            Some(_) => figures.doubtful += 1,
        }
    }
}
