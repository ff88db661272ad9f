//! haasd's power drivers, as `cargo xtask bench power` measures them: `power ADDRESSES PASSWORD`, two files.
//!
//! For each line on standard input it asks the power of every BMC of the list, all at once and each anew, and
//! prints one JSON object: how long that took and what they said.

use std::{
    fs,
    io::{BufRead, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use controller::{
    inventory::{BmcPrivilege, Firmware, PowerSpec, SecretRef},
    power::{self, Power, PowerDriver},
};
use futures_util::future::join_all;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo's own `--bench` is among them.
    let files: Vec<PathBuf> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).map(PathBuf::from).collect();
    let [addresses, password] = &files[..] else { return Ok(()) };
    let text = fs::read_to_string(addresses).context("the list of addresses")?;
    let addresses = text.lines().map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    let specs: Vec<_> = addresses.iter().map(|at| spec(*at, password)).collect();
    for line in std::io::stdin().lock().lines() {
        line?;
        let begun = Instant::now();
        // As haasd does it: a driver is made for each call.
        let answers = join_all(specs.iter().map(|spec| async {
            let driver: Arc<dyn PowerDriver> = power::driver(spec, Firmware::Uefi)?;
            driver.state().await
        }));
        let answers = answers.await;
        let wall_s = begun.elapsed().as_secs_f64();
        let told = |power| answers.iter().filter(|a| matches!(a, Ok(p) if *p == power)).count();
        let error = answers.iter().find_map(|answer| answer.as_ref().err());
        let answer = json!({
            "wall_s": wall_s,
            "on": told(Power::On),
            "off": told(Power::Off),
            "error": error.map(ToString::to_string),
        });
        writeln!(std::io::stdout(), "{answer}")?;
    }
    power::close().await;
    Ok(())
}

fn spec(at: SocketAddr, password: &std::path::Path) -> PowerSpec {
    PowerSpec::Ipmi {
        address: at.ip(),
        port: at.port(),
        mac: None,
        user: "admin".to_owned(),
        password: SecretRef::File(password.to_owned()),
        kg: None,
        privilege: BmcPrivilege::Administrator,
        cipher_suite: None,
    }
}
