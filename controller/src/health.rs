//! Whether haasd works: what `/readyz` tells. Anybody may ask, so nothing of it has a name.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use haas_api::watch::{Lack, Readiness};
use tracing::warn;

use crate::{context::Context, errors::chain};

/// The database must answer in this time.
const DATABASE: Duration = Duration::from_secs(2);

/// The reconciler looks at all nodes every 30 s; one that has not for so long hangs.
const PASS: Duration = Duration::from_secs(120);

/// What the parts of haasd say of themselves.
#[derive(Debug, Default)]
pub struct Health {
    listens: AtomicBool,
    /// When the reconciler looked at all nodes last.
    passed: Mutex<Option<Instant>>,
}

impl Health {
    /// Every port is open.
    pub fn listens(&self) {
        self.listens.store(true, Ordering::Relaxed);
    }

    /// The reconciler has looked at all nodes.
    pub fn passed(&self) {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// None before the first time.
    fn since_pass(&self) -> Option<Duration> {
        let passed = *self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.map(|at| at.elapsed())
    }
}

/// Looks whether anything is lacking.
pub async fn readiness(context: &Context) -> Readiness {
    let mut lacks = Vec::new();
    let mut lack = |part: &str, detail: String| {
        lacks.push(Lack { part: part.to_owned(), detail });
    };
    if let Err(why) = database(context).await {
        lack("database", why);
    }
    if !context.health.listens.load(Ordering::Relaxed) {
        lack("listeners", "haasd starts, and not every port is open yet".to_owned());
    }
    let (unserved, all) = context.exports.unserved();
    if unserved > 0 {
        let detail = format!("{unserved} of {all} images cannot be opened; haasd's log says which");
        lack("images", detail);
    }
    match context.health.since_pass() {
        Some(since) if since < PASS => {}
        Some(since) => {
            lack("reconciler", format!("it has not looked at the nodes for {} s", since.as_secs()));
        }
        None => lack("reconciler", "it has not looked at the nodes yet".to_owned()),
    }
    Readiness { ready: lacks.is_empty(), lacks }
}

/// Whether something can be read.
async fn database(context: &Context) -> Result<(), String> {
    let read = async { context.store.read().await?.last_event().await };
    match tokio::time::timeout(DATABASE, read).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            warn!(error = chain(&error), "the database cannot be read");
            Err("it cannot be read; haasd's log says why".to_owned())
        }
        Err(_) => Err(format!("it has not answered for {} s", DATABASE.as_secs())),
    }
}
