//! Against Debian's `ipmi_sim`: a BMC that none of us wrote. It has cipher suite 3 only.

mod support;

use std::time::{Duration, Instant};

use anyhow::Result;
use ipmi_lan::{
    Account, Bmc, CipherSuite, Error, Fleet, Options, Privilege, Suites,
    command::{
        BootDevice, ChassisControl, GetBootFlags, KeepBootFlags, MarkBootFlagsNew, SetBootFlags,
    },
    ipmi_rs_core::{app::GetDeviceId, connection::CompletionErrorCode, storage::sel::GetSelInfo},
};
use sim::IpmiSim;
use support::{LONG, is_on, order};

fn account() -> Account {
    Account::new(IpmiSim::USER, IpmiSim::PASSWORD)
        .expect("both are short")
        .with_suites(Suites::Only(CipherSuite::Three))
}

fn bmc(sim: &IpmiSim, account: &Account) -> (Fleet, Bmc) {
    let fleet = Fleet::new(Options::default());
    let bmc = fleet.bmc(sim.address(), account);
    (fleet, bmc)
}

#[tokio::test]
async fn power_is_read_and_switched() -> Result<()> {
    let sim = IpmiSim::start()?;
    let (_fleet, bmc) = bmc(&sim, &account());
    assert!(!is_on(&bmc).await?);
    order(&bmc, ChassisControl::PowerUp).await?;
    assert!(is_on(&bmc).await?);
    order(&bmc, ChassisControl::SoftShutdown).await?;
    assert!(!is_on(&bmc).await?);
    assert_eq!(sim.log()?, ["power 1", "shutdown"]);
    Ok(())
}

#[tokio::test]
async fn device_log_and_boot_device_are_read_and_set() -> Result<()> {
    let sim = IpmiSim::start()?;
    let (_fleet, bmc) = bmc(&sim, &account());
    let deadline = Instant::now() + LONG;
    assert_eq!(bmc.ask(GetDeviceId, deadline).await?.major_version, 2);
    assert_eq!(bmc.ask(GetSelInfo, deadline).await?.entries, 1);
    bmc.ask(KeepBootFlags, deadline).await?;
    bmc.ask(MarkBootFlagsNew, deadline).await?;
    bmc.ask(SetBootFlags { device: BootDevice::Pxe, efi: true }, deadline).await?;
    assert!(bmc.ask(GetBootFlags, deadline).await?.name(BootDevice::Pxe));
    assert_eq!(sim.log()?, ["boot pxe"]);
    Ok(())
}

#[tokio::test]
async fn refused_logins_are_told_apart_and_a_user_may_look_only() -> Result<()> {
    let sim = IpmiSim::start()?;
    type Expected = fn(&Error) -> bool;
    let table: [(&str, &str, Expected); 2] = [
        (IpmiSim::USER, "hunter2", |error| matches!(error, Error::WrongPassword)),
        ("nobody", IpmiSim::PASSWORD, |error| matches!(error, Error::WrongUser)),
    ];
    for (user, password, expected) in table {
        let account = Account::new(user, password)?.with_suites(Suites::Only(CipherSuite::Three));
        let (_fleet, bmc) = bmc(&sim, &account);
        let told = is_on(&bmc).await.unwrap_err();
        assert!(expected(&told), "{user}: {told:?}");
    }
    let guest = Account::new(IpmiSim::GUEST, IpmiSim::PASSWORD)?
        .with_suites(Suites::Only(CipherSuite::Three))
        .with_privilege(Privilege::User);
    let (_fleet, bmc) = bmc(&sim, &guest);
    assert!(!is_on(&bmc).await?);
    let told = order(&bmc, ChassisControl::PowerUp).await.unwrap_err();
    let expected = CompletionErrorCode::InsufficientPrivilege;
    assert!(matches!(&told, Error::Refused { code, .. } if *code == expected), "{told:?}");
    assert!(sim.log()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn seventeen_is_refused_and_the_best_suite_is_found_to_be_three() -> Result<()> {
    let sim = IpmiSim::start()?;
    let only = account().with_suites(Suites::Only(CipherSuite::Seventeen));
    let told = is_on(&bmc(&sim, &only).1).await.unwrap_err();
    assert!(matches!(told, Error::CipherSuite(_)), "{told:?}");
    assert!(!is_on(&bmc(&sim, &account().with_suites(Suites::Best)).1).await?);
    Ok(())
}

#[tokio::test]
async fn a_hundred_sessions_are_opened_and_closed() -> Result<()> {
    let sim = IpmiSim::start()?;
    for _ in 0..100 {
        // It has far fewer.
        let (fleet, bmc) = bmc(&sim, &account());
        assert!(!is_on(&bmc).await?);
        fleet.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_order_is_given_once() -> Result<()> {
    let sim = IpmiSim::start()?;
    sim.delay("1.2")?;
    let fleet =
        Fleet::new(Options { order_wait: Duration::from_millis(500), ..Options::default() });
    let bmc = fleet.bmc(sim.address(), &account());
    let told = order(&bmc, ChassisControl::PowerUp).await.unwrap_err();
    assert!(matches!(told, Error::Unanswered), "{told:?}");
    assert!(is_on(&bmc).await?);
    assert_eq!(sim.log()?, ["power 1"]);
    Ok(())
}
