//! Counting what sessions do, and recording what they read: two observers that are ready for use.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::exports::SessionObserver;

/// Buckets of a [`Meter`]'s times: bucket n counts those below 2^n microseconds, the last one all
/// above.
pub const BUCKETS: usize = 26;

/// Counts what the sessions do that it observes, one or many, of one disk or several.
#[derive(Debug, Default)]
pub struct Meter {
    sessions: AtomicU64,
    logins: AtomicU64,
    reads: AtomicU64,
    bytes: AtomicU64,
    took: [AtomicU64; BUCKETS],
    took_us: AtomicU64,
    errors: Mutex<BTreeMap<[u8; 3], u64>>,
}

/// What a [`Meter`] has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions now.
    pub sessions: u64,
    /// Logins so far.
    pub logins: u64,
    /// READ commands that were answered.
    pub reads: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// How long each READ took, from its arrival until its last byte was handed to the socket, in
    /// [`BUCKETS`].
    pub took: [u64; BUCKETS],
    /// All these times together, in microseconds.
    pub took_us: u64,
    /// Commands that ended in CHECK CONDITION, by sense key, code and qualifier.
    pub errors: BTreeMap<[u8; 3], u64>,
}

impl Meter {
    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            sessions: load(&self.sessions),
            logins: load(&self.logins),
            reads: load(&self.reads),
            bytes: load(&self.bytes),
            took: std::array::from_fn(|n| self.took.get(n).map_or(0, load)),
            took_us: load(&self.took_us),
            errors: self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl SessionObserver for Meter {
    fn opened(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.logins.fetch_add(1, Ordering::Relaxed);
    }

    fn answered(&self, bytes: u64, took: Duration) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.took_us.fetch_add(micros, Ordering::Relaxed);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(count) = self.took.get(bucket).or(self.took.last()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed(&self, sense: [u8; 3]) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(sense).or_default() += 1;
    }

    fn closed(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counts {
    /// The time in microseconds that this share of the reads (0.5, 0.99) did not exceed, rounded up to
    /// a power of two; none without reads.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let all: u64 = self.took.iter().sum();
        let wanted = (all as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.took.iter().zip(0_u32..).find_map(|(count, bucket)| {
            seen += count;
            (all > 0 && seen >= wanted).then(|| 1 << bucket)
        })
    }
}

/// One read of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Microseconds since the first read.
    pub at_us: u64,
    /// The first block of 512 bytes.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
}

/// Records what is read, in order: what a boot asks for, and when.
#[derive(Debug)]
pub struct Recorder {
    most: usize,
    longest: Duration,
    reads: Mutex<(Option<Instant>, Vec<Recorded>)>,
}

impl Recorder {
    /// Records at most so many reads, and for so long after the first.
    pub fn new(most: usize, longest: Duration) -> Self {
        Self { most, longest, reads: Mutex::default() }
    }

    /// What was recorded so far.
    pub fn reads(&self) -> Vec<Recorded> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

impl SessionObserver for Recorder {
    fn read(&self, lba: u64, blocks: u32) {
        let now = Instant::now();
        let mut recording = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let (begun, reads) = &mut *recording;
        let at = now.duration_since(*begun.get_or_insert(now));
        if reads.len() < self.most && at <= self.longest {
            let at_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
            reads.push(Recorded { at_us, lba, blocks });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_powers_of_two() {
        let meter = Meter::default();
        assert_eq!(meter.counts().quantile_us(0.5), None);
        for micros in [0, 1, 3, 3, 3, 3, 3, 3, 3, 1000] {
            meter.answered(512, Duration::from_micros(micros));
        }
        meter.answered(512, Duration::from_secs(3600));
        let counts = meter.counts();
        assert_eq!((counts.reads, counts.bytes), (11, 11 * 512));
        assert_eq!(counts.took_us, 1 + 7 * 3 + 1000 + 3_600_000_000);
        assert_eq!(counts.quantile_us(0.0), Some(1));
        assert_eq!(counts.quantile_us(0.5), Some(4));
        assert_eq!(counts.quantile_us(0.9), Some(1024));
        assert_eq!(counts.quantile_us(1.0), Some(1 << (BUCKETS - 1)));
    }

    #[test]
    fn a_recording_is_bounded() {
        let recorder = Recorder::new(2, Duration::from_secs(60));
        for lba in [7, 8, 9] {
            recorder.read(lba, 1);
        }
        let reads = recorder.reads();
        assert_eq!(reads.len(), 2);
        assert_eq!((reads[0].at_us, reads[0].lba, reads[1].lba), (0, 7, 8));
    }
}
