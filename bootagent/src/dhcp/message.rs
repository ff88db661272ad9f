//! As much of DHCP's messages as it takes to keep an address (RFC 2131, 2132): requests out,
//! answers in.
//!
//! Answers come from whoever is on the wire, and this process holds the root's session, so reading
//! them must never panic.
#![warn(clippy::cast_possible_truncation, clippy::indexing_slicing)]

use std::net::Ipv4Addr;

use haas_api::names::Mac;

/// The length of the fixed header with the magic cookie.
const HEADER: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Relays and old servers drop shorter messages (RFC 1542 section 2.1).
const MIN_LENGTH: usize = 300;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The server that gave the lease, to make it longer (RENEWING).
    Renew(Ipv4Addr),
    /// Whoever knows the lease, to make it longer (REBINDING).
    Rebind,
    /// Whoever would give the address anew.
    Discover,
    /// The server that has offered the address, to give it (SELECTING).
    Take(Ipv4Addr),
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It would give `address`.
    Offer { server: Ipv4Addr, address: Ipv4Addr },
    /// The lease holds.
    Ack(Terms),
    /// It does not, and why, where the server says so.
    Nak { server: Ipv4Addr, why: String },
}

/// The terms of a lease, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) server: Ipv4Addr,
    pub(super) address: Ipv4Addr,
    pub(super) lease: u32,
    /// T1: from then on its server is asked.
    pub(super) renew: u32,
    /// T2: from then on any server is asked.
    pub(super) rebind: u32,
}

/// The message that asks for `address`.
pub(super) fn request(ask: Ask, mac: Mac, address: Ipv4Addr, xid: u32) -> Vec<u8> {
    let is_held = matches!(ask, Ask::Renew(_) | Ask::Rebind);
    let mut message = vec![1, 1, 6, 0];
    message.extend(xid.to_be_bytes());
    // An offer of another address must reach us too, so it has to be broadcast.
    let flags: u16 = if is_held { 0 } else { 0x8000 };
    message.extend([0, 0]);
    message.extend(flags.to_be_bytes());
    message.extend(if is_held { address.octets() } else { [0; 4] });
    message.extend([0; 12]);
    message.extend(mac.0);
    message.resize(HEADER - COOKIE.len(), 0);
    message.extend(COOKIE);
    let kind = if ask == Ask::Discover { 1 } else { 3 };
    message.extend([53, 1, kind]);
    // The name under which iPXE got the lease: hardware type and MAC.
    message.extend([61, 7, 1]);
    message.extend(mac.0);
    if !is_held {
        message.extend([50, 4]);
        message.extend(address.octets());
    }
    if let Ask::Take(server) = ask {
        message.extend([54, 4]);
        message.extend(server.octets());
    }
    message.extend([55, 6, 1, 3, 51, 54, 58, 59, 255]);
    message.resize(message.len().max(MIN_LENGTH), 0);
    message
}

/// Reads the answer to the request `xid` of `mac`; none for anything else.
pub(super) fn parse(datagram: &[u8], mac: Mac, xid: u32) -> Option<Answer> {
    let (header, options) = datagram.split_first_chunk::<HEADER>()?;
    let is_ours = header.starts_with(&[2, 1, 6])
        && header.get(4..8)? == xid.to_be_bytes()
        && header.get(28..34)? == mac.0
        && header.ends_with(&COOKIE);
    if !is_ours {
        return None;
    }
    let yours: [u8; 4] = header.get(16..20)?.try_into().ok()?;
    let yours = Ipv4Addr::from(yours);
    let number = |code| Some(u32::from_be_bytes(option(options, code)?.try_into().ok()?));
    let server = Ipv4Addr::from(number(54)?);
    Some(match option(options, 53)? {
        [2] => Answer::Offer { server, address: yours },
        [5] => {
            let lease = number(51)?.max(1);
            // RFC 2131 section 4.4.5: a half and seven eighths, where the server says nothing.
            let rebind = number(59).unwrap_or(lease - lease / 8).min(lease);
            let renew = number(58).unwrap_or(lease / 2).min(rebind);
            Answer::Ack(Terms { server, address: yours, lease, renew, rebind })
        }
        [6] => {
            let why = String::from_utf8_lossy(option(options, 56).unwrap_or_default());
            let why = why.chars().filter(|c| !c.is_control()).take(100).collect();
            Answer::Nak { server, why }
        }
        _ => return None,
    })
}

