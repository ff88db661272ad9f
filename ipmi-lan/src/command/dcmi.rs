//! What the machine draws: DCMI 1.5, a group extension of IPMI.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

/// The network function of group extensions (IPMI 2.0 section 5.1), and DCMI's number among them.
const GROUP_EXTENSION: u8 = 0x2C;
const DCMI: u8 = 0xDC;

/// DCMI section 6.6.1: the power of the whole machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetPowerReading;

impl From<GetPowerReading> for Message {
    fn from(_: GetPowerReading) -> Self {
        // Mode 1, "system power statistics", which has no attributes; the last byte is reserved.
        Self::new_request(NetFn::Reserved(GROUP_EXTENSION), 0x02, vec![DCMI, 0x01, 0x00, 0x00])
    }
}

impl IpmiCommand for GetPowerReading {
    /// Watts at this moment; none where the BMC does not measure now.
    type Output = Option<u16>;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<Option<u16>, NotEnoughData> {
        // DCMI's number; watts now, least, most and average; a time stamp; the time that the statistics
        // are of; and a state whose bit 6 says that power is measured.
        let [_dcmi, w0, w1, ..] = data.first_chunk::<17>().ok_or(NotEnoughData)?;
        let is_measured = data.get(17).ok_or(NotEnoughData)? & 0x40 != 0;
        Ok(is_measured.then_some(u16::from_le_bytes([*w0, *w1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watts_are_asked_for_as_dcmi_has_it() {
        let message = Message::from(GetPowerReading);
        assert_eq!((message.netfn_raw(), message.cmd()), (0x2C, 0x02));
        assert_eq!(message.data(), [0xDC, 1, 0, 0]);
    }

    #[test]
    fn watts_are_what_is_measured_now_and_only_while_it_is() {
        let answer = |state| {
            // 212 W now, 8 least, 300 most, 190 on average.
            let mut data = vec![0xDC, 0xD4, 0, 8, 0, 0x2C, 1, 0xBE, 0];
            data.extend([0; 4]);
            data.extend(1_000_u32.to_le_bytes());
            data.push(state);
            data
        };
        let read = GetPowerReading::parse_success_response;
        assert_eq!(read(&answer(0x40)).unwrap(), Some(212));
        assert_eq!(read(&answer(0x00)).unwrap(), None);
        for short in 0..18 {
            assert!(read(&answer(0x40)[..short]).is_err(), "{short} bytes");
        }
    }
}
