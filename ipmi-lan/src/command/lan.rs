//! How a BMC is in its network: IPMI 2.0 section 23.2 and table 23-4.

use std::net::Ipv4Addr;

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

/// Section 23.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetLanParameter {
    /// The channel.
    pub channel: u8,
    /// What of it.
    pub parameter: LanParameter,
}

/// A parameter of table 23-4. Those that are secrets, or may be, are not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanParameter {
    /// The address.
    Address,
    /// Where it comes from.
    Source,
    /// The network's mask.
    Mask,
    /// The way out.
    Gateway,
    /// The VLAN.
    Vlan,
    /// What may be done with each cipher suite.
    SuitePrivileges,
}

impl LanParameter {
    fn number(self) -> u8 {
        match self {
            Self::Address => 3,
            Self::Source => 4,
            Self::Mask => 6,
            Self::Gateway => 12,
            Self::Vlan => 20,
            Self::SuitePrivileges => 24,
        }
    }
}

/// The bytes of a parameter, behind its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanValue(pub Vec<u8>);

impl LanValue {
    /// As an address.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.0.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))
    }

    /// As where an address comes from, in a word.
    pub fn source(&self) -> Option<&'static str> {
        Some(match self.0.first()? & 0x0F {
            1 => "static",
            2 => "DHCP",
            3 => "the machine's firmware",
            4 => "another protocol",
            _ => "unspecified",
        })
    }

    /// As a VLAN: its number, where there is one.
    pub fn vlan(&self) -> Option<Option<u16>> {
        let id = u16::from_le_bytes(*self.0.first_chunk()?);
        Some((id & 0x8000 != 0).then_some(id & 0x0FFF))
    }

    /// As the privilege of each of 16 cipher suites, in the order of the BMC's list: four bits each, behind
    /// a reserved byte.
    pub fn suite_privileges(&self) -> Option<[u8; 16]> {
        let packed = self.0.get(1..9)?;
        let mut levels = [0; 16];
        for (pair, byte) in levels.chunks_exact_mut(2).zip(packed) {
            if let [low, high] = pair {
                (*low, *high) = (byte & 0x0F, byte >> 4);
            }
        }
        Some(levels)
    }
}

impl From<GetLanParameter> for Message {
    fn from(GetLanParameter { channel, parameter }: GetLanParameter) -> Self {
        Self::new_request(NetFn::Transport, 0x02, vec![channel & 0x0F, parameter.number(), 0, 0])
    }
}

impl IpmiCommand for GetLanParameter {
    type Output = LanValue;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<LanValue, NotEnoughData> {
        let (_revision, value) = data.split_first().ok_or(NotEnoughData)?;
        Ok(LanValue(value.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_standard_has_them() {
        let value = |bytes: &[u8]| {
            GetLanParameter::parse_success_response(&[&[0x11], bytes].concat()).unwrap()
        };
        assert_eq!(value(&[10, 0, 0, 4]).address(), Some(Ipv4Addr::new(10, 0, 0, 4)));
        assert_eq!(value(&[0x01]).source(), Some("static"));
        assert_eq!(value(&[0x64, 0x80]).vlan(), Some(Some(100)));
        assert_eq!(value(&[0x64, 0x00]).vlan(), Some(None));
        let levels = value(&[0, 0x40, 0x34, 0, 0, 0, 0, 0, 0x10]).suite_privileges().unwrap();
        assert_eq!((levels[0], levels[1], levels[2], levels[3], levels[15]), (0, 4, 4, 3, 1));
        // One that is too short says nothing.
        let short = value(&[]);
        assert_eq!((short.address(), short.source(), short.vlan()), (None, None, None));
        assert_eq!(short.suite_privileges(), None);
        assert!(GetLanParameter::parse_success_response(&[]).is_err());
    }
}
