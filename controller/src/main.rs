//! haasd: arguments, configuration, exit code.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use controller::{
    config::Config,
    daemon, doctor,
    images::worker::{PackModules, worker_main},
};
use haas_api::{
    List,
    doctor::{Finding, FindingState, has_wrong, summary},
};

/// Turns a rack of bare machines into clusters on demand.
#[derive(Debug, Parser)]
#[command(name = "haasd", version, after_help = "The reference is docs/reference/config.md.")]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = "/etc/haas/haasd.toml", env = "HAASD_CONFIG", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read configuration, inventory and templates, say what is wrong, and do nothing else.
    Check,
    /// Look at what may keep haasd from its work: files, interfaces, ports, clock, disk, programs.
    /// `haasctl doctor` asks a haasd that runs, and also tells of BMCs.
    Doctor {
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Download the packages of recipes, so that building them needs no network.
    Fetch {
        /// Where to keep them; haasd's own is STATE_DIR/cache/debs.
        #[arg(long, value_name = "FOLDER")]
        into: PathBuf,
        /// Recipe folders.
        #[arg(required = true)]
        recipes: Vec<PathBuf>,
    },
    /// Print the API's description (OpenAPI 3.1).
    Openapi,
}

fn main() -> ExitCode {
    // The image worker makes namespaces, so it must come before any thread.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "image-worker") {
        return worker_main(args, PACK_MODULES);
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("haasd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// haasd's memory holds secrets, and a core would be a file of it.
fn leave_no_core() -> anyhow::Result<()> {
    use nix::sys::{prctl::set_dumpable, resource};
    set_dumpable(false).context("cannot forbid core dumps")?;
    resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0).context("cannot forbid core dumps")
}

const PACK_MODULES: PackModules =
    |folder, release| haas_initramfs::module_cpio(folder, release).map_err(Into::into);

#[expect(clippy::print_stdout, reason = "what these commands are for")]
fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.command {
        Some(Command::Openapi) => {
            print!("{}", controller::api::openapi_json());
            Ok(())
        }
        Some(Command::Fetch { into, recipes }) => {
            recipes.iter().try_for_each(|recipe| controller::images::prefetch(recipe, into))
        }
        Some(Command::Check) => {
            let files = doctor::read(&arguments.config);
            let missing = match &files.config {
                Some(config) => doctor::missing_files(config, &files.nodes),
                None => Vec::new(),
            };
            let missing = missing.into_iter().filter(|f| f.state == FindingState::Wrong);
            let missing = missing
                .map(|f| [Some(f.what), f.why, f.remedy].map(Option::unwrap_or_default).join("; "));
            let wrong: Vec<_> = files.mistakes.into_iter().chain(missing).collect();
            if wrong.is_empty() {
                println!("{}: good; {} nodes", arguments.config.display(), files.nodes.len());
                return Ok(());
            }
            anyhow::bail!("{}", wrong.join("\n"))
        }
        Some(Command::Doctor { json }) => {
            let files = doctor::read(&arguments.config);
            let mut findings: Vec<_> = files.mistakes.into_iter().map(mistake).collect();
            if let Some(config) = &files.config {
                findings.extend(runtime()?.block_on(doctor::offline(config, &files.nodes)));
            }
            if *json {
                println!("{}", serde_json::to_string_pretty(&List::whole(findings.clone()))?);
            } else {
                findings.iter().flat_map(Finding::lines).for_each(|line| println!("{line}"));
            }
            anyhow::ensure!(!has_wrong(&findings), "{}", summary(&findings));
            if !json {
                println!("{}", summary(&findings));
            }
            Ok(())
        }
        None => {
            let config = Config::load(&arguments.config)?;
            // What it writes is nobody else's to read, however it was started.
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
            leave_no_core()?;
            log();
            runtime()?.block_on(daemon::run(config))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("cannot start the runtime")
}

fn mistake(text: String) -> Finding {
    let why = "haasd does not start with it, or does not take the inventory";
    Finding::wrong("configuration", text, why, "correct the lines that it names".to_owned())
}

/// Logs go to standard error, for systemd's journal. `RUST_LOG` chooses what is told; ipmi-rs would
/// tell hashes of passwords at debug.
fn log() {
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,ipmi_rs=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
}
