//! Many cold boots on a bad network, with a controller that comes and goes and power that fails at
//! any moment: each node comes up by itself, and has all that was synced to its overlay.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tests::ssh::Person;
use tests::{Firmware, Node, NodeHw, Rack, RackSpec, files, wait_for, wait_some};

use crate::cold_ledger::Ledger;
use crate::support::{self, Lab};

/// Of the packets of each protocol, in each direction.
const LOSS_PERCENT: u32 = 5;
/// A boot that fails is tried again by haasd itself, which takes its time.
const BOOT: Duration = Duration::from_secs(1800);
/// From a power cut to haasd switching the node on again: the agent is silent for a while first.
const SEEN: Duration = Duration::from_secs(300);
/// The machine may be shared.
const LOGIN: Duration = Duration::from_secs(120);

/// Random decisions, the same for the same seed: splitmix64.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    fn within(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_millis()).unwrap_or(u64::MAX);
        from + Duration::from_millis(self.next() % span.max(1))
    }
}

/// What all nodes' lives share.
#[derive(Debug)]
struct Run<'r> {
    rack: &'r Rack,
    user: Person<'r>,
    goal: usize,
    begun: AtomicUsize,
    done: AtomicUsize,
    /// Some node failed, or all are done.
    over: AtomicBool,
}

impl Run<'_> {
    fn goes_on(&self) -> Result<()> {
        ensure!(!self.over.load(Ordering::Relaxed), "another node failed");
        Ok(())
    }
}

/// What one node went through.
#[derive(Debug, Default)]
struct Life {
    /// Seconds from each power-on to the first login.
    to_ssh: Vec<f32>,
    cuts_running: usize,
    cuts_booting: usize,
    /// Synced records that were looked for after a boot, and found.
    verified: usize,
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_two_hundred_cold_boots_on_a_bad_network_need_no_hand_and_lose_nothing() -> Result<()> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seed = support::number("HAAS_SEED", clock)?;
    let goal = support::number("HAAS_COLD_BOOTS", 200)?;
    writeln!(io::stderr(), "{goal} cold boots, HAAS_SEED={seed}")?;
    let mut nodes = vec![NodeHw::default(); 8];
    // iPXE on the others' cards needs no TFTP.
    nodes[7].firmware = Firmware::UefiPxe;
    Rack::with(RackSpec::new("cold-boots", nodes), |rack| {
        // Every cut is followed by a boot that nobody asks for.
        let mut lab =
            Lab::start_with(rack, "\n[power]\nauto_limit = 10_000\n", files::nodes_toml(rack)?)?;
        let user = Person::new(rack, "carol")?;
        let key = user.public_key();
        lab.ok(&["user", "add", "carol", "--keys", key.to_str().context("plain text")?])?;
        lab.ok(&["overlay", "create", "carol/ledger"])?;
        rack.lose(LOSS_PERCENT)?;
        let (begun, done, over) = Default::default();
        let run = Run { rack, user, goal, begun, done, over };
        let start = SystemTime::now();
        lab.switch("node[1-8]", "carol/ledger")?;
        let (results, restarts) = live(&run, &mut lab, seed, start);
        let (lives, results): (Vec<Life>, Vec<Result<()>>) = results.into_iter().unzip();
        let restarts = restarts?;
        let told = tell(&lab, &lives, restarts);
        // The first error is the cause: the others end because of it.
        let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| format!("{error:#}").contains("another node failed"));
        errors.into_iter().next().map_or(told, Err)
    })
}

type Lives = Vec<(Life, Result<()>)>;

