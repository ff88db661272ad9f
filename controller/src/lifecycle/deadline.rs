//! How long the stages of a boot may take: as long as is configured, and longer where the node's own
//! last boots came near that. Nothing learned makes a deadline shorter, or more than three times as
//! long. And what it means that one has passed.

use haas_api::agent::{BootStage, Failure};

use super::{kexec, seconds};
use crate::{
    config::BootLimits,
    model::{Attempt, BootTimes, Micros, Node, SECOND},
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

/// The failure of an attempt whose stage has used up its time.
pub(super) fn passed(node: &Node, attempt: &Attempt, now: Micros) -> Failure {
    let took = (now - attempt.stage_since) / SECOND;
    let usual = node.boot_times.usual(attempt.stage);
    if let Some(held) = &attempt.failure {
        return Failure { retryable: false, ..held.clone() };
    }
    if attempt.kexec_of.is_some() && attempt.stage < BootStage::Agent {
        let cause =
            format!("its kernel was started {took} s ago without firmware, and no agent called");
        return Failure::new(attempt.stage, kexec::LOST, cause);
    }
    let (code, cause) = match attempt.stage {
        BootStage::Power | BootStage::Firmware => (
            "no-network-boot",
            format!(
                "{} was switched on {took} s ago and has not asked the network for anything: it may \
                 have booted its own disk, hang in its firmware, or have another NIC first",
                node.name
            ),
        ),
        BootStage::Dhcp => (
            "no-script",
            "it got an address and did not fetch its iPXE script; look at its console".to_owned(),
        ),
        BootStage::Script => {
            ("no-kernel", "it got its script and did not fetch kernel and initramfs".to_owned())
        }
        BootStage::Kernel => (
            "no-agent",
            "kernel and initramfs were sent and no agent called; look at its console".to_owned(),
        ),
        BootStage::Agent => ("no-root", "its agent has not reached the image".to_owned()),
        BootStage::Root => ("no-overlay", "its agent has not mounted the overlay".to_owned()),
        BootStage::Overlay => ("no-userspace", "the image's own init has not come up".to_owned()),
        BootStage::Userspace | BootStage::Ready => {
            ("no-proof", "its agent has not proved what runs".to_owned())
        }
    };
    let usual = match usual {
        Some(usual) => format!("; its boots usually need {} s for it", usual / SECOND),
        None => String::new(),
    };
    let cause = format!("after {took} s in stage '{}'{usual}: {cause}", attempt.stage);
    Failure::new(attempt.stage, code, cause)
}

fn learned(configured: Micros, usual: Option<Micros>) -> Micros {
    let wanted = usual.map_or(0, |usual| usual.saturating_mul(MARGIN.0) / MARGIN.1);
    wanted.clamp(configured, configured.saturating_mul(CEILING))
}

#[cfg(test)]
mod tests {
    use super::*;

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
