//! What may keep haasd from its work, looked at without changing anything: `haasctl doctor` asks a
//! haasd that runs, `haasd doctor` looks beside one that does not, `haasd check` reads the files.
//!
//! Each finding says what is, why it matters and what to type. Nothing here waits for a BMC: what is
//! told of BMCs is what the reconciler last heard of them.

mod dhcp;
mod files;
mod host;
mod network;
mod nodes;
mod sockets;
mod sys;

use haas_api::doctor::Finding;

pub use self::files::{Files, read};
use crate::{config::Config, context::Context, inventory::NodeSpec, store::Result};

/// Files that are needed and not there.
pub fn missing_files(config: &Config, nodes: &[NodeSpec]) -> Vec<Finding> {
    files::findings(config, nodes)
}

/// All that can be seen from the controller without a running haasd.
pub async fn offline(config: &Config, nodes: &[NodeSpec]) -> Vec<Finding> {
    let mut findings = look(config, nodes, false);
    findings.extend(dhcp::findings(config).await);
    findings
}

fn look(config: &Config, nodes: &[NodeSpec], inside: bool) -> Vec<Finding> {
    let mut findings = files::findings(config, nodes);
    findings.extend(network::findings(config));
    findings.extend(sockets::findings(config));
    findings.extend(host::findings(config));
    findings.extend(host::neighbours(nodes));
    if inside {
        findings.push(host::own_limits(nodes.len()));
    }
    findings.extend(nodes::secrets(nodes, inside));
    findings
}

/// The same from inside, and what the nodes' BMCs have said.
pub async fn online(context: &Context) -> Result<Vec<Finding>> {
    let nodes = context.store.read().await?.nodes().await?;
    let config = context.config.clone();
    let specs: Vec<_> = nodes.iter().map(|node| node.spec.clone()).collect();
    let mut findings = tokio::task::spawn_blocking(move || look(&config, &specs, true))
        .await
        .expect("looking at files does not panic");
    findings.extend(dhcp::findings(&context.config).await);
    findings.extend(nodes::bmcs(&nodes));
    Ok(findings)
}
