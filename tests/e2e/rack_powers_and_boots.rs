//! The rack itself keeps its promises: BMCs power real firmware, and nothing is left behind.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{
    Content, DiskHw, DiskModel, Lifetime, NicModel, NodeHw, OldOs, PASSWORD, PowerCommands, Rack,
    RackSpec, spawn, wait_for,
};

/// Generous: the machine may be shared, and QEMU emulates every instruction.
const BOOT: Duration = Duration::from_secs(90);

fn node(then: OldOs) -> NodeHw {
    let content = Content::OldOs { marker: "OLD-OS-RUNS".into(), then };
    NodeHw { disks: vec![DiskHw { content, ..DiskHw::default() }], ..NodeHw::default() }
}

/// Processes that have `needle` on their command line.
fn processes_with(needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(needle) {
            found.push(line);
        }
    }
    found
}

fn nothing_is_left_of(dir: &Path, netns: &str) -> Result<()> {
    let needle = dir.to_string_lossy().into_owned();
    wait_for(&format!("no process of {needle}"), Duration::from_secs(20), || {
        processes_with(&needle).is_empty()
    })?;
    ensure!(!dir.exists(), "{needle} is still there");
    ensure!(!Path::new("/run/netns").join(netns).exists(), "{netns} is still there");
    Ok(())
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn a_node_starts_what_its_bmc_says_and_every_command_is_counted() -> Result<()> {
    let mut e1000 = node(OldOs::Hangs);
    e1000.nics = vec![NicModel::E1000];
    e1000.disks[0].model = DiskModel::Ahci;
    let mut place = None;
    Rack::with(RackSpec::new("powers", vec![node(OldOs::Hangs), e1000]), |rack| {
        place = Some((rack.dir().to_owned(), rack.netns()));
        powers(rack)
    })?;
    let (dir, netns) = place.context("the rack was up")?;
    nothing_is_left_of(&dir, &netns)
}

fn powers(rack: &Rack) -> Result<()> {
    let untouched = rack.node(1).disks[0].fingerprint()?;

    for node in rack.nodes() {
        ensure!(!node.is_on()?, "{} is on at first", node.name);
        node.power_on()?;
        ensure!(node.is_on()?);
    }
    for node in rack.nodes() {
        node.console.wait_for("OLD-OS-RUNS", Default::default(), BOOT)?;
    }

    // Told so once, it starts from the network once.
    let node = rack.node(1);
    let mark = node.console.mark();
    node.boot_from_network()?;
    node.bmc.ipmitool(&["chassis", "power", "cycle"])?;
    rack.wait_for("iPXE to send packets", BOOT, || {
        node.traffic().is_ok_and(|traffic| traffic.sent_packets > 0)
    })?;
    node.console.wait_for("iPXE", mark, BOOT)?;
    ensure!(!node.console.since(mark).contains("OLD-OS-RUNS"), "the disk was tried first");
    let mark = node.console.mark();
    node.bmc.ipmitool(&["chassis", "power", "reset"])?;
    node.console.wait_for("OLD-OS-RUNS", mark, BOOT)?;

    // A hung system does not hear the power button.
    node.bmc.ipmitool(&["chassis", "power", "soft"])?;
    ensure!(node.is_on()?);
    node.power_off()?;
    let expected = PowerCommands { on: 2, off: 2, reset: 1, soft: 1, boot_device: 1 };
    ensure!(node.bmc.power_commands() == expected, "{:?}", node.bmc.commands());
    ensure!(rack.node(2).bmc.power_commands() == PowerCommands { on: 1, ..Default::default() });
    ensure!(node.disks[0].fingerprint()? == untouched, "the disk was written to");
    Ok(())
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn a_guest_that_powers_off_is_off_and_one_that_reboots_obeys_its_bmc_again() -> Result<()> {
    let nodes =
        vec![node(OldOs::PowersOff), node(OldOs::ObeysThePowerButton), node(OldOs::Reboots)];
    Rack::with(RackSpec::new("guests", nodes), guests)
}

fn guests(rack: &Rack) -> Result<()> {
    for node in rack.nodes() {
        node.power_on()?;
    }
    rack.node(1).console.wait_for("OLD-OS-RUNS", Default::default(), BOOT)?;
    rack.node(1).wait_off(BOOT)?;

    let obedient = rack.node(2);
    obedient.console.wait_for("OLD-OS-RUNS", Default::default(), BOOT)?;
    // It enables the button just after it has printed, and may miss the first press.
    rack.wait_for("the power button to be heard", BOOT, || {
        let pressed = obedient.bmc.ipmitool(&["chassis", "power", "soft"]).is_ok();
        pressed && matches!(obedient.is_on(), Ok(false))
    })?;

    let restless = rack.node(3);
    rack.wait_for("two boots from disk", BOOT, || {
        restless.console.text().matches("OLD-OS-RUNS").count() >= 2
    })?;
    let mark = restless.console.mark();
    restless.boot_from_network()?;
    restless.console.wait_for("boot device pxe", mark, BOOT)?;
    ensure!(restless.is_on()?, "a reboot is no power off");
    ensure!(restless.bmc.power_commands().on == 1, "no power command was needed");
    Ok(())
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn faults_come_on_demand_and_go() -> Result<()> {
    Rack::with(RackSpec::new("faults", vec![node(OldOs::Hangs)]), faults)
}

fn faults(rack: &Rack) -> Result<()> {
    let node = rack.node(1);
    let status = ["-N", "1", "-R", "1", "chassis", "power", "status"];
    node.bmc.silence();
    ensure!(node.bmc.ipmitool(&status).is_err(), "a silent BMC answered");
    node.bmc.resume();
    rack.wait_for("the BMC to answer again", BOOT, || node.bmc.ipmitool(&status).is_ok())?;
    node.bmc.unplug();
    ensure!(node.bmc.ipmitool(&status).is_err(), "a BMC without power answered");
    node.bmc.plug_in()?;

    node.boot_from_network()?;
    node.power_on()?;
    node.bmc.unplug();
    node.bmc.plug_in().context("the node must not hold its BMC's port")?;
    ensure!(node.is_on()?, "the BMC's death ended the node");
    rack.wait_for("the node to send packets", BOOT, || {
        node.traffic().is_ok_and(|traffic| traffic.sent_packets > 0)
    })?;
    node.cut_link()?;
    node.mend_link()?;
    node.power_cut()?;
    ensure!(!node.is_on()?, "the node survived a power cut");
    ensure!(node.bmc.power_commands().off == 0, "a power cut is no command");

    node.disks[0].replace(&Content::OldOs { marker: "ANOTHER".into(), then: OldOs::Hangs })?;
    node.power_on()?;
    node.console.wait_for("ANOTHER", Default::default(), BOOT)?;
    node.power_off()?;

    let slow = Duration::from_millis(2500);
    node.bmc.slow_down(slow)?;
    let start = std::time::Instant::now();
    // ipmitool may give up on it, which is the point.
    let _ = node.bmc.ipmitool(&["chassis", "power", "on"]);
    rack.wait_for("the slow BMC to do it", BOOT, || matches!(node.is_on(), Ok(true)))?;
    ensure!(start.elapsed() >= slow);
    Ok(())
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn the_console_is_served_over_lan_across_power_cycles() -> Result<()> {
    Rack::with(RackSpec::new("console", vec![node(OldOs::Hangs)]), |rack| {
        let node = rack.node(1);
        node.power_on()?;
        node.console.wait_for("OLD-OS-RUNS", Default::default(), BOOT)?;
        let seen = rack.dir().join("sol.log");
        let ipmitool = node.bmc.ipmitool_command(&["sol", "activate"]);
        let mut line = ipmitool.get_program().to_string_lossy().into_owned();
        ipmitool.get_args().for_each(|arg| line = format!("{line} {}", arg.to_string_lossy()));
        // ipmitool wants a terminal here, which script(1) gives it.
        let mut command = rack.command("script");
        command.args(["-q", "-f", "-c", &line]).arg(&seen).env("IPMI_PASSWORD", PASSWORD);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut sol = spawn(command)?;
        let shown = |text: &str| std::fs::read_to_string(&seen).is_ok_and(|all| all.contains(text));
        let result = rack
            .wait_for("the SOL session", BOOT, || shown("SOL Session operational"))
            .and_then(|()| node.bmc.ipmitool(&["chassis", "power", "cycle"]))
            .and_then(|_| rack.wait_for("the marker over LAN", BOOT, || shown("OLD-OS-RUNS")));
        sol.kill()?;
        sol.wait()?;
        result
    })
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn a_killed_test_leaves_no_process_and_the_next_start_cleans_the_rest() -> Result<()> {
    let me = std::env::current_exe()?;
    let mut test = Command::new(me);
    test.args(["--ignored", "--exact", "rack_powers_and_boots::helper_that_waits_to_be_killed"]);
    test.env("HAAS_TEST_KILLED_RACK", "1").stdout(Stdio::null()).stderr(Stdio::null());
    let mut test = test.spawn()?;
    let dir = std::env::temp_dir().join("haas-rack-killed");
    let needle = dir.to_string_lossy().into_owned();
    let up = wait_for("the other test's node to run", BOOT, || {
        dir.join("up").exists() && processes_with(&needle).iter().any(|p| p.contains("qemu"))
    });
    test.kill()?;
    test.wait()?;
    up?;
    wait_for("all processes of the killed test to end", Duration::from_secs(20), || {
        processes_with(&needle).is_empty()
    })?;
    ensure!(dir.exists(), "the killed test cleaned up after all; this test proves nothing");
    let rack = Rack::start(RackSpec::new("killed", vec![node(OldOs::Hangs)]))?;
    ensure!(!dir.join("up").exists(), "the old work directory is in use again");
    let netns = rack.netns();
    drop(rack);
    nothing_is_left_of(&dir, &netns)
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn a_failed_test_says_what_the_console_showed_and_keeps_it() -> Result<()> {
    let spec = RackSpec::new("fails", vec![node(OldOs::Hangs)]);
    let failed = Rack::with(spec, |rack| {
        rack.node(1).power_on()?;
        rack.node(1).console.wait_for("OLD-OS-RUNS", Default::default(), BOOT)?;
        rack.wait_for("a miracle", Duration::from_millis(10), || false)
    });
    let message = format!("{:#}", failed.err().context("the miracle happened")?);
    ensure!(message.contains("a miracle") && message.contains("OLD-OS-RUNS"), "{message}");
    let kept = message.split(" kept in ").nth(1).and_then(|rest| rest.split(": ").next());
    let kept = Path::new(kept.context("no place is named")?);
    ensure!(std::fs::read_to_string(kept.join("node1.serial"))?.contains("OLD-OS-RUNS"));
    Ok(std::fs::remove_dir_all(kept)?)
}

/// Not a test by itself: the process that the test above kills.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn helper_that_waits_to_be_killed() -> Result<()> {
    if std::env::var_os("HAAS_TEST_KILLED_RACK").is_none() {
        return Ok(());
    }
    let rack = Rack::start(RackSpec::new("killed", vec![node(OldOs::Hangs)]))?;
    rack.node(1).power_on()?;
    std::fs::write(rack.dir().join("up"), "")?;
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn a_rack_that_is_left_up_stays_until_it_is_taken_down() -> Result<()> {
    let mut spec = RackSpec::new("stays", vec![node(OldOs::Hangs)]);
    spec.lifetime = Lifetime::UntilTakenDown;
    let rack = Rack::start(spec)?;
    rack.node(1).power_on()?;
    let (dir, netns) = (rack.dir().to_owned(), rack.netns());
    rack.node(1).console.wait_for("OLD-OS-RUNS", Default::default(), BOOT)?;
    rack.leave_up()?;
    ensure!(processes_with(&dir.to_string_lossy()).iter().any(|p| p.contains("qemu")));
    Rack::take_down("stays")?;
    nothing_is_left_of(&dir, &netns)
}
