//! Nodes that run outlive their controller: whatever happens to it, programs on them that read pages
//! of the image wait, and then go on with the right bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::{NodeHw, PowerCommands, Rack, RackSpec};

use crate::cold_readers;
use crate::support::{self, BOOT, Lab, boots};

const NODES: [&str; 4] = ["node1", "node2", "node3", "node4"];
/// How long after the end of an outage everything may take to be as before. Connecting again takes
/// some seconds; the machine of the test may be shared.
const BACK: Duration = Duration::from_secs(120);

/// How long an orderly end takes at most, with a root that does not answer: systemd has a minute, then
/// programs have half a one. The machine of the test may be shared.
const ENDS: Duration = Duration::from_secs(180);

/// What happens to the nodes' controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outage {
    /// It is killed, and started again after this time.
    Killed(Duration),
    /// It is stopped and started at once, as when its program is replaced.
    Upgraded,
    /// One node's cable is cut for this time.
    Cut(Duration),
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outage::Killed(time) => write!(f, "killed, back after {} s", time.as_secs()),
            Outage::Upgraded => f.write_str("upgraded"),
            Outage::Cut(time) => write!(f, "one node's link cut for {} s", time.as_secs()),
        }
    }
}

/// What was seen of one kind of outage so far.
#[derive(Debug, Default)]
struct Seen {
    times: usize,
    reads: u64,
    /// Reads with wrong bytes or an error.
    bad: u64,
    /// The longest time of a single read, on each node that was hit.
    stalls: Vec<Duration>,
}

/// What must stay as it is, whatever happens.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    boot_id: String,
    attempts: usize,
    power: PowerCommands,
}

impl Standing {
    fn of(lab: &Lab<'_>, name: &str) -> Result<Standing> {
        let node = lab.rack.nodes().iter().find(|node| node.name == name);
        Ok(Standing {
            boot_id: lab.ssh("root", name, "cat /proc/sys/kernel/random/boot_id")?,
            attempts: boots(lab, name)?.len(),
            power: node.context("the rack has this node")?.bmc.power_commands(),
        })
    }
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_running_nodes_outlive_every_outage_of_their_controller() -> Result<()> {
    let rounds = support::number("HAAS_OUTAGE_ROUNDS", 10)?;
    let longest = Duration::from_secs(support::number("HAAS_OUTAGE_LONGEST", 600)?);
    let [short, minute] = [10, 60].map(|s| Duration::from_secs(s).min(longest));
    let outages = [
        Outage::Killed(short),
        Outage::Killed(minute),
        Outage::Killed(longest),
        Outage::Upgraded,
        Outage::Cut(minute),
    ];
    let hardware = NodeHw { memory_mib: 256, ..NodeHw::default() };
    Rack::with(RackSpec::new("outages", vec![hardware; NODES.len()]), |rack| {
        let mut lab = Lab::start(rack)?;
        let blocks = cold_readers::build(&lab)?;
        let image = cold_readers::IMAGE;
        lab.ok(&["switch", "node[1-4]", "--image", image, "--overlay", "alice/work"])?;
        for name in NODES {
            lab.ready_within(name, 2 * BOOT)?;
            cold_readers::start(&lab, name, &blocks)?;
        }
        let before: Vec<Standing> =
            NODES.iter().map(|name| Standing::of(&lab, name)).collect::<Result<_>>()?;
        let mut seen = BTreeMap::new();
        for round in 1..=rounds {
            let result = outages.iter().try_for_each(|outage| {
                pass(&mut lab, round, *outage, &before, seen.entry(*outage).or_default())
                    .with_context(|| format!("round {round}, {outage}"))
            });
            tell(&seen)?;
            result?;
        }
        Ok(())
    })
}

/// One outage: strikes, waits for its end, and looks at everything.
fn pass(
    lab: &mut Lab<'_>,
    round: usize,
    outage: Outage,
    before: &[Standing],
    seen: &mut Seen,
) -> Result<()> {
    let phase =
        format!("{round}-{}", seen.times + 1) + &format!("{outage:?}").replace(['(', ')'], "-");
    let mut readers = Vec::new();
    for name in NODES {
        readers.push(cold_readers::begin(lab, name, &phase)?);
    }
    let victim = (round - 1) % NODES.len();
    let began = Instant::now();
    strike(lab, outage, victim)?;
    let lasted = began.elapsed();

    let mut line = format!("round {round}: {outage}:");
    for (at, (name, readers)) in NODES.iter().zip(&readers).enumerate() {
        let now = cold_readers::go_on(lab, name, readers)?;
        seen.reads += now.iter().map(|reader| reader.reads).sum::<u64>();
        let bad: u64 = now.iter().map(|reader| reader.wrong + reader.failed).sum();
        seen.bad += bad;
        if bad > 0 {
            let said = lab.ssh("root", name, "tail /run/cold/said.*")?;
            bail!("{name} read something wrong: {now:?}\n{said}");
        }
        let longest = now.iter().map(|reader| reader.stall).max().unwrap_or_default();
        let waited = lasted + BACK;
        ensure!(longest < waited, "{name}: a read took {longest:?}, the outage {lasted:?}");
        let is_hit = !matches!(outage, Outage::Cut(_)) || at == victim;
        match outage {
            Outage::Killed(time) | Outage::Cut(time) => ensure!(
                (longest >= time / 2) == is_hit,
                "{name}: the longest read took {longest:?} in an outage of {time:?}; was it hit?"
            ),
            Outage::Upgraded => {}
        }
        if is_hit {
            seen.stalls.push(longest);
        }
        line += &format!(" {name} waited {:.1} s", longest.as_secs_f32());
    }
    for (name, before) in NODES.iter().zip(before) {
        is_as_before(lab, name, before)?;
    }
    seen.times += 1;
    Ok(writeln!(io::stderr(), "{line}")?)
}

fn strike(lab: &mut Lab<'_>, outage: Outage, victim: usize) -> Result<()> {
    match outage {
        Outage::Killed(time) => {
            lab.haasd.kill()?;
            // The length of the outage is the test's subject, here and below.
            sleep(time);
            lab.haasd.launch()
        }
        Outage::Upgraded => {
            let status = lab.haasd.stop()?;
            ensure!(status.success(), "haasd was stopped and ended with {status}");
            lab.haasd.launch()
        }
        Outage::Cut(time) => {
            let node = &lab.rack.nodes()[victim];
            node.cut_link()?;
            sleep(time);
            node.mend_link()
        }
    }
}

/// Nothing was booted or switched, haasd sees the node ready and its session is there.
fn is_as_before(lab: &Lab<'_>, name: &str, before: &Standing) -> Result<()> {
    lab.rack.wait_for(&format!("{name} to be as before"), BACK, || {
        lab.node(name)
            .is_ok_and(|node| node["state"] == "ready" && node["observed"]["root_attached"] == true)
    })?;
    let now = Standing::of(lab, name)?;
    ensure!(now == *before, "{name} was {before:?} and is {now:?}");
    let node = lab.rack.nodes().iter().find(|node| node.name == name);
    let console = node.context("the rack has this node")?.console.text();
    for bad in ["I/O error", "Bus error", "Oops"] {
        ensure!(!console.contains(bad), "{name} had an {bad:?}");
    }
    Ok(())
}

/// The table of the documentation.
fn tell(seen: &BTreeMap<Outage, Seen>) -> Result<()> {
    let mut out = io::stderr();
    writeln!(
        out,
        "\n| Outage | times | reads verified | wrong or failed | longest read, median and most, s |"
    )?;
    writeln!(out, "|---|---|---|---|---|")?;
    for (outage, seen) in seen {
        let mut stalls: Vec<f32> = seen.stalls.iter().map(Duration::as_secs_f32).collect();
        stalls.sort_by(f32::total_cmp);
        let median = stalls.get(stalls.len() / 2).copied().unwrap_or_default();
        let most = stalls.last().copied().unwrap_or_default();
        let Seen { times, reads, bad, .. } = seen;
        writeln!(out, "| {outage} | {times} | {reads} | {bad} | {median:.1}, {most:.1} |")?;
    }
    Ok(())
}

/// Without its controller a node can still be shut down by its BMC: its agent needs nothing of the
/// root, ends the programs that wait for it, and closes the overlay's file system.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_ends_in_order_while_its_controller_is_away() -> Result<()> {
    Rack::with(RackSpec::new("outage-end", vec![NodeHw::default()]), |rack| {
        ends_in_order(Lab::start(rack)?, "minimal", BOOT)
    })
}

