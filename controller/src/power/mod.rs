//! Power: one trait over BMCs, custom software and a person's finger (M8).
//!
//! A driver does one thing at a time to one node and says what came of it; whether and when is
//! decided by `lifecycle`, and only `reconcile::act` calls a [`PowerDriver`]. How machines are, which
//! changes nothing, is asked by `hardware` through a [`HealthDriver`]. Each call has its own time
//! limit. Nothing here reads or writes the store, and no error holds a secret.

mod exec;
mod ipmi;
mod manual;
pub mod probe;
mod redfish;

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, LazyLock, Mutex, Weak},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use haas_api::baseline::Facts;
use haas_api::hardware::{BmcInfo, SelEntry, Sensor};
use ipmi_lan::Console;
use serde::{Deserialize, Serialize};

pub use self::{
    exec::CommandFault,
    ipmi::{BmcFault, figures},
    redfish::RedfishFault,
};
pub use crate::model::Power;
use crate::{
    inventory::{Firmware, PowerSpec},
    secret::SecretError,
};

/// Switches one node's power.
pub trait PowerDriver: Send + Sync + Debug {
    /// Whether the node is on.
    fn state(&self) -> BoxFuture<'_, Result<Power, PowerError>>;

    /// Switches it. Done means that the BMC took the order, not that the node has obeyed: that is
    /// seen by [`PowerDriver::state`]. An order that is already fulfilled is no error.
    fn set(&self, action: PowerAction) -> BoxFuture<'_, Result<(), PowerError>>;

    /// Says what the node starts from the next time it is powered on, that one time.
    fn set_boot_device(&self, device: BootDevice) -> BoxFuture<'_, Result<(), PowerError>>;

    /// Starts the BMC itself anew, not the node. Done means that it took the order.
    fn reset_bmc(&self) -> BoxFuture<'_, Result<(), PowerError>> {
        let what = "start its BMC anew".to_owned();
        std::future::ready(Err(PowerError::NeedsPerson { what })).boxed()
    }
}

/// Looks at how one node's machine is, through its BMC. Power has the way: each of the commands that a
/// look needs waits until no power call is under way, and no two are with a BMC at the same time.
pub trait HealthDriver: Send + Sync + Debug {
    /// What the BMC says of itself, its sensors and its log.
    fn look(&self) -> BoxFuture<'_, Result<BmcReport, PowerError>>;

    /// Clears the BMC's log.
    fn clear_sel(&self) -> BoxFuture<'_, Result<(), PowerError>>;
}

/// What a BMC says of its machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BmcReport {
    /// The BMC, and what it has on file.
    pub info: BmcInfo,
    /// Its sensors.
    pub sensors: Vec<Sensor>,
    /// What the machine draws, in watts, where it says so.
    pub watts: Option<u32>,
    /// Its log.
    pub sel: SelReport,
}

/// A BMC's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelReport {
    /// How many entries it has.
    pub total: u32,
    /// How full it is, in percent, where the BMC says so.
    pub used_percent: Option<u32>,
    /// The last entries, oldest first.
    pub items: Vec<SelEntry>,
}

/// What to do with a node's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// Power on.
    On,
    /// Cut the power.
    Off,
    /// Press ACPI's button and let the operating system end.
    Soft,
}

impl PowerAction {
    /// In a word, for metrics.
    fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Soft => "soft",
        }
    }
}

/// What a node starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// The network.
    Pxe,
    /// Its first disk.
    Disk,
    /// The setup of its firmware.
    Bios,
}

/// Why a node's power could not be read or switched.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The driver, such as `manual`, cannot do it.
    #[error("a person has to {what}: the node's power driver cannot")]
    NeedsPerson {
        /// What to do, to stand behind "has to".
        what: String,
    },
    /// A BMC did not do what it was asked.
    #[error("BMC {bmc}: cannot {tried}: {fault}")]
    Bmc {
        /// Its address and port.
        bmc: std::net::SocketAddr,
        /// What was asked of it.
        tried: &'static str,
        /// What came of it and what to check.
        fault: BmcFault,
    },
    /// A BMC that speaks Redfish did not do what it was asked.
    #[error("BMC {bmc}: cannot {tried}: {fault}")]
    Redfish {
        /// Its address and port.
        bmc: std::net::SocketAddr,
        /// What was asked of it.
        tried: &'static str,
        /// What came of it and what to check.
        fault: RedfishFault,
    },
    /// Custom software did not do what it was asked.
    #[error("power command `{program} … {argument}`: {fault}")]
    Command {
        /// The program; its own arguments are not repeated.
        program: String,
        /// What it was asked.
        argument: &'static str,
        /// What came of it.
        fault: CommandFault,
    },
    /// The BMC's password could not be read.
    #[error("BMC {bmc}: {error}")]
    Secret {
        /// Its address and port.
        bmc: std::net::SocketAddr,
        /// What is wrong with the secret.
        error: SecretError,
    },
    /// The driver has no serial console.
    #[error(
        "only nodes with the power driver \"ipmi\", or \"redfish\" with console = \"ipmi\", have a console"
    )]
    NoConsole,
    /// The inventory asks for what the driver cannot do.
    #[error("power driver {driver:?}: {wrong}")]
    Spec {
        /// The driver.
        driver: &'static str,
        /// What is wrong, and what would be right.
        wrong: &'static str,
    },
}

