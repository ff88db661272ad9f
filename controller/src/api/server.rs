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
use futures_util::future::{BoxFuture, Ready, ready};
use hyper_util::rt::TokioTimer;
use iscsi_target::{Census, Counted};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
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
        let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls))
            .handshake_timeout(self.bounds.handshake)
            .acceptor(self.clone());
        let acceptor = Prompt { acceptor, within: self.bounds.head };
        let server = axum_server::from_tcp(listener)?.acceptor(acceptor);
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

    fn take(&self, stream: TcpStream) -> io::Result<Bounded> {
        let peer = stream.peer_addr()?;
        let refused = |why: &str| {
            debug!(%peer, why, "API connection refused");
            io::Error::new(io::ErrorKind::ConnectionRefused, why.to_owned())
        };
        let slot = self.slots.clone().try_acquire_owned();
        let slot = slot.map_err(|_| refused("too many connections"))?;
        let counted = self.census.count(asker(peer.ip()), self.bounds.per_address);
        let counted = counted.ok_or_else(|| refused("too many connections of this address"))?;
        let socket = socket2::SockRef::from(&stream);
        if let Err(error) = socket.set_tcp_user_timeout(Some(STALL)) {
            debug!(%peer, %error, "cannot set the options of an API connection");
        }
        Ok(Bounded { stream, _counted: counted, _slot: slot })
    }
}

impl<S> Accept<TcpStream, S> for Connections {
    type Stream = Bounded;
    type Service = S;
    type Future = Ready<io::Result<(Bounded, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.take(stream).map(|stream| (stream, service)))
    }
}

/// Ends connections that do not begin to speak HTTP/1.1 in time: the server tells its versions apart by
/// the first bytes, and would wait for them without end.
#[derive(Debug, Clone)]
struct Prompt<A> {
    acceptor: A,
    within: Duration,
}

impl<A, S> Accept<TcpStream, S> for Prompt<A>
where
    A: Accept<TcpStream, S, Future: Send + 'static>,
{
    type Stream = Prompted<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let (accepted, within) = (self.acceptor.accept(stream, service), self.within);
        Box::pin(async move {
            let (stream, service) = accepted.await?;
            Ok((Prompted { stream, first: Some(Box::pin(sleep(within))) }, service))
        })
    }
}

/// A connection whose first bytes must come in time.
#[derive(Debug)]
struct Prompted<S> {
    stream: S,
    /// Until they have come.
    first: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompted<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompted<S> {
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

/// A connection that is counted until it is closed.
#[derive(Debug)]
pub struct Bounded {
    stream: TcpStream,
    _counted: Counted,
    _slot: OwnedSemaphorePermit,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Bounded {
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
