//! How a BMC, and the network before it, misbehave; and what the BMC was asked.

use serde::{Deserialize, Serialize};

/// Nothing of this, by default. Shares are of all packets, each way, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Share of packets that are lost.
    pub lost: f64,
    /// Share of packets that come twice.
    pub duplicated: f64,
    /// Share of packets that come later, by up to `delay_ms`.
    pub delayed: f64,
    /// How much later at most.
    pub delay_ms: u64,
    /// Share of packets that are overtaken by the next one.
    pub reordered: f64,
    /// No session is free.
    pub sessions_full: bool,
    /// Every command of the chassis is answered with "node busy".
    pub busy: bool,
    /// For how long the BMC tells the old power state after a change.
    pub wrong_state_ms: u64,
    /// The operating system does not listen to ACPI's button.
    pub ignores_soft_off: bool,
    /// How long it takes to end if it does.
    pub soft_off_ms: u64,
    /// The BMC takes orders for the chassis and does nothing, until it is started anew.
    pub deaf: bool,
    /// The BMC answers nothing at all.
    pub hangs: bool,
    /// It does not answer Get Channel Cipher Suites.
    pub no_suite_list: bool,
    /// It does not tell who has accounts, nor how it is in its network.
    pub tells_no_accounts: bool,
    /// How long each answer takes.
    pub slow_ms: u64,
    /// It answers no more bytes of a sensor's record at once; 0 is no bound.
    pub piece: u8,
}

/// What a BMC was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets that came.
    pub packets: u64,
    /// Packets that were lost, both ways.
    pub lost: u64,
    /// Commands that were asked outside of any session.
    pub outside: u64,
    /// Logins that were begun.
    pub logins: u64,
    /// Sessions that were opened.
    pub opened: u64,
    /// Sessions that were closed by their consoles.
    pub closed: u64,
    /// Commands in sessions.
    pub commands: u64,
    /// Get Chassis Status among them.
    pub status: u64,
    /// Chassis Control among them.
    pub control: u64,
    /// Cold resets among them.
    pub resets: u64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            lost: self.lost + other.lost,
            outside: self.outside + other.outside,
            logins: self.logins + other.logins,
            opened: self.opened + other.opened,
            closed: self.closed + other.closed,
            commands: self.commands + other.commands,
            status: self.status + other.status,
            control: self.control + other.control,
            resets: self.resets + other.resets,
        }
    }
}
