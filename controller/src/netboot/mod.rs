//! Network boot: who asks, and what it gets. The flow of one boot, in the order of its stages:
//!
//! | The node | is answered by | with |
//! |---|---|---|
//! | firmware broadcasts DHCPDISCOVER | [`dhcp`] | its address and an iPXE binary's name ([`firmware`]) |
//! | firmware loads iPXE | [`tftp`], or [`http`] for UEFI's HTTP boot | the binary |
//! | iPXE solicits an IPv6 router | [`ra`] | that there is none, so that it does not wait |
//! | iPXE broadcasts DHCPDISCOVER (option 175) | [`dhcp`] | `http://CONTROLLER/boot/TOKEN/script` |
//! | iPXE fetches the script | [`http`], [`script`] | the rendered templates |
//! | iPXE fetches kernel and initramfs | [`http`] | the image's files |
//!
//! A node with Secure Boot loads shim and its GRUB instead of iPXE. GRUB asks no DHCP server: its
//! script, `/grub/grub.cfg`, is that of the node whose address asks.
//!
//! In a network whose addresses haasd gives, it first looks whether somebody else does
//! ([`dhcp::outlook`]).
//!
//! Everything about nodes, attempts and tokens comes through one seam, [`boot_target`]; addresses
//! without a place in the inventory come from [`leases`]. Nothing here keeps state of
//! nodes, knows SQL or decides what a node boots. A MAC that the seam does not know gets no answer at all.
//!
//! [`Sockets::bind`] opens what the configuration names and nothing else; [`run`] serves it. The
//! parts' own `run` functions take sockets from their caller, so that tests can use port 0.

pub mod boot_target;
pub mod dhcp;
pub mod firmware;
mod frames;
pub mod http;
pub mod leases;
pub mod ra;
pub mod script;
pub mod sockets;
mod sys;
pub mod tftp;

#[cfg(test)]
mod rack_tests;
#[cfg(test)]
mod testing;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{
    boot_target::BootTargets,
    dhcp::{answer::Door, outlook::Outlook, wire::Wire},
    firmware::Binaries,
    script::Templates,
};
use crate::config::{Config, DhcpMode, Network};

/// A socket that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for {service} on {address} of interface {interface}")]
pub struct BindError {
    /// What would have been served.
    pub service: &'static str,
    /// Address and port.
    pub address: SocketAddrV4,
    /// The interface that the configuration names.
    pub interface: String,
    /// What the system said: in use by another server, no such interface, no permission.
    #[source]
    pub source: io::Error,
}

