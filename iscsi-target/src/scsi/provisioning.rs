//! GET LBA STATUS (SBC-3 section 5.5): which blocks the disk has, and which are holes that read as
//! zeros, so that whoever copies the disk need not read those.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::{Cdb, Outcome, Sense, within};
use crate::lun::Lun;
use crate::thin::Run;

/// Descriptors in one answer, however many are asked for: each costs two look-ups in the file system.
const MAX_RUNS: usize = 256;

const HEADER: usize = 8;
const DESCRIPTOR: usize = 16;

/// What a GET LBA STATUS asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatusQuery {
    /// The first block.
    pub(crate) lba: u64,
    /// Runs of blocks that there is room for, at least one.
    pub(crate) runs: usize,
    allocated: usize,
}

/// Decides what a GET LBA STATUS asks.
pub(super) fn get_lba_status(cdb: &Cdb<'_>, lun: &Lun) -> Result<Outcome, Sense> {
    let (lba, allocated) = (cdb.be::<8>(2), cdb.length::<4>(10));
    within(lun, lba, 1)?;
    let runs = (allocated.saturating_sub(HEADER) / DESCRIPTOR).clamp(1, MAX_RUNS);
    Ok(Outcome::Status(StatusQuery { lba, runs, allocated }))
}

impl StatusQuery {
    /// The answer: a descriptor for each run, cut to the allocation length.
    pub(crate) fn answer(&self, runs: &[Run]) -> Vec<u8> {
        let len = u32::try_from(HEADER - 4 + runs.len() * DESCRIPTOR).unwrap_or(u32::MAX);
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        let mut lba = self.lba;
        for run in runs {
            bytes.extend_from_slice(&lba.to_be_bytes());
            bytes.extend_from_slice(&run.blocks.to_be_bytes());
            // 0: mapped; 1: deallocated.
            bytes.extend_from_slice(&[u8::from(!run.mapped), 0, 0, 0]);
            lba += u64::from(run.blocks);
        }
        bytes.truncate(self.allocated);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: [Run; 2] = [Run { blocks: 8, mapped: true }, Run { blocks: 16, mapped: false }];

    #[test]
    fn runs_follow_each_other() {
        let query = StatusQuery { lba: 0x100, runs: 2, allocated: 1000 };
        let expected = [
            &[0, 0, 0, 36, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 1, 8, 0, 0, 0, 16, 1, 0, 0, 0],
        ];
        assert_eq!(query.answer(&RUNS), expected.concat());
    }

    #[test]
    fn the_answer_keeps_to_the_room_there_is() {
        for allocated in 0..40 {
            let query = StatusQuery { lba: 0, runs: 2, allocated };
            assert_eq!(query.answer(&RUNS).len(), allocated);
        }
    }
}
