//! The DHCP server of the networks that haasd owns, and the ProxyDHCP server of those that it does
//! not (RFC 2131, 3046; PXE specification 2.1).
//!
//! `codec` parses, the seam says who the client is, `answer` decides purely; this file only moves
//! datagrams. It keeps no state: addresses are the seam's. One listener per interface and port, so
//! that networks behind relays share the interface towards the relay.

pub mod answer;
pub mod codec;
pub mod outlook;
mod shares;
pub mod wire;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Instant,
};

use dhcproto::v4::{MessageType, SERVER_PORT};
use tokio::net::UdpSocket;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use self::{
    answer::{Answer, Door, answer},
    codec::Request,
    outlook::{Outlook, Seen},
    shares::Shares,
};
use super::{
    boot_target::{BootTargets, DhcpKind, DhcpSeen, DhcpVerdict, Hindrance, RelaySeen},
    firmware::bmc_maker,
    leases::LeaseEvent,
    sockets::{PAUSE, is_passing, send_from},
};
use crate::{
    busy::Busy,
    config::{DhcpMode, Network},
};

/// Where DHCP clients listen.
const CLIENT_PORT: u16 = 68;

/// One interface and port.
#[derive(Debug)]
pub struct Listener {
    /// The socket; broadcast allowed, bound to the interface unless a test made it.
    pub socket: UdpSocket,
    /// Which of the two ports it is.
    pub door: Door,
    /// The networks of this interface. A direct request belongs to the first whose addresses hold
    /// the controller's own; a relayed one to that which holds `giaddr`.
    pub networks: Vec<Network>,
    /// The port of node-facing HTTP, for URLs.
    pub http_port: u16,
    /// What else is on the wire of the direct network, where haasd owns that.
    pub outlook: Outlook,
}

