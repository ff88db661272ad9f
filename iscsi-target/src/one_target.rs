//! The simplest owner: one target with one disk, the same for everybody who may log in.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::exports::{
    Admission, Authentication, Chap, ClassLimits, Exports, Grant, Limits, LoginRequest, Refusal,
};
use crate::lun::Lun;

/// One target. Set the fields to say who may log in.
///
/// ```no_run
/// use iscsi_target::{Chap, Lun, LunIdentity, OneTarget, Secret};
///
/// # fn main() -> std::io::Result<()> {
/// let lun = Lun::open("disk.img", LunIdentity::from_path("disk.img")?)?;
/// let mut target = OneTarget::new("iqn.2026-01.org.example:disk", lun);
/// target.initiators = vec!["iqn.2026-01.org.example:node1".into()];
/// target.chap = Some(Chap { user: "node1".into(), secret: Secret::new("open sesame 123") });
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct OneTarget {
    /// Its name, an IQN.
    pub name: String,
    /// The disk, LUN 0.
    pub lun: Arc<Lun>,
    /// The initiators that may log in; anyone if there is none.
    pub initiators: Vec<String>,
    /// What an initiator must prove to know.
    pub chap: Option<Chap>,
    /// What the target proves to know to an initiator that asks for it (mutual CHAP).
    pub mutual_chap: Option<Chap>,
    /// Bounds of each session.
    pub limits: Limits,
    /// Where it listens, which discovery tells to who can reach it.
    pub portals: Vec<SocketAddr>,
}

impl OneTarget {
    /// A target that lets in everybody, without a secret.
    pub fn new(name: impl Into<String>, lun: Lun) -> Self {
        Self {
            name: name.into(),
            lun: Arc::new(lun),
            initiators: Vec::new(),
            chap: None,
            mutual_chap: None,
            limits: Limits::default(),
            portals: Vec::new(),
        }
    }

    fn allows(&self, initiator: &str) -> bool {
        self.initiators.is_empty() || self.initiators.iter().any(|name| name == initiator)
    }
}

impl Exports for OneTarget {
    fn admit(&self, request: &LoginRequest<'_>) -> Admission {
        if request.target != self.name {
            return Admission::Refused(Refusal::NotFound);
        }
        if !self.allows(request.initiator) {
            return Admission::Refused(Refusal::NotAuthorized);
        }
        Admission::Granted(Grant {
            lun: Arc::clone(&self.lun),
            authentication: self
                .chap
                .clone()
                .map_or(Authentication::None, Authentication::Required),
            class: class_of(request.initiator),
            class_limits: ClassLimits::default(),
            limits: self.limits,
            observer: None,
        })
    }

    fn discover(&self, initiator: &str, _peer: SocketAddr) -> Vec<String> {
        if self.allows(initiator) { vec![self.name.clone()] } else { Vec::new() }
    }

    fn portals(&self, _peer: SocketAddr, here: SocketAddr) -> Vec<SocketAddr> {
        // What listens on any address cannot be told to others; `here` is how the peer found it.
        let others = self.portals.iter().filter(|portal| !portal.ip().is_unspecified());
        let reachable = others.filter(|other| **other != here && other.is_ipv4() == here.is_ipv4());
        std::iter::once(here).chain(reachable.copied()).collect()
    }

    fn prove(&self, _request: &LoginRequest<'_>) -> Option<Chap> {
        self.mutual_chap.clone()
    }
}

/// Initiators share the target fairly by their naming authority, which is what stands before the colon.
fn class_of(initiator: &str) -> u64 {
    let authority = initiator.split(':').next().unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    authority.hash(&mut hasher);
    hasher.finish() >> 1
}
