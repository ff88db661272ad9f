//! The chassis behind a virtual BMC: `haas-chassis CONFIG get WHAT | set WHAT VALUE | run | hub`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use tests::chassis::{self, NodeConfig, hub, supervisor};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(config), Some(verb)) = (args.next(), args.next()) else {
        bail!("usage: haas-chassis CONFIG get WHAT | set WHAT VALUE | run | hub");
    };
    let (config, rest) = (PathBuf::from(config), args.collect::<Vec<_>>());
    let node = NodeConfig::read(&config)?;
    match verb.as_str() {
        "get" => std::io::stdout().write_all(chassis::get(&node, &rest)?.as_bytes())?,
        "set" => chassis::set(&config, &node, &rest)?,
        "run" => supervisor::run(&node)?,
        "hub" => hub::run(&node)?,
        other => bail!("unknown verb {other:?}; there are get, set, run and hub"),
    }
    Ok(())
}
