//! Whole Ethernet frames of one kind on one interface, for what has no socket of its own.

use std::{io, os::fd::AsRawFd as _};

use haas_api::names::Mac;
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::sys::{async_socket, join_ethernet_group};

/// A packet socket (packet(7)).
#[derive(Debug)]
pub(super) struct Frames {
    socket: AsyncFd<Socket>,
    /// The interface's own address.
    pub(super) mac: Mac,
}

impl Frames {
    /// Hears the frames of `ethertype` that pass `filter` (none: all), and those to `group` though
    /// the hardware would drop them. Needs CAP_NET_RAW.
    pub(super) fn open(
        interface: &str,
        ethertype: u16,
        filter: &[SockFilter],
        group: Option<[u8; 6]>,
    ) -> io::Result<Self> {
        let link = link_address(interface)?;
        let mac = ethernet_address(&link)?;
        let protocol = Protocol::from(i32::from(ethertype.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        bind(socket.as_raw_fd(), &link)?;
        if let Some(group) = group {
            let index = i32::try_from(link.ifindex()).map_err(io::Error::other)?;
            join_ethernet_group(&socket, index, group)?;
        }
        // Until it was bound the socket heard every interface.
        while recv(socket.as_raw_fd(), &mut [0; 1], MsgFlags::empty()).is_ok() {}
        Ok(Self { socket: async_socket(socket)?, mac })
    }

    /// The next frame.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |mut socket: &Socket| io::Read::read(&mut socket, buffer);
        self.socket.async_io(Interest::READABLE, read).await
    }

    /// Sends a frame as it is.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<usize> {
        self.socket.get_ref().send(frame)
    }
}

/// The Ethernet address of an interface.
pub(super) fn mac_of(interface: &str) -> io::Result<Mac> {
    ethernet_address(&link_address(interface)?)
}

fn ethernet_address(link: &LinkAddr) -> io::Result<Mac> {
    link.addr().map(Mac).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the interface has no Ethernet address")
    })
}

fn link_address(interface: &str) -> io::Result<LinkAddr> {
    let mut all = nix::ifaddrs::getifaddrs()?;
    let ours = |a: nix::ifaddrs::InterfaceAddress| {
        let link = a.address.and_then(|address| address.as_link_addr().copied());
        link.filter(|_| a.interface_name == interface)
    };
    all.find_map(ours).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {interface}"))
    })
}
