//! Ready checks: the plan's commands, run in the node's own system once it is up. The node is not
//! proved ready before each has succeeded.
//!
//! They run one after the other on a thread of their own, since a command may hang and the agent must
//! not. Each is run again until it succeeds or its time is over. One that has failed is told to haasd
//! as a fault, and is still run now and then: what comes right by itself needs no person.

mod run;

use std::{
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use haas_api::{
    agent::{BootStage, ToController},
    check::{CheckReport, CheckState, ReadyCheck, command_line},
};

pub(crate) use run::{NAME, NOT_STARTED, main};

use self::run::Run;
use crate::{fault::Fault, log, shutdown};

/// Between two runs of a check that has time left.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two runs of those that have failed.
const AGAIN_FAILED: Duration = Duration::from_secs(30);
/// How much of what failed checks printed stands in the fault.
const TOLD: usize = 300;

/// The checks of this boot at work.
#[derive(Debug)]
pub(crate) struct Checks {
    news: mpsc::Receiver<News>,
    stop: Arc<AtomicBool>,
}

/// What the thread has to say.
#[derive(Debug)]
pub(crate) enum News {
    /// Something for haasd.
    Say(ToController),
    /// Every check has succeeded.
    Passed,
}

impl Checks {
    /// Starts with the first check.
    pub(crate) fn start(checks: &[ReadyCheck]) -> Self {
        Self::start_with(checks, AGAIN_FAILED, run::in_root)
    }

    fn start_with(
        checks: &[ReadyCheck],
        again_failed: Duration,
        run: impl Fn(&[String], Duration, &AtomicBool) -> Run + Send + 'static,
    ) -> Self {
        let (tell, news) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            reports: checks.iter().zip(0..).map(|(check, at)| begun(check, at)).collect(),
            again_failed,
            init: shutdown::pid1_name(),
            run,
            tell: tell.clone(),
            stop: stop.clone(),
        };
        let started = thread::Builder::new()
            .name("checks".into())
            .stack_size(256 * 1024)
            .spawn(move || drop(work.all()));
        if let Err(error) = started {
            let fault = Fault::hold("ready-check", format!("no thread for the checks: {error}"));
            let _ = tell.send(News::Say(ToController::Failure(fault.at(BootStage::Userspace))));
        }
        Self { news, stop }
    }

    /// What is new, if something is.
    pub(crate) fn news(&self) -> Option<News> {
        self.news.try_recv().ok()
    }

    /// Ends the check that runs, and begins no other: the node goes down.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.stop();
    }
}

fn begun(check: &ReadyCheck, position: u32) -> CheckReport {
    CheckReport {
        position,
        command: check.command.clone(),
        within_s: check.within_s,
        state: CheckState::Running,
        runs: 0,
        outcome: String::new(),
        exit_code: None,
        took_ms: 0,
        output: String::new(),
    }
}

/// The thread's work.
struct Work<R> {
    reports: Vec<CheckReport>,
    again_failed: Duration,
    /// PID 1's name. At the node's end it is another program, and nothing more is to be run.
    init: String,
    run: R,
    tell: mpsc::Sender<News>,
    stop: Arc<AtomicBool>,
}

/// The node goes down, or nobody listens any more.
struct Stopped;

impl<R: Fn(&[String], Duration, &AtomicBool) -> Run> Work<R> {
    fn all(mut self) -> Result<(), Stopped> {
        for at in 0..self.reports.len() {
            self.within_its_time(at)?;
        }
        while self.reports.iter().any(|r| r.state == CheckState::Failed) {
            self.pause(self.again_failed)?;
            for at in 0..self.reports.len() {
                if self.reports[at].state == CheckState::Failed {
                    let limit = Duration::from_secs(self.reports[at].within_s);
                    let stuck = self.once(at, limit)?;
                    self.wait(stuck)?;
                }
            }
        }
        self.tell.send(News::Passed).map_err(|_| Stopped)
    }

    /// Runs one until it succeeds or its time is over.
    fn within_its_time(&mut self, at: usize) -> Result<(), Stopped> {
        let until = Instant::now() + Duration::from_secs(self.reports[at].within_s);
        self.tell(at)?;
        let stuck = loop {
            let left = until.saturating_duration_since(Instant::now());
            let stuck = self.once(at, left)?;
            if self.reports[at].state == CheckState::Passed {
                return Ok(());
            }
            // A run that would be cut off at once is not begun: it would leave nothing of what the
            // last whole one has said.
            let took = Duration::from_millis(self.reports[at].took_ms);
            if stuck.is_some() || Instant::now() + AGAIN + AGAIN.max(took) >= until {
                break stuck;
            }
            self.pause(AGAIN)?;
        };
        self.reports[at].state = CheckState::Failed;
        self.tell(at)?;
        self.wait(stuck)
    }

    /// Runs one once; its process, where that cannot be ended.
    fn once(&mut self, at: usize, limit: Duration) -> Result<Option<Child>, Stopped> {
        self.is_wanted()?;
        let report = &mut self.reports[at];
        let first = report.runs == 0;
        let Run { exit_code, outcome, took, output, stuck } =
            (self.run)(&report.command, limit, &self.stop);
        let is_news = first || outcome != report.outcome || exit_code == Some(0);
        report.runs += 1;
        report.exit_code = exit_code;
        report.outcome = outcome;
        report.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        report.output = output;
        if exit_code == Some(0) {
            report.state = CheckState::Passed;
            log::info(&format!("check passed: {}", command_line(&report.command)));
        }
        // What was killed because the node goes down has not failed.
        self.is_wanted()?;
        if is_news {
            self.tell(at)?;
        }
        Ok(stuck)
    }

