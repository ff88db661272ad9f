//! What the target asks its owner: who may log in to what, with which secret and which limits.
//!
//! Nothing here speaks the protocol. The owner answers from memory, since the question is asked on
//! the connection's task.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::lun::Lun;

/// Asked at each login, re-login and discovery. Must not block (answers come from memory).
pub trait Exports: Send + Sync + 'static {
    /// May this initiator log in to this target from that address, and what does it get?
    fn admit(&self, request: &LoginRequest<'_>) -> Admission;

    /// Names of the targets this initiator may see from that peer (SendTargets).
    fn discover(&self, initiator: &str, peer: SocketAddr) -> Vec<String>;

    /// Where that peer can reach the targets, the best first (SendTargets). It has come in at `here`,
    /// which is the answer where there is nothing else to say.
    fn portals(&self, _peer: SocketAddr, here: SocketAddr) -> Vec<SocketAddr> {
        vec![here]
    }

    /// The name and secret by which the target proves itself to an initiator that asks for it
    /// (mutual CHAP). Without one, such an initiator is refused. It must differ from the secret in
    /// the [`Grant`] (RFC 7143 section 12.1.3).
    fn prove(&self, _request: &LoginRequest<'_>) -> Option<Chap> {
        None
    }
}

/// One login, as far as it is known before authentication.
#[derive(Debug, Clone, Copy)]
pub struct LoginRequest<'a> {
    /// `InitiatorName`, as the initiator spelled it.
    pub initiator: &'a str,
    /// `TargetName`.
    pub target: &'a str,
    /// The address the connection comes from.
    pub peer: SocketAddr,
}

/// The answer to a login.
#[derive(Debug)]
pub enum Admission {
    /// The login goes on; by [`Grant::authentication`] only after the initiator has proved itself.
    Granted(Grant),
    /// The login ends with the matching status.
    Refused(Refusal),
}

/// Why a login is refused, in the initiator's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such target (status 0203). Initiators give up.
    NotFound,
    /// The target exists, but not for this initiator (status 0202). Initiators give up.
    NotAuthorized,
    /// The target will be known in a moment (status 0301). Initiators try again.
    Unavailable,
}

/// What a session may have.
#[derive(Debug)]
pub struct Grant {
    /// The disk, always LUN 0.
    pub lun: Arc<Lun>,
    /// What the initiator must prove before its session begins.
    pub authentication: Authentication,
    /// Classes share the target fairly, and within a class its sessions do. Opaque to the target;
    /// `u64::MAX` is the target's own.
    pub class: u64,
    /// Bounds of the whole class. Those of the last login hold.
    pub class_limits: ClassLimits,
    /// Bounds of this session.
    pub limits: Limits,
    /// Told of the session's life and reads, on the session's task: it must not block.
    pub observer: Option<Arc<dyn SessionObserver>>,
}

/// Bounds of one session.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Commands that the initiator may have under way (kept within 1 and 1024).
    pub command_window: u32,
    /// Bytes that a session may send in a second, averaged over a tenth of it; `None` is all there is.
    /// An initiator gives up a command after a time (Linux after 30 s) and reads up to a MiB with
    /// one and many at once, so that less than some MiB makes a busy session fail, and is no way to
    /// refuse one.
    pub bytes_per_second: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { command_window: 128, bytes_per_second: None }
    }
}

/// Bounds of all sessions of a class together; `None` is no bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClassLimits {
    /// Sessions at once. Further logins are told that the target is out of resources (status 0302),
    /// which initiators take as a reason to try again later.
    pub sessions: Option<u32>,
    /// Commands under way, shared evenly among the sessions; each has at least one.
    pub commands: Option<u32>,
    /// Bytes in a second, averaged over a tenth of it, for all sessions: what is said of
    /// [`Limits::bytes_per_second`] holds for each one's part.
    pub bytes_per_second: Option<u64>,
}

/// What an initiator proves before its session begins.
#[derive(Debug, Clone)]
pub enum Authentication {
    /// Nothing.
    None,
    /// That it knows this secret, if it would rather do so; else nothing. Who offers both methods, CHAP
    /// first, and does not know the secret is refused.
    Optional(Chap),
    /// That it knows this secret.
    Required(Chap),
}

/// A CHAP name and its secret.
#[derive(Debug, Clone)]
pub struct Chap {
    /// `CHAP_N`.
    pub user: String,
    /// What both sides know. RFC 7143 wants at least 12 bytes.
    pub secret: Secret,
}

/// A secret that never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Told what a session does.
///
/// For two sessions of the same initiator port (a re-login) the old one's `closed` comes before the
/// new one's `opened`, unless the old one could not be ended within a second.
pub trait SessionObserver: Send + Sync + fmt::Debug {
    /// The login succeeded.
    fn opened(&self) {}
    /// A READ was accepted: `blocks` blocks of 512 bytes from `lba` on.
    fn read(&self, _lba: u64, _blocks: u32) {}
    /// It was answered with so many bytes. The time runs from its arrival until its last byte was
    /// handed to the socket.
    fn answered(&self, _bytes: u64, _took: Duration) {}
    /// A command ended in CHECK CONDITION with this sense key, code and qualifier.
    fn failed(&self, _sense: [u8; 3]) {}
    /// The session is over, for whatever reason.
    fn closed(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows() {
        let chap = Chap { user: "node1".into(), secret: Secret::new("open sesame") };
        let shown = format!("{chap:?}");
        assert!(shown.contains("***") && !shown.contains("sesame"), "{shown}");
    }
}
