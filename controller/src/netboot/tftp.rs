//! A small TFTP server for firmware that speaks nothing better (RFC 1350, 2347, 2348, 2349, 7440).
//!
//! Read only, and only what [`content`] names: no paths. Each transfer has a socket of
//! its own, bound to the address that was asked and to the same interface, since some firmware drops
//! an answer from another address. An ERROR ends a transfer; a new request from the same port starts
//! it anew. What a peer can make us do is bounded in number, time and bytes.

pub mod content;
pub mod packet;
pub mod transfer;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    time::Instant,
};

use tokio::{net::UdpSocket, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    content::Content,
    packet::{Opening, ReadRequest},
    transfer::{End, send},
};
use super::{
    Serving,
    boot_target::BootTargets,
    sockets::{self, PAUSE, is_passing},
};
use crate::{
    errors::chain,
    rates::{Rate, Rates},
};

/// Transfers at a time from one address. A node needs one; a relay's NAT might need some more.
const MAX_PER_PEER: usize = 4;
/// Transfers at a time in all.
const MAX_TRANSFERS: usize = 2048;
/// Requests of one address: firmware asks for a size first, and GRUB looks for its script by many names.
const PER_ADDRESS: Rate = Rate::per_second(100, 5);
/// Requests of all; racks that are switched on at once fit into it.
const IN_ALL: Rate = Rate::per_second(20_000, 2000);

/// One address that is served.
#[derive(Debug)]
pub struct Listener {
    /// The socket that hears requests.
    pub socket: UdpSocket,
    /// The interface that transfers are bound to; none in tests.
    pub interface: Option<String>,
}

/// Serves until `stop`.
pub async fn run<T: BootTargets>(
    listener: Listener,
    serving: Serving<T>,
    stop: CancellationToken,
) -> io::Result<()> {
    let SocketAddr::V4(local) = listener.socket.local_addr()? else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "TFTP is served over IPv4"));
    };
    let mut transfers = JoinSet::new();
    let mut active: HashMap<SocketAddrV4, tokio::task::AbortHandle> = HashMap::new();
    let mut buffer = [0; 1024];
    let rates = Rates::new(PER_ADDRESS, IN_ALL);
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_) = transfers.join_next(), if !transfers.is_empty() => {
                active.retain(|_, transfer| !transfer.is_finished());
                continue;
            }
            received = listener.socket.recv_from(&mut buffer) => received,
        };
        let (length, peer) = match received {
            Ok((length, SocketAddr::V4(peer))) => (length, peer),
            Ok(_) => continue,
            Err(error) if is_passing(&error) => {
                warn!(%error, "cannot receive at this moment");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let request = match Opening::parse(buffer.get(..length).unwrap_or_default()) {
            Opening::Read(request) => request,
            Opening::Refuse(code, text) => {
                debug!(%peer, text, "TFTP request refused");
                // A peer that cannot be reached is its own problem.
                let _ = listener.socket.send_to(&packet::error(code, text), peer).await;
                continue;
            }
            Opening::Ignore => continue,
        };
        if rates.ask(IpAddr::V4(*peer.ip()), Instant::now()).is_err() {
            debug!(%peer, "too many TFTP requests, dropped one");
            continue;
        }
        if let Some(old) = active.remove(&peer) {
            old.abort();
        }
        let of_peer = active.keys().filter(|other| other.ip() == peer.ip()).count();
        if of_peer >= MAX_PER_PEER || active.len() >= MAX_TRANSFERS {
            warn!(%peer, file = shown(&request.file), "too many TFTP transfers, request dropped");
            continue;
        }
        let transfer =
            transfer_to(peer, local, listener.interface.clone(), request, serving.clone());
        active.insert(peer, transfers.spawn(transfer));
    }
}

/// A name for the log: printable, since it is the peer's, and without what may be a token.
fn shown(file: &str) -> String {
    if file.contains("boot/") {
        return "of a boot".to_owned();
    }
    file.escape_default().to_string()
}

async fn transfer_to<T: BootTargets>(
    peer: SocketAddrV4,
    local: SocketAddrV4,
    interface: Option<String>,
    request: ReadRequest,
    serving: Serving<T>,
) {
    let fresh = SocketAddrV4::new(*local.ip(), 0);
    let socket = match sockets::udp(interface.as_deref(), fresh) {
        Ok(socket) => socket,
        Err(error) => return warn!(%peer, %error, "cannot open a socket for a TFTP transfer"),
    };
    if let Err(error) = socket.connect(peer).await {
        return debug!(%peer, %error, "no way to a TFTP client");
    }
    let opened = Content::open(&request.file, IpAddr::V4(*peer.ip()), &serving).await;
    let Content { mut source, shown: file, served } = match opened {
        Ok(content) => content,
        Err(error) => {
            warn!(%peer, file = shown(&request.file), error = chain(&error), "TFTP request refused");
            let (code, text) = error.answer();
            let _ = socket.send(&packet::error(code, text)).await;
            return;
        }
    };
    match send(&socket, &mut source, &request.options).await {
        End::Done => {
            info!(%peer, file, bytes = source.size(), "sent by TFTP");
            serving.targets.served(served).await;
        }
        End::PeerGaveUp(code) => debug!(%peer, file, code, "TFTP client ended the transfer"),
        End::PeerSilent => warn!(%peer, file, "TFTP client fell silent"),
        End::Socket(error) => debug!(%peer, file, %error, "TFTP transfer broke"),
    }
}

#[cfg(test)]
#[path = "tftp/server_tests.rs"]
mod tests;
