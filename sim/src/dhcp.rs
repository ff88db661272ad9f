//! A DHCP client as iPXE, or as an installed system, is one (RFC 2131, 4578).
//!
//! It has no address yet and sends broadcasts out of its NIC; answers for others are passed over.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::boot::parse_mac;

pub(crate) const DISCOVER: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const ACK: u8 = 5;

/// How long an answer is waited for before the question is asked again.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_millis(1000);

/// Which program asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Ipxe,
    InstalledSystem,
}

/// What a client was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u32,
    pub(crate) server: Ipv4Addr,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) boot_file: Option<String>,
}

/// One try to get an address, and, for iPXE, a boot file; None if nobody answered with both.
pub(crate) fn ask(mac: [u8; 6], program: Program) -> Result<Option<Lease>> {
    let socket = socket()?;
    let xid: [u8; 4] = rand::random();
    let Some(offer) = exchange(&socket, xid, mac, program, DISCOVER, None)? else {
        return Ok(None);
    };
    if program == Program::Ipxe && offer.boot_file.is_none() {
        return Ok(None);
    }
    let Some(lease) = exchange(&socket, xid, mac, program, REQUEST, Some(&offer))? else {
        return Ok(None);
    };
    if lease.address != offer.address {
        bail!("offered {}, acknowledged {}", offer.address, lease.address);
    }
    Ok(Some(lease))
}

/// What who asks as iPXE under this MAC, out of the `eth0` of the calling thread's namespace, is given: an
/// address and the URL of a boot script. None: nobody answers with both.
///
/// # Errors
/// When the MAC is none, or there is no `eth0`.
pub fn offered(mac: &str) -> Result<Option<(Ipv4Addr, String)>> {
    let lease = ask(parse_mac(mac)?, Program::Ipxe)?;
    Ok(lease.and_then(|lease| Some((lease.address, lease.boot_file?))))
}

pub(crate) fn socket() -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(b"eth0")).context("cannot bind to eth0")?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into())?;
    Ok(socket.into())
}

fn exchange(
    socket: &UdpSocket,
    xid: [u8; 4],
    mac: [u8; 6],
    program: Program,
    kind: u8,
    offer: Option<&Lease>,
) -> Result<Option<Lease>> {
    socket.send_to(
        &message(xid, mac, program, kind, offer),
        SocketAddrV4::new(Ipv4Addr::BROADCAST, 67),
    )?;
    let wanted = if kind == DISCOVER { OFFER } else { ACK };
    let end = Instant::now() + ANSWER_WITHIN;
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let answer = buffer.get(..length).and_then(|bytes| parse(bytes, xid, mac));
                if let Some((answered, lease)) = answer
                    && answered == wanted
                {
                    return Ok(Some(lease));
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

pub(crate) fn message(
    xid: [u8; 4],
    mac: [u8; 6],
    program: Program,
    kind: u8,
    offer: Option<&Lease>,
) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[4..8].copy_from_slice(&xid);
    bytes[28..34].copy_from_slice(&mac);
    bytes.extend([99, 130, 83, 99]);
    let mut option = |code: u8, data: &[u8]| {
        bytes.extend([code, u8::try_from(data.len()).expect("our options are short")]);
        bytes.extend(data);
    };
    option(53, &[kind]);
    if let Some(offer) = offer {
        option(50, &offer.address.octets());
        option(54, &offer.server.octets());
    }
    option(55, &[1, 3, 6, 7, 12, 15, 17, 43, 60, 66, 67, 175]);
    match program {
        Program::Ipxe => {
            option(60, b"PXEClient:Arch:00000:UNDI:002001");
            option(77, b"iPXE");
            option(93, &[0, 0]);
            option(94, &[1, 2, 1]);
            let mut uuid = vec![0];
            uuid.extend([0x5a; 10]);
            uuid.extend(mac);
            option(97, &uuid);
            // iPXE's own: version 1.21.1, can HTTP (19) and iSCSI (17).
            option(175, &[235, 3, 1, 21, 1, 19, 1, 1, 17, 1, 1]);
        }
        Program::InstalledSystem => {
            option(12, b"old-os");
            option(60, b"dhcpcd-9.4.1:Linux-6.1:x86_64");
        }
    }
    bytes.push(255);
    bytes
}

/// The kind of an answer to us, and what it gives.
pub(crate) fn parse(bytes: &[u8], xid: [u8; 4], mac: [u8; 6]) -> Option<(u8, Lease)> {
    let is_ours = bytes.first() == Some(&2)
        && bytes.get(4..8)? == xid
        && bytes.get(28..34)? == mac
        && bytes.get(236..240)? == [99, 130, 83, 99];
    if !is_ours {
        return None;
    }
    let address = |at: &[u8]| -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(at.get(..4)?).ok()?))
    };
    let mut lease = Lease {
        address: address(bytes.get(16..20)?)?,
        prefix: 24,
        server: Ipv4Addr::UNSPECIFIED,
        router: None,
        boot_file: text(bytes.get(108..236)?),
    };
    let mut kind = None;
    let mut rest = bytes.get(240..)?;
    while let [code, tail @ ..] = rest {
        match *code {
            255 => break,
            0 => rest = tail,
            code => {
                let length = usize::from(*tail.first()?);
                let data = tail.get(1..=length)?;
                rest = tail.get(1 + length..)?;
                match code {
                    53 => kind = data.first().copied(),
                    54 => lease.server = address(data)?,
                    1 => lease.prefix = address(data)?.to_bits().leading_ones(),
                    3 => lease.router = address(data),
                    67 => lease.boot_file = text(data),
                    _ => {}
                }
            }
        }
    }
    Some((kind?, lease))
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 1];

    #[test]
    fn an_answer_is_read_and_another_nodes_is_not() {
        let mut bytes = message(*b"xid0", MAC, Program::Ipxe, OFFER, None);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 77, 0, 11]);
        bytes[108..115].copy_from_slice(b"http://");
        bytes.pop();
        bytes.extend([1, 4, 255, 255, 254, 0, 54, 4, 10, 77, 0, 1, 67, 3, b'a', b'b', b'c', 255]);
        let (kind, lease) = parse(&bytes, *b"xid0", MAC).expect("it is for us");
        assert_eq!((kind, lease.prefix), (OFFER, 23));
        assert_eq!(lease.address, Ipv4Addr::new(10, 77, 0, 11));
        assert_eq!(lease.boot_file.as_deref(), Some("abc"));
        assert_eq!(parse(&bytes, *b"xid1", MAC), None);
        assert_eq!(parse(&bytes, *b"xid0", [2; 6]), None);
        for end in 0..240 {
            assert_eq!(parse(&bytes[..end], *b"xid0", MAC), None);
        }
    }
}
