//! Accepting connections, within bounds, until told to stop.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::census::Census;
use crate::connection::Shared;
use crate::exports::Exports;
use crate::newcomers::Newcomers;
use crate::sessions::Sessions;
use crate::sparse::Sparse;
use crate::threads::{Accepted, Threads};

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that serve connections, each with a poller of its own. More than the machine has
    /// processors are of no use.
    pub io_threads: usize,
    /// How long a login may take, from the accept on.
    pub login_timeout: Duration,
    /// Connections in all. Half of them may be without a session with a target: not logged in yet,
    /// or for discovery. At that half, and where all places are taken, the oldest of these gives way
    /// to a new one; where there is none, a new one is closed at once.
    pub max_connections: usize,
    /// Connections from one IP address; more are closed at once.
    pub max_connections_per_address: usize,
    /// Sessions of one initiator name with one target, told apart by their ISIDs. Further logins are
    /// told that the target is out of resources (status 0302). Multipath needs one for each path.
    /// Discovery sessions, for which anyone may give any name, are bounded with `max_connections` only.
    pub max_sessions_per_initiator: usize,
    /// After this long in silence a session is pinged (NOP-In), and after as long again without any
    /// answer it is dropped. A peer that takes nothing of what is sent has four times as long.
    pub ping_interval: Duration,
    /// How long a thread that has just answered a small read looks for the next one at most before it
    /// sleeps; as long as that is of use, and never on a machine with one processor. It makes single
    /// small reads faster for processor time. Zero is never.
    pub spin: Duration,
    /// The kernel's TCP congestion control for the sessions (`cubic`, `bbr`); `None` leaves the
    /// system's own.
    pub congestion_control: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            io_threads: std::thread::available_parallelism()
                .map_or(1, |n| n.get().saturating_sub(1).clamp(1, 4)),
            login_timeout: Duration::from_secs(10),
            max_connections: 16_384,
            max_connections_per_address: 1024,
            max_sessions_per_initiator: 64,
            ping_interval: Duration::from_secs(15),
            spin: Duration::from_micros(50),
            congestion_control: None,
        }
    }
}

/// Connections that may wait to be accepted: a rack that is switched on at once.
const BACKLOG: i32 = 4096;

/// Pause after a failed accept, which mostly means that descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may be accepted before the I/O threads have taken them in; the kernel keeps more.
const MOST_WAITING: usize = 256;

/// Pause where there are more.
const TAKE_IN_PAUSE: Duration = Duration::from_millis(1);

/// A listening socket with SO_REUSEADDR and a backlog of 4096 (the kernel's `somaxconn` bounds it).
///
/// # Errors
/// When the address cannot be bound; must be called within a tokio runtime.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves on all listeners until `stop` is cancelled, then ends all sessions: each finishes the PDU
/// that it is sending, says that it goes (within two seconds) and closes, so that initiators log in
/// again elsewhere or later.
///
/// # Errors
/// Only when a listener itself is unusable or a thread cannot be started; what befalls one
/// connection is logged.
pub async fn serve(
    listeners: Vec<TcpListener>,
    exports: Arc<dyn Exports>,
    options: Options,
    stop: CancellationToken,
) -> io::Result<()> {
    for listener in &listeners {
        listener.local_addr()?;
    }
    let threads = options.io_threads;
    let sessions = Arc::new(Sessions::new(options.max_sessions_per_initiator));
    let newcomers = Arc::new(Newcomers::new(options.max_connections / 2));
    let classes = Arc::default();
    let failures = Mutex::default();
    let shared = Arc::new(Shared { exports, options, sessions, newcomers, classes, failures });
    let threads = Threads::start(threads, &shared, &stop)?;
    let census = Arc::new(Census::default());
    let mut refusals = Sparse::default();
    let most_waiting = (shared.options.max_connections / 4).clamp(1, MOST_WAITING);
    let mut first = 0;
    loop {
        // Only who was taken in can give way.
        while threads.waiting() >= most_waiting && !stop.is_cancelled() {
            tokio::time::sleep(TAKE_IN_PAUSE).await;
        }
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listeners, first) => accepted,
        };
        // Each listener is asked first in its turn, so that none waits for another's flood to end.
        first = first.wrapping_add(1);
        match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok((stream, peer)) => {
                // First, so that nobody gives way to who is refused anyway.
                let limit = shared.options.max_connections_per_address;
                let Some(counted) = census.count(peer.ip(), limit) else {
                    if let Some(others) = refusals.line(Instant::now()) {
                        warn!(%peer, limit, others, "connection refused: too many from its address");
                    }
                    continue;
                };
                // In this order: one that goes meanwhile is not one that stays.
                let ending = shared.newcomers.ending();
                let mut staying = threads.connections().saturating_sub(ending);
                let most = shared.options.max_connections;
                while staying >= most && shared.newcomers.oldest_ends() {
                    staying -= 1;
                }
                if staying >= most {
                    if let Some(others) = refusals.line(Instant::now()) {
                        warn!(%peer, others, "connection refused: too many in all");
                    }
                    continue;
                }
                debug!(%peer, "connection accepted");
                threads.give(Accepted { stream, peer, counted });
            }
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listeners);
    let ended = tokio::task::spawn_blocking(|| threads.join());
    ended.await.map_err(io::Error::other)
}

/// The next connection of whichever listener has one; they are asked in turn from number `first` on.
async fn accept(listeners: &[TcpListener], first: usize) -> io::Result<(TcpStream, SocketAddr)> {
    let (before, from) = listeners.split_at(first % listeners.len().max(1));
    poll_fn(|cx| {
        let mut ready = from.iter().chain(before).map(|listener| listener.poll_accept(cx));
        ready.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_listeners_are_asked_in_turn() {
        let listeners: Vec<_> =
            (0..3).map(|_| listen("127.0.0.1:0".parse().unwrap()).unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let mut clients = Vec::new();
        for address in addresses.iter().chain(&addresses) {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let mut accepted = Vec::new();
        for first in 0..6 {
            let (stream, _) = accept(&listeners, first).await.unwrap();
            accepted.push(stream.local_addr().unwrap());
        }
        // All six are waiting from the beginning, two at each.
        assert_eq!(accepted, [&addresses[..], &addresses].concat());
    }
}
