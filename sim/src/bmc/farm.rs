//! Many BMCs on loopback, each on a UDP port of its own, all in one thread.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{net::UdpSocket, sync::Notify, task::JoinSet};

use super::{Bmc, Counts, Faults, Network, Sent, Setup};

/// Packets that one BMC takes before others have their turn.
const AT_ONCE: usize = 32;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Farm {
    bmcs: Vec<Arc<Place>>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// A BMC and the address where it is.
#[derive(Debug)]
struct Place {
    address: SocketAddr,
    bmc: Mutex<Bmc>,
    /// It has something to send that nobody asked for.
    woken: Notify,
}

impl Place {
    fn bmc(&self) -> MutexGuard<'_, Bmc> {
        self.bmc.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Farm {
    /// `count` BMCs that are set up alike, on ports that are free.
    ///
    /// # Errors
    /// When there are not enough sockets, or no thread.
    pub fn start(count: usize, setup: &Setup) -> Result<Self> {
        let addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); count];
        Self::start_at(&addresses, setup)
    }

    /// BMCs that are set up alike, at these addresses.
    ///
    /// # Errors
    /// When one of them is taken, or there is no thread.
    pub fn start_at(addresses: &[SocketAddr], setup: &Setup) -> Result<Self> {
        raise_the_limit_of_files()?;
        let mut sockets = Vec::new();
        let mut bmcs = Vec::new();
        for address in addresses {
            let socket = std::net::UdpSocket::bind(address)
                .with_context(|| format!("no UDP socket on {address}"))?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            let bmc = Mutex::new(Bmc::new(setup.clone(), address.port()));
            bmcs.push(Arc::new(Place { address, bmc, woken: Notify::new() }));
            sockets.push(socket);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (places, stop) = (bmcs.clone(), Arc::new(Notify::new()));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("bmcs".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                for ((seed, place), socket) in (0..).zip(places).zip(sockets) {
                    match UdpSocket::from_std(socket) {
                        Ok(socket) => drop(tasks.spawn(serve(place, Arc::new(socket), seed))),
                        Err(error) => panic!("a socket that was just made is refused: {error}"),
                    }
                }
                stopped.notified().await;
            });
        })?;
        Ok(Self { bmcs, stop, thread: Some(thread) })
    }

    /// Their addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bmcs.iter().map(|place| place.address).collect()
    }

    /// One of them.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn bmc(&self, index: usize) -> MutexGuard<'_, Bmc> {
        self.bmcs[index].bmc()
    }

    /// The machine of one of them prints on its serial line.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn say(&self, index: usize, text: &str) {
        self.bmcs[index].bmc().say(text, Instant::now());
        self.bmcs[index].woken.notify_one();
    }

    /// How all of them misbehave from now on.
    pub fn set_faults(&self, faults: &Faults) {
        for place in &self.bmcs {
            place.bmc().set_faults(*faults);
        }
    }

    /// What all of them were asked so far.
    pub fn counts(&self) -> Counts {
        let all = self.bmcs.iter().map(|place| *place.bmc().counts());
        all.fold(Counts::default(), Counts::plus)
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(place: Arc<Place>, socket: Arc<UdpSocket>, seed: u64) {
    let mut network = Network::new(seed);
    loop {
        let wake_at = place.bmc().wake_at();
        tokio::select! {
            _ = socket.readable() => {
                for _ in 0..AT_ONCE {
                    let mut bytes = [0; 2048];
                    let Ok((length, from)) = socket.try_recv_from(&mut bytes) else { break };
                    let faults = *place.bmc().faults();
                    let copies = network.pass(&faults);
                    count_lost(&place, &copies);
                    for delay in copies {
                        if delay.is_zero() {
                            let sent = place.bmc().receive(from, &bytes[..length], Instant::now());
                            send(&place, &socket, &mut network, sent);
                        } else {
                            later(&place, &socket, from, bytes[..length].to_vec(), delay, &mut network);
                        }
                    }
                }
            }
            () = place.woken.notified() => {}
            () = until(wake_at) => {
                let sent = place.bmc().tick(Instant::now());
                send(&place, &socket, &mut network, sent);
            }
        }
    }
}

/// Lets a packet arrive after `delay`.
fn later(
    place: &Arc<Place>,
    socket: &Arc<UdpSocket>,
    from: SocketAddr,
    bytes: Vec<u8>,
    delay: Duration,
    network: &mut Network,
) {
    let (place, socket) = (Arc::clone(place), Arc::clone(socket));
    let mut network = network.split();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let sent = place.bmc().receive(from, &bytes, Instant::now());
        send(&place, &socket, &mut network, sent);
    });
}

/// Sends what a BMC answered, as the network lets it.
fn send(place: &Arc<Place>, socket: &Arc<UdpSocket>, network: &mut Network, sent: Vec<Sent>) {
    let faults = *place.bmc().faults();
    for Sent { to, bytes } in sent {
        let copies = network.pass(&faults);
        count_lost(place, &copies);
        for delay in copies {
            let delay = delay + Duration::from_millis(faults.slow_ms);
            if delay.is_zero() {
                // A full buffer is one more way to lose a packet.
                let _ = socket.try_send_to(&bytes, to);
            } else {
                let (socket, bytes) = (Arc::clone(socket), bytes.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = socket.try_send_to(&bytes, to);
                });
            }
        }
    }
}

fn count_lost(place: &Place, copies: &[Duration]) {
    if copies.is_empty() {
        place.bmc().counts_mut().lost += 1;
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// As many files as the system lets this process have: each BMC has a socket.
fn raise_the_limit_of_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}