    /// Waits for a process that hangs: it is not to be started once more beside itself.
    fn wait(&self, stuck: Option<Child>) -> Result<(), Stopped> {
        let Some(mut child) = stuck else { return Ok(()) };
        while matches!(child.try_wait(), Ok(None)) {
            self.pause(AGAIN)?;
        }
        Ok(())
    }

    /// Says how one stands, and what fails.
    fn tell(&self, at: usize) -> Result<(), Stopped> {
        self.say(ToController::Check(self.reports[at].clone()))?;
        let Some(fault) = fault(&self.reports) else { return Ok(()) };
        log::error(&fault.to_string());
        self.say(ToController::Failure(fault.at(BootStage::Userspace)))
    }

    fn pause(&self, pause: Duration) -> Result<(), Stopped> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            self.is_wanted()?;
            thread::sleep(Duration::from_millis(100).min(pause));
        }
        Ok(())
    }

    fn is_wanted(&self) -> Result<(), Stopped> {
        let ends = self.stop.load(Ordering::Relaxed) || shutdown::pid1_name() != self.init;
        if ends { Err(Stopped) } else { Ok(()) }
    }

    fn say(&self, word: ToController) -> Result<(), Stopped> {
        self.tell.send(News::Say(word)).map_err(|_| Stopped)
    }
}

/// All checks that have failed or, while none has, the one at work if it does not succeed at once.
fn fault(reports: &[CheckReport]) -> Option<Fault> {
    let has_failed = reports.iter().any(|r| r.state == CheckState::Failed);
    let counts = |r: &&CheckReport| match r.state {
        CheckState::Passed => false,
        CheckState::Failed => true,
        CheckState::Running => !has_failed && r.runs > 0,
    };
    let told: Vec<_> = reports.iter().filter(counts).map(in_words).collect();
    let cause = told.join("; ");
    match (told.is_empty(), has_failed) {
        (true, _) => None,
        (false, true) => Some(Fault::hold("ready-check", cause)),
        (false, false) => Some(Fault::retry("ready-check", cause)),
    }
}

fn in_words(report: &CheckReport) -> String {
    let CheckReport { within_s, runs, outcome, output, .. } = report;
    let line = command_line(&report.command);
    let failed = match report.state {
        CheckState::Failed => format!("has not succeeded within {within_s} s"),
        CheckState::Running | CheckState::Passed => "has not succeeded so far".to_owned(),
    };
    let times = if *runs == 1 { "1 run".to_owned() } else { format!("{runs} runs") };
    let printed = output.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = printed.chars().count().saturating_sub(TOLD);
    let printed: String = printed.chars().skip(skip).collect();
    let printed = match printed.as_str() {
        "" => "it printed nothing".to_owned(),
        text => format!("it printed: {text}"),
    };
    format!("the check `{line}` {failed} ({outcome}, {times}); {printed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs checks whose commands are numbers: after so many runs each succeeds.
    fn checks(counts: &[u32], within_s: u64) -> Checks {
        let checks: Vec<_> = counts
            .iter()
            .map(|n| ReadyCheck { command: vec!["check".into(), n.to_string()], within_s })
            .collect();
        let runs = std::sync::Mutex::new(std::collections::HashMap::<String, u32>::new());
        Checks::start_with(&checks, Duration::from_millis(1), move |command, _, _| {
            let mut runs = runs.lock().unwrap();
            let run = runs.entry(command[1].clone()).or_default();
            *run += 1;
            let done = run.to_string() == command[1];
            Run {
                exit_code: Some(i32::from(!done)),
                outcome: format!("exit code {}", i32::from(!done)),
                took: Duration::from_millis(3),
                output: format!("run {run}\n"),
                stuck: None,
            }
        })
    }

    /// All that is said until every check has passed, one line for each.
    fn story(checks: &Checks) -> Vec<String> {
        let mut story = Vec::new();
        loop {
            match checks.news.recv_timeout(Duration::from_secs(20)).expect("it goes on") {
                News::Passed => return story,
                News::Say(ToController::Check(r)) => {
                    story.push(format!("{} {:?} {}", r.position, r.state, r.runs));
                }
                News::Say(ToController::Failure(f)) => {
                    story.push(format!(
                        "{} {}",
                        if f.retryable { "so far" } else { "fault" },
                        f.cause
                    ));
                }
                News::Say(other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn checks_run_in_order_until_each_has_passed() {
        let told = story(&checks(&[1, 2], 60));
        let so_far = "so far the check `check 2` has not succeeded so far (exit code 1, 1 run); \
                      it printed: run 1";
        assert_eq!(
            told,
            ["0 Running 0", "0 Passed 1", "1 Running 0", "1 Running 1", so_far, "1 Passed 2"]
        );
    }

    #[test]
    fn all_that_failed_stands_in_the_fault_until_it_comes_right() {
        let told = story(&checks(&[3, 1, 4], 1));
        let faults: Vec<_> = told.iter().filter(|line| line.starts_with("fault ")).collect();
        assert!(faults[0].contains("`check 3` has not succeeded within 1 s"), "{told:#?}");
        assert!(
            faults.iter().any(|f| f.contains("`check 3`") && f.contains("`check 4`")),
            "{told:#?}"
        );
        assert!(faults.last().is_some_and(|f| !f.contains("`check 3`")), "{told:#?}");
        assert_eq!(told.last().map(String::as_str), Some("2 Passed 4"));
    }

    #[test]
    fn nothing_is_run_any_more_when_the_node_goes_down() {
        let checks = checks(&[u32::MAX], 3600);
        checks.stop();
        while checks.news.recv_timeout(Duration::from_secs(20)).is_ok() {}
    }
}
