//! Each way in which a BMC or its network fails, and what comes of it. On real sockets.

mod support;

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::join_all;
use ipmi_lan::{
    CipherSuite, Error, Options, Privilege, SuiteRefusal, Suites,
    command::{BootDevice, ChassisControl, GetBootFlags, GetChassisStatus, SetBootFlags},
    ipmi_rs_core::app::GetDeviceId,
};
use sim::bmc::{Faults, PowerState, Setup, User};
use support::{LONG, PASSWORD, Rig, account, is_on, is_on_within, order, setup};

/// Asks both states of a machine a few times, with a network that does this.
async fn all_answers_are_right(faults: Faults) -> Result<()> {
    let rig = Rig::new()?;
    rig.faults(faults);
    let bmc = rig.bmc();
    for round in 0..30 {
        let on = round % 2 == 0;
        let power = if on { PowerState::On } else { PowerState::Off };
        rig.farm.bmc(0).set_power(power, Instant::now());
        assert_eq!(is_on(&bmc).await?, on, "round {round}");
    }
    Ok(())
}

#[tokio::test]
async fn loss_costs_time_and_no_answer() -> Result<()> {
    all_answers_are_right(Faults { lost: 0.1, ..Faults::default() }).await
}

#[tokio::test]
async fn delay_costs_time_and_no_answer() -> Result<()> {
    all_answers_are_right(Faults { delayed: 0.2, delay_ms: 800, ..Faults::default() }).await
}

#[tokio::test]
async fn duplication_costs_nothing() -> Result<()> {
    all_answers_are_right(Faults { duplicated: 0.5, ..Faults::default() }).await
}

#[tokio::test]
async fn reordering_costs_nothing() -> Result<()> {
    all_answers_are_right(Faults { reordered: 0.5, duplicated: 0.3, ..Faults::default() }).await
}

#[tokio::test]
async fn session_exhaustion_is_waited_for_and_told_if_it_lasts() -> Result<()> {
    let rig = Rig::new()?;
    rig.faults(Faults { sessions_full: true, ..Faults::default() });
    let bmc = rig.bmc();
    let told = is_on_within(&bmc, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(told, Error::Overloaded("no session is free")), "{told:?}");
    let asking = tokio::spawn(async move { is_on(&bmc).await });
    let before = rig.farm.counts().logins;
    while rig.farm.counts().logins == before {
        tokio::task::yield_now().await;
    }
    rig.faults(Faults::default());
    assert!(!asking.await??, "the first session that is free is taken");
    Ok(())
}

