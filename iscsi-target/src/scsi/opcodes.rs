//! The operation codes that we serve, and REPORT SUPPORTED OPERATION CODES (SPC-4 section 6.35).
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::{Cdb, Outcome, Sense, data};

pub(super) const TEST_UNIT_READY: u8 = 0x00;
pub(super) const REQUEST_SENSE: u8 = 0x03;
pub(super) const READ_6: u8 = 0x08;
pub(super) const INQUIRY: u8 = 0x12;
pub(super) const MODE_SENSE_6: u8 = 0x1a;
pub(super) const START_STOP_UNIT: u8 = 0x1b;
pub(super) const READ_CAPACITY_10: u8 = 0x25;
pub(super) const READ_10: u8 = 0x28;
pub(super) const VERIFY_10: u8 = 0x2f;
pub(super) const PREFETCH_10: u8 = 0x34;
pub(super) const SYNCHRONIZE_CACHE_10: u8 = 0x35;
pub(super) const LOG_SENSE: u8 = 0x4d;
pub(super) const MODE_SENSE_10: u8 = 0x5a;
pub(super) const PERSISTENT_RESERVE_IN: u8 = 0x5e;
pub(super) const READ_16: u8 = 0x88;
pub(super) const VERIFY_16: u8 = 0x8f;
pub(super) const PREFETCH_16: u8 = 0x90;
pub(super) const SYNCHRONIZE_CACHE_16: u8 = 0x91;
pub(super) const SERVICE_ACTION_IN: u8 = 0x9e;
pub(super) const REPORT_LUNS: u8 = 0xa0;
pub(super) const MAINTENANCE_IN: u8 = 0xa3;
pub(super) const READ_12: u8 = 0xa8;
pub(super) const VERIFY_12: u8 = 0xaf;

/// Service actions of SERVICE ACTION IN(16).
pub(super) const READ_CAPACITY_16: u8 = 0x10;
pub(super) const GET_LBA_STATUS: u8 = 0x12;
/// Service actions of PERSISTENT RESERVE IN.
pub(super) const READ_KEYS: u8 = 0x00;
pub(super) const READ_RESERVATION: u8 = 0x01;
pub(super) const REPORT_CAPABILITIES: u8 = 0x02;
pub(super) const READ_FULL_STATUS: u8 = 0x03;
/// Service action of MAINTENANCE IN.
pub(super) const REPORT_SUPPORTED_OPCODES: u8 = 0x0c;

/// Which bits of its descriptor block each command looks at; the first byte is the code itself. Of
/// the commands with a service action, that stands in the second byte.
const SERVED: [&[u8]; 27] = [
    &[TEST_UNIT_READY, 0, 0, 0, 0, 4],
    &[REQUEST_SENSE, 1, 0, 0, 255, 4],
    &[READ_6, 0x1f, 255, 255, 255, 4],
    &[INQUIRY, 1, 255, 255, 255, 4],
    &[MODE_SENSE_6, 8, 255, 255, 255, 4],
    &[START_STOP_UNIT, 1, 0, 0x0f, 0xf7, 4],
    &[READ_CAPACITY_10, 0, 255, 255, 255, 255, 0, 0, 1, 4],
    &[READ_10, 0xf8, 255, 255, 255, 255, 0, 255, 255, 4],
    &[VERIFY_10, 0xf6, 255, 255, 255, 255, 0, 255, 255, 4],
    &[PREFETCH_10, 2, 255, 255, 255, 255, 0, 255, 255, 4],
    &[SYNCHRONIZE_CACHE_10, 2, 255, 255, 255, 255, 0, 255, 255, 4],
    &[LOG_SENSE, 0, 255, 255, 0, 255, 255, 255, 255, 4],
    &[MODE_SENSE_10, 8, 255, 255, 0, 0, 0, 255, 255, 4],
    &[PERSISTENT_RESERVE_IN, READ_KEYS, 0, 0, 0, 0, 0, 255, 255, 4],
    &[PERSISTENT_RESERVE_IN, READ_RESERVATION, 0, 0, 0, 0, 0, 255, 255, 4],
    &[PERSISTENT_RESERVE_IN, REPORT_CAPABILITIES, 0, 0, 0, 0, 0, 255, 255, 4],
    &[PERSISTENT_RESERVE_IN, READ_FULL_STATUS, 0, 0, 0, 0, 0, 255, 255, 4],
    &[READ_16, 0xf8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 4],
    &[VERIFY_16, 0xf6, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 4],
    &[PREFETCH_16, 2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 4],
    &[SYNCHRONIZE_CACHE_16, 2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 4],
    &[SERVICE_ACTION_IN, READ_CAPACITY_16, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 4],
    &[
        SERVICE_ACTION_IN,
        GET_LBA_STATUS,
        255,
        255,
        255,
        255,
        255,
        255,
        255,
        255,
        255,
        255,
        255,
        255,
        0,
        4,
    ],
    &[REPORT_LUNS, 0, 255, 0, 0, 0, 255, 255, 255, 255, 0, 4],
    &[MAINTENANCE_IN, REPORT_SUPPORTED_OPCODES, 0x87, 255, 255, 255, 255, 255, 255, 255, 0, 4],
    &[READ_12, 0xf8, 255, 255, 255, 255, 255, 255, 255, 255, 0, 4],
    &[VERIFY_12, 0xf6, 255, 255, 255, 255, 255, 255, 255, 255, 0, 4],
];

