//! IPMI messages as LAN channels carry them: IPMI 2.0 section 13.8.

use ipmi_rs_core::connection::Message;

/// The BMC's address.
const BMC: u8 = 0x20;
/// Ours: the first software id of remote consoles (section 5.5).
const CONSOLE: u8 = 0x81;

/// A request to the BMC itself, logical unit 0.
pub(crate) fn request(number: u8, message: &Message) -> Vec<u8> {
    let mut bytes = vec![BMC, message.netfn_raw() << 2];
    bytes.push(checksum(&bytes));
    let tail = [&[CONSOLE, number << 2, message.cmd()], message.data()].concat();
    bytes.extend(&tail);
    bytes.push(checksum(&tail));
    bytes
}

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response<'a> {
    /// Network function; one more than the request's.
    pub(crate) netfn: u8,
    /// The request's number, of 6 bits.
    pub(crate) number: u8,
    pub(crate) command: u8,
    /// Completion code.
    pub(crate) code: u8,
    pub(crate) data: &'a [u8],
}

/// Reads an answer; none where a checksum or the length is wrong.
pub(crate) fn parse(bytes: &[u8]) -> Option<Response<'_>> {
    let ([to, netfn, sum], tail) = bytes.split_first_chunk::<3>()?;
    let ([from, number, command, code], rest) = tail.split_first_chunk::<4>()?;
    let (last, data) = rest.split_last()?;
    let signed = tail.get(..tail.len() - 1)?;
    if *sum != checksum(&[*to, *netfn]) || *last != checksum(signed) || *from != BMC {
        return None;
    }
    Some(Response { netfn: netfn >> 2, number: number >> 2, command: *command, code: *code, data })
}

/// What brings the sum of all bytes to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use ipmi_rs_core::connection::NetFn;

    use super::*;

    #[test]
    fn a_request_is_as_the_standard_draws_it() {
        let message = Message::new_request(NetFn::App, 0x38, vec![0x8E, 0x04]);
        let bytes = request(5, &message);
        assert_eq!(bytes, [0x20, 0x18, 0xC8, 0x81, 0x14, 0x38, 0x8E, 0x04, 0xA1]);
    }

    #[test]
    fn an_answer_is_read_and_a_spoilt_one_is_not() {
        let mut bytes = vec![0x81, 0x1C, 0x63, 0x20, 0x14, 0x38, 0x00, 0xAA, 0xBB];
        bytes.push(checksum(&bytes[3..]));
        let expected =
            Response { netfn: 7, number: 5, command: 0x38, code: 0, data: &[0xAA, 0xBB] };
        assert_eq!(parse(&bytes), Some(expected));
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 0x10;
            assert_eq!(parse(&spoilt), None, "byte {at}");
            assert_eq!(parse(&bytes[..at]), None, "{at} bytes");
        }
    }
}
