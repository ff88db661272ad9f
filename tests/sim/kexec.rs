//! `switch --fast`: nodes start their next kernel themselves, and their BMCs are told nothing; what goes
//! wrong is what BMCs are for.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use haas_api::client::Submitted;
use haas_api::names::OverlayRef;
use haas_api::operation::{Operation, OperationState, PlannedNode, SwitchRequest};
use haas_api::overlay::NewOverlay;
use haas_api::user::{NewUser, Role, UserKind};
use sim::Kexec;

use crate::rack::{Controller, LONG, PATIENT, QUICK, SimRack, behave, request};

/// What a BMC can be told that changes a node's power.
const DEEDS: [&str; 4] = ["on", "off", "soft", "bootdev-pxe"];

fn fast(nodeset: &str, overlay: &str) -> Result<SwitchRequest> {
    Ok(SwitchRequest { fast: true, ..request(nodeset, overlay)? })
}

/// What a dry run says of each node.
fn planned(haas: &Controller<'_>, wanted: SwitchRequest) -> Result<Vec<PlannedNode>> {
    let wanted = SwitchRequest { dry_run: true, ..wanted };
    match haas.api(async |client| client.switch(&wanted).await)?? {
        Submitted::Plan(plan) => Ok(plan.nodes),
        Submitted::Operation(started) => anyhow::bail!("a dry run has started {started:?}"),
    }
}

fn switched_fast(haas: &Controller<'_>, nodeset: &str, overlay: &str) -> Result<Operation> {
    haas.done(haas.switch_as(fast(nodeset, overlay)?)??)
}

/// How often the BMC of each node was told to change something.
fn deeds(sim: &SimRack) -> Vec<usize> {
    let mut all = vec![0; sim.nodes.len()];
    for verb in DEEDS {
        for (sum, count) in all.iter_mut().zip(sim.count(verb)) {
            *sum += count;
        }
    }
    all
}

