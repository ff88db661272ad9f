//! A node that runs another image than the wanted one is never ready, however well it runs.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use controller::tokens::MasterKey;
use haas_api::List;
use haas_api::image::Image;
use haas_api::node::{Node, NodeState};
use haas_api::operation::BootReport;
use tests::checks::{self, ImageFile};
use tests::story::Story;
use tests::{Detour, Haasd, NodeHw, Rack, RackSpec, files};

/// Longer than a boot takes on a busy machine, and two tries of the login.
const BOOT: Duration = Duration::from_secs(240);

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_that_runs_another_image_is_not_ready() -> Result<()> {
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

    // The right kernel, the right name of the target, and another disk behind it: who cannot prove
    // to be haasd's target is left alone.
    let mut detour = Detour::start(rack)?;
    detour.serve(&wanted.target, &other.path, &[])?;
    let switch = ["switch", "node1", "--image", "minimal", "--overlay", "none"];
    haasd.ctl(&switch)?.ok()?;
    let node = || haasd.ctl_json::<Node>(&["node", "show", "node1"]);
    rack.wait_for("the node to refuse the other target", BOOT, || {
        node().is_ok_and(|node| node.reason.contains("authentication failed"))
    })?;

    // And one that has stolen the secrets serves a disk that is not the image's.
    let secrets = stolen_secrets(rack, haasd, &wanted.target)?;
    let options: Vec<&str> = secrets.iter().map(String::as_str).collect();
    detour.serve(&wanted.target, &other.path, &options)?;
    rack.wait_for("a fault", BOOT, || node().is_ok_and(|node| node.state == NodeState::Fault))?;
    let found = node()?;
    ensure!(found.reason.contains("the root's disk is"), "{}", found.reason);
    ensure!(!sshd_answers(rack)?, "users are let in");

    // Without the detour the same switch does what it should: nothing else was wrong.
    drop(detour);
    haasd.ctl(&[&switch[..], &["--wait", "--force"]].concat())?.ok()?;
    let node: Node = haasd.ctl_json(&["node", "show", "node1"])?;
    ensure!(node.state == NodeState::Ready, "{:?}: {}", node.state, node.reason);
    rack.wait_for("the ssh server", Duration::from_secs(60), || sshd_answers(rack).unwrap_or(false))
}

/// What haas-iscsi needs to pass for haasd's target in the boot that is under way.
fn stolen_secrets(rack: &Rack, haasd: &Haasd<'_>, target: &str) -> Result<[String; 4]> {
    let boots: List<BootReport> = haasd.ctl_json(&["node", "boots", "node1"])?;
    let boot = &boots.items.first().context("a boot is under way")?.attempt;
    let key = MasterKey::open(&rack.dir().join("state/master.key"))?;
    let file = |name: &str, secret: &str| -> Result<String> {
        let path = rack.dir().join(name);
        fs::write(&path, secret)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path.display().to_string())
    };
    let initiator = format!("iqn.2026-11.org.haas:boot.node1.{}", boot.to_lowercase());
    let (node, own) = (key.node_chap(boot), key.target_chap(boot));
    Ok([
        "--chap".to_owned(),
        format!("{initiator}:{}", file("stolen.node", node.expose())?),
        "--mutual-chap".to_owned(),
        format!("{target}:{}", file("stolen.target", own.expose())?),
    ])
}

fn sshd_answers(rack: &Rack) -> Result<bool> {
    let address = SocketAddr::new(rack.node(1).address.into(), 22);
    rack.in_netns(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
}
