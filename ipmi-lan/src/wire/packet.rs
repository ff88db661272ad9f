//! RMCP packets and the session header in them: IPMI 2.0 sections 13.1 and 13.6.

/// RMCP version 1, no acknowledgement, message class IPMI (section 13.1.3).
const RMCP: [u8; 4] = [6, 0, 0xFF, 7];
/// The authentication type "RMCP+" that tells a header of IPMI 2.0 from those of 1.5.
const RMCP_PLUS: u8 = 6;
/// Section 13.28.4: what follows the padding of a signed packet.
const NEXT_HEADER: u8 = 7;

/// The longest packet that is looked at. BMCs send less than 1 KiB.
pub(crate) const LONGEST: usize = 2048;

/// Payload types (section 13.27.3).
pub(crate) mod payload {
    pub(crate) const IPMI: u8 = 0x00;
    pub(crate) const SOL: u8 = 0x01;
    pub(crate) const OPEN_REQUEST: u8 = 0x10;
    pub(crate) const OPEN_RESPONSE: u8 = 0x11;
    pub(crate) const RAKP_1: u8 = 0x12;
    pub(crate) const RAKP_2: u8 = 0x13;
    pub(crate) const RAKP_3: u8 = 0x14;
    pub(crate) const RAKP_4: u8 = 0x15;
}

/// A packet that may be for us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Outside of any session: an answer to what may be asked before one, or a step of a login.
    Open {
        /// Its type.
        payload_type: u8,
        /// What it carries.
        payload: &'a [u8],
    },
    /// In a session, signed and encrypted; neither has been looked at.
    Sealed(Sealed<'a>),
}

/// A packet of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sealed<'a> {
    pub(crate) payload_type: u8,
    pub(crate) session: u32,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
    /// All behind the RMCP header: what is signed, and at its end the signature.
    body: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// What is signed, and its signature of `length` bytes.
    pub(crate) fn signature(&self, length: usize) -> Option<(&'a [u8], &'a [u8])> {
        let signed = self.body.len().checked_sub(length)?;
        let (signed, tag) = self.body.split_at_checked(signed)?;
        // The signature must not lie in what it signs: at least pad length and next header are there.
        (HEADER + self.payload.len() + 2 <= signed.len()).then_some((signed, tag))
    }
}

/// Length of RMCP+'s session header, from the authentication type to the payload's length.
const HEADER: usize = 12;
/// Bits of the payload type's byte.
const ENCRYPTED: u8 = 0x80;
const AUTHENTICATED: u8 = 0x40;

/// Takes a packet apart; none if it is nothing for us. What is in a session but not both signed and
/// encrypted is nothing for us either.
pub(crate) fn parse(bytes: &[u8]) -> Option<Packet<'_>> {
    if bytes.len() > LONGEST {
        return None;
    }
    let (rmcp, body) = bytes.split_first_chunk::<4>()?;
    // The third byte numbers packets that want an acknowledgement, and some BMCs do count there.
    if (rmcp[0], rmcp[3]) != (RMCP[0], RMCP[3]) {
        return None;
    }
    match body.first()? {
        0 => parse_1_5(body),
        &RMCP_PLUS => parse_2_0(body),
        _ => None,
    }
}

/// The header of IPMI 1.5 without authentication: sequence and session are 0.
fn parse_1_5(body: &[u8]) -> Option<Packet<'_>> {
    let (header, rest) = body.split_first_chunk::<10>()?;
    let payload = rest.get(..usize::from(header[9]))?;
    let outside = header[5..9] == [0; 4];
    outside.then_some(Packet::Open { payload_type: payload::IPMI, payload })
}

