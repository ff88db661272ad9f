//! What a replay comes to, in numbers with their units in their names.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{replay::Replay, swf::Job};

/// Slowdowns of jobs shorter than this are taken as if they ran so long, in seconds.
const SHORT_S: i64 = 10;

/// The figures of a replay.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) jobs: usize,
    pub(crate) nodes: u32,
    pub(crate) makespan_s: i64,
    pub(crate) mean_wait_s: f64,
    pub(crate) p95_wait_s: i64,
    pub(crate) max_wait_s: i64,
    /// The mean of (wait + run) / run, at least 1.
    pub(crate) mean_bounded_slowdown_ratio: f64,
    /// Node time in use, of that from the first submission to the last end.
    pub(crate) utilisation_ratio: f64,
    /// Jain's index over the users' mean bounded slowdowns: 1 if all fare alike.
    pub(crate) fairness_jain_ratio: f64,
    /// Jobs that met their overlay.
    pub(crate) overlay_hit_ratio: f64,
    /// Nodes that were turned on, for a start or before one.
    pub(crate) power_ons: u64,
    pub(crate) power_ons_per_node_day: f64,
    /// Nodes that were not ready at a start.
    pub(crate) cold_nodes: u64,
    /// Jobs that had such a node.
    pub(crate) cold_job_ratio: f64,
    /// Node time off.
    pub(crate) off_ratio: f64,
    pub(crate) energy_kwh: f64,
    /// How often a start that was planned or promised was later in the next plan.
    pub(crate) starts_moved_back: u64,
    pub(crate) passes: u64,
    /// Answers: starts, planned starts and reasons to wait.
    pub(crate) decisions: u64,
    pub(crate) planning_s: f64,
    pub(crate) decisions_per_s: f64,
    pub(crate) jobs_per_s: f64,
}

/// What a node draws in use, in watts.
const BUSY_W: f64 = 350.0;
/// And while it is on without use, or boots.
const IDLE_W: f64 = 150.0;
/// And off, for its BMC.
const OFF_W: f64 = 5.0;

impl Figures {
    pub(crate) fn new(jobs: &[Job], replay: &Replay, nodes: u32, boot_s: i64) -> Figures {
        let ran = || jobs.iter().zip(&replay.jobs);
        let mut waits: Vec<i64> = ran().map(|(job, ran)| ran.start - job.submit).collect();
        let slowdown =
            |wait: i64, run: i64| ((wait + run) as f64 / run.max(SHORT_S) as f64).max(1.0);
        let slowdowns: Vec<f64> =
            jobs.iter().zip(&waits).map(|(job, wait)| slowdown(*wait, job.run)).collect();
        let mut by_user: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for (job, slowdown) in jobs.iter().zip(&slowdowns) {
            let user = by_user.entry(job.user).or_default();
            *user = (user.0 + slowdown, user.1 + 1.0);
        }
        let by_user: Vec<f64> = by_user.values().map(|(sum, count)| sum / count).collect();
        let makespan = ran().map(|(job, ran)| ran.start + job.run).max().unwrap_or(0);
        let busy: i64 = jobs.iter().map(|job| job.run * i64::from(job.width)).sum();
        let all = (makespan * i64::from(nodes)).max(1);
        let cold = || replay.jobs.iter().map(|ran| u64::from(ran.cold));
        let count = jobs.len().max(1) as f64;
        waits.sort_unstable();
        let days = all as f64 / 86_400.0;
        let planning = replay.planning.as_secs_f64();
        // In the trace jobs run at once; a node that was cold boots all the same.
        let boots = cold().sum::<u64>() as i64 * boot_s;
        let energy = busy as f64 * BUSY_W
            + (replay.on_s - busy + boots) as f64 * IDLE_W
            + (all - replay.on_s) as f64 * OFF_W;
        Figures {
            jobs: jobs.len(),
            nodes,
            makespan_s: makespan,
            mean_wait_s: waits.iter().sum::<i64>() as f64 / count,
            p95_wait_s: waits.get(waits.len() * 95 / 100).copied().unwrap_or(0),
            max_wait_s: waits.last().copied().unwrap_or(0),
            mean_bounded_slowdown_ratio: slowdowns.iter().sum::<f64>() / count,
            utilisation_ratio: busy as f64 / all as f64,
            fairness_jain_ratio: jain(&by_user),
            overlay_hit_ratio: replay.jobs.iter().filter(|ran| ran.is_hit).count() as f64 / count,
            power_ons: replay.power_ons,
            power_ons_per_node_day: replay.power_ons as f64 / days,
            cold_nodes: cold().sum(),
            cold_job_ratio: cold().filter(|cold| *cold > 0).count() as f64 / count,
            off_ratio: (all - replay.on_s) as f64 / all as f64,
            energy_kwh: energy / 3_600_000.0,
            starts_moved_back: replay.moved_back,
            passes: replay.passes,
            decisions: replay.decisions,
            planning_s: planning,
            decisions_per_s: replay.decisions as f64 / planning,
            jobs_per_s: count / planning,
        }
    }
}

fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (values.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_is_one_for_equals_and_falls_to_one_nth() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[3.0, 0.0, 0.0]), 1.0 / 3.0);
    }
}
