//! A node that runs another image than the wanted one is never ready, however well it runs.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use haas_api::image::Image;
use haas_api::node::{Node, NodeState};
use tests::checks::{self, ImageFile};
use tests::story::Story;
use tests::{Detour, Haasd, NodeHw, Rack, RackSpec, files};

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn a_node_that_runs_another_image_is_not_ready() -> Result<()> {
    Rack::with(RackSpec::new("wrong-image", vec![NodeHw::default()]), |rack| {
        let haasd = Haasd::start(rack, &files::haasd_toml(rack)?, &files::nodes_toml(rack)?)?;
        not_ready(rack, &haasd)
    })
}

fn not_ready(rack: &Rack, haasd: &Haasd<'_>) -> Result<()> {
    let story = &Story::untold();
    checks::build(haasd, story, "minimal")?;
    checks::build(haasd, story, "tools")?;
    haasd.ctl(&["node", "manage", "node1"])?.ok()?;
    let wanted: Image = haasd.ctl_json(&["image", "show", "minimal"])?;
    let other = ImageFile::of(haasd, rack, "tools")?;

    // The right kernel, the right name of the target, and another disk behind it.
    let detour = Detour::start(rack, &wanted.target, &other.path)?;
    let switch = ["switch", "node1", "--image", "minimal", "--overlay", "none", "--wait"];
    let switched = haasd.ctl(&switch)?;
    ensure!(switched.code == Some(1), "{switched:?}");
    let said = &switched.stderr;
    ensure!(said.contains("the root's disk is"), "{said}");
    let node: Node = haasd.ctl_json(&["node", "show", "node1"])?;
    ensure!(node.state == NodeState::Fault, "{:?}: {}", node.state, node.reason);
    ensure!(!sshd_answers(rack)?, "users are let in");

    // Without the detour the same switch does what it should: nothing else was wrong.
    drop(detour);
    haasd.ctl(&[&switch[..], &["--force"]].concat())?.ok()?;
    let node: Node = haasd.ctl_json(&["node", "show", "node1"])?;
    ensure!(node.state == NodeState::Ready, "{:?}: {}", node.state, node.reason);
    rack.wait_for("the ssh server", Duration::from_secs(60), || sshd_answers(rack).unwrap_or(false))
}

fn sshd_answers(rack: &Rack) -> Result<bool> {
    let address = SocketAddr::new(rack.node(1).address.into(), 22);
    rack.in_netns(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
}
