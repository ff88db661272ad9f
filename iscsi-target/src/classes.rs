//! What the sessions of one class may have together, and how fast they may have it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::disk_waits::DiskWaits;
use crate::exports::ClassLimits;

/// How much of a second's bytes may go out at once.
const BURST: f64 = 0.1;

/// Keeps a flow of bytes to so many per second, by telling who sends how long to wait.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Flow>);

#[derive(Debug)]
struct Flow {
    /// Bytes per second; none without a bound.
    rate: Option<f64>,
    /// Bytes sent that the rate has not yet paid for, as of `at`.
    debt: f64,
    at: Instant,
}

impl Pace {
    pub(crate) fn new(rate: Option<u64>) -> Self {
        let pace = Self(Mutex::new(Flow { rate: None, debt: 0.0, at: Instant::now() }));
        pace.set(rate);
        pace
    }

    fn set(&self, rate: Option<u64>) {
        // Zero would be for ever.
        let rate = rate.map(|rate| rate.max(1) as f64);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rate = rate;
    }

    /// Counts bytes; how long to wait before the next ones.
    pub(crate) fn pay(&self, bytes: u64, now: Instant) -> Duration {
        let mut flow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = flow.rate else { return Duration::ZERO };
        let paid = now.saturating_duration_since(flow.at).as_secs_f64() * rate;
        flow.debt = (flow.debt - paid).max(0.0) + bytes as f64;
        flow.at = now;
        Duration::from_secs_f64((flow.debt / rate - BURST).max(0.0))
    }
}

/// All classes that have sessions.
#[derive(Debug, Default)]
pub(crate) struct Classes(Mutex<HashMap<u64, Arc<Share>>>);

/// What a class's sessions have in common.
#[derive(Debug)]
struct Share {
    sessions: AtomicU32,
    /// Commands under way in all sessions; `u32::MAX` without a bound.
    commands: AtomicU32,
    pace: Pace,
    disk_waits: DiskWaits,
}

/// A session's membership in its class, until it is dropped.
#[derive(Debug)]
pub(crate) struct Member {
    classes: Arc<Classes>,
    id: u64,
    share: Arc<Share>,
}

impl Classes {
    /// Takes in a session, unless the class has as many as it may. The limits given last hold for
    /// the whole class.
    pub(crate) fn enter(self: &Arc<Self>, id: u64, limits: &ClassLimits) -> Option<Member> {
        let mut classes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let share = classes.entry(id).or_insert_with(|| {
            let (sessions, commands) = (AtomicU32::new(0), AtomicU32::new(u32::MAX));
            let (pace, disk_waits) = (Pace::new(None), DiskWaits::default());
            Arc::new(Share { sessions, commands, pace, disk_waits })
        });
        if limits.sessions.is_some_and(|most| share.sessions.load(Ordering::Relaxed) >= most) {
            return None;
        }
        share.sessions.fetch_add(1, Ordering::Relaxed);
        share.commands.store(limits.commands.unwrap_or(u32::MAX), Ordering::Relaxed);
        share.pace.set(limits.bytes_per_second);
        Some(Member { classes: Arc::clone(self), id, share: Arc::clone(share) })
    }
}

impl Member {
    /// The class.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The class's pace.
    pub(crate) fn pace(&self) -> &Pace {
        &self.share.pace
    }

    /// The class's share of the threads that wait for disks.
    pub(crate) fn disk_waits(&self) -> &DiskWaits {
        &self.share.disk_waits
    }

    /// Commands that this session may have under way now, at least one.
    pub(crate) fn window(&self, own: u32) -> u32 {
        let sessions = self.share.sessions.load(Ordering::Relaxed).max(1);
        let fair = self.share.commands.load(Ordering::Relaxed) / sessions;
        own.min(fair).max(1)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut classes = self.classes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.share.sessions.fetch_sub(1, Ordering::Relaxed) == 1 {
            classes.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_over_bursts_and_pauses() {
        let pace = Pace::new(Some(1_000_000));
        let begun = Instant::now();
        assert_eq!(pace.pay(100_000, begun), Duration::ZERO, "a burst is free");
        let wait = pace.pay(1_000_000, begun);
        assert!((wait.as_secs_f64() - 1.0).abs() < 0.001, "{wait:?}");
        // After the wait the next bytes cost their own time only.
        let later = begun + wait;
        let next = pace.pay(500_000, later);
        assert!((next.as_secs_f64() - 0.5).abs() < 0.001, "{next:?}");
        // A pause pays the debt, and saves nothing up.
        let much_later = begun + Duration::from_secs(60);
        assert_eq!(pace.pay(100_000, much_later), Duration::ZERO);
        assert!(pace.pay(100_000, much_later) > Duration::from_millis(99));
        assert_eq!(Pace::new(None).pay(u64::MAX, begun), Duration::ZERO);
    }

    #[test]
    fn a_class_has_so_many_sessions_and_shares_its_commands() {
        let classes = Arc::new(Classes::default());
        let limits = ClassLimits { sessions: Some(2), commands: Some(64), bytes_per_second: None };
        let first = classes.enter(1, &limits).unwrap();
        assert_eq!((first.window(128), first.window(8)), (64, 8));
        let second = classes.enter(1, &limits).unwrap();
        assert_eq!(first.window(128), 32);
        assert!(classes.enter(1, &limits).is_none());
        assert!(classes.enter(2, &limits).is_some(), "another class");
        drop(second);
        assert!(classes.enter(1, &limits).is_some());
        drop(first);
        assert!(classes.0.lock().unwrap().is_empty());
    }
}
