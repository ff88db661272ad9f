//! From nothing to a session: which suites, then the login.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipmi_rs_core::{
    app::auth::{GetChannelAuthenticationCapabilities, PrivilegeLevel},
    connection::{Channel, IpmiCommand, Message},
};

use super::{Link, Output, Phase, open::Open};
use crate::{
    command::{GetCipherSuites, PIECE, PIECES},
    error::{Error, SuiteRefusal},
    handshake::{Failure, Handshake, Heard},
    options::jittered,
    suite::{self, CipherSuite, Suites},
    wire::{
        message::{self, Response},
        packet::{self, payload},
    },
};

/// How often a BMC is asked for its suites. Some do not answer that, and show what they have when
/// they are asked to log in.
const TRIES: u32 = 2;

/// Asks for the list of cipher suites, piece by piece.
#[derive(Debug)]
pub(super) struct Asking {
    piece: u8,
    records: Vec<u8>,
    number: u8,
    again: Again,
}

/// Logs in.
#[derive(Debug)]
pub(super) struct Opening {
    handshake: Handshake,
    again: Again,
}

/// When a packet is sent again.
#[derive(Debug, Clone, Copy)]
struct Again {
    at: Instant,
    wait: Duration,
    tries: u32,
}

impl Asking {
    pub(super) fn again_at(&self) -> Instant {
        self.again.at
    }

    fn request(&self) -> Vec<u8> {
        let ask = GetCipherSuites { piece: self.piece }.into();
        packet::open(payload::IPMI, &message::request(self.number, &ask))
    }
}

impl Opening {
    pub(super) fn again_at(&self) -> Instant {
        self.again.at
    }

    pub(super) fn farewell(&self) -> Option<Vec<u8>> {
        self.handshake.farewell()
    }
}

