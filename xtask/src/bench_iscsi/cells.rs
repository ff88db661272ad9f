//! The grid: sessions, reads under way, sizes and patterns, each cell with all servers in turns.

use std::path::Path;

use anyhow::Result;

use super::{BLOCK, Numbers, ROUNDS, load::Programs, median, round, servers::Server};
use crate::run;

/// How long a run takes at least; the load goes on until each place of its queues had its reads.
const SECONDS: &str = "0.5";
const SESSIONS: [u64; 5] = [1, 4, 16, 64, 256];
const DEPTHS: [u64; 3] = [1, 8, 32];
/// Name, blocks of 512 bytes, order.
const PATTERNS: [(&str, u64, &str); 4] =
    [("4k", 8, "rand"), ("64k", 128, "seq"), ("256k", 512, "seq"), ("1m", 2048, "seq")];

/// The client holds all that is under way; cells that would take more are left out.
const MOST_UNDER_WAY: u64 = 2 << 30;

/// Reads under way, over all sessions, from which on a cell counts as saturated.
const SATURATED: u64 = 32;

struct Cell {
    pattern: &'static str,
    blocks: u64,
    order: &'static str,
    sessions: u64,
    depth: u64,
}

/// One measurement, or the median of several.
#[derive(Clone, Copy)]
struct Figures {
    reads_per_s: f64,
    mb_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_us_per_read: f64,
    cpu_s_per_gb: f64,
    /// The server's memory behind the load, which it keeps for the next one or has given back.
    memory_mib: f64,
}

/// A cell's medians: ours, tgtd's, the bare server's.
struct Measured {
    cell: Cell,
    haas: Figures,
    tgtd: Figures,
    bare: Figures,
}

pub(super) fn measure(programs: &Programs, image: &Path, numbers: &mut Numbers) -> Result<()> {
    let (haas, tgtd) = (Server::haas(image)?, Server::tgtd(image)?);
    let bare = Server::bare(&programs.bare_server, image)?;
    run::say(format!(
        "{:<22} {:>4} {:>8} {:>7} {:>8} {:>8} {:>8} {:>8} {:>7} {:>5}   {}",
        "",
        "",
        "reads/s",
        "MB/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "us/read",
        "s/GB",
        "MiB",
        "haas to this: reads/s, p99, CPU"
    ));
    let mut all = Vec::new();
    for cell in cells() {
        let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (server, figures) in [&haas, &tgtd, &bare].into_iter().zip(&mut rounds) {
                figures.push(once(programs, &cell, server)?);
            }
        }
        let [haas, tgtd, bare] = rounds.map(|rounds| Figures::median(&rounds));
        let measured = Measured { cell, haas, tgtd, bare };
        measured.say();
        measured.note(numbers);
        all.push(measured);
    }
    sum_up(&all, numbers);
    Ok(())
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (pattern, blocks, order) in PATTERNS {
        for sessions in SESSIONS {
            for depth in DEPTHS {
                if sessions * depth * blocks * BLOCK <= MOST_UNDER_WAY {
                    cells.push(Cell { pattern, blocks, order, sessions, depth });
                }
            }
        }
    }
    cells
}

fn once(programs: &Programs, cell: &Cell, server: &Server) -> Result<Figures> {
    let [sessions, depth, blocks] =
        [cell.sessions, cell.depth, cell.blocks].map(|number| number.to_string());
    let load = ["reads", &sessions, &depth, &blocks, cell.order, SECONDS, &server.url];
    let (outcome, cpu) = programs.measure(&load, server)?;
    let (reads, bytes, seconds) =
        (outcome.get("reads")?, outcome.get("bytes")?, outcome.get("seconds")?);
    Ok(Figures {
        reads_per_s: reads / seconds,
        mb_per_s: bytes / seconds / 1e6,
        p50_us: outcome.get("p50_us")?,
        p99_us: outcome.get("p99_us")?,
        p999_us: outcome.get("p999_us")?,
        cpu_us_per_read: cpu * 1e6 / reads,
        cpu_s_per_gb: cpu * 1e9 / bytes,
        memory_mib: server.memory()? as f64 / f64::from(1 << 20),
    })
}

impl Figures {
    fn median(rounds: &[Self]) -> Self {
        let of = |pick: fn(&Self) -> f64| median(rounds.iter().map(pick).collect());
        Self {
            reads_per_s: of(|f| f.reads_per_s),
            mb_per_s: of(|f| f.mb_per_s),
            p50_us: of(|f| f.p50_us),
            p99_us: of(|f| f.p99_us),
            p999_us: of(|f| f.p999_us),
            cpu_us_per_read: of(|f| f.cpu_us_per_read),
            cpu_s_per_gb: of(|f| f.cpu_s_per_gb),
            memory_mib: of(|f| f.memory_mib),
        }
    }

