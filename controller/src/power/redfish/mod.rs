//! Redfish (DMTF DSP0266) over HTTPS, for BMCs that speak it better than IPMI, or only it.
//!
//! Only what is needed is read of what a BMC says, and what is not as the schema has it counts as not
//! there: a wrong serial number must not keep anybody from cutting the power, nor one odd sensor from
//! seeing the others. Why this is our own client, and not one of the crates that there are: docs/adr/0009.
//!
//! | What | Where |
//! |---|---|
//! | which certificate it must have | `trust` |
//! | one request and its answer | `http` |
//! | sessions, trying again, finding the system | `session` |
//! | one session and one call at a time for each BMC | `fleet` |
//! | leaving it alone when it does not work | `breaker` |
//! | what to say to switch power | `orders` |
//! | what to say to boot from the network, once | `boot` |
//! | what hardware it sees | `hardware` |
//! | how the machine is: sensors, power, log | `health`, `sensors`, `log` |
//! | starting the BMC itself anew | `manager` |
//! | resources that hang on others | `parts` |
//! | accounts, network, firmware, to be compared | `baseline` |
//! | what single vendors do otherwise | `quirks` |

mod baseline;
mod boot;
mod breaker;
mod fault;
mod fleet;
mod hardware;
mod health;
mod http;
mod log;
mod look;
mod manager;
mod orders;
mod parts;
mod quirks;
mod sensors;
mod session;
mod trust;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt};
use haas_api::baseline::Facts;

pub use self::fault::RedfishFault;
use self::{
    fleet::{Call, Fleet},
    session::Link,
};
pub(super) use self::{
    look::{Look, look},
    session::Login,
    trust::Trust,
};
use super::{BootDevice, Power, PowerAction, PowerDriver, PowerError};
use crate::{
    inventory::{RedfishSpec, TlsTrust},
    metrics::METRICS,
};

/// All BMCs of this haasd.
static FLEET: LazyLock<Arc<Fleet>> = LazyLock::new(|| Arc::new(Fleet::new(Options::default())));

/// How long a call may take, waiting for its turn included. A cold one is a TLS handshake, a login and
/// some five requests, each of which takes an old BMC a second or two.
const LIMIT: Duration = Duration::from_secs(30);
/// How long reading all hardware may take: some hundred requests.
const HARDWARE_LIMIT: Duration = Duration::from_secs(120);

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// For a connection to stand.
    pub(super) connect: Duration,
    /// For the answer to a question.
    pub(super) request: Duration,
    /// For the answer to an order, which is not sent again.
    pub(super) order: Duration,
    /// For a session to be closed.
    pub(super) log_out: Duration,
    /// Before the first try again; twice as long each time, up to `longest_wait`.
    pub(super) first_wait: Duration,
    /// See `first_wait`.
    pub(super) longest_wait: Duration,
    /// How long an idle connection is kept.
    pub(super) keep_connection: Duration,
    /// After how long without a call a session is closed.
    pub(super) idle: Duration,
    /// How long no session is tried after none was free.
    pub(super) no_session: Duration,
    /// How long none is tried where there is no service for them.
    pub(super) no_service: Duration,
    /// After how many failed calls in a row a BMC is left alone for a while.
    pub(super) failures: u32,
    /// For how long it is left alone the first time; twice as long each time after.
    pub(super) first_pause: Duration,
    /// For how long at most.
    pub(super) longest_pause: Duration,
    /// For how long after a refused login.
    pub(super) login_pause: Duration,
    /// How many logins may be under way at the same time.
    pub(super) logins: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(10),
            order: Duration::from_secs(15),
            log_out: Duration::from_secs(3),
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(4),
            keep_connection: Duration::from_secs(20),
            idle: Duration::from_secs(300),
            no_session: Duration::from_secs(60),
            no_service: Duration::from_secs(3600),
            failures: 3,
            first_pause: Duration::from_secs(3),
            longest_pause: Duration::from_secs(15),
            login_pause: Duration::from_secs(60),
            logins: 64,
        }
    }
}

/// Closes all sessions.
pub(super) async fn close() {
    FLEET.close().await;
}

/// One node's BMC.
#[derive(Debug)]
pub(super) struct Redfish {
    spec: RedfishSpec,
    efi: bool,
    fleet: Arc<Fleet>,
    limit: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Job {
    State,
    Set(PowerAction),
    Boot(BootDevice),
    ResetBmc,
}

impl Job {
    /// In a word, for metrics.
    fn word(self) -> &'static str {
        match self {
            Self::State => "status",
            Self::Set(action) => action.word(),
            Self::Boot(_) => "bootdev",
            Self::ResetBmc => "bmc-reset",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::State => "read the power state",
            Self::ResetBmc => "start it anew",
            Self::Set(PowerAction::On) => "switch power on",
            Self::Set(PowerAction::Off) => "switch power off",
            Self::Set(PowerAction::Soft) => "ask for a soft shutdown",
            Self::Boot(BootDevice::Pxe) => "set the boot device to the network",
            Self::Boot(BootDevice::Disk) => "set the boot device to the disk",
            Self::Boot(BootDevice::Bios) => "set the boot device to the firmware's setup",
        }
    }
}

