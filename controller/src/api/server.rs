//! The API's sockets: TLS, HTTP/1.1, and bounds on what somebody without a token can have haasd hold.
//!
//! Each connection counts for its address until it is closed, also as an agent's channel. What is not
//! said in time, a handshake, a request's head or a body, ends it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use axum_server::{
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioTimer;
use iscsi_target::{Census, Counted};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::rates::asker;

/// The longest request head, bytes.
const MOST_HEAD: usize = 64 << 10;
/// A peer that takes no more bytes for this long is gone.
const STALL: Duration = Duration::from_secs(120);

/// What callers may have.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections in all; an agent has one as long as its node runs.
    pub connections: usize,
    /// Connections of one address: one node, or people behind one gateway.
    pub per_address: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, also of the next one on a connection that is kept.
    pub head: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 16_384,
            per_address: 512,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
        }
    }
}

/// The connections of all the API's sockets.
#[derive(Debug, Clone)]
pub struct Connections {
    bounds: Bounds,
    census: Arc<Census>,
    slots: Arc<Semaphore>,
}

impl Connections {
    /// Bounds them.
    pub fn new(bounds: Bounds) -> Self {
        let slots = Arc::new(Semaphore::new(bounds.connections));
        Self { bounds, census: Arc::default(), slots }
    }

    /// Serves `app` on a socket until `stop`.
    pub async fn serve(
        &self,
        listener: std::net::TcpListener,
        tls: Arc<rustls::ServerConfig>,
        app: Router,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let handle = axum_server::Handle::new();
        let tls = RustlsAcceptor::new(RustlsConfig::from_config(tls))
            .handshake_timeout(self.bounds.handshake);
        let door = Door { connections: self.clone(), tls };
        let server = axum_server::from_tcp(listener)?.acceptor(door);
        let mut server = server.handle(handle.clone());
        server
            .http_builder()
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.head)
            .max_buf_size(MOST_HEAD);
        tokio::spawn(async move {
            stop.cancelled().await;
            handle.graceful_shutdown(Some(Duration::from_secs(1)));
        });
        server.serve(app.into_make_service_with_connect_info::<SocketAddr>()).await
    }

    /// A place for a connection, if there is one.
    fn take(&self, stream: &TcpStream) -> io::Result<Place> {
        let peer = stream.peer_addr()?;
        let refused = |why: &str| {
            debug!(%peer, why, "API connection refused");
            io::Error::new(io::ErrorKind::ConnectionRefused, why.to_owned())
        };
        let slot = self.slots.clone().try_acquire_owned();
        let slot = slot.map_err(|_| refused("too many connections"))?;
        let counted = self.census.count(asker(peer.ip()), self.bounds.per_address);
        let counted = counted.ok_or_else(|| refused("too many connections of this address"))?;
        let socket = socket2::SockRef::from(stream);
        if let Err(error) = socket.set_tcp_user_timeout(Some(STALL)) {
            debug!(%peer, %error, "cannot set the options of an API connection");
        }
        Ok(Place { _counted: counted, _slot: slot })
    }
}

/// A connection's place, from its first packet until it is closed.
#[derive(Debug)]
struct Place {
    _counted: Counted,
    _slot: OwnedSemaphorePermit,
}

/// Lets connections in: those that have a place, do their handshake and begin to speak HTTP/1.1 in time.
/// The server tells HTTP's versions apart by the first bytes, and would wait for them without end.
#[derive(Debug, Clone)]
struct Door {
    connections: Connections,
    tls: RustlsAcceptor,
}

impl<S: Send + 'static> Accept<TcpStream, S> for Door {
    type Stream = Connection;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Connection, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = self.connections.take(&stream);
        let (accepted, within) = (self.tls.accept(stream, service), self.connections.bounds.head);
        Box::pin(async move {
            let _place = place?;
            let (stream, service) = accepted.await?;
            Ok((Connection { stream, first: Some(Box::pin(sleep(within))), _place }, service))
        })
    }
}

/// A connection whose first bytes must come in time.
#[derive(Debug)]
struct Connection {
    stream: TlsStream<TcpStream>,
    /// Until they have come.
    first: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(first) = &mut self.first else { return read };
        if read.is_pending() {
            return first.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        self.first = None;
        // Nobody here speaks HTTP/2.
        if buffer.filled()[before..].starts_with(b"PRI") {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
