//! Other people's clients against our simulated BMC: what it says is what IPMI 2.0 says only if they
//! understand it. ipmitool and FreeIPMI's `ipmipower`, with both cipher suites.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sim::bmc::{Farm, Faults, PowerState, Setup};

const SUITES: [&str; 2] = ["3", "17"];

fn farm(count: usize) -> Result<Farm> {
    Farm::start(count, &Setup::new("admin", "s3cret"))
}

fn said(output: Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}{err}", output.status);
    Ok(said.trim().to_owned())
}

fn ipmitool(at: SocketAddr, suite: &str, args: &[&str]) -> Result<String> {
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    let mut tool = Command::new("ipmitool");
    tool.args(["-I", "lanplus", "-C", suite, "-H", &host, "-p", &port]);
    let output = tool.args(["-U", "admin", "-P", "s3cret"]).args(args).output();
    said(output.context("cannot run ipmitool (package ipmitool)")?)
}

fn freeipmi(program: &str, at: &str, suite: &str) -> Command {
    let mut tool = Command::new(program);
    tool.args(["-h", at, "-u", "admin", "-p", "s3cret", "-I", suite]);
    tool
}

fn ipmipower(at: &str, suite: &str, order: &str) -> Result<String> {
    let output = freeipmi("ipmipower", at, suite).args(["-D", "LAN_2_0", order]).output();
    said(output.context("cannot run ipmipower (package freeipmi-tools)")?)
}

#[test]
fn ipmitool_reads_and_switches_power_and_sets_the_boot_device() -> Result<()> {
    for suite in SUITES {
        let farm = farm(1)?;
        let tool = |args: &[&str]| ipmitool(farm.addresses()[0], suite, args);
        assert_eq!(tool(&["chassis", "power", "status"])?, "Chassis Power is off");
        tool(&["chassis", "bootdev", "pxe", "options=efiboot"])?;
        let flags = tool(&["chassis", "bootparam", "get", "5"])?;
        assert!(flags.contains("Force PXE") && flags.contains("BIOS EFI boot"), "{flags}");
        tool(&["chassis", "power", "on"])?;
        assert_eq!(tool(&["chassis", "power", "status"])?, "Chassis Power is on");
        tool(&["chassis", "power", "soft"])?;
        assert_eq!(tool(&["chassis", "power", "status"])?, "Chassis Power is off");
        let info = tool(&["mc", "info"])?;
        assert!(info.contains("IPMI Version              : 2.0"), "{info}");
        assert_eq!(farm.bmc(0).orders(), ["boot pxe", "on", "soft"]);
        let counts = farm.counts();
        assert_eq!(counts.opened, counts.closed, "{counts:?}");
    }
    Ok(())
}

#[test]
fn ipmitool_reads_sensors_log_and_fru() -> Result<()> {
    let farm = farm(1)?;
    farm.bmc(0).sensor("CPU1 Temp").raw = 97;
    farm.bmc(0).sensor("CPU1 Temp").states = 1 << 4;
    farm.bmc(0).log("DIMM A3", 1);
    let tool = |args: &[&str]| ipmitool(farm.addresses()[0], "17", args);
    let sdr = tool(&["sdr", "elist", "full"])?;
    let line = |name: &str| sdr.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    ensure!(
        line("CPU1 Temp").contains("97 degrees C") && line("CPU1 Temp").contains("cr"),
        "{sdr}"
    );
    ensure!(
        line("FAN1").contains("5400 RPM") && line("Total Power").contains("240 Watts"),
        "{sdr}"
    );
    let compact = tool(&["sdr", "elist", "compact"])?;
    ensure!(compact.contains("PSU1 Status") && compact.contains("Presence detected"), "{compact}");
    let sel = tool(&["sel", "elist"])?;
    ensure!(sel.contains("Memory DIMM A3") && sel.contains("Uncorrectable ECC"), "{sel}");
    let fru = tool(&["fru", "print", "0"])?;
    for (name, value) in [
        ("Board Mfg", "Sim Works"),
        ("Board Serial", "B-0001"),
        ("Product Name", "SIM-2000"),
        ("Product Serial", "P-0001"),
    ] {
        let found = fru.lines().any(|line| line.contains(name) && line.ends_with(value));
        ensure!(found, "no {name} {value} in {fru}");
    }
    tool(&["sel", "clear"])?;
    ensure!(farm.bmc(0).log_entries() == 0);
    Ok(())
}

