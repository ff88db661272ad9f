//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const INTERVAL: Duration = Duration::from_millis(50);

/// Returns as soon as `condition` holds; after `limit` an error that says what was waited for.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_some(what, limit, || condition().then_some(()))
}

/// Returns the first thing that `look` finds; after `limit` an error that says what was waited for.
pub fn wait_some<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {:.1} s in vain for: {what}", limit.as_secs_f32());
        }
        std::thread::sleep(INTERVAL);
    }
}
