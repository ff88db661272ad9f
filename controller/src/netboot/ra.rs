//! Ends iPXE's wait for IPv6 (RFC 4861), without being a router for anyone.
//!
//! Debian's iPXE configures IPv4 and IPv6 together and loses about 13 seconds of every BIOS boot
//! until it believes that nobody answers its router solicitations. We answer: with a router
//! lifetime of 0 ("I am no default router"), without a prefix, without the flags that would start
//! DHCPv6. The answer goes to nobody but the one who asked, as a unicast frame, and only if it is
//! the boot NIC of a node whose attempt is open. No other machine ever sees it, and for the node it
//! says nothing at all.

use std::{io, net::Ipv6Addr, sync::Arc};

use haas_api::names::Mac;
use socket2::SockFilter;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    boot_target::BootTargets,
    frames::Frames,
    sockets::{PAUSE, is_passing},
};

const ETHERTYPE_IPV6: u16 = 0x86dd;
/// ff02::2, all routers, as an Ethernet address.
const ALL_ROUTERS: [u8; 6] = [0x33, 0x33, 0, 0, 0, 2];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Ethernet and IPv6 headers.
const HEADERS: usize = 14 + 40;

/// A packet socket that hears the router solicitations of one interface.
#[derive(Debug)]
pub struct Listener {
    frames: Frames,
    interface: String,
}

impl Listener {
    /// Needs CAP_NET_RAW.
    pub fn bind(interface: &str) -> io::Result<Self> {
        let filter = solicitations_only();
        let frames = Frames::open(interface, ETHERTYPE_IPV6, &filter, Some(ALL_ROUTERS))?;
        Ok(Self { frames, interface: interface.to_owned() })
    }
}

/// Answers until `stop`.
pub async fn run<T: BootTargets>(
    listener: Listener,
    targets: Arc<T>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut buffer = [0; 1600];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = listener.frames.receive(&mut buffer) => received,
        };
        let length = match received {
            Ok(length) => length,
            // An interface that was taken down; the socket goes on when it comes back.
            Err(error) if is_passing(&error) => {
                warn!(interface = listener.interface, %error, "cannot receive at this moment");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(solicitation) = Solicitation::parse(buffer.get(..length).unwrap_or_default())
        else {
            continue;
        };
        let mac = solicitation.mac;
        if !targets.is_booting(mac).await {
            debug!(%mac, interface = listener.interface, "router solicitation of a stranger");
            continue;
        }
        let frame = advertisement(listener.frames.mac, &solicitation);
        match listener.frames.send(&frame) {
            Ok(_) => info!(%mac, interface = listener.interface, "ended iPXE's wait for IPv6"),
            Err(error) => warn!(%mac, %error, "cannot send a router advertisement"),
        }
    }
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Solicitation {
    mac: Mac,
    address: Ipv6Addr,
}

impl Solicitation {
    /// RFC 4861 section 6.1.1, and the frame's own source, which is whom we know.
    fn parse(frame: &[u8]) -> Option<Self> {
        let (headers, icmp) = frame.split_at_checked(HEADERS)?;
        let is_ipv6 = headers[12..14] == ETHERTYPE_IPV6.to_be_bytes() && headers[14] >> 4 == 6;
        let (next_header, hop_limit) = (headers[20], headers[21]);
        if !is_ipv6 || next_header != ICMPV6 || hop_limit != 255 || icmp.len() < 8 {
            return None;
        }
        if icmp[0] != SOLICITATION || icmp[1] != 0 {
            return None;
        }
        let mac: [u8; 6] = headers[6..12].try_into().ok()?;
        let source: [u8; 16] = headers[22..38].try_into().ok()?;
        let source = Ipv6Addr::from(source);
        let address = match source {
            Ipv6Addr::UNSPECIFIED => link_local(Mac(mac)),
            link_local if link_local.is_unicast_link_local() => link_local,
            _ => return None,
        };
        (mac[0] & 1 == 0).then_some(Self { mac: Mac(mac), address })
    }
}

/// The answer to `asked`: nothing that would configure it.
fn advertisement(ours: Mac, asked: &Solicitation) -> Vec<u8> {
    let source = link_local(ours);
    // Type, code, checksum; hop limit unspecified, no flags, lifetime 0; both timers unspecified.
    let mut icmp = [0; 16];
    icmp[0] = ADVERTISEMENT;
    let sum = checksum(source, asked.address, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(HEADERS + icmp.len());
    frame.extend(asked.mac.0);
    frame.extend(ours.0);
    frame.extend(ETHERTYPE_IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0, 0, 16, ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(asked.address.octets());
    frame.extend(icmp);
    frame
}

/// The address that an interface makes itself from its MAC (RFC 4291 appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

/// ICMPv6's checksum with its pseudo-header (RFC 8200 section 8.1).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, icmp: &[u8; 16]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(icmp);
    sum += 16 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// A classic BPF program: next header ICMPv6 and type 133, or nothing.
fn solicitations_only() -> [SockFilter; 6] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, u32::from(ICMPV6)),
        SockFilter::new(LOAD_BYTE, 0, 0, HEADERS as u32),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(SOLICITATION)),
        SockFilter::new(RETURN, 0, 0, 0xffff),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A solicitation as iPXE sends it.
    fn solicitation() -> Vec<u8> {
        let mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);
        let mut frame = [&ALL_ROUTERS[..], &mac.0, &[0x86, 0xdd]].concat();
        frame.extend([0x60, 0, 0, 0, 0, 16, 58, 255]);
        frame.extend(link_local(mac).octets());
        frame.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2).octets());
        frame.extend([133, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        frame.extend(mac.0);
        frame
    }

    #[test]
    fn the_answer_reaches_only_the_one_who_asked_and_configures_nothing() {
        let asked = Solicitation::parse(&solicitation()).unwrap();
        assert_eq!(asked.address.to_string(), "fe80::5054:ff:fe77:1");
        let frame = advertisement(Mac([2, 0, 0, 0, 0, 9]), &asked);
        assert_eq!(frame[..6], asked.mac.0);
        assert_eq!(frame[38..54], asked.address.octets());
        let icmp = &frame[54..];
        assert_eq!((icmp.len(), icmp[0]), (16, 134), "no prefix, no other option");
        assert_eq!(icmp[5], 0, "neither M nor O");
        assert_eq!(icmp[6..8], [0, 0], "router lifetime 0");
        // A checksum over a packet with its checksum in place is zero.
        let source: [u8; 16] = frame[22..38].try_into().unwrap();
        let sum = checksum(source.into(), asked.address, icmp.try_into().unwrap());
        assert_eq!(sum, 0);
    }

    #[test]
    fn what_is_no_solicitation_of_the_link_is_ignored() {
        let good = solicitation();
        for (at, value) in [(12, 8), (14, 0x40), (20, 17), (21, 64), (54, 134), (22, 0x20), (6, 1)]
        {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Solicitation::parse(&bad), None, "byte {at}");
        }
        for end in 0..HEADERS + 8 {
            assert_eq!(Solicitation::parse(&good[..end]), None, "{end} bytes");
        }
        let mut unnamed = good.clone();
        unnamed[22..38].fill(0);
        assert_eq!(Solicitation::parse(&unnamed), Solicitation::parse(&good));
    }
}
