//! Real traces through the planner: waits by policy, overlays met by placement, energy by idling.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::bench_plan::{build_sim, sim};

/// A trace of the Parallel Workloads Archive: short name, file, nodes.
const TRACES: &[(&str, &str, &str)] =
    &[("nasa", "nasa-ipsc-1993.swf.gz", "128"), ("hpc2n", "hpc2n-excerpt.swf.gz", "240")];
const SCALE: &str = "0.55";

/// Measures, and answers the numbers with their units in their names.
pub(crate) fn run(folder: &Path) -> Result<Map<String, Value>> {
    build_sim()?;
    let mut numbers = Map::new();
    for (name, file, nodes) in TRACES {
        let path = folder.join(file);
        let path = path.to_str().context("the folder of the traces has a plain name")?;
        let replay = |more: &[&str]| {
            let trace = ["--trace", path, "--nodes", nodes, "--arrival-scale", SCALE];
            sim(&[&trace[..], more].concat())
        };
        for policy in ["fcfs", "easy", "conservative", "promised", "planner"] {
            // Minutes, and the anchors have no figure for it.
            if (*name, policy) == ("nasa", "conservative")
                || (*name, policy) == ("nasa", "promised")
            {
                continue;
            }
            let figures = replay(&["--policy", policy])?;
            for figure in ["mean_wait_s", "starts_moved_back", "decisions_per_s", "jobs_per_s"] {
                numbers.insert(format!("{name}_{policy}_{figure}"), figures[figure].clone());
            }
        }
        for rule in ["user", "rank"] {
            for placement in ["first-fit", "naive-sort", "overlay-aware"] {
                for idle in ["timeout", "planned"] {
                    let args = ["--policy", "easy", "--overlays", rule, "--placement", placement];
                    let figures = replay(&[&args[..], &["--idle", idle]].concat())?;
                    let prefix = format!("{name}_{rule}_{}_{idle}", placement.replace('-', "_"));
                    for figure in [
                        "mean_wait_s",
                        "overlay_hit_ratio",
                        "energy_kwh",
                        "power_ons",
                        "cold_nodes",
                        "cold_job_ratio",
                    ] {
                        numbers.insert(format!("{prefix}_{figure}"), figures[figure].clone());
                    }
                }
            }
        }
    }
    Ok(numbers)
}
