//! What is not SCSI in the full feature phase: NOP-Out, Text, task management and logout (RFC 7143
//! sections 11.5, 11.6, 11.10, 11.11, 11.14 and 11.18).

use crate::login::{Kind, PORTAL_GROUP};
use crate::pdu::{Bhs, NO_TAG, Pdu, flag, reject, response};
use crate::session::{Flow, Session};
use crate::text;
use crate::wire::{Wire, WireError};

/// Task management functions and responses.
mod task {
    pub(super) const ABORT: u8 = 1;
    pub(super) const ABORT_SET: u8 = 2;
    pub(super) const CLEAR_SET: u8 = 4;
    pub(super) const UNIT_RESET: u8 = 5;
    pub(super) const WARM_RESET: u8 = 6;
    pub(super) const COLD_RESET: u8 = 7;
    pub(super) const REASSIGN: u8 = 8;

    pub(super) const COMPLETE: u8 = 0;
    pub(super) const NO_SUCH_TASK: u8 = 1;
    pub(super) const NO_SUCH_UNIT: u8 = 2;
    pub(super) const NO_REASSIGNMENT: u8 = 4;
    pub(super) const NOT_SUPPORTED: u8 = 5;
}

impl Session {
    /// Echoes a ping; it waits its turn behind all that was asked for before it.
    pub(crate) async fn nop(&mut self, wire: &mut Wire, pdu: &Pdu) -> Result<Flow, WireError> {
        let bhs = &pdu.bhs;
        self.answers_pings = true;
        if bhs.itt() == NO_TAG {
            return Ok(Flow::Continue);
        }
        let header = Bhs::new(response::NOP_IN, flag::FINAL)
            .put(8, bhs.array::<8>(8))
            .put_itt(bhs.itt())
            .put_u32(20, NO_TAG);
        let header = self.numbers.stamp(header);
        let room = usize::try_from(self.params.max_recv).unwrap_or(usize::MAX);
        wire.send(header, pdu.data.get(..room).unwrap_or(&pdu.data)).await?;
        Ok(Flow::Continue)
    }

    /// Answers SendTargets, over several PDUs if need be.
    pub(crate) async fn text(&mut self, wire: &mut Wire, pdu: &Pdu) -> Result<Flow, WireError> {
        let bhs = &pdu.bhs;
        let (tag, rest) = self.answer.take().unwrap_or((NO_TAG, Vec::new()));
        if bhs.ttt() != tag {
            // A request without a tag begins anew; one with a tag of another time is an error.
            self.text = Vec::new();
            if bhs.ttt() != NO_TAG {
                return self.reject(wire, bhs, reject::PROTOCOL_ERROR).await;
            }
        } else if !rest.is_empty() {
            return self.send_text(wire, bhs, rest).await;
        }
        if self.text.len() + pdu.data.len() > text::MAX_TEXT {
            self.text = Vec::new();
            return self.reject(wire, bhs, reject::PROTOCOL_ERROR).await;
        }
        self.text.extend_from_slice(&pdu.data);
        if bhs.flags() & flag::CONTINUE != 0 {
            return self.send_text(wire, bhs, Vec::new()).await;
        }
        let request = std::mem::take(&mut self.text);
        let Some(pairs) = text::parse(&request) else {
            return self.reject(wire, bhs, reject::PROTOCOL_ERROR).await;
        };
        let mut out = Vec::new();
        for (key, value) in pairs {
            match key {
                "SendTargets" => self.send_targets(wire, value, &mut out)?,
                _ => self.params.answer_later(key, value, &mut out),
            }
        }
        self.send_text(wire, bhs, out).await
    }

