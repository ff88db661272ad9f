//! Who has an account at the BMC, and how it is in its network [22.23 to 22.29, 23.2].

use std::net::Ipv4Addr;

use super::{
    Bmc,
    command::{Answer, code},
};

/// The only channel of it that is a network.
pub(super) const CHANNEL: u8 = 1;
/// Accounts that it has room for.
const ROOM: u8 = 10;
/// No access [table 22-32].
const NONE: u8 = 0x0F;

/// How a BMC is in its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lan {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether another machine gives it.
    pub dhcp: bool,
    /// The network's mask.
    pub mask: Ipv4Addr,
    /// The way out.
    pub gateway: Ipv4Addr,
    /// The VLAN that it is in.
    pub vlan: Option<u16>,
}

impl Default for Lan {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::new(10, 9, 0, 1),
            dhcp: false,
            mask: Ipv4Addr::new(255, 255, 0, 0),
            gateway: Ipv4Addr::new(10, 9, 255, 254),
            vlan: None,
        }
    }
}

impl Bmc {
    /// [22.23] Always there; up to ADMINISTRATOR.
    pub(super) fn channel_access(&self, data: &[u8]) -> Answer {
        match data {
            [CHANNEL | 0x0E, 0x40 | 0x80] => (code::OK, vec![0x02, 0x04]),
            [_, _] => (code::FIELD, Vec::new()),
            _ => (code::LENGTH, Vec::new()),
        }
    }

    /// [22.27]
    pub(super) fn user_access(&self, data: &[u8]) -> Answer {
        let [CHANNEL | 0x0E, number] = data else { return (code::FIELD, Vec::new()) };
        if *number == 0 || *number > ROOM {
            return (code::FIELD, Vec::new());
        }
        let users = &self.setup.users;
        let count = u8::try_from(users.len()).unwrap_or(ROOM);
        let (status, access) = match users.get(usize::from(*number) - 1) {
            Some(user) => (0x40 | count, 0x30 | user.limit),
            None => (0x80 | count, NONE),
        };
        (code::OK, vec![ROOM, status, 0, access])
    }

    /// [22.29]
    pub(super) fn user_name(&self, data: &[u8]) -> Answer {
        let [number @ 1..=ROOM] = data else { return (code::FIELD, Vec::new()) };
        let user = self.setup.users.get(usize::from(*number) - 1);
        let mut name = user.map(|user| user.name.clone().into_bytes()).unwrap_or_default();
        name.resize(16, 0);
        (code::OK, name)
    }

    /// [23.2, table 23-4]
    pub(super) fn lan_parameter(&self, data: &[u8]) -> Answer {
        let [CHANNEL, parameter, _, _] = data else { return (code::FIELD, Vec::new()) };
        let lan = &self.lan;
        let value = match parameter {
            3 => lan.address.octets().to_vec(),
            4 => vec![if lan.dhcp { 2 } else { 1 }],
            6 => lan.mask.octets().to_vec(),
            12 => lan.gateway.octets().to_vec(),
            20 => lan.vlan.map_or(0, |id| id | 0x8000).to_le_bytes().to_vec(),
            // Of two suites, both for ADMINISTRATOR.
            24 => vec![0, 0x44, 0, 0, 0, 0, 0, 0, 0],
            // Parameter not supported.
            _ => return (0x80, Vec::new()),
        };
        (code::OK, [&[0x11], &value[..]].concat())
    }
}
