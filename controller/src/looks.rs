//! Looks at BMCs that are under way or just over. A look takes seconds, so that nobody's request waits for
//! it: one begins it, another asks what came of it. Nothing of this is in the store.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use haas_api::bmc::{Probe, ProbeReport};

/// How long a look is known.
const KEPT: Duration = Duration::from_secs(600);
/// Looks that may be under way at the same time.
const MOST: usize = 32;

/// The looks.
#[derive(Debug, Default)]
pub struct Probes(Mutex<HashMap<String, (Instant, Option<ProbeReport>)>>);

impl Probes {
    /// A new one; none if too many are under way.
    pub fn begin(&self, now: Instant) -> Option<Probe> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (began, _)| now.duration_since(*began) < KEPT);
        if kept.values().filter(|(_, report)| report.is_none()).count() >= MOST {
            return None;
        }
        let id = ulid::Ulid::new().to_string();
        kept.insert(id.clone(), (now, None));
        Some(Probe { id, report: None })
    }

    /// What came of it.
    pub fn end(&self, id: &str, report: ProbeReport) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = kept.get_mut(id) {
            *known = Some(report);
        }
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<Probe> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, report) = kept.get(id)?;
        Some(Probe { id: id.to_owned(), report: report.clone() })
    }
}
