//! The demos: the main job on a virtual rack of two nodes, and the switch of a whole fleet of simulated
//! nodes. Run them by `cargo xtask demo`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use haas_api::node::Node;
use haas_api::operation::{NodeProgress, Operation};
use tests::fleet::FleetRack;
use tests::story::Story;
use tests::{Haasd, Lifetime, NodeHw, Rack, RackSpec, built, checks, files, ssh, wait_for};

const USAGE: &str =
    "usage: haas-demo [--keep | --down] [--rack NAME]\n       haas-demo --sim COUNT";
/// A stage of a simulated boot that takes longer has failed: the slowest takes 20 s.
const STAGE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (mut keep, mut down, mut name) = (false, false, "demo".to_owned());
    let mut sim = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--keep" => keep = true,
            "--down" => down = true,
            "--rack" => name = args.next().context(USAGE)?,
            "--sim" => sim = Some(args.next().and_then(|n| n.parse().ok()).context(USAGE)?),
            _ => bail!(USAGE),
        }
    }
    match (keep, down, sim) {
        (false, false, Some(count)) => tell_of_a_fleet(count),
        (true, true, _) | (_, _, Some(_)) => bail!(USAGE),
        (_, true, None) => Rack::take_down(&name),
        (keep, false, None) => tell(&name, keep),
    }
}

fn tell(name: &str, keep: bool) -> Result<()> {
    let title = "haas: two bare nodes, two users, two images; and each finds his own again";
    let mut story = Story::new(title, 2 + checks::STEPS);
    let rack =
        story.step("A rack of two nodes with BMCs, all off", |story| build(story, name, keep))?;
    let haasd = story.step("The controller starts", |story| {
        let haasd = Haasd::start(&rack, &files::haasd_toml(&rack)?, &files::nodes_toml(&rack)?)?;
        let memory = haasd.memory()?.private / 1_000_000;
        story.tick(format!("haasd is ready, with {memory} MB of private memory"));
        story.haasctl(&haasd, &["node", "list"])?;
        story.tick("it knows the nodes, and touches none that it was not given");
        Ok(haasd)
    })?;
    let result = checks::main_job(&rack, &haasd, &mut story, || Ok(()));
    if keep {
        usage(&story, &rack, &haasd)?;
    }
    drop(haasd);
    if result.is_ok() {
        story.end("That was the main job.");
    }
    if keep {
        rack.leave_up()?;
    } else if result.is_err() {
        let kept = rack.keep_logs()?;
        return result.with_context(|| format!("logs and consoles are in {}", kept.display()));
    }
    result
}

fn build(story: &Story, name: &str, keep: bool) -> Result<Rack> {
    let mut spec = RackSpec::new(name, vec![NodeHw::default(); 2]);
    if keep {
        spec.lifetime = Lifetime::UntilTakenDown;
    }
    let rack = Rack::start(spec)?;
    for node in rack.nodes() {
        let (mac, bmc) = (&node.mac, node.bmc.address.ip());
        story.tick(format!("{}  NIC {mac}  BMC {bmc}  one blank disk", node.name));
    }
    story.say("QEMU emulates them: firmware, network card and disk are real code, the BMC speaks");
    story.say("real IPMI. All of it is in a network namespace; nothing leaves this machine.");
    Ok(rack)
}

/// What a person may type while the rack is up.
fn usage(story: &Story, rack: &Rack, haasd: &Haasd<'_>) -> Result<()> {
    let haasctl = built("haasctl")?;
    let programs = haasctl.parent().context("a program lies in a folder")?;
    let shell = ssh::shell_file(rack, programs, &haasd.ctl_config())?;
    story.say("\nThe rack stays up. A shell in which all commands above work as they stand there:");
    story.command(format!("ip netns exec {} bash --rcfile {}", rack.netns(), shell.display()));
    story.say("\nand in it, for example:");
    story.command("haasctl status");
    story.command("haasctl switch node1 --image tools --overlay bob/lab --wait");
    story.command("ssh bob@node1");
    story.command("haasctl rollback node1 --wait");
    story.say("\nFrom any other shell:");
    let enter = format!("ip netns exec {}", rack.netns());
    story.command(format!("export HAASCTL_CONFIG={}", haasd.ctl_config().display()));
    story.command(format!("{enter} {} status --watch", haasctl.display()));
    let key = rack.dir().join("keys/alice");
    let config = ssh::client_config(rack)?;
    story.command(format!("{enter} ssh -F {} -i {} root@node1", config.display(), key.display()));
    story.command(format!("tail -f {}", rack.node(1).console.path().display()));
    story.command(format!("tail -f {}", rack.dir().join("haasd.log").display()));
    story.say("\nTo take it down:");
    if rack.name() == "demo" {
        story.command("cargo xtask demo --down");
    } else {
        let demo = built("haas-demo")?;
        story.command(format!("{} --down --rack {}", demo.display(), rack.name()));
    }
    Ok(())
}

