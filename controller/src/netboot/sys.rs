//! The two calls of netboot that no safe wrapper covers.
#![allow(unsafe_code)]

use std::{io, os::fd::AsRawFd as _};

use socket2::Socket;
use tokio::io::unix::AsyncFd;

/// A socket whose readiness tokio tells. Only shared access to it may be given out.
pub(super) fn async_socket(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor, keeps it open until it is dropped and always names the
    // same one; it moves into the `AsyncFd`, of which callers only use shared references, so it is
    // neither replaced nor closed before the `AsyncFd` is dropped.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// Makes the interface's hardware let frames to the multicast address `group` through to a packet
/// socket (packet(7), PACKET_ADD_MEMBERSHIP). The kernel drops it with the socket.
pub(super) fn join_ethernet_group(
    socket: &Socket,
    interface_index: i32,
    group: [u8; 6],
) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&group);
    let request = libc::packet_mreq {
        mr_ifindex: interface_index,
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: 6,
        mr_address: address,
    };
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the pointer and the length are
    // those of `request`, which lives until the call returns; the kernel only reads from it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
