//! A node is ready when its checks have succeeded and a user can log in, and not before: a check that
//! succeeds late is waited for, one that does not is a fault that shows what it printed.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{NodeHw, Output, Rack, RackSpec, files};

use crate::support::{self, Lab, boots, with_lines};

/// Succeeds at its second run.
const SECOND_TRY: &str = r#"["sh", "-c", "test -e /run/haas/tried && exec echo link is up; touch /run/haas/tried; echo no link; exit 4"]"#;
/// Succeeds 20 s after its first run, long after its time is over.
const TOO_LATE: &str = r#"{ command = ["sh", "-c", "now=$(cut -d. -f1 /proc/uptime); test -e /run/haas/since || echo $now > /run/haas/since; echo disk asleep; test $now -ge $(($(cat /run/haas/since) + 20))"], within = "4s" }"#;

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_is_ready_when_its_checks_have_passed_and_its_users_can_log_in() -> Result<()> {
    Rack::with(RackSpec::new("checks", vec![NodeHw::default(); 2]), |rack| {
        let nodes = files::nodes_toml(rack)?;
        let nodes = with_lines(&nodes, "node1", &format!("ready_checks = [{SECOND_TRY}]"));
        let nodes = with_lines(&nodes, "node2", &format!("ready_checks = [{TOO_LATE}]"));
        let lab = Lab::start_with(rack, "", nodes)?;
        build_image_with_a_check(&lab)?;
        ready_means_that_users_get_in(&lab)?;
        a_check_that_fails_is_a_fault_until_it_succeeds(&lab)
    })
}

/// `minimal` with a check of its own.
fn build_image_with_a_check(lab: &Lab<'_>) -> Result<()> {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/minimal");
    let folder = lab.rack.dir().join("checked");
    Output::of(Command::new("cp").arg("-a").arg(recipe).arg(&folder))?.ok()?;
    let file = folder.join("recipe.toml");
    let text = fs::read_to_string(&file)?;
    let checks = "ready_checks = [[\"grep\", \"-q\", \"ID=haas-minimal\", \"/etc/os-release\"]]\n";
    fs::write(&file, text.replacen("\npackages", &format!("\n{checks}\npackages"), 1))?;
    let folder = folder.to_str().context("the rack's directory is plain text")?;
    lab.ok(&["image", "build", folder, "--name", "checked"])?;
    Ok(())
}

fn ready_means_that_users_get_in(lab: &Lab<'_>) -> Result<()> {
    for round in 0..3 {
        lab.ok(&[
            "switch",
            "node1",
            "--image",
            "checked",
            "--overlay",
            "alice/work",
            "--force",
            "--wait",
        ])?;
        // No retry: who waited for ready gets in at once.
        let login = Output::of(&mut lab.ssh_command("alice", "node1", "hostname")?)?;
        ensure!(login.stdout == "node1\n", "round {round}: {login:?}");
        lab.power_off("node1")?;
    }
    let node = lab.node("node1")?;
    let checks = &node["observed"]["checks"];
    ensure!(checks[0]["state"] == "passed" && checks[0]["command"][0] == "grep", "{checks}");
    ensure!(checks[1]["state"] == "passed" && checks[1]["runs"] == 2, "{checks}");
    ensure!(checks[1]["output"] == "link is up\n", "{checks}");
    let shown = lab.ok(&["node", "show", "node1"])?.stdout;
    ensure!(shown.contains("passed  2     exit code 0"), "{shown}");
    ensure!(shown.contains("\n  link is up\n"), "{shown}");
    let boot = &boots(lab, "node1")?[0];
    ensure!(boot["checks"][1]["output"] == "link is up\n", "{boot}");
    Ok(())
}

fn a_check_that_fails_is_a_fault_until_it_succeeds(lab: &Lab<'_>) -> Result<()> {
    lab.switch("node2", "alice/work")?;
    let reason =
        lab.wait_fault("node2", &["userspace", "within 4 s", "exit code 1", "disk asleep"])?;
    ensure!(reason.contains("sh -c"), "the check is not named: {reason}");
    let closed = Output::of(&mut lab.ssh_command("root", "node2", "echo in")?)?;
    ensure!(closed.code != Some(0) && closed.stdout.is_empty(), "{closed:?}");
    let shown = lab.ok(&["node", "show", "node2"])?.stdout;
    ensure!(shown.contains("failed") && shown.contains("\n  disk asleep\n"), "{shown}");
    lab.rack.wait_for("the check to succeed after all", support::SOON, || {
        lab.state("node2") == "ready"
    })?;
    ensure!(lab.ssh_any("root", "node2", "echo in")?.stdout == "in\n");
    ensure!(boots(lab, "node2")?.len() == 1, "it was not to be booted again");
    Ok(())
}
