//! Packets: RMCP [13.1], ASF's presence ping [13.2], the session headers of IPMI 1.5 and 2.0 [13.6], and
//! messages in them [13.8].

/// What came in.
#[derive(Debug)]
pub(super) enum Packet<'a> {
    /// Is anybody there? The tag is repeated in the answer.
    Ping {
        tag: u8,
    },
    Ipmi(Body<'a>),
}

/// Which session header a packet outside of a session has; its answer has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V1_5,
    V2_0,
}

#[derive(Debug)]
pub(super) enum Body<'a> {
    /// Outside of any session.
    Plain {
        format: Format,
        kind: u8,
        payload: &'a [u8],
    },
    Session(InSession<'a>),
}

/// A packet of a session, as it came.
#[derive(Debug)]
pub(super) struct InSession<'a> {
    pub(super) kind: u8,
    pub(super) encrypted: bool,
    pub(super) authenticated: bool,
    pub(super) id: u32,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
    /// From the authentication type to the end: what is signed, and the signature.
    pub(super) whole: &'a [u8],
}

const ASF: u8 = 6;
const IPMI: u8 = 7;
/// ASF's enterprise number, 4542.
const ASF_IANA: [u8; 4] = [0x00, 0x00, 0x11, 0xBE];

pub(super) fn decode(bytes: &[u8]) -> Option<Packet<'_>> {
    let [6, _, _, class, rest @ ..] = bytes else { return None };
    match *class {
        ASF => match rest {
            [0x00, 0x00, 0x11, 0xBE, 0x80, tag, ..] => Some(Packet::Ping { tag: *tag }),
            _ => None,
        },
        IPMI => match rest {
            [0x00, ..] => decode_1_5(rest).map(Packet::Ipmi),
            [0x06, ..] => decode_2_0(rest).map(Packet::Ipmi),
            _ => None,
        },
        _ => None,
    }
}

fn decode_1_5(whole: &[u8]) -> Option<Body<'_>> {
    // Authentication type none, sequence, session, length: no session of 1.5 is ever open here.
    let [_, _, _, _, _, 0, 0, 0, 0, length, rest @ ..] = whole else { return None };
    let payload = rest.get(..usize::from(*length))?;
    Some(Body::Plain { format: Format::V1_5, kind: 0, payload })
}

fn decode_2_0(whole: &[u8]) -> Option<Body<'_>> {
    let [_, kind, i0, i1, i2, i3, s0, s1, s2, s3, l0, l1, rest @ ..] = whole else { return None };
    let payload = rest.get(..usize::from(u16::from_le_bytes([*l0, *l1])))?;
    let id = u32::from_le_bytes([*i0, *i1, *i2, *i3]);
    let (encrypted, authenticated) = (kind & 0x80 != 0, kind & 0x40 != 0);
    let kind = kind & 0x3F;
    if id == 0 {
        return Some(Body::Plain { format: Format::V2_0, kind, payload });
    }
    let sequence = u32::from_le_bytes([*s0, *s1, *s2, *s3]);
    Some(Body::Session(InSession { kind, encrypted, authenticated, id, sequence, payload, whole }))
}

pub(super) fn pong(tag: u8) -> Vec<u8> {
    let mut pong = vec![6, 0, 0xFF, ASF];
    pong.extend(ASF_IANA);
    pong.extend([0x40, tag, 0, 16]);
    pong.extend(ASF_IANA);
    pong.extend([0; 4]);
    // IPMI is supported, ASF 1.0; no interactions.
    pong.extend([0x81, 0, 0, 0, 0, 0, 0, 0]);
    pong
}

/// A packet outside of any session.
pub(super) fn plain(format: Format, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![6, 0, 0xFF, IPMI];
    match format {
        Format::V1_5 => {
            packet.extend([0; 9]);
            packet.push(u8::try_from(payload.len()).unwrap_or(u8::MAX));
        }
        Format::V2_0 => packet.extend(header(kind, 0, 0, payload)),
    }
    packet.extend(payload);
    packet
}

/// The session header of IPMI 2.0.
pub(super) fn header(kind: u8, id: u32, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x06, kind];
    header.extend(id.to_le_bytes());
    header.extend(sequence.to_le_bytes());
    header.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_le_bytes());
    header
}

/// A request in a LAN message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    from: u8,
    from_lun: u8,
    sequence: u8,
    lun: u8,
    pub(super) function: u8,
    pub(super) command: u8,
    pub(super) data: &'a [u8],
}

/// Reads a request; none if it is for somebody else or one of its two checksums is wrong.
pub(super) fn request(message: &[u8]) -> Option<Request<'_>> {
    let [0x20, function, sum, from, sequence, command, data @ .., last] = message else {
        return None;
    };
    if add(&message[..3]) != 0 || add(&message[3..]) != 0 {
        return None;
    }
    let _checked = (sum, last);
    Some(Request {
        from: *from,
        from_lun: sequence & 3,
        sequence: sequence >> 2,
        lun: function & 3,
        function: function >> 2,
        command: *command,
        data,
    })
}

/// The answer to a request.
pub(super) fn response(request: &Request<'_>, code: u8, data: &[u8]) -> Vec<u8> {
    let mut message = vec![request.from, (request.function | 1) << 2 | request.from_lun];
    message.push(add(&message).wrapping_neg());
    let begin = message.len();
    message.extend([0x20, request.sequence << 2 | request.lun, request.command, code]);
    message.extend(data);
    message.push(add(&message[begin..]).wrapping_neg());
    message
}

fn add(bytes: &[u8]) -> u8 {
    bytes.iter().copied().fold(0, u8::wrapping_add)
}
