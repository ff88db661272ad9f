//! How long the stages of a boot may take: as long as is configured, and longer where the node's own
//! last boots came near that. Nothing learned makes a deadline shorter, or more than three times as
//! long.

use haas_api::agent::BootStage;

use super::seconds;
use crate::{
    config::BootLimits,
    model::{BootTimes, Micros},
};

/// What is learned is a node's usual time and half of it again.
const MARGIN: (Micros, Micros) = (3, 2);

/// No deadline is so many times what is configured.
const CEILING: Micros = 3;

/// The time for a stage.
pub(super) fn of_stage(limits: &BootLimits, times: &BootTimes, stage: BootStage) -> Micros {
    let configured = match stage {
        // The firmware may test memory for minutes before it speaks to the network.
        BootStage::Firmware => limits.firmware_s,
        _ => limits.stage_s,
    };
    learned(seconds(configured), times.usual(stage))
}

/// The time for a whole boot.
pub(super) fn of_whole(limits: &BootLimits, times: &BootTimes) -> Micros {
    learned(seconds(limits.total_s.max(limits.firmware_s)), times.usual_whole())
}

fn learned(configured: Micros, usual: Option<Micros>) -> Micros {
    let wanted = usual.map_or(0, |usual| usual.saturating_mul(MARGIN.0) / MARGIN.1);
    wanted.clamp(configured, configured.saturating_mul(CEILING))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SECOND;

    fn boots(firmware_s: i64) -> BootTimes {
        let mut times = BootTimes::default();
        for _ in 0..3 {
            let ready = (firmware_s + 60) * SECOND;
            times.add(&[
                (BootStage::Firmware, 0),
                (BootStage::Dhcp, firmware_s * SECOND),
                (BootStage::Ready, ready),
            ]);
        }
        times
    }

    #[test]
    fn a_node_whose_boots_come_near_the_deadline_gets_more_and_none_gets_less() {
        let limits = BootLimits::default();
        let firmware = |s| of_stage(&limits, &boots(s), BootStage::Firmware) / SECOND;
        assert_eq!(firmware(5), 600, "never less than is configured");
        assert_eq!(firmware(580), 870, "its usual time and half of it again");
        assert_eq!(firmware(90_000), 1_800, "never more than three times as much");
        assert_eq!(of_whole(&limits, &boots(840)) / SECOND, 1_350);
        let none = BootTimes::default();
        assert_eq!(of_stage(&limits, &none, BootStage::Root) / SECOND, 300);
    }
}