impl PowerError {
    /// Whether only a person can mend it: trying again, by itself, will not.
    pub fn needs_person(&self) -> bool {
        match self {
            Self::NeedsPerson { .. } | Self::Spec { .. } | Self::Secret { .. } => true,
            Self::NoConsole => true,
            Self::Bmc { fault, .. } => fault.needs_person(),
            Self::Redfish { fault, .. } => fault.needs_person(),
            Self::Command { .. } => false,
        }
    }
}

/// The driver for a node. `firmware` is told to the BMC with the boot device.
///
/// # Errors
/// When the specification cannot work whatever the BMC answers.
pub fn driver(spec: &PowerSpec, firmware: Firmware) -> Result<Arc<dyn PowerDriver>, PowerError> {
    Ok(match spec {
        PowerSpec::Ipmi { .. } => {
            let login = ipmi::Login::of(spec).expect("its specification is IPMI's");
            Arc::new(ipmi::Ipmi::new(login, firmware == Firmware::Uefi))
        }
        PowerSpec::Redfish(spec) => {
            Arc::new(redfish::Redfish::new(spec.clone(), firmware == Firmware::Uefi))
        }
        PowerSpec::Exec { command } => Arc::new(exec::Exec::new(command)?),
        PowerSpec::Manual => Arc::new(manual::Manual),
    })
}

/// What looks at how a node is; none where its power driver knows nothing of that.
pub fn health_driver(spec: &PowerSpec) -> Option<Arc<dyn HealthDriver>> {
    match spec {
        PowerSpec::Ipmi { .. } => {
            let login = ipmi::Login::of(spec)?;
            Some(Arc::new(ipmi::Ipmi::new(login, false)))
        }
        PowerSpec::Redfish(spec) => Some(Arc::new(redfish::Redfish::new(spec.clone(), false))),
        PowerSpec::Exec { .. } | PowerSpec::Manual => None,
    }
}

/// Whether a console is taken from another session of the BMC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Only if none has it.
    IfFree,
    /// Whoever has it.
    Take,
}

/// Whether a node's serial console can be had.
pub fn has_console(spec: &PowerSpec) -> bool {
    ipmi::Login::for_console(spec).is_some()
}

/// Begins a node's serial console, in the BMC's session that its power commands have too. It ends
/// when it is dropped.
///
/// # Errors
/// When there is none, or it cannot be had.
pub async fn open_console(spec: &PowerSpec, claim: Claim) -> Result<Console, PowerError> {
    let login = ipmi::Login::for_console(spec).ok_or(PowerError::NoConsole)?;
    ipmi::open_console(&login, claim).await
}

/// Ends what drivers keep open, when haasd ends.
pub async fn close() {
    tokio::join!(ipmi::close(), redfish::close());
}

/// What the node's BMC keeps of its own accord: accounts, network, firmware; none where there is no BMC to
/// ask.
///
/// # Errors
/// When the BMC does not answer. What it refuses to tell is left out.
pub async fn baseline(spec: &PowerSpec) -> Result<Option<Facts>, PowerError> {
    match spec {
        PowerSpec::Ipmi { .. } => {
            let login = ipmi::Login::of(spec).expect("its specification is IPMI's");
            ipmi::Ipmi::new(login, false).baseline().await.map(Some)
        }
        PowerSpec::Redfish(spec) => {
            redfish::Redfish::new(spec.clone(), false).baseline().await.map(Some)
        }
        PowerSpec::Exec { .. } | PowerSpec::Manual => Ok(None),
    }
}

type Turn = Arc<tokio::sync::Mutex<()>>;

/// The lock of one BMC, the same for every driver made for it: many BMCs lose answers, or die, when
/// two sessions ask at once.
fn turn_at(bmc: String) -> Turn {
    static TURNS: LazyLock<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>> =
        LazyLock::new(Mutex::default);
    let mut turns = TURNS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    turns.retain(|_, turn| turn.strong_count() > 0);
    if let Some(turn) = turns.get(&bmc).and_then(Weak::upgrade) {
        return turn;
    }
    let turn = Turn::default();
    turns.insert(bmc, Arc::downgrade(&turn));
    turn
}

/// How long a driver may take for one call, waiting for its turn included.
const LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
