//! `power status` of 500 simulated BMCs: by `haasctl` of haasd, by FreeIPMI's `ipmipower`, and by `ipmitool` for
//! each, in one run and on the same BMCs. On a network that does nothing to packets, and on one that
//! loses a tenth of them each way. Every round switches all machines first, so that only a fresh answer
//! is right, and the BMCs' own counts say that each was asked.

mod haas;
mod tools;

use anyhow::{Result, ensure};
use serde_json::{Map, Value};

use crate::{agent, run, setup};
use haas::Haas;
use tools::{Bmcs, Client, IpmiPower, IpmiTool};

const BMCS: usize = 500;
/// haasd and haasctl, as they are installed, and the BMCs.
const BUILD: [&str; 14] = [
    "build",
    "--release",
    "--package",
    "controller",
    "--package",
    "haasctl",
    "--package",
    "sim",
    "--bin",
    "haasd",
    "--bin",
    "haasctl",
    "--bin",
    "haas-sim-bmc",
];
/// Rounds without loss; the median counts.
const CLEAN: usize = 7;
/// Rounds with loss: all answers count.
const LOSSY: usize = 20;
/// The same for a client that takes ten times as long.
const FEW: usize = 3;

/// What rounds came to.
#[derive(Debug, Default)]
struct Rounds {
    walls: Vec<f64>,
    right: usize,
    asked: usize,
}

/// Measures, and answers the numbers with their units in their names.
pub(crate) fn run() -> Result<Map<String, Value>> {
    setup::run()?;
    agent::build()?;
    run::run(&mut run::cargo(&BUILD))?;
    tools::raise_the_limit_of_files()?;
    let folder = tempfile::tempdir()?;
    let mut bmcs = Bmcs::start(BMCS, folder.path())?;
    let mut haas = Haas::start(&bmcs, folder.path())?;
    let (mut ipmipower, mut ipmitool) = (IpmiPower::new(&bmcs), IpmiTool::new(&bmcs));
    let mut numbers = Map::new();
    let mut put = |name: String, value: f64| {
        numbers.insert(name, Value::from((value * 10_000.0).round() / 10_000.0));
    };

    // The first one logs in to the BMCs, and stays so.
    let cold = rounds(&mut bmcs, &mut haas, 1)?;
    all_right("haasd", &cold)?;
    let [mut warm, mut freeipmi] = [Rounds::default(), Rounds::default()];
    // In turns, so that whatever else the machine does hits both alike.
    for _ in 0..CLEAN {
        warm.add(rounds(&mut bmcs, &mut haas, 1)?);
        freeipmi.add(rounds(&mut bmcs, &mut ipmipower, 1)?);
    }
    all_right("haasd", &warm)?;
    let tool = rounds(&mut bmcs, &mut ipmitool, FEW)?;
    let base = freeipmi.median();
    put("haas_clean_wall_s".to_owned(), warm.median());
    put("haas_first_round_wall_s".to_owned(), cold.median());
    put("ipmipower_clean_wall_s".to_owned(), base);
    put("ipmitool_clean_wall_s".to_owned(), tool.median());
    put("wall_ratio_to_ipmipower_clean".to_owned(), warm.median() / base);
    put("wall_ratio_to_ipmipower_first_round".to_owned(), cold.median() / base);
    put("wall_ratio_to_ipmitool_clean".to_owned(), warm.median() / tool.median());
    put("ipmipower_right_answers_clean".to_owned(), freeipmi.share());
    put("ipmitool_right_answers_clean".to_owned(), tool.share());
    put("haas_private_memory_mib".to_owned(), haas.memory()? / 1048576.0);

    bmcs.lose(0.1)?;
    for (name, lossy) in [
        ("", rounds(&mut bmcs, &mut haas, LOSSY)?),
        ("ipmipower_", rounds(&mut bmcs, &mut ipmipower, LOSSY)?),
        ("ipmitool_", rounds(&mut bmcs, &mut ipmitool, FEW)?),
    ] {
        let who = if name.is_empty() { "haas_" } else { name };
        put(format!("{name}right_answers_at_10pct_loss"), lossy.share());
        put(format!("{who}10pct_loss_wall_s"), lossy.median());
        put(format!("{who}10pct_loss_longest_wall_s"), lossy.longest());
    }
    Ok(numbers)
}

/// Lets a client ask all BMCs, so often.
fn rounds(bmcs: &mut Bmcs, client: &mut impl Client, count: usize) -> Result<Rounds> {
    let mut rounds = Rounds::default();
    for _ in 0..count {
        let on = bmcs.switch()?;
        let before = bmcs.status_requests()?;
        let round = client.round(on)?;
        let fresh = bmcs.status_requests()? - before;
        ensure!(
            fresh >= round.right,
            "{} right answers, but only {fresh} requests came to the BMCs",
            round.right
        );
        rounds.walls.push(round.wall_s);
        rounds.right += usize::try_from(round.right)?;
        rounds.asked += BMCS;
    }
    Ok(rounds)
}

fn all_right(who: &str, rounds: &Rounds) -> Result<()> {
    let (right, asked) = (rounds.right, rounds.asked);
    ensure!(right == asked, "{who}: {right} of {asked} right answers, and no packet was lost");
    Ok(())
}

impl Rounds {
    fn add(&mut self, other: Self) {
        self.walls.extend(other.walls);
        self.right += other.right;
        self.asked += other.asked;
    }

    fn share(&self) -> f64 {
        self.right as f64 / self.asked as f64
    }

    fn median(&self) -> f64 {
        let mut walls = self.walls.clone();
        walls.sort_by(f64::total_cmp);
        walls.get(walls.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn longest(&self) -> f64 {
        self.walls.iter().copied().fold(0.0, f64::max)
    }
}
