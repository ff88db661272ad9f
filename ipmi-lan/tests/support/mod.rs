//! What the tests of this folder share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::{Duration, Instant};

use anyhow::Result;
use ipmi_lan::{
    Account, Bmc, Error, Fleet, Options,
    command::{ChassisControl, GetChassisStatus},
};
use sim::bmc::{Farm, Faults, Setup};

pub(crate) const USER: &str = "admin";
pub(crate) const PASSWORD: &str = "s3cret";

/// More than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The account of [`farm`]'s BMCs.
pub(crate) fn account() -> Account {
    Account::new(USER, PASSWORD).expect("both are short")
}

pub(crate) fn setup() -> Setup {
    Setup::new(USER, PASSWORD)
}

/// One BMC and a fleet that can reach it.
pub(crate) struct Rig {
    pub(crate) farm: Farm,
    pub(crate) fleet: Fleet,
}

impl Rig {
    pub(crate) fn new() -> Result<Self> {
        Self::with(1, &setup(), Options::default())
    }

    pub(crate) fn with(count: usize, setup: &Setup, options: Options) -> Result<Self> {
        Ok(Self { farm: Farm::start(count, setup)?, fleet: Fleet::new(options) })
    }

    pub(crate) fn faults(&self, faults: Faults) {
        self.farm.set_faults(&faults);
    }

    /// The first BMC, by an account.
    pub(crate) fn bmc_as(&self, account: &Account) -> Bmc {
        self.fleet.bmc(self.farm.addresses()[0], account)
    }

    pub(crate) fn bmc(&self) -> Bmc {
        self.bmc_as(&account())
    }

    pub(crate) fn bmcs(&self) -> Vec<Bmc> {
        let account = account();
        self.farm.addresses().into_iter().map(|at| self.fleet.bmc(at, &account)).collect()
    }
}

/// Whether the BMC says that its machine is on.
pub(crate) async fn is_on(bmc: &Bmc) -> Result<bool, Error> {
    is_on_within(bmc, LONG).await
}

pub(crate) async fn is_on_within(bmc: &Bmc, time: Duration) -> Result<bool, Error> {
    Ok(bmc.ask(GetChassisStatus, Instant::now() + time).await?.power_on)
}

pub(crate) async fn order(bmc: &Bmc, order: ChassisControl) -> Result<(), Error> {
    bmc.order(order, Instant::now() + LONG).await
}
