//! Whether an I/O thread that has nothing to do sleeps at once, or first looks for what comes next.
//!
//! An initiator that has one small read under way sends the next one some microseconds after the
//! answer; to fall asleep and be woken takes as long again. How long it pays to look is learned from
//! how long the waits were, as KVM learns how long to poll for a halted guest (the kernel's
//! `Documentation/virt/kvm/halt-polling.rst`).

use std::time::{Duration, Instant};

/// The first time that is tried; below it nothing is gained.
const FIRST: Duration = Duration::from_micros(10);

#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// The longest; zero for never.
    most: Duration,
    /// How long it is tried now.
    long: Duration,
    /// Something small was answered, so that the next request may be near.
    expecting: bool,
    /// Since when there is nothing to do.
    idle_since: Option<Instant>,
}

impl Spin {
    /// Looks for at most so long. On a machine with one processor it would keep from running whom it
    /// waits for, so there it never does.
    pub(crate) fn new(most: Duration) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        Self { most: if processors > 1 { most } else { Duration::ZERO }, ..Self::default() }
    }

    /// A small answer went out.
    pub(crate) fn expect(&mut self) {
        self.expecting = !self.most.is_zero();
    }

    /// There is nothing to do. Whether to look again, and not to sleep.
    pub(crate) fn is_idle(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if !self.expecting {
            return false;
        }
        let now = now();
        let since = *self.idle_since.get_or_insert(now);
        now.saturating_duration_since(since) < self.long
    }

    /// There is something to do again.
    pub(crate) fn is_busy(&mut self, now: impl FnOnce() -> Instant) {
        self.expecting = false;
        let Some(since) = self.idle_since.take() else { return };
        let waited = now().saturating_duration_since(since);
        if waited > self.most {
            self.long /= 2;
            if self.long < FIRST {
                self.long = Duration::ZERO;
            }
        } else if waited > self.long {
            self.long = (self.long * 2).clamp(FIRST.min(self.most), self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);

    /// Waits so long for the next request behind a small answer; how long of that it looked for it.
    fn wait(spin: &mut Spin, micros: u64) -> u64 {
        let begun = Instant::now();
        spin.expect();
        let at = |micros| move || begun + Duration::from_micros(micros);
        let looked = (0..micros).take_while(|micros| spin.is_idle(at(*micros))).count();
        spin.is_busy(at(micros));
        looked as u64
    }

    #[test]
    fn it_looks_as_long_as_that_was_of_use() {
        let mut spin = Spin { most: MOST, ..Spin::default() };
        // Each wait was short, so the next one is looked through for longer.
        let looked: Vec<_> = (0..4).map(|_| wait(&mut spin, 30)).collect();
        assert_eq!(looked, [0, 10, 20, 30], "the last one to its end");
        assert_eq!(wait(&mut spin, 30), 30);
        // Nobody comes within the time.
        let looked: Vec<_> = (0..4).map(|_| wait(&mut spin, 500)).collect();
        assert_eq!(looked, [40, 20, 10, 0]);
    }

    #[test]
    fn it_sleeps_at_once_behind_anything_else() {
        let now = Instant::now();
        let mut spin = Spin { most: MOST, long: MOST, ..Spin::default() };
        assert!(!spin.is_idle(|| now));
        spin.expect();
        assert!(spin.is_idle(|| now));
        spin.is_busy(|| now);
        assert!(!spin.is_idle(|| now), "behind a turn that answered nothing small");
        let mut off = Spin::new(Duration::ZERO);
        off.long = MOST;
        off.expect();
        assert!(!off.is_idle(|| now));
    }
}
