//! What tasks are at work on, so that no two are on one: a node, a request that is sent again.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The things that are worked on, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy(Arc<Mutex<HashSet<String>>>);

/// What its holder alone works on. It is free again when this is dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Mine {
    busy: Busy,
    id: String,
}

impl Busy {
    /// Takes one, unless somebody has it.
    pub(crate) fn take(&self, id: &str) -> Option<Mine> {
        let free = self.lock().insert(id.to_owned());
        free.then(|| Mine { busy: self.clone(), id: id.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_free_again_when_its_task_panics() {
        let busy = Busy::default();
        let held = busy.take("n01").expect("nobody has it");
        assert!(busy.take("n01").is_none());
        assert!(busy.take("n02").is_some());
        let panics = std::panic::AssertUnwindSafe(move || {
            let _mine = held;
            panic!("a task fails");
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert!(busy.take("n01").is_some());
    }
}
