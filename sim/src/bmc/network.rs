//! What the network does to a packet. No I/O, no time: it says when the packet arrives, how often.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::faults::Faults;

/// How much later a packet comes that is overtaken by the next.
const OVERTAKEN: Duration = Duration::from_millis(20);

/// A network, the same again for the same seed.
#[derive(Debug)]
pub struct Network {
    dice: Box<StdRng>,
}

impl Network {
    /// A network.
    pub fn new(seed: u64) -> Self {
        Self { dice: Box::new(StdRng::seed_from_u64(seed)) }
    }

    /// How much later each copy of the next packet arrives. None is left if it is lost.
    pub fn pass(&mut self, faults: &Faults) -> Vec<Duration> {
        if self.is(faults.lost) {
            return Vec::new();
        }
        let copies = if self.is(faults.duplicated) { 2 } else { 1 };
        (0..copies).map(|_| self.delay(faults)).collect()
    }

    /// Another network, for what comes later.
    pub(super) fn split(&mut self) -> Self {
        Self::new(self.dice.random())
    }

    fn delay(&mut self, faults: &Faults) -> Duration {
        let mut delay = Duration::ZERO;
        if self.is(faults.delayed) {
            delay += Duration::from_millis(self.dice.random_range(0..=faults.delay_ms));
        }
        if self.is(faults.reordered) {
            delay += OVERTAKEN;
        }
        delay
    }

    fn is(&mut self, share: f64) -> bool {
        share > 0.0 && self.dice.random_bool(share.min(1.0))
    }
}