#[tokio::test]
async fn a_wrong_power_state_for_some_seconds_is_told_as_long_as_the_bmc_tells_it() -> Result<()> {
    let rig = Rig::new()?;
    rig.faults(Faults { wrong_state_ms: 1500, ..Faults::default() });
    let bmc = rig.bmc();
    order(&bmc, ChassisControl::PowerUp).await?;
    let begun = Instant::now();
    assert!(!is_on(&bmc).await?, "nothing is remembered or made up");
    while !is_on(&bmc).await? {
        assert!(begun.elapsed() < LONG, "it tells the truth in the end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn an_ignored_soft_off_is_no_error_and_leaves_the_machine_on() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    order(&bmc, ChassisControl::PowerUp).await?;
    rig.faults(Faults { ignores_soft_off: true, ..Faults::default() });
    order(&bmc, ChassisControl::SoftShutdown).await?;
    assert!(is_on(&bmc).await?);
    rig.faults(Faults::default());
    order(&bmc, ChassisControl::SoftShutdown).await?;
    assert!(!is_on(&bmc).await?);
    assert_eq!(rig.farm.bmc(0).orders(), ["on", "soft", "soft"]);
    Ok(())
}

#[tokio::test]
async fn a_reboot_of_the_bmc_costs_a_login() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    assert!(!is_on(&bmc).await?);
    rig.farm.bmc(0).set_power(PowerState::On, Instant::now());
    rig.farm.bmc(0).reboot(Duration::from_millis(300), Instant::now());
    assert!(is_on(&bmc).await?);
    assert_eq!(rig.farm.counts().opened, 2);
    Ok(())
}

#[tokio::test]
async fn a_hang_ends_at_the_callers_time_limit_and_the_bmc_is_left_alone_then() -> Result<()> {
    let options =
        Options { failures: 2, first_pause: Duration::from_secs(1), ..Options::default() };
    let rig = Rig::with(1, &setup(), options)?;
    let bmc = rig.bmc();
    assert!(!is_on(&bmc).await?);
    rig.faults(Faults { hangs: true, ..Faults::default() });
    let limit = Duration::from_millis(700);
    for _ in 0..2 {
        let begun = Instant::now();
        let told = is_on_within(&bmc, limit).await.unwrap_err();
        assert!(matches!(told, Error::Silent { packets: 1.. }), "{told:?}");
        assert!(begun.elapsed() >= limit, "{:?}", begun.elapsed());
    }
    let before = rig.farm.counts().packets;
    let told = is_on(&bmc).await.unwrap_err();
    let Error::Paused { last, .. } = &told else { panic!("{told:?}") };
    assert!(matches!(**last, Error::Silent { .. }), "{last:?}");
    assert_eq!(rig.farm.counts().packets, before, "nothing was sent");
    rig.faults(Faults::default());
    let begun = Instant::now();
    while is_on(&bmc).await.is_err() {
        assert!(begun.elapsed() < LONG, "it is asked again in a while");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_bmc_that_never_answers_is_given_up_before_a_long_time_limit() -> Result<()> {
    let options = Options { first_wait: Duration::from_millis(50), ..Options::default() };
    let rig = Rig::with(1, &setup(), options)?;
    rig.faults(Faults { hangs: true, ..Faults::default() });
    let told = is_on_within(&rig.bmc(), Duration::from_secs(3600)).await.unwrap_err();
    assert!(matches!(told, Error::Silent { packets: 9.. }), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn a_bmc_that_takes_more_than_a_second_for_each_answer_is_asked_all_the_same() -> Result<()> {
    let rig = Rig::new()?;
    rig.faults(Faults { slow_ms: 1100, ..Faults::default() });
    let bmc = rig.bmc();
    assert!(!is_on_within(&bmc, 3 * LONG).await?);
    order(&bmc, ChassisControl::PowerUp).await?;
    assert!(is_on(&bmc).await?);
    assert_eq!(rig.farm.counts().opened, 1, "one login was enough");
    Ok(())
}

#[tokio::test]
async fn a_busy_bmc_is_asked_again_and_an_order_is_not() -> Result<()> {
    let rig = Rig::new()?;
    rig.faults(Faults { busy: true, ..Faults::default() });
    let bmc = rig.bmc();
    let told = order(&bmc, ChassisControl::PowerUp).await.unwrap_err();
    assert!(matches!(told, Error::Overloaded("it is busy")), "{told:?}");
    let asking = tokio::spawn(async move { is_on(&bmc).await });
    let before = rig.farm.counts().commands;
    while rig.farm.counts().commands < before + 2 {
        tokio::task::yield_now().await;
    }
    rig.faults(Faults::default());
    assert!(!asking.await??);
    assert!(rig.farm.bmc(0).orders().is_empty());
    Ok(())
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_not_given_again() -> Result<()> {
    let options = Options { order_wait: Duration::from_millis(300), ..Options::default() };
    let rig = Rig::with(1, &setup(), options)?;
    let bmc = rig.bmc();
    assert!(!is_on(&bmc).await?);
    // The answer comes after it is waited for.
    rig.faults(Faults { slow_ms: 600, ..Faults::default() });
    let told = order(&bmc, ChassisControl::PowerUp).await.unwrap_err();
    assert!(matches!(told, Error::Unanswered), "{told:?}");
    rig.faults(Faults::default());
    assert!(is_on(&bmc).await?, "it was obeyed");
    assert_eq!(rig.farm.bmc(0).orders(), ["on"]);
    Ok(())
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told_at_once() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    drop(rig.farm);
    let told = is_on(&bmc).await.unwrap_err();
    assert!(matches!(told, Error::NobodyThere), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn refused_logins_are_told_apart_and_tried_once() -> Result<()> {
    let mut setup = setup();
    let guest = User { name: "guest".to_owned(), password: PASSWORD.to_owned(), limit: 2 };
    setup.users.push(guest);
    let rig = Rig::with(1, &setup, Options::default())?;
    let account = |user, password| ipmi_lan::Account::new(user, password).unwrap();
    type Expected = fn(&Error) -> bool;
    let table: [(ipmi_lan::Account, Expected); 3] = [
        (account("admin", "wrong"), |error| matches!(error, Error::WrongPassword)),
        (account("nobody", PASSWORD), |error| matches!(error, Error::WrongUser)),
        (account("guest", PASSWORD), |error| {
            matches!(error, Error::Privilege(Privilege::Administrator))
        }),
    ];
    for (account, expected) in table {
        let before = rig.farm.counts().logins;
        let bmc = rig.bmc_as(&account);
        let told = is_on(&bmc).await.unwrap_err();
        assert!(expected(&told), "{told:?}");
        assert_eq!(rig.farm.counts().logins, before + 1, "a second try may lock the account");
        let again = is_on(&bmc).await.unwrap_err();
        assert!(again.is_login() && matches!(again, Error::Paused { .. }), "{again:?}");
        assert_eq!(rig.farm.counts().logins, before + 1, "nor does a second call");
        let begun = Instant::now();
        while rig.farm.bmc(0).open_sessions(Instant::now()) > 0 {
            assert!(begun.elapsed() < LONG, "a session is left open");
            tokio::task::yield_now().await;
        }
    }
    let guest = account("guest", PASSWORD).with_privilege(Privilege::User);
    let bmc = rig.bmc_as(&guest);
    assert!(!is_on(&bmc).await?, "USER may look");
    let told = order(&bmc, ChassisControl::PowerUp).await.unwrap_err();
    assert!(matches!(told, Error::Refused { command: 2, .. }), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn a_bmc_with_a_key_of_its_own_wants_that_key() -> Result<()> {
    for suites in [Suites::Only(CipherSuite::Three), Suites::Only(CipherSuite::Seventeen)] {
        let mut kg = [0; 20];
        kg[..7].copy_from_slice(b"the-key");
        let rig = Rig::with(1, &Setup { kg: Some(kg), ..setup() }, Options::default())?;
        let account = account().with_suites(suites);
        let told = is_on(&rig.bmc_as(&account)).await.unwrap_err();
        assert!(matches!(told, Error::WrongKg { given: false }), "{told:?}");
        let wrong = account.clone().with_kg("another")?;
        let told = is_on(&rig.bmc_as(&wrong)).await.unwrap_err();
        assert!(matches!(told, Error::WrongKg { given: true }), "{told:?}");
        assert!(!is_on(&rig.bmc_as(&account.with_kg("the-key")?)).await?);
    }
    Ok(())
}

#[tokio::test]
async fn the_best_suite_is_taken_and_none_below_three() -> Result<()> {
    // What a BMC has, whether it lists that, and in which logins the right one is found.
    for (suites, listed, logins) in [
        (vec![3, 17], true, 1),
        (vec![3, 17], false, 1),
        (vec![0, 1, 2, 3, 6, 7, 8], true, 1),
        (vec![3], false, 2),
    ] {
        let rig = Rig::with(1, &Setup { suites: suites.clone(), ..setup() }, Options::default())?;
        rig.faults(Faults { no_suite_list: !listed, ..Faults::default() });
        assert!(!is_on(&rig.bmc()).await?, "{suites:?}");
        assert_eq!(rig.farm.counts().logins, logins, "{suites:?}, listed: {listed}");
    }
    for (listed, expected) in [(true, SuiteRefusal::NotListed), (false, SuiteRefusal::Status(0x11))]
    {
        let rig = Rig::with(1, &Setup { suites: vec![0, 1, 2], ..setup() }, Options::default())?;
        rig.faults(Faults { no_suite_list: !listed, ..Faults::default() });
        let told = is_on(&rig.bmc()).await.unwrap_err();
        assert!(matches!(&told, Error::CipherSuite(why) if *why == expected), "{told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_suite_that_is_asked_for_is_taken_or_nothing() -> Result<()> {
    let rig = Rig::with(1, &Setup { suites: vec![3], ..setup() }, Options::default())?;
    let only = |suite| account().with_suites(Suites::Only(suite));
    let told = is_on(&rig.bmc_as(&only(CipherSuite::Seventeen))).await.unwrap_err();
    assert!(matches!(told, Error::CipherSuite(SuiteRefusal::Status(0x11))), "{told:?}");
    assert!(!is_on(&rig.bmc_as(&only(CipherSuite::Three))).await?);
    assert_eq!(rig.farm.counts().outside, 0, "nobody had to be asked");
    Ok(())
}

#[tokio::test]
async fn a_bmc_that_spoke_seventeen_is_not_spoken_to_with_three() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    assert!(!is_on(&bmc).await?);
    rig.farm.bmc(0).set_suites(vec![3]);
    rig.farm.bmc(0).reboot(Duration::ZERO, Instant::now());
    let told = is_on(&bmc).await.unwrap_err();
    assert!(matches!(told, Error::Downgrade(SuiteRefusal::Status(0x11))), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn one_command_at_a_time_is_with_a_bmc() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    is_on(&bmc).await?;
    rig.faults(Faults { slow_ms: 30, ..Faults::default() });
    let begun = Instant::now();
    let answers = join_all((0..10).map(|_| is_on(&bmc))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(false))), "{answers:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn who_waits_for_others_longer_than_its_time_is_told_so() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    is_on(&bmc).await?;
    rig.faults(Faults { slow_ms: 2000, ..Faults::default() });
    let first = bmc.clone();
    let first = tokio::spawn(async move { order(&first, ChassisControl::PowerUp).await });
    while rig.farm.counts().control == 0 {
        tokio::task::yield_now().await;
    }
    let told = is_on_within(&bmc, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(told, Error::Busy), "{told:?}");
    first.await??;
    Ok(())
}

#[tokio::test]
async fn logins_of_a_fleet_are_no_more_at_once_than_is_set() -> Result<()> {
    let options = Options { handshakes: 1, ..Options::default() };
    let rig = Rig::with(5, &setup(), options)?;
    rig.faults(Faults { slow_ms: 20, ..Faults::default() });
    let begun = Instant::now();
    let bmcs = rig.bmcs();
    let answers = join_all(bmcs.iter().map(is_on)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(false))), "{answers:?}");
    // Suites, opening, two messages, privilege: five answers of 20 ms, one BMC after the other.
    assert!(begun.elapsed() >= Duration::from_millis(5 * 5 * 20), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_dead_bmc_keeps_no_other_from_its_login() -> Result<()> {
    let options = Options { handshakes: 1, ..Options::default() };
    let rig = Rig::with(2, &setup(), options)?;
    let hangs = Faults { hangs: true, ..Faults::default() };
    rig.farm.bmc(0).set_faults(hangs);
    let bmcs = rig.bmcs();
    let dead = bmcs[0].clone();
    let dead = tokio::spawn(async move { is_on(&dead).await });
    while rig.farm.bmc(0).counts().packets == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!is_on(&bmcs[1]).await?);
    dead.abort();
    Ok(())
}

#[tokio::test]
async fn five_hundred_bmcs_are_asked_at_once_and_the_next_time_without_a_login() -> Result<()> {
    let rig = Rig::with(500, &setup(), Options::default())?;
    let bmcs = rig.bmcs();
    for round in 1..=3 {
        let answers = join_all(bmcs.iter().map(is_on)).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(false))), "round {round}");
        assert!(rig.farm.counts().status >= 500 * round, "each was asked anew");
    }
    let counts = rig.farm.counts();
    assert_eq!((counts.opened, counts.closed), (500, 0), "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn a_fleet_that_is_closed_leaves_no_session_open() -> Result<()> {
    let rig = Rig::with(20, &setup(), Options::default())?;
    let bmcs = rig.bmcs();
    join_all(bmcs.iter().map(is_on)).await;
    rig.fleet.close().await;
    let begun = Instant::now();
    while rig.farm.counts().closed < 20 {
        assert!(begun.elapsed() < LONG, "{:?}", rig.farm.counts());
        tokio::task::yield_now().await;
    }
    let told = is_on(&bmcs[0]).await.unwrap_err();
    assert!(matches!(told, Error::Closed), "{told:?}");
    assert!(!is_on(&rig.bmc()).await?, "who asks the fleet again begins anew");
    Ok(())
}

#[tokio::test]
async fn another_account_takes_the_place_of_the_first_and_its_session() -> Result<()> {
    let mut setup = setup();
    setup.sessions = 1;
    setup.users.push(User { name: "other".to_owned(), password: "pw".to_owned(), limit: 4 });
    let rig = Rig::with(1, &setup, Options::default())?;
    assert!(!is_on(&rig.bmc()).await?);
    let other = ipmi_lan::Account::new("other", "pw")?;
    assert!(!is_on(&rig.bmc_as(&other)).await?, "though the BMC has one session only");
    Ok(())
}

#[tokio::test]
async fn codecs_of_ipmi_rs_core_and_our_own_are_asked_alike() -> Result<()> {
    let rig = Rig::new()?;
    let (bmc, deadline) = (rig.bmc(), Instant::now() + LONG);
    let device = bmc.ask(GetDeviceId, deadline).await?;
    assert_eq!((device.major_version, device.chassis_support), (2, true));
    let flags = SetBootFlags { device: BootDevice::Pxe, efi: true };
    bmc.ask(flags, deadline).await?;
    let read = bmc.ask(GetBootFlags, deadline).await?;
    assert!(read.valid && read.name(BootDevice::Pxe));
    assert!(!bmc.ask(GetChassisStatus, deadline).await?.power_fault);
    Ok(())
}

#[tokio::test]
async fn figures_show_sessions_retries_and_open_breakers() -> Result<()> {
    let options = Options { first_wait: Duration::from_millis(20), ..Options::default() };
    let rig = Rig::with(1, &setup(), options)?;
    let bmc = rig.bmc();
    is_on(&bmc).await?;
    let well = rig.fleet.figures();
    assert_eq!((well.sessions, well.working, well.left_alone), (1, 1, 0), "{well:?}");
    assert!(well.logins >= 1, "{well:?}");
    rig.faults(Faults { lost: 1.0, ..Faults::default() });
    for _ in 0..options.failures {
        assert!(is_on_within(&bmc, Duration::from_millis(300)).await.is_err());
    }
    let ill = rig.fleet.figures();
    assert_eq!((ill.working, ill.left_alone), (0, 1), "{ill:?}");
    assert!(ill.sent_again > well.sent_again, "{ill:?}");
    Ok(())
}
