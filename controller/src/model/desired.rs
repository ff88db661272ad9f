//! Desired states: rows that are only ever added. A rollback adds a row that copies an older one.

use haas_api::names::Digest;

use super::Micros;

words! {
    /// What a node starts from once, out of haasd's hands.
    BootOnce {
        /// The setup of its firmware, where a person goes on.
        Bios = "bios",
        /// Its first disk.
        Disk = "disk",
    }
}

/// What is wanted of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Counts the node's desired states, from 1.
    pub generation: i64,
    /// What is wanted.
    pub wanted: NewDesired,
    /// When it was asked for, wall clock.
    pub created_at: Micros,
}

impl Desired {
    /// Who has the node, by the id of a user or project; none: nobody, since it is to be off, or a
    /// spare.
    pub fn tenant(&self) -> Option<&str> {
        let tenant = self.wanted.tenant.as_str();
        (self.wanted.power_on && !tenant.is_empty()).then_some(tenant)
    }
}

/// What is wanted of a node, before it has its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDesired {
    /// Whether the node should be on.
    pub power_on: bool,
    /// The image; kept while the node is off, so that `power on` knows it.
    pub image: Option<ImageWanted>,
    /// The overlay's id; none is RAM.
    pub overlay_id: Option<String>,
    /// The node's place in the overlay or, in RAM, in the set; from 0.
    pub rank: u32,
    /// Whether the system runs without the overlay, which is only mounted to be mended.
    pub rescue: bool,
    /// Whether the caller accepted that people are logged in, or that something foreign runs.
    pub forced: bool,
    /// Whether an image and overlay that already run are booted again.
    pub reboot: bool,
    /// What the node starts from this once, out of haasd's hands.
    pub boot_once: Option<BootOnce>,
    /// The boot whose system may start the next kernel in place of the firmware: what runs there has the
    /// same owner (ADR 0011).
    pub kexec_from: Option<String>,
    /// `switch`, `rollback` or `power`.
    pub cause: String,
    /// Who asked.
    pub actor: String,
    /// Who asked, by the immutable id.
    pub actor_id: String,
    /// Whose the node is while it is on, by the id of a user or project; empty for a spare, which is
    /// nobody's.
    pub tenant: String,
    /// The operation that it belongs to.
    pub operation_id: Option<String>,
}

impl NewDesired {
    /// Whether both mean the same running system, whoever has it.
    pub fn is_same_system(&self, other: &Self) -> bool {
        self.image.as_ref().map(|i| &i.digest) == other.image.as_ref().map(|i| &i.digest)
            && self.overlay_id == other.overlay_id
            && self.rank == other.rank
            && self.rescue == other.rescue
    }
}

/// An image as it was asked for, and what that meant at the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageWanted {
    /// The image.
    pub digest: Digest,
    /// `name:tag` or the digest, for people.
    pub name: String,
}
