//! Sockets that belong to one interface. haasd serves no interface that its configuration does not
//! name, so an address alone is not enough: Linux would answer for it on every interface.

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpListener, UdpSocket},
};

/// A UDP socket that hears only `interface` (all, where none is given).
pub fn udp(interface: Option<&str>, address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Several networks may share a port by their interfaces; the kernel allows it only with this.
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    bind(&socket, interface, address)?;
    UdpSocket::from_std(socket.into())
}

/// A TCP listener that hears only `interface` (all, where none is given).
pub fn tcp(interface: Option<&str>, address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    bind(&socket, interface, address)?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn bind(socket: &Socket, interface: Option<&str>, address: SocketAddrV4) -> io::Result<()> {
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.bind(&SocketAddr::V4(address).into())
}

/// How long a server rests after an error that passes.
pub const PAUSE: Duration = Duration::from_millis(500);

/// Whether an error of a datagram socket says something about one packet or about the link at this
/// moment, and not about the socket.
pub fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
    };
    let kinds = [ConnectionRefused, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable];
    kinds.contains(&error.kind())
}

/// Sends from the address `source`, which must be one of ours: a reply has to come from where the
/// client believes its server is, also on an interface with several addresses.
pub async fn send_from(
    socket: &UdpSocket,
    source: Ipv4Addr,
    bytes: &[u8],
    to: SocketAddrV4,
) -> io::Result<()> {
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let to = SockaddrIn::from(to);
    let send = || {
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let parts = [IoSlice::new(bytes)];
        sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to))
            .map_err(io::Error::from)
    };
    socket.async_io(Interest::WRITABLE, send).await.map(|_| ())
}