    /// What is printed of it: rates, times, CPU and memory.
    fn line(&self) -> String {
        format!(
            "{:>8.0} {:>7.0} {:>8.0} {:>8.0} {:>8.0} {:>8.2} {:>7.3} {:>5.1}",
            self.reads_per_s,
            self.mb_per_s,
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.cpu_us_per_read,
            self.cpu_s_per_gb,
            self.memory_mib,
        )
    }

    fn named(&self) -> [(&'static str, f64); 8] {
        [
            ("reads_per_s", self.reads_per_s),
            ("mb_per_s", self.mb_per_s),
            ("p50_us", self.p50_us),
            ("p99_us", self.p99_us),
            ("p999_us", self.p999_us),
            ("cpu_us_per_read", self.cpu_us_per_read),
            ("cpu_s_per_gb", self.cpu_s_per_gb),
            ("memory_mib", self.memory_mib),
        ]
    }
}

impl Measured {
    fn throughput(&self) -> f64 {
        self.haas.reads_per_s / self.tgtd.reads_per_s
    }

    fn p99(&self) -> f64 {
        self.haas.p99_us / self.tgtd.p99_us
    }

    fn cpu(&self) -> f64 {
        self.haas.cpu_us_per_read / self.tgtd.cpu_us_per_read
    }

    fn cpu_to_bare(&self) -> f64 {
        self.haas.cpu_us_per_read / self.bare.cpu_us_per_read
    }

    fn is(&self, pattern: &str, sessions: u64, depth: u64) -> bool {
        let cell = &self.cell;
        (cell.pattern, cell.sessions, cell.depth) == (pattern, sessions, depth)
    }

    fn say(&self) {
        let cell = &self.cell;
        let name = format!("{:>4} {:>4} sessions x {}", cell.pattern, cell.sessions, cell.depth);
        let to = |name: &str, figures: &Figures| {
            let ratio = |pick: fn(&Figures) -> f64| pick(&self.haas) / pick(figures);
            format!(
                "{name:>4} {} {:>10.2} {:>5.2} {:>5.2}",
                figures.line(),
                ratio(|f| f.reads_per_s),
                ratio(|f| f.p99_us),
                ratio(|f| f.cpu_us_per_read),
            )
        };
        run::say(format!("{name:<22} haas {}", self.haas.line()));
        run::say(format!("{:<22} {}", "", to("tgtd", &self.tgtd)));
        run::say(format!("{:<22} {}", "", to("bare", &self.bare)));
    }

    fn note(&self, numbers: &mut Numbers) {
        let cell = &self.cell;
        let cell = format!("{}_{}x{}", cell.pattern, cell.sessions, cell.depth);
        for (server, figures) in [("haas", self.haas), ("tgtd", self.tgtd), ("bare", self.bare)] {
            for (name, value) in figures.named() {
                numbers.insert(format!("{cell}_{server}_{name}"), round(value));
            }
        }
    }
}

/// The figures that the goals are about.
fn sum_up(all: &[Measured], numbers: &mut Numbers) {
    let mut note = |name: &str, value: f64| numbers.insert(name.to_owned(), round(value));
    let only = |pattern: &str, sessions, depth, pick: fn(&Measured) -> f64| {
        all.iter().find(|one| one.is(pattern, sessions, depth)).map_or(f64::NAN, pick)
    };
    let over = |wanted: &dyn Fn(&Measured) -> bool, pick: fn(&Measured) -> f64| {
        all.iter().filter(|one| wanted(one)).map(pick).collect::<Vec<_>>()
    };
    let large = |one: &Measured| matches!(one.cell.pattern, "256k" | "1m");
    let saturated = |one: &Measured| one.cell.sessions * one.cell.depth >= SATURATED;

    note("ratio_reads_4k_1x1", only("4k", 1, 1, Measured::throughput));
    note("ratio_reads_4k_16x32", only("4k", 16, 32, Measured::throughput));
    note("cpu_us_per_4k_read_16x32", only("4k", 16, 32, |one| one.haas.cpu_us_per_read));
    note("ratio_throughput_median", median(over(&|_| true, Measured::throughput)));
    let cpu = over(&large, Measured::cpu);
    note("ratio_cpu_256k_and_1m_worst", cpu.iter().copied().fold(0.0, f64::max));
    note("ratio_cpu_256k_and_1m_median", median(cpu));
    note("ratio_cpu_to_sendfile_256k_and_1m_median", median(over(&large, Measured::cpu_to_bare)));
    let of_64k = |one: &Measured| one.cell.pattern == "64k";
    note("ratio_cpu_to_sendfile_64k_median", median(over(&of_64k, Measured::cpu_to_bare)));
    let p99 = over(&saturated, Measured::p99);
    note("ratio_p99_saturated_worst", p99.iter().copied().fold(0.0, f64::max));
    let better = p99.iter().filter(|ratio| **ratio < 1.0).count() as f64 / p99.len() as f64;
    note("share_p99_saturated_better", better);
    note("ratio_p99_saturated_median", median(p99));
}
