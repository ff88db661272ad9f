//! Sessions and what is said in them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Bmc,
    console::Console,
    keys::{Keys, Suite},
    packet::{self, InSession},
};

/// [6.12.15]: a session in which nothing was heard for so long is over.
const INACTIVE: Duration = Duration::from_secs(60);
/// The same for one that is being opened.
const HALF_OPEN: Duration = Duration::from_secs(20);

/// How long the BMC takes to start after a cold reset.
const STARTS: Duration = Duration::from_secs(1);

/// All of a BMC's.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<Session>);

#[derive(Debug)]
pub(super) struct Session {
    /// The BMC's id of it, and the console's.
    pub(super) managed: u32,
    pub(super) console: u32,
    pub(super) suite: Suite,
    pub(super) stage: Stage,
    pub(super) heard_at: Instant,
}

/// How far its login is.
#[derive(Debug)]
pub(super) enum Stage {
    Opened,
    /// RAKP message 2 was sent, with this.
    Challenged(Challenge),
    Active(Box<Active>),
}

/// What RAKP messages 1 and 2 agreed on.
#[derive(Debug, Clone)]
pub(super) struct Challenge {
    pub(super) console_random: [u8; 16],
    pub(super) random: [u8; 16],
    /// Role, length of the name and the name, as they are signed.
    pub(super) who: Vec<u8>,
    pub(super) password: Vec<u8>,
    pub(super) limit: u8,
}

/// A session that is open.
#[derive(Debug)]
pub(super) struct Active {
    keys: Keys,
    /// What it may be, and what it is at present.
    pub(super) limit: u8,
    pub(super) privilege: u8,
    sent: u32,
    /// Sequence numbers that came: the newest, and those of the 32 before it.
    newest: u32,
    came: u64,
    pub(super) console: Option<Console>,
    pub(super) peer: SocketAddr,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, session: Session) {
        self.0.push(session);
    }

    pub(super) fn find(&mut self, managed: u32) -> Option<&mut Session> {
        self.0.iter_mut().find(|session| session.managed == managed)
    }

    pub(super) fn remove(&mut self, managed: u32) -> bool {
        let before = self.0.len();
        self.0.retain(|session| session.managed != managed);
        self.0.len() < before
    }

    /// The session that has the console, if one has.
    pub(super) fn with_console(&mut self) -> Option<(u32, &mut Active)> {
        self.0.iter_mut().find_map(|session| match &mut session.stage {
            Stage::Active(active) if active.console.is_some() => {
                Some((session.console, &mut **active))
            }
            _ => None,
        })
    }

    /// The BMC's id of the session that has the console.
    pub(super) fn holder(&self) -> Option<u32> {
        let holds = |session: &&Session| match &session.stage {
            Stage::Active(active) => active.console.is_some(),
            Stage::Opened | Stage::Challenged(_) => false,
        };
        self.0.iter().find(holds).map(|session| session.managed)
    }

    pub(super) fn forget_old(&mut self, now: Instant) {
        self.0.retain(|session| {
            let limit = match session.stage {
                Stage::Active(_) => INACTIVE,
                Stage::Opened | Stage::Challenged(_) => HALF_OPEN,
            };
            session.heard_at + limit > now
        });
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        let consoles = self.0.iter().filter_map(|session| match &session.stage {
            Stage::Active(active) => active.console.as_ref()?.wake_at(),
            Stage::Opened | Stage::Challenged(_) => None,
        });
        consoles.min()
    }

    pub(super) fn tick(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        for session in &mut self.0 {
            if let Stage::Active(active) = &mut session.stage
                && let Some(characters) = active.console.as_mut().and_then(|c| c.tick(now))
            {
                sent.push((active.peer, active.seal(session.console, 0x01, &characters)));
            }
        }
        sent
    }
}

impl Active {
    pub(super) fn new(keys: Keys, limit: u8, peer: SocketAddr) -> Self {
        // [6.8]: every session begins as USER.
        let privilege = limit.min(2);
        Self { keys, limit, privilege, sent: 0, newest: 0, came: 0, console: None, peer }
    }

    /// A packet of this session.
    pub(super) fn seal(&mut self, console: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
        self.sent += 1;
        let sealed = self.keys.encrypt(payload);
        let mut packet = packet::header(kind | 0xC0, console, self.sent, &sealed);
        packet.extend(&sealed);
        let mut bytes = vec![6, 0, 0xFF, 7];
        bytes.extend(self.keys.sign(packet));
        bytes
    }

    fn open(&mut self, packet: &InSession<'_>, sloppy: bool) -> Option<Vec<u8>> {
        let sealed = packet.encrypted && packet.authenticated;
        if !sealed || !self.keys.is_signed(packet.whole) {
            return None;
        }
        if !self.is_new(packet.sequence) && !sloppy {
            return None;
        }
        self.keys.decrypt(packet.payload)
    }

    /// [6.12.13]: 15 before the newest, 16 after it, and each once.
    fn is_new(&mut self, sequence: u32) -> bool {
        let ahead = i64::from(sequence) - i64::from(self.newest);
        if sequence == 0 || !(-15..=16).contains(&ahead) {
            return false;
        }
        if ahead > 0 {
            self.came = self.came << ahead | 1;
            self.newest = sequence;
            return true;
        }
        let bit = 1 << -ahead;
        let new = self.came & bit == 0;
        self.came |= bit;
        new
    }
}

impl Bmc {
    pub(super) fn in_session(&mut self, from: SocketAddr, packet: &InSession<'_>, now: Instant) {
        let Some(session) = self.sessions.find(packet.id) else { return };
        let console_id = session.console;
        let Stage::Active(active) = &mut session.stage else { return };
        let Some(payload) = active.open(packet, self.setup.sloppy) else { return };
        session.heard_at = now;
        active.peer = from;
        match packet.kind {
            0x00 => {
                let Some(request) = packet::request(&payload) else { return };
                let (code, data) = self.execute(packet.id, &request, now);
                let activates = (request.function, request.command) == (0x06, 0x48);
                if activates && std::mem::take(&mut self.loses_activation) {
                    return;
                }
                let answer = packet::response(&request, code, &data);
                self.answer_inside(packet.id, from, &answer);
                if (request.function, request.command, code) == (0x06, 0x3C, 0) {
                    let id = request.data.first_chunk().map_or(0, |id| u32::from_le_bytes(*id));
                    self.sessions.remove(id);
                    self.counts.closed += 1;
                }
                if (request.function, request.command, code) == (0x06, 0x02, 0) {
                    self.faults.deaf = false;
                    self.reboot(STARTS, now);
                }
            }
            0x01 => {
                let Some(console) = &mut active.console else { return };
                let answers = console.receive(&payload, now);
                let packets: Vec<_> =
                    answers.iter().map(|answer| active.seal(console_id, 0x01, answer)).collect();
                for bytes in packets {
                    self.send(from, bytes);
                }
            }
            _ => {}
        }
    }

    fn answer_inside(&mut self, id: u32, to: SocketAddr, message: &[u8]) {
        let Some(session) = self.sessions.find(id) else { return };
        let console = session.console;
        if let Stage::Active(active) = &mut session.stage {
            let bytes = active.seal(console, 0x00, message);
            self.send(to, bytes);
        }
    }
}
