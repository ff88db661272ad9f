//! What a command descriptor block asks of the disk (SPC-4, SBC-3), decided without any I/O.
//!
//! The disk is write-protected media: every command that would change it ends in DATA PROTECT.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod inquiry;
mod log;
mod mode;
mod opcodes;
mod provisioning;
mod reservations;
mod sense;
mod writes;

pub(crate) use provisioning::StatusQuery;
pub(crate) use sense::{Sense, status};

use crate::lun::{BLOCK, Lun};
use opcodes as op;

/// A command descriptor block; shorter ones are padded with zeros.
pub(crate) struct Cdb<'a>(pub(crate) &'a [u8; 16]);

/// What a command comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Status GOOD, no data.
    Good,
    /// These bytes, already cut to the allocation length.
    Data(Vec<u8>),
    /// These blocks of the disk.
    Read(Extent),
    /// These blocks will be read soon.
    Prefetch(Extent),
    /// These blocks must be readable.
    Verify(Extent),
    /// The initiator sends bytes to be compared with these blocks.
    Compare(Extent),
    /// Which blocks the disk has and which are holes.
    Status(StatusQuery),
    /// CHECK CONDITION.
    Check(Sense),
}

/// Blocks that lie within the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) lba: u64,
    pub(crate) blocks: u64,
}

impl Extent {
    /// Where it begins, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.lba * BLOCK
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.blocks * BLOCK
    }
}

impl Cdb<'_> {
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn be<const N: usize>(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..at + N).unwrap_or_default();
        bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// The service action, of the commands that have one in their second byte.
    fn action(&self) -> u8 {
        self.byte(1) & 0x1f
    }

    fn length<const N: usize>(&self, at: usize) -> usize {
        usize::try_from(self.be::<N>(at)).unwrap_or(usize::MAX)
    }

    /// The control byte asks for auto contingent allegiance, which we do not have.
    fn wants_aca(&self) -> bool {
        let control = match self.byte(0) >> 5 {
            0 => 5,
            1 | 2 => 9,
            4 => 15,
            5 => 11,
            _ => return false,
        };
        self.byte(control) & 0x04 != 0
    }
}

/// Decides about one command to the logical unit `unit` (as in the PDU).
pub(crate) fn execute(cdb: &Cdb<'_>, unit: u64, lun: &Lun) -> Outcome {
    decide(cdb, unit, lun).unwrap_or_else(Outcome::Check)
}

fn decide(cdb: &Cdb<'_>, unit: u64, lun: &Lun) -> Result<Outcome, Sense> {
    let opcode = cdb.byte(0);
    if cdb.wants_aca() {
        return Err(Sense::INVALID_FIELD);
    }
    // These three are answered for any unit, since they are how a unit is found.
    match opcode {
        op::INQUIRY => return inquiry::answer(cdb, unit == 0, lun),
        op::REPORT_LUNS => return report_luns(cdb),
        op::REQUEST_SENSE => return Ok(request_sense(cdb, unit == 0)),
        _ if unit != 0 => return Err(Sense::NO_SUCH_UNIT),
        _ => {}
    }
    match opcode {
        op::TEST_UNIT_READY | op::START_STOP_UNIT => Ok(Outcome::Good),
        op::READ_6 => read(lun, cdb.be::<3>(1) & 0x1f_ffff, sixth(cdb)),
        op::READ_10 => {
            no_protection(cdb)?;
            read(lun, cdb.be::<4>(2), cdb.be::<2>(7))
        }
        op::READ_12 => {
            no_protection(cdb)?;
            read(lun, cdb.be::<4>(2), cdb.be::<4>(6))
        }
        op::READ_16 => {
            no_protection(cdb)?;
            read(lun, cdb.be::<8>(2), cdb.be::<4>(10))
        }
        op::VERIFY_10 => verify(cdb, lun, cdb.be::<4>(2), cdb.be::<2>(7)),
        op::VERIFY_12 => verify(cdb, lun, cdb.be::<4>(2), cdb.be::<4>(6)),
        op::VERIFY_16 => verify(cdb, lun, cdb.be::<8>(2), cdb.be::<4>(10)),
        op::PREFETCH_10 => Ok(Outcome::Prefetch(to_end(lun, cdb.be::<4>(2), cdb.be::<2>(7))?)),
        op::PREFETCH_16 => Ok(Outcome::Prefetch(to_end(lun, cdb.be::<8>(2), cdb.be::<4>(10))?)),
        op::SYNCHRONIZE_CACHE_10 => {
            to_end(lun, cdb.be::<4>(2), cdb.be::<2>(7)).map(|_| Outcome::Good)
        }
        op::SYNCHRONIZE_CACHE_16 => {
            to_end(lun, cdb.be::<8>(2), cdb.be::<4>(10)).map(|_| Outcome::Good)
        }
        op::READ_CAPACITY_10 => read_capacity_10(cdb, lun),
        op::SERVICE_ACTION_IN if cdb.action() == op::READ_CAPACITY_16 => {
            Ok(read_capacity_16(cdb, lun))
        }
        op::SERVICE_ACTION_IN if cdb.action() == op::GET_LBA_STATUS => {
            provisioning::get_lba_status(cdb, lun)
        }
        op::MODE_SENSE_6 | op::MODE_SENSE_10 => mode::sense(cdb, lun),
        op::LOG_SENSE => log::sense(cdb),
        op::PERSISTENT_RESERVE_IN => reservations::answer(cdb),
        op::MAINTENANCE_IN if cdb.action() == op::REPORT_SUPPORTED_OPCODES => opcodes::report(cdb),
        op::SERVICE_ACTION_IN | op::MAINTENANCE_IN => Err(Sense::INVALID_FIELD),
        _ => Err(writes::refusal(cdb, lun).unwrap_or(Sense::INVALID_OPCODE)),
    }
}

