//! What a user wrote stays: over a reboot that he typed, a power cut, a switch away and back, and a
//! poweroff that he typed; and two users' overlays lie side by side on one disk.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use haas_api::List;
use haas_api::node::{Node as ApiNode, NodeState};
use haas_api::operation::BootReport;
use haas_api::overlay::Overlay;
use tests::checks::{self, ALICE, BOB, ImageFile, System};
use tests::ssh::Person;
use tests::story::Story;
use tests::{Haasd, Node, NodeHw, PowerCommands, Rack, RackSpec, files, wait_for};

/// Generous: the machine may be shared, and QEMU emulates every instruction.
const BOOT: Duration = Duration::from_secs(180);

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_what_a_user_wrote_stays_whatever_happens_to_the_node() -> Result<()> {
    Rack::with(RackSpec::new("persistence", vec![NodeHw::default()]), |rack| {
        let haasd = Haasd::start(rack, &files::haasd_toml(rack)?, &files::nodes_toml(rack)?)?;
        stays(rack, &haasd)
    })
}

fn stays(rack: &Rack, haasd: &Haasd<'_>) -> Result<()> {
    let story = &Story::untold();
    let node = rack.node(1);
    let (alice, bob) = (Person::new(rack, ALICE.name)?, Person::new(rack, BOB.name)?);
    checks::build(haasd, story, "minimal")?;
    let image = ImageFile::of(haasd, rack, "minimal")?;
    for person in [&alice, &bob] {
        checks::add_user(rack, haasd, story, person)?;
    }
    for overlay in [ALICE.overlay, BOB.overlay] {
        haasd.ctl(&["overlay", "create", overlay])?.ok()?;
    }
    haasd.ctl(&["node", "manage", "node1"])?.ok()?;
    checks::switch(haasd, story, "node1", "minimal", ALICE.overlay)?;
    alice.root(node, ALICE.as_root)?;
    alice.ssh(node, ALICE.name, ALICE.as_user)?.ok()?;
    let left = System::look(rack, &alice, node)?;

    a_switch_to_what_runs_changes_nothing(haasd, node)?;
    a_reboot_that_the_user_typed(haasd, &alice, node)?;
    left.is_same(&System::look(rack, &alice, node)?).context("after a reboot")?;

    a_power_cut(haasd, &alice, node)?;
    let after_cut = System::look(rack, &alice, node)?;
    left.is_same(&after_cut).context("after a power cut, all but what was written last")?;
    left.has_identity_of(&after_cut)?;

    bob_has_the_node_meanwhile(rack, haasd, &bob, &left)?;
    checks::nobody_is_logged_in(haasd, "node1")?;
    haasd.ctl(&["rollback", "node1", "--wait"])?.ok()?;
    left.is_same(&System::look(rack, &alice, node)?).context("after a switch away and back")?;
    both_overlays_are_on_one_disk(haasd)?;

    a_poweroff_that_the_user_typed(rack, haasd, &alice, node)?;
    left.is_same(&System::look(rack, &alice, node)?).context("after a poweroff")?;

    image.is_unchanged(haasd, rack)?;
    checks::memory_is_small(haasd.memory()?.private)
}

fn a_switch_to_what_runs_changes_nothing(haasd: &Haasd<'_>, node: &Node) -> Result<()> {
    let (before, boots) = (node.bmc.power_commands(), boots(haasd)?);
    let args = ["switch", "node1", "--image", "minimal", "--overlay", ALICE.overlay, "--wait"];
    haasd.ctl(&args)?.ok()?;
    ensure!(node.bmc.power_commands() == before, "a BMC was told: {:?}", node.bmc.commands());
    ensure!(self::boots(haasd)? == boots, "the node booted");
    Ok(())
}

/// All ends in order, then the BMC is told off and on, once: the node comes back into the same system,
/// by a boot that haasd has begun.
fn a_reboot_that_the_user_typed(haasd: &Haasd<'_>, alice: &Person<'_>, node: &Node) -> Result<()> {
    let (start, boots) = (SystemTime::now(), boots(haasd)?);
    // The connection ends with the node, so that ssh's own end says nothing.
    alice.ssh(node, "root", "reboot")?;
    ready_after(haasd, boots)?;
    let told = node.bmc.power_commands_since(start);
    ensure!((told.on, told.off, told.reset, told.soft) == (1, 1, 0, 0), "{told:?}");
    Ok(())
}

