//! The full feature phase: one PDU after the other, in order, each done before the next is looked at
//! (RFC 7143 section 4.2.2 for the sequence numbers).
//!
//! Only VERIFY with data spans several PDUs; its state is bounded (`verify.rs`).

use std::sync::Arc;

use tracing::debug;

use crate::disk_waits::DiskWaits;
use crate::exports::{Exports, Grant, SessionObserver};
use crate::login::{Established, Kind};
use crate::lun::Lun;
use crate::negotiate::Params;
use crate::pdu::{Bhs, NO_TAG, Pdu, flag, reject, request, response, sn_before};
use crate::scsi::{self, Cdb, Outcome, Sense};
use crate::verify::Verify;
use crate::wire::{Event, Wire, WireError};

/// A session in its full feature phase.
pub(crate) struct Session {
    pub(crate) exports: Arc<dyn Exports>,
    pub(crate) initiator: String,
    pub(crate) kind: Kind,
    /// The connection's number, as the initiator gave it.
    pub(crate) cid: u16,
    pub(crate) params: Params,
    pub(crate) numbers: Numbers,
    /// Commands that it may have under way if its class leaves it so many.
    window: u32,
    /// Its class's.
    pub(crate) disk_waits: DiskWaits,
    /// Text of a request that goes on in the next PDU.
    pub(crate) text: Vec<u8>,
    /// The rest of a text answer and the tag by which it is fetched.
    pub(crate) answer: Option<(u32, Vec<u8>)>,
    pub(crate) verifies: Vec<Verify>,
    last_tag: u32,
    /// The initiator can answer a NOP-In.
    pub(crate) answers_pings: bool,
    pinged: bool,
}

/// The session's sequence numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Numbers {
    pub(crate) stat: u32,
    pub(crate) expected_cmd: u32,
    /// The last command that the initiator was told it may send.
    pub(crate) last_cmd: u32,
    /// Commands that it may have under way.
    pub(crate) window: u32,
}

impl Numbers {
    /// What a PDU of the login phase says: commands begin with its number, one at a time.
    pub(crate) fn begin(&mut self, cmd_sn: u32) {
        (self.expected_cmd, self.last_cmd, self.window) = (cmd_sn, cmd_sn, 1);
    }

    /// Fills in the numbers of a PDU that carries a status.
    pub(crate) fn stamp(&mut self, bhs: Bhs) -> Bhs {
        let bhs = self.peek(bhs);
        self.stat = self.stat.wrapping_add(1);
        bhs
    }

    /// The same without using up a status number.
    pub(crate) fn peek(&mut self, bhs: Bhs) -> Bhs {
        let last = self.expected_cmd.wrapping_add(self.window).wrapping_sub(1);
        // What was allowed once stays allowed, also where the window has become smaller.
        if sn_before(self.last_cmd, last) {
            self.last_cmd = last;
        }
        bhs.put_u32(24, self.stat).put_u32(28, self.expected_cmd).put_u32(32, self.last_cmd)
    }
}

/// A SCSI command, as far as its answer needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Command {
    pub(crate) unit: u64,
    pub(crate) itt: u32,
    flags: u8,
    edtl: u32,
}

impl Command {
    /// Bytes that the initiator expects to read.
    pub(crate) fn reads(&self) -> u64 {
        if self.flags & flag::READ != 0 { self.edtl.into() } else { 0 }
    }

    /// Bytes that the initiator expects to send.
    pub(crate) fn writes(&self) -> u64 {
        if self.flags & flag::WRITE != 0 { self.edtl.into() } else { 0 }
    }
}

/// Whether the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    End,
}

impl Session {
    /// `window` is how many commands it may have under way if its class leaves it so many.
    pub(crate) fn new(
        exports: Arc<dyn Exports>,
        login: Established,
        numbers: Numbers,
        window: u32,
        disk_waits: DiskWaits,
    ) -> Self {
        Self {
            exports,
            initiator: login.initiator,
            kind: login.kind,
            cid: login.port.cid,
            params: login.params,
            window,
            disk_waits,
            numbers,
            text: Vec::new(),
            answer: None,
            verifies: Vec::new(),
            last_tag: 0,
            // iPXE ends its session when it is asked for an answer. It is known by keeping the
            // default PDU size, and it never sends a NOP-Out; dead peers of that kind are found
            // by TCP keepalive alone.
            answers_pings: login.params.max_recv > 8192,
            pinged: false,
        }
    }

