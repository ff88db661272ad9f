//! The PDUs that user space makes and reads: login, logout and asynchronous message
//! (RFC 7143 sections 11.12, 11.13, 11.14, 11.9), and the text in their data segments.

/// A basic header segment.
pub(super) type Header = [u8; 48];

const IMMEDIATE: u8 = 0x40;
const LOGIN: u8 = 0x03;
const LOGOUT: u8 = 0x06;
const LOGIN_RESPONSE: u8 = 0x23;
const LOGOUT_RESPONSE: u8 = 0x26;
const ASYNC: u8 = 0x32;

/// The stages of the login phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Security = 0,
    Operational = 1,
    FullFeature = 3,
}

/// A login request. The kernel fills in CmdSN and the task tag.
pub(super) fn login_request(
    isid: [u8; 6],
    exp_stat_sn: u32,
    stage: Stage,
    next: Option<Stage>,
    data_len: usize,
) -> Header {
    let mut header = [0; 48];
    header[0] = IMMEDIATE | LOGIN;
    header[1] = (stage as u8) << 2 | next.map_or(0, |next| 0x80 | next as u8);
    header[5..8].copy_from_slice(&(data_len as u32).to_be_bytes()[1..]);
    header[8..14].copy_from_slice(&isid);
    header[28..32].copy_from_slice(&exp_stat_sn.to_be_bytes());
    header
}

/// A logout request that closes the session.
pub(super) fn logout_request() -> Header {
    let mut header = [0; 48];
    header[0] = IMMEDIATE | LOGOUT;
    header[1] = 0x80;
    header
}

/// A login response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoginResponse {
    /// The stage that the target goes on to, if it agrees to leave this one.
    pub next: Option<u8>,
    /// More of the same text follows.
    pub continues: bool,
    /// Status class and detail, 0 for success.
    pub status: (u8, u8),
    /// The target's number of this response.
    pub stat_sn: u32,
}

/// Reads a login response; `None` if it is another PDU.
pub(super) fn login_response(header: &Header) -> Option<LoginResponse> {
    (header[0] & 0x3f == LOGIN_RESPONSE).then(|| LoginResponse {
        next: (header[1] & 0x80 != 0).then_some(header[1] & 3),
        continues: header[1] & 0x40 != 0,
        status: (header[36], header[37]),
        stat_sn: u32::from_be_bytes([header[24], header[25], header[26], header[27]]),
    })
}

/// Whether the PDU ends a logout.
pub(super) fn is_logout_response(header: &Header) -> bool {
    header[0] & 0x3f == LOGOUT_RESPONSE
}

/// Whether the target asks us to leave, or has dropped the connection or session (AsyncEvent 1-3).
pub(super) fn asks_to_leave(header: &Header) -> bool {
    header[0] & 0x3f == ASYNC && matches!(header[36], 1..=3)
}

/// `KEY=VALUE` pairs as they stand in a data segment.
pub(super) fn encode_text(pairs: &[(&str, String)]) -> Vec<u8> {
    pairs.iter().flat_map(|(key, value)| format!("{key}={value}\0").into_bytes()).collect()
}

/// The pairs in a data segment; what is no pair is passed over.
pub(super) fn decode_text(data: &[u8]) -> Vec<(String, String)> {
    let texts = data.split(|b| *b == 0).filter_map(|t| std::str::from_utf8(t).ok());
    texts
        .filter_map(|t| t.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_request_has_its_fields_in_their_places() {
        let header =
            login_request([1, 2, 3, 4, 5, 6], 9, Stage::Security, Some(Stage::Operational), 300);
        assert_eq!(header[..8], [0x43, 0x81, 0, 0, 0, 0, 1, 44]);
        assert_eq!(header[8..14], [1, 2, 3, 4, 5, 6]);
        assert_eq!(header[28..32], [0, 0, 0, 9]);
    }

    #[test]
    fn a_login_response_is_read() {
        let mut header = [0; 48];
        header[0] = 0x23;
        header[1] = 0x87;
        header[27] = 5;
        let read = login_response(&header).expect("login response");
        assert_eq!((read.next, read.status, read.stat_sn), (Some(3), (0, 0), 5));
        header[0] = 0x20;
        assert_eq!(login_response(&header), None);
    }

    #[test]
    fn text_survives_rubbish() {
        let text = decode_text(b"A=1\0\0rubbish\0B=x=y\0\xff=2\0C=");
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(text, [pair("A", "1"), pair("B", "x=y"), pair("C", "")]);
    }
}
