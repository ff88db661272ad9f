//! Which address a node gets: pure data and functions of `now`, no clock and no I/O.
//!
//! An address from the inventory is the node's own and is never questioned here. A node without one
//! gets an address of its network's pool, always the same: it is derived from the MAC, remembered,
//! and given to somebody else only when the pool is full and the lease has run out. An address that
//! a client declined (RFC 2131 section 3.1, step 5) is left alone for a while.
//!
//! The store keeps [`Lease`]s: [`Leases::load`] at start, [`Leases::take_changed`] after changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use haas_api::names::Mac;
use sha2::{Digest as _, Sha256};

/// Microseconds since 1970 UTC, passed in.
pub type Micros = i64;

/// How long a declined address is left alone: 10 minutes.
pub const DECLINED_US: Micros = 600_000_000;

/// How long an offer that nobody took blocks its address for others: 2 minutes.
pub const OFFERED_US: Micros = 120_000_000;

/// A pool address and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The network's name.
    pub network: String,
    /// Whose it is.
    pub mac: Mac,
    /// The address.
    pub address: Ipv4Addr,
    /// Until when nobody else may have it.
    pub until: Micros,
}

/// What happened to an address on the wire; netboot reports it through the seam.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The server acknowledged it.
    Bound {
        /// The network's name.
        network: String,
        /// The client.
        mac: Mac,
        /// The address, from the pool or the inventory.
        address: Ipv4Addr,
        /// For how long.
        seconds: u32,
    },
    /// The client gave it back.
    Released {
        /// The network's name.
        network: String,
        /// The client.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
    /// The client found that somebody else uses it. For an address from the inventory a person must
    /// look: two machines have one address.
    Declined {
        /// The network's name.
        network: String,
        /// The client.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
}

/// No address is free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "network {network} has no free address in its pool {first}-{last}; make the pool larger or give the node an address in nodes.toml"
)]
pub struct PoolFull {
    /// The network.
    pub network: String,
    /// The pool's first address.
    pub first: Ipv4Addr,
    /// Its last.
    pub last: Ipv4Addr,
}

/// All pool leases of this controller.
#[derive(Debug, Default)]
pub struct Leases {
    by_client: HashMap<(String, Mac), Lease>,
    by_address: BTreeMap<(String, Ipv4Addr), Mac>,
    declined: BTreeMap<(String, Ipv4Addr), Micros>,
    changed: BTreeSet<(String, Mac)>,
}

impl Leases {
    /// The leases that the store holds.
    pub fn load(leases: impl IntoIterator<Item = Lease>) -> Self {
        let mut all = Self::default();
        for lease in leases {
            all.put(lease);
        }
        all.changed.clear();
        all
    }

    /// The address for `mac` from the pool `first` to `last`, never one of `reserved` (the
    /// inventory's own addresses, the controller's and the gateway's). Remembers it as offered.
    pub fn choose(
        &mut self,
        network: &str,
        (first, last): (Ipv4Addr, Ipv4Addr),
        mac: Mac,
        reserved: &BTreeSet<Ipv4Addr>,
        now: Micros,
    ) -> Result<Ipv4Addr, PoolFull> {
        self.declined.retain(|_, until| *until > now);
        let client = (network.to_owned(), mac);
        if let Some(lease) = self.by_client.get(&client) {
            let address = lease.address;
            let usable = (first..=last).contains(&address)
                && !reserved.contains(&address)
                && !self.declined.contains_key(&(network.to_owned(), address));
            if usable {
                return Ok(address);
            }
            self.forget(&client);
        }
        let address = self
            .free_address(network, (first, last), mac, reserved, now)
            .ok_or(PoolFull { network: network.to_owned(), first, last })?;
        if let Some(former) = self.by_address.get(&(network.to_owned(), address)).copied() {
            self.forget(&(network.to_owned(), former));
        }
        self.put(Lease { network: network.to_owned(), mac, address, until: now + OFFERED_US });
        Ok(address)
    }

    /// Takes note of what happened on the wire. Events about addresses that are not leases (the
    /// inventory's) and about other clients' leases change nothing.
    pub fn note(&mut self, event: &LeaseEvent, now: Micros) {
        match event {
            LeaseEvent::Bound { network, mac, address, seconds } => {
                let client = (network.clone(), *mac);
                if let Some(lease) = self.by_client.get_mut(&client)
                    && lease.address == *address
                {
                    lease.until = now + Micros::from(*seconds) * 1_000_000;
                    self.changed.insert(client);
                }
            }
            LeaseEvent::Released { network, mac, address } => {
                // The address stays the node's while the pool has others: a node that comes back
                // finds its old one.
                let client = (network.clone(), *mac);
                if let Some(lease) = self.by_client.get_mut(&client)
                    && lease.address == *address
                {
                    lease.until = now;
                    self.changed.insert(client);
                }
            }
            LeaseEvent::Declined { network, mac, address } => {
                let client = (network.clone(), *mac);
                if self.by_client.get(&client).is_some_and(|lease| lease.address == *address) {
                    self.forget(&client);
                    self.declined.insert((network.clone(), *address), now + DECLINED_US);
                }
            }
        }
    }

