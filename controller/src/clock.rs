//! The two clocks of haasd.
//!
//! [`Clock::now`] is steady: it counts with the machine's CLOCK_BOOTTIME and never jumps, so a
//! deadline is a start plus elapsed time whatever NTP or an admin does to the wall clock. Its offset
//! is kept in the store with the machine's boot id, so that it also goes on across restarts of
//! haasd. [`wall`] is the time that people read, and that agents set their nodes' clocks by.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    model::Micros,
    store::{Result, Store},
};

/// The steady clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    offset: Micros,
    /// What it shows instead, in tests that make months of their own.
    #[cfg(test)]
    made_up: Option<&'static std::sync::atomic::AtomicI64>,
}

impl Clock {
    /// The steady clock of this cluster, and the cluster's id; both are made at the first start.
    pub async fn open(store: &Store) -> Result<(Self, String)> {
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot_id = boot_id.trim();
        let mut tx = store.write().await?;
        let (cluster, offset) = match tx.cluster().await? {
            Some((cluster, known, offset)) if known == boot_id => (cluster, offset),
            // The controller was rebooted: its steady clock goes on from the wall clock, but never
            // back, though the wall clock may have been set or lost meanwhile.
            Some((cluster, _, _)) => {
                (cluster, wall().max(tx.latest_steady().await?) - since_boot())
            }
            None => (ulid::Ulid::new().to_string(), wall() - since_boot()),
        };
        tx.set_cluster(&cluster, boot_id, offset, wall()).await?;
        tx.commit().await?;
        Ok((Self::ahead(offset), cluster))
    }

    /// The steady clock with an offset of nothing, for tests that make their own time.
    pub fn bare() -> Self {
        Self::ahead(0)
    }

    fn ahead(offset: Micros) -> Self {
        Self {
            offset,
            #[cfg(test)]
            made_up: None,
        }
    }

    /// A clock that shows what the test sets.
    #[cfg(test)]
    pub(crate) fn made_up(shows: &'static std::sync::atomic::AtomicI64) -> Self {
        Self { offset: 0, made_up: Some(shows) }
    }

    /// Microseconds on the steady clock.
    pub fn now(&self) -> Micros {
        #[cfg(test)]
        if let Some(shows) = self.made_up {
            return shows.load(std::sync::atomic::Ordering::Relaxed);
        }
        since_boot() + self.offset
    }

    /// The wall clock's time of a moment on the steady clock.
    pub fn to_wall(self, steady: Micros) -> Micros {
        wall() - (self.now() - steady)
    }
}

fn since_boot() -> Micros {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("Linux has CLOCK_BOOTTIME since 2.6.39");
    time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000
}

/// Microseconds since 1970 UTC.
pub fn wall() -> Micros {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(elapsed.as_micros()).unwrap_or(Micros::MAX)
}

/// A wall clock time as the API has it.
pub fn rfc3339(at: Micros) -> String {
    jiff::Timestamp::from_microsecond(at).map(|t| format!("{t:.3}")).unwrap_or_default()
}

/// The wall clock time that a request has (RFC 3339); else what is wrong with it, for who asks.
pub fn moment(text: &str) -> std::result::Result<Micros, String> {
    let at: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("{text:?} is no time; write it as 2026-12-01T08:00:00Z"))?;
    Ok(at.as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[tokio::test]
    async fn a_controller_that_comes_back_in_the_past_goes_on_where_it_was() {
        let bench = Bench::new().await;
        bench.add_nodes([1]).await;
        let node = bench.node(1).await;
        // What was noted before the reboot lies an hour ahead of the clock that came back.
        let noted = wall() + 3_600 * crate::model::SECOND;
        let mut tx = bench.context.store.write().await.unwrap();
        tx.agent_spoke(&node.id, "boot", noted).await.unwrap();
        let (cluster, _, _) = tx.cluster().await.unwrap().expect("the bench has one");
        tx.set_cluster(&cluster, "another boot", 0, 1).await.unwrap();
        tx.commit().await.unwrap();
        let (clock, _) = Clock::open(&bench.context.store).await.unwrap();
        assert!(clock.now() >= noted);
    }
}