    /// Runs until logout, until the peer closes, or until the server stops.
    pub(crate) async fn run(&mut self, wire: &mut Wire) -> Result<(), WireError> {
        loop {
            match wire.receive().await? {
                Event::Pdu(pdu) => {
                    self.pinged = false;
                    if self.handle(wire, pdu).await? == Flow::End {
                        return wire.flush().await;
                    }
                }
                Event::Idle if !self.answers_pings => {}
                Event::Idle if self.pinged => return Err(WireError::Silent),
                Event::Idle => self.ping(wire).await?,
                Event::Closed => return Ok(()),
                Event::Stopping => return self.farewell(wire).await,
            }
        }
    }

    pub(crate) fn lun(&self) -> Option<&Arc<Lun>> {
        self.grant().map(|grant| &grant.lun)
    }

    pub(crate) fn observer(&self) -> Option<&Arc<dyn SessionObserver>> {
        self.grant().and_then(|grant| grant.observer.as_ref())
    }

    pub(crate) fn grant(&self) -> Option<&Grant> {
        match &self.kind {
            Kind::Normal { grant, .. } => Some(grant),
            Kind::Discovery => None,
        }
    }

    /// A target transfer tag, never the reserved one.
    pub(crate) fn fresh_tag(&mut self) -> u32 {
        self.last_tag = self.last_tag.wrapping_add(1) & 0x7fff_ffff;
        self.last_tag
    }

    pub(crate) async fn reject(
        &mut self,
        wire: &mut Wire,
        bhs: &Bhs,
        reason: u8,
    ) -> Result<Flow, WireError> {
        debug!(opcode = bhs.opcode(), reason, "PDU rejected");
        let header = Bhs::new(response::REJECT, flag::FINAL).put(2, [reason]).put_itt(NO_TAG);
        let header = self.numbers.stamp(header);
        wire.send(header, &bhs.0).await?;
        Ok(Flow::Continue)
    }

    async fn handle(&mut self, wire: &mut Wire, pdu: Pdu) -> Result<Flow, WireError> {
        let bhs = pdu.bhs;
        let opcode = bhs.opcode();
        if pdu.spoilt {
            // As if it had not come but for this answer (RFC 7143 section 7.8): whoever sends it again
            // with its number goes on, and whoever goes on without leaves a gap, which ends the session.
            self.reject(wire, &bhs, reject::DATA_DIGEST).await?;
            return match opcode {
                request::DATA_OUT => self.data_out(wire, &pdu).await,
                _ => Ok(Flow::Continue),
            };
        }
        let numbered = matches!(
            opcode,
            request::NOP_OUT
                | request::SCSI_COMMAND
                | request::TASK_MANAGEMENT
                | request::TEXT
                | request::LOGOUT
        );
        if numbered {
            self.numbers.window = wire.window(self.window);
            if !self.in_turn(&bhs)? {
                return Ok(Flow::Continue);
            }
        }
        let discovery = matches!(self.kind, Kind::Discovery);
        match opcode {
            request::NOP_OUT => self.nop(wire, &pdu).await,
            request::TEXT => self.text(wire, &pdu).await,
            request::LOGOUT => self.logout(wire, &bhs).await,
            request::SCSI_COMMAND | request::TASK_MANAGEMENT | request::DATA_OUT if discovery => {
                self.reject(wire, &bhs, reject::PROTOCOL_ERROR).await
            }
            request::SCSI_COMMAND => self.command(wire, &bhs).await,
            request::TASK_MANAGEMENT => self.manage_tasks(wire, &bhs).await,
            request::DATA_OUT => self.data_out(wire, &pdu).await,
            request::SNACK => self.reject(wire, &bhs, reject::SNACK).await,
            request::LOGIN => {
                self.reject(wire, &bhs, reject::PROTOCOL_ERROR).await?;
                Ok(Flow::End)
            }
            _ => self.reject(wire, &bhs, reject::NOT_SUPPORTED).await,
        }
    }

