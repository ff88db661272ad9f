//! Measurements. Each returns numbers with their unit in the name, printed for people or as JSON.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::{agent, bench_auth, bench_iscsi, bench_plan, bench_power, bench_traces, run};

/// What can be measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Bench {
    /// The size of the agent, which each boot sends to each node.
    AgentSize,
    /// Finding out who asks, by a token, and whether he may.
    Auth,
    /// Our iSCSI target beside tgtd, on the same file, by libiscsi's own load generator.
    Iscsi,
    /// The planner: a pass over 10,000 nodes and 10,000 claims, one claim more, a replay.
    Plan,
    /// The power status of 500 BMCs: haasctl and haasd beside ipmipower and ipmitool, also with loss.
    Power,
    /// The planner on real traces: waits, overlays met, energy.
    Traces,
}

pub(crate) fn run(name: Bench, folder: Option<&Path>, json: bool) -> Result<()> {
    let numbers = match name {
        Bench::AgentSize => agent_size()?,
        Bench::Auth => bench_auth::run()?,
        Bench::Iscsi => bench_iscsi::run()?,
        Bench::Plan => bench_plan::run()?,
        Bench::Power => bench_power::run()?,
        Bench::Traces => {
            bench_traces::run(folder.context("--dir names the folder of the traces")?)?
        }
    };
    for (key, value) in &numbers {
        run::say(format!("{key:<24} {value}"));
    }
    if json {
        run::say(Value::Object(numbers));
    }
    Ok(())
}

fn agent_size() -> Result<Map<String, Value>> {
    let binary = agent::build()?;
    let bytes = fs::metadata(&binary).with_context(|| format!("no {}", binary.display()))?.len();
    Ok(Map::from_iter([("bootagent_bytes".to_owned(), bytes.into())]))
}