    /// The leases that changed since the last call: what to write, and (`None`) what to delete.
    pub fn take_changed(&mut self) -> Vec<((String, Mac), Option<Lease>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|c| (c.clone(), self.by_client.get(&c).cloned())).collect()
    }

    /// The first free address counted from the client's own place in the pool; failing that, the
    /// one whose lease ran out longest ago.
    fn free_address(
        &self,
        network: &str,
        (first, last): (Ipv4Addr, Ipv4Addr),
        mac: Mac,
        reserved: &BTreeSet<Ipv4Addr>,
        now: Micros,
    ) -> Option<Ipv4Addr> {
        let size = u64::from(u32::from(last).checked_sub(u32::from(first))?) + 1;
        let start = place(mac) % size;
        let candidates = (0..size)
            .filter_map(|i| u32::try_from((start + i) % size).ok())
            .map(|offset| Ipv4Addr::from(u32::from(first) + offset))
            .filter(|a| !reserved.contains(a))
            .filter(|a| !self.declined.contains_key(&(network.to_owned(), *a)));
        let mut oldest: Option<(Micros, Ipv4Addr)> = None;
        for address in candidates {
            let Some(holder) = self.by_address.get(&(network.to_owned(), address)) else {
                return Some(address);
            };
            let until = self.by_client[&(network.to_owned(), *holder)].until;
            if until <= now && oldest.is_none_or(|(other, _)| until < other) {
                oldest = Some((until, address));
            }
        }
        oldest.map(|(_, address)| address)
    }

    fn put(&mut self, lease: Lease) {
        let client = (lease.network.clone(), lease.mac);
        self.forget(&client);
        self.by_address.insert((lease.network.clone(), lease.address), lease.mac);
        self.changed.insert(client.clone());
        self.by_client.insert(client, lease);
    }

    fn forget(&mut self, client: &(String, Mac)) {
        if let Some(lease) = self.by_client.remove(client) {
            self.by_address.remove(&(lease.network, lease.address));
            self.changed.insert(client.clone());
        }
    }
}

/// Where in a pool a MAC begins to look: spread evenly, and the same on every controller.
fn place(mac: Mac) -> u64 {
    let digest: [u8; 32] = Sha256::digest(mac.0).into();
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 0, 0, 10), Ipv4Addr::new(10, 0, 0, 13));

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn choose(leases: &mut Leases, n: u8, now: Micros) -> Result<Ipv4Addr, PoolFull> {
        leases.choose("lab", POOL, mac(n), &BTreeSet::new(), now)
    }

    fn bound(n: u8, address: Ipv4Addr) -> LeaseEvent {
        LeaseEvent::Bound { network: "lab".into(), mac: mac(n), address, seconds: 600 }
    }

    #[test]
    fn a_node_keeps_its_address_also_across_a_restart_and_an_expiry() {
        let mut leases = Leases::default();
        let first = choose(&mut leases, 1, 0).unwrap();
        leases.note(&bound(1, first), 0);
        let saved: Vec<_> = leases.take_changed().into_iter().filter_map(|(_, l)| l).collect();
        assert_eq!(saved.len(), 1);
        assert_eq!(saved[0].until, 600_000_000);
        let mut leases = Leases::load(saved);
        assert!(leases.take_changed().is_empty());
        assert_eq!(choose(&mut leases, 1, i64::MAX / 2), Ok(first));
    }

    #[test]
    fn no_two_nodes_share_an_address_and_a_full_pool_says_so() {
        let mut leases = Leases::default();
        let mut seen = BTreeSet::new();
        for n in 0..4 {
            let address = choose(&mut leases, n, 0).unwrap();
            leases.note(&bound(n, address), 0);
            assert!(seen.insert(address) && (POOL.0..=POOL.1).contains(&address));
        }
        let error = choose(&mut leases, 9, 0).unwrap_err().to_string();
        assert!(error.contains("lab") && error.contains("10.0.0.10-10.0.0.13"), "{error}");
        // One lease runs out first: that one is given on, and its former holder finds it gone.
        let two = leases.by_client[&("lab".into(), mac(2))].address;
        leases.note(&LeaseEvent::Released { network: "lab".into(), mac: mac(2), address: two }, 1);
        assert_eq!(choose(&mut leases, 9, 2), Ok(two));
        leases.note(&bound(9, two), 2);
        assert!(choose(&mut leases, 2, 3).is_err());
    }

    #[test]
    fn a_declined_address_is_left_alone_for_a_while_and_only_its_holder_can_decline_it() {
        let mut leases = Leases::default();
        let first = choose(&mut leases, 1, 0).unwrap();
        let decline =
            |n| LeaseEvent::Declined { network: "lab".into(), mac: mac(n), address: first };
        leases.note(&decline(2), 0);
        assert_eq!(choose(&mut leases, 1, 0), Ok(first));
        leases.note(&decline(1), 0);
        for n in 1..4 {
            assert_ne!(choose(&mut leases, n, 1), Ok(first));
        }
        assert!(choose(&mut leases, 4, 1).is_err());
        assert_eq!(choose(&mut leases, 4, DECLINED_US + 1), Ok(first));
    }

    #[test]
    fn reserved_addresses_are_never_given_out_of_the_pool() {
        let mut leases = Leases::default();
        let reserved: BTreeSet<_> = (10..13).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
        let only = leases.choose("lab", POOL, mac(1), &reserved, 0);
        assert_eq!(only, Ok(Ipv4Addr::new(10, 0, 0, 13)));
        assert!(leases.choose("lab", POOL, mac(2), &reserved, 0).is_err());
        // An address that the inventory takes for a node later is given up.
        let reserved = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 13)]);
        assert_ne!(leases.choose("lab", POOL, mac(1), &reserved, 0), only);
    }
}