impl Redfish {
    /// A driver. `efi` is told to the BMC with the boot device, where it wants to know.
    pub(super) fn new(spec: RedfishSpec, efi: bool) -> Self {
        Self { spec, efi, fleet: Arc::clone(&FLEET), limit: LIMIT }
    }

    #[cfg(test)]
    pub(super) fn with_patience(self, options: Options, limit: Duration) -> Self {
        Self { fleet: Arc::new(Fleet::new(options)), limit, ..self }
    }

    #[cfg(test)]
    pub(super) async fn close(&self) {
        self.fleet.close().await;
    }

    /// What hardware the BMC sees in the node.
    #[cfg(test)]
    pub(super) async fn hardware(&self) -> Result<haas_api::bmc::Hardware, PowerError> {
        let mut call = self.begin("read the hardware", HARDWARE_LIMIT).await?;
        let outcome = hardware::read(call.link(), self.spec.system.as_deref()).await;
        call.end(outcome).map_err(|fault| self.error("read the hardware", fault))
    }

    /// What the BMC keeps of its own accord.
    pub(super) async fn baseline(&self) -> Result<Facts, PowerError> {
        let tried = "read its accounts and settings";
        let mut call = self.begin(tried, HARDWARE_LIMIT).await?;
        let outcome = baseline::read(call.link(), self.spec.system.as_deref()).await;
        call.end(outcome).map_err(|fault| self.error(tried, fault))
    }

    async fn call(&self, job: Job) -> Result<Power, PowerError> {
        let since = Instant::now();
        let outcome = self.call_uncounted(job).await;
        METRICS.bmc_called("redfish", job.word(), outcome.is_ok(), since.elapsed());
        outcome
    }

    async fn call_uncounted(&self, job: Job) -> Result<Power, PowerError> {
        let mut call = self.begin(job.name(), self.limit).await?;
        let outcome = self.perform(call.link(), job).await;
        call.end(outcome).map_err(|fault| self.error(job.name(), fault))
    }

    async fn begin(&self, tried: &'static str, limit: Duration) -> Result<Call, PowerError> {
        let deadline = Instant::now() + limit;
        let login = self.spec.login()?.map_err(|fault| self.error(tried, fault))?;
        self.fleet.call(login, deadline).await.map_err(|fault| self.error(tried, fault))
    }

    async fn perform(&self, link: &mut Link, job: Job) -> Result<Power, RedfishFault> {
        let system = self.spec.system.as_deref();
        match job {
            Job::State => orders::state(link, system).await,
            Job::Set(action) => orders::set(link, system, action).await.map(|()| Power::Unknown),
            Job::Boot(device) => {
                let wanted = boot::Wanted { device, efi: self.efi, by: self.spec.network_boot };
                boot::set(link, system, wanted).await.map(|()| Power::Unknown)
            }
            Job::ResetBmc => manager::reset(link, system).await.map(|()| Power::Unknown),
        }
    }

    fn error(&self, tried: &'static str, fault: RedfishFault) -> PowerError {
        PowerError::Redfish { bmc: self.spec.bmc(), tried, fault }
    }
}

impl RedfishSpec {
    /// Where the BMC is.
    pub(super) fn bmc(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Reads the secrets, anew each time.
    pub(super) fn login(&self) -> Result<Result<Login, RedfishFault>, PowerError> {
        let error = |error| PowerError::Secret { bmc: self.bmc(), error };
        let password = self.password.read().map_err(error)?;
        Ok(self.tls.read().map(|trust| Login {
            bmc: self.bmc(),
            user: self.user.clone(),
            password,
            trust,
            server_name: self.server_name.clone(),
        }))
    }
}

impl TlsTrust {
    /// What it says, with the file that it names.
    pub(super) fn read(&self) -> Result<Trust, RedfishFault> {
        match self {
            Self::Fingerprint(fingerprint) => Ok(Trust::Fingerprint(fingerprint.clone())),
            Self::CaFile(path) => std::fs::read(path)
                .map(Trust::Authorities)
                .map_err(|error| unreadable(path, &error)),
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> RedfishFault {
    RedfishFault::CaFile(format!("{}: {error}", path.display()))
}

impl PowerDriver for Redfish {
    fn state(&self) -> BoxFuture<'_, Result<Power, PowerError>> {
        self.call(Job::State).boxed()
    }

    fn set(&self, action: PowerAction) -> BoxFuture<'_, Result<(), PowerError>> {
        self.call(Job::Set(action)).map(|outcome| outcome.map(|_| ())).boxed()
    }

    fn set_boot_device(&self, device: BootDevice) -> BoxFuture<'_, Result<(), PowerError>> {
        self.call(Job::Boot(device)).map(|outcome| outcome.map(|_| ())).boxed()
    }

    fn reset_bmc(&self) -> BoxFuture<'_, Result<(), PowerError>> {
        self.call(Job::ResetBmc).map(|outcome| outcome.map(|_| ())).boxed()
    }
}
