//! Questions to BMCs that are under way or just over. An answer takes seconds, so that no request waits for
//! it: one begins the look, another asks what came of it. Nothing of this is in the store.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use haas_api::bmc::ProbeReport;

/// How long a look is known.
const KEPT: Duration = Duration::from_secs(600);
/// Looks of a kind that may be under way at the same time.
const MOST: usize = 32;

/// The looks of one kind: what was looked at, and what was found.
#[derive(Debug)]
pub struct Looks<W, F>(Mutex<HashMap<String, Look<W, F>>>);

/// One of them.
#[derive(Debug, Clone)]
pub struct Look<W, F> {
    began: Instant,
    /// At what.
    pub at: W,
    /// What was found; none while it is under way.
    pub found: Option<F>,
}

/// Looks at what BMCs speak.
pub type Probes = Looks<(), ProbeReport>;

/// Looks at whether the nodes of a set are on. What was found is in the store.
pub type PowerLooks = Looks<String, ()>;

impl<W, F> Default for Looks<W, F> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W: Clone, F: Clone> Looks<W, F> {
    /// The id of a new one; none if too many are under way.
    pub fn begin(&self, at: W, now: Instant) -> Option<String> {
        let mut kept = self.lock();
        kept.retain(|_, look| now.duration_since(look.began) < KEPT);
        if kept.values().filter(|look| look.found.is_none()).count() >= MOST {
            return None;
        }
        let id = ulid::Ulid::new().to_string();
        kept.insert(id.clone(), Look { began: now, at, found: None });
        Some(id)
    }

    /// What came of it.
    pub fn end(&self, id: &str, found: F) {
        if let Some(look) = self.lock().get_mut(id) {
            look.found = Some(found);
        }
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<Look<W, F>> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Look<W, F>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
