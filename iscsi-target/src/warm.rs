//! Which pages of a disk were in memory a moment ago, so that what many nodes read at the same second
//! is looked at once. A page that was there is hardly gone a second later; should one be, its
//! reader waits for the disk on the I/O thread, once.
//!
//! The kernel's own answer (`cachestat(2)`) is no use here: it counts pages that are still on their way
//! from the disk.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const PAGE: u64 = 4096;

/// Pages in a part, for which there is memory once one of them was seen: a MiB of the disk.
const PAGES: usize = 256;

/// When a page was last seen in memory, for each: in seconds from the beginning on and never zero,
/// which is for never.
type Part = Box<[AtomicU32; PAGES]>;

#[derive(Debug)]
pub(crate) struct Warm {
    begun: Instant,
    parts: Box<[OnceLock<Part>]>,
}

impl Warm {
    /// For a disk of so many bytes. It takes 16 bytes for each MiB, and 1,024 more where it was read.
    pub(crate) fn new(len: u64) -> Self {
        let parts = len.div_ceil(PAGE * PAGES as u64);
        Self { begun: Instant::now(), parts: (0..parts).map(|_| OnceLock::new()).collect() }
    }

    /// The range was found in memory, as far as a look at some of its pages tells.
    pub(crate) fn note(&self, offset: u64, len: u64, now: Instant) {
        let second = self.second(now);
        for page in pages(offset, len) {
            let part = self.part(page).map(|part| {
                part.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU32::new(0))))
            });
            if let Some(seen) = part.and_then(|part| part.get(in_part(page))) {
                seen.store(second, Ordering::Relaxed);
            }
        }
    }

    /// Whether all of the range was in memory within the last second or two.
    pub(crate) fn holds(&self, offset: u64, len: u64, now: Instant) -> bool {
        let second = self.second(now);
        pages(offset, len).all(|page| {
            let part = self.part(page).and_then(OnceLock::get);
            let seen = part.and_then(|part| part.get(in_part(page)));
            seen.is_some_and(|seen| match seen.load(Ordering::Relaxed) {
                0 => false,
                seen => second.saturating_sub(seen) <= 1,
            })
        })
    }

    fn part(&self, page: u64) -> Option<&OnceLock<Part>> {
        self.parts.get(usize::try_from(page).ok()? / PAGES)
    }

    fn second(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.begun).as_secs();
        u32::try_from(seconds + 1).unwrap_or(u32::MAX)
    }
}

fn pages(offset: u64, len: u64) -> impl Iterator<Item = u64> {
    offset / PAGE..(offset + len).div_ceil(PAGE)
}

fn in_part(page: u64) -> usize {
    usize::try_from(page % PAGES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_was_seen_just_now_counts() {
        let (warm, now) = (Warm::new(3 << 20), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(!warm.holds(0, PAGE, now));
        warm.note((1 << 20) - 8192, 16384, at(7));
        assert!(warm.holds((1 << 20) - 8192, 16384, at(7)), "over two parts");
        assert!(warm.holds((1 << 20) - 4000, 600, at(8)));
        for (offset, len) in [((1 << 20) - 8704, 1024), (1 << 20, 16384), (2 << 20, PAGE)] {
            assert!(!warm.holds(offset, len, at(7)), "{len} bytes from {offset} on");
        }
        assert!(!warm.holds(1 << 20, PAGE, at(9)), "two seconds later");
        // The disk's end, and what is beyond it.
        warm.note((3 << 20) - PAGE, 2 * PAGE, at(9));
        assert!(warm.holds((3 << 20) - PAGE, PAGE, at(9)));
        assert!(!warm.holds((3 << 20) - PAGE, 2 * PAGE, at(9)));
    }
}