/// Runs all nodes, and restarts haasd meanwhile.
fn live(run: &Run<'_>, lab: &mut Lab<'_>, seed: u64, start: SystemTime) -> (Lives, Result<usize>) {
    thread::scope(|scope| {
        let nodes: Vec<_> = (1..)
            .zip(run.rack.nodes())
            .map(|(number, node)| {
                scope.spawn(move || {
                    let mut life = Life::default();
                    let result = one_life(run, node, Dice(seed + number), start, &mut life);
                    run.over.fetch_or(result.is_err(), Ordering::Relaxed);
                    (life, result.with_context(|| node.name.clone()))
                })
            })
            .collect();
        let restarts = scope.spawn(move || {
            let result = restart(run, lab, Dice(seed)).context("haasd was restarted");
            run.over.fetch_or(result.is_err(), Ordering::Relaxed);
            result
        });
        let lives = nodes.into_iter().map(join).collect();
        run.over.store(true, Ordering::Relaxed);
        (lives, join(restarts))
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Kills or stops haasd at random moments, and starts it again. Returns how often.
fn restart(run: &Run<'_>, lab: &mut Lab<'_>, mut dice: Dice) -> Result<usize> {
    let mut restarts = 0;
    loop {
        let pause = dice.within(Duration::from_secs(15), Duration::from_secs(90));
        if wait_for("the end", pause, || run.over.load(Ordering::Relaxed)).is_ok() {
            return Ok(restarts);
        }
        if dice.one_in(3) {
            lab.haasd.stop()?;
        } else {
            lab.haasd.kill()?;
        }
        sleep(dice.within(Duration::ZERO, Duration::from_secs(5)));
        lab.haasd.launch()?;
        restarts += 1;
    }
}

/// Boots one node again and again, until all nodes together have had their boots.
fn one_life(
    run: &Run<'_>,
    node: &Node,
    mut dice: Dice,
    mut since: SystemTime,
    life: &mut Life,
) -> Result<()> {
    let mut ledger = Ledger::new(&node.name);
    while run.begun.fetch_add(1, Ordering::Relaxed) < run.goal {
        let mut on = powered_on(run, node, since)?;
        if life.cuts_running > 0 && dice.one_in(4) {
            // Its power fails again while it boots.
            sleep(dice.within(Duration::ZERO, Duration::from_secs(30)));
            if !answers(run, node) {
                since = SystemTime::now();
                node.power_cut()?;
                life.cuts_booting += 1;
                on = powered_on(run, node, since)?;
            }
        }
        let comes_up = wait_some("its ssh server", BOOT, || {
            run.goes_on().err().map(Err).or_else(|| answers(run, node).then_some(Ok(())))
        });
        comes_up
            .with_context(|| format!("its console ends with:\n{}", node.console.tail(40)))??;
        ssh(run, node, "true")?;
        let to_ssh = on.elapsed()?.as_secs_f32();
        life.to_ssh.push(to_ssh);
        let found = ssh(run, node, ledger.list())?;
        let records = ledger.check(&found).context("a boot lost data")?;
        life.verified += records;
        let done = run.done.fetch_add(1, Ordering::Relaxed) + 1;
        let name = &node.name;
        writeln!(io::stderr(), "boot {done}: {name}, ssh after {to_ssh:.0} s, {records} records")?;
        // It writes and syncs, and at some moment its power fails.
        let mut writer = run.user.ssh_command(node, "carol", &ledger.writer())?;
        let mut writer = writer.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        sleep(dice.within(Duration::from_millis(500), Duration::from_secs(8)));
        since = SystemTime::now();
        node.power_cut()?;
        life.cuts_running += 1;
        writer.kill()?;
        let said = writer.wait_with_output()?.stdout;
        ledger.was_synced(&String::from_utf8_lossy(&said))?;
    }
    Ok(())
}

/// Waits until haasd has switched the node on, and returns when that was.
fn powered_on(run: &Run<'_>, node: &Node, since: SystemTime) -> Result<SystemTime> {
    wait_some("haasd to switch it on", SEEN, || {
        run.goes_on().err().map(Err).or_else(|| {
            let commands = node.bmc.commands();
            let on = commands.iter().find(|c| c.at >= since && c.command == "set power 1")?;
            Some(Ok(on.at))
        })
    })?
}

/// Whether something listens on its ssh port, which it opens when haasd has admitted it.
fn answers(run: &Run<'_>, node: &Node) -> bool {
    let address = SocketAddr::from((node.address, 22));
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
    run.rack.in_netns(connect).unwrap_or(false)
}

/// Runs a command that must succeed, and returns what it printed.
fn ssh(run: &Run<'_>, node: &Node, line: &str) -> Result<String> {
    let mut ssh = run.user.ssh_command(node, "carol", line)?;
    let mut child = ssh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Taken while it runs: the list of what was written becomes longer than a pipe holds.
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr, ended) = thread::scope(|scope| {
        let out = scope.spawn(|| out.as_mut().map(io::read_to_string));
        let err = scope.spawn(|| err.as_mut().map(io::read_to_string));
        let ended = wait_for("ssh to end", LOGIN, || !matches!(child.try_wait(), Ok(None)));
        // Without it they would not end either.
        let killed = child.kill();
        (join(out), join(err), ended.and(killed.map_err(Into::into)))
    });
    ended?;
    let status = child.wait()?;
    let stderr = stderr.transpose()?.unwrap_or_default();
    ensure!(status.success(), "{line:?} ended with {status}: {stderr}");
    Ok(stdout.transpose()?.unwrap_or_default())
}

/// The table of the documentation, and what haasd says to it: that no boot needed a person.
fn tell(lab: &Lab<'_>, lives: &[Life], restarts: usize) -> Result<()> {
    let mut seconds: Vec<f32> = lives.iter().flat_map(|life| &life.to_ssh).copied().collect();
    seconds.sort_by(f32::total_cmp);
    let percentile = |p: usize| seconds.get((seconds.len() * p).div_ceil(100).max(1) - 1);
    let sum = |of: fn(&Life) -> usize| lives.iter().map(of).sum::<usize>();
    let log = lab.haasd.log();
    let failed = failures(&log);
    let hands = log.lines().filter(|line| line.contains("fault: a person is needed")).count();
    let lost = lab.rack.lost()?;
    let mut out = io::stderr();
    writeln!(out, "\n| | |\n|---|---|")?;
    writeln!(out, "| cold boots to a login | {} |", seconds.len())?;
    writeln!(
        out,
        "| power cuts while running, while booting | {}, {} |",
        sum(|life| life.cuts_running),
        sum(|life| life.cuts_booting)
    )?;
    writeln!(out, "| restarts of haasd | {restarts} |")?;
    writeln!(
        out,
        "| packets lost: DHCP, TFTP, HTTP | {}, {}, {} |",
        lost.dhcp, lost.tftp, lost.http
    )?;
    writeln!(out, "| attempts that failed and were tried again | {failed} |")?;
    if let (Some(half), Some(most)) = (percentile(50), percentile(99)) {
        writeln!(out, "| power-on to ssh, p50 and p99 | {half:.0} s, {most:.0} s |")?;
    }
    writeln!(out, "| synced records looked for | {} |", sum(|life| life.verified))?;
    writeln!(out, "| boots that needed a person | {hands} |")?;
    ensure!(hands == 0, "{hands} boots needed a person:\n{failed}");
    Ok(())
}

/// How many attempts failed, by stage and code.
fn failures(log: &str) -> String {
    let mut count = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("boot attempt failed")) {
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}="))?;
            Some(rest.split([' ', '"']).find(|word| !word.is_empty())?.to_owned())
        };
        let what = (field("stage").unwrap_or_default(), field("code").unwrap_or_default());
        *count.entry(what).or_insert(0) += 1;
    }
    let words: Vec<String> =
        count.iter().map(|((stage, code), n)| format!("{n} in {stage} ({code})")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
