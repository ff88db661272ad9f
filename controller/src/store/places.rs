//! What nodes are told of each other, kept in memory from one change of this process to its next. Another
//! haasd on the same database, which acts until it notices this one, changes hardly anything of it meanwhile.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::NodePlace;

/// All places, as they were read last.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// How often they have changed.
    pub(super) age: Arc<AtomicU64>,
    kept: Arc<Mutex<Kept>>,
}

/// Places and their age.
type Kept = Option<(u64, Arc<[NodePlace]>)>;

/// The same for one transaction that reads.
#[derive(Debug)]
pub(super) struct Seen {
    places: Places,
    /// From before the transaction began: it may see no later change.
    age: u64,
}

impl Places {
    pub(super) fn seen(&self) -> Seen {
        Seen { places: self.clone(), age: self.now() }
    }

    fn now(&self) -> u64 {
        self.age.load(Ordering::Acquire)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// The places, if they are known as they are now.
    pub(super) fn known(&self) -> Option<Arc<[NodePlace]>> {
        let now = self.places.now();
        self.places.kept().as_ref().filter(|(age, _)| *age == now).map(|(_, places)| places.clone())
    }

    /// Keeps what this transaction has read.
    pub(super) fn keep(&self, places: &Arc<[NodePlace]>) {
        let mut kept = self.places.kept();
        if kept.as_ref().is_none_or(|(age, _)| *age < self.age) {
            *kept = Some((self.age, places.clone()));
        }
    }
}
