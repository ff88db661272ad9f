//! Why a BMC refused a login: wrong name, too little privilege, or really the password.
//!
//! ipmi-rs looks for RAKP message 2's status in a reserved byte, so that every refusal looks like
//! a wrong password to it. After one, the first half of a login is made here again, in the clear
//! as IPMI 2.0 sections 13.17 to 13.21 have it and without the password, only to read that byte.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::fault::BmcFault;

const OPEN_SESSION: u8 = 0x10;
const RAKP_1: u8 = 0x12;
const ADMINISTRATOR: u8 = 4;
/// Our half of the session's id; any number but 0.
const CONSOLE_ID: [u8; 4] = [0x68, 0x61, 0x61, 0x73];

/// What the BMC says of this user, or nothing where it says nothing that helps.
pub(super) fn why_refused(bmc: SocketAddr, user: &str, answer: Duration) -> Option<BmcFault> {
    let any: SocketAddr = match bmc {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(bmc).ok()?;
    socket.set_read_timeout(Some(answer)).ok()?;

    // Section 13.20: with bit 4 the user is found by name alone, without it by name and privilege.
    // A name that only the first finds lacks the privilege.
    match login_status(&socket, user, 0x10 | ADMINISTRATOR)? {
        0 => {}
        0x0C | 0x0D => return Some(BmcFault::WrongUser),
        0x09 | 0x0A => return Some(BmcFault::Privilege),
        _ => return None,
    }
    match login_status(&socket, user, ADMINISTRATOR)? {
        0x09 | 0x0A | 0x0D => Some(BmcFault::Privilege),
        _ => None,
    }
}

// RAKP message 2's status; section 13.24 has the codes.
fn login_status(socket: &UdpSocket, user: &str, role: u8) -> Option<u8> {
    let mut open = vec![1, ADMINISTRATOR, 0, 0];
    open.extend(CONSOLE_ID);
    // Cipher suite 3: authentication, integrity and confidentiality, each its first algorithm.
    for kind in 0..3 {
        open.extend([kind, 0, 0, 8, 1, 0, 0, 0]);
    }
    let opened = ask(socket, OPEN_SESSION, &open)?;
    if opened.get(1) != Some(&0) {
        return None;
    }
    let mut rakp = vec![2, 0, 0, 0];
    rakp.extend(opened.get(8..12)?);
    rakp.extend(rand::random::<[u8; 16]>());
    rakp.extend([role, 0, 0, u8::try_from(user.len()).ok()?]);
    rakp.extend(user.as_bytes());
    ask(socket, RAKP_1, &rakp)?.get(1).copied()
}

// Sends a payload outside of any session and returns the answer's payload, whose type is the next
// number and whose first byte repeats the request's tag.
fn ask(socket: &UdpSocket, kind: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let mut packet = vec![6, 0, 0xFF, 7, 6, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).ok()?.to_le_bytes());
    packet.extend(payload);
    socket.send(&packet).ok()?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).ok()?;
    let answer = buffer.get(..length)?;
    let body = answer.get(16..)?;
    let fits = answer.get(5) == Some(&(kind + 1)) && body.first() == payload.first();
    fits.then(|| body.to_vec())
}