fn parse_2_0(body: &[u8]) -> Option<Packet<'_>> {
    let (header, rest) = body.split_first_chunk::<HEADER>()?;
    let [_, kind, s0, s1, s2, s3, q0, q1, q2, q3, l0, l1] = *header;
    let payload = rest.get(..usize::from(u16::from_le_bytes([l0, l1])))?;
    let session = u32::from_le_bytes([s0, s1, s2, s3]);
    let payload_type = kind & 0x3F;
    match (session, kind & (ENCRYPTED | AUTHENTICATED)) {
        (0, 0) => Some(Packet::Open { payload_type, payload }),
        (1.., flags) if flags == ENCRYPTED | AUTHENTICATED => Some(Packet::Sealed(Sealed {
            payload_type,
            session,
            sequence: u32::from_le_bytes([q0, q1, q2, q3]),
            payload,
            body,
        })),
        _ => None,
    }
}

/// A packet outside of any session, with the header of IPMI 2.0.
pub(crate) fn open(payload_type: u8, payload: &[u8]) -> Vec<u8> {
    [&RMCP[..], &header(payload_type, 0, 0, payload), payload].concat()
}

/// The same with the header of IPMI 1.5, which also BMCs that know no other can read.
pub(crate) fn open_1_5(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("what is asked before a session is short");
    [&RMCP[..], &[0; 9], &[length], payload].concat()
}

/// A packet of a session: `payload` is encrypted already, and `sign` makes the signature.
pub(crate) fn sealed(
    payload_type: u8,
    session: u32,
    sequence: u32,
    payload: &[u8],
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let kind = payload_type | ENCRYPTED | AUTHENTICATED;
    let mut packet = [&RMCP[..], &header(kind, session, sequence, payload), payload].concat();
    // Section 13.28.4: from the authentication type to the next header in whole four bytes.
    let padding = (4 - (packet.len() - RMCP.len() + 2) % 4) % 4;
    packet.extend(std::iter::repeat_n(0xFF, padding));
    packet.extend(u8::try_from(padding));
    packet.push(NEXT_HEADER);
    let tag = sign(packet.get(RMCP.len()..).unwrap_or_default());
    packet.extend(tag);
    packet
}

fn header(kind: u8, session: u32, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a payload has at most some hundred bytes");
    let mut header = vec![RMCP_PLUS, kind];
    header.extend(session.to_le_bytes());
    header.extend(sequence.to_le_bytes());
    header.extend(length.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_packet_is_padded_and_comes_back() {
        for length in 0..9 {
            let payload = vec![9; length];
            let mut signed_bytes = Vec::new();
            let packet = sealed(payload::SOL, 0x0403_0201, 7, &payload, |signed| {
                signed_bytes = signed.to_vec();
                vec![0xEE; 12]
            });
            assert_eq!(signed_bytes.len() % 4, 0);
            let Some(Packet::Sealed(read)) = parse(&packet) else { panic!("{packet:x?}") };
            assert_eq!((read.payload_type, read.session, read.sequence), (1, 0x0403_0201, 7));
            assert_eq!(read.payload, payload);
            assert_eq!(read.signature(12), Some((&signed_bytes[..], &[0xEE; 12][..])));
        }
    }

    #[test]
    fn what_is_in_a_session_must_be_signed_and_encrypted() {
        let mut packet = sealed(payload::IPMI, 5, 1, &[1, 2, 3], |_| vec![0; 12]);
        assert!(parse(&packet).is_some());
        for flags in [0, ENCRYPTED, AUTHENTICATED] {
            packet[5] = flags;
            assert_eq!(parse(&packet), None, "{flags:02x}");
        }
    }

    #[test]
    fn both_headers_are_read_outside_of_a_session() {
        let expected = Packet::Open { payload_type: payload::IPMI, payload: &[1, 2, 3] };
        assert_eq!(parse(&open_1_5(&[1, 2, 3])).as_ref(), Some(&expected));
        assert_eq!(parse(&open(payload::IPMI, &[1, 2, 3])).as_ref(), Some(&expected));
        let truncated = open(payload::IPMI, &[1, 2, 3]);
        for length in 0..truncated.len() {
            assert_eq!(parse(&truncated[..length]), None);
        }
    }
}
