//! `drift`: whether a reboot would change what nodes run.

use clap::Args;
use haas_api::{
    List,
    node::{Difference, Drift, DriftState},
};

use crate::{
    cli::{Session, nodeset},
    error::Error,
    table::{Table, Tone, or_dash, toned},
};

/// So much of a digest tells it from others.
const DIGEST: usize = "sha256:".len() + 12;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl drift
  haasctl drift @rack1
  haasctl drift n[01-16] -o json")]
pub(crate) struct DriftArgs {
    /// The nodes; all of them where none are given.
    #[arg(value_parser = nodeset)]
    nodeset: Option<String>,
}

impl DriftArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let list = List::whole(session.client()?.drift(self.nodeset.as_deref()).await?);
        session.out.show(&list, || table(&list.items))
    }
}

fn table(nodes: &[Drift]) -> Table {
    let mut table = Table::new(["NODE", "DRIFT", "WHAT", "RUNS", "WOULD RUN", "REASON"]);
    for node in nodes {
        let (word, tone) = match node.state {
            DriftState::Same => ("no", Tone::Good),
            DriftState::Differs => ("yes", Tone::Bad),
            DriftState::Unknown => ("unknown", Tone::Busy),
            DriftState::NotRunning => ("-", Tone::Faint),
        };
        let mut row = |difference: Option<&Difference>| {
            let part = |part: fn(&Difference) -> &str| {
                or_dash(difference.map(part).filter(|text| !text.is_empty()).map(short))
            };
            table.row([
                (&node.node).into(),
                toned(word, tone),
                part(|d| &d.what),
                part(|d| &d.runs),
                part(|d| &d.would),
                (&node.reason).into(),
            ]);
        };
        if node.differences.is_empty() {
            row(None);
        }
        node.differences.iter().for_each(|difference| row(Some(difference)));
    }
    table
}

fn short(text: &str) -> &str {
    if text.starts_with("sha256:") { text.get(..DIGEST).unwrap_or(text) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_has_its_line() {
        let difference = |what: &str, runs: &str, would: &str| Difference {
            what: what.to_owned(),
            runs: runs.to_owned(),
            would: would.to_owned(),
        };
        let node = |name: &str, state, differences| Drift {
            node: name.parse().unwrap(),
            state,
            reason: String::new(),
            differences,
        };
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let differences = vec![
            difference("kernel", &digest("a"), &digest("b")),
            difference("command line", "", "quiet"),
        ];
        let nodes =
            [node("n01", DriftState::Same, vec![]), node("n02", DriftState::Differs, differences)];
        assert_eq!(
            table(&nodes).render(None, false),
            "NODE  DRIFT  WHAT          RUNS                 WOULD RUN            REASON\n\
             n01   no     -             -                    -\n\
             n02   yes    kernel        sha256:aaaaaaaaaaaa  sha256:bbbbbbbbbbbb\n\
             n02   yes    command line  -                    quiet\n"
        );
    }
}
