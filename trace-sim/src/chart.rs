//! A replay to look at: a Gantt chart as SVG, and a table as CSV.

use std::fmt::Write;

use scheduler::NodeId;

use crate::{replay::Replay, swf::Job};

/// The chart's size, in pixels.
const WIDTH: f64 = 1600.0;
const HEIGHT: f64 = 800.0;

/// A row for each node, time from left to right, a colour for each user.
pub(crate) fn svg(jobs: &[Job], replay: &Replay, nodes: u32) -> String {
    let ran = || jobs.iter().zip(&replay.jobs);
    let end = ran().map(|(job, ran)| ran.start + job.run).max().unwrap_or(1).max(1);
    let (x, y) = (WIDTH / end as f64, HEIGHT / f64::from(nodes));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         shape-rendering=\"crispEdges\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#eee\"/>\n"
    );
    for (index, (job, ran)) in ran().enumerate() {
        // Users next to each other in number should not look alike.
        let hue = u64::from(job.user) * 137 % 360;
        let title = format!("job {index}, user {}, {} nodes", job.user, job.width);
        let _ = writeln!(svg, "<g fill=\"hsl({hue},60%,55%)\"><title>{title}</title>");
        for (first, count) in runs(&ran.nodes) {
            let _ = writeln!(
                svg,
                "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{:.2}\"/>",
                ran.start as f64 * x,
                f64::from(first) * y,
                job.run as f64 * x,
                f64::from(count) * y,
            );
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// A line per job.
pub(crate) fn csv(jobs: &[Job], replay: &Replay) -> String {
    let mut csv = String::from(
        "job,user,width_nodes,submit_s,start_s,end_s,wait_s,overlay_hit,cold_nodes,first_node\n",
    );
    for (index, (job, ran)) in jobs.iter().zip(&replay.jobs).enumerate() {
        let first = ran.nodes.iter().min().map_or(0, |node| node.0);
        let _ = writeln!(
            csv,
            "{index},{},{},{},{},{},{},{},{},{first}",
            job.user,
            job.width,
            job.submit,
            ran.start,
            ran.start + job.run,
            ran.start - job.submit,
            u8::from(ran.is_hit),
            ran.cold,
        );
    }
    csv
}

/// Nodes in a row, as the first one and how many.
fn runs(nodes: &[NodeId]) -> Vec<(u32, u32)> {
    let mut sorted: Vec<u32> = nodes.iter().map(|node| node.0).collect();
    sorted.sort_unstable();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for node in sorted {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == node => *count += 1,
            Some(_) | None => runs.push((node, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_block() {
        let nodes = [5, 3, 4, 9].map(NodeId);
        assert_eq!(runs(&nodes), [(3, 3), (9, 1)]);
    }
}
