//! IPMI 2.0 over LAN (RMCP+, cipher suite 3), by the crate ipmi-rs, tamed.
//!
//! That crate never resends, matches no answer to its question but by command, never closes a
//! session and may panic on odd packets. So each call here is one new socket and one new session,
//! on a thread of its own, closed explicitly; whatever is odd ends the session, and the call starts
//! again with another, a bounded number of times. The time limit holds for all of it together, and
//! one call at a time is made to a BMC. An own session layer will replace the crate.

mod command;
mod fault;
mod probe;
mod session;

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::timeout_at;

pub use self::fault::BmcFault;
use self::session::Session;
use super::{BootDevice, LIMIT, Power, PowerAction, PowerDriver, PowerError, Turn, turn_at};
use crate::{
    inventory::SecretRef,
    secret::{Secret, SecretError},
};

/// How long to wait for an answer in the first session, the second and so on. Real BMCs answer
/// within a second; some take longer while they switch power.
const ANSWERS: &[Duration] =
    &[Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(6)];

/// One BMC.
#[derive(Debug)]
pub(super) struct Ipmi {
    account: Arc<Account>,
    turn: Turn,
    limit: Duration,
}

#[derive(Debug, Clone)]
struct Account {
    bmc: SocketAddr,
    user: String,
    password: SecretRef,
    efi: bool,
    answers: &'static [Duration],
}

#[derive(Debug, Clone, Copy)]
enum Job {
    State,
    Set(PowerAction),
    Boot(BootDevice),
}

impl Job {
    fn name(self) -> &'static str {
        match self {
            Self::State => "read the power state",
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
    pub(super) fn new(
        bmc: SocketAddr,
        user: String,
        password: SecretRef,
        efi: bool,
    ) -> Result<Self, PowerError> {
        // ipmi-rs would log in as nobody instead.
        if user.is_empty() || user.len() > 16 {
            return Err(PowerError::Spec { driver: "ipmi", wrong: "user must have 1 to 16 bytes" });
        }
        let account = Account { bmc, user, password, efi, answers: ANSWERS };
        let turn = turn_at(format!("ipmi {bmc}"));
        Ok(Self { account: Arc::new(account), turn, limit: LIMIT })
    }

    #[cfg(test)]
    pub(super) fn with_patience(mut self, answers: &'static [Duration], limit: Duration) -> Self {
        Arc::make_mut(&mut self.account).answers = answers;
        Self { limit, ..self }
    }

    async fn call(&self, job: Job) -> Result<Power, PowerError> {
        let bmc = self.account.bmc;
        let deadline = Instant::now() + self.limit;
        let error = |fault| PowerError::Bmc { bmc, tried: job.name(), fault };
        let turn = timeout_at(deadline.into(), Arc::clone(&self.turn).lock_owned());
        let turn = turn.await.map_err(|_| error(BmcFault::Busy(self.limit)))?;
        let account = Arc::clone(&self.account);
        let thread = tokio::task::spawn_blocking(move || {
            // Held to the thread's end, though the caller may have given up before.
            let _turn = turn;
            account.run(job, deadline)
        });
        match timeout_at(deadline.into(), thread).await {
            Err(_) => Err(error(BmcFault::TooSlow(self.limit))),
            Ok(Err(_)) => Err(error(BmcFault::Garbled("the thread ended early".to_owned()))),
            Ok(Ok(Err(Trouble::Secret(error)))) => Err(PowerError::Secret { bmc, error }),
            Ok(Ok(Err(Trouble::Bmc(fault)))) => Err(error(fault)),
            Ok(Ok(Ok(state))) => Ok(state),
        }
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
}

enum Trouble {
    Secret(SecretError),
    Bmc(BmcFault),
}

impl Account {
    fn run(&self, job: Job, deadline: Instant) -> Result<Power, Trouble> {
        let password = self.password.read().map_err(Trouble::Secret)?;
        // IPMI 2.0 section 22.30: 20 bytes. ipmi-rs would cut it without a word.
        if password.expose().len() > 20 {
            return Err(Trouble::Bmc(BmcFault::LongPassword));
        }
        let mut last = BmcFault::Silent { sessions: 0 };
        for (before, answer) in self.answers.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let attempt = || self.attempt(job, before > 0, &password, (*answer).min(left));
            // ipmi-rs unwraps what it decrypts; nothing of it outlives the attempt.
            last = match catch_unwind(AssertUnwindSafe(attempt)) {
                Ok(Ok(state)) => return Ok(state),
                Ok(Err(BmcFault::WrongPassword)) => {
                    let why = probe::why_refused(self.bmc, &self.user, (*answer).min(left));
                    return Err(Trouble::Bmc(why.unwrap_or(BmcFault::WrongPassword)));
                }
                Ok(Err(fault)) if !fault.may_pass() => return Err(Trouble::Bmc(fault)),
                Ok(Err(BmcFault::Silent { .. })) => BmcFault::Silent { sessions: before + 1 },
                Ok(Err(fault)) => fault,
                Err(_) => BmcFault::Garbled("a packet that nobody should send".to_owned()),
            };
            tracing::debug!(bmc = %self.bmc, job = job.name(), error = %last, "session failed");
        }
        Err(Trouble::Bmc(last))
    }

    fn attempt(
        &self,
        job: Job,
        again: bool,
        password: &Secret<String>,
        answer: Duration,
    ) -> Result<Power, BmcFault> {
        let mut session = Session::open(self.bmc, &self.user, password, answer)?;
        let outcome = perform(&mut session, job, again, self.efi);
        session.close(outcome.is_ok());
        outcome
    }
}

fn perform(session: &mut Session, job: Job, again: bool, efi: bool) -> Result<Power, BmcFault> {
    session.ask(command::set_session_privilege())?;
    match job {
        Job::State => state(session),
        Job::Set(action) => {
            let wanted = match action {
                PowerAction::On => Power::On,
                PowerAction::Off | PowerAction::Soft => Power::Off,
            };
            // The last session's order may have been obeyed and only its answer lost.
            if again && state(session)? == wanted {
                return Ok(wanted);
            }
            match session.ask(command::chassis_control(action)) {
                Ok(_) => Ok(wanted),
                // Some BMCs refuse to switch off what is off.
                Err(BmcFault::NotNow) if state(session)? == wanted => Ok(wanted),
                Err(fault) => Err(fault),
            }
        }
        Job::Boot(device) => {
            // Not every BMC knows these two; boot flags alone are then all that can be had.
            for preparation in command::prepare_boot_flags() {
                match session.ask(preparation) {
                    Ok(_) | Err(BmcFault::Rejected { .. }) => {}
                    Err(fault) => return Err(fault),
                }
            }
            session.ask(command::set_boot_flags(device, efi))?;
            // Another command after equal ones: if an answer came twice, this shows it.
            match session.ask(command::get_boot_flags()) {
                Ok(flags) if !command::boot_flags_say(&flags, device) => {
                    tracing::warn!(bmc = %session.bmc(), ?device, ?flags, "BMC reads back another boot device");
                }
                Ok(_) | Err(BmcFault::Rejected { .. }) => {}
                Err(fault) => return Err(fault),
            }
            Ok(Power::Unknown)
        }
    }
}

fn state(session: &mut Session) -> Result<Power, BmcFault> {
    let status = session.ask(command::get_chassis_status())?;
    match status.first() {
        // IPMI 2.0 section 28.2: bit 0 of the first byte is "power is on".
        Some(byte) if byte & 1 == 1 => Ok(Power::On),
        Some(_) => Ok(Power::Off),
        None => Err(BmcFault::Garbled("an empty chassis status".to_owned())),
    }
}
