//! `status`: what nodes run and what they are doing.

use std::time::Duration;

use clap::Args;
use haas_api::{
    List,
    node::{Desired, Node, NodeState},
};
use tokio::time::sleep;

use crate::{
    cli::{Session, nodeset},
    error::Error,
    out::Format,
    table::{Field, Table, Tone, or_dash, toned},
    wait::Backoff,
};

/// How often `--watch` looks.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl status
  haasctl status n[01-16],@rack1 --watch
  haasctl status -o json")]
pub(crate) struct StatusArgs {
    /// The nodes; all of them where none are given.
    #[arg(value_parser = nodeset)]
    nodeset: Option<String>,
    /// Go on showing what changes, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
}

impl StatusArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let out = session.out;
        let mut nodes = client.nodes(self.nodeset.as_deref()).await?;
        if !self.watch {
            out.show(&List::whole(nodes.clone()), || table(&nodes))?;
            return match idle_off(&nodes) {
                Some(idle) if out.format == Format::Table => {
                    out.note(&format!("Off while idle, all together: {idle}."))
                }
                Some(_) | None => Ok(()),
            };
        }
        let mut shown: Option<Vec<Node>> = None;
        let mut backoff = Backoff::default();
        loop {
            if shown.as_ref() != Some(&nodes) {
                match out.format {
                    Format::Table => {
                        out.clear()?;
                        out.table(&table(&nodes))?;
                    }
                    Format::Json | Format::Yaml => {
                        out.item(&List::whole(nodes.clone()), String::new)?;
                    }
                }
                shown = Some(nodes.clone());
            }
            sleep(INTERVAL).await;
            nodes = loop {
                match client.nodes(self.nodeset.as_deref()).await {
                    Ok(nodes) => break nodes,
                    Err(error) if error.is_transient() => {
                        out.note(&format!("{error}; trying again"))?;
                        backoff.pause().await;
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            backoff.reset();
        }
    }
}

/// A node's state, coloured.
pub(crate) fn state(node: &Node) -> Field {
    let tone = match node.state {
        NodeState::Unmanaged => Tone::Faint,
        NodeState::Idle | NodeState::Off => Tone::Plain,
        NodeState::Switching | NodeState::HandedOver => Tone::Busy,
        NodeState::Ready => Tone::Good,
        NodeState::Unreachable | NodeState::Fault => Tone::Bad,
    };
    let word = node.state.as_str();
    match &node.drain {
        Some(drain) => toned(format!("{word}+{}", drain.state.as_str()), Tone::Bad),
        None => toned(word, tone),
    }
}

/// Why a node is in its state, and why it is out of service.
pub(crate) fn reason(node: &Node) -> String {
    match &node.drain {
        Some(drain) if node.reason.is_empty() => drain.reason.clone(),
        Some(drain) => format!("{}: {}; {}", drain.state.as_str(), drain.reason, node.reason),
        None => node.reason.clone(),
    }
}

/// The overlay as people name it, and whether it is only being mended.
pub(crate) fn overlay_of(desired: &Desired) -> String {
    let overlay = desired.overlay.as_deref().unwrap_or("none");
    format!("{overlay}{}", if desired.rescue { " (rescue)" } else { "" })
}

/// For how long nodes were off since nobody used them, and what that has saved.
pub(crate) fn idle_off(nodes: &[Node]) -> Option<String> {
    let sum = |of: fn(&Node) -> f64| nodes.iter().map(of).sum::<f64>();
    let hours = sum(|node| node.observed.idle_off_hours);
    let saved = sum(|node| node.observed.idle_saved_kwh);
    let saved = if saved > 0.0 { format!(", which saved {saved:.1} kWh") } else { String::new() };
    (hours > 0.0).then(|| format!("{hours:.1} h{saved}"))
}

fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new([
        "NODE", "STATE", "POWER", "IMAGE", "OVERLAY", "RANK", "STAGE", "LOGINS", "REASON",
    ]);
    for node in nodes {
        // A node that is off has them too: they are what `power on` boots.
        let desired = node.desired.as_ref();
        let overlay = desired.map(overlay_of);
        table.row([
            (&node.name).into(),
            state(node),
            (&node.observed.power).into(),
            or_dash(desired.and_then(|desired| desired.image.as_deref())),
            or_dash(overlay),
            or_dash(desired.map(|desired| desired.rank)),
            or_dash(node.observed.stage),
            node.observed.logins.len().into(),
            reason(node).into(),
        ]);
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A node that runs, for tests of tables.
    pub(crate) fn sample() -> Node {
        serde_json::from_value(serde_json::json!({
            "id": "01J", "name": "n01", "address": "10.0.0.11", "mac": "52:54:00:77:00:01",
            "groups": ["rack1"], "labels": {}, "power_driver": "ipmi", "managed": true,
            "state": "ready", "reason": "",
            "desired": {
                "generation": 3, "on": true, "image": "minimal:latest", "image_digest": null,
                "overlay": "alice/dev", "rank": 0, "since": "2026-11-21T00:00:00Z", "actor": "alice"
            },
            "observed": {
                "power": "on", "power_at": null, "power_error": null, "stage": "ready",
                "agent_at": null, "logins": ["alice pts/0"], "root_attached": true,
                "store_free": null
            }
        }))
        .unwrap()
    }

    #[test]
    fn what_was_saved_is_the_sum_over_all_nodes_and_is_told_where_it_is_known() {
        let mut nodes = [sample(), sample()];
        assert_eq!(idle_off(&nodes), None);
        nodes[0].observed.idle_off_hours = 2.0;
        assert_eq!(idle_off(&nodes).as_deref(), Some("2.0 h"));
        (nodes[1].observed.idle_off_hours, nodes[1].observed.idle_saved_kwh) = (8.5, 1.6);
        assert_eq!(idle_off(&nodes).as_deref(), Some("10.5 h, which saved 1.6 kWh"));
    }

    #[test]
    fn a_node_that_is_off_shows_what_it_would_boot() {
        let on = sample();
        let mut off = sample();
        off.state = NodeState::Off;
        off.observed.power = "off".to_owned();
        off.desired.as_mut().unwrap().on = false;
        assert_eq!(
            table(&[on, off]).render(None, false),
            "NODE  STATE  POWER  IMAGE           OVERLAY    RANK  STAGE  LOGINS  REASON\n\
             n01   ready  on     minimal:latest  alice/dev  0     ready  1\n\
             n01   off    off    minimal:latest  alice/dev  0     ready  1\n"
        );
    }
}
