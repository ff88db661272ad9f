//! The console's payload, begun and ended, and whose it is: IPMI 2.0 sections 24.1, 24.2 and 24.4.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

/// Completion code of Activate Payload: somebody's session has it.
pub(crate) const PAYLOAD_ACTIVE: u8 = 0x80;

/// Payload type SOL, first instance.
const SOL: [u8; 2] = [1, 1];

#[derive(Debug)]
pub(crate) struct Activate;

/// What a BMC says of a payload that it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activated {
    /// Bytes that the BMC takes in one payload, the four of its header among them.
    pub(crate) longest: u16,
    /// The UDP port on which it wants the payload; some say 0 for the one that is used already.
    pub(crate) port: u16,
}

impl From<Activate> for Message {
    fn from(_: Activate) -> Self {
        // Table 24-2: encrypted and authenticated as the session is; no alerts while it is on.
        Self::new_request(NetFn::App, 0x48, [&SOL[..], &[0xC0, 0, 0, 0]].concat())
    }
}

impl IpmiCommand for Activate {
    type Output = Activated;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<Activated, NotEnoughData> {
        let (_auxiliary, rest) = data.split_first_chunk::<4>().ok_or(NotEnoughData)?;
        let [i0, i1, _, _, p0, p1] = rest.first_chunk::<6>().ok_or(NotEnoughData)?;
        let (longest, port) = (u16::from_le_bytes([*i0, *i1]), u16::from_le_bytes([*p0, *p1]));
        Ok(Activated { longest, port })
    }
}

#[derive(Debug)]
pub(crate) struct Deactivate;

impl From<Deactivate> for Message {
    fn from(_: Deactivate) -> Self {
        Self::new_request(NetFn::App, 0x49, [&SOL[..], &[0; 4]].concat())
    }
}

/// Asks which session has it.
#[derive(Debug)]
pub(crate) struct GetHolder;

impl From<GetHolder> for Message {
    fn from(_: GetHolder) -> Self {
        Self::new_request(NetFn::App, 0x4B, SOL.to_vec())
    }
}

impl IpmiCommand for GetHolder {
    /// The session's id; 0 where none has it.
    type Output = u32;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<u32, NotEnoughData> {
        data.first_chunk().map(|id| u32::from_le_bytes(*id)).ok_or(NotEnoughData)
    }
}
