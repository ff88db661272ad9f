//! Log lines that anyone who reaches the port can cause: so many in a time, and the others counted.
//! Also for owners of a target.

use std::time::{Duration, Instant};

/// Lines in each [`SPAN`].
const MOST: u32 = 20;
const SPAN: Duration = Duration::from_secs(10);

/// Log lines of one kind that anyone who reaches a port can cause: at most 20 are written in each ten
/// seconds, and the others are counted.
#[derive(Debug, Default)]
pub struct Sparse {
    /// When the present span began.
    since: Option<Instant>,
    lines: u32,
    unsaid: u64,
}

impl Sparse {
    /// Whether to write a line now, and how many were not written since the last one.
    pub fn line(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= SPAN) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines >= MOST {
            self.unsaid += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_few_lines_and_a_number() {
        let (mut sparse, begun) = (Sparse::default(), Instant::now());
        let said = (0..1000).filter(|_| sparse.line(begun).is_some()).count();
        assert_eq!(said, MOST as usize);
        assert_eq!(sparse.line(begun + SPAN), Some(1000 - u64::from(MOST)));
        assert_eq!(sparse.line(begun + SPAN), Some(0));
    }
}
