//! Simulated BMCs on loopback, to be tried by hand or measured: `haas-sim-bmc COUNT [ADDRESS:PORT]`.
//!
//! It prints their addresses, one a line, then `ready`. Without an address each has a free port; with
//! one they are on that port and those after it. The account is `admin` with the password `s3cret`:
//!
//! ```sh
//! ipmitool -I lanplus -C 17 -H 127.0.0.1 -p PORT -U admin -P s3cret chassis power status
//! ```
//!
//! It takes orders on standard input, one a line, and ends with it. `counts` prints what all BMCs were
//! asked; `power on` and `power off` switch all machines; `say TEXT` has all machines print a line on
//! their serial consoles; `faults {"lost":0.1}` makes all BMCs
//! misbehave so, and `faults {}` no more. Each prints one line.

use std::{
    io::{BufRead, Write},
    net::SocketAddr,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use sim::bmc::{Farm, PowerState, Setup};

const USAGE: &str = "usage: haas-sim-bmc COUNT [ADDRESS:PORT]";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let setup = Setup::new("admin", "s3cret");
    let farm = match &args[..] {
        [count] => Farm::start(count.parse().context(USAGE)?, &setup)?,
        [count, first] => {
            let (count, first): (u16, SocketAddr) =
                (count.parse().context(USAGE)?, first.parse().context(USAGE)?);
            let ports = (first.port()..=u16::MAX).take(count.into());
            let addresses: Vec<_> = ports.map(|port| SocketAddr::new(first.ip(), port)).collect();
            Farm::start_at(&addresses, &setup)?
        }
        _ => bail!("{USAGE}"),
    };
    let mut out = std::io::stdout();
    for address in farm.addresses() {
        writeln!(out, "{address}")?;
    }
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        match obey(&farm, line?.trim()) {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(error) => writeln!(out, "error: {error:#}")?,
        }
    }
    Ok(())
}

fn obey(farm: &Farm, line: &str) -> Result<String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("counts", "") => Ok(serde_json::to_string(&farm.counts())?),
        ("power", "on") => power(farm, PowerState::On),
        ("power", "off") => power(farm, PowerState::Off),
        ("say", text) => {
            for index in 0..farm.addresses().len() {
                farm.say(index, &format!("{text}\r\n"));
            }
            Ok("ok".to_owned())
        }
        ("faults", faults) => {
            farm.set_faults(&serde_json::from_str(faults)?);
            Ok("ok".to_owned())
        }
        _ => bail!("{line:?} is none of: counts, power on, power off, say TEXT, faults JSON"),
    }
}

fn power(farm: &Farm, power: PowerState) -> Result<String> {
    for index in 0..farm.addresses().len() {
        farm.bmc(index).set_power(power, Instant::now());
    }
    Ok("ok".to_owned())
}
