//! One login: Open Session, RAKP messages 1 to 4 (IPMI 2.0 section 13.15). No I/O, no time.
//!
//! A login is used once. Whatever is odd ends it, and the caller begins another with a new session id
//! and new random numbers, so that nothing which was on its way for the old one fits.

use std::sync::Arc;

use crate::{
    account::Account,
    crypto::Keys,
    error::{Error, SuiteRefusal},
    session::Session,
    suite::CipherSuite,
    wire::{
        packet::{self, payload},
        rakp::{self, Reply, status},
    },
};

/// A login under way.
#[derive(Debug)]
pub(crate) struct Handshake {
    account: Arc<Account>,
    suite: CipherSuite,
    console: u32,
    random: [u8; 16],
    tag: u8,
    /// The tag of the first packet.
    first_tag: u8,
    step: Step,
}

/// Which answer is waited for.
#[derive(Debug)]
enum Step {
    OpenResponse,
    Message2 { managed: u32 },
    Message4 { managed: u32, sik: Vec<u8>, guid: [u8; 16] },
}

/// What a packet did to a login.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing: it belongs to no step, or to one that is over.
    Nothing,
    /// The next step: this packet is to be sent.
    Next(Vec<u8>),
    /// It is done.
    Done(Session),
    /// It has failed.
    Failed(Failure),
}

/// Why a login failed, by what is to be done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Begin another: this was odd, or the BMC has no room at the moment.
    Again(Error),
    /// Another suite may do.
    Suite(SuiteRefusal),
    /// Nothing will do until a person has changed something. Trying again may lock the account.
    Final(Error),
}

impl Handshake {
    /// Begins one, and answers its first packet.
    pub(crate) fn begin(account: Arc<Account>, suite: CipherSuite) -> (Self, Vec<u8>) {
        let random = rand::random();
        let tag: u8 = rand::random();
        // Any id but 0, which stands for packets outside of a session.
        let console = rand::random_range(1..=u32::MAX);
        let (first_tag, step) = (tag.wrapping_add(1), Step::OpenResponse);
        let mut handshake = Self { account, suite, console, random, tag, first_tag, step };
        let packet = handshake.first();
        (handshake, packet)
    }

    /// The packet of the present step once more, because no answer has come. It gets a new tag. Of
    /// challenges only the one with the newest tag counts, since a BMC that made two goes on with its last;
    /// of sessions that were opened any does. None
    /// for RAKP message 3: if its answer was lost the BMC's session has begun, and what it makes of
    /// another message 3 is anybody's guess.
    pub(crate) fn again(&mut self) -> Option<Vec<u8>> {
        match self.step {
            Step::OpenResponse => Some(self.first()),
            Step::Message2 { managed } => Some(self.message_1(managed)),
            Step::Message4 { .. } => None,
        }
    }

    /// Whether the present step's packet may be sent again.
    pub(crate) fn can_repeat(&self) -> bool {
        match self.step {
            Step::OpenResponse | Step::Message2 { .. } => true,
            Step::Message4 { .. } => false,
        }
    }

    /// The suite that is proposed.
    pub(crate) fn suite(&self) -> CipherSuite {
        self.suite
    }

    /// A packet that lets the BMC forget its half of a login that is given up.
    pub(crate) fn farewell(&self) -> Option<Vec<u8>> {
        match &self.step {
            Step::OpenResponse => None,
            Step::Message2 { managed } => Some(self.refusal(*managed)),
            // If only the last answer was lost, the BMC's session has begun and can be closed.
            Step::Message4 { managed, sik, .. } => Some(self.session(*managed, sik).farewell()),
        }
    }

    /// Takes a packet that came outside of any session.
    pub(crate) fn receive(&mut self, payload_type: u8, bytes: &[u8]) -> Heard {
        let heard = match (&self.step, payload_type) {
            (Step::OpenResponse, payload::OPEN_RESPONSE) => self.opened(bytes),
            (Step::Message2 { managed }, payload::RAKP_2) => self.challenged(*managed, bytes),
            (Step::Message4 { managed, sik, guid }, payload::RAKP_4) => {
                self.proved(*managed, sik, guid, bytes)
            }
            _ => return Heard::Nothing,
        };
        let Some((heard, next)) = heard else { return Heard::Nothing };
        if let Some(next) = next {
            self.step = next;
        }
        heard
    }

    fn first(&mut self) -> Vec<u8> {
        self.tag = self.tag.wrapping_add(1);
        let privilege = self.account.privilege.code();
        let request = rakp::open_request(self.tag, privilege, self.console, self.suite);
        packet::open(payload::OPEN_REQUEST, &request)
    }

    fn message_1(&mut self, managed: u32) -> Vec<u8> {
        self.tag = self.tag.wrapping_add(1);
        let (role, user) = (self.account.role(), &self.account.user);
        let message = rakp::message_1(self.tag, managed, &self.random, role, user);
        packet::open(payload::RAKP_1, &message)
    }

    /// Section 13.22: with this status the BMC forgets the session that it has begun.
    fn refusal(&self, managed: u32) -> Vec<u8> {
        let message = rakp::message_3(self.tag, status::INVALID_INTEGRITY_VALUE, managed, &[]);
        packet::open(payload::RAKP_3, &message)
    }

    /// Whether it answers the packet that was sent last.
    fn is_newest<T>(&self, reply: &Reply<T>) -> bool {
        reply.tag == self.tag && self.is_mine(reply)
    }

