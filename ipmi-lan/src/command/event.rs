//! What a sensor's states and a log's entries mean: IPMI 2.0 chapter 42.

use std::fmt;

use ipmi_rs_core::storage::sdr::{SensorType, decode_event};

/// The event type of sensors with thresholds (table 42-1).
pub(super) const THRESHOLD: u8 = 0x01;
/// The event type of sensors whose states are their sensor type's own.
const SENSOR_SPECIFIC: u8 = 0x6F;

/// How bad a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It says nothing bad.
    Ok,
    /// Somebody should look.
    Warning,
    /// Something fails.
    Critical,
}

/// A state that a sensor can have, or the event of coming into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The event or reading type.
    pub event_type: u8,
    /// The sensor's type.
    pub sensor_type: u8,
    /// Which of the states, 0 to 15.
    pub offset: u8,
}

impl State {
    /// How bad it is. The table has what a person would want to be woken for; of what is not in it
    /// nothing is said.
    pub fn severity(&self) -> Severity {
        use Severity::{Critical, Ok, Warning};
        match (self.event_type, self.sensor_type, self.offset) {
            // Lower non-critical; lower critical and non-recoverable; the same above.
            (THRESHOLD, _, 0 | 1 | 6 | 7) => Warning,
            (THRESHOLD, _, 2..=5 | 8..=11) => Critical,
            // Limit exceeded; a failure is foreseen; performance lags.
            (0x04..=0x06, _, 1) => Warning,
            // Severity: to non-critical, to critical, to non-recoverable.
            (0x07, _, 1 | 4) => Warning,
            (0x07, _, 2 | 3 | 5 | 6) => Critical,
            // Redundancy: lost, degraded, non-redundant with and without enough.
            (0x0B, _, 1..=4 | 6 | 7) => Warning,
            (0x0B, _, 5) => Critical,
            // Processor: internal error, thermal trip, self-test, uncorrectable, machine check.
            (SENSOR_SPECIFIC, 0x07, 0 | 1 | 2 | 6 | 11) => Critical,
            // Throttled; a correctable machine check.
            (SENSOR_SPECIFIC, 0x07, 10 | 12) => Warning,
            // Power supply: failure, foreseen, input lost or out of range.
            (SENSOR_SPECIFIC, 0x08, 1 | 3..=5) => Critical,
            (SENSOR_SPECIFIC, 0x08, 2 | 6) => Warning,
            // Memory: correctable; uncorrectable, parity; log limit of correctable; throttled.
            (SENSOR_SPECIFIC, 0x0C, 0 | 5 | 9) => Warning,
            (SENSOR_SPECIFIC, 0x0C, 1 | 2 | 10) => Critical,
            // Drive: fault, foreseen, in a failed or critical array.
            (SENSOR_SPECIFIC, 0x0D, 1 | 6) => Critical,
            (SENSOR_SPECIFIC, 0x0D, 2 | 5) => Warning,
            // The log: full, almost full.
            (SENSOR_SPECIFIC, 0x10, 4 | 5) => Warning,
            // Bus: time-out, check, parity and system error, uncorrectable, fatal.
            (SENSOR_SPECIFIC, 0x13, 1 | 2 | 4 | 5 | 8..=10) => Critical,
            (SENSOR_SPECIFIC, 0x13, 7 | 11) => Warning,
            // Battery: low, failed.
            (SENSOR_SPECIFIC, 0x29, 0) => Warning,
            (SENSOR_SPECIFIC, 0x29, 1) => Critical,
            _ => Ok,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Described(*self).to_string();
        match text.trim() {
            "" => write!(f, "state {} of type {:#04x}", self.offset, self.event_type),
            text => f.write_str(text),
        }
    }
}

struct Described(State);

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { event_type, sensor_type, offset } = self.0;
        decode_event(f, event_type, SensorType::from(sensor_type), offset)
    }
}

/// A sensor type's name, `Temperature`.
pub fn kind(sensor_type: u8) -> String {
    SensorType::from(sensor_type).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(event_type: u8, sensor_type: u8, offset: u8) -> State {
        State { event_type, sensor_type, offset }
    }

    #[test]
    fn what_fails_is_told_from_what_is_only_there() {
        assert_eq!(state(0x6F, 0x08, 0).severity(), Severity::Ok, "a power supply is present");
        assert_eq!(state(0x6F, 0x08, 1).severity(), Severity::Critical, "it has failed");
        assert_eq!(state(0x6F, 0x0C, 0).severity(), Severity::Warning, "a correctable error");
        assert_eq!(state(0x01, 0x01, 9).severity(), Severity::Critical, "upper critical");
        assert_eq!(state(0x01, 0x01, 7).severity(), Severity::Warning, "upper non-critical");
    }

    #[test]
    fn every_state_has_words() {
        for event_type in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0x6F, 0x70, 0x7F] {
            for sensor_type in 0..=0xFF {
                for offset in 0..16 {
                    assert!(!state(event_type, sensor_type, offset).to_string().is_empty());
                }
            }
        }
        let failed = state(0x6F, 0x08, 1).to_string();
        assert!(failed.contains("ailure"), "{failed}");
        assert_eq!(kind(0x01), "Temperature");
    }
}
