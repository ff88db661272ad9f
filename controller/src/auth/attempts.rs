//! Logins that failed lately, so that passwords cannot be tried one after the other.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::rates::asker;

/// Failures that cost nothing yet: a name from one address, an address, a name.
const FREE: [u32; 3] = [5, 20, 50];
/// The longest wait, and how long failures are remembered.
const MOST: Duration = Duration::from_secs(900);
/// What is kept at most.
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
    /// A try begins. It counts as failed until it is said to be right, so that many at once are no
    /// way around; the error is how long this name must wait from this address.
    pub fn begin(&self, name: &str, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = keys(name, from).into_iter().zip(FREE).filter_map(|(key, free)| {
            let failures = kept.get(&key)?;
            // Doubles with each failure: 1 s, 2 s, 4 s ...
            let over = failures.count.checked_sub(free)?;
            let pause = Duration::from_secs(1 << over.min(16)).min(MOST);
            (failures.last + pause).checked_duration_since(now).filter(|wait| !wait.is_zero())
        });
        if let Some(wait) = waits.max() {
            return Err(wait);
        }
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, failures| now.duration_since(failures.last) < MOST);
            if kept.len() >= MOST_KEPT {
                // Somebody comes from everywhere. Better that he is slow than that he is forgotten.
                return Err(MOST);
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
        Ok(())
    }

    /// The try was right: this name starts anew from this address.
    pub fn succeeded(&self, name: &str, from: IpAddr) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [both, address, name] = keys(name, from);
        kept.remove(&both);
        for key in [address, name] {
            if let Some(failures) = kept.get_mut(&key) {
                failures.count = failures.count.saturating_sub(1);
            }
        }
    }
}

fn keys(name: &str, from: IpAddr) -> [Key; 3] {
    let from = asker(from);
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
        let second = |n| now + Duration::from_secs(n);
        for _ in 0..5 {
            assert_eq!(attempts.begin("alice", HERE, now), Ok(()));
        }
        assert_eq!(attempts.begin("alice", HERE, now), Err(Duration::from_secs(1)));
        assert_eq!(attempts.begin("alice", HERE, second(1)), Ok(()));
        assert_eq!(attempts.begin("alice", HERE, second(1)), Err(Duration::from_secs(2)));
        // Who sits elsewhere is not locked out by it.
        assert_eq!(attempts.begin("alice", THERE, second(1)), Ok(()));
        assert_eq!(attempts.begin("bob", HERE, second(1)), Ok(()));
        attempts.succeeded("alice", HERE);
        assert_eq!(attempts.begin("alice", HERE, second(1)), Ok(()));
    }

    #[test]
    fn many_names_from_one_address_and_one_name_from_many_have_to_wait_too() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..20 {
            assert_eq!(attempts.begin(&format!("u{n}"), HERE, now), Ok(()));
        }
        assert!(attempts.begin("carol", HERE, now).is_err());
        for n in 0..50 {
            let from = IpAddr::V4([10, 0, 1, n].into());
            assert_eq!(attempts.begin("dave", from, now), Ok(()));
        }
        assert!(attempts.begin("dave", THERE, now).is_err());
        for n in 0..5 {
            let from = format!("2001:db8::{n}").parse().unwrap();
            assert_eq!(attempts.begin("erin", from, now), Ok(()));
        }
        assert!(attempts.begin("erin", "2001:db8::9".parse().unwrap(), now).is_err());
    }
}
