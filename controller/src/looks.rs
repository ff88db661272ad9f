//! Questions to BMCs that are under way or just over. An answer takes seconds, so that no request waits for
//! it: one begins the look, another asks what came of it. Nothing of this is in the store.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use haas_api::bmc::ProbeReport;

/// How long a look is known.
const KEPT: Duration = Duration::from_secs(600);
/// Looks of a kind that may be under way at the same time, in all and of one caller.
const MOST: usize = 32;
const MOST_OF_ONE: usize = 4;
/// Looks of a kind that are known; the oldest go first.
const MOST_KEPT: usize = 128;

/// Looks at what BMCs speak.
pub type Probes = Looks<(), ProbeReport>;

/// Looks at whether these nodes, by id, are on. What was found is in the store, or it could not be noted.
pub type PowerLooks = Looks<Arc<[String]>, bool>;

/// The looks of one kind: at what, and what was found.
#[derive(Debug)]
pub struct Looks<W, F>(Mutex<HashMap<String, Look<W, F>>>);

/// One of them.
#[derive(Debug, Clone)]
pub struct Look<W, F> {
    began: Instant,
    /// Whose it is, by id.
    by: String,
    /// At what.
    pub at: W,
    /// What was found; none while it is under way.
    pub found: Option<F>,
}

impl<W, F> Default for Looks<W, F> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W: Clone, F: Clone> Looks<W, F> {
    /// The id of a new one; none if too many are under way.
    pub fn begin(&self, by: &str, at: W, now: Instant) -> Option<String> {
        let mut kept = self.lock();
        kept.retain(|_, look| look.is_known(now));
        let under_way = kept.values().filter(|look| look.found.is_none());
        let own = under_way.clone().filter(|look| look.by == by).count();
        if own >= MOST_OF_ONE || under_way.count() >= MOST {
            return None;
        }
        while kept.len() >= MOST_KEPT {
            let over = kept.iter().filter(|(_, look)| look.found.is_some());
            let oldest = over.min_by_key(|(_, look)| look.began).map(|(id, _)| id.clone());
            kept.remove(&oldest?);
        }
        let id = ulid::Ulid::new().to_string();
        kept.insert(id.clone(), Look { began: now, by: by.to_owned(), at, found: None });
        Some(id)
    }

    /// What came of it.
    pub fn end(&self, id: &str, found: F) {
        if let Some(look) = self.lock().get_mut(id) {
            look.found = Some(found);
        }
    }

    /// One of them.
    pub fn get(&self, id: &str, now: Instant) -> Option<Look<W, F>> {
        self.lock().get(id).filter(|look| look.is_known(now)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Look<W, F>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W, F> Look<W, F> {
    fn is_known(&self, now: Instant) -> bool {
        now.duration_since(self.began) < KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places_and_what_is_over_does_not_heap_up() {
        let (looks, now) = (PowerLooks::default(), Instant::now());
        let begin = |by: &str| looks.begin(by, Arc::default(), now);
        let first = begin("alice").unwrap();
        let more = (0..10).filter_map(|_| begin("alice")).count();
        assert_eq!(more, MOST_OF_ONE - 1);
        assert!(begin("bob").is_some());
        looks.end(&first, true);
        assert!(begin("alice").is_some(), "one of hers is over");
        for number in 1..1_000 {
            let later = now + Duration::from_millis(number);
            let id = looks.begin(&number.to_string(), Arc::default(), later).unwrap();
            looks.end(&id, true);
        }
        assert_eq!(looks.lock().len(), MOST_KEPT);
        assert!(looks.get(&first, now).is_none(), "the oldest went first");
        let last = begin("carol").unwrap();
        assert!(looks.get(&last, now).is_some_and(|look| look.found.is_none()));
        assert!(looks.get(&last, now + KEPT).is_none());
    }
}