/// The same where systemd is to end the system, which cannot either.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_with_systemd_ends_in_order_while_its_controller_is_away() -> Result<()> {
    let node = NodeHw { memory_mib: 1024, ..NodeHw::default() };
    Rack::with(RackSpec::new("outage-systemd", vec![node]), |rack| {
        let lab = Lab::start(rack)?;
        let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/debian-12");
        lab.ok(&["image", "build", recipe])?;
        ends_in_order(lab, "debian-12", 4 * BOOT)
    })
}

fn ends_in_order(mut lab: Lab<'_>, image: &str, boot: Duration) -> Result<()> {
    lab.ok(&["switch", "node1", "--image", image, "--overlay", "alice/work"])?;
    lab.ready_within("node1", boot)?;
    // Not synced: only an orderly end writes it. And a program that will wait for its root holds a
    // file of the overlay open.
    lab.ssh("alice", "node1", "echo kept > /home/alice/late")?;
    let waits = "setsid sh -c 'exec 3> /var/open; while :; do echo 3 > /proc/sys/vm/drop_caches; \
                 cat /usr/bin/* /usr/sbin/*; done' > /dev/null 2>&1 < /dev/null &";
    lab.ssh("root", "node1", waits)?;

    lab.haasd.kill()?;
    let node = lab.rack.node(1);
    node.console.wait_for("the session of the root is lost", Default::default(), BACK)?;
    // Long enough for each program to wait for a page of the image.
    sleep(Duration::from_secs(20));
    let pressed = Instant::now();
    node.bmc.ipmitool(&["chassis", "power", "soft"])?;
    node.wait_off(ENDS)?;
    let took = pressed.elapsed().as_secs_f32();
    writeln!(io::stderr(), "{image} was off {took:.1} s after the button")?;
    ensure!(node.bmc.power_commands().off == 0, "it was cut off");
    node.disks[0].store_is_clean()?;

    // haasd was not there to hear it, so for it the power was cut: the node shall be on.
    lab.haasd.launch()?;
    lab.rack.wait_for("node1 to be booted again", BOOT, || {
        boots(&lab, "node1").is_ok_and(|boots| boots.len() == 2)
    })?;
    lab.ready_within("node1", boot)?;
    let kept = lab.ssh("alice", "node1", "cat /home/alice/late")?;
    ensure!(kept == "kept\n", "{kept:?}");
    Ok(())
}
