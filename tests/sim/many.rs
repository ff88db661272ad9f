//! Many nodes at once: printed for the one who watches, bounded where the product promises it.
#![expect(clippy::print_stdout, reason = "what was measured is for the one who runs it")]

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use haas_api::operation::PowerVerb;

use crate::rack::{Controller, PATIENT, SimRack};

const NODES: usize = 40;
const MIB: u64 = 1 << 20;

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn forty_nodes_are_switched_at_once() -> Result<()> {
    let sim = SimRack::start("many", NODES)?;
    let haas = sim.haasd(PATIENT)?;
    let idle = haas.haasd.memory()?.private / MIB;
    println!("haasd idle: {idle} MiB private");
    let all = format!("n[1-{NODES}]");
    for (what, overlay) in [("from off", "a"), ("away", "b")] {
        let (begun, cpu) = (Instant::now(), cpu_seconds(&haas)?);
        haas.switched(&all, overlay)?;
        println!(
            "{NODES} nodes {what}: {:.1} s, haasd used {:.1} s of CPU, {} MiB private",
            begun.elapsed().as_secs_f32(),
            cpu_seconds(&haas)? - cpu,
            haas.haasd.memory()?.private / MIB
        );
    }
    ensure!(sim.count("on") == [2; NODES] && sim.count("off") == [0; NODES]);
    haas.done(haas.power(&all, PowerVerb::Off, false)??)?;
    ensure!(idle < 50, "haasd idles with {idle} MiB");
    Ok(())
}

/// User and system time of haasd so far.
pub(crate) fn cpu_seconds(haas: &Controller<'_>) -> Result<f32> {
    let pid = haas.haasd.pid().context("haasd runs")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; the name's field was the second.
    let ticks: f32 = fields.get(12).context("utime")?.parse::<f32>()?
        + fields.get(13).context("stime")?.parse::<f32>()?;
    Ok(ticks / 100.0)
}
