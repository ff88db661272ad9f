//! `haas-sim` on small traces that are made here, and on the reference traces where they are at hand.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// One line per job: submission, run, width, estimate, user.
fn trace(jobs: &[(i64, i64, u32, i64, u32)]) -> String {
    let mut trace = String::from("; made by a test\n");
    for (index, (submit, run, width, estimate, user)) in jobs.iter().enumerate() {
        let _ = writeln!(
            trace,
            "{} {submit} -1 {run} {width} -1 -1 {width} {estimate} -1 1 {user} 1 -1 -1 -1 -1 -1",
            index + 1
        );
    }
    trace
}

/// Jobs of all widths, more than the nodes can take at once; the same each time.
fn busy(jobs: u64) -> String {
    let mut dice: u64 = 88_172_645_463_325_252;
    let mut roll = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 11) % sides
    };
    let mut submit = 0;
    let made: Vec<_> = (0..jobs)
        .map(|_| {
            submit += roll(200) as i64;
            let run = 1 + roll(1_000) as i64;
            let estimate = run + roll(3) as i64 * 100;
            (submit, run, 1 << roll(5), estimate, roll(8) as u32)
        })
        .collect();
    trace(&made)
}

fn run(trace: &Path, more: &[&str]) -> Value {
    let mut sim = Command::new(env!("CARGO_BIN_EXE_haas-sim"));
    let output = sim.arg("--trace").arg(trace).args(more).arg("--json").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("--json prints one object")
}

fn replay(text: &str, nodes: u32, more: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.swf");
    fs::write(&file, text).unwrap();
    let nodes = nodes.to_string();
    run(&file, &[&["--nodes", &nodes], more].concat())
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or_else(|| panic!("there is no {name} in {figures}"))
}

#[test]
fn policies_differ_as_the_books_say() {
    // Two nodes: one busy until 100, then a job for both, then a short and a long one.
    let jobs = [(0, 100, 1, 100, 1), (1, 50, 2, 50, 2), (2, 90, 1, 90, 3), (3, 200, 1, 200, 4)];
    let wait = |policy| number(&replay(&trace(&jobs), 2, &["--policy", policy]), "mean_wait_s");
    // 0, 99, 148 and 147: all in a row.
    assert_eq!(wait("fcfs"), (99.0 + 148.0 + 147.0) / 4.0);
    // The third passes the second: 0, 99, 0, 147.
    for policy in ["easy", "conservative", "promised", "planner"] {
        assert_eq!(wait(policy), (99.0 + 147.0) / 4.0, "{policy}");
    }
}

#[test]
fn arrivals_can_be_scaled() {
    let jobs = [(0, 10, 1, 10, 1), (10, 10, 1, 10, 1)];
    let args = ["--policy", "easy", "--arrival-scale", "0.5"];
    assert_eq!(number(&replay(&trace(&jobs), 1, &args), "mean_wait_s"), 2.5);
}

#[test]
fn a_promised_start_never_moves_back() {
    let text = busy(400);
    for policy in ["fcfs", "easy", "promised", "planner"] {
        let figures = replay(&text, 16, &["--policy", policy]);
        assert_eq!(number(&figures, "starts_moved_back"), 0.0, "{policy}");
    }
}

#[test]
fn overlays_are_met_by_user_and_by_rank() {
    // The same user again on the same nodes, then with another width.
    let jobs = [(0, 10, 2, 10, 1), (20, 10, 2, 10, 1), (40, 10, 1, 10, 1)];
    let hits = |rule| {
        let args = ["--policy", "easy", "--overlays", rule];
        number(&replay(&trace(&jobs), 4, &args), "overlay_hit_ratio") * 3.0
    };
    assert_eq!((hits("user").round(), hits("rank").round(), hits("none")), (2.0, 1.0, 0.0));
}

#[test]
fn placement_changes_no_start() {
    let text = busy(400);
    let figures = |placement| {
        replay(&text, 16, &["--policy", "easy", "--overlays", "rank", "--placement", placement])
    };
    let waits = ["first-fit", "naive-sort", "overlay-aware"]
        .map(|placement| number(&figures(placement), "mean_wait_s"));
    assert!(waits.iter().all(|wait| *wait == waits[0]), "{waits:?}");
}