/// Answers until `stop`.
pub async fn run<T: BootTargets>(
    listener: Listener,
    targets: Arc<T>,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = Arc::new(listener);
    let tasks = TaskTracker::new();
    let mut buffer = [0; 2048];
    let answering = Busy::default();
    let shares = Arc::new(Shares::default());
    shares.look(&*targets).await;
    {
        let (shares, targets, stop) = (shares.clone(), targets.clone(), stop.clone());
        tasks.spawn(async move { shares.keep_looking(&*targets, &stop).await });
    }
    if let Some(network) = listener.direct().cloned() {
        let (listener, targets, stop) = (listener.clone(), targets.clone(), stop.clone());
        tasks.spawn(async move {
            let port = listener.socket.local_addr().map_or(SERVER_PORT, |address| address.port());
            listener.outlook.watch(&network, port, &*targets, &stop).await;
        });
    }
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => break,
            received = listener.socket.recv_from(&mut buffer) => received,
        };
        let (length, from) = match received {
            Ok((length, SocketAddr::V4(from))) => (length, from),
            Ok(_) => continue,
            Err(error) if is_passing(&error) => {
                warn!(%error, "cannot receive at this moment");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(request) = buffer.get(..length).and_then(Request::parse) else {
            debug!(%from, length, "not a DHCP request");
            continue;
        };
        let Some(share) = shares.ask(request.mac, Instant::now()) else {
            debug!(%from, mac = %request.mac, "too many DHCP requests, dropped one");
            continue;
        };
        // Who waits for an answer asks again, and must not make it come later still.
        let Some(mine) = answering.take(&format!("{} {:?}", request.mac, request.kind)) else {
            debug!(%from, mac = %request.mac, "the same DHCP request is being answered");
            continue;
        };
        let Ok(slot) = share.slots.clone().try_acquire_owned() else {
            debug!(%from, "too many DHCP requests at once, dropped one");
            continue;
        };
        let (listener, targets) = (listener.clone(), targets.clone());
        tasks.spawn(async move {
            listener.handle(&request, from, &*targets).await;
            drop((slot, mine));
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

impl Listener {
    async fn handle<T: BootTargets>(&self, request: &Request, from: SocketAddrV4, targets: &T) {
        let Some(network) = self.network_of(request) else {
            debug!(mac = %request.mac, giaddr = ?request.giaddr, "DHCP request from no network of ours");
            return;
        };
        let (mac, name) = (request.mac, network.name.as_str());
        let kind = match request.kind {
            MessageType::Discover => DhcpKind::Discover,
            MessageType::Request => DhcpKind::Request,
            MessageType::Inform => DhcpKind::Inform,
            MessageType::Decline | MessageType::Release => {
                if let Some(event) = lease_given_up(request, network) {
                    info!(%mac, network = name, ?event, "DHCP address given up");
                    targets.lease(event).await;
                }
                return;
            }
            _ => return,
        };
        if network.dhcp == DhcpMode::Own
            && let Some(other) = request.server_id.filter(|id| *id != network.controller)
        {
            // Not an error of the client, but a person should know: two servers, one network.
            warn!(%mac, network = name, %other, "client takes its address from another DHCP server");
            targets.other_server(network, other, false).await;
            return;
        }
        if !self.may_answer(request, network, kind, targets).await {
            return;
        }
        let verdict = targets.dhcp(seen(request, network, kind)).await;
        if let DhcpVerdict::Address(node) | DhcpVerdict::Boot(node, _) = &verdict
            && network.dhcp == DhcpMode::Own
            && let Some(address) = node.address
            && !network.cidr.contains(&address)
        {
            warn!(%mac, network = name, node = %node.node, %address,
                "node asks from a network that its address is not in; not answered");
            return;
        }
        if let DhcpVerdict::Address(node) | DhcpVerdict::Boot(node, _) = &verdict
            && let (DhcpKind::Discover, Some(address)) = (kind, node.address)
            && self.is_taken(request, address, targets).await
        {
            return;
        }
        match answer(request, network, self.door, &verdict, self.http_port) {
            Some(answer) => self.reply(request, network, &verdict, answer, from, targets).await,
            None => debug!(%mac, network = name, ?kind, ?verdict, "DHCP request not answered"),
        }
    }

    /// Whether nobody else gives addresses where this request comes from.
    async fn may_answer<T: BootTargets>(
        &self,
        request: &Request,
        network: &Network,
        kind: DhcpKind,
        targets: &T,
    ) -> bool {
        if !network.is_direct() {
            return true;
        }
        if self.outlook.wire().is_some_and(|wire| wire.mac() == request.mac) {
            // Our own question.
            return false;
        }
        match self.outlook.seen() {
            Seen::Clear => true,
            Seen::Nothing => {
                debug!(mac = %request.mac, "still looking for other DHCP servers");
                false
            }
            Seen::Other(server) => {
                if request.client.boots() && kind == DhcpKind::Discover {
                    targets.hindered(request.mac, Hindrance::OtherServer(server)).await;
                }
                false
            }
        }
    }

    /// Whether another machine on the wire has the address that a booting node is to get.
    async fn is_taken<T: BootTargets>(
        &self,
        request: &Request,
        address: Ipv4Addr,
        targets: &T,
    ) -> bool {
        let Some(wire) = self.outlook.wire().filter(|_| request.giaddr.is_none()) else {
            return false;
        };
        if !request.client.boots() {
            return false;
        }
        match wire.owner(address, request.mac).await {
            Ok(Some(owner)) => {
                targets.hindered(request.mac, Hindrance::AddressTaken(address, owner)).await
            }
            Ok(None) => false,
            Err(error) => {
                warn!(mac = %request.mac, %address, %error, "cannot ask who has the address");
                false
            }
        }
    }

    async fn reply<T: BootTargets>(
        &self,
        request: &Request,
        network: &Network,
        verdict: &DhcpVerdict,
        answer: Answer,
        from: SocketAddrV4,
        targets: &T,
    ) {
        let to = match self.door {
            Door::Dhcp => destination(request, answer.kind),
            Door::Pxe => from,
        };
        let (node, boot) = match verdict {
            DhcpVerdict::Boot(node, offer) => (Some(&node.node), offer.boot.as_str()),
            DhcpVerdict::Address(node) => (Some(&node.node), ""),
            DhcpVerdict::Unknown | DhcpVerdict::Silent(_) => (None, ""),
        };
        let node = node.map(ToString::to_string).unwrap_or_default();
        if let Err(error) = send_from(&self.socket, network.controller, &answer.bytes, to).await {
            warn!(mac = %request.mac, node, boot, %to, %error, "cannot send a DHCP answer");
            return;
        }
        info!(mac = %request.mac, node, boot, network = network.name, client = ?request.client,
            answer = ?answer.kind, address = ?answer.address, file = ?answer.boot_file, "DHCP");
        if network.dhcp == DhcpMode::Own
            && request.kind == MessageType::Request
            && answer.kind == MessageType::Ack
            && let Some(address) = answer.address
        {
            let network_name = network.name.clone();
            let seconds = network.lease_s;
            let bound =
                LeaseEvent::Bound { network: network_name, mac: request.mac, address, seconds };
            targets.lease(bound).await;
        }
    }

    fn network_of(&self, request: &Request) -> Option<&Network> {
        let holding = |address: Ipv4Addr| self.networks.iter().find(|n| n.cidr.contains(&address));
        match (request.giaddr, request.ciaddr) {
            (Some(giaddr), _) => holding(giaddr),
            // A client behind a relay renews straight to us, with no giaddr.
            (None, Some(ciaddr)) => holding(ciaddr).or_else(|| self.direct()),
            (None, None) => self.direct(),
        }
    }

    fn direct(&self) -> Option<&Network> {
        self.networks.iter().find(|n| n.is_direct())
    }
}

/// RFC 2131 section 4.1: to the relay, else to the address that the client already uses, else to
/// everybody (we never send to an address that the client cannot yet hear).
fn destination(request: &Request, kind: MessageType) -> SocketAddrV4 {
    if let Some(giaddr) = request.giaddr {
        return SocketAddrV4::new(giaddr, SERVER_PORT);
    }
    match request.ciaddr {
        Some(ciaddr) if kind != MessageType::Nak => SocketAddrV4::new(ciaddr, CLIENT_PORT),
        _ => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
    }
}

fn lease_given_up(request: &Request, network: &Network) -> Option<LeaseEvent> {
    let for_us = request.server_id.is_none_or(|id| id == network.controller);
    if network.dhcp != DhcpMode::Own || !for_us {
        return None;
    }
    let (network, mac) = (network.name.clone(), request.mac);
    if request.kind == MessageType::Decline {
        Some(LeaseEvent::Declined { network, mac, address: request.requested? })
    } else {
        Some(LeaseEvent::Released { network, mac, address: request.ciaddr? })
    }
}

fn seen(request: &Request, network: &Network, kind: DhcpKind) -> DhcpSeen {
    DhcpSeen {
        network: network.name.as_str().into(),
        mac: request.mac,
        kind,
        client: request.client,
        vendor_class: request.vendor_class.clone(),
        bmc: request.vendor_class.as_deref().and_then(bmc_maker),
        guid: request.guid_text(),
        hostname: request.hostname.clone(),
        relay: request
            .giaddr
            .map(|giaddr| RelaySeen { giaddr, option_82: hex::encode(&request.option_82) }),
        requested: request.requested,
        ciaddr: request.ciaddr,
        server: request.server_id,
    }
}

#[cfg(test)]
mod tests {
    use super::{codec::tests::datagram, *};
    use crate::netboot::testing::{MemoryTargets, network};

    fn request(options: &[(u8, &[u8])], at: usize, address: [u8; 4]) -> Request {
        let edit = |b: &mut [u8]| b[at..at + 4].copy_from_slice(&address);
        Request::parse(&datagram(options, edit)).unwrap()
    }

    #[tokio::test]
    async fn a_request_belongs_to_the_network_of_its_relay_or_to_the_direct_one() {
        let mut relayed = network(DhcpMode::Own);
        relayed.name = "far".into();
        relayed.cidr = "10.88.0.0/24".parse().unwrap();
        let listener = Listener {
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            door: Door::Dhcp,
            networks: vec![relayed, network(DhcpMode::Own)],
            http_port: 80,
            outlook: Outlook::new(None),
        };
        let name = |at, address| {
            let request = request(&[(53, &[3])], at, address);
            listener.network_of(&request).map(|n| n.name.clone())
        };
        let (ciaddr, giaddr) = (12, 24);
        assert_eq!(name(ciaddr, [0; 4]).as_deref(), Some("lab"));
        assert_eq!(name(giaddr, [10, 88, 0, 2]).as_deref(), Some("far"));
        assert_eq!(name(giaddr, [10, 99, 0, 2]), None);
        assert_eq!(name(ciaddr, [10, 88, 0, 7]).as_deref(), Some("far"));
    }

    #[tokio::test]
    async fn a_rack_behind_one_relay_is_not_limited_and_one_mac_is() {
        let listener = Listener {
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            door: Door::Dhcp,
            networks: vec![network(DhcpMode::Own)],
            http_port: 80,
            outlook: Outlook::new(None),
        };
        let address = listener.socket.local_addr().unwrap();
        let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let discover = |mac: u16| {
            datagram(&[(53, &[1])], |bytes: &mut [u8]| {
                bytes[24..28].copy_from_slice(&[10, 77, 0, 254]);
                bytes[32..34].copy_from_slice(&mac.to_be_bytes());
            })
        };
        let of_node = |mac| {
            let mac = Request::parse(&discover(mac)).unwrap().mac;
            (mac, DhcpVerdict::Silent("a test's"))
        };
        let nodes = (0..640).map(of_node).collect();
        let targets = Arc::new(MemoryTargets { nodes, ..MemoryTargets::default() });
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(listener, targets.clone(), stop.clone()));
        let seen = || targets.seen.lock().unwrap().dhcp.len();
        // Firmware, iPXE and the agent ask twice each, all at once. What is under way at a time is what a
        // socket's buffer holds.
        for round in 0..6 {
            for mac in 0..640 {
                relay.send_to(&discover(mac), address).await.unwrap();
                let sent = round * 640 + usize::from(mac) + 1;
                while sent > seen() + 50 {
                    tokio::task::yield_now().await;
                }
            }
        }
        while seen() < 6 * 640 {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            for _ in 0..50 {
                relay.send_to(&discover(1000), address).await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        relay.send_to(&discover(1001), address).await.unwrap();
        let other = |seen: &DhcpSeen| seen.mac.0[4..] == 1001u16.to_be_bytes();
        while !targets.seen.lock().unwrap().dhcp.iter().any(other) {
            tokio::task::yield_now().await;
        }
        assert!(seen() < 6 * 640 + 200, "one MAC was answered {} times", seen() - 6 * 640);
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[test]
    fn answers_go_to_the_relay_to_the_renewing_client_or_to_everybody() {
        let to = |at, address, kind| destination(&request(&[(53, &[3])], at, address), kind);
        let address = [10, 77, 0, 11];
        assert_eq!(to(24, address, MessageType::Nak).to_string(), "10.77.0.11:67");
        assert_eq!(to(12, address, MessageType::Ack).to_string(), "10.77.0.11:68");
        assert_eq!(to(12, address, MessageType::Nak).to_string(), "255.255.255.255:68");
        assert_eq!(to(12, [0; 4], MessageType::Offer).to_string(), "255.255.255.255:68");
    }

    #[test]
    fn only_what_was_ours_can_be_given_up() {
        let lab = network(DhcpMode::Own);
        let address = [10, 77, 0, 11];
        let release = request(&[(53, &[7])], 12, address);
        assert!(matches!(lease_given_up(&release, &lab), Some(LeaseEvent::Released { .. })));
        let decline = request(&[(53, &[4]), (50, &address)], 12, [0; 4]);
        assert!(matches!(lease_given_up(&decline, &lab), Some(LeaseEvent::Declined { .. })));
        let other = request(&[(53, &[4]), (50, &address), (54, &[10, 77, 0, 2])], 12, [0; 4]);
        assert_eq!(lease_given_up(&other, &lab), None);
        assert_eq!(lease_given_up(&decline, &network(DhcpMode::Proxy)), None);
    }
}
