//! haasd may die at any instant: the store keeps all that the next start needs, and no node is told
//! anything twice.
#![expect(clippy::print_stdout, reason = "what was measured is for the one who runs it")]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use haas_api::operation::OperationState;
use tests::{Haasd, wait_for};

use crate::rack::{Controller, LONG, PATIENT, SimRack, copy_tree, seed};

const ABORT: &str = "HAAS_ABORT_AFTER_COMMIT";

/// Racks that share the work: a crash test mostly waits.
const LANES: usize = 4;

/// No switch of two nodes commits more often than this.
const MOST: usize = 400;

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_crash_after_any_commit_of_a_switch_loses_and_repeats_nothing() -> Result<()> {
    seed()?;
    let begun = Instant::now();
    let failed = AtomicBool::new(false);
    let tried: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let failed = &failed;
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                scope.spawn(move || {
                    let ended = run_lane(lane, failed);
                    failed.fetch_or(ended.is_err(), Ordering::Relaxed);
                    ended
                })
            })
            .collect();
        let join = |lane: std::thread::ScopedJoinHandle<'_, Result<_>>| {
            lane.join().unwrap_or_else(|_| bail!("a lane panicked"))
        };
        lanes.into_iter().map(join).collect::<Result<_>>()
    })?;
    let (off_on, away) = tried.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    println!(
        "crashed after {off_on} commits of a switch from off, {away} of a switch away, in {:.0} s",
        begun.elapsed().as_secs_f32()
    );
    ensure!(off_on > 20 && away > 20, "a switch cannot have so few commits: {tried:?}");
    Ok(())
}

/// Every k of this lane, first from off to on, then from one overlay to the other. Returns how many
/// crashes each of the two had.
fn run_lane(lane: usize, failed: &AtomicBool) -> Result<(usize, usize)> {
    let sim = SimRack::start(&format!("crash{lane}"), 2)?;
    let mut haas = sim.haasd(PATIENT)?;
    haas.haasd.stop()?;
    let off = Off { sim: &sim, state: sim.rack.dir().join("off-state") };
    copy_tree(&sim.rack.dir().join("state"), &off.state)?;

    let mut crashes = (0, 0);
    let go_on = |_: &usize| !failed.load(Ordering::Relaxed);
    for k in (1 + lane..MOST).step_by(LANES).take_while(go_on) {
        haas.haasd.kill()?;
        off.restore()?;
        if !crashed_in_a_switch(&mut haas, k, "a").with_context(|| format!("off to on, k={k}"))? {
            break;
        }
        crashes.0 += 1;
    }
    // The nodes run overlay a now.
    for (round, k) in (1 + lane..MOST).step_by(LANES).take_while(go_on).enumerate() {
        haas.haasd.kill()?;
        sim.forget_power()?;
        let overlay = ["b", "a"][round % 2];
        if !crashed_in_a_switch(&mut haas, k, overlay).with_context(|| format!("away, k={k}"))? {
            break;
        }
        crashes.1 += 1;
    }
    Ok(crashes)
}

/// Both nodes off, managed, never booted.
struct Off<'a> {
    sim: &'a SimRack,
    state: PathBuf,
}

impl Off<'_> {
    fn restore(&self) -> Result<()> {
        self.sim.all_off()?;
        self.sim.forget_power()?;
        for node in &self.sim.nodes {
            let _ = fs::remove_file(node.path().join("disk.json"));
        }
        copy_tree(&self.state, &self.sim.rack.dir().join("state"))
    }
}

