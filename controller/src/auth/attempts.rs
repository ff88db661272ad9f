//! Logins that failed lately, so that passwords cannot be tried one after the other.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Failures that cost nothing yet: a name from one address, an address, a name.
const FREE: [u32; 3] = [5, 20, 50];
/// The longest wait, and how long failures are remembered.
const MOST: Duration = Duration::from_secs(900);
/// What is kept at most; then the oldest failures are forgotten.
const MOST_KEPT: usize = 100_000;

/// The failures.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<Key, Failures>>);

type Key = (Option<String>, Option<IpAddr>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Attempts {
    /// How long this name must wait from this address before its next try.
    pub fn wait(&self, name: &str, from: IpAddr, now: Instant) -> Option<Duration> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = keys(name, from).into_iter().zip(FREE).filter_map(|(key, free)| {
            let failures = kept.get(&key)?;
            // Doubles with each failure: 1 s, 2 s, 4 s ...
            let over = failures.count.checked_sub(free)?;
            let pause = Duration::from_secs(1 << over.min(16)).min(MOST);
            (failures.last + pause).checked_duration_since(now).filter(|wait| !wait.is_zero())
        });
        waits.max()
    }

    /// A try failed.
    pub fn failed(&self, name: &str, from: IpAddr, now: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, failures| now.duration_since(failures.last) < MOST);
            if kept.len() >= MOST_KEPT {
                kept.clear();
            }
        }
        for key in keys(name, from) {
            let failures = kept.entry(key).or_insert(Failures { count: 0, last: now });
            if now.duration_since(failures.last) >= MOST {
                failures.count = 0;
            }
            failures.count += 1;
            failures.last = now;
        }
    }

    /// A try was right: this name starts anew from this address.
    pub fn succeeded(&self, name: &str, from: IpAddr) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [both, ..] = keys(name, from);
        kept.remove(&both);
    }
}

fn keys(name: &str, from: IpAddr) -> [Key; 3] {
    let name = || Some(name.to_owned());
    [(name(), Some(from)), (None, Some(from)), (name(), None)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn each_failure_doubles_the_wait_and_a_right_password_ends_it() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..4 {
            attempts.failed("alice", HERE, now);
        }
        assert_eq!(attempts.wait("alice", HERE, now), None);
        attempts.failed("alice", HERE, now);
        assert_eq!(attempts.wait("alice", HERE, now), Some(Duration::from_secs(1)));
        attempts.failed("alice", HERE, now);
        assert_eq!(attempts.wait("alice", HERE, now), Some(Duration::from_secs(2)));
        assert_eq!(attempts.wait("alice", HERE, now + Duration::from_secs(2)), None);
        // Who sits elsewhere is not locked out by it.
        assert_eq!(attempts.wait("alice", THERE, now), None);
        assert_eq!(attempts.wait("bob", HERE, now), None);
        attempts.succeeded("alice", HERE);
        assert_eq!(attempts.wait("alice", HERE, now), None);
    }

    #[test]
    fn many_names_from_one_address_and_one_name_from_many_have_to_wait_too() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..20 {
            attempts.failed(&format!("u{n}"), HERE, now);
        }
        assert!(attempts.wait("carol", HERE, now).is_some());
        for n in 0..50 {
            attempts.failed("dave", IpAddr::V4([10, 0, 1, n].into()), now);
        }
        assert!(attempts.wait("dave", THERE, now).is_some());
        let longest = attempts.wait("dave", THERE, now).unwrap();
        assert!(longest <= MOST);
        for _ in 0..60 {
            attempts.failed("dave", THERE, now);
        }
        assert_eq!(attempts.wait("dave", THERE, now), Some(MOST));
        assert_eq!(attempts.wait("dave", THERE, now + MOST), None);
    }
}
