//! The life of one connection: login within its time, full feature phase, end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use crate::classes::{Classes, Pace};
use crate::exports::{Exports, SessionObserver};
use crate::login::{self, Established, Kind, Login, Step, status};
use crate::newcomers::{Newcomer, Newcomers};
use crate::pdu::{Bhs, flag, request};
use crate::server::Options;
use crate::session::{Numbers, Session};
use crate::sessions::{Place, Sessions};
use crate::sparse::Sparse;
use crate::turns::Ticket;
use crate::wire::{Event, Paces, Wire, WireError};

/// PDUs that a login may take: more than any real one, fewer than an attacker wants.
const LOGIN_PDUS: usize = 64;

/// What connections share.
pub(crate) struct Shared {
    pub(crate) exports: Arc<dyn Exports>,
    pub(crate) options: Options,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) newcomers: Arc<Newcomers>,
    pub(crate) classes: Arc<Classes>,
    /// Of connections that had no session.
    pub(crate) failures: Mutex<Sparse>,
}

impl Shared {
    /// Whether to say in the log what befell a connection without a session, and how many such
    /// lines were left out since the last one.
    fn failure(&self) -> Option<u64> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).line(Instant::now())
    }
}

/// Serves one connection until it ends. It is a newcomer until it has a session with a target.
pub(crate) async fn serve(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    ticket: Ticket,
    newcomer: &mut Option<Newcomer>,
) {
    match live(stream, peer, &shared, ticket, newcomer).await {
        Ok(()) => debug!(%peer, "connection ended"),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let had_session = newcomer.is_none();
            let others = if had_session { Some(0) } else { shared.failure() };
            if let Some(others) = others {
                info!(%peer, %error, source, others, "connection dropped");
            }
        }
    }
}

async fn live(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    shared: &Shared,
    ticket: Ticket,
    newcomer: &mut Option<Newcomer>,
) -> Result<(), WireError> {
    let stream = TcpStream::from_std(stream)?;
    tune(&stream, &shared.options)?;
    let mut wire = Wire::new(stream, shared.options.ping_interval, ticket.clone());
    let login = Box::pin(log_in(&mut wire, peer, shared, ticket, newcomer));
    let Ok(login) = tokio::time::timeout(shared.options.login_timeout, login).await else {
        return Err(WireError::Protocol("the login was not finished in time"));
    };
    let Some((mut session, place)) = login? else { return Ok(()) };
    let observer = session.grant().and_then(|grant| grant.observer.clone());
    // Dropped last, so that the observer hears of the end, and the class has one session less,
    // before a successor takes the place.
    let _place = place;
    let mut wire = wire;
    let _watch = Watch::begin(observer);
    let initiator = &session.initiator;
    match &session.kind {
        // Anyone may have one, so that is not for everybody's log.
        Kind::Discovery => debug!(%peer, initiator, "discovery session opened"),
        Kind::Normal { target, grant } => {
            info!(%peer, initiator, target, class = grant.class, "session opened");
        }
    }
    session.run(&mut wire).await
}

/// Runs the login; `None` when it was refused or given up.
async fn log_in(
    wire: &mut Wire,
    peer: SocketAddr,
    shared: &Shared,
    ticket: Ticket,
    newcomer: &mut Option<Newcomer>,
) -> Result<Option<(Session, Place)>, WireError> {
    let mut login = Login::new(&*shared.exports, peer);
    let mut numbers = Numbers::default();
    for _ in 0..LOGIN_PDUS {
        let pdu = match wire.receive().await? {
            Event::Pdu(pdu) => pdu,
            Event::Idle => continue,
            Event::Closed | Event::Stopping => return Ok(None),
        };
        if pdu.bhs.opcode() != request::LOGIN {
            return Err(WireError::Protocol("the first PDU is no login"));
        }
        numbers.begin(pdu.bhs.cmd_sn());
        let refused = match login.step(&pdu) {
            Step::Reply(header, text) => {
                wire.send(numbers.stamp(header), &text).await?;
                continue;
            }
            Step::Done(header, text, established) => {
                match admit(shared, &established, &ticket).await {
                    Ok((place, paces)) => {
                        // Before its answer: whoever has a session does not give way.
                        if matches!(established.kind, Kind::Normal { .. })
                            && newcomer.take().is_some_and(|newcomer| !newcomer.leaves())
                        {
                            return Ok(None);
                        }
                        let header = header.put(14, place.tsih.to_be_bytes());
                        let session =
                            begin(wire, shared, header, &text, *established, numbers, paces);
                        return session.await.map(|session| Some((session, place)));
                    }
                    Err(code) => code,
                }
            }
            Step::Refuse(code) => code,
        };
        if let Some(others) = shared.failure() {
            warn!(%peer, status = format_args!("{refused:04x}"), others, "login refused");
        }
        let header = login::header(&pdu.bhs, 0).put(36, refused.to_be_bytes());
        wire.send(numbers.stamp(header), &[]).await?;
        wire.flush().await?;
        return Ok(None);
    }
    Err(WireError::Protocol("the login takes too many PDUs"))
}

/// Gives an authenticated session its place and its share of its class.
async fn admit(
    shared: &Shared,
    established: &Established,
    ticket: &Ticket,
) -> Result<(Place, Option<Paces>), u16> {
    // The session that this one replaces leaves its class first.
    let place = shared.sessions.enter(established, ticket.clone()).await?;
    let Kind::Normal { grant, .. } = &established.kind else { return Ok((place, None)) };
    let member = shared.classes.enter(grant.class, &grant.class_limits);
    let member = member.ok_or(status::OUT_OF_RESOURCES)?;
    Ok((place, Some(Paces { own: Pace::new(grant.limits.bytes_per_second), member })))
}

/// Sends the last login response, behind which the agreed parameters hold.
async fn begin(
    wire: &mut Wire,
    shared: &Shared,
    header: Bhs,
    text: &[u8],
    established: Established,
    mut numbers: Numbers,
    paces: Option<Paces>,
) -> Result<Session, WireError> {
    debug_assert_ne!(header.flags() & flag::FINAL, 0);
    let limits = match &established.kind {
        Kind::Normal { grant, .. } => grant.limits,
        Kind::Discovery => crate::Limits::default(),
    };
    let window = limits.command_window.clamp(1, 1024);
    numbers.window = paces.as_ref().map_or(window, |paces| paces.member.window(window));
    let disk_waits = paces.as_ref().map(|paces| paces.member.disk_waits().clone());
    let header = header.put(36, [0, 0]);
    wire.send(numbers.stamp(header), text).await?;
    wire.flush().await?;
    wire.negotiated(&established.params, paces);
    let (exports, disk_waits) = (Arc::clone(&shared.exports), disk_waits.unwrap_or_default());
    Ok(Session::new(exports, established, numbers, window, disk_waits))
}

/// Small PDUs leave at once; a peer that vanished is noticed by TCP although nothing is sent.
fn tune(stream: &TcpStream, options: &Options) -> Result<(), WireError> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        // The kernel counts whole seconds, from one.
        .with_time(options.ping_interval.max(Duration::from_secs(1)))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    if let Some(name) = &options.congestion_control {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    Ok(())
}

/// Tells the observer of the session's life, however it ends.
struct Watch(Option<Arc<dyn SessionObserver>>);

impl Watch {
    fn begin(observer: Option<Arc<dyn SessionObserver>>) -> Self {
        if let Some(observer) = &observer {
            observer.opened();
        }
        Self(observer)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(observer) = &self.0 {
            observer.closed();
        }
    }
}
