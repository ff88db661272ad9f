//! `node baseline`: whether machines are as they were before their last tenants.

use std::time::Duration;

use clap::Subcommand;
use haas_api::{
    List,
    baseline::{BaselineRequest, Facts, NodeBaseline},
    client::Client,
    names::NodeName,
};

use crate::{
    cli::{Session, nodeset},
    confirm::Yes,
    error::Error,
    format,
    table::{Table, Tone, or_dash, toned},
};

/// How often it is asked whether the BMCs have told.
const PAUSE: Duration = Duration::from_millis(500);
/// Longer than haasd waits for a BMC.
const TRIES: u32 = 180;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what is recorded of a node: users and network of its BMC, firmware, boot entries, boot code.
    #[command(after_help = "Examples:\n  haasctl node baseline show n01")]
    Show {
        /// The node.
        node: NodeName,
    },
    /// Ask the BMCs of nodes how they are now, and show what is not as it was. Changes nothing.
    ///
    /// What agents tell is asked when a node boots for another tenant, and shown as it was then.
    #[command(after_help = "\
Examples:
  haasctl node baseline check n01
  haasctl node baseline check @rack1 -o json")]
    Check {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
    },
    /// Take nodes as they were seen last for what they shall be. A node that waits for that goes on.
    #[command(after_help = "Examples:\n  haasctl node baseline accept n01 --yes")]
    Accept {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
        #[command(flatten)]
        yes: Yes,
    },
    /// Forget how nodes were, as before their firmware is updated: their next boot is recorded anew.
    #[command(after_help = "Examples:\n  haasctl node baseline forget @rack1 --yes")]
    Forget {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
        #[command(flatten)]
        yes: Yes,
    },
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let nodes = match self {
            Self::Show { node } => {
                let baseline = client.baseline(&node).await?;
                return session.out.show(&baseline, || shown(&baseline));
            }
            Self::Check { nodeset } => check(&client, nodeset).await?,
            Self::Accept { nodeset, yes } => {
                yes.ask(
                    session,
                    &format!("Take {nodeset} as it was seen last for what it shall be?"),
                )?;
                client.accept_baselines(&BaselineRequest { nodeset }).await?
            }
            Self::Forget { nodeset, yes } => {
                let question = format!("Trust whatever {nodeset} is at its next boot?");
                yes.ask(session, &question)?;
                client.forget_baselines(&BaselineRequest { nodeset }).await?
            }
        };
        let list = List::whole(nodes);
        session.out.show(&list, || table(&list.items))
    }
}

/// Has the BMCs asked, and waits until each has told.
async fn check(client: &Client, nodeset: String) -> Result<Vec<NodeBaseline>, Error> {
    let mut nodes = client.check_baselines(&BaselineRequest { nodeset }).await?;
    let mut silent: Vec<usize> = (0..nodes.len()).collect();
    for _ in 0..TRIES {
        let mut left = Vec::new();
        for index in silent {
            let Some(before) = nodes.get_mut(index) else { continue };
            let name = before.node.parse().map_err(|e| Error::Failed(format!("{e}")))?;
            let now = client.baseline(&name).await?;
            match now.asked_at == before.asked_at {
                true => left.push(index),
                false => *before = now,
            }
        }
        if left.is_empty() {
            return Ok(nodes);
        }
        silent = left;
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::Failed("haasd has not ended its look; is it overloaded?".to_owned()))
}

fn table(nodes: &[NodeBaseline]) -> Table {
    let mut table = Table::new(["NODE", "BASELINE", "WHAT", "WAS", "IS"]);
    for node in nodes {
        let name = &node.node;
        match (&node.error, node.recorded.is_empty()) {
            (Some(error), _) => {
                let word = toned("unknown", Tone::Busy);
                table.row([name.into(), word, error.into(), "-".into(), "-".into()]);
            }
            (None, true) => {
                let word = toned("none", Tone::Faint);
                table.row([name.into(), word, "-".into(), "-".into(), "-".into()]);
            }
            (None, false) if node.differences.is_empty() => {
                let word = toned("same", Tone::Good);
                table.row([name.into(), word, "-".into(), "-".into(), "-".into()]);
            }
            (None, false) => {}
        }
        for difference in &node.differences {
            table.row([
                name.into(),
                toned("differs", Tone::Bad),
                format!("{} {}", difference.part.words(), difference.what).into(),
                or_dash(difference.was.as_deref()),
                or_dash(difference.is.as_deref()),
            ]);
        }
    }
    table
}

fn shown(node: &NodeBaseline) -> Table {
    let mut table = Table::pairs();
    table.pair("node", &node.node);
    table.pair("recorded", or_dash(node.recorded_at.as_deref().map(format::time)));
    table.pair("by", or_dash(node.recorded_by.as_deref()));
    table.pair("BMC asked", or_dash(node.asked_at.as_deref().map(format::time)));
    if let Some(error) = &node.error {
        table.pair("error", error);
    }
    facts(&mut table, &node.recorded);
    for difference in &node.differences {
        table.pair("differs", difference);
    }
    table
}

fn facts(table: &mut Table, facts: &Facts) {
    for (part, told) in facts {
        for (name, value) in told {
            table.pair(&format!("{} {name}", part.words()), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use haas_api::baseline::{Difference, Part};

    use super::*;

    #[test]
    fn each_difference_has_its_line_and_who_cannot_be_asked_is_not_called_the_same() {
        let node = |name: &str| NodeBaseline { node: name.to_owned(), ..NodeBaseline::default() };
        let recorded = Facts::from([(Part::BmcUsers, Default::default())]);
        let difference = Difference {
            part: Part::BmcUsers,
            what: "3".to_owned(),
            was: None,
            is: Some("mallory, administrator".to_owned()),
        };
        let nodes = [
            node("n01"),
            NodeBaseline { recorded: recorded.clone(), ..node("n02") },
            NodeBaseline {
                recorded: recorded.clone(),
                error: Some("no answer".to_owned()),
                ..node("n03")
            },
            NodeBaseline { recorded, differences: vec![difference], ..node("n04") },
        ];
        assert_eq!(
            table(&nodes).render(None, false),
            "NODE  BASELINE  WHAT        WAS  IS\n\
             n01   none      -           -    -\n\
             n02   same      -           -    -\n\
             n03   unknown   no answer   -    -\n\
             n04   differs   BMC user 3  -    mallory, administrator\n"
        );
    }
}