impl Link {
    /// Begins a login.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.out.push_back(Output::Connect);
        if self.candidates.is_empty()
            && let Suites::Only(suite) = self.account.suites
        {
            self.candidates = vec![suite];
        }
        if self.candidates.is_empty() {
            self.ask_suites(0, Vec::new(), now);
        } else {
            self.log_in(now);
        }
    }

    fn first_time(&self, now: Instant) -> Again {
        let wait = self.work.as_ref().map(|work| work.first_wait(&self.options));
        let wait = wait.unwrap_or(self.options.first_wait);
        Again { at: now + jittered(wait), wait, tries: 1 }
    }

    fn next_time(&self, again: Again, now: Instant) -> Again {
        let wait = self.options.after(again.wait);
        Again { at: now + jittered(wait), wait, tries: again.tries + 1 }
    }

    fn ask_suites(&mut self, piece: u8, records: Vec<u8>, now: Instant) {
        let number = rand::random_range(0..64);
        let asking = Asking { piece, records, number, again: self.first_time(now) };
        self.send(asking.request());
        self.phase = Phase::Asking(asking);
    }

    pub(super) fn ask_suites_again(&mut self, now: Instant) {
        let Phase::Asking(asking) = &self.phase else { return };
        if asking.again.tries >= TRIES {
            self.try_both(now);
            return;
        }
        let (again, request) = (self.next_time(asking.again, now), asking.request());
        if let Phase::Asking(asking) = &mut self.phase {
            asking.again = again;
        }
        self.repeat(request);
    }

    /// It has no list: the login shows whether it has 17. Only its refusal leads to 3, never silence.
    fn try_both(&mut self, now: Instant) {
        self.candidates = vec![CipherSuite::Seventeen, CipherSuite::Three];
        self.log_in(now);
    }

    pub(super) fn receive_suites(&mut self, bytes: &[u8], now: Instant) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        let ask = Message::from(GetCipherSuites { piece: asking.piece });
        let Some(response) = answer(bytes, &ask).filter(|answer| answer.number == asking.number)
        else {
            return;
        };
        let records = GetCipherSuites::parse_success_response(response.data);
        let piece = match (response.code, records) {
            (0, Ok(records)) => records,
            _ => {
                self.note_heard();
                self.try_both(now);
                return;
            }
        };
        let (next, mut records) = (asking.piece + 1, std::mem::take(&mut asking.records));
        records.extend(&piece);
        self.note_heard();
        if piece.len() >= PIECE && next < PIECES {
            self.ask_suites(next, records, now);
            return;
        }
        self.candidates = suite::offered(&records);
        if records.is_empty() {
            self.try_both(now);
        } else if self.candidates.is_empty() {
            self.give_up(Error::CipherSuite(SuiteRefusal::NotListed), now);
        } else {
            self.log_in(now);
        }
    }

    fn log_in(&mut self, now: Instant) {
        let Some(suite) = self.candidates.first() else { return };
        self.done.logins += 1;
        let (handshake, first) = Handshake::begin(Arc::clone(&self.account), *suite);
        self.phase = Phase::Opening(Opening { handshake, again: self.first_time(now) });
        self.send(first);
    }

    pub(super) fn log_in_again(&mut self, now: Instant) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        let again = opening.again;
        let packet =
            (again.tries < self.options.tries).then(|| opening.handshake.again()).flatten();
        let Some(packet) = packet else {
            self.login_silent(now);
            return;
        };
        let again = self.next_time(again, now);
        if let Phase::Opening(opening) = &mut self.phase {
            opening.again = again;
        }
        self.repeat(packet);
        let last = again.tries == self.options.tries;
        if last && self.work.as_ref().is_some_and(|work| !work.has_heard()) {
            // It may be one that knows nothing but IPMI 1.5. Any BMC answers this one.
            self.send(packet::open_1_5(&message::request(0, &capabilities())));
        }
    }

    fn login_silent(&mut self, now: Instant) {
        if let Some(work) = &mut self.work
            && work.is_dead()
        {
            let silent = work.failure();
            self.give_up(silent, now);
            return;
        }
        self.restart(Error::Garbled("it stopped in the middle of a login, or begins none"), now);
    }

    pub(super) fn receive_capabilities(&mut self, bytes: &[u8], now: Instant) {
        let Some(response) = answer(bytes, &capabilities()).filter(|answer| answer.code == 0)
        else {
            return;
        };
        self.note_heard();
        let read = GetChannelAuthenticationCapabilities::parse_success_response(response.data);
        if read.is_ok_and(|can| !can.ipmi2_connections_supported) {
            self.give_up(Error::OldIpmi, now);
        }
    }

    pub(super) fn receive_login(&mut self, payload_type: u8, bytes: &[u8], now: Instant) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        let suite = opening.handshake.suite();
        match opening.handshake.receive(payload_type, bytes) {
            Heard::Nothing => {}
            Heard::Next(packet) => {
                self.note_heard();
                let mut again = self.first_time(now);
                if let Phase::Opening(opening) = &mut self.phase {
                    if !opening.handshake.can_repeat() {
                        again.at = now + jittered(self.options.longest_wait);
                    }
                    opening.again = again;
                }
                self.send(packet);
            }
            Heard::Done(session) => {
                self.note_heard();
                self.agreed(suite);
                let privilege = self.account.privilege;
                self.phase =
                    Phase::Open(Box::new(Open::new(session, privilege, &self.options, now)));
                self.advance(now);
            }
            Heard::Failed(failure) => {
                self.note_heard();
                self.login_failed(suite, failure, now);
            }
        }
    }

    /// A session without a login.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn open_with(&mut self, session: crate::session::Session, now: Instant) {
        let privilege = crate::account::Privilege::User;
        self.phase = Phase::Open(Box::new(Open::new(session, privilege, &self.options, now)));
    }

    fn agreed(&mut self, suite: CipherSuite) {
        if self.spoken != Some(suite) {
            match (suite, self.account.suites) {
                (CipherSuite::Three, Suites::Best) => {
                    tracing::info!(bmc = %self.bmc, "no cipher suite 17: speaks 3 with this BMC");
                }
                _ => tracing::debug!(bmc = %self.bmc, %suite, "cipher suite agreed"),
            }
        }
        self.spoken = Some(suite);
        self.candidates = vec![suite];
    }

    fn login_failed(&mut self, suite: CipherSuite, failure: Failure, now: Instant) {
        let error = match failure {
            Failure::Again(error) => {
                self.restart(error, now);
                return;
            }
            Failure::Final(error) => error,
            Failure::Suite(refusal) if self.spoken == Some(CipherSuite::Seventeen) => {
                Error::Downgrade(refusal)
            }
            Failure::Suite(refusal) => {
                self.candidates.retain(|candidate| *candidate != suite);
                if !self.candidates.is_empty() {
                    self.log_in(now);
                    return;
                }
                Error::CipherSuite(refusal)
            }
        };
        self.give_up(error, now);
    }

    pub(super) fn note_heard(&mut self) {
        if let Some(work) = &mut self.work {
            work.heard();
        }
    }
}

/// Section 22.13, on this channel.
fn capabilities() -> Message {
    GetChannelAuthenticationCapabilities::new(Channel::Current, PrivilegeLevel::Administrator)
        .into()
}

/// An answer to this command.
fn answer<'a>(bytes: &'a [u8], to: &Message) -> Option<Response<'a>> {
    let response = message::parse(bytes)?;
    let fits = (response.netfn, response.command) == (to.netfn_raw() | 1, to.cmd());
    fits.then_some(response)
}
