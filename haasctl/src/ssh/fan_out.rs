//! One program for each of many nodes, some at a time, and what came of it: nodes with the same output
//! are shown together.

use std::{process::Stdio, time::Duration};

use futures_util::{StreamExt as _, stream};
use haas_api::{List, names::NodeName};
use serde::Serialize;
use tokio::{process::Command, time::timeout};

use super::NO_SSH;
use crate::{
    cli::Session,
    error::{Error, io_error},
    format,
    out::Format,
};

/// The exit code of ssh where it could not run the command.
const FAILED: u8 = 255;

/// How many at once, and for how long.
#[derive(Debug, clap::Args)]
pub(super) struct Limits {
    /// At most this many nodes at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    fanout: u16,
    /// Give a node up after this many seconds. What was begun there may go on.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
}

/// What is to be run for a node, or why nothing can be.
pub(super) type Job = (NodeName, Result<Command, String>);

/// What came of it on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Ran {
    node: NodeName,
    /// None where it did not come to its end.
    exit_code: Option<i32>,
    stdout: String,
    stderr: String,
    /// Why it did not.
    problem: Option<String>,
}

impl Limits {
    /// Runs all jobs, and answers in their order.
    pub(super) async fn run(&self, jobs: Vec<Job>) -> Result<Vec<Ran>, Error> {
        let limit = self.timeout.map(Duration::from_secs);
        let jobs = jobs.into_iter().enumerate();
        let runs = stream::iter(jobs).map(async |(position, (node, command))| {
            Ok::<_, Error>((position, one(node, command, limit).await?))
        });
        let mut done: Vec<_> = runs.buffer_unordered(self.fanout.into()).collect().await;
        done.sort_by_key(|run| run.as_ref().map_or(0, |(position, _)| *position));
        done.into_iter().map(|run| run.map(|(_, ran)| ran)).collect()
    }
}

async fn one(
    node: NodeName,
    command: Result<Command, String>,
    limit: Option<Duration>,
) -> Result<Ran, Error> {
    let empty = |problem| Ran {
        node: node.clone(),
        exit_code: None,
        stdout: String::new(),
        stderr: String::new(),
        problem: Some(problem),
    };
    let mut command = match command {
        Ok(command) => command,
        Err(problem) => return Ok(empty(problem)),
    };
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match limit {
        None => command.output().await,
        Some(limit) => match timeout(limit, command.output()).await {
            Ok(output) => output,
            Err(_) => return Ok(empty(format!("not over within {} s", limit.as_secs()))),
        },
    };
    let output = output.map_err(io_error(NO_SSH))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let problem = output.status.code().is_none().then(|| output.status.to_string());
    Ok(Ran {
        node,
        exit_code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        problem,
    })
}

/// Shows what came of it. Fails with the highest exit code if one is not 0.
pub(super) fn show(session: &Session<'_>, runs: Vec<Ran>) -> Result<(), Error> {
    let (out, failure) = (session.out, failure(&runs));
    if out.format == Format::Table {
        for group in groups(&runs) {
            if let Some(text) = group.text() {
                out.text(&text)?;
            }
            if let Some(errors) = group.errors() {
                out.note(&errors)?;
            }
        }
    } else {
        out.show_text(&List::whole(runs), String::new)?;
    }
    failure.map_or(Ok(()), Err)
}

/// Nodes of which all is the same.
struct Group<'a> {
    names: String,
    count: usize,
    ran: &'a Ran,
}

/// In the order of the first node of each.
fn groups(runs: &[Ran]) -> Vec<Group<'_>> {
    let mut groups: Vec<(Vec<&str>, &Ran)> = Vec::new();
    for ran in runs {
        let same = |(_, other): &&mut (Vec<&str>, &Ran)| {
            (ran.exit_code, &ran.stdout, &ran.stderr, &ran.problem)
                == (other.exit_code, &other.stdout, &other.stderr, &other.problem)
        };
        match groups.iter_mut().find(same) {
            Some((names, _)) => names.push(ran.node.as_str()),
            None => groups.push((vec![ran.node.as_str()], ran)),
        }
    }
    groups
        .into_iter()
        .map(|(names, ran)| Group { count: names.len(), names: format::fold(&names), ran })
        .collect()
}

