//! IPMI 2.0 over LAN, by the package `ipmi-lan`.
//!
//! haasd has one [`Fleet`] with one session for each BMC, which stays open while it is in use: reading
//! the power of 500 nodes is one packet to each and one back. Resending, new sessions, and leaving dead
//! BMCs alone are the fleet's; what is done here is to read secrets anew for each call, to never give
//! an order twice that may have been obeyed, and to say what a person has to do.

mod baseline;
mod fault;
mod look;

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt};
use ipmi_lan::{
    Account, AccountError, Bmc, CipherSuite, Console, Error, Figures, Fleet, Options, Privilege,
    Suites,
    command::{
        self, ChassisControl, ColdReset, GetBootFlags, GetChassisStatus, KeepBootFlags,
        MarkBootFlagsNew, SetBootFlags,
    },
    ipmi_rs_core::connection::{CompletionErrorCode, IpmiCommand},
};
use tokio::time::timeout_at;

pub use self::fault::BmcFault;
use super::{BootDevice, Claim, LIMIT, Power, PowerAction, PowerDriver, PowerError, Turn, turn_at};
use crate::{
    inventory::{self, BmcPrivilege, ConsoleBy, IPMI_PORT, PowerSpec, RedfishSpec, SecretRef},
    metrics::METRICS,
};

/// All BMCs of this haasd.
static FLEET: LazyLock<Arc<Fleet>> = LazyLock::new(|| Arc::new(Fleet::new(Options::default())));

/// How often an order is given whose answer does not come and which was not obeyed.
const ORDERS: usize = 3;

/// What is done with the BMCs, in numbers.
pub fn figures() -> Figures {
    FLEET.figures()
}

/// Closes all sessions: BMCs have few, and keep each for a minute.
pub(super) async fn close() {
    FLEET.close().await;
}

/// One BMC, and how it is logged in to.
#[derive(Debug)]
pub(super) struct Ipmi {
    login: Login,
    efi: bool,
    turn: Turn,
    fleet: Arc<Fleet>,
    limit: Duration,
}

/// What the inventory says of a BMC.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) bmc: SocketAddr,
    pub(super) user: String,
    pub(super) password: SecretRef,
    pub(super) kg: Option<SecretRef>,
    pub(super) privilege: BmcPrivilege,
    pub(super) cipher_suite: Option<inventory::CipherSuite>,
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

impl Ipmi {
    /// A driver. `efi` is told to the BMC with the boot device.
    pub(super) fn new(login: Login, efi: bool) -> Self {
        let turn = turn_at(format!("ipmi {}", login.bmc));
        Self { login, efi, turn, fleet: Arc::clone(&FLEET), limit: LIMIT }
    }

    #[cfg(test)]
    pub(super) fn with_patience(self, options: Options, limit: Duration) -> Self {
        Self { fleet: Arc::new(Fleet::new(options)), limit, ..self }
    }

    async fn call(&self, job: Job) -> Result<Power, PowerError> {
        let since = Instant::now();
        let outcome = self.perform(job).await;
        METRICS.bmc_called("ipmi", job.word(), outcome.is_ok(), since.elapsed());
        outcome
    }

    async fn perform(&self, job: Job) -> Result<Power, PowerError> {
        let bmc = self.login.bmc;
        let deadline = Instant::now() + self.limit;
        let error = |fault| PowerError::Bmc { bmc, tried: job.name(), fault };
        // What belongs together is not mixed with another caller's.
        let turn = timeout_at(deadline.into(), self.turn.lock());
        let _turn = turn.await.map_err(|_| error(BmcFault::Busy(self.limit)))?;
        let account = self.login.account()?.map_err(error)?;
        let asked = Asked { bmc: self.fleet.bmc(bmc, &account), deadline, efi: self.efi };
        asked.perform(job).await.map_err(|told| error(BmcFault::of(told, self.limit)))
    }
}

impl Login {
    /// What the inventory says; none where the driver is another one.
    pub(super) fn of(spec: &PowerSpec) -> Option<Self> {
        match spec {
            PowerSpec::Ipmi {
                address,
                port,
                mac: _,
                user,
                password,
                kg,
                privilege,
                cipher_suite,
            } => Some(Self {
                bmc: SocketAddr::new(*address, *port),
                user: user.clone(),
                password: password.clone(),
                kg: kg.clone(),
                privilege: *privilege,
                cipher_suite: *cipher_suite,
            }),
            PowerSpec::Redfish(_) | PowerSpec::Exec { .. } | PowerSpec::Manual => None,
        }
    }

    /// By what the node's console is had: it may be IPMI though Redfish switches the power.
    pub(super) fn for_console(spec: &PowerSpec) -> Option<Self> {
        match spec {
            PowerSpec::Redfish(RedfishSpec {
                console: ConsoleBy::Ipmi,
                address,
                user,
                password,
                ..
            }) => Some(Self {
                bmc: SocketAddr::new(*address, IPMI_PORT),
                user: user.clone(),
                password: password.clone(),
                kg: None,
                privilege: BmcPrivilege::default(),
                cipher_suite: None,
            }),
            spec => Self::of(spec),
        }
    }

