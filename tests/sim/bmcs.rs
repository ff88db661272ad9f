//! BMCs that speak IPMI, in front of simulated nodes: what a BMC's machine does, the node does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sim::Folder;
use sim::bmc::{Farm, PowerState, Setup};
use tests::built;

use crate::rack::SimRack;

pub(crate) const USER: &str = "admin";
pub(crate) const PASSWORD: &str = "simulated";

/// One BMC for each node of a rack. Ends with it.
pub(crate) struct Bmcs {
    pub(crate) farm: Arc<Farm>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Bmcs {
    /// BMCs on the loopback interface of the rack's namespace.
    pub(crate) fn start(sim: &SimRack) -> Result<Self> {
        let (count, setup) = (sim.nodes.len(), Setup::new(USER, PASSWORD));
        let farm = Arc::new(sim.rack.in_netns(|| Farm::start(count, &setup))??);
        let stop = Arc::new(AtomicBool::new(false));
        let (nodes, program) = (sim.nodes.clone(), built("haas-sim-node")?);
        let (mirrored, stopped) = (Arc::clone(&farm), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut was = vec![PowerState::Off; nodes.len()];
            while !stopped.load(Ordering::Relaxed) {
                for (number, node) in nodes.iter().enumerate() {
                    was[number] = mirror(&mirrored, number, node, was[number], &program)?;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        Ok(Self { farm, stop, thread: Some(thread) })
    }

    /// The inventory's words for the power of node `number`, counted from 1.
    pub(crate) fn power_of(&self, number: usize) -> Result<String> {
        let address = *self.farm.addresses().get(number - 1).context("so many BMCs")?;
        Ok(format!(
            "{{ driver = \"ipmi\", address = \"{}\", port = {}, user = \"{USER}\", \
             password_file = \"bmc-password\" }}",
            address.ip(),
            address.port()
        ))
    }
}

impl Drop for Bmcs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the thread does not panic").expect("nodes are switched");
            }
        }
    }
}

/// Switches the node as its BMC says, and notes where it has switched itself off.
fn mirror(
    farm: &Farm,
    number: usize,
    node: &Folder,
    was: PowerState,
    program: &std::path::Path,
) -> Result<PowerState> {
    let is = farm.bmc(number).power(Instant::now());
    match (was, is) {
        (PowerState::Off, PowerState::On) => sim::power::on(node, program)?,
        (PowerState::On, PowerState::Off) => sim::power::off(node)?,
        (PowerState::On, PowerState::On) if !sim::power::is_on(node)? => {
            farm.bmc(number).set_power(PowerState::Off, Instant::now());
            return Ok(PowerState::Off);
        }
        (PowerState::On, PowerState::On) | (PowerState::Off, PowerState::Off) => {}
    }
    Ok(is)
}