#[test]
fn idle_nodes_go_off_and_planned_ones_come_back_in_time() {
    let jobs = [(0, 10, 2, 10, 1), (5_000, 10, 2, 10, 1)];
    let figures = replay(&trace(&jobs), 2, &["--policy", "easy", "--idle", "timeout"]);
    assert_eq!(number(&figures, "cold_nodes"), 2.0);
    // One node is busy for long, and both are wanted after it: the other one sleeps until then.
    let jobs = [(0, 9_000, 1, 9_000, 1), (10, 10, 2, 10, 2)];
    let figures = |idle| replay(&trace(&jobs), 2, &["--policy", "easy", "--idle", idle]);
    let (plain, planned) = (figures("timeout"), figures("planned"));
    assert_eq!((number(&plain, "cold_nodes"), number(&planned, "cold_nodes")), (1.0, 0.0));
    assert!(number(&planned, "off_ratio") > 0.3);
}

#[test]
fn charts_and_tables_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("trace.swf"), busy(20)).unwrap();
    let (svg, csv) = (path("chart.svg"), path("jobs.csv"));
    let args = ["--nodes", "16", "--policy", "easy", "--gantt", &svg, "--csv", &csv];
    run(Path::new(&path("trace.swf")), &args);
    let svg = fs::read_to_string(svg).unwrap();
    assert_eq!((svg.matches("<g ").count(), svg.matches("</svg>").count()), (20, 1));
    let csv = fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().count(), 21);
    assert!(csv.lines().all(|line| line.split(',').count() == 10));
}

#[test]
fn a_job_wider_than_the_cluster_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.swf");
    fs::write(&file, trace(&[(0, 1, 9, 1, 1)])).unwrap();
    let mut sim = Command::new(env!("CARGO_BIN_EXE_haas-sim"));
    let output = sim.arg("--trace").arg(&file).args(["--nodes", "8", "--policy", "easy"]).output();
    let error = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(error.contains("takes 9 nodes"), "{error}");
}

/// The figures that two independent simulators agreed on, and those of the plain placements.
#[test]
#[ignore = "needs two traces of the Parallel Workloads Archive, nasa-ipsc-1993.swf.gz and \
            hpc2n-excerpt.swf.gz: HAAS_TRACES=FOLDER cargo test --release -p trace-sim -- --ignored"]
fn reference_figures_are_met_to_the_second() {
    let folder = std::env::var("HAAS_TRACES").expect("HAAS_TRACES names the folder of the traces");
    let run = |trace: &str, nodes: &str, more: &[&str]| {
        let args = [&["--nodes", nodes, "--arrival-scale", "0.55"], more].concat();
        run(&Path::new(&folder).join(trace), &args)
    };
    let nasa = |more: &[&str]| run("nasa-ipsc-1993.swf.gz", "128", more);
    let hpc2n = |more: &[&str]| run("hpc2n-excerpt.swf.gz", "240", more);
    let wait = |figures: &Value| number(figures, "mean_wait_s").round();
    assert_eq!(wait(&nasa(&["--policy", "fcfs"])), 293_983.0);
    assert_eq!(wait(&hpc2n(&["--policy", "fcfs"])), 41_425.0);
    assert_eq!(wait(&hpc2n(&["--policy", "conservative"])), 23_104.0);
    for (placement, of_nasa, of_hpc2n) in
        [("first-fit", 0.597, 0.761), ("naive-sort", 0.635, 0.811)]
    {
        let args = ["--policy", "easy", "--placement", placement, "--idle", "timeout"];
        let (nasa, hpc2n) = (nasa(&args), hpc2n(&args));
        assert_eq!((wait(&nasa), wait(&hpc2n)), (36_690.0, 19_805.0));
        let hits = |figures| (number(figures, "overlay_hit_ratio") * 1_000.0).round() / 1_000.0;
        assert_eq!((hits(&nasa), hits(&hpc2n)), (of_nasa, of_hpc2n), "{placement}");
    }
}