    /// Whether a numbered PDU is to be done now. What is outside the window or was there already
    /// is ignored, as the RFC demands. A gap cannot close on a single connection, so it is an error.
    fn in_turn(&mut self, bhs: &Bhs) -> Result<bool, WireError> {
        let sn = bhs.cmd_sn();
        if bhs.is_immediate() || (bhs.opcode() == request::NOP_OUT && bhs.itt() == NO_TAG) {
            return Ok(true);
        }
        if sn == self.numbers.expected_cmd {
            self.numbers.expected_cmd = sn.wrapping_add(1);
            return Ok(true);
        }
        if sn_before(sn, self.numbers.expected_cmd) || sn_before(self.numbers.last_cmd, sn) {
            debug!(sn, expected = self.numbers.expected_cmd, "CmdSN ignored");
            return Ok(false);
        }
        Err(WireError::Protocol("a command number was left out"))
    }

    async fn command(&mut self, wire: &mut Wire, bhs: &Bhs) -> Result<Flow, WireError> {
        let command =
            Command { unit: bhs.lun(), itt: bhs.itt(), flags: bhs.flags(), edtl: bhs.u32(20) };
        let Some(lun) = self.lun().cloned() else { return Ok(Flow::Continue) };
        match scsi::execute(&Cdb(&bhs.array(32)), command.unit, &lun) {
            Outcome::Good => self.good(wire, &command).await?,
            Outcome::Data(bytes) => self.send_bytes(wire, &command, &bytes).await?,
            Outcome::Read(extent) => self.send_blocks(wire, &command, &lun, extent).await?,
            Outcome::Prefetch(extent) => {
                lun.prefetch(extent.offset(), extent.len());
                self.good(wire, &command).await?;
            }
            Outcome::Verify(extent) => self.read_through(wire, &command, &lun, extent).await?,
            Outcome::Compare(extent) => self.verify(wire, command, extent).await?,
            Outcome::Status(query) => match lun.runs(query.lba, query.runs, &self.disk_waits).await
            {
                Ok(runs) => self.send_bytes(wire, &command, &query.answer(&runs)).await?,
                Err(_) => self.check(wire, &command, Sense::UNREADABLE).await?,
            },
            Outcome::Check(sense) => self.check(wire, &command, sense).await?,
        }
        Ok(Flow::Continue)
    }

    async fn ping(&mut self, wire: &mut Wire) -> Result<(), WireError> {
        self.pinged = true;
        let tag = self.fresh_tag();
        let header = Bhs::new(response::NOP_IN, flag::FINAL).put_itt(NO_TAG).put_u32(20, tag);
        let header = self.numbers.peek(header);
        wire.send(header, &[]).await
    }

    /// Says that the connection ends because the target is stopping, so that the initiator logs in
    /// again without an error (RFC 7143 section 11.9). One like iPXE would not understand it.
    async fn farewell(&mut self, wire: &mut Wire) -> Result<(), WireError> {
        /// "The target will drop all connections of this session."
        const DROPS_ALL: u8 = 3;
        if self.answers_pings {
            // The parameters stay zero: the initiator may come back at once (second), and none of
            // its commands is kept for it (third), as DefaultTime2Retain has it.
            let header =
                Bhs::new(response::ASYNC_MESSAGE, flag::FINAL).put_itt(NO_TAG).put(36, [DROPS_ALL]);
            let header = self.numbers.stamp(header);
            wire.send(header, &[]).await?;
        }
        wire.flush().await?;
        wire.part().await
    }

    async fn good(&mut self, wire: &mut Wire, command: &Command) -> Result<(), WireError> {
        self.status(wire, command, scsi::status::GOOD, 0, 0, None).await
    }

    pub(crate) async fn check(
        &mut self,
        wire: &mut Wire,
        command: &Command,
        sense: Sense,
    ) -> Result<(), WireError> {
        self.status(wire, command, scsi::status::CHECK_CONDITION, 0, 0, Some(sense)).await
    }
}
