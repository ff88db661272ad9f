//! Commands: those that tools need to log in, to switch power and to have a console.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Bmc,
    accounts::CHANNEL,
    console::Console,
    packet::{self, Format, Request},
    session::{Active, Stage},
};

/// Completion codes [5.2].
pub(super) mod code {
    pub(in super::super) const OK: u8 = 0x00;
    pub(in super::super) const NODE_BUSY: u8 = 0xC0;
    pub(in super::super) const UNKNOWN: u8 = 0xC1;
    pub(in super::super) const LENGTH: u8 = 0xC7;
    pub(in super::super) const FIELD: u8 = 0xCC;
    pub(in super::super) const PRIVILEGE: u8 = 0xD4;
}

/// A completion code and the bytes behind it.
pub(super) type Answer = (u8, Vec<u8>);

const OPERATOR: u8 = 3;

impl Bmc {
    /// What may be asked before a session [table 22-1].
    pub(super) fn answer_outside(&mut self, from: SocketAddr, format: Format, message: &[u8]) {
        let Some(request) = packet::request(message) else { return };
        let (code, data) = match (request.function, request.command) {
            (0x06, 0x38) => self.capabilities(request.data),
            (0x06, 0x54) if self.faults.no_suite_list => return,
            (0x06, 0x54) => self.cipher_suites(request.data),
            (0x06, 0x37) => (code::OK, self.guid.to_vec()),
            _ => return,
        };
        self.counts.outside += 1;
        let answer = packet::response(&request, code, &data);
        self.send(from, packet::plain(format, 0x00, &answer));
    }

    /// What is asked in a session.
    pub(super) fn execute(&mut self, session: u32, request: &Request<'_>, now: Instant) -> Answer {
        self.counts.commands += 1;
        if self.faults.busy && request.function != 0x06 {
            return (code::NODE_BUSY, Vec::new());
        }
        match (request.function, request.command) {
            (0x00, 0x01) => {
                self.counts.status += 1;
                self.status(now)
            }
            (0x00, 0x02) => self.operator(session, |bmc| bmc.control(request.data, now)),
            (0x00, 0x08) => self.operator(session, |bmc| bmc.chassis.set_boot_option(request.data)),
            (0x00, 0x09) => self.chassis.boot_option(request.data),
            (0x06, 0x01) => (code::OK, self.device_id()),
            // It starts when the answer has been made.
            (0x06, 0x02) => self.operator(session, |bmc| {
                bmc.counts.resets += 1;
                (code::OK, Vec::new())
            }),
            (0x06, 0x37) => (code::OK, self.guid.to_vec()),
            (0x06, 0x38) => self.capabilities(request.data),
            (0x06, 0x54) => self.cipher_suites(request.data),
            (0x06, 0x3B) => self.raise(session, request.data),
            // Its session is closed when the answer has been made.
            (0x06, 0x3C) if request.data.len() == 4 => (code::OK, Vec::new()),
            (0x06, 0x41..=0x46) | (0x0C, 0x02) if self.faults.tells_no_accounts => {
                (code::UNKNOWN, Vec::new())
            }
            (0x06, 0x41) => self.channel_access(request.data),
            (0x06, 0x42) => (code::OK, vec![CHANNEL, 4, 1, 0x81, 0xF2, 0x1B, 0, 0, 0]),
            (0x06, 0x44) => self.user_access(request.data),
            (0x06, 0x46) => self.user_name(request.data),
            (0x0C, 0x02) => self.lan_parameter(request.data),
            (0x06, 0x48) => self.activate_console(session, request.data, now),
            (0x06, 0x49) => self.deactivate_console(request.data),
            (0x06, 0x4A) => self.console_status(request.data),
            // The log is cleared by operators.
            (0x0A, 0x47) => {
                self.operator(session, |bmc| bmc.records.answer(0x0A, 0x47, request.data))
            }
            (0x04 | 0x0A, command) => self.records.answer(request.function, command, request.data),
            (0x2C, 0x02) => self.records.power_reading(request.data),
            (0x06, 0x4B) => self.console_holder(request.data),
            _ => (code::UNKNOWN, Vec::new()),
        }
    }

    fn active(&mut self, session: u32) -> Option<&mut Active> {
        match &mut self.sessions.find(session)?.stage {
            Stage::Active(active) => Some(active),
            Stage::Opened | Stage::Challenged(_) => None,
        }
    }

    fn operator(&mut self, session: u32, does: impl FnOnce(&mut Self) -> Answer) -> Answer {
        match self.active(session) {
            Some(active) if active.privilege >= OPERATOR => does(self),
            _ => (code::PRIVILEGE, Vec::new()),
        }
    }