/// The first option of this code.
fn option(mut rest: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match rest {
            [0, tail @ ..] => rest = tail,
            [255, ..] => return None,
            [code, length, tail @ ..] => {
                let (data, after) = tail.split_at_checked(usize::from(*length))?;
                if *code == wanted {
                    return Some(data);
                }
                rest = after;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);
    const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 57);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

    fn answer(yours: Ipv4Addr, options: &[u8]) -> Vec<u8> {
        let mut message = request(Ask::Discover, MAC, OURS, 7)[..HEADER].to_vec();
        message[0] = 2;
        message[16..20].copy_from_slice(&yours.octets());
        message.extend(options);
        message
    }

    #[test]
    fn each_request_says_what_its_state_must_and_nothing_else() {
        for (ask, ciaddr, wanted, server) in [
            (Ask::Renew(SERVER), true, false, false),
            (Ask::Rebind, true, false, false),
            (Ask::Discover, false, true, false),
            (Ask::Take(SERVER), false, true, true),
        ] {
            let message = request(ask, MAC, OURS, 7);
            let options = &message[HEADER..];
            assert!(message.len() >= MIN_LENGTH && message[236..HEADER] == COOKIE, "{ask:?}");
            assert_eq!(message[12..16] == OURS.octets(), ciaddr, "{ask:?}");
            assert_eq!(option(options, 50) == Some(&OURS.octets()[..]), wanted, "{ask:?}");
            assert_eq!(option(options, 54) == Some(&SERVER.octets()[..]), server, "{ask:?}");
            assert_eq!(option(options, 61), Some(&[1, 0x52, 0x54, 0, 0x77, 0, 1][..]));
            assert_eq!(&message[28..34], &MAC.0);
        }
    }

    #[test]
    fn terms_come_from_the_server_or_from_the_rfc_and_are_in_order() {
        let from = [54, 4, 10, 77, 0, 2];
        let terms = |options: &[u8]| {
            let all = [&[53, 1, 5][..], &from, options, &[255]].concat();
            match parse(&answer(OURS, &all), MAC, 7) {
                Some(Answer::Ack(t)) => Some((t.lease, t.renew, t.rebind)),
                _ => None,
            }
        };
        let lease = |s: u8| [51, 4, 0, 0, 0, s];
        assert_eq!(terms(&lease(120)), Some((120, 60, 105)));
        let told = [&lease(120)[..], &[58, 4, 0, 0, 0, 30, 59, 4, 0, 0, 0, 90]].concat();
        assert_eq!(terms(&told), Some((120, 30, 90)));
        let mad = [&lease(10)[..], &[58, 4, 0, 0, 9, 9, 59, 4, 0, 0, 1, 1]].concat();
        assert_eq!(terms(&mad), Some((10, 10, 10)));
        assert_eq!(terms(&[]), None, "a lease without an end is none");
    }

    #[test]
    fn offers_and_refusals_are_read() {
        let from = [54, 4, 10, 77, 0, 2];
        let other = Ipv4Addr::new(10, 77, 0, 58);
        let offer = [&[0, 0, 53, 1, 2][..], &from, &[255]].concat();
        let offer = parse(&answer(other, &offer), MAC, 7);
        assert_eq!(offer, Some(Answer::Offer { server: SERVER, address: other }));
        let nak = [&[53, 1, 6][..], &from, &[56, 8], b"wrong\x1b\nx", &[255]].concat();
        let nak = parse(&answer(Ipv4Addr::UNSPECIFIED, &nak), MAC, 7);
        assert_eq!(nak, Some(Answer::Nak { server: SERVER, why: "wrongx".into() }));
    }

    #[test]
    fn answers_of_others_and_broken_ones_are_passed_over() {
        let options = [53, 1, 5, 54, 4, 10, 77, 0, 2, 51, 4, 0, 0, 0, 120, 255];
        let whole = answer(OURS, &options);
        assert!(parse(&whole, MAC, 7).is_some());
        assert_eq!(parse(&whole, MAC, 8), None);
        assert_eq!(parse(&whole, Mac([2; 6]), 7), None);
        for length in 0..whole.len() - 1 {
            assert_eq!(parse(&whole[..length], MAC, 7), None, "{length} bytes");
        }
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = usize::try_from(state >> 8).unwrap() % bytes.len();
                bytes[at] = state.to_be_bytes()[0];
            }
            // Whatever it is read as, it is read.
            let _ = parse(&bytes, MAC, 7);
        }
    }
}
