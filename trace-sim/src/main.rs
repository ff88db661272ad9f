//! `haas-sim`: replays a workload trace through the planner and says how it went.
//!
//! It plans with the same crate as haasd and decides nothing itself: it makes snapshots, asks, and lets
//! claims run for as long as they did in the trace.

mod chart;
mod figures;
mod replay;
mod swf;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use scheduler::{Backfill, Idle, Placement, Promises, Settings};

use crate::{
    figures::Figures,
    replay::{Overlays, Setup},
};

#[derive(Parser, Debug)]
#[command(name = "haas-sim", version, about = "Replays a workload trace through the planner")]
struct Args {
    /// A trace in the Standard Workload Format, plain or gzip.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// How many nodes the cluster has; a processor of the trace is a node.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    nodes: u32,
    /// Who may pass whom.
    #[arg(long)]
    policy: Policy,
    /// Multiplies all times of submission: below 1 there is more load.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    arrival_scale: f64,
    /// How many overlays have room on a node; the least recently used one gives way.
    #[arg(long, default_value_t = 4, value_name = "SHARDS")]
    shard_cap: u32,
    /// What an overlay is, and when a job meets it.
    #[arg(long, default_value = "user")]
    overlays: Overlays,
    /// How nodes are chosen.
    #[arg(long, default_value = "overlay-aware")]
    placement: Place,
    /// When idle nodes are turned off.
    #[arg(long, default_value = "never")]
    idle: WhenIdle,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Write a Gantt chart as SVG.
    #[arg(long, value_name = "FILE")]
    gantt: Option<PathBuf>,
    /// Write a line per job as CSV.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    /// First come, first served.
    Fcfs,
    /// EASY: whoever delays not the first that waits may pass.
    Easy,
    /// Conservative: whoever delays nobody before him; planned anew each time.
    Conservative,
    /// As conservative, but a start that was promised never moves back.
    Promised,
    /// The planner's own: the first 20 that wait have a promise.
    Planner,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Place {
    /// By number.
    FirstFit,
    /// On which the overlay runs, then which hold it, then which are on, then by number.
    NaiveSort,
    /// The planner's own.
    OverlayAware,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WhenIdle {
    /// Never.
    Never,
    /// After 15 minutes without use.
    Timeout,
    /// The planner's own: by what is planned.
    Planned,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let scale = args.arrival_scale;
    ensure!(scale.is_finite() && scale > 0.0, "--arrival-scale must be above 0");
    ensure!(args.shard_cap > 0, "--shard-cap must be above 0");
    let jobs = swf::read(&args.trace, scale)?;
    let widest = jobs.iter().map(|job| job.width).max().unwrap_or(0);
    ensure!(
        widest <= args.nodes,
        "a job of the trace takes {widest} nodes, and --nodes has {}",
        args.nodes
    );
    let settings = settings(&args);
    let boot_s = settings.boot_time;
    let setup =
        Setup { nodes: args.nodes, shard_cap: args.shard_cap, overlays: args.overlays, settings };
    let replay = replay::replay(&jobs, &setup);
    if let Some(path) = &args.gantt {
        let svg = chart::svg(&jobs, &replay, args.nodes);
        std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.csv {
        let csv = chart::csv(&jobs, &replay);
        std::fs::write(path, csv).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&Figures::new(&jobs, &replay, args.nodes, boot_s), args.json)
}

fn settings(args: &Args) -> Settings {
    let usual = Settings::default();
    let (backfill, promises) = match args.policy {
        Policy::Fcfs => (Backfill::Off, Promises::Kept),
        Policy::Easy => (Backfill::Easy, Promises::Kept),
        Policy::Conservative => (Backfill::ProtectAll, Promises::Renewed),
        Policy::Promised => (Backfill::ProtectAll, Promises::Kept),
        Policy::Planner => (usual.backfill, usual.promises),
    };
    let placement = match args.placement {
        Place::FirstFit => Placement::FirstFit,
        Place::NaiveSort => Placement::NaiveSort,
        Place::OverlayAware => Placement::OverlayAware,
    };
    let idle = match args.idle {
        WhenIdle::Never => Idle::Never,
        WhenIdle::Timeout => Idle::Timeout { after: 900 },
        WhenIdle::Planned => usual.idle,
    };
    Settings { backfill, promises, placement, idle, ..usual }
}

fn print(figures: &Figures, json: bool) -> Result<()> {
    let value = serde_json::to_value(figures)?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{value}")?;
        return Ok(());
    }
    for (name, value) in value.as_object().context("figures are an object")? {
        writeln!(out, "{name:<28} {value}")?;
    }
    Ok(())
}