/// Cuts an answer to what the initiator has room for.
fn data(mut bytes: Vec<u8>, allocated: usize) -> Outcome {
    bytes.truncate(allocated);
    Outcome::Data(bytes)
}

/// READ(6)'s transfer length, where 0 stands for 256.
fn sixth(cdb: &Cdb<'_>) -> u64 {
    match cdb.byte(4) {
        0 => 256,
        blocks => u64::from(blocks),
    }
}

/// We keep no protection information, so none may be asked for.
fn no_protection(cdb: &Cdb<'_>) -> Result<(), Sense> {
    if cdb.byte(1) & 0xe0 == 0 { Ok(()) } else { Err(Sense::INVALID_FIELD) }
}

/// The extent, if it lies within the disk.
fn within(lun: &Lun, lba: u64, blocks: u64) -> Result<Extent, Sense> {
    match lba.checked_add(blocks) {
        Some(end) if end <= lun.blocks() && lba < lun.blocks() => Ok(Extent { lba, blocks }),
        // Nothing at the very end is no error by SBC-3, but initiators expect one.
        _ => Err(Sense::OUT_OF_RANGE),
    }
}

/// The same, where a length of 0 reaches to the end of the disk.
fn to_end(lun: &Lun, lba: u64, blocks: u64) -> Result<Extent, Sense> {
    match blocks {
        0 => within(lun, lba, lun.blocks().saturating_sub(lba)),
        _ => within(lun, lba, blocks),
    }
}

fn read(lun: &Lun, lba: u64, blocks: u64) -> Result<Outcome, Sense> {
    Ok(Outcome::Read(within(lun, lba, blocks)?))
}

fn verify(cdb: &Cdb<'_>, lun: &Lun, lba: u64, blocks: u64) -> Result<Outcome, Sense> {
    no_protection(cdb)?;
    let extent = within(lun, lba, blocks)?;
    match cdb.byte(1) >> 1 & 3 {
        0 => Ok(Outcome::Verify(extent)),
        1 => Ok(Outcome::Compare(extent)),
        // 2 is reserved; 3, the same block everywhere, is optional.
        _ => Err(Sense::INVALID_FIELD),
    }
}

fn read_capacity_10(cdb: &Cdb<'_>, lun: &Lun) -> Result<Outcome, Sense> {
    let partial = cdb.byte(8) & 1 != 0;
    if !partial && cdb.be::<4>(2) != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let last = u32::try_from(lun.blocks() - 1).unwrap_or(u32::MAX);
    Ok(Outcome::Data([last.to_be_bytes(), [0, 0, 2, 0]].concat()))
}

