//! Answers to SCSI commands: Data-In sequences with the status in their last PDU, and SCSI Response
//! PDUs (RFC 7143 sections 11.4 and 11.7).
//!
//! The hot path. Payloads of up to [`COPY_LIMIT`] are copied behind their headers, so that many
//! leave in one write; larger ones go from the page cache to the socket by themselves.

use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use crate::disk_waits::DiskWaits;
use crate::lun::{BLOCK, Lun};
use crate::pdu::{Bhs, NO_TAG, flag, response};
use crate::scsi::{Extent, Sense, status};
use crate::session::{Command, Session};
use crate::wire::{Wire, WireError};

/// Below this copying is cheaper than a second system call (measured: the two meet at 16 to 32 KiB).
const COPY_LIMIT: usize = 16 << 10;

/// The largest PDU, whatever the initiator would take: other sessions wait for it.
const PDU_LIMIT: u64 = 512 << 10;

/// The largest PDU with a data digest, since its payload must pass through memory.
const DIGEST_LIMIT: u64 = 64 << 10;

impl Session {
    /// Answers a READ.
    pub(crate) async fn send_blocks(
        &mut self,
        wire: &mut Wire,
        command: &Command,
        lun: &Arc<Lun>,
        extent: Extent,
    ) -> Result<(), WireError> {
        let begun = self.observer().map(|observer| {
            observer.read(extent.lba, u32::try_from(extent.blocks).unwrap_or(u32::MAX));
            Instant::now()
        });
        let mut parts = Parts::new(self, command, extent.len());
        if parts.total == 0 {
            return self.status(wire, command, status::GOOD, extent.len(), 0, None).await;
        }
        while let Some(part) = parts.next() {
            let offset = extent.offset() + part.at;
            let header = self.numbers.peek(parts.header(command, &part));
            let read = if part.len <= COPY_LIMIT || self.params.data_digest {
                copy(wire, header, lun, &self.disk_waits, offset, part.len).await
            } else {
                match lun.load(offset, part.len as u64, &self.disk_waits).await {
                    Ok(()) => Ok(wire.send_file(header, lun, offset, part.len).await?),
                    Err(error) => Err(error),
                }
            };
            if let Err(error) = read {
                warn!(disk = %lun.path().display(), offset, %error, "disk cannot be read");
                let sense = Some(Sense::UNREADABLE);
                return self
                    .status(wire, command, status::CHECK_CONDITION, part.at, part.number, sense)
                    .await;
            }
            if part.last {
                self.numbers.stat = self.numbers.stat.wrapping_add(1);
            }
            wire.make_room().await?;
        }
        if parts.total <= COPY_LIMIT as u64 {
            wire.expect();
        }
        if let (Some(observer), Some(begun)) = (self.observer(), begun) {
            observer.answered(parts.total, begun.elapsed());
        }
        Ok(())
    }

    /// Answers a command with bytes from memory.
    pub(crate) async fn send_bytes(
        &mut self,
        wire: &mut Wire,
        command: &Command,
        bytes: &[u8],
    ) -> Result<(), WireError> {
        let mut parts = Parts::new(self, command, bytes.len() as u64);
        if parts.total == 0 {
            return self.status(wire, command, status::GOOD, bytes.len() as u64, 0, None).await;
        }
        let mut rest = bytes;
        while let Some(part) = parts.next() {
            let (now, later) = rest.split_at_checked(part.len).unwrap_or((rest, &[]));
            rest = later;
            let header = parts.header(command, &part);
            let header =
                if part.last { self.numbers.stamp(header) } else { self.numbers.peek(header) };
            wire.send(header, now).await?;
        }
        Ok(())
    }

    /// Ends a command with a SCSI Response. `moved` is how many bytes the command had to move in
    /// its direction, `sent` how many Data-In or R2T PDUs went before.
    pub(crate) async fn status(
        &mut self,
        wire: &mut Wire,
        command: &Command,
        code: u8,
        moved: u64,
        sent: u32,
        sense: Option<Sense>,
    ) -> Result<(), WireError> {
        let expected = command.reads().max(command.writes());
        let (flags, residual) = residual(moved, expected);
        let header = Bhs::new(response::SCSI, flag::FINAL | flags)
            .put(3, [code])
            .put_itt(command.itt)
            .put_u32(36, sent)
            .put_u32(44, residual);
        let header = self.numbers.stamp(header);
        if let (Some(sense), Some(observer)) = (sense, self.observer()) {
            observer.failed(sense.triple());
        }
        match sense {
            Some(sense) => wire.send(header, &[&[0, 18][..], &sense.fixed()].concat()).await,
            None => wire.send(header, &[]).await,
        }
    }
}