    /// Whether it belongs to this login. Only a refusal may do without our id.
    fn is_mine<T>(&self, reply: &Reply<T>) -> bool {
        reply.console.map_or(reply.outcome.is_err(), |id| id == self.console)
    }

    fn session(&self, managed: u32, sik: &[u8]) -> Session {
        Session::new(self.console, managed, Keys::from_sik(self.suite.hash(), sik))
    }
}

/// What a step makes of an answer that belongs to it, and the step that follows.
type Turn = Option<(Heard, Option<Step>)>;

fn failed(failure: Failure) -> Turn {
    Some((Heard::Failed(failure), None))
}

fn odd(what: &'static str) -> Turn {
    failed(Failure::Again(Error::Garbled(what)))
}

impl Handshake {
    fn opened(&mut self, bytes: &[u8]) -> Turn {
        let response = rakp::open_response(bytes)?;
        let tags = self.tag.wrapping_sub(self.first_tag);
        if response.tag.wrapping_sub(self.first_tag) > tags || !self.is_mine(&response) {
            return None;
        }
        let opened = match response.outcome {
            Ok(opened) => opened,
            Err(code) => return failed(refused(code, &self.account)),
        };
        if opened.algorithms != self.suite.algorithms() {
            return failed(Failure::Suite(SuiteRefusal::Other(opened.algorithms)));
        }
        if opened.managed == 0 {
            return odd("it opened the session 0");
        }
        let managed = opened.managed;
        Some((Heard::Next(self.message_1(managed)), Some(Step::Message2 { managed })))
    }

    /// RAKP message 2 proves that the BMC knows the password (section 13.31); message 3 that we do.
    fn challenged(&mut self, managed: u32, bytes: &[u8]) -> Turn {
        let message = rakp::message_2(bytes)?;
        if !self.is_newest(&message) {
            return None;
        }
        let challenge = match message.outcome {
            Ok(challenge) => challenge,
            Err(code) => return failed(refused(code, &self.account)),
        };
        let (hash, account) = (self.suite.hash(), &*self.account);
        let (ours, theirs) = (self.console.to_le_bytes(), managed.to_le_bytes());
        let role = [account.role()];
        let length = u8::try_from(account.user.len()).unwrap_or(0).to_le_bytes();
        let user = account.user.as_bytes();

        let proof: [&[u8]; 8] = [
            &ours,
            &theirs,
            &self.random,
            &challenge.random,
            &challenge.guid,
            &role,
            &length,
            user,
        ];
        if !hash.verify(&account.password, &proof, challenge.code, hash.length()) {
            return failed(Failure::Final(Error::WrongPassword));
        }

        let code = hash.hmac(&account.password, &[&challenge.random, &ours, &role, &length, user]);
        let key = account.kg.as_ref().map_or(&*account.password, <[u8; 20]>::as_slice);
        let sik = hash.hmac(key, &[&self.random, &challenge.random, &role, &length, user]);
        let guid = challenge.guid;
        self.tag = self.tag.wrapping_add(1);
        let message = rakp::message_3(self.tag, status::OK, managed, &code);
        let next = Step::Message4 { managed, sik, guid };
        Some((Heard::Next(packet::open(payload::RAKP_3, &message)), Some(next)))
    }

    /// RAKP message 4 proves that the BMC has come to the same keys.
    fn proved(&self, managed: u32, sik: &[u8], guid: &[u8; 16], bytes: &[u8]) -> Turn {
        let message = rakp::message_4(bytes)?;
        if !self.is_newest(&message) {
            return None;
        }
        let code = match message.outcome {
            Ok(code) => code,
            // Message 2 has shown that the password is the same; so the BMC means another challenge
            // than the one that we answered, and the next login will do.
            Err(status::INVALID_INTEGRITY_VALUE) => {
                return odd("it took our proof for a wrong one");
            }
            Err(code) => return failed(refused(code, &self.account)),
        };
        let hash = self.suite.hash();
        let proof: [&[u8]; 3] = [&self.random, &managed.to_le_bytes(), guid];
        if !hash.verify(sik, &proof, code, hash.short()) {
            return failed(Failure::Final(Error::WrongKg { given: self.account.kg.is_some() }));
        }
        Some((Heard::Done(self.session(managed, sik)), None))
    }
}

/// What a status code of a refusal means.
fn refused(code: u8, account: &Account) -> Failure {
    match code {
        status::NO_RESOURCES | status::NO_RESOURCES_FOR_ROLE => {
            Failure::Again(Error::Overloaded("no session is free"))
        }
        status::INVALID_ROLE | status::UNAUTHORIZED_ROLE => {
            Failure::Final(Error::Privilege(account.privilege))
        }
        status::INVALID_NAME_LENGTH | status::UNAUTHORIZED_NAME => Failure::Final(Error::WrongUser),
        status::WRONG_AUTHENTICATION
        | status::WRONG_INTEGRITY
        | status::NO_AUTHENTICATION
        | status::NO_INTEGRITY
        | status::WRONG_CONFIDENTIALITY
        | status::NO_SUITE
        | status::ILLEGAL_PARAMETER => Failure::Suite(SuiteRefusal::Status(code)),
        // An id that it does not know, or a code that nobody does: it has lost its thread.
        _ => Failure::Again(Error::Garbled("it refused a login for no reason that we know")),
    }
}