/// A rack whose nodes run `a` and can start their next kernel, as far as `kexec` says.
fn start(name: &str, kexec: &[Kexec]) -> Result<SimRack> {
    let sim = SimRack::start(name, kexec.len())?;
    for (node, kexec) in sim.nodes.iter().zip(kexec) {
        behave(node, |b| b.kexec = *kexec)?;
    }
    Ok(sim)
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_fast_switch_tells_no_bmc_anything_and_old_agents_are_booted_as_ever() -> Result<()> {
    let sim = start("kexec", &[Kexec::Works, Kexec::Works, Kexec::Unknown])?;
    let mut haas = sim.haasd(PATIENT)?;
    haas.switched("n[1-3]", "a")?;
    let plan = planned(&haas, fast("n[1-3]", "b")?)?;
    let actions: Vec<&str> = plan.iter().map(|node| node.action.as_str()).collect();
    ensure!(actions == ["kexec", "kexec", "reboot"], "{plan:?}");
    let why = plan[2].notes.last().context("it says why")?;
    ensure!(why.contains("earlier version"), "{plan:?}");

    sim.forget_power()?;
    switched_fast(&haas, "n[1-3]", "b")?;
    let told = deeds(&sim);
    ensure!(told[..2] == [0, 0] && told[2] > 0, "{told:?}\n{}", sim.diaries());
    for number in [1, 2] {
        let diary = sim.node(number).diary();
        ensure!(diary.matches("starts its next kernel").count() == 1, "n{number}\n{diary}");
        ensure!(diary.matches("powered").count() == 1, "n{number}\n{diary}");
        let node = haas.node(&format!("n{number}"))?;
        let overlay = node.desired.context("it is switched")?.overlay;
        ensure!(overlay.as_deref() == Some("admin/b"), "n{number} has {overlay:?}");
    }
    // And once more, from a system that was itself started so; haasd is killed meanwhile.
    let back = haas.switch_as(fast("n[1-2]", "a")?)??;
    haas.until("the agents to be asked", LONG, || {
        let asked = haas.events()?.iter().filter(|e| e.kind == "kexec-asked").count();
        Ok((asked >= 4).then_some(()))
    })?;
    haas.haasd.kill()?;
    haas.haasd.launch()?;
    haas.done(back)?;
    ensure!(deeds(&sim)[..2] == [0, 0], "{:?}\n{}", deeds(&sim), sim.diaries());
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_kernel_that_does_not_come_or_is_refused_ends_in_a_boot_by_the_bmc() -> Result<()> {
    let sim = start("kexecbad", &[Kexec::Hangs, Kexec::Refused])?;
    let haas = sim.haasd(QUICK)?;
    haas.switched("n[1-2]", "a")?;
    sim.forget_power()?;
    // One boot is all that these limits allow: those without firmware do not count.
    switched_fast(&haas, "n[1-2]", "b")?;
    ensure!(sim.count("on") == [1, 1], "{:?}\n{}", sim.count("on"), sim.diaries());
    // What hangs is cut; what runs is ended in order.
    ensure!(sim.count("off") == [1, 0], "{:?}\n{}", sim.count("off"), sim.diaries());
    for (node, code) in [("n1", "kexec-lost"), ("n2", "kexec-failed")] {
        let events = haas.events()?;
        let is_told = events.iter().any(|event| {
            event.node.as_deref() == Some(node)
                && event.kind == "boot-failed"
                && event.data["code"].as_str() == Some(code)
        });
        ensure!(is_told, "{node} has no {code}: {events:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn another_tenants_system_is_never_started_by_what_runs() -> Result<()> {
    let sim = start("kexecwho", &[Kexec::Works])?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n1", "a")?;
    let name = "bob".parse().map_err(|e| anyhow::anyhow!("bob: {e}"))?;
    let bob = NewUser { name, kind: UserKind::Person, role: Role::User, ssh_keys: Vec::new() };
    haas.api(async |client| client.add_user(&bob).await)??;
    let overlay = NewOverlay {
        owner: Some(bob.name.clone()),
        name: "his".parse().map_err(|e| anyhow::anyhow!("his: {e}"))?,
    };
    haas.api(async |client| client.new_overlay(&overlay).await)??;
    let his: OverlayRef = "bob/his".parse().map_err(|e| anyhow::anyhow!("bob/his: {e}"))?;
    let wanted = SwitchRequest { overlay: Some(his), ..fast("n1", "a")? };
    let plan = planned(&haas, wanted.clone())?;
    ensure!(plan[0].action == "reboot", "{plan:?}");
    sim.forget_power()?;
    let operation = haas.done(haas.switch_as(wanted)??)?;
    ensure!(operation.state == OperationState::Succeeded, "{operation:?}");
    ensure!(sim.count("on") == [1], "{:?}", sim.count("on"));
    ensure!(!sim.node(1).diary().contains("next kernel"), "{}", sim.diaries());
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_drain_hook_puts_the_end_off_and_its_no_leaves_the_node_as_it_was() -> Result<()> {
    let sim = SimRack::start("drainhook", 2)?;
    let (hook, log) = (sim.rack.dir().join("drain"), sim.rack.dir().join("drain.log"));
    let says = |text: &str| -> Result<()> {
        let new = hook.with_extension("new");
        fs::write(&new, format!("#!/bin/sh\necho \"$*\" >> {}\n{text}\n", log.display()))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o700))?;
        Ok(fs::rename(&new, &hook)?)
    };
    says("test $1 = n1 && exit 0; echo 2 jobs >&2; exit 75")?;
    let config = format!("{PATIENT}\n[drain_hook]\ncommand = [{hook:?}]\nagain = \"1s\"\n");
    let mut haas = sim.haasd(&config)?;
    haas.switched("n[1-2]", "a")?;
    ensure!(!log.exists(), "nothing ran there");
    sim.forget_power()?;
    let begun = haas.switch("n[1-2]", "b")??;
    haas.until("n2 to be put off, and n1 to be there", LONG, || {
        let now = haas.api(async |client| client.operation(&begun.id).await)??;
        let there = now.nodes[0].state == haas_api::operation::NodeProgress::Succeeded;
        Ok((there && now.nodes[1].reason.contains("2 jobs")).then_some(()))
    })?;
    ensure!(deeds(&sim)[1] == 0, "{:?}", deeds(&sim));
    // It is asked on by the next haasd, and what it says then holds.
    haas.haasd.kill()?;
    says("echo no >&2; exit 1")?;
    haas.haasd.launch()?;
    let operation = haas.over(&begun.id)?;
    ensure!(operation.state == OperationState::Failed, "{operation:?}");
    let failure = operation.nodes[1].failure.as_deref().unwrap_or_default();
    ensure!(failure.contains("drain_hook") && failure.contains("no"), "{operation:?}");
    ensure!(deeds(&sim)[1] == 0, "{:?}\n{}", deeds(&sim), sim.diaries());
    let runs = haas.node("n2")?.desired.context("it is switched")?.overlay;
    ensure!(runs.as_deref() == Some("admin/a"), "n2 has {runs:?}");
    let called = fs::read_to_string(&log)?;
    ensure!(
        called.contains("n1 admin switch\n") && called.contains("n2 admin switch\n"),
        "{called}"
    );
    Ok(())
}