/// What was synced is there; haasd sees that the node is off and boots it again.
fn a_power_cut(haasd: &Haasd<'_>, alice: &Person<'_>, node: &Node) -> Result<()> {
    let boots = boots(haasd)?;
    let write = "head -c 3000000 /dev/urandom >/var/cut.dat && sync && sha256sum /var/cut.dat";
    let written = alice.root(node, write)?;
    node.power_cut()?;
    ready_after(haasd, boots)?;
    let found = alice.root(node, "sha256sum /var/cut.dat")?;
    ensure!(found == written, "synced before the power cut: {written}, found: {found}");
    Ok(())
}

fn bob_has_the_node_meanwhile(
    rack: &Rack,
    haasd: &Haasd<'_>,
    bob: &Person<'_>,
    alices: &System,
) -> Result<()> {
    let node = rack.node(1);
    checks::switch(haasd, &Story::untold(), "node1", "minimal", BOB.overlay)?;
    let seen = bob.root(node, "ls -d /etc/lab.conf /home/alice /var/cut.dat 2>/dev/null; true")?;
    ensure!(seen.is_empty(), "bob sees {seen}");
    alices.is_another(&System::look(rack, bob, node)?)?;
    bob.root(node, BOB.as_root)?;
    bob.ssh(node, BOB.name, BOB.as_user)?.ok().map(drop)
}

fn both_overlays_are_on_one_disk(haasd: &Haasd<'_>) -> Result<()> {
    let overlays: List<Overlay> = haasd.ctl_json(&["overlay", "list"])?;
    for name in [ALICE.overlay, BOB.overlay] {
        let is_it = |o: &&Overlay| format!("{}/{}", o.owner, o.name) == name;
        let overlay = overlays.items.iter().find(is_it).context(name)?;
        let [shard] = &overlay.shards[..] else { anyhow::bail!("{name}: {:?}", overlay.shards) };
        ensure!((shard.node.as_str(), shard.rank) == ("node1", 0), "{name}: {shard:?}");
        ensure!(shard.bytes.is_some_and(|bytes| bytes > 4096), "{name}: {shard:?}");
    }
    Ok(())
}

/// It stays off, since a person wanted it so, until `power on`.
fn a_poweroff_that_the_user_typed(
    rack: &Rack,
    haasd: &Haasd<'_>,
    alice: &Person<'_>,
    node: &Node,
) -> Result<()> {
    let (start, boots) = (SystemTime::now(), boots(haasd)?);
    alice.ssh(node, "root", "poweroff")?;
    node.wait_off(BOOT)?;
    rack.wait_for("haasd to say that it was shut down from inside", BOOT, || {
        show(haasd).is_ok_and(|node| node.reason.contains("shut down from inside"))
    })?;
    // Whatever wakes the reconciler must leave it so.
    haasd.reload();
    haasd.ctl(&["node", "list"])?.ok()?;
    ensure!(node.bmc.power_commands_since(start) == PowerCommands::default(), "it was told");
    ensure!(!node.is_on()?, "it was switched on again");
    haasd.ctl(&["power", "on", "node1", "--wait"])?.ok()?;
    ready_after(haasd, boots)
}

fn boots(haasd: &Haasd<'_>) -> Result<usize> {
    let boots: List<BootReport> = haasd.ctl_json(&["node", "boots", "node1"])?;
    Ok(boots.items.len())
}

fn show(haasd: &Haasd<'_>) -> Result<ApiNode> {
    haasd.ctl_json(&["node", "show", "node1"])
}

/// Waits until the node has booted once more and is ready.
fn ready_after(haasd: &Haasd<'_>, boots: usize) -> Result<()> {
    wait_for("node1 to boot again and be ready", BOOT, || {
        self::boots(haasd).is_ok_and(|now| now > boots)
            && show(haasd).is_ok_and(|node| node.state == NodeState::Ready)
    })
}
