//! Who is behind a token and what it may, remembered until something changes it, so that a request
//! costs no query for it.
//!
//! The store counts every change of users, tokens, groups, projects and grants: for this process in its
//! [age](crate::store::Store::powers_age), which a commit raises before anybody is told of it, and for
//! all processes in the database, where [`run`] looks several times a second. What was not looked at
//! within the last second is not believed, so a revoked token is good for no longer, whoever revoked it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Principal;
use crate::{
    context::Context,
    model::{Micros, SECOND},
};

/// How long the database's word holds that nothing was changed.
const BELIEVED: Duration = Duration::from_secs(1);
const LOOKED_EACH: Duration = Duration::from_millis(300);
const MOST_KEPT: usize = 10_000;
/// How exactly it is known when a token was last used.
pub const TOUCHED_EACH: Micros = 60 * SECOND;

/// The principals seen so far, by the SHA-256 of their tokens.
#[derive(Debug, Default)]
pub struct Principals(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The store's age at which these were read.
    age: u64,
    by_hash: HashMap<String, Entry>,
    /// The database's count of changes, and when it was asked for.
    looked: Option<(i64, Instant)>,
}

#[derive(Debug)]
struct Entry {
    principal: Principal,
    expires_at: Option<Micros>,
    touched_at: Micros,
}

/// When something is asked or told, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The store's age, taken before anything is read.
    pub age: u64,
    /// The steady clock.
    pub now: Instant,
    /// The wall clock.
    pub wall: Micros,
}

/// A principal that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who it is.
    pub principal: Principal,
    /// Whether it is time to note that its token was used.
    pub is_to_touch: bool,
}

impl Principals {
    /// The principal, if nothing was changed since it was put here.
    pub fn get(&self, hash: &str, at: Moment) -> Option<Seen> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, looked) = known.looked?;
        if known.age != at.age || at.now.saturating_duration_since(looked) >= BELIEVED {
            return None;
        }
        let entry = known.by_hash.get_mut(hash)?;
        if entry.expires_at.is_some_and(|end| end <= at.wall) {
            return None;
        }
        let is_to_touch = at.wall - entry.touched_at >= TOUCHED_EACH;
        if is_to_touch {
            entry.touched_at = at.wall;
        }
        Some(Seen { principal: entry.principal.clone(), is_to_touch })
    }

    /// Remembers who was read at this moment. If something was changed since, nobody finds it.
    pub fn put(
        &self,
        hash: String,
        principal: Principal,
        expires_at: Option<Micros>,
        read_at: Moment,
    ) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read_at.age < known.age {
            return;
        }
        if read_at.age > known.age || known.by_hash.len() >= MOST_KEPT {
            known.age = read_at.age;
            known.by_hash.clear();
        }
        known.by_hash.insert(hash, Entry { principal, expires_at, touched_at: read_at.wall });
    }

    /// Takes the database's count of changes; whether it is another than the last one.
    fn looked(&self, count: i64, asked_at: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = known.looked.replace((count, asked_at));
        last.is_some_and(|(before, _)| before != count)
    }
}

/// Looks for changes that others have made to the database, until `stop`.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    loop {
        let asked_at = Instant::now();
        match context.store.powers_changes().await {
            Ok(count) => {
                if context.principals.looked(count, asked_at) {
                    context.store.powers_changed();
                }
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "cannot look for changes of users and grants"
            ),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOKED_EACH) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use haas_api::user::Role;

    use super::*;

    fn alice() -> Principal {
        Principal {
            user_id: "1".into(),
            name: "alice".parse().unwrap(),
            role: Role::User,
            powers: Arc::default(),
            token_id: "t".into(),
            read_only: false,
            feed_only: false,
        }
    }

    #[test]
    fn a_principal_is_known_until_something_changes() {
        let (known, now) = (Principals::default(), Instant::now());
        let at = |age, seconds: i64| Moment {
            age,
            now: now + Duration::from_secs(seconds.unsigned_abs()),
            wall: seconds * SECOND,
        };
        known.put("h".into(), alice(), Some(90 * SECOND), at(7, 0));
        assert_eq!(known.get("h", at(7, 0)), None, "nobody knows what others did meanwhile");
        assert!(!known.looked(5, now));
        let seen = |is_to_touch| Some(Seen { principal: alice(), is_to_touch });
        assert_eq!(known.get("h", at(7, 0)), seen(false));
        assert_eq!(known.get("h", at(7, 1)), None, "nobody has looked for a second");
        assert!(!known.looked(5, at(7, 61).now));
        assert_eq!(known.get("h", at(7, 61)), seen(true));
        assert_eq!(known.get("h", at(7, 61)), seen(false));
        assert!(!known.looked(5, at(7, 90).now));
        assert_eq!(known.get("h", at(7, 90)), None, "the token has ended");

        assert!(known.looked(6, now), "somebody else has changed something");
        assert_eq!(known.get("h", at(8, 0)), None);
        // It was read before the change that made the store older.
        known.put("h".into(), alice(), None, at(8, 0));
        assert_eq!(known.get("h", at(9, 0)), None);
        known.put("h".into(), alice(), None, at(9, 0));
        known.put("h".into(), alice(), None, at(8, 0));
        assert_eq!(known.get("h", at(9, 0)), seen(false));
    }
}