/// A server that ended though nobody told it to.
#[derive(Debug, thiserror::Error)]
#[error("the {service} server of network boot failed")]
pub struct RunError {
    /// Which.
    pub service: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Every socket of network boot.
#[derive(Debug, Default)]
pub struct Sockets {
    dhcp: Vec<dhcp::Listener>,
    tftp: Vec<tftp::Listener>,
    http: Vec<TcpListener>,
    ra: Vec<ra::Listener>,
}

impl Sockets {
    /// Opens the sockets of every network whose DHCP is not `off`; of an `off` network only HTTP,
    /// for nodes whose firmware is told the URL by other means.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let mut sockets = Self::default();
        let ports = config.ports;
        let answered: Vec<&Network> =
            config.networks.iter().filter(|n| n.dhcp != DhcpMode::Off).collect();
        let interfaces: BTreeSet<&str> = answered.iter().map(|n| n.interface.as_str()).collect();
        for interface in interfaces {
            let here = || answered.iter().filter(|n| n.interface == interface);
            let networks = |mode| here().filter(|n| mode == n.dhcp).map(|n| (*n).clone()).collect();
            let all: Vec<Network> = here().map(|n| (*n).clone()).collect();
            sockets.bind_dhcp(interface, ports.dhcp, Door::Dhcp, all, ports.http)?;
            let proxied: Vec<Network> = networks(DhcpMode::Proxy);
            if !proxied.is_empty() {
                sockets.bind_dhcp(interface, ports.pxe, Door::Pxe, proxied, ports.http)?;
            }
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            match ra::Listener::bind(interface) {
                Ok(ra) => sockets.ra.push(ra),
                // InfiniBand, for one. Nodes boot all the same, only slower.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    warn!(interface, %error, "iPXE will wait for IPv6 there");
                }
                Err(error) => {
                    return Err(bind_error("router solicitations", any, interface)(error));
                }
            }
        }
        let mut seen = BTreeSet::new();
        for network in &config.networks {
            let (controller, interface) = (network.controller, network.interface.as_str());
            if !seen.insert(controller) {
                continue;
            }
            let address = SocketAddrV4::new(controller, ports.http);
            let http = sockets::tcp(Some(interface), address)
                .map_err(bind_error("HTTP", address, interface))?;
            sockets.http.push(http);
            if network.dhcp == DhcpMode::Off {
                continue;
            }
            let address = SocketAddrV4::new(controller, ports.tftp);
            let socket = sockets::udp(Some(interface), address)
                .map_err(bind_error("TFTP", address, interface))?;
            let interface = Some(interface.to_owned());
            sockets.tftp.push(tftp::Listener { socket, interface });
        }
        Ok(sockets)
    }

    fn bind_dhcp(
        &mut self,
        interface: &str,
        port: u16,
        door: Door,
        networks: Vec<Network>,
        http_port: u16,
    ) -> Result<(), BindError> {
        let service = match door {
            Door::Dhcp => "DHCP",
            Door::Pxe => "ProxyDHCP",
        };
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let socket = sockets::udp(Some(interface), address)
            .map_err(bind_error(service, address, interface))?;
        let asks = |n: &Network| n.is_direct() && n.dhcp == DhcpMode::Own && n.probe;
        let wire = match networks.iter().any(asks).then(|| Wire::new(interface)).transpose() {
            Ok(wire) => wire,
            // InfiniBand, for one.
            Err(error) => {
                warn!(interface, %error, "cannot look for other DHCP servers there");
                None
            }
        };
        let outlook = Outlook::new(wire);
        self.dhcp.push(dhcp::Listener { socket, door, networks, http_port, outlook });
        Ok(())
    }
}

fn bind_error(
    service: &'static str,
    address: SocketAddrV4,
    interface: &str,
) -> impl FnOnce(io::Error) -> BindError {
    let interface = interface.to_owned();
    move |source| BindError { service, address, interface, source }
}

/// What firmware and its programs are served.
#[derive(Debug)]
pub struct Serving<T> {
    /// Who may fetch what.
    pub targets: Arc<T>,
    /// The loaded templates.
    pub templates: Arc<Templates>,
    /// The programs for firmware.
    pub binaries: Binaries,
}

impl<T> Clone for Serving<T> {
    fn clone(&self) -> Self {
        Self {
            targets: self.targets.clone(),
            templates: self.templates.clone(),
            binaries: self.binaries.clone(),
        }
    }
}

/// Serves network boot until `stop`, or until one of its servers fails.
pub async fn run<T: BootTargets>(
    sockets: Sockets,
    serving: Serving<T>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let mut servers = JoinSet::new();
    for listener in sockets.dhcp {
        let server = dhcp::run(listener, serving.targets.clone(), stop.clone());
        servers.spawn(async { ("DHCP", server.await) });
    }
    for listener in sockets.tftp {
        let server = tftp::run(listener, serving.clone(), stop.clone());
        servers.spawn(async { ("TFTP", server.await) });
    }
    for listener in sockets.http {
        let server = http::run(listener, serving.clone(), stop.clone());
        servers.spawn(async { ("HTTP", server.await) });
    }
    for listener in sockets.ra {
        let server = ra::run(listener, serving.targets.clone(), stop.clone());
        servers.spawn(async { ("router solicitation", server.await) });
    }
    while let Some(ended) = servers.join_next().await {
        let (service, result) =
            ended.unwrap_or_else(|panic| ("network boot", Err(io::Error::other(panic))));
        result.map_err(|source| RunError { service, source })?;
    }
    stop.cancelled().await;
    Ok(())
}
