//! What to answer a DHCP request: pure, from (request, network, verdict) to bytes or silence.
//!
//! RFC 2131 section 4.3 for an `own` network, the PXE specification 2.1 for a `proxy` network. A
//! stranger is never answered, and never told NAK: somebody else's server may be right about it.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::{
    Encodable as _, Encoder,
    v4::{DhcpOption, Message, MessageType, Opcode, OptionCode, UnknownOption},
};

use super::codec::Request;
use crate::{
    config::{DhcpMode, Network},
    netboot::{
        boot_target::{BootOffer, DhcpVerdict, NodeAddress},
        firmware::Client,
    },
};

/// Relays and old cards drop shorter messages: BOOTP's fixed size (RFC 1542 section 2.1).
const MIN_LENGTH: usize = 300;

/// The header's `file` field.
const FILE_FIELD: usize = 128;

/// An answer, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// OFFER, ACK or NAK.
    pub kind: MessageType,
    /// The address that it gives, for the log and the lease.
    pub address: Option<Ipv4Addr>,
    /// The boot file that it names, for the log, with the token left out.
    pub boot_file: Option<String>,
    /// The message.
    pub bytes: Vec<u8>,
}

/// The port on which a request came in; the same message means different things on the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// 67: DHCP.
    Dhcp,
    /// 4011: a PXE client that has its address and asks a ProxyDHCP server for the boot file.
    Pxe,
}

/// The answer to `request`, which arrived in `network` through `door`, given what haasd knows.
/// `http_port` is that of node-facing HTTP, for URLs.
pub fn answer(
    request: &Request,
    network: &Network,
    door: Door,
    verdict: &DhcpVerdict,
    http_port: u16,
) -> Option<Answer> {
    let (node, boot) = match verdict {
        DhcpVerdict::Unknown | DhcpVerdict::Silent(_) => return None,
        DhcpVerdict::Address(node) => (node, None),
        DhcpVerdict::Boot(node, boot) => (node, Some(boot)),
    };
    let file = boot.and_then(|boot| BootFile::new(request.client, network, boot, http_port));
    match (network.dhcp, door) {
        (DhcpMode::Off, _) | (DhcpMode::Own, Door::Pxe) => None,
        (DhcpMode::Own, Door::Dhcp) => own(request, network, node, file),
        (DhcpMode::Proxy, door) => proxy(request, network, door, file?),
    }
}

/// We are the network's DHCP server.
fn own(
    request: &Request,
    network: &Network,
    node: &NodeAddress,
    file: Option<BootFile>,
) -> Option<Answer> {
    let ours = node.address?;
    let kind = match request.kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Inform => MessageType::Ack,
        MessageType::Request => {
            // SELECTING names the server that it took; another one than us is none of our business.
            if request.server_id.is_some_and(|server| server != network.controller) {
                return None;
            }
            // SELECTING and INIT-REBOOT ask by option 50, RENEWING and REBINDING by ciaddr.
            let wanted = request.requested.or(request.ciaddr)?;
            if wanted != ours {
                return Some(nak(request, network));
            }
            MessageType::Ack
        }
        _ => return None,
    };
    let mut reply = reply_to(request, network, kind);
    let options = reply.opts_mut();
    if request.kind != MessageType::Inform {
        options.insert(DhcpOption::AddressLeaseTime(network.lease_s));
        options.insert(DhcpOption::Renewal(network.lease_s / 2));
        options.insert(DhcpOption::Rebinding(network.lease_s / 8 * 7));
    }
    options.insert(DhcpOption::SubnetMask(network.cidr.netmask()));
    options.insert(DhcpOption::BroadcastAddr(network.cidr.broadcast()));
    options.insert(DhcpOption::Hostname(node.node.to_string()));
    if let Some(gateway) = network.gateway {
        options.insert(DhcpOption::Router(vec![gateway]));
    }
    let dns: Vec<Ipv4Addr> = network.dns.iter().filter_map(v4).collect();
    if !dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(dns));
    }
    if let Some(domain) = &network.domain {
        options.insert(DhcpOption::DomainName(domain.clone()));
    }
    if !network.ntp.is_empty() {
        options.insert(DhcpOption::NtpServers(network.ntp.clone()));
    }
    if let Some(mtu) = network.mtu.and_then(|mtu| u16::try_from(mtu).ok()) {
        options.insert(DhcpOption::InterfaceMtu(mtu));
    }
    let address = if request.kind == MessageType::Inform {
        // RFC 2131 section 4.3.5: an INFORM gets no address, and its answer goes to its own.
        request.ciaddr?
    } else {
        reply.set_yiaddr(ours);
        ours
    };
    if let Some(ciaddr) = request.ciaddr {
        reply.set_ciaddr(ciaddr);
    }
    if request.client == Client::Ipxe {
        // Suboption 176 of iPXE's own option: no need to wait for a ProxyDHCP server.
        reply.opts_mut().insert(encapsulated(175, vec![176, 1, 1]));
    }
    let boot_file = file.as_ref().map(|file| file.shown.clone());
    if let Some(file) = file {
        file.put(&mut reply, network);
        if matches!(request.client, Client::Http(_)) {
            // UEFI's HTTP boot takes no answer without it.
            reply.opts_mut().insert(DhcpOption::ClassIdentifier(b"HTTPClient".to_vec()));
        }
    }
    Some(finish(&reply, request, Some(address), boot_file))
}

