//! The login phase (RFC 7143 section 6.3): names, authentication, operational parameters.
//!
//! A state machine without I/O: one request in, one [`Step`] out. It asks [`Exports`] as soon as the
//! names are known. Whichever stage the initiator begins with, the one transition into the full
//! feature phase is in [`Login::step`], and it checks that authentication is done.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::net::SocketAddr;

use crate::chap::{self, Challenge};
use crate::exports::{Admission, Authentication, Chap, Exports, Grant, LoginRequest, Refusal};
use crate::negotiate::{OUR_MAX_RECV, Params};
use crate::pdu::{Bhs, Pdu, flag, request, response};
use crate::text;

/// The portal group that every portal of ours belongs to.
pub(crate) const PORTAL_GROUP: u16 = 1;

/// Login status class and detail (RFC 7143 section 11.13.5).
pub(crate) mod status {
    pub(crate) const INITIATOR_ERROR: u16 = 0x0200;
    pub(crate) const AUTHENTICATION_FAILED: u16 = 0x0201;
    pub(crate) const NOT_AUTHORIZED: u16 = 0x0202;
    pub(crate) const NOT_FOUND: u16 = 0x0203;
    pub(crate) const UNSUPPORTED_VERSION: u16 = 0x0205;
    pub(crate) const TOO_MANY_CONNECTIONS: u16 = 0x0206;
    pub(crate) const MISSING_PARAMETER: u16 = 0x0207;
    pub(crate) const NO_SESSION_TYPE: u16 = 0x0209;
    pub(crate) const NO_SUCH_SESSION: u16 = 0x020a;
    pub(crate) const INVALID_DURING_LOGIN: u16 = 0x020b;
    pub(crate) const UNAVAILABLE: u16 = 0x0301;
    pub(crate) const OUT_OF_RESOURCES: u16 = 0x0302;
}

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// What follows from a request. Sequence numbers are the caller's to fill in.
#[derive(Debug)]
pub(crate) enum Step {
    /// The login goes on.
    Reply(Bhs, Vec<u8>),
    /// This reply ends the login, and the session begins.
    Done(Bhs, Vec<u8>, Box<Established>),
    /// The login has failed with this status; the connection ends after saying so.
    Refuse(u16),
}

/// What was agreed.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) initiator: String,
    pub(crate) kind: Kind,
    pub(crate) params: Params,
    pub(crate) port: Port,
}

/// What the session is for.
#[derive(Debug)]
pub(crate) enum Kind {
    /// It may only ask for target names.
    Discovery,
    /// It reads one disk.
    Normal { target: String, grant: Grant },
}

/// The initiator's end of the session, from the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) isid: [u8; 6],
    pub(crate) tsih: u16,
    pub(crate) cid: u16,
}

/// How far authentication is.
#[derive(Debug)]
enum Auth {
    /// No secret is needed, or it was proved.
    Passed,
    /// Nothing proved yet, and nothing needs to be; `AuthMethod` may come.
    Optional(Chap),
    /// Nothing proved yet; `AuthMethod` must come.
    Required(Chap),
    /// CHAP is agreed; `CHAP_A` must come.
    Agreed(Chap),
    /// The challenge is out; name and response must come.
    Challenged(Chap, Challenge),
}

impl Auth {
    /// Whether the session may begin.
    fn is_done(&self) -> bool {
        match self {
            Self::Passed | Self::Optional(_) => true,
            Self::Required(_) | Self::Agreed(_) | Self::Challenged(..) => false,
        }
    }
}

/// A login under way.
pub(crate) struct Login<'a> {
    exports: &'a dyn Exports,
    peer: SocketAddr,
    stage: u8,
    port: Option<Port>,
    who: Option<(String, Kind)>,
    auth: Auth,
    params: Params,
    /// Text of a request that goes on in the next PDU.
    partial: Vec<u8>,
    /// The rest of an answer too long for one PDU, and the flags of its last PDU.
    rest: Option<(Vec<u8>, u8)>,
}

impl<'a> Login<'a> {
    pub(crate) fn new(exports: &'a dyn Exports, peer: SocketAddr) -> Self {
        Self {
            exports,
            peer,
            stage: SECURITY,
            port: None,
            who: None,
            auth: Auth::Passed,
            params: Params::default(),
            partial: Vec::new(),
            rest: None,
        }
    }

    /// Takes one PDU of the login phase.
    pub(crate) fn step(&mut self, pdu: &Pdu) -> Step {
        self.try_step(pdu).unwrap_or_else(Step::Refuse)
    }

