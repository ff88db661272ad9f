//! What nodes have and claims hold, in several dimensions, and shares of it.
//!
//! Integers only: the same sums on every machine, so that the same snapshot gives the same plan.

use serde::{Deserialize, Serialize};

use crate::Time;

/// An amount in every dimension. Of a node, of a claim's nodes together, or of a whole cluster; or,
/// where a field says so, that amount times seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vector {
    /// Whole nodes.
    pub nodes: u64,
    /// CPU cores.
    pub cores: u64,
    /// GPUs.
    pub gpus: u64,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Disk for overlays in GiB.
    pub disk_gib: u64,
    /// Network in Gbit/s.
    pub network_gbit: u64,
}

/// A part of the cluster, in billionths.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Share(pub u64);

impl Share {
    /// All of it.
    pub const WHOLE: Share = Share(1_000_000_000);
    /// Nothing.
    pub const NONE: Share = Share(0);

    /// So many hundredths.
    pub fn percent(percent: u32) -> Share {
        Share(u64::from(percent) * 10_000_000)
    }

    /// This part of another part.
    pub(crate) fn of(self, other: Share) -> Share {
        Share((u128::from(self.0) * u128::from(other.0) / u128::from(Share::WHOLE.0)) as u64)
    }
}

impl Vector {
    fn dimensions(self) -> [u64; 6] {
        [self.nodes, self.cores, self.gpus, self.memory_gib, self.disk_gib, self.network_gbit]
    }

    fn each(self, other: Vector, f: impl Fn(u64, u64) -> u64) -> Vector {
        Vector {
            nodes: f(self.nodes, other.nodes),
            cores: f(self.cores, other.cores),
            gpus: f(self.gpus, other.gpus),
            memory_gib: f(self.memory_gib, other.memory_gib),
            disk_gib: f(self.disk_gib, other.disk_gib),
            network_gbit: f(self.network_gbit, other.network_gbit),
        }
    }

    /// Both together.
    pub fn plus(self, other: Vector) -> Vector {
        self.each(other, u64::saturating_add)
    }

    /// What is left without `other`.
    pub fn minus(self, other: Vector) -> Vector {
        self.each(other, u64::saturating_sub)
    }

    /// So many of it.
    pub fn times(self, many: u64) -> Vector {
        self.each(self, |one, _| one.saturating_mul(many))
    }

    /// The largest part of `total` that this is in any dimension.
    pub fn dominant(self, total: Vector) -> Share {
        let part = |(mine, all): (u64, u64)| match all {
            0 => 0,
            all => (u128::from(mine) * u128::from(Share::WHOLE.0) / u128::from(all)) as u64,
        };
        Share(self.dimensions().into_iter().zip(total.dimensions()).map(part).max().unwrap_or(0))
    }

    /// Whether this is at most `share` of `total` in every dimension.
    pub fn is_within(self, share: Share, total: Vector) -> bool {
        let fits = |(mine, all): (u64, u64)| {
            all == 0
                || u128::from(mine) * u128::from(Share::WHOLE.0)
                    <= u128::from(all) * u128::from(share.0)
        };
        self.dimensions().into_iter().zip(total.dimensions()).all(fits)
    }

    /// What remains of past usage after `age` seconds if it halves every `half_life` seconds.
    pub fn decayed(self, age: Time, half_life: Time) -> Vector {
        let age = age.max(0);
        let half_life = half_life.max(1);
        let halvings = (age / half_life).min(63) as u32;
        // Between two halvings the curve is followed by its chord: at most 6 % off, the same everywhere.
        let rest = (age % half_life) as u128;
        let span = half_life as u128;
        self.each(self, |one, _| {
            let left = u128::from(one >> halvings);
            (left * (2 * span - rest) / (2 * span)) as u64
        })
    }
}

/// For how many seconds an amount must have been held to make up all usage that is remembered: the
/// sum of what halves every `half_life` seconds.
pub(crate) fn remembered(half_life: Time) -> u64 {
    // It is half_life / ln 2, and 1000 / ln 2 = 1443.
    ((half_life.max(1) as u64).saturating_mul(1443) / 1000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_dimension_weighs() {
        let total = Vector { nodes: 100, gpus: 8, ..Vector::default() };
        let claim = Vector { nodes: 2, gpus: 4, ..Vector::default() };
        assert_eq!(claim.dominant(total), Share::percent(50));
        assert!(claim.is_within(Share::percent(50), total));
        assert!(!claim.is_within(Share::percent(49), total));
    }

    #[test]
    fn usage_halves_each_half_life() {
        let spent = Vector { nodes: 8000, ..Vector::default() };
        assert_eq!(spent.decayed(0, 100).nodes, 8000);
        assert_eq!(spent.decayed(100, 100).nodes, 4000);
        assert_eq!(spent.decayed(150, 100).nodes, 3000);
        assert_eq!(spent.decayed(100_000, 100).nodes, 0);
    }
}
