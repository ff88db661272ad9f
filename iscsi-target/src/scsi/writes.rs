//! Commands that would change the disk. None of them does.
//!
//! As on a disk with its write protection switched on, a command is looked at before the medium is:
//! one that makes no sense (beyond the end, or with protection information that we do not keep) is
//! an ILLEGAL REQUEST, and all others end in DATA PROTECT.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::{Cdb, Sense, no_protection, within};
use crate::lun::Lun;

/// Where a command says what it would write: address and number of blocks.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Address of 4 bytes, 2 for the number.
    Ten,
    /// Address of 4 bytes, 4 for the number.
    Twelve,
    /// Address of 8 bytes, 4 for the number.
    Sixteen,
    /// Address of 8 bytes, and the number alone in byte 13 (COMPARE AND WRITE).
    Compare,
    /// Address of 8 bytes, and the number in bytes 12 and 13 (WRITE ATOMIC).
    Atomic,
    /// Nothing of the kind, or nothing that we look at.
    Other,
}

/// By operation code.
const WRITES: [(u8, Shape); 25] = [
    (0x04, Shape::Other),   // FORMAT UNIT
    (0x07, Shape::Other),   // REASSIGN BLOCKS
    (0x0a, Shape::Other),   // WRITE(6)
    (0x2a, Shape::Ten),     // WRITE(10)
    (0xaa, Shape::Twelve),  // WRITE(12)
    (0x8a, Shape::Sixteen), // WRITE(16)
    (0x2e, Shape::Ten),     // WRITE AND VERIFY(10)
    (0xae, Shape::Twelve),  // WRITE AND VERIFY(12)
    (0x8e, Shape::Sixteen), // WRITE AND VERIFY(16)
    (0x3f, Shape::Other),   // WRITE LONG(10)
    (0x41, Shape::Ten),     // WRITE SAME(10)
    (0x93, Shape::Sixteen), // WRITE SAME(16)
    (0x42, Shape::Other),   // UNMAP
    (0x48, Shape::Other),   // SANITIZE
    (0x50, Shape::Other),   // XDWRITE(10)
    (0x51, Shape::Other),   // XPWRITE(10)
    (0x52, Shape::Other),   // XDREAD(10)
    (0x53, Shape::Other),   // XDWRITEREAD(10)
    (0x80, Shape::Other),   // XDWRITE EXTENDED
    (0x86, Shape::Other),   // third-party writes of old
    (0x89, Shape::Compare), // COMPARE AND WRITE
    (0x8b, Shape::Sixteen), // ORWRITE(16)
    (0x9a, Shape::Other),   // WRITE STREAM(16)
    (0x9c, Shape::Atomic),  // WRITE ATOMIC(16)
    (0x9f, Shape::Other),   // SERVICE ACTION OUT(16): WRITE LONG(16) and its like
];

/// Variable-length commands, by service action: XDWRITE, WRITE, WRITE AND VERIFY, WRITE SAME,
/// XDWRITEREAD and ORWRITE (32).
const LONG_WRITES: [u16; 6] = [0x0004, 0x000b, 0x000c, 0x000d, 0x0007, 0x000e];

/// Why a command that would write is refused; `None` when it is no such command.
pub(super) fn refusal(cdb: &Cdb<'_>, lun: &Lun) -> Option<Sense> {
    let action = u16::from_be_bytes([cdb.byte(8), cdb.byte(9)]);
    let shape = match cdb.byte(0) {
        0x7f if LONG_WRITES.contains(&action) => Shape::Other,
        opcode => WRITES.iter().find(|(code, _)| *code == opcode)?.1,
    };
    Some(looked_at(cdb, shape, lun).err().unwrap_or(Sense::WRITE_PROTECTED))
}

/// Whether the command would make sense on a disk of this size that can be written.
fn looked_at(cdb: &Cdb<'_>, shape: Shape, lun: &Lun) -> Result<(), Sense> {
    let (lba, blocks) = match shape {
        Shape::Ten => (cdb.be::<4>(2), cdb.be::<2>(7)),
        Shape::Twelve => (cdb.be::<4>(2), cdb.be::<4>(6)),
        Shape::Sixteen => (cdb.be::<8>(2), cdb.be::<4>(10)),
        Shape::Compare => (cdb.be::<8>(2), u64::from(cdb.byte(13))),
        Shape::Atomic => (cdb.be::<8>(2), cdb.be::<2>(12)),
        Shape::Other => return Ok(()),
    };
    no_protection(cdb)?;
    within(lun, lba, blocks).map(|_| ())
}
