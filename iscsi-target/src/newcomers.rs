//! Connections that have no session with a target: those that have yet to log in, and discovery
//! sessions, which anyone may have. They are bounded apart from the others, and at the bound the
//! oldest gives way: who opens connections and goes no further keeps nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::turns::Ticket;

/// All such connections of a server.
#[derive(Debug)]
pub(crate) struct Newcomers {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// By number, which is also by age.
    tickets: BTreeMap<u64, Ticket>,
    /// Those that were told to end and are not gone yet.
    ending: usize,
}

/// A connection counts as such until this is dropped.
#[derive(Debug)]
pub(crate) struct Newcomer {
    all: Arc<Newcomers>,
    number: u64,
    is_one: bool,
}

impl Newcomer {
    /// It has a session now. False if it was told to end meanwhile.
    pub(crate) fn leaves(mut self) -> bool {
        let stays = self.all.lock().tickets.remove(&self.number).is_some();
        self.is_one = !stays;
        stays
    }
}

impl Newcomers {
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), waiting: Mutex::default() }
    }

    /// Takes in a connection; where there are too many, the oldest ends.
    pub(crate) fn enter(self: &Arc<Self>, ticket: Ticket) -> Newcomer {
        let full = self.lock().tickets.len() >= self.most;
        if full {
            self.oldest_ends();
        }
        let mut waiting = self.lock();
        waiting.last += 1;
        let number = waiting.last;
        waiting.tickets.insert(number, ticket);
        Newcomer { all: Arc::clone(self), number, is_one: true }
    }

    /// Ends the oldest. False where there is none.
    pub(crate) fn oldest_ends(&self) -> bool {
        let mut waiting = self.lock();
        let Some((_, ticket)) = waiting.tickets.pop_first() else { return false };
        waiting.ending += 1;
        // Not under the lock: whoever ends leaves the table.
        drop(waiting);
        ticket.end();
        true
    }

    /// How many make room as soon as they have their turn.
    pub(crate) fn ending(&self) -> usize {
        self.lock().ending
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut waiting = self.all.lock();
        if self.is_one && waiting.tickets.remove(&self.number).is_none() {
            waiting.ending -= 1;
        }
    }
}
