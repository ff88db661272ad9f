//! Who is behind a token and what it may, remembered for a second, so that a request costs no query
//! for it. What changes users, tokens, groups, projects or grants clears it here; another controller's changes hold after that second.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Principal;

const KEPT: Duration = Duration::from_secs(1);
const MOST_KEPT: usize = 10_000;

/// The principals seen lately, by the SHA-256 of their tokens.
#[derive(Debug, Default)]
pub struct Principals(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Counts how often everything was forgotten.
    age: u64,
    by_hash: HashMap<String, (Principal, Instant)>,
}

impl Principals {
    /// The principal, if it was looked up within the last second.
    pub fn get(&self, hash: &str, now: Instant) -> Option<Principal> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (principal, since) = known.by_hash.get(hash)?;
        (now.duration_since(*since) < KEPT).then(|| principal.clone())
    }

    /// To be taken before a principal is looked up, for [`Principals::put`].
    pub fn age(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).age
    }

    /// Remembers one, unless everything was forgotten since `age`: then it may be out of date.
    pub fn put(&self, hash: String, principal: Principal, age: u64, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.age != age {
            return;
        }
        if known.by_hash.len() >= MOST_KEPT {
            known.by_hash.retain(|_, (_, since)| now.duration_since(*since) < KEPT);
            if known.by_hash.len() >= MOST_KEPT {
                return;
            }
        }
        known.by_hash.insert(hash, (principal, now));
    }

    /// A user, a token, or what somebody may, was changed; to be called after the commit.
    pub fn forget(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.age += 1;
        known.by_hash.clear();
    }
}

#[cfg(test)]
mod tests {
    use haas_api::user::Role;

    use super::*;

    #[test]
    fn a_principal_is_known_for_a_second_and_not_after_a_change() {
        let principal = Principal {
            user_id: "1".into(),
            name: "alice".parse().unwrap(),
            role: Role::User,
            powers: std::sync::Arc::default(),
            token_id: "t".into(),
            read_only: false,
        };
        let (known, now) = (Principals::default(), Instant::now());
        known.put("h".into(), principal.clone(), known.age(), now);
        assert_eq!(known.get("h", now), Some(principal.clone()));
        assert_eq!(known.get("h", now + KEPT), None);
        let age = known.age();
        known.forget();
        assert_eq!(known.get("h", now), None);
        // It was read before the change.
        known.put("h".into(), principal, age, now);
        assert_eq!(known.get("h", now), None);
    }
}
