//! What else is on the wire of a network whose addresses haasd gives: other DHCP servers, and other
//! machines with a node's address (RFC 5227).
//!
//! It only asks, as any client would: a DHCPDISCOVER whose offer is not taken, an ARP probe that
//! claims no address.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use dhcproto::{
    Encodable as _,
    v4::{DhcpOption, Message, MessageType, OptionCode},
};
use haas_api::names::Mac;
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::{CLIENT_PORT, codec};
use crate::netboot::{
    frames::{Frames, mac_of},
    sockets,
};

/// Some servers ping an address for 3 s before they offer it.
const OFFER_WITHIN: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Machines on the same wire answer ARP within milliseconds, and firmware waits for its offer.
const ARP_WITHIN: Duration = Duration::from_millis(250);
const ARP_AGAIN: Duration = Duration::from_millis(100);

const ETHERTYPE_ARP: u16 = 0x0806;
/// Ethernet, IPv4, 6 and 4 bytes long: what stands before the opcode.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The wire behind one interface.
#[derive(Debug, Clone)]
pub struct Wire {
    interface: String,
    mac: Mac,
}

impl Wire {
    /// None where the interface is no Ethernet.
    pub fn new(interface: &str) -> io::Result<Self> {
        Ok(Self { interface: interface.to_owned(), mac: mac_of(interface)? })
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The address in our own questions, which come back to us too.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The first other DHCP server that offers us an address, by its identifier.
    pub async fn other_server(&self, server_port: u16) -> io::Result<Option<Ipv4Addr>> {
        let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let socket = sockets::udp(Some(&self.interface), any(CLIENT_PORT))?;
        let discover = discover(self.mac);
        let xid = discover.xid();
        let discover = discover.to_vec().expect("a vector takes any length");
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, server_port);
        let until = Instant::now() + OFFER_WITHIN;
        let mut buffer = [0; 2048];
        while Instant::now() < until {
            socket.send_to(&discover, to).await?;
            let again = (Instant::now() + ASK_AGAIN).min(until);
            if let Ok(heard) = timeout_at(again, offer(&socket, &mut buffer, xid)).await {
                return heard.map(Some);
            }
        }
        Ok(None)
    }

    /// The machine that answers for `address`, if there is one besides `node`.
    pub async fn owner(&self, address: Ipv4Addr, node: Mac) -> io::Result<Option<Mac>> {
        let frames = Frames::open(&self.interface, ETHERTYPE_ARP, &[], None)?;
        // A bridge's own address changes with its ports, and the answers come to it.
        let probe = arp_probe(frames.mac, address);
        let until = Instant::now() + ARP_WITHIN;
        let mut buffer = [0; 128];
        while Instant::now() < until {
            frames.send(&probe)?;
            let again = (Instant::now() + ARP_AGAIN).min(until);
            while let Ok(length) = timeout_at(again, frames.receive(&mut buffer)).await {
                let frame = buffer.get(..length?).unwrap_or_default();
                if let Some(owner) = arp_owner(frame, address).filter(|o| *o != node) {
                    return Ok(Some(owner));
                }
            }
        }
        Ok(None)
    }
}

async fn offer(socket: &UdpSocket, buffer: &mut [u8], xid: u32) -> io::Result<Ipv4Addr> {
    loop {
        match socket.recv(buffer).await {
            Ok(length) => {
                let datagram = buffer.get(..length).unwrap_or_default();
                if let Some(server) = codec::offering_server(datagram, xid) {
                    return Ok(server);
                }
            }
            Err(error) if sockets::is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Broadcast answers wanted: our interface has an address, but not the one that is offered.
fn discover(mac: Mac) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new(none, none, none, none, &mac.0);
    let flags = message.flags().set_broadcast();
    message.set_flags(flags);
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    let wanted = vec![OptionCode::SubnetMask, OptionCode::ServerIdentifier];
    message.opts_mut().insert(DhcpOption::ParameterRequestList(wanted));
    message
}

/// Asks who has `address` without claiming to have one.
fn arp_probe(ours: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(ours.0);
    frame.extend(ETHERTYPE_ARP.to_be_bytes());
    frame.extend(ARP_HEAD);
    frame.extend([0, 1]);
    frame.extend(ours.0);
    frame.extend([0; 10]);
    frame.extend(address.octets());
    frame
}

/// The machine that says, in a request or a reply, that `address` is its own.
fn arp_owner(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let arp = frame.get(14..42)?;
    let sender: [u8; 6] = arp.get(8..14)?.try_into().ok()?;
    (arp.starts_with(&ARP_HEAD) && arp.get(14..18)? == address.octets()).then_some(Mac(sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);

    #[test]
    fn a_probe_claims_nothing_and_an_answer_names_its_sender() {
        let probe = arp_probe(OURS, ADDRESS);
        assert_eq!(probe.len(), 42);
        assert_eq!(arp_owner(&probe, ADDRESS), None, "a probe of somebody else is no answer");
        let mut reply = probe.clone();
        reply[21] = 2;
        reply[22..28].copy_from_slice(&OTHER.0);
        reply[28..32].copy_from_slice(&ADDRESS.octets());
        assert_eq!(arp_owner(&reply, ADDRESS), Some(OTHER));
        assert_eq!(arp_owner(&reply, Ipv4Addr::new(10, 77, 0, 12)), None);
        for length in 0..42 {
            assert_eq!(arp_owner(&reply[..length], ADDRESS), None, "{length} bytes");
        }
    }

    #[test]
    fn a_discover_is_one_that_any_server_reads() {
        let bytes = discover(OURS).to_vec().unwrap();
        let read = codec::Request::parse(&bytes).unwrap();
        assert_eq!((read.kind, read.mac), (MessageType::Discover, OURS));
    }
}
