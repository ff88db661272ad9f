//! VERIFY. Without data the blocks are read. With data the initiator sends bytes, and we compare them
//! with the disk as they come; nothing is kept but how far we are (RFC 7143 sections 11.7 and 11.8).

use std::sync::Arc;

use crate::lun::Lun;
use crate::pdu::{Bhs, NO_TAG, Pdu, flag, reject, response};
use crate::scsi::{Extent, Sense, status};
use crate::session::{Command, Flow, Session};
use crate::wire::{Wire, WireError};

/// Comparisons under way in one session; more are told that the task set is full.
const MAX_VERIFIES: usize = 16;

/// One comparison.
#[derive(Debug)]
pub(crate) struct Verify {
    command: Command,
    extent: Extent,
    /// Bytes to come in all.
    total: u64,
    received: u64,
    /// Where the sequence that was asked for ends.
    asked: u64,
    tag: u32,
    r2ts: u32,
    differs: bool,
    /// Some of the data came with a wrong digest.
    spoilt: bool,
}

impl Verify {
    /// The tag by which the initiator knows the command.
    pub(crate) fn itt(&self) -> u32 {
        self.command.itt
    }
}

/// Bytes that a VERIFY without data makes sure of at once.
const STEP: u64 = 1 << 20;

impl Session {
    /// VERIFY without data: reads the blocks, so that one that cannot be read is known.
    pub(crate) async fn read_through(
        &mut self,
        wire: &mut Wire,
        command: &Command,
        lun: &Arc<Lun>,
        extent: Extent,
    ) -> Result<(), WireError> {
        let (mut at, end) = (extent.offset(), extent.offset() + extent.len());
        while at < end {
            let len = STEP.min(end - at);
            if lun.read_through(at, len, &self.disk_waits).await.is_err() {
                return self.check(wire, command, Sense::UNREADABLE).await;
            }
            at += len;
            wire.worked(len).await;
        }
        self.status(wire, command, status::GOOD, 0, 0, None).await
    }

    /// Begins a comparison by asking for the first bytes.
    pub(crate) async fn verify(
        &mut self,
        wire: &mut Wire,
        command: Command,
        extent: Extent,
    ) -> Result<(), WireError> {
        let total = extent.len().min(command.writes());
        if total == 0 {
            return self.status(wire, &command, status::GOOD, extent.len(), 0, None).await;
        }
        if self.verifies.len() >= MAX_VERIFIES {
            return self.status(wire, &command, status::TASK_SET_FULL, 0, 0, None).await;
        }
        let tag = self.fresh_tag();
        let mut verify = Verify {
            command,
            extent,
            total,
            received: 0,
            asked: 0,
            tag,
            r2ts: 0,
            differs: false,
            spoilt: false,
        };
        self.ask(wire, &mut verify).await?;
        self.verifies.push(verify);
        Ok(())
    }

    /// Takes a Data-Out. Those of commands that were refused already belong to nothing and are
    /// dropped: that is how unsolicited data is drained.
    pub(crate) async fn data_out(&mut self, wire: &mut Wire, pdu: &Pdu) -> Result<Flow, WireError> {
        let bhs = &pdu.bhs;
        let found = self.verifies.iter().position(|v| v.tag == bhs.ttt() && v.itt() == bhs.itt());
        let Some(mut verify) = found.map(|at| self.verifies.swap_remove(at)) else {
            return Ok(Flow::Continue);
        };
        // What a digest does not fit was taken away, but it still counts: all data that was asked for
        // has come before the command ends (RFC 7143 section 7.8).
        let len = bhs.data_len() as u64;
        if u64::from(bhs.u32(40)) != verify.received || verify.received + len > verify.asked {
            return self.reject(wire, bhs, reject::INVALID_FIELD).await.map(|_| Flow::End);
        }
        let Some(lun) = self.lun().cloned() else { return Ok(Flow::End) };
        verify.spoilt |= pdu.spoilt;
        let mut ours = vec![0; pdu.data.len()];
        let offset = verify.extent.offset() + verify.received;
        if lun.read(&mut ours, offset, &self.disk_waits).await.is_err() {
            self.check(wire, &verify.command, Sense::UNREADABLE).await?;
            return Ok(Flow::Continue);
        }
        verify.differs |= ours != pdu.data;
        verify.received += len;
        if verify.received == verify.total {
            let (code, sense) = match (verify.spoilt, verify.differs) {
                (true, _) => (status::CHECK_CONDITION, Some(Sense::SPOILT_DATA)),
                (false, true) => (status::CHECK_CONDITION, Some(Sense::MISCOMPARE)),
                (false, false) => (status::GOOD, None),
            };
            let (moved, r2ts) = (verify.extent.len(), verify.r2ts);
            self.status(wire, &verify.command, code, moved, r2ts, sense).await?;
            return Ok(Flow::Continue);
        }
        if bhs.flags() & flag::FINAL != 0 {
            if verify.received < verify.asked {
                return self.reject(wire, bhs, reject::PROTOCOL_ERROR).await.map(|_| Flow::End);
            }
            self.ask(wire, &mut verify).await?;
        }
        self.verifies.push(verify);
        Ok(Flow::Continue)
    }

    /// Asks for the next sequence by an R2T.
    async fn ask(&mut self, wire: &mut Wire, verify: &mut Verify) -> Result<(), WireError> {
        let len = (verify.total - verify.received).min(self.params.max_burst.into());
        verify.asked = verify.received + len;
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        debug_assert_ne!(verify.tag, NO_TAG);
        let header = Bhs::new(response::READY_TO_TRANSFER, flag::FINAL)
            .put(8, verify.command.unit.to_be_bytes())
            .put_itt(verify.command.itt)
            .put_u32(20, verify.tag)
            .put_u32(36, verify.r2ts)
            .put_u32(40, narrow(verify.received))
            .put_u32(44, narrow(len));
        verify.r2ts += 1;
        let header = self.numbers.peek(header);
        wire.send(header, &[]).await
    }
}
