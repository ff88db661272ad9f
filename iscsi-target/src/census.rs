//! How many connections each address has, so that one machine cannot take all that a server has to
//! give. Also for servers beside the target.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections each address has.
#[derive(Debug, Default)]
pub struct Census(Mutex<HashMap<IpAddr, usize>>);

/// One counted connection, until it is dropped.
#[derive(Debug)]
pub struct Counted {
    census: Arc<Census>,
    address: IpAddr,
}

impl Census {
    /// Counts a connection of `address`; none where it has `limit` of them already.
    pub fn count(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Counted { census: Arc::clone(self), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.census.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let census = Arc::new(Census::default());
        let address = IpAddr::from([127, 0, 0, 1]);
        let first = census.count(address, 1);
        assert!(first.is_some());
        assert!(census.count(address, 1).is_none());
        assert!(census.count(IpAddr::from([127, 0, 0, 2]), 1).is_some());
        drop(first);
        assert!(census.0.lock().unwrap().is_empty());
        assert!(census.count(address, 1).is_some());
    }
}