fn tell_of_a_fleet(count: usize) -> Result<()> {
    // Of fewer than 20 the one that is dead is more than may fail.
    ensure!((20..=2000).contains(&count), "a fleet has 20 to 2000 nodes");
    let title = format!("haas: {count} nodes, some of them bad, and a controller that is killed");
    let mut story = Story::new(&title, 4);
    let rack = Rack::start(RackSpec::new("demo-fleet", Vec::new()))?;
    let fleet = story.step("Simulated nodes with BMCs, all off", |story| {
        let fleet = FleetRack::start(&rack, count)?;
        story.tick(format!(
            "{} boot by DHCP, HTTP and iSCSI, and their BMCs speak IPMI",
            fleet.nodeset()
        ));
        let bad: Vec<String> = fleet.bad().into_iter().collect();
        story.tick(format!("dead BMCs and nodes that never boot: {}", bad.join(", ")));
        story.tick("two of a hundred are slow, and one of a thousand packets to a BMC is lost");
        Ok(fleet)
    })?;
    let mut haasd = story.step("The controller starts and builds an image", |story| {
        let haasd = fleet.haasd(STAGE)?;
        checks::build(&haasd, story, "minimal")?;
        haasd.ctl(&["node", "manage", &fleet.nodeset()])?.ok()?;
        Ok(haasd)
    })?;
    let operation: Operation =
        story.step("All are switched as one, and haasd is killed on the way", |story| {
            let nodes = fleet.nodeset();
            let switch = ["switch", &nodes, "--image", "minimal", "--overlay", "none"];
            story.haasctl(&haasd, &[&switch[..], &["--min-success", "95%"]].concat())?;
            let newest = |haasd: &Haasd<'_>| -> Result<Operation> {
                let list: haas_api::List<Operation> = haasd.ctl_json(&["operation", "list"])?;
                let id = list.items.into_iter().map(|operation| operation.id).max();
                haasd.ctl_json(&["operation", "show", &id.context("the switch is an operation")?])
            };
            let is_there = |operation: &Operation| {
                let there = operation.nodes.iter().filter(|n| n.state == NodeProgress::Prepared);
                there.count() >= count / 3
            };
            wait_for("a third of the nodes", LONG, || newest(&haasd).is_ok_and(|o| is_there(&o)))?;
            haasd.kill()?;
            story.tick("kill -9 of haasd, with a third of the nodes up and waiting for the others");
            haasd.launch()?;
            story.tick("it is back, and goes on with the switch");
            let id = newest(&haasd)?.id;
            wait_for("the end of the switch", LONG, || {
                newest(&haasd).is_ok_and(|o| o.state.is_over())
            })?;
            haasd.ctl_json(&["operation", "show", &id])
        })?;
    story.step("Users are let in on all good nodes at once; the bad ones say why", |story| {
        let failed = operation.nodes.iter().filter(|node| node.state == NodeProgress::Failed);
        let failed: Vec<&str> = failed.map(|node| node.node.as_str()).collect();
        ensure!(
            fleet
                .bad()
                .iter()
                .eq(failed.iter().copied().collect::<std::collections::BTreeSet<_>>()),
            "{:?}: {}: failed have {failed:?}",
            operation.state,
            operation.reason
        );
        for name in &failed {
            let node: Node = haasd.ctl_json(&["node", "show", name])?;
            story.tick(format!("{name}: {}", node.reason));
        }
        story.tick(format!("{} nodes serve, none by hand", count - failed.len()));
        let memory = haasd.memory()?.private / 1_000_000;
        story.tick(format!("haasd has {memory} MB of private memory"));
        Ok(())
    })?;
    story.end("That was a switch of a fleet.");
    Ok(())
}