/// The residual flag and count when `moved` bytes were there and `expected` were asked for.
fn residual(moved: u64, expected: u64) -> (u8, u32) {
    let (flags, count) = match moved {
        _ if moved > expected => (flag::OVERFLOW, moved - expected),
        _ if moved < expected => (flag::UNDERFLOW, expected - moved),
        _ => (0, 0),
    };
    (flags, u32::try_from(count).unwrap_or(u32::MAX))
}

/// Adds a PDU with a part of the disk to the outbox; on error nothing is added.
async fn copy(
    wire: &mut Wire,
    header: Bhs,
    lun: &Arc<Lun>,
    disk_waits: &DiskWaits,
    offset: u64,
    len: usize,
) -> std::io::Result<()> {
    let outbox = wire.outbox();
    let slot = outbox.reserve(len);
    match lun.read(outbox.payload(&slot), offset, disk_waits).await {
        Ok(()) => outbox.seal(slot, header),
        Err(error) => {
            outbox.cancel(slot);
            return Err(error);
        }
    }
    Ok(())
}

/// Cuts an answer into Data-In PDUs and those into sequences.
struct Parts {
    /// Bytes that go out: never more than expected.
    total: u64,
    at: u64,
    number: u32,
    pdu: u64,
    burst: u64,
    left_in_burst: u64,
    residual: (u8, u32),
}

struct Part {
    at: u64,
    len: usize,
    number: u32,
    ends_burst: bool,
    last: bool,
}

impl Parts {
    fn new(session: &Session, command: &Command, there: u64) -> Self {
        let whole_blocks = |len: u64| (len / BLOCK).max(1) * BLOCK;
        let limit = if session.params.data_digest { DIGEST_LIMIT } else { PDU_LIMIT };
        let burst = whole_blocks(session.params.max_burst.into());
        Self {
            total: there.min(command.reads()),
            at: 0,
            number: 0,
            pdu: whole_blocks(session.params.max_recv.into()).min(limit),
            burst,
            left_in_burst: burst,
            residual: residual(there, command.reads()),
        }
    }

    fn next(&mut self) -> Option<Part> {
        let len = (self.total - self.at).min(self.pdu).min(self.left_in_burst);
        if len == 0 {
            return None;
        }
        let (at, number) = (self.at, self.number);
        self.at += len;
        self.number = number.wrapping_add(1);
        self.left_in_burst -= len;
        let last = self.at == self.total;
        let ends_burst = last || self.left_in_burst == 0;
        if ends_burst {
            self.left_in_burst = self.burst;
        }
        Some(Part { at, len: usize::try_from(len).ok()?, number, ends_burst, last })
    }

    fn header(&self, command: &Command, part: &Part) -> Bhs {
        let mut flags = if part.ends_burst { flag::FINAL } else { 0 };
        let (residual_flag, residual) = if part.last { self.residual } else { (0, 0) };
        if part.last {
            flags |= flag::STATUS | residual_flag;
        }
        let offset = u32::try_from(part.at).unwrap_or(u32::MAX);
        Bhs::new(response::DATA_IN, flags)
            .put(8, command.unit.to_be_bytes())
            .put_itt(command.itt)
            .put_u32(20, NO_TAG)
            .put_u32(36, part.number)
            .put_u32(40, offset)
            .put_u32(44, residual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_tell_which_side_had_more() {
        assert_eq!(residual(512, 512), (0, 0));
        assert_eq!(residual(1 << 26, 512), (flag::OVERFLOW, (1 << 26) - 512));
        assert_eq!(residual(36, 255), (flag::UNDERFLOW, 219));
    }

    #[test]
    fn sequences_end_at_the_burst_length() {
        let mut parts = Parts {
            total: 5000,
            at: 0,
            number: 0,
            pdu: 1024,
            burst: 1536,
            left_in_burst: 1536,
            residual: (0, 0),
        };
        let cut: Vec<_> = std::iter::from_fn(|| parts.next())
            .map(|p| (p.at, p.len, p.ends_burst, p.last))
            .collect();
        assert_eq!(
            cut,
            [
                (0, 1024, false, false),
                (1024, 512, true, false),
                (1536, 1024, false, false),
                (2560, 512, true, false),
                (3072, 1024, false, false),
                (4096, 512, true, false),
                (4608, 392, true, true),
            ]
        );
    }
}