/// Whether a served command is one of several with the same code.
fn service_action(usage: &[u8]) -> Option<u16> {
    match usage {
        [SERVICE_ACTION_IN | MAINTENANCE_IN | PERSISTENT_RESERVE_IN, action, ..] => {
            Some(u16::from(*action))
        }
        _ => None,
    }
}

/// Answers REPORT SUPPORTED OPERATION CODES.
pub(super) fn report(cdb: &Cdb<'_>) -> Result<Outcome, Sense> {
    let with_timeouts = cdb.byte(2) & 0x80 != 0;
    let action = u16::from_be_bytes([cdb.byte(4), cdb.byte(5)]);
    let opcode = cdb.byte(3);
    let bytes = match cdb.byte(2) & 7 {
        0 => all(with_timeouts),
        options @ 1..=3 => one(options, opcode, action, with_timeouts)?,
        _ => return Err(Sense::INVALID_FIELD),
    };
    Ok(data(bytes, cdb.length::<4>(6)))
}

fn all(with_timeouts: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for usage in SERVED {
        let action = service_action(usage);
        let flags = u8::from(with_timeouts) << 1 | u8::from(action.is_some());
        list.extend_from_slice(&[usage.first().copied().unwrap_or(0), 0]);
        list.extend_from_slice(&action.unwrap_or(0).to_be_bytes());
        list.extend_from_slice(&[0, flags]);
        list.extend_from_slice(&u16::try_from(usage.len()).unwrap_or(0).to_be_bytes());
        if with_timeouts {
            list.extend_from_slice(&NO_TIMEOUTS);
        }
    }
    let len = u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&len[..], &list].concat()
}

/// One command; `options` 1 wants a code without, 2 a code with service actions, 3 either.
fn one(options: u8, opcode: u8, action: u16, with_timeouts: bool) -> Result<Vec<u8>, Sense> {
    let mut same_code = SERVED.iter().filter(|usage| usage.first() == Some(&opcode)).peekable();
    let has_actions = same_code.peek().is_some_and(|usage| service_action(usage).is_some());
    if (options == 1 && has_actions) || (options == 2 && same_code.peek().is_some() && !has_actions)
    {
        return Err(Sense::INVALID_FIELD);
    }
    let found = same_code.find(|usage| service_action(usage).unwrap_or(action) == action);
    let Some(usage) = found.or_else(|| {
        // Without service actions the field is ignored.
        SERVED.iter().find(|usage| usage.first() == Some(&opcode) && !has_actions)
    }) else {
        // Support 1: not supported.
        return Ok(vec![0, 1, 0, 0]);
    };
    // Support 3: as the standard has it.
    let mut bytes = vec![0, u8::from(with_timeouts) << 7 | 3];
    bytes.extend_from_slice(&u16::try_from(usage.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(usage);
    if with_timeouts {
        bytes.extend_from_slice(&NO_TIMEOUTS);
    }
    Ok(bytes)
}

/// A timeouts descriptor that promises nothing.
const NO_TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn each_served_command_can_be_asked_for_by_itself() {
        for usage in SERVED {
            let action = service_action(usage);
            let options = if action.is_some() { 2 } else { 1 };
            let bytes = one(options, usage[0], action.unwrap_or(0), false).unwrap();
            assert_eq!(bytes[1], 3, "{usage:x?}");
            assert_eq!(&bytes[4..], usage);
            assert_eq!(one(3 - options, usage[0], 0, false), Err(Sense::INVALID_FIELD));
        }
        assert_eq!(one(1, 0x2a, 0, false), Ok(vec![0, 1, 0, 0]));
    }
}