    /// [22.13]
    fn capabilities(&self, data: &[u8]) -> Answer {
        let [channel, _privilege] = data else { return (code::LENGTH, Vec::new()) };
        // Authentication types of 1.5: none; this is about 2.0, if that was asked for.
        let types = if channel & 0x80 != 0 { 0x80 } else { 0x00 };
        // Users have names; K_g is set, or not.
        let status = 0x04 | if self.setup.kg.is_some() { 0x20 } else { 0 };
        (code::OK, vec![1, types, status, 0x02, 0, 0, 0, 0])
    }

    /// [22.15], by suite: 0xC0, its number, and its algorithms with their kinds in the upper bits.
    fn cipher_suites(&self, data: &[u8]) -> Answer {
        let [_channel, _payload, index] = data else { return (code::LENGTH, Vec::new()) };
        let mut records = Vec::new();
        for suite in &self.setup.suites {
            records.extend(match suite {
                3 => [0xC0, 3, 0x01, 0x40 | 1, 0x80 | 1],
                17 => [0xC0, 17, 0x03, 0x40 | 4, 0x80 | 1],
                other => [0xC0, *other, 0x00, 0x40, 0x80],
            });
        }
        let piece = records.chunks(16).nth(usize::from(index & 0x3F)).unwrap_or_default();
        (code::OK, [&[1], piece].concat())
    }

    /// [22.18]
    fn raise(&mut self, session: u32, data: &[u8]) -> Answer {
        let ([level], Some(active)) = (data, self.active(session)) else {
            return (code::LENGTH, Vec::new());
        };
        match level & 0x0F {
            0 => {}
            level if level > active.limit => return (0x81, Vec::new()),
            level => active.privilege = level,
        }
        (code::OK, vec![active.privilege])
    }

    /// [28.2]
    fn status(&mut self, now: Instant) -> Answer {
        let on = self.chassis.told(Duration::from_millis(self.faults.wrong_state_ms), now);
        (code::OK, vec![u8::from(on), 0, 0, 0])
    }

    fn control(&mut self, data: &[u8], now: Instant) -> Answer {
        self.counts.control += 1;
        match data {
            [order] if self.chassis.control(*order, &self.faults, now) => (code::OK, Vec::new()),
            [_] => (code::FIELD, Vec::new()),
            _ => (code::LENGTH, Vec::new()),
        }
    }

    /// [24.1]
    fn activate_console(&mut self, session: u32, data: &[u8], now: Instant) -> Answer {
        match data {
            [1, 1, ..] => {}
            _ => return (code::FIELD, Vec::new()),
        }
        if self.setup.no_console {
            return (0x81, Vec::new());
        }
        if self.sessions.with_console().is_some() {
            return (0x80, Vec::new());
        }
        let Some(active) = self.active(session) else { return (code::FIELD, Vec::new()) };
        active.console = Some(Console::new(now));
        // No test mode; payloads of 255 bytes each way; its port; no VLAN.
        let [p0, p1] = self.port.to_le_bytes();
        (code::OK, vec![0, 0, 0, 0, 0xFF, 0, 0xFF, 0, p0, p1, 0xFF, 0xFF])
    }

    /// [24.2]
    fn deactivate_console(&mut self, data: &[u8]) -> Answer {
        let [1, 1, ..] = data else { return (code::FIELD, Vec::new()) };
        let Some((id, active)) = self.sessions.with_console() else { return (0x80, Vec::new()) };
        let end = active.console.take().map(|console| console.end());
        let to = active.peer;
        let bytes = end.map(|end| active.seal(id, 0x01, &end));
        if let Some(bytes) = bytes {
            self.send(to, bytes);
        }
        (code::OK, Vec::new())
    }

    /// [24.3]
    fn console_status(&mut self, data: &[u8]) -> Answer {
        let [1] = data else { return (code::FIELD, Vec::new()) };
        let active = u8::from(self.sessions.with_console().is_some());
        (code::OK, vec![1, active, 0])
    }

    /// [24.4]
    fn console_holder(&mut self, data: &[u8]) -> Answer {
        let [1, 1] = data else { return (code::FIELD, Vec::new()) };
        let holder = self.sessions.holder().unwrap_or(0);
        (code::OK, [&holder.to_le_bytes()[..], &[0; 8]].concat())
    }

    /// [20.1]
    fn device_id(&self) -> Vec<u8> {
        // Device and revision, firmware, IPMI 2.0; it has a chassis, FRUs, a log, sensors and their
        // records; manufacturer and product.
        let (major, minor) = self.firmware;
        vec![0x20, 0x01, major, minor, 0x02, 0x8F, 0xFF, 0xFF, 0x00, 0x01, 0x00]
    }
}