#[test]
fn ipmitool_finds_the_best_suite_by_itself() -> Result<()> {
    let farm = farm(1)?;
    let at = farm.addresses()[0];
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    let mut tool = Command::new("ipmitool");
    tool.args([
        "-v", "-v", "-I", "lanplus", "-H", &host, "-p", &port, "-U", "admin", "-P", "s3cret",
    ]);
    let output = tool.args(["chassis", "power", "status"]).output()?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said(output)?.lines().last(), Some("Chassis Power is off"));
    assert!(log.contains("Using best available cipher suite 17"), "{log}");
    Ok(())
}

#[test]
fn ipmitool_is_refused_with_a_wrong_password_and_by_a_bmc_that_has_not_its_suite() -> Result<()> {
    let at = |farm: &Farm| farm.addresses()[0];
    let wrong = Farm::start(1, &Setup::new("admin", "another"))?;
    assert!(ipmitool(at(&wrong), "17", &["-R", "1", "chassis", "power", "status"]).is_err());
    let old = Farm::start(1, &Setup { suites: vec![3], ..Setup::new("admin", "s3cret") })?;
    assert!(ipmitool(at(&old), "17", &["-R", "1", "chassis", "power", "status"]).is_err());
    assert_eq!(ipmitool(at(&old), "3", &["chassis", "power", "status"])?, "Chassis Power is off");
    Ok(())
}

#[test]
fn ipmipower_asks_and_switches_many_at_once() -> Result<()> {
    for suite in SUITES {
        let farm = farm(20)?;
        let all: Vec<String> = farm.addresses().iter().map(ToString::to_string).collect();
        let all = all.join(",");
        let states = |word: &str| -> Result<usize> {
            let said = ipmipower(&all, suite, "--stat")?;
            Ok(said.lines().filter(|line| line.ends_with(&format!(": {word}"))).count())
        };
        assert_eq!(states("off")?, 20);
        ipmipower(&all, suite, "--on")?;
        assert_eq!(states("on")?, 20);
        for index in 0..20 {
            assert_eq!(farm.bmc(index).power(Instant::now()), PowerState::On);
            assert_eq!(farm.bmc(index).orders(), ["on"]);
        }
    }
    Ok(())
}

#[test]
fn ipmipower_gets_through_a_network_that_loses_a_tenth() -> Result<()> {
    let farm = farm(20)?;
    farm.set_faults(&Faults { lost: 0.1, ..Faults::default() });
    let all: Vec<String> = farm.addresses().iter().map(ToString::to_string).collect();
    // It fails if one BMC did not answer, which happens now and then.
    let output =
        freeipmi("ipmipower", &all.join(","), "17").args(["-D", "LAN_2_0", "--stat"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let right = said.lines().filter(|line| line.ends_with(": off")).count();
    assert!(right >= 10, "{said}");
    assert!(farm.counts().lost > 0);
    Ok(())
}

#[test]
fn ipmitools_console_is_greeted_and_repeated() -> Result<()> {
    let farm = farm(1)?;
    let port = farm.addresses()[0].port();
    let line =
        format!("ipmitool -I lanplus -C 17 -H 127.0.0.1 -p {port} -U admin -P s3cret sol activate");
    // It wants a terminal.
    let mut terminal = Command::new("script");
    terminal.args(["-qfec", &line, "/dev/null"]);
    let mut child = terminal
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run script (package bsdutils)")?;
    let (mut input, mut output) =
        (child.stdin.take().context("piped")?, child.stdout.take().context("piped")?);
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(length @ 1..) = output.read(&mut bytes) {
            if send.send(bytes[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut read = Vec::new();
    let mut until = |wanted: &str| -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        while !String::from_utf8_lossy(&read).contains(wanted) {
            let left = end.saturating_duration_since(Instant::now());
            let next = lines.recv_timeout(left);
            read.extend(next.with_context(|| {
                format!("no {wanted:?} in {:?}", String::from_utf8_lossy(&read))
            })?);
        }
        Ok(())
    };
    until("sim login: ")?;
    // Longer than the BMC takes of one packet, so that the rest comes again. (Of a rest that is too
    // long too ipmitool forgets the end.)
    input.write_all(b"more-than-sixteen-letters\r")?;
    until("more-than-sixteen-letters")?;
    child.kill()?;
    child.wait()?;
    Ok(())
}
