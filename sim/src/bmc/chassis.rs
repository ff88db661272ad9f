//! The machine that a BMC switches [28].

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::faults::Faults;

/// How long a machine is off when it is cycled.
const CYCLE: Duration = Duration::from_secs(1);

/// Whether a machine is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    /// It is on.
    On,
    /// It is off.
    #[default]
    Off,
}

#[derive(Debug, Default)]
pub(super) struct Chassis {
    power: PowerState,
    /// When it changed last, and what it was before.
    changed: Option<(Instant, PowerState)>,
    /// What it will be, and from when on.
    planned: Option<(Instant, PowerState)>,
    orders: Vec<String>,
    /// The boot flags [28.13]: five bytes.
    boot: [u8; 5],
}

impl Chassis {
    pub(super) fn orders(&self) -> &[String] {
        &self.orders
    }

    pub(super) fn power(&mut self, now: Instant) -> PowerState {
        if let Some((at, power)) = self.planned
            && at <= now
        {
            self.planned = None;
            self.set(power, at);
        }
        self.power
    }

    pub(super) fn set(&mut self, power: PowerState, now: Instant) {
        if power != self.power {
            self.changed = Some((now, self.power));
            self.power = power;
        }
    }

    /// What the BMC says: for a while the state that it had before.
    pub(super) fn told(&mut self, wrong_for: Duration, now: Instant) -> bool {
        let power = self.power(now);
        let told = match self.changed {
            Some((at, before)) if at + wrong_for > now => before,
            _ => power,
        };
        told == PowerState::On
    }

    /// Chassis Control [28.3]; false if there is no such order.
    pub(super) fn control(&mut self, order: u8, faults: &Faults, now: Instant) -> bool {
        self.power(now);
        let name = match order {
            0 => "off",
            1 => "on",
            2 => "cycle",
            3 => "reset",
            5 => "soft",
            _ => return false,
        };
        self.orders.push(name.to_owned());
        if faults.deaf {
            return true;
        }
        match order {
            0 => self.set(PowerState::Off, now),
            1 => self.set(PowerState::On, now),
            2 => {
                self.set(PowerState::Off, now);
                self.planned = Some((now + CYCLE, PowerState::On));
            }
            5 if !faults.ignores_soft_off => {
                self.planned =
                    Some((now + Duration::from_millis(faults.soft_off_ms), PowerState::Off));
            }
            _ => {}
        }
        true
    }

    pub(super) fn set_boot_option(&mut self, data: &[u8]) -> (u8, Vec<u8>) {
        match data {
            [5, flags @ ..] if flags.len() == 5 => {
                self.boot.copy_from_slice(flags);
                let device = match (flags[1] >> 2) & 0x0F {
                    1 => "pxe",
                    2 => "disk",
                    6 => "bios",
                    _ => "default",
                };
                self.orders.push(format!("boot {device}"));
                (0x00, Vec::new())
            }
            // Set in progress, service partition, BMC boot flag valid, boot info acknowledge.
            [0..=4, _, ..] => (0x00, Vec::new()),
            // Parameter not supported.
            [_, ..] => (0x80, Vec::new()),
            [] => (0xC7, Vec::new()),
        }
    }

    pub(super) fn boot_option(&self, data: &[u8]) -> (u8, Vec<u8>) {
        match data {
            [5, _, _] => (0x00, [&[0x01, 0x05], &self.boot[..]].concat()),
            [0, _, _] => (0x00, vec![0x01, 0x00, 0x00]),
            [_, _, _] => (0x80, Vec::new()),
            _ => (0xC7, Vec::new()),
        }
    }
}