    /// Reads the secrets, anew each time.
    fn account(&self) -> Result<Result<Account, BmcFault>, PowerError> {
        let read = |secret: &SecretRef| {
            secret.read().map_err(|error| PowerError::Secret { bmc: self.bmc, error })
        };
        let password = read(&self.password)?;
        let kg = self.kg.as_ref().map(read).transpose()?;
        let account = Account::new(&self.user, password.expose()).and_then(|account| match &kg {
            Some(kg) => account.with_kg(kg.expose()),
            None => Ok(account),
        });
        let account = match account {
            Ok(account) => account,
            Err(AccountError::Password) => return Ok(Err(BmcFault::LongPassword)),
            Err(AccountError::Kg) => return Ok(Err(BmcFault::BadKg)),
            Err(AccountError::User) => {
                let wrong = "user must have 1 to 16 bytes";
                return Err(PowerError::Spec { driver: "ipmi", wrong });
            }
        };
        let privilege = match self.privilege {
            BmcPrivilege::Operator => Privilege::Operator,
            BmcPrivilege::Administrator => Privilege::Administrator,
        };
        Ok(Ok(account.with_privilege(privilege).with_suites(suites(self.cipher_suite))))
    }
}

/// The cipher suites that an account may be shown to, as the inventory says it.
pub(super) fn suites(wanted: Option<inventory::CipherSuite>) -> Suites {
    match wanted {
        None => Suites::Best,
        Some(inventory::CipherSuite::Three) => Suites::Only(CipherSuite::Three),
        Some(inventory::CipherSuite::Seventeen) => Suites::Only(CipherSuite::Seventeen),
    }
}

impl PowerDriver for Ipmi {
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

/// Begins a console, in the session that calls have too.
pub(super) async fn open_console(login: &Login, claim: Claim) -> Result<Console, PowerError> {
    let error = |fault| PowerError::Bmc { bmc: login.bmc, tried: "begin the console", fault };
    let bmc = FLEET.bmc(login.bmc, &login.account()?.map_err(error)?);
    let deadline = Instant::now() + LIMIT;
    let begun = match claim {
        Claim::IfFree => bmc.console(deadline).await,
        Claim::Take => bmc.take_console(deadline).await,
    };
    begun.map_err(|told| error(BmcFault::of(told, LIMIT)))
}

/// A call that is under way.
struct Asked {
    bmc: Bmc,
    deadline: Instant,
    efi: bool,
}

impl Asked {
    async fn perform(&self, job: Job) -> Result<Power, Error> {
        match job {
            Job::State => self.state().await,
            Job::Set(action) => self.set(action).await,
            Job::Boot(device) => self.set_boot_device(device).await.map(|()| Power::Unknown),
            Job::ResetBmc => self.reset_bmc().await.map(|()| Power::Unknown),
        }
    }

    async fn ask<C: IpmiCommand>(&self, command: C) -> Result<C::Output, Error> {
        self.bmc.ask(command, self.deadline).await
    }

    async fn state(&self) -> Result<Power, Error> {
        let status = self.ask(GetChassisStatus).await?;
        Ok(if status.power_on { Power::On } else { Power::Off })
    }

    async fn set(&self, action: PowerAction) -> Result<Power, Error> {
        let (control, wanted) = match action {
            PowerAction::On => (ChassisControl::PowerUp, Power::On),
            PowerAction::Off => (ChassisControl::PowerDown, Power::Off),
            PowerAction::Soft => (ChassisControl::SoftShutdown, Power::Off),
        };
        let mut orders = 1;
        loop {
            match self.bmc.order(control, self.deadline).await {
                Ok(()) => return Ok(wanted),
                // It may have been obeyed, and only its answer was lost; or come in a bad moment.
                Err(Error::Unanswered | Error::Overloaded(_)) if orders < ORDERS => {
                    if self.state().await? == wanted {
                        return Ok(wanted);
                    }
                    orders += 1;
                }
                // Some BMCs refuse to switch off what is off.
                Err(error) if is_not_now(&error) && self.state().await? == wanted => {
                    return Ok(wanted);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Its answer may be lost, since it starts at once.
    async fn reset_bmc(&self) -> Result<(), Error> {
        match self.bmc.order(ColdReset, self.deadline).await {
            Ok(()) | Err(Error::Unanswered) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn set_boot_device(&self, device: BootDevice) -> Result<(), Error> {
        // Not every BMC knows these two; boot flags alone are then all that can be had.
        unless_refused(self.ask(KeepBootFlags).await)?;
        unless_refused(self.ask(MarkBootFlagsNew).await)?;
        let device = match device {
            BootDevice::Pxe => command::BootDevice::Pxe,
            BootDevice::Disk => command::BootDevice::Disk,
            BootDevice::Bios => command::BootDevice::Setup,
        };
        self.ask(SetBootFlags { device, efi: self.efi }).await?;
        if let Some(flags) = unless_refused(self.ask(GetBootFlags).await)?
            && !flags.name(device)
        {
            tracing::warn!(
                bmc = %self.bmc.address(), ?device, ?flags, "BMC reads back another boot device"
            );
        }
        Ok(())
    }
}

fn is_not_now(error: &Error) -> bool {
    let code = CompletionErrorCode::CannotExecuteCommandInCurrentState;
    matches!(error, Error::Refused { code: told, .. } if *told == code)
}

/// None where the BMC does not know the command, or not this use of it.
fn unless_refused<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::Refused { code, .. }) if code != CompletionErrorCode::InsufficientPrivilege => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