/// Somebody else gives addresses: only a boot file, only to clients that can use one.
fn proxy(request: &Request, network: &Network, door: Door, file: BootFile) -> Option<Answer> {
    let kind = match (door, request.kind) {
        (Door::Dhcp, MessageType::Discover) => MessageType::Offer,
        // A request on port 67 is for the server that gives addresses: an ACK of ours would be
        // taken for its ACK, without an address in it.
        (Door::Pxe, MessageType::Request | MessageType::Inform) => MessageType::Ack,
        _ => return None,
    };
    let mut reply = reply_to(request, network, kind);
    if let Some(ciaddr) = request.ciaddr {
        reply.set_ciaddr(ciaddr);
    }
    let class: &[u8] =
        if matches!(request.client, Client::Http(_)) { b"HTTPClient" } else { b"PXEClient" };
    reply.opts_mut().insert(DhcpOption::ClassIdentifier(class.to_vec()));
    // PXE_DISCOVERY_CONTROL (6) = 8: load the named file, look for no boot server.
    reply.opts_mut().insert(DhcpOption::VendorExtensions(vec![6, 1, 8, 255]));
    if let Some(guid) = &request.guid {
        reply.opts_mut().insert(DhcpOption::ClientMachineIdentifier(guid.clone()));
    }
    let shown = file.shown.clone();
    file.put(&mut reply, network);
    Some(finish(&reply, request, None, Some(shown)))
}

fn nak(request: &Request, network: &Network) -> Answer {
    let mut reply = reply_to(request, network, MessageType::Nak);
    // A relay must broadcast a NAK: the client's address is wrong (RFC 2131 section 4.3.2).
    reply.set_flags(reply.flags().set_broadcast());
    reply.set_siaddr(Ipv4Addr::UNSPECIFIED);
    finish(&reply, request, None, None)
}

fn reply_to(request: &Request, network: &Network, kind: MessageType) -> Message {
    let asked = &request.message;
    let mut reply = Message::new_with_id(
        asked.xid(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        network.controller,
        asked.giaddr(),
        asked.chaddr(),
    );
    reply.set_opcode(Opcode::BootReply).set_flags(asked.flags());
    reply.opts_mut().insert(DhcpOption::MessageType(kind));
    reply.opts_mut().insert(DhcpOption::ServerIdentifier(network.controller));
    // RFC 6842: a client identifier comes back as it was sent.
    if let Some(id) = asked.opts().get(OptionCode::ClientIdentifier) {
        reply.opts_mut().insert(id.clone());
    }
    reply
}

/// Encodes, with option 82 as it came and before the end, padded for old relays.
fn finish(
    reply: &Message,
    request: &Request,
    address: Option<Ipv4Addr>,
    boot_file: Option<String>,
) -> Answer {
    let mut bytes = Vec::with_capacity(MIN_LENGTH);
    reply.encode(&mut Encoder::new(&mut bytes)).expect("a vector takes any length");
    bytes.truncate(bytes.len() - 1);
    bytes.extend(&request.option_82);
    bytes.push(255);
    bytes.resize(bytes.len().max(MIN_LENGTH), 0);
    let kind = reply.opts().msg_type().expect("reply_to sets it");
    Answer { kind, address, boot_file, bytes }
}

/// Where the client finds what it must boot.
struct BootFile {
    name: String,
    shown: String,
}

impl BootFile {
    /// None for a client that boots nothing, or whose architecture we have nothing for.
    fn new(client: Client, network: &Network, boot: &BootOffer, http_port: u16) -> Option<Self> {
        let port = match http_port {
            80 => String::new(),
            other => format!(":{other}"),
        };
        let base = format!("http://{}{port}", network.controller);
        if client == Client::Ipxe {
            return Some(Self {
                name: format!("{base}/boot/{}/script", boot.token.expose()),
                shown: format!("{base}/boot/***/script"),
            });
        }
        let binary = client.binary()?;
        let binary = boot.program.as_deref().unwrap_or(binary);
        let name = match client {
            Client::Http(_) => format!("{base}/ipxe/{binary}"),
            _ => binary.to_owned(),
        };
        Some(Self { shown: name.clone(), name })
    }

    /// In the `file` field, and as option 67 where it is a URL or too long for the field. A short
    /// file name stays out of option 67: some BIOS cards misread the two together.
    fn put(self, reply: &mut Message, network: &Network) {
        let is_url = self.name.contains("://");
        // A closing NUL must fit in the field too.
        if self.name.len() < FILE_FIELD {
            reply.set_fname_str(&self.name);
        }
        if is_url || self.name.len() >= FILE_FIELD {
            reply.opts_mut().insert(DhcpOption::BootfileName(self.name.into_bytes()));
        } else {
            let server = network.controller.to_string().into_bytes();
            reply.opts_mut().insert(DhcpOption::TFTPServerName(server));
        }
    }
}

fn encapsulated(code: u8, data: Vec<u8>) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(OptionCode::Unknown(code), data))
}

fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
