//! `haas-sim`: replays a workload trace through the planner and says how it went.
//!
//! It plans with the same crate as haasd and decides nothing itself: it makes snapshots, asks, and lets
//! claims run for as long as they did in the trace.

mod replay;
mod swf;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use scheduler::{Backfill, Placement, Promises, Settings};

#[derive(Parser, Debug)]
struct Args {
    #[arg(long)]
    trace: PathBuf,
    #[arg(long)]
    nodes: u32,
    #[arg(long)]
    policy: Policy,
    #[arg(long, default_value_t = 1.0)]
    arrival_scale: f64,
    #[arg(long, default_value_t = 4)]
    shard_cap: u32,
    #[arg(long, default_value = "user")]
    overlays: replay::Overlays,
    #[arg(long, default_value = "aware")]
    placement: Place,
}
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    Fcfs,
    Easy,
    Conservative,
    Promised,
}
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Place {
    First,
    Naive,
    Aware,
}

#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    let a = Args::parse();
    let jobs = swf::read(&a.trace, a.arrival_scale)?;
    let (backfill, promises) = match a.policy {
        Policy::Fcfs => (Backfill::Off, Promises::Kept),
        Policy::Easy => (Backfill::Easy, Promises::Kept),
        Policy::Conservative => (Backfill::ProtectAll, Promises::Renewed),
        Policy::Promised => (Backfill::ProtectAll, Promises::Kept),
    };
    let placement = match a.placement {
        Place::First => Placement::FirstFit,
        Place::Naive => Placement::NaiveSort,
        Place::Aware => Placement::OverlayAware,
    };
    let settings = Settings { backfill, promises, placement, ..Settings::default() };
    let setup =
        replay::Setup { nodes: a.nodes, shard_cap: a.shard_cap, overlays: a.overlays, settings };
    let r = replay::replay(&jobs, &setup);
    let w: f64 = r.jobs.iter().zip(&jobs).map(|(r, j)| (r.start - j.submit) as f64).sum::<f64>()
        / jobs.len() as f64;
    let hits = r.jobs.iter().filter(|r| r.is_hit).count() as f64 / jobs.len() as f64;
    let cold = r.jobs.iter().filter(|r| r.cold > 0).count() as f64 / jobs.len() as f64;
    let ons: u32 = r.jobs.iter().map(|r| r.cold).sum();
    let days =
        r.jobs.iter().zip(&jobs).map(|(r, j)| r.start + j.run).max().unwrap() as f64 / 86400.0;
    println!("cold {cold:.4} ons/node/day {:.3}", f64::from(ons) / f64::from(a.nodes) / days);
    println!(
        "wait {w:.2} hits {hits:.4} passes {} decisions {} planning {:?} moved_back {} jobs/s {:.0} decisions/s {:.0}",
        r.passes,
        r.decisions,
        r.planning,
        r.moved_back,
        jobs.len() as f64 / r.planning.as_secs_f64(),
        r.decisions as f64 / r.planning.as_secs_f64()
    );
    Ok(())
}