    fn try_step(&mut self, pdu: &Pdu) -> Result<Step, u16> {
        let bhs = &pdu.bhs;
        let (transit, more) = (bhs.flags() & flag::FINAL != 0, bhs.flags() & flag::CONTINUE != 0);
        let (current, next) = (bhs.flags() >> 2 & 3, bhs.flags() & 3);
        self.check_header(bhs, transit, more, current, next)?;

        if let Some((rest, flags)) = self.rest.take() {
            // The initiator asks for the rest of our answer by an empty request.
            return if pdu.data.is_empty() {
                self.reply(bhs, rest, flags)
            } else {
                Err(status::INITIATOR_ERROR)
            };
        }
        if self.partial.len() + pdu.data.len() > text::MAX_TEXT {
            return Err(status::INITIATOR_ERROR);
        }
        self.partial.extend_from_slice(&pdu.data);
        if more {
            return self.reply(bhs, Vec::new(), current << 2);
        }
        let collected = std::mem::take(&mut self.partial);
        let pairs = text::parse(&collected).ok_or(status::INITIATOR_ERROR)?;

        let mut out = Vec::new();
        if self.who.is_none() {
            self.introduce(&pairs, &mut out)?;
        }
        if current == SECURITY {
            self.authenticate(&pairs, &mut out)?;
        } else if !self.auth.is_done() {
            // It began with the operational stage, or left security without proof.
            return Err(status::AUTHENTICATION_FAILED);
        }
        for (key, value) in &pairs {
            if *key != "AuthMethod" && !key.starts_with("CHAP_") {
                self.params.answer(key, value, &mut out).map_err(|_| status::INITIATOR_ERROR)?;
            }
        }
        if current == OPERATIONAL {
            self.params.declare(&mut out);
        }
        let flags = match transit {
            true if self.auth.is_done() => flag::FINAL | current << 2 | next,
            true if !matches!(self.auth, Auth::Agreed(_) | Auth::Challenged(..)) => {
                return Err(status::AUTHENTICATION_FAILED);
            }
            _ => current << 2,
        };
        self.reply(bhs, out, flags)
    }

    fn check_header(
        &mut self,
        bhs: &Bhs,
        transit: bool,
        more: bool,
        current: u8,
        next: u8,
    ) -> Result<(), u16> {
        if bhs.opcode() != request::LOGIN {
            return Err(status::INVALID_DURING_LOGIN);
        }
        if bhs.byte(3) > 0 {
            return Err(status::UNSUPPORTED_VERSION);
        }
        let port = Port { isid: bhs.array(8), tsih: bhs.u16(14), cid: bhs.u16(20) };
        match self.port {
            None if current <= OPERATIONAL => {
                self.port = Some(port);
                self.stage = current;
            }
            Some(first) if first == port && current == self.stage => {}
            _ => return Err(status::INITIATOR_ERROR),
        }
        let forward = next > current && matches!(next, OPERATIONAL | FULL_FEATURE);
        if transit && (more || !forward) {
            return Err(status::INITIATOR_ERROR);
        }
        Ok(())
    }

    /// The first request says who is there and what it wants.
    fn introduce(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), u16> {
        let initiator = text::find(pairs, "InitiatorName").filter(|name| is_name(name));
        let initiator = initiator.ok_or(status::MISSING_PARAMETER)?.to_owned();
        match text::find(pairs, "SessionType").unwrap_or("Normal") {
            "Discovery" => self.who = Some((initiator, Kind::Discovery)),
            "Normal" => {
                let target = text::find(pairs, "TargetName").filter(|name| is_name(name));
                let target = target.ok_or(status::MISSING_PARAMETER)?.to_owned();
                let asked =
                    LoginRequest { initiator: &initiator, target: &target, peer: self.peer };
                let mut grant = match self.exports.admit(&asked) {
                    Admission::Granted(grant) => grant,
                    Admission::Refused(Refusal::NotFound) => return Err(status::NOT_FOUND),
                    Admission::Refused(Refusal::NotAuthorized) => {
                        return Err(status::NOT_AUTHORIZED);
                    }
                    Admission::Refused(Refusal::Unavailable) => return Err(status::UNAVAILABLE),
                };
                // The secret is the login's and not the session's.
                let asked = std::mem::replace(&mut grant.authentication, Authentication::None);
                self.auth = match asked {
                    Authentication::None => Auth::Passed,
                    Authentication::Optional(chap) => Auth::Optional(chap),
                    Authentication::Required(chap) => Auth::Required(chap),
                };
                text::push(out, "TargetPortalGroupTag", &PORTAL_GROUP.to_string());
                self.who = Some((initiator, Kind::Normal { target, grant }));
            }
            _ => return Err(status::NO_SESSION_TYPE),
        }
        Ok(())
    }

