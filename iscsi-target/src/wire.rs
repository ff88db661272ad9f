//! One connection's socket: PDUs in, PDUs and file ranges out.
//!
//! There is one reader and one writer, the connection's task, so nothing can get in between the
//! parts of a PDU. Nothing more is read from a peer while it owes us the reading of what we sent:
//! that is all the flow control there is, and it bounds the memory.

use std::future::poll_fn;
use std::io::{self, Read};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::classes::{Member, Pace};
use crate::inbox::Inbox;
use crate::lun::Lun;
use crate::negotiate::Params;
use crate::outbox::{HIGH_WATER, Outbox};
use crate::pdu::{Bhs, Pdu};
use crate::turns::{self, Ticket};

/// Ticks that a peer may take none of what we send.
const STALLED_TICKS: u32 = 4;

/// How long a peer may take to close its side when the server stops.
const PART_WITHIN: Duration = Duration::from_secs(1);

/// What a connection does before others have their turn, in bytes sent.
const TURN: u64 = 128 << 10;

/// What taking and doing a PDU costs beside its bytes, in bytes sent: about a microsecond.
const PDU_COST: u64 = 1 << 10;

/// Why a connection ends without a logout.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("PDU {opcode:#04x} with {len} bytes of data, more than was declared")]
    TooLong { opcode: u8, len: usize },
    #[error("a header's digest does not fit")]
    Digest,
    #[error("the peer takes nothing of what is sent to it")]
    Stalled,
    #[error("the peer does not answer")]
    Silent,
    #[error("the disk could not be read in the middle of a PDU")]
    Disk(#[source] io::Error),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
}

/// What [`Wire::receive`] waited for.
#[derive(Debug)]
pub(crate) enum Event {
    Pdu(Pdu),
    /// Nothing came for a whole tick.
    Idle,
    /// The peer has closed.
    Closed,
    /// The server is stopping.
    Stopping,
}

/// What [`Wire::fill`] has come to.
enum Filled {
    Bytes,
    Closed,
    Tick,
    Stopping,
}

/// The socket with its buffers.
pub(crate) struct Wire {
    stream: TcpStream,
    inbox: Inbox,
    outbox: Outbox,
    tick: Interval,
    /// Bytes came since the last tick.
    heard: bool,
    /// The server is stopping, and the socket was looked at once more.
    last_look: bool,
    ticket: Ticket,
    /// What was done since others had their turn, in bytes sent.
    turn: u64,
    /// Bytes sent that the pace does not know of yet.
    unpaid: u64,
    paces: Option<Paces>,
}