fn read_capacity_16(cdb: &Cdb<'_>, lun: &Lun) -> Outcome {
    let mut bytes = (lun.blocks() - 1).to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0, 0, 2, 0]);
    // No protection; 8 logical blocks make a physical one, as in the page cache that we read from.
    bytes.extend_from_slice(&[0, 3]);
    // LBPME and LBPRZ: blocks may be unmapped, and those read as zeros.
    bytes.push(if lun.is_thin() { 0xc0 } else { 0 });
    bytes.resize(32, 0);
    data(bytes, cdb.length::<4>(10))
}

fn report_luns(cdb: &Cdb<'_>) -> Result<Outcome, Sense> {
    let units = match cdb.byte(2) {
        0 | 2 => vec![[0_u8; 8]],
        // Well-known units: none.
        1 => Vec::new(),
        _ => return Err(Sense::INVALID_FIELD),
    };
    let mut bytes = if units.is_empty() { vec![0, 0, 0, 0] } else { vec![0, 0, 0, 8] };
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend(units.concat());
    Ok(data(bytes, cdb.length::<4>(6)))
}

/// Nothing is ever pending, since each CHECK CONDITION carries its sense data.
fn request_sense(cdb: &Cdb<'_>, known: bool) -> Outcome {
    let sense = if known { Sense::NONE } else { Sense::NO_SUCH_UNIT };
    let bytes =
        if cdb.byte(1) & 1 != 0 { sense.descriptor().to_vec() } else { sense.fixed().to_vec() };
    data(bytes, usize::from(cdb.byte(4)))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::lun::LunIdentity;

    const BLOCKS: u64 = 2048;

    fn disk() -> Lun {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![0; 512 * 2048]).unwrap();
        Lun::open(file.path(), LunIdentity::from_sha256(&[0xab; 32])).unwrap()
    }

    fn run(bytes: &[u8]) -> Outcome {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        execute(&Cdb(&cdb), 0, &disk())
    }

    fn read_16(lba: u64, blocks: u32) -> Outcome {
        run(&[&[0x88, 0][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0, 0]].concat())
    }

    #[test]
    fn reads_stay_within_the_disk() {
        assert_eq!(read_16(0, 2048), Outcome::Read(Extent { lba: 0, blocks: BLOCKS }));
        for (lba, blocks) in [(u64::MAX, 1), (u64::MAX, u32::MAX), (BLOCKS, 1), (1, 2048)] {
            assert_eq!(read_16(lba, blocks), Outcome::Check(Sense::OUT_OF_RANGE), "{lba}");
        }
        assert_eq!(run(&[0x08, 0, 0, 9]), Outcome::Read(Extent { lba: 9, blocks: 256 }));
    }

    #[test]
    fn nothing_can_be_written() {
        for cdb in [
            &[0x0a][..],
            &[0x2a],
            &[0xaa],
            &[0x8a],
            &[0x2e],
            &[0xae],
            &[0x8e],
            &[0x41],
            &[0x93],
            &[0x42],
            &[0x04],
            &[0x89],
            &[0x8b],
            &[0x9c],
            &[0x48, 3],
            &[0x7f, 0, 0, 0, 0, 0, 0, 24, 0, 0x0b],
        ] {
            assert_eq!(run(cdb), Outcome::Check(Sense::WRITE_PROTECTED), "{cdb:x?}");
        }
        assert_eq!(run(&[0xc1]), Outcome::Check(Sense::INVALID_OPCODE));
    }

    #[test]
    fn the_disk_says_that_it_is_write_protected() {
        let Outcome::Data(bytes) = run(&[0x1a, 0, 0x3f, 0, 255]) else { panic!("no data") };
        assert_eq!(bytes[2] & 0x80, 0x80);
        assert_eq!(usize::from(bytes[0]) + 1, bytes.len());
    }

    #[test]
    fn no_command_can_break_it() {
        for opcode in 0..=255 {
            for fill in [0, 0x01, 0x7f, 0xff] {
                let mut cdb = [fill; 16];
                cdb[0] = opcode;
                for unit in [0, 1, u64::MAX] {
                    let _ = execute(&Cdb(&cdb), unit, &disk());
                }
            }
        }
    }
}