    /// The security keys of one request.
    fn authenticate(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), u16> {
        let value = |key| text::find(pairs, key);
        self.auth = match std::mem::replace(&mut self.auth, Auth::Passed) {
            Auth::Passed => {
                if let Some(list) = value("AuthMethod") {
                    if !text::offers(list, "None") {
                        return Err(status::AUTHENTICATION_FAILED);
                    }
                    text::push(out, "AuthMethod", "None");
                }
                Auth::Passed
            }
            Auth::Optional(chap) => match value("AuthMethod") {
                Some(list) => match list.split(',').find(|m| ["CHAP", "None"].contains(m)) {
                    Some("CHAP") => {
                        text::push(out, "AuthMethod", "CHAP");
                        Auth::Agreed(chap)
                    }
                    Some(_) => {
                        text::push(out, "AuthMethod", "None");
                        Auth::Passed
                    }
                    None => return Err(status::AUTHENTICATION_FAILED),
                },
                None => Auth::Optional(chap),
            },
            Auth::Required(chap) => match value("AuthMethod") {
                Some(list) if text::offers(list, "CHAP") => {
                    text::push(out, "AuthMethod", "CHAP");
                    Auth::Agreed(chap)
                }
                Some(_) => return Err(status::AUTHENTICATION_FAILED),
                None => Auth::Required(chap),
            },
            Auth::Agreed(chap) => match value("CHAP_A") {
                // 5 is MD5.
                Some(list) if text::offers(list, "5") => {
                    let challenge = Challenge::random();
                    text::push(out, "CHAP_A", "5");
                    text::push(out, "CHAP_I", &challenge.id.to_string());
                    text::push(out, "CHAP_C", &chap::encode(&challenge.bytes));
                    Auth::Challenged(chap, challenge)
                }
                Some(_) => return Err(status::AUTHENTICATION_FAILED),
                None => Auth::Agreed(chap),
            },
            Auth::Challenged(chap, challenge) => {
                let name = value("CHAP_N").ok_or(status::AUTHENTICATION_FAILED)?;
                let proof = value("CHAP_R").and_then(chap::decode);
                let proof = proof.ok_or(status::AUTHENTICATION_FAILED)?;
                if !challenge.is_met(&chap, name, &proof) {
                    return Err(status::AUTHENTICATION_FAILED);
                }
                if let Some(id) = value("CHAP_I") {
                    self.prove(id, value("CHAP_C"), &challenge, out)?;
                }
                Auth::Passed
            }
        };
        Ok(())
    }

    /// Answers the initiator's own challenge (mutual CHAP).
    fn prove(
        &self,
        id: &str,
        bytes: Option<&str>,
        ours: &Challenge,
        out: &mut Vec<u8>,
    ) -> Result<(), u16> {
        let id = text::number(id).and_then(|id| u8::try_from(id).ok());
        let bytes = bytes.and_then(chap::decode);
        let (Some(id), Some(bytes)) = (id, bytes) else {
            return Err(status::AUTHENTICATION_FAILED);
        };
        // Our own challenge sent back would make us compute the answer to it.
        if bytes == ours.bytes {
            return Err(status::AUTHENTICATION_FAILED);
        }
        let Some((initiator, Kind::Normal { target, .. })) = &self.who else {
            return Err(status::AUTHENTICATION_FAILED);
        };
        let chap = self.exports.prove(&LoginRequest { initiator, target, peer: self.peer });
        let chap = chap.ok_or(status::AUTHENTICATION_FAILED)?;
        text::push(out, "CHAP_N", &chap.user);
        text::push(out, "CHAP_R", &chap::encode(&Challenge { id, bytes }.response(&chap)));
        Ok(())
    }

    /// Makes the response, or its next part, and moves to the stage that `flags` promise.
    fn reply(&mut self, bhs: &Bhs, mut out: Vec<u8>, flags: u8) -> Result<Step, u16> {
        if out.len() > OUR_MAX_RECV {
            let rest = out.split_off(OUR_MAX_RECV);
            self.rest = Some((rest, flags));
            let reply = header(bhs, flag::CONTINUE | flags & 0x0c);
            return Ok(Step::Reply(reply, out));
        }
        let reply = header(bhs, flags);
        if flags & flag::FINAL == 0 {
            return Ok(Step::Reply(reply, out));
        }
        self.stage = flags & 3;
        if self.stage != FULL_FEATURE {
            return Ok(Step::Reply(reply, out));
        }
        match (self.auth.is_done(), self.who.take(), self.port) {
            (true, Some((initiator, kind)), Some(port)) => {
                let params = self.params;
                let established = Established { initiator, kind, params, port };
                Ok(Step::Done(reply, out, Box::new(established)))
            }
            _ => Err(status::AUTHENTICATION_FAILED),
        }
    }
}

/// A login response to `bhs` with these flags.
pub(crate) fn header(bhs: &Bhs, flags: u8) -> Bhs {
    Bhs::new(response::LOGIN, flags).put(8, bhs.array::<8>(8)).put_itt(bhs.itt())
}

/// An iSCSI name, as far as it must be checked before it goes into logs and look-ups.
fn is_name(name: &str) -> bool {
    (1..=223).contains(&name.len()) && name.chars().all(|c| !c.is_control() && !c.is_whitespace())
}
