//! Holes of a sparse image: blocks that the file system has not stored and that read as zeros.

use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::disk_waits::DiskWaits;
use crate::lun::{BLOCK, Lun};

/// Blocks in a row that are all stored, or all not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) blocks: u32,
    pub(crate) mapped: bool,
}

impl Lun {
    /// The first `most` runs from block `lba` on. The file system may have to read its own tables
    /// for it, so this is done on a blocking thread.
    pub(crate) async fn runs(
        self: &Arc<Self>,
        lba: u64,
        most: usize,
        waits: &DiskWaits,
    ) -> io::Result<Vec<Run>> {
        let lun = Arc::clone(self);
        waits.run(move || lun.find_runs(lba, most)).await
    }

    fn find_runs(&self, lba: u64, most: usize) -> io::Result<Vec<Run>> {
        let (mut at, end) = (lba, self.blocks());
        let mut runs = Vec::new();
        while at < end && runs.len() < most {
            // A block that is only partly stored counts as mapped.
            let (stop, mapped) = match self.is_thin() {
                false => (end, true),
                true => match next(self, at * BLOCK, Whence::SeekData)? {
                    None => (end, false),
                    Some(data) if data / BLOCK > at => (data / BLOCK, false),
                    Some(data) => {
                        let hole = next(self, data, Whence::SeekHole)?;
                        (hole.map_or(end, |hole| hole.div_ceil(BLOCK)), true)
                    }
                },
            };
            let blocks = u32::try_from(stop.min(end).saturating_sub(at)).unwrap_or(u32::MAX);
            if blocks == 0 {
                break;
            }
            runs.push(Run { blocks, mapped });
            at += u64::from(blocks);
        }
        Ok(runs)
    }
}

/// Whether the file has a hole before its end. A file system that does not know says no.
pub(crate) fn has_holes(file: &std::fs::File, size: u64) -> bool {
    lseek(file, 0, Whence::SeekHole).is_ok_and(|hole| u64::try_from(hole).is_ok_and(|h| h < size))
}

/// Where the next hole or data at or behind `offset` begins; `None` when only a hole follows. The
/// file's own position moves, which nobody uses.
fn next(lun: &Lun, offset: u64, whence: Whence) -> io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    match lseek(lun.file(), offset, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::lun::LunIdentity;

    const MIB: u64 = 1 << 20;

    fn disk(written: &[(u64, u64)]) -> Arc<Lun> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 * MIB).unwrap();
        for (at, len) in written {
            let bytes = vec![7; usize::try_from(*len).unwrap()];
            file.as_file().write_all_at(&bytes, *at).unwrap();
        }
        Arc::new(Lun::open(file.path(), LunIdentity::from_sha256(&[1; 32])).unwrap())
    }

    fn run(len: u64, mapped: bool) -> Run {
        Run { blocks: u32::try_from(len / BLOCK).unwrap(), mapped }
    }

    #[tokio::test]
    async fn holes_and_data_alternate() {
        let lun = disk(&[(0, MIB), (4 * MIB, MIB)]);
        assert!(lun.is_thin());
        let all = [run(MIB, true), run(3 * MIB, false), run(MIB, true), run(3 * MIB, false)];
        assert_eq!(lun.runs(0, 10, &DiskWaits::default()).await.unwrap(), all);
        assert_eq!(lun.runs(0, 2, &DiskWaits::default()).await.unwrap(), all[..2]);
        // From the middle of a hole, and of the last one.
        let rest = [run(2 * MIB, false), run(MIB, true)];
        assert_eq!(lun.runs(2 * MIB / BLOCK, 2, &DiskWaits::default()).await.unwrap(), rest);
        assert_eq!(
            lun.runs(8 * MIB / BLOCK - 1, 2, &DiskWaits::default()).await.unwrap(),
            [run(512, false)]
        );
    }

    #[tokio::test]
    async fn a_full_disk_is_one_run() {
        let lun = disk(&[(0, 8 * MIB)]);
        assert!(!lun.is_thin());
        assert_eq!(
            lun.runs(8, 10, &DiskWaits::default()).await.unwrap(),
            [run(8 * MIB - 8 * BLOCK, true)]
        );
    }

    #[tokio::test]
    async fn an_empty_disk_is_one_hole() {
        let lun = disk(&[]);
        assert_eq!(lun.runs(0, 10, &DiskWaits::default()).await.unwrap(), [run(8 * MIB, false)]);
    }
}