    /// Does what can be done to tasks that, but for comparisons, are over before this is read.
    pub(crate) async fn manage_tasks(
        &mut self,
        wire: &mut Wire,
        bhs: &Bhs,
    ) -> Result<Flow, WireError> {
        let unit_missing = bhs.lun() != 0;
        let code = match bhs.flags() & 0x7f {
            task::ABORT => {
                // A task that is over is no task: its status went out before this answer. Nor can
                // its command still be on the way, since there is one connection (section 11.6.1).
                let (itt, before) = (bhs.u32(20), self.verifies.len());
                self.verifies.retain(|verify| verify.itt() != itt);
                if self.verifies.len() < before { task::COMPLETE } else { task::NO_SUCH_TASK }
            }
            task::ABORT_SET | task::CLEAR_SET | task::UNIT_RESET if unit_missing => {
                task::NO_SUCH_UNIT
            }
            task::ABORT_SET | task::CLEAR_SET | task::UNIT_RESET | task::WARM_RESET => {
                self.verifies.clear();
                task::COMPLETE
            }
            task::REASSIGN => task::NO_REASSIGNMENT,
            // A cold reset would end other initiators' sessions; we keep no contingent allegiance.
            task::COLD_RESET => task::NOT_SUPPORTED,
            _ => task::NOT_SUPPORTED,
        };
        let header = Bhs::new(response::TASK_MANAGEMENT, flag::FINAL);
        let header = self.numbers.stamp(header.put(2, [code]).put_itt(bhs.itt()));
        wire.send(header, &[]).await?;
        Ok(Flow::Continue)
    }

    /// Ends the session, or says that a connection cannot be recovered.
    pub(crate) async fn logout(&mut self, wire: &mut Wire, bhs: &Bhs) -> Result<Flow, WireError> {
        /// "Close the connection" and "remove the connection for recovery".
        const CONNECTION: u8 = 1;
        const FOR_RECOVERY: u8 = 2;
        const NO_SUCH_CONNECTION: u8 = 1;
        const NO_RECOVERY: u8 = 2;
        let code = match bhs.flags() & 0x7f {
            CONNECTION if bhs.u16(20) != self.cid => NO_SUCH_CONNECTION,
            reason if reason < FOR_RECOVERY => 0,
            _ => NO_RECOVERY,
        };
        let header = Bhs::new(response::LOGOUT, flag::FINAL).put(2, [code]).put_itt(bhs.itt());
        let header = self.numbers.stamp(header);
        wire.send(header, &[]).await?;
        Ok(if code == 0 { Flow::End } else { Flow::Continue })
    }

    /// Appends the targets that are asked for and that this initiator may see.
    fn send_targets(&self, wire: &Wire, what: &str, out: &mut Vec<u8>) -> Result<(), WireError> {
        let (here, peer) = (wire.stream().local_addr()?, wire.stream().peer_addr()?);
        let names = match &self.kind {
            Kind::Discovery if !what.is_empty() => {
                let mut names = self.exports.discover(&self.initiator, peer);
                if what != "All" {
                    names.retain(|name| name == what);
                }
                names
            }
            // A session with a target may only ask about that one, which it need not name.
            Kind::Normal { target, .. } if what.is_empty() || what == target => {
                vec![target.clone()]
            }
            _ => {
                text::push(out, "SendTargets", "Reject");
                return Ok(());
            }
        };
        let portals = self.exports.portals(peer, here);
        for name in names {
            text::push(out, "TargetName", &name);
            for portal in &portals {
                text::push(out, "TargetAddress", &format!("{portal},{PORTAL_GROUP}"));
            }
        }
        Ok(())
    }

    async fn send_text(
        &mut self,
        wire: &mut Wire,
        bhs: &Bhs,
        mut now: Vec<u8>,
    ) -> Result<Flow, WireError> {
        let more_to_come = bhs.flags() & flag::CONTINUE != 0 || bhs.flags() & flag::FINAL == 0;
        let room = usize::try_from(self.params.max_recv).unwrap_or(usize::MAX).min(64 << 10);
        let later = if now.len() > room { now.split_off(room) } else { Vec::new() };
        let (flags, tag) = if later.is_empty() && !more_to_come {
            (flag::FINAL, NO_TAG)
        } else {
            // Either our answer or the negotiation goes on; the tag ties the next PDU to this one.
            let flags = if later.is_empty() { 0 } else { flag::CONTINUE };
            let tag = self.fresh_tag();
            self.answer = Some((tag, later));
            (flags, tag)
        };
        let header = Bhs::new(response::TEXT, flags)
            .put(8, bhs.array::<8>(8))
            .put_itt(bhs.itt())
            .put_u32(20, tag);
        let header = self.numbers.stamp(header);
        wire.send(header, &now).await?;
        Ok(Flow::Continue)
    }
}
