//! How long each stage of a node's last boots took.

use std::collections::{BTreeMap, VecDeque};

use haas_api::agent::BootStage;
use serde::{Deserialize, Serialize};

use super::Micros;

/// So many boots are remembered.
const BOOTS: usize = 20;

/// From fewer boots than this nothing is learned.
const ENOUGH: usize = 3;

/// The times of the last boots that came to their end, stage by stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimes {
    stages: BTreeMap<BootStage, VecDeque<Micros>>,
    #[serde(default)]
    whole: VecDeque<Micros>,
}

impl BootTimes {
    /// Adds a boot: its stages with their beginnings, of which the last is `Ready`.
    pub fn add(&mut self, stages: &[(BootStage, Micros)]) {
        for pair in stages.windows(2) {
            let [(stage, since), (_, until)] = pair else { continue };
            keep(self.stages.entry(*stage).or_default(), until - since);
        }
        if let (Some((_, from)), Some((_, until))) = (stages.first(), stages.last()) {
            keep(&mut self.whole, until - from);
        }
    }

    /// The time within which all but the slowest of the last boots have left this stage; none where
    /// too few are known.
    pub fn usual(&self, stage: BootStage) -> Option<Micros> {
        self.stages.get(&stage).and_then(quantile)
    }

    /// The same of whole boots.
    pub fn usual_whole(&self) -> Option<Micros> {
        quantile(&self.whole)
    }
}

fn keep(times: &mut VecDeque<Micros>, time: Micros) {
    times.push_back(time.max(0));
    while times.len() > BOOTS {
        times.pop_front();
    }
}

/// The 95th percentile by the nearest rank, of at most twenty the last but one.
fn quantile(times: &VecDeque<Micros>) -> Option<Micros> {
    if times.len() < ENOUGH {
        return None;
    }
    let mut sorted: Vec<_> = times.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get((sorted.len() * 95).div_ceil(100) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(firmware: Micros) -> [(BootStage, Micros); 3] {
        [(BootStage::Firmware, 100), (BootStage::Dhcp, 100 + firmware), (BootStage::Ready, 900)]
    }

    #[test]
    fn the_slowest_of_twenty_boots_does_not_count_and_older_ones_are_forgotten() {
        let mut times = BootTimes::default();
        times.add(&boot(1));
        times.add(&boot(2));
        assert_eq!(times.usual(BootStage::Firmware), None, "two boots teach nothing");
        times.add(&boot(3));
        assert_eq!(times.usual(BootStage::Firmware), Some(3));
        for firmware in 101..=120 {
            times.add(&boot(firmware));
        }
        assert_eq!(times.usual(BootStage::Firmware), Some(119));
        assert_eq!(times.usual_whole(), Some(800));
        assert_eq!(times.usual(BootStage::Root), None);
    }
}