impl Group<'_> {
    /// The nodes and their output; nothing where they have none and did well.
    fn text(&self) -> Option<String> {
        let Ran { exit_code, stdout, .. } = self.ran;
        let how = match exit_code {
            Some(0) if stdout.is_empty() => return None,
            Some(0) => String::new(),
            Some(code) => format!(", exit code {code}"),
            None => return None,
        };
        let nodes = if self.count == 1 { "node" } else { "nodes" };
        let count = format!("{} {nodes}", self.count);
        Some(format!("--- {} ({count}{how})\n{stdout}", self.names))
    }

    /// What they said on standard error, each line with their names.
    fn errors(&self) -> Option<String> {
        let lines = self.ran.stderr.lines().chain(self.ran.problem.as_deref());
        let lines: Vec<_> = lines.map(|line| format!("{}: {line}", self.names)).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// The highest exit code, and which nodes have not done well.
fn failure(runs: &[Ran]) -> Option<Error> {
    let code = |ran: &Ran| match ran.exit_code {
        Some(code) => u8::try_from(code).unwrap_or(FAILED),
        None => FAILED,
    };
    let highest = runs.iter().map(code).max().filter(|code| *code != 0)?;
    let failed: Vec<_> =
        runs.iter().filter(|ran| code(ran) != 0).map(|ran| ran.node.as_str()).collect();
    let summary =
        format!("{} of {} nodes failed: {}", failed.len(), runs.len(), format::fold(&failed));
    Some(Error::Commands { code: highest, summary })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(node: &str, exit_code: Option<i32>, stdout: &str, stderr: &str) -> Ran {
        Ran {
            node: node.parse().unwrap(),
            exit_code,
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            problem: exit_code.is_none().then(|| "it is off".to_owned()),
        }
    }

    #[test]
    fn nodes_with_the_same_output_are_shown_together() {
        let runs = [
            ran("n01", Some(0), "6.1.0\n", ""),
            ran("n02", Some(0), "6.1.0\n", "warm\n"),
            ran("n03", Some(0), "6.1.0\n", ""),
            ran("n04", Some(0), "", ""),
            ran("n05", Some(2), "", "no such file\n"),
            ran("n06", None, "", ""),
            ran("n07", None, "", ""),
        ];
        let texts: Vec<_> = groups(&runs).iter().filter_map(Group::text).collect();
        assert_eq!(
            texts,
            [
                "--- n[01,03] (2 nodes)\n6.1.0\n",
                "--- n02 (1 node)\n6.1.0\n",
                "--- n05 (1 node, exit code 2)\n",
            ]
        );
        let errors: Vec<_> = groups(&runs).iter().filter_map(Group::errors).collect();
        assert_eq!(errors, ["n02: warm", "n05: no such file", "n[06-07]: it is off"]);
    }

    #[test]
    fn the_exit_code_is_the_highest_of_all_nodes() {
        let good = ran("n01", Some(0), "", "");
        assert!(failure(std::slice::from_ref(&good)).is_none());
        let runs = [good.clone(), ran("n02", Some(1), "", ""), ran("n03", Some(3), "", "")];
        let Some(Error::Commands { code, summary }) = failure(&runs) else { panic!() };
        assert_eq!((code, summary.as_str()), (3, "2 of 3 nodes failed: n[02-03]"));
        let Some(Error::Commands { code, .. }) = failure(&[good, ran("n04", None, "", "")]) else {
            panic!()
        };
        assert_eq!(code, 255, "as ssh itself says it");
    }

    #[tokio::test]
    async fn all_are_run_some_at_a_time_and_come_back_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let script = "mkdir $0/at-$1; ls $0 | wc -l; sleep 0.05; rmdir $0/at-$1";
        let job = |number: u8| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).arg(folder.path()).arg(number.to_string());
            (format!("n{number:02}").parse().unwrap(), Ok(command))
        };
        let limits = Limits { fanout: 3, timeout: None };
        let runs = limits.run((1..=12).map(job).collect()).await.unwrap();
        let names: Vec<_> = runs.iter().map(|ran| ran.node.to_string()).collect();
        assert_eq!(names, (1..=12).map(|n| format!("n{n:02}")).collect::<Vec<_>>());
        for ran in &runs {
            let at_once: u8 = ran.stdout.trim().parse().unwrap();
            assert!((1..=3).contains(&at_once), "{at_once} at once");
        }
    }

    #[tokio::test]
    async fn a_node_that_takes_too_long_is_given_up_alone() {
        let job = |name: &str, line: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            (name.parse().unwrap(), Ok(command))
        };
        let limits = Limits { fanout: 8, timeout: Some(1) };
        let jobs = vec![
            job("n01", "exec sleep 600"),
            job("n02", "echo hi; exit 4"),
            ("n03".parse().unwrap(), Err("it is off".to_owned())),
        ];
        let runs = limits.run(jobs).await.unwrap();
        assert_eq!(runs[0].problem.as_deref(), Some("not over within 1 s"));
        assert_eq!((runs[1].exit_code, runs[1].stdout.as_str()), (Some(4), "hi\n"));
        assert_eq!(runs[2].problem.as_deref(), Some("it is off"));
    }
}
