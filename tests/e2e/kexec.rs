//! A switch without the firmware, by real kernels: there and back again, with what a user wrote, and
//! without a word to the BMC. For the one next to nothing is left, the other clears the memory.
#![expect(clippy::print_stdout, reason = "what was measured is for the one who runs it")]

use std::time::Instant;

use crate::support::{BOOT, Lab, boots};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{NodeHw, Rack, RackSpec};

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_fast_switch_there_and_back_keeps_what_was_written_and_needs_no_bmc() -> Result<()> {
    Rack::with(RackSpec::new("kexec", vec![NodeHw::default()]), |rack| {
        let lab = Lab::start(rack)?;
        lab.ok(&["overlay", "create", "alice/other"])?;
        let begun = Instant::now();
        lab.bring_up(&["node1"], "alice/work")?;
        println!("boot by the BMC: {:.1} s", begun.elapsed().as_secs_f32());
        lab.ssh("alice", "node1", "echo kept > /home/alice/file; sync")?;
        let first = boot_id(&lab)?;

        let node = lab.rack.node(1);
        let told = node.bmc.power_commands();
        fast(&lab, "alice/other")?;
        let second = boot_id(&lab)?;
        ensure!(second != first, "the same kernel runs: {first}");
        let seen = lab.ssh("alice", "node1", "cat /home/alice/file 2>/dev/null; true")?;
        ensure!(seen.is_empty(), "the other overlay has {seen:?}");

        fast(&lab, "alice/work")?;
        ensure!(boot_id(&lab)? != second, "the same kernel runs: {second}");
        let kept = lab.ssh("alice", "node1", "cat /home/alice/file")?;
        ensure!(kept == "kept\n", "the overlay has {kept:?}");
        let now = node.bmc.power_commands();
        ensure!(now == told, "a BMC was told: {told:?}, then {now:?}: {:?}", node.bmc.commands());
        for boot in boots(&lab, "node1")?.iter().filter(|boot| boot["cause"] == "kexec") {
            println!("{}", times(boot));
        }

        another_tenant_is_booted_by_the_bmc(&lab)
    })
}

/// What `/proc` says of the kernel that runs: another one at each start.
fn boot_id(lab: &Lab<'_>) -> Result<String> {
    let text = lab.ssh("alice", "node1", "cat /proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

fn fast(lab: &Lab<'_>, overlay: &str) -> Result<()> {
    let switch = ["switch", "node1", "--overlay", overlay, "--fast", "--force"];
    let plan = lab.json(&[&switch[..], &["--dry-run"]].concat())?;
    ensure!(plan["nodes"][0]["action"] == "kexec", "{plan}");
    let count = boots(lab, "node1")?.len();
    let begun = Instant::now();
    lab.ok(&switch)?;
    lab.rack.wait_for("one more boot", BOOT, || {
        boots(lab, "node1").is_ok_and(|all| all.len() > count)
    })?;
    lab.wait_ready("node1")
        .with_context(|| format!("its boots are {:?}", boots(lab, "node1").unwrap_or_default()))?;
    println!("without firmware: {:.1} s", begun.elapsed().as_secs_f32());
    let all = boots(lab, "node1")?;
    ensure!(all.len() == count + 1, "it was booted {} times more", all.len() - count);
    Ok(())
}

/// Where the seconds of a boot went.
fn times(boot: &Value) -> String {
    let stages = boot["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stages = stages.iter().map(|stage| {
        let name = stage["stage"].as_str().unwrap_or_default();
        format!("{name} {:.1} s", stage["seconds"].as_f64().unwrap_or_default())
    });
    format!("{}: {}", boot["cause"], stages.collect::<Vec<_>>().join(", "))
}

fn another_tenant_is_booted_by_the_bmc(lab: &Lab<'_>) -> Result<()> {
    let node = lab.rack.node(1);
    let before = node.bmc.power_commands();
    let switch = ["switch", "node1", "--overlay", "bob/work", "--fast", "--force"];
    let plan = lab.json(&[&switch[..], &["--dry-run"]].concat())?;
    let notes = plan["nodes"][0]["notes"].to_string();
    ensure!(plan["nodes"][0]["action"] == "reboot" && notes.contains("somebody else"), "{plan}");
    lab.ok(&switch)?;
    lab.rack
        .wait_for("its BMC to be told", BOOT, || node.bmc.power_commands().on == before.on + 1)?;
    lab.wait_ready("node1")
}
