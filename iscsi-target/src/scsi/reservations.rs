//! PERSISTENT RESERVE IN (SPC-4 section 6.16): there are no reservations, since many initiators read
//! one disk and none may keep the others out. Asking is allowed; reserving is no command of ours.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::{Cdb, Outcome, Sense, data, opcodes as op};

/// Generation 0 and an empty list.
const NONE: [u8; 8] = [0; 8];

/// Eight bytes; no capability; the type mask is valid and has no type in it.
const CAPABILITIES: [u8; 8] = [0, 8, 0, 0x80, 0, 0, 0, 0];

/// Answers PERSISTENT RESERVE IN.
pub(super) fn answer(cdb: &Cdb<'_>) -> Result<Outcome, Sense> {
    let bytes = match cdb.action() {
        op::READ_KEYS | op::READ_RESERVATION | op::READ_FULL_STATUS => NONE,
        op::REPORT_CAPABILITIES => CAPABILITIES,
        _ => return Err(Sense::INVALID_FIELD),
    };
    Ok(data(bytes.to_vec(), cdb.length::<2>(7)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_reserved_anything() {
        for action in 0..32 {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1], cdb[8]) = (op::PERSISTENT_RESERVE_IN, action, 255);
            let expected = match action {
                0 | 1 | 3 => Ok(Outcome::Data(vec![0; 8])),
                2 => Ok(Outcome::Data(vec![0, 8, 0, 0x80, 0, 0, 0, 0])),
                _ => Err(Sense::INVALID_FIELD),
            };
            assert_eq!(answer(&Cdb(&cdb)), expected, "service action {action}");
        }
    }
}
