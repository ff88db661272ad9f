//! Thousands of nodes in one process and one network namespace, for the load that a fleet is.
//!
//! Each has an address of its own on `eth0`, which all its sockets are bound to, and a BMC of a [`Farm`]
//! that says whether it is on. It boots and talks as the others do; it has no disk, so what it boots has
//! its overlay in RAM.

mod agent;
mod boot;
mod dhcp;

use std::{
    fs::File,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};

use self::dhcp::Dhcp;
use crate::bmc::{Farm, PowerState};

/// How often BMCs are looked at for machines that were switched.
const LOOK: Duration = Duration::from_millis(100);

/// One node. Its BMC is the one of the same place in the farm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetNode {
    /// The MAC that it says it has.
    pub mac: [u8; 6],
    /// Its address, which the namespace has already.
    pub address: Ipv4Addr,
    /// From power-on to its first word.
    pub firmware: Duration,
    /// Its firmware hangs: the network hears nothing of it.
    pub never_boots: bool,
}

/// The nodes; they end when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    admitted: Arc<AtomicUsize>,
}

impl Fleet {
    /// All nodes, as their BMCs say, in a network namespace of /run/netns.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn start(netns: &str, nodes: Vec<FleetNode>, farm: Arc<Farm>) -> Result<Self> {
        let path = Path::new("/run/netns").join(netns);
        let file = File::open(&path).with_context(|| format!("no namespace {}", path.display()))?;
        let (stop, admitted) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), admitted.clone());
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("fleet".to_owned()).spawn(move || {
            let entered =
                setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ready = entered.and_then(|()| Ok((runtime?, dhcp::socket()?)));
            let (runtime, socket) = match ready {
                Ok(ready) => ready,
                Err(error) => return drop(tell.send(Err(error))),
            };
            let _ = tell.send(Ok(()));
            runtime.block_on(async move {
                tokio::select! {
                    () = run(nodes, farm, socket, count) => {}
                    () = stopped.notified() => {}
                }
            });
        })?;
        told.recv().context("the fleet's thread has ended")??;
        Ok(Self { stop, thread: Some(thread), admitted })
    }

    /// How often a node let its users in.
    pub fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts nodes that were switched on, and ends those that were switched off.
async fn run(
    nodes: Vec<FleetNode>,
    farm: Arc<Farm>,
    socket: std::net::UdpSocket,
    admitted: Arc<AtomicUsize>,
) {
    let dhcp = Arc::new(Dhcp::new(socket).expect("a socket that was just made"));
    let mut tasks = JoinSet::new();
    tasks.spawn(dhcp.clone().receive());
    let mut alive: Vec<Option<AbortHandle>> = nodes.iter().map(|_| None).collect();
    loop {
        for (place, node) in nodes.iter().enumerate() {
            let is_on = farm.bmc(place).power(Instant::now()) == PowerState::On;
            match (&alive[place], is_on) {
                (None, true) => {
                    let (node, dhcp, farm) = (node.clone(), dhcp.clone(), farm.clone());
                    let admitted = admitted.clone();
                    alive[place] = Some(tasks.spawn(async move {
                        // What ends in an error hangs, as a machine does.
                        if boot::live(&node, &dhcp, &admitted).await.is_ok() {
                            farm.bmc(place).set_power(PowerState::Off, Instant::now());
                        }
                    }));
                }
                (Some(task), false) => {
                    task.abort();
                    alive[place] = None;
                }
                (None, false) | (Some(_), true) => {}
            }
        }
        tokio::time::sleep(LOOK).await;
        while tasks.try_join_next().is_some() {}
    }
}