/// Switches both nodes with a haasd that aborts after its k-th commit, starts haasd again and waits
/// for the switch. False if haasd survived it all.
fn crashed_in_a_switch(haas: &mut Controller<'_>, k: usize, overlay: &str) -> Result<bool> {
    haas.haasd.set_env(ABORT, &k.to_string());
    haas.haasd.launch_unready()?;
    let answered = if ready_or_dead(&mut haas.haasd)? {
        // The answer may be lost in the crash.
        haas.switch("n[1-2]", overlay)?.ok()
    } else {
        None
    };
    if let Some(operation) = &answered
        && survives(haas, &operation.id)?
    {
        // It may abort any moment now, which is no crash in a switch any more.
        told_once(haas)?;
        return Ok(false);
    }
    haas.haasd.wait_exit(LONG)?;
    haas.haasd.unset_env(ABORT);
    haas.haasd.launch()?;
    let running = haas.api(async |client| client.operations().await)??;
    let written = running.into_iter().find(|o| match &answered {
        Some(operation) => o.id == operation.id,
        None => o.state == OperationState::Running,
    });
    ensure!(answered.is_none() || written.is_some(), "an operation that was answered is lost");
    match written {
        Some(operation) => haas.done(operation)?,
        None => haas.switched("n[1-2]", overlay)?,
    };
    told_once(haas)?;
    Ok(true)
}

/// Checks that each BMC was told to switch on, once, and nothing else.
fn told_once(haas: &Controller<'_>) -> Result<()> {
    for (verb, expected) in [("on", 1), ("off", 0), ("soft", 0), ("bootdev-pxe", 1)] {
        let counts = haas.sim.count(verb);
        ensure!(
            counts.iter().all(|count| *count == expected)
                // Setting the boot device twice does no harm, so it is not noted before it is done.
                || (verb == "bootdev-pxe" && counts.iter().all(|c| (1..=2).contains(c))),
            "{verb} was sent {counts:?} times\n{}\n{}",
            haas.sim.diaries(),
            haas.haasd.log()
        );
    }
    Ok(())
}

fn ready_or_dead(haasd: &mut Haasd<'_>) -> Result<bool> {
    let mut ready = false;
    wait_for("haasd to be ready or to die", LONG, || {
        ready = haasd.is_ready();
        ready || !haasd.is_running()
    })?;
    Ok(ready)
}

/// Whether the operation succeeds before haasd dies.
fn survives(haas: &mut Controller<'_>, id: &str) -> Result<bool> {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        if !haas.haasd.is_running() {
            return Ok(false);
        }
        match haas.api(async |client| client.operation(id).await)? {
            Ok(o) if o.state == OperationState::Succeeded => return Ok(true),
            Ok(o) if o.state == OperationState::Failed => bail!("{:?}", o.nodes),
            // It may be on its way down.
            Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(30)),
        }
    }
    bail!("the operation {id} does not end\n{}", haas.sim.diaries())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_twenty_switches_survive_kills_at_random_moments() -> Result<()> {
    const SWITCHES: usize = 20;
    let sim = SimRack::start("kill9", 4)?;
    let mut haas = sim.haasd(PATIENT)?;
    let mut random = Random(0x5eed);
    for round in 0..SWITCHES {
        let operation = haas.switch("n[1-4]", ["a", "b", "none"][round % 3])??;
        for _ in 0..1 + random.below(2) {
            std::thread::sleep(Duration::from_millis(random.below(1200)));
            haas.haasd.kill()?;
            haas.haasd.launch()?;
        }
        haas.done(operation).with_context(|| format!("switch {round}"))?;
    }
    let operations = haas.api(async |client| client.operations().await)??;
    ensure!(operations.len() == SWITCHES, "{} operations", operations.len());
    ensure!(operations.iter().all(|o| o.state == OperationState::Succeeded));
    let events = haas.events()?;
    let gapless = events.iter().zip(1..).all(|(event, seq)| event.seq == seq);
    ensure!(gapless, "events are missing");
    let ended = events.iter().filter(|e| e.kind == "operation-ended").count();
    ensure!(ended == SWITCHES, "{ended} operations are said to have ended");
    ensure!(sim.count("on") == [SWITCHES; 4], "on: {:?}", sim.count("on"));
    ensure!(sim.count("off") == [0; 4], "off: {:?}", sim.count("off"));
    Ok(())
}

/// A sequence that is the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
