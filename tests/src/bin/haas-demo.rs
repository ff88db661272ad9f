//! The demo: the main job on a virtual rack of two nodes. Run it by `cargo xtask demo`.

use anyhow::{Context, Result, bail};
use tests::story::Story;
use tests::{Haasd, Lifetime, NodeHw, Rack, RackSpec, built, checks, files, ssh};

const USAGE: &str = "usage: haas-demo [--keep | --down] [--rack NAME]";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (mut keep, mut down, mut name) = (false, false, "demo".to_owned());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--keep" => keep = true,
            "--down" => down = true,
            "--rack" => name = args.next().context(USAGE)?,
            _ => bail!(USAGE),
        }
    }
    match (keep, down) {
        (true, true) => bail!(USAGE),
        (_, true) => Rack::take_down(&name),
        (keep, false) => tell(&name, keep),
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
