//! The six messages of a login: IPMI 2.0 sections 13.17 to 13.23, and their status codes (13.24).

use crate::suite::CipherSuite;

/// RMCP+ and RAKP message status codes (table 13-15).
pub(crate) mod status {
    pub(crate) const OK: u8 = 0x00;
    pub(crate) const NO_RESOURCES: u8 = 0x01;
    pub(crate) const WRONG_AUTHENTICATION: u8 = 0x04;
    pub(crate) const WRONG_INTEGRITY: u8 = 0x05;
    pub(crate) const NO_AUTHENTICATION: u8 = 0x06;
    pub(crate) const NO_INTEGRITY: u8 = 0x07;
    pub(crate) const INVALID_ROLE: u8 = 0x09;
    pub(crate) const UNAUTHORIZED_ROLE: u8 = 0x0A;
    pub(crate) const NO_RESOURCES_FOR_ROLE: u8 = 0x0B;
    pub(crate) const INVALID_NAME_LENGTH: u8 = 0x0C;
    pub(crate) const UNAUTHORIZED_NAME: u8 = 0x0D;
    pub(crate) const INVALID_INTEGRITY_VALUE: u8 = 0x0F;
    pub(crate) const WRONG_CONFIDENTIALITY: u8 = 0x10;
    pub(crate) const NO_SUITE: u8 = 0x11;
    pub(crate) const ILLEGAL_PARAMETER: u8 = 0x12;
}

/// RMCP+ Open Session Request: one algorithm of each kind, so that there is nothing to choose.
pub(crate) fn open_request(tag: u8, privilege: u8, console: u32, suite: CipherSuite) -> Vec<u8> {
    let mut payload = vec![tag, privilege, 0, 0];
    payload.extend(console.to_le_bytes());
    for (kind, algorithm) in (0..).zip(suite.algorithms()) {
        payload.extend([kind, 0, 0, 8, algorithm, 0, 0, 0]);
    }
    payload
}

/// An answer: which login it belongs to, and what it brings or with which status it refuses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply<T> {
    pub(crate) tag: u8,
    /// Our id. Some BMCs refuse with tag and status alone.
    pub(crate) console: Option<u32>,
    pub(crate) outcome: Result<T, u8>,
}

/// What a BMC opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) managed: u32,
    pub(crate) algorithms: [u8; 3],
}

/// RMCP+ Open Session Response.
pub(crate) fn open_response(payload: &[u8]) -> Option<Reply<Opened>> {
    reply(payload, |rest| {
        let (managed, rest) = rest.split_first_chunk::<4>()?;
        let mut algorithms = [0; 3];
        for (at, algorithm) in algorithms.iter_mut().enumerate() {
            // Its type, two reserved bytes, its length (8), the algorithm, three reserved bytes.
            *algorithm = *rest.get(at * 8 + 4)?;
        }
        Some(Opened { managed: u32::from_le_bytes(*managed), algorithms })
    })
}

/// RAKP message 1.
pub(crate) fn message_1(tag: u8, managed: u32, random: &[u8; 16], role: u8, user: &str) -> Vec<u8> {
    let mut payload = vec![tag, 0, 0, 0];
    payload.extend(managed.to_le_bytes());
    payload.extend(random);
    payload.extend([role, 0, 0]);
    payload.extend(u8::try_from(user.len()));
    payload.extend(user.as_bytes());
    payload
}

/// What a BMC proves and asks us to prove.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Challenge<'a> {
    pub(crate) random: [u8; 16],
    pub(crate) guid: [u8; 16],
    pub(crate) code: &'a [u8],
}

/// RAKP message 2.
pub(crate) fn message_2(payload: &[u8]) -> Option<Reply<Challenge<'_>>> {
    reply(payload, |rest| {
        let (random, rest) = rest.split_first_chunk::<16>()?;
        let (guid, code) = rest.split_first_chunk::<16>()?;
        Some(Challenge { random: *random, guid: *guid, code })
    })
}

/// RAKP message 3. A status other than [`status::OK`] tells the BMC to forget the session.
pub(crate) fn message_3(tag: u8, status: u8, managed: u32, code: &[u8]) -> Vec<u8> {
    let mut payload = vec![tag, status, 0, 0];
    payload.extend(managed.to_le_bytes());
    payload.extend(code);
    payload
}

/// RAKP message 4.
pub(crate) fn message_4(payload: &[u8]) -> Option<Reply<&[u8]>> {
    reply(payload, Some)
}

/// What all answers begin with: tag, status, two other bytes, our id.
fn reply<'a, T>(payload: &'a [u8], read: impl FnOnce(&'a [u8]) -> Option<T>) -> Option<Reply<T>> {
    let ([tag, code], rest) = payload.split_first_chunk::<2>()?;
    let id = rest.get(2..6).and_then(<[u8]>::first_chunk).copied();
    let console = id.map(u32::from_le_bytes);
    let outcome = match *code {
        status::OK => Ok(read(rest.get(6..)?)?),
        code => Err(code),
    };
    Some(Reply { tag: *tag, console, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_suite_is_proposed_and_no_other() {
        let payload = open_request(9, 4, 0x0403_0201, CipherSuite::Seventeen);
        let expected = [
            9, 4, 0, 0, 1, 2, 3, 4, // Tag, privilege, the console's id.
            0, 0, 0, 8, 3, 0, 0, 0, // Authentication: RAKP-HMAC-SHA256.
            1, 0, 0, 8, 4, 0, 0, 0, // Integrity: HMAC-SHA256-128.
            2, 0, 0, 8, 1, 0, 0, 0, // Confidentiality: AES-CBC-128.
        ];
        assert_eq!(payload, expected);
    }

    #[test]
    fn refusals_are_read_though_nothing_follows_them() {
        let refusal = [3, 0x0D, 0, 0, 1, 0, 0, 0];
        assert_eq!(open_response(&refusal).unwrap().outcome, Err(0x0D));
        assert_eq!(message_2(&refusal).unwrap().outcome, Err(0x0D));
        assert_eq!(message_4(&refusal).unwrap().outcome, Err(0x0D));
        assert_eq!(message_4(&refusal).unwrap().console, Some(1));
        let shortest = Reply { tag: 3, console: None, outcome: Err(0x0D) };
        assert_eq!(open_response(&refusal[..2]), Some(shortest));
        let short = [3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0];
        assert_eq!(open_response(&short), None, "opened, but what?");
        assert_eq!(message_2(&short), None);
        assert_eq!(message_4(&short[..2]), None, "a proof without a session");
    }
}
