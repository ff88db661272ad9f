//! The ready checks of a node's last boot, as `node show` prints them.

use haas_api::check::{CheckReport, CheckState, command_line};

use crate::table::{Table, Tone, number, or_dash, toned};

/// How the checks stand.
pub(crate) fn table(checks: &[CheckReport]) -> Table {
    let mut table = Table::new(["CHECK", "STATE", "RUNS", "LAST RUN", "SECONDS", "LIMIT"]);
    for check in checks {
        let state = match check.state {
            CheckState::Running => toned("running", Tone::Busy),
            CheckState::Passed => toned("passed", Tone::Good),
            CheckState::Failed => toned("failed", Tone::Bad),
        };
        let outcome = (!check.outcome.is_empty()).then_some(&check.outcome);
        table.row([
            command_line(&check.command).into(),
            state,
            check.runs.into(),
            or_dash(outcome),
            number(format!("{}.{:03}", check.took_ms / 1000, check.took_ms % 1000)),
            number(format!("{} s", check.within_s)),
        ]);
    }
    table
}

/// What each check printed last, under its command.
pub(crate) fn output(checks: &[CheckReport]) -> String {
    let mut text = String::new();
    for check in checks.iter().filter(|check| !check.output.trim().is_empty()) {
        text.push_str(&format!("\n$ {}\n", command_line(&check.command)));
        for line in check.output.trim_end().lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_shown_with_what_it_printed() {
        let checks = [CheckReport {
            position: 0,
            command: vec!["mountpoint".to_owned(), "/scratch".to_owned()],
            within_s: 60,
            state: CheckState::Failed,
            runs: 7,
            outcome: "exit code 32".to_owned(),
            exit_code: Some(32),
            took_ms: 12,
            output: "not a mountpoint\nreally\n".to_owned(),
        }];
        assert_eq!(
            table(&checks).render(None, false),
            "CHECK                STATE   RUNS  LAST RUN      SECONDS  LIMIT\n\
             mountpoint /scratch  failed  7     exit code 32    0.012   60 s\n"
        );
        assert_eq!(output(&checks), "\n$ mountpoint /scratch\n  not a mountpoint\n  really\n");
    }
}
