//! How often clients may ask: the nodes that haasd boots have a share that is theirs alone, so that requests
//! under MACs that are nobody's, which anybody on the wire can make up, do not use it up.
//!
//! Who forges a node's own MAC takes that node's share, and no other's.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use haas_api::names::Mac;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    netboot::boot_target::BootTargets,
    rates::{Rate, Rates},
};

/// Requests of one MAC, and not of one address: a whole rack's come from its relay.
const PER_MAC: Rate = Rate::per_second(40, 2);
/// Requests of all nodes; racks that are switched on at once fit into it.
const OF_NODES: Rate = Rate::per_second(20_000, 2000);
/// Requests of all others.
const OF_STRANGERS: Rate = Rate::per_second(2_000, 200);
/// Requests of nodes answered at the same time; more are dropped, and their clients ask again.
const NODES_IN_FLIGHT: usize = 1024;
/// The same for all others.
const STRANGERS_IN_FLIGHT: usize = 64;
/// A MAC that is new in the inventory is a stranger's for as long as this.
const LOOK_EACH: Duration = Duration::from_secs(5);

/// Who may take what.
pub(super) struct Shares {
    nodes: Share,
    strangers: Share,
    /// The boot NICs of managed nodes.
    known: Mutex<HashSet<Mac>>,
}

/// What one kind of clients may take.
pub(super) struct Share {
    rates: Rates<Mac>,
    /// One for each request that is being answered.
    pub(super) slots: Arc<Semaphore>,
}

impl Default for Shares {
    fn default() -> Self {
        let share = |all, slots| Share {
            rates: Rates::new(PER_MAC, all),
            slots: Arc::new(Semaphore::new(slots)),
        };
        Self {
            nodes: share(OF_NODES, NODES_IN_FLIGHT),
            strangers: share(OF_STRANGERS, STRANGERS_IN_FLIGHT),
            known: Mutex::default(),
        }
    }
}

impl Shares {
    /// The share of this MAC, if it may ask now; none: it has to wait.
    pub(super) fn ask(&self, mac: Mac, now: Instant) -> Option<&Share> {
        let is_known = self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&mac);
        let share = if is_known { &self.nodes } else { &self.strangers };
        share.rates.ask(mac, now).ok().map(|()| share)
    }

    /// Looks which MACs are nodes'. Where that cannot be told they stay as they were.
    pub(super) async fn look<T: BootTargets>(&self, targets: &T) {
        if let Some(macs) = targets.boot_macs().await {
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = macs;
        }
    }

    /// Looks again and again, until `stop`.
    pub(super) async fn keep_looking<T: BootTargets>(&self, targets: &T, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EACH) => self.look(targets).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}").parse().unwrap()
    }

    #[test]
    fn made_up_macs_take_nothing_from_nodes() {
        let shares = Shares::default();
        *shares.known.lock().unwrap() = (0..1000).map(mac).collect();
        let now = Instant::now();
        let strangers =
            (1000..60_000).map(mac).filter(|mac| shares.ask(*mac, now).is_some()).count();
        assert_eq!(strangers, 2_000);
        // Each of a rack that is switched on asks some times.
        for _ in 0..10 {
            assert!((0..1000).all(|number| shares.ask(mac(number), now).is_some()));
        }
        let of_one = (0..100).filter(|_| shares.ask(mac(7), now).is_some()).count();
        assert_eq!(of_one, 30, "with the ten before");
        let slot = shares.ask(mac(8), now).unwrap().slots.clone();
        assert_eq!(slot.available_permits(), NODES_IN_FLIGHT);
    }
}
