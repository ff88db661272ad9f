//! Who may not, on simulated nodes: machines on the boot network that take another's MAC, address, token or
//! credential, and a system on a node's own disk that poses as its agent. What is right works beside each.
//!
//! On real firmware and kernels the same and more is tried by `e2e/attacks.rs`.

use anyhow::{Context, Result, bail, ensure};
use controller::tokens::MasterKey;
use haas_api::agent::{BootStage, HelloAuth};
use haas_api::node::NodeState;
use sim::{Bmc, Called};
use tests::impostor::{Impostor, script};

use crate::rack::{Controller, LONG, PATIENT, QUICK, SimRack, behave, ip, mac, node_netns};

/// Whoever is on the wire at the place of a node.
fn at(haas: &Controller<'_>, number: usize) -> Result<Impostor> {
    let rack = &haas.sim.rack;
    Impostor::at(rack, &node_netns(&rack.netns(), number))
}

/// The token of a node's newest boot.
fn token(haas: &Controller<'_>, node: &str) -> Result<String> {
    let name = node.parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    let boots = haas.api(async |client| client.boots(&name).await)??;
    let newest = boots.into_iter().map(|boot| boot.attempt).max();
    let key = MasterKey::open(&haas.sim.rack.dir().join("state/master.key"))?;
    Ok(key.boot_token(&newest.with_context(|| format!("{node} has not booted"))?).expose().clone())
}

/// Waits until a node's process has done this.
fn did(haas: &Controller<'_>, number: usize, what: &str) -> Result<()> {
    haas.until(&format!("n{number}: {what}"), LONG, || {
        Ok(haas.sim.node(number).diary().contains(what).then_some(()))
    })
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_boot_whose_window_is_over_opens_nothing_to_its_own_node() -> Result<()> {
    let sim = SimRack::start("window", 1)?;
    behave(sim.node(1), |b| b.hangs_before = Some(BootStage::Script))?;
    let haas = sim.haasd(QUICK)?;
    let operation = haas.switch("n1", "a")??;
    did(&haas, 1, "hangs before")?;
    let (node, token) = (at(&haas, 1)?, token(&haas, "n1")?);
    let (status, body) = node.get(&script(&token))?;
    ensure!(status == "200" && body.contains("#!ipxe"), "inside of its window: {status} {body}");
    haas.over(&operation.id)?;
    ensure!(haas.node("n1")?.state == NodeState::Fault);
    for file in ["script", "kernel", "initrd"] {
        node.gets_no_script(&script(&token).replace("script", file))?;
    }
    node.is_refused(HelloAuth::Token(token), "over")
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_spoofed_mac_inside_an_open_window_learns_a_token_that_opens_nothing() -> Result<()> {
    let sim = SimRack::start("spoof", 2)?;
    let haas = sim.haasd(PATIENT)?;
    // Its firmware is slow: the window is open, and nothing of the node is on the wire.
    let cable =
        |set: &[&str]| ip(&[&["-n", &sim.rack.netns(), "link", "set", "v1"][..], set].concat());
    cable(&["nomaster"])?;
    let operation = haas.switch("n1", "a")??;
    did(&haas, 1, "powered")?;
    let stranger = at(&haas, 2)?;
    stranger.ip(&["link", "set", "eth0", "address", &mac(1)])?;
    stranger.ip(&["link", "set", "eth0", "up"])?;
    let (address, url) =
        haas.until("an answer to the stranger", LONG, || stranger.offered(&mac(1)))?;
    ensure!(address.to_string() == "10.77.0.11" && url == script(&token(&haas, "n1")?), "{url}");

    // Where it is, at an address of nobody and at that of another node, it is worth nothing.
    for own in ["10.77.0.99", "10.77.0.12"] {
        stranger.ip(&["address", "flush", "dev", "eth0"])?;
        stranger.ip(&["address", "add", &format!("{own}/24"), "dev", "eth0"])?;
        stranger.gets_no_script(&url)?;
        for file in ["kernel", "initrd"] {
            stranger.gets_no_script(&url.replace("script", file))?;
        }
        stranger.is_refused(HelloAuth::Token(token(&haas, "n1")?), "another address")?;
    }
    // And the node itself boots, since none of it has spent the token.
    stranger.ip(&["link", "set", "eth0", "down"])?;
    cable(&["master", "br0"])?;
    haas.done(operation)?;
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn an_agents_credential_opens_nothing_from_another_address() -> Result<()> {
    let sim = SimRack::start("credential", 2)?;
    behave(sim.node(1), |b| b.hangs_before = Some(BootStage::Agent))?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n2", "b")?;
    haas.switch("n1", "a")??;
    did(&haas, 1, "hangs before")?;
    // What root on a node has after it: its agent's credential, read from memory.
    let (node, other) = (at(&haas, 1)?, at(&haas, 2)?);
    let welcome = node.is_welcome(HelloAuth::Token(token(&haas, "n1")?))?;
    ensure!(welcome.plan.root.chap.is_some(), "the boot has secrets");
    let credential = HelloAuth::Credential(welcome.credential.context("for a token")?);
    match other.call(credential.clone())? {
        Called::Ended => {}
        let_in => bail!("from another node: {let_in:?}"),
    }
    ensure!(haas.haasd.log().contains("from another address"), "haasd has seen nothing of it");
    node.is_welcome(credential)?;
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_planted_system_that_poses_as_the_agent_after_a_boot_of_its_own_gets_nothing() -> Result<()> {
    let sim = SimRack::start("planted", 1)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n1", "a")?;
    let old = token(&haas, "n1")?;
    // Root has its own system started in place of ours. It has the node's MAC and address, knows the
    // token of the boot before, and speaks as firmware and agent do. Its BMC cannot be asked for a while.
    behave(sim.node(1), |b| b.bmc = Bmc::Fails)?;
    sim::power::freeze(sim.node(1))?;
    let planted = at(&haas, 1)?;
    planted.gets_no_script(&script(&old))?;
    planted.is_refused(HelloAuth::Token(old.clone()), "used before")?;
    let (_, url) = haas.until("an answer to its firmware", LONG, || planted.offered(&mac(1)))?;
    let new = token(&haas, "n1")?;
    ensure!(
        new != old && url == script(&new),
        "a boot that nobody has begun has a token of its own"
    );
    planted.is_refused(HelloAuth::Token(new.clone()), "started by itself")?;
    behave(sim.node(1), |_| {})?;
    // haasd has its BMC start the node, and what that starts is ours.
    haas.until("the node to be back", LONG, || {
        let node = haas.node("n1")?;
        Ok((node.state == NodeState::Ready && token(&haas, "n1")? != new).then_some(()))
    })?;
    planted.is_refused(HelloAuth::Token(new), "over")
}
