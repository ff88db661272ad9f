//! `cargo xtask`: everything that is done to this repository besides compiling it.
//!
//! Each command is a module and calls the ones that it needs, so that any of them works on a fresh
//! machine.

mod agent;
mod bench;
mod bench_auth;
mod bench_iscsi;
mod bench_plan;
mod bench_power;
mod bench_traces;
mod ci;
mod demo;
mod deny;
mod e2e;
mod fuzz;
mod openapi;
mod run;
mod schemathesis;
mod setup;
mod test;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Everything that is done to this repository")]
enum Task {
    /// Install the Debian packages that are missing, and say why each is needed; and schemathesis,
    /// which Debian has not.
    Setup,
    /// Run the tests of all packages, on SQLite and PostgreSQL.
    Test {
        /// Passed on to cargo test, e.g. `-p controller` or `-- a_name`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the suites that boot virtual nodes. Needs root, and asks sudo for it.
    E2e {
        /// Also the tests that take minutes, whose names begin with slow_.
        #[arg(long)]
        slow: bool,
        /// Passed on to the test binaries, e.g. a part of a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Boot two virtual nodes and show what haas is for. Needs root, and asks sudo for it.
    Demo {
        /// Leave the rack up, and say how to use it.
        #[arg(long, conflicts_with = "down")]
        keep: bool,
        /// Only take down the rack that --keep left.
        #[arg(long)]
        down: bool,
        /// Instead, switch so many simulated nodes, some of them bad, and kill haasd on the way. Needs no root.
        #[arg(long, value_name = "NODES", conflicts_with_all = ["keep", "down"],
              value_parser = clap::value_parser!(u32).range(20..=2000))]
        sim: Option<u32>,
    },
    /// Measure something.
    Bench {
        name: bench::Bench,
        /// The folder of the traces that `traces` replays.
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
    /// Fuzz the parsers of the iSCSI target and of IPMI, one after the other.
    Fuzz {
        /// Only this one.
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(fuzz::names()))]
        target: Option<String>,
        /// How long each is fuzzed.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Write docs/openapi.json from the API's code.
    Openapi {
        /// Only say whether it is up to date.
        #[arg(long)]
        check: bool,
    },
    /// Build the node's agent, static and small, and the archive that carries it to the nodes.
    Agent,
    /// What decides whether a change lands: all checks, tests and suites.
    Ci {
        /// Also the tests that take minutes.
        #[arg(long)]
        slow: bool,
    },
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Setup => setup::run().and_then(|()| schemathesis::install()),
        Task::Test { args } => test::run(&args),
        Task::E2e { slow, args } => e2e::run(slow, &args),
        Task::Demo { sim: Some(nodes), .. } => demo::fleet(nodes),
        Task::Demo { keep, down, sim: None } => demo::run(keep, down),
        Task::Bench { name, dir, json } => bench::run(name, dir.as_deref(), json),
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Task::Openapi { check: false } => openapi::write(),
        Task::Openapi { check: true } => openapi::check(),
        Task::Agent => agent::build().map(drop),
        Task::Ci { slow } => ci::run(slow),
    }
}