/// How fast a session may send.
pub(crate) struct Paces {
    pub(crate) own: Pace,
    pub(crate) member: Member,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, tick: Duration, ticket: Ticket) -> Self {
        let mut tick = interval(tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once, which is why the peer counts as heard already.
        Self {
            stream,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            tick,
            heard: true,
            last_look: false,
            ticket,
            turn: 0,
            unpaid: 0,
            paces: None,
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Commands that the session may have under way, of the `own` that it may have at most.
    pub(crate) fn window(&self, own: u32) -> u32 {
        self.paces.as_ref().map_or(own, |paces| paces.member.window(own))
    }

    /// From the next PDU on, what the login agreed holds.
    pub(crate) fn negotiated(&mut self, params: &Params, paces: Option<Paces>) {
        self.inbox.header_digest = params.header_digest;
        self.inbox.data_digest = params.data_digest;
        self.outbox.header_digest = params.header_digest;
        self.outbox.data_digest = params.data_digest;
        if let Some(paces) = &paces {
            self.ticket.join(paces.member.id());
        }
        self.paces = paces;
    }

    /// The next PDU. What is in the outbox goes out before anything is waited for.
    pub(crate) async fn receive(&mut self) -> Result<Event, WireError> {
        loop {
            if let Some(pdu) = self.inbox.take()? {
                self.count(PDU_COST + pdu.bytes());
                return Ok(Event::Pdu(pdu));
            }
            self.flush().await?;
            // Not all that comes wants an answer.
            self.pass_if_due().await;
            // What had come when the server was told to stop is done, but not what comes ever after.
            if std::mem::replace(&mut self.last_look, self.ticket.is_stopping()) {
                return Ok(Event::Stopping);
            }
            match self.fill().await? {
                Filled::Bytes => self.heard = true,
                Filled::Closed => return Ok(Event::Closed),
                Filled::Tick if !std::mem::take(&mut self.heard) => return Ok(Event::Idle),
                Filled::Tick => self.outbox.release(),
                Filled::Stopping => {}
            }
        }
    }

    /// Reads what is there into the inbox, or waits for it, the tick or the server's end. Read by way
    /// of tokio and not past it: it takes less than was asked for as a sign that the socket is empty,
    /// so that no system call is needed to learn that. The tick's timer stays armed across calls, so
    /// that a wait costs no shared lock.
    async fn fill(&mut self) -> Result<Filled, WireError> {
        poll_fn(|cx| {
            let read = self.inbox.receive(|room| {
                let mut room = ReadBuf::new(room);
                match Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                    Poll::Ready(read) => read.map(|()| room.filled().len()),
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            });
            match read {
                Ok(0) => return Poll::Ready(Ok(Filled::Closed)),
                Ok(_) => return Poll::Ready(Ok(Filled::Bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            if self.ticket.is_stopping() {
                return Poll::Ready(self.last_bytes());
            }
            self.inbox.release();
            self.tick.poll_tick(cx).map(|_| Ok(Filled::Tick))
        })
        .await
    }

    /// What the socket holds when the server stops. tokio learns that something has come only between
    /// turns, so here the kernel itself is asked.
    fn last_bytes(&mut self) -> Result<Filled, WireError> {
        match self.inbox.receive(|room| (&*SockRef::from(&self.stream)).read(room)) {
            Ok(0) => Ok(Filled::Closed),
            Ok(_) => Ok(Filled::Bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Filled::Stopping),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes our side behind what was sent, and takes what the peer still sends until it closes
    /// too. A socket that is closed with something unread is reset, and a reset may overtake what
    /// was sent last.
    pub(crate) async fn part(&mut self) -> Result<(), WireError> {
        SockRef::from(&self.stream).shutdown(Shutdown::Write)?;
        let mut scratch = vec![0; 8 << 10];
        let closed = async {
            loop {
                self.stream.readable().await?;
                match self.stream.try_read(&mut scratch) {
                    Ok(0) => return Ok(()),
                    Ok(_) => turns::pass().await,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        // One that never closes is left.
        tokio::time::timeout(PART_WITHIN, closed).await.unwrap_or(Ok(())).map_err(WireError::from)
    }

    /// Adds a PDU; it goes out with the next flush.
    pub(crate) async fn send(&mut self, bhs: Bhs, data: &[u8]) -> Result<(), WireError> {
        self.outbox.push(bhs, data);
        self.make_room().await
    }

    /// Flushes when much has been gathered.
    pub(crate) async fn make_room(&mut self) -> Result<(), WireError> {
        if self.outbox.len() >= HIGH_WATER { self.flush().await } else { Ok(()) }
    }

    /// A small answer goes out with the next flush, to which the next request may come soon.
    pub(crate) fn expect(&self) {
        self.ticket.expect();
    }

    /// Sends all that was gathered.
    pub(crate) async fn flush(&mut self) -> Result<(), WireError> {
        self.drain(0).await
    }

    /// Sends a PDU whose payload is a range of the disk, without the bytes passing through here.
    pub(crate) async fn send_file(
        &mut self,
        bhs: Bhs,
        lun: &Lun,
        offset: u64,
        len: usize,
    ) -> Result<(), WireError> {
        self.outbox.push_header(bhs, len);
        self.drain(libc::MSG_MORE).await?;
        let mut at = i64::try_from(offset).map_err(|_| WireError::Protocol("offset"))?;
        let mut left = len;
        let mut stalled = 0;
        while left > 0 {
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                nix::sys::sendfile::sendfile64(&self.stream, lun.file(), Some(&mut at), left)
                    .map_err(io::Error::from)
            });
            match sent {
                Ok(0) => return Err(WireError::Disk(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    left -= count;
                    stalled = 0;
                    self.sent(count).await;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_to_write(&mut stalled).await?;
                }
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    return Err(WireError::Disk(error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.outbox.push_padding(len);
        Ok(())
    }

    async fn drain(&mut self, flags: libc::c_int) -> Result<(), WireError> {
        let mut stalled = 0;
        while self.outbox.len() > 0 {
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let flags = flags | libc::MSG_NOSIGNAL;
                SockRef::from(&self.stream).send_with_flags(self.outbox.unsent(), flags)
            });
            match sent {
                Ok(count) => {
                    self.outbox.advance(count);
                    stalled = 0;
                    self.sent(count).await;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_to_write(&mut stalled).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Counts bytes sent, and lets others have their turn when this connection has had its own.
    async fn sent(&mut self, count: usize) {
        self.unpaid += count as u64;
        self.worked(count as u64).await;
    }

    /// The same for work that sends nothing, in bytes that could be sent meanwhile.
    pub(crate) async fn worked(&mut self, cost: u64) {
        self.count(cost);
        self.pass_if_due().await;
    }

    fn count(&mut self, cost: u64) {
        self.ticket.spend(cost);
        self.turn += cost;
    }

    async fn pass_if_due(&mut self) {
        if self.turn >= TURN {
            self.turn = 0;
            self.pay().await;
            turns::pass().await;
        }
    }

    /// Waits as long as what was sent is too much for the pace.
    async fn pay(&mut self) {
        let bytes = std::mem::take(&mut self.unpaid);
        let Some(paces) = self.paces.as_ref().filter(|_| bytes > 0) else { return };
        let now = Instant::now();
        let wait = paces.own.pay(bytes, now).max(paces.member.pace().pay(bytes, now));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    async fn wait_to_write(&mut self, stalled: &mut u32) -> Result<(), WireError> {
        self.turn = 0;
        self.pay().await;
        let writable = poll_fn(|cx| match self.stream.poll_write_ready(cx) {
            Poll::Ready(ready) => Poll::Ready(ready.map_err(WireError::from)),
            Poll::Pending => loop {
                match self.tick.poll_tick(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(_) if *stalled < STALLED_TICKS => *stalled += 1,
                    Poll::Ready(_) => return Poll::Ready(Err(WireError::Stalled)),
                }
            },
        });
        writable.await
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::spin::Spin;
    use crate::turns::Turns;

    /// Nothing here leaves the runtime's thread, so that tokio does not learn what comes meanwhile.
    #[tokio::test]
    async fn what_came_before_the_stop_is_received_although_tokio_has_not_heard_of_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let (mut turns, mut ticket) = (Turns::new(Spin::new(Duration::ZERO)), None);
        turns.admit(|own| {
            ticket = Some(own);
            Box::pin(std::future::pending())
        });
        let mut wire = Wire::new(stream, Duration::from_secs(60), ticket.unwrap());
        for itt in [1, 2] {
            peer.write_all(&Bhs::new(0, 0x80).put_itt(itt).0).unwrap();
            let Event::Pdu(pdu) = wire.receive().await.unwrap() else { panic!("no PDU {itt}") };
            assert_eq!(pdu.bhs.itt(), itt);
            turns.stop();
        }
        assert!(matches!(wire.receive().await.unwrap(), Event::Stopping));
    }
}
