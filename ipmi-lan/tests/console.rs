//! Serial consoles over LAN, against simulated BMCs whose machine greets and repeats what it is told.

mod support;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipmi_lan::{Console, Error, Options};
use sim::bmc::Faults;
use support::{LONG, Rig, account, is_on, setup};

/// Reads until `wanted` has come, and nothing else.
async fn expect(console: &mut Console, wanted: &str) -> Result<()> {
    let mut read = Vec::new();
    while read.len() < wanted.len() {
        let next = tokio::time::timeout(LONG, console.read()).await;
        read.extend(next.with_context(|| format!("only {read:?}"))?.context("it is over")??);
    }
    ensure!(
        read == wanted.as_bytes(),
        "{:?} instead of {wanted:?}",
        String::from_utf8_lossy(&read)
    );
    Ok(())
}

const GREETING: &str = "\r\nsim login: ";

#[tokio::test]
async fn a_console_greets_and_repeats_beside_other_commands() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    let mut console = bmc.console(Instant::now() + LONG).await?;
    expect(&mut console, GREETING).await?;
    console.input().write(b"root\r").await?;
    assert!(!is_on(&bmc).await?);
    expect(&mut console, "root\r").await?;
    assert_eq!(rig.farm.counts().opened, 1, "one session is for both");
    Ok(())
}

#[tokio::test]
async fn no_character_is_lost_or_doubled_on_a_bad_network() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    let mut console = bmc.console(Instant::now() + LONG).await?;
    expect(&mut console, GREETING).await?;
    let bad = Faults { lost: 0.1, duplicated: 0.2, reordered: 0.2, ..Faults::default() };
    rig.faults(bad);
    // The BMC takes 16 characters of a packet at most, so that the rest goes out again.
    let text: String = (0..40).map(|n| format!("line {n}\r\n")).collect();
    console.input().write(text.as_bytes()).await?;
    expect(&mut console, &text).await?;
    Ok(())
}

#[tokio::test]
async fn a_console_that_another_session_has_is_taken_only_on_request() -> Result<()> {
    let rig = Rig::new()?;
    let mut stale = rig.bmc().console(Instant::now() + LONG).await?;
    expect(&mut stale, GREETING).await?;
    // Another controller, or this one before it died.
    let other = ipmi_lan::Fleet::new(Options::default());
    let bmc = other.bmc(rig.farm.addresses()[0], &account());
    let told = bmc.console(Instant::now() + LONG).await.unwrap_err();
    assert!(matches!(told, Error::ConsoleInUse), "{told:?}");
    let mut console = bmc.take_console(Instant::now() + LONG).await?;
    expect(&mut console, GREETING).await?;
    let over = tokio::time::timeout(LONG, stale.read()).await?.context("a reason")?;
    assert!(matches!(over, Err(Error::Closed)), "{over:?}");
    assert!(stale.read().await.is_none());
    assert!(stale.input().write(b"x").await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_console_whose_beginning_was_answered_in_vain_is_ours_and_begins_anew() -> Result<()> {
    let rig = Rig::new()?;
    let bmc = rig.bmc();
    assert!(!is_on(&bmc).await?);
    rig.farm.bmc(0).lose_next_activation();
    let mut console = bmc.console(Instant::now() + LONG).await?;
    expect(&mut console, GREETING).await?;
    Ok(())
}

#[tokio::test]
async fn a_console_that_was_taken_without_a_word_is_missed() -> Result<()> {
    let quick = Options { keepalive: Duration::from_millis(50), ..Options::default() };
    let rig = Rig::with(1, &setup(), quick)?;
    let mut console = rig.bmc().console(Instant::now() + LONG).await?;
    expect(&mut console, GREETING).await?;
    rig.farm.bmc(0).forget_console();
    let over = tokio::time::timeout(LONG, console.read()).await?.context("a reason")?;
    assert!(matches!(over, Err(Error::ConsoleTaken)), "{over:?}");
    Ok(())
}

#[tokio::test]
async fn a_break_reaches_the_machine() -> Result<()> {
    let rig = Rig::new()?;
    let mut console = rig.bmc().console(Instant::now() + LONG).await?;
    expect(&mut console, GREETING).await?;
    console.input().send_break().await?;
    console.input().write(b"h").await?;
    expect(&mut console, "<BREAK>h").await?;
    Ok(())
}

#[tokio::test]
async fn a_console_that_is_dropped_is_ended_at_the_bmc() -> Result<()> {
    let rig = Rig::with(1, &setup(), Options::default())?;
    let console = rig.bmc().console(Instant::now() + LONG).await?;
    assert!(rig.farm.bmc(0).has_console());
    drop(console);
    let begun = Instant::now();
    while rig.farm.bmc(0).has_console() {
        assert!(begun.elapsed() < LONG, "it is not deactivated");
        tokio::task::yield_now().await;
    }
    Ok(())
}
