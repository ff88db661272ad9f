//! `haasctl`, the command line of haas. It speaks the HTTP API and nothing else; `node import` only
//! rewrites a file.
//!
//! One module per noun holds its arguments and what they do. What is printed goes through
//! [`out::Out`]; what went wrong is an [`error::Error`], which knows its exit code.

mod audit;
mod baseline;
mod calendar;
mod checks;
mod cli;
mod completion;
mod config;
mod confirm;
mod console;
mod context;
mod disk;
mod doctor;
mod drift;
mod error;
mod events;
mod export;
mod format;
mod grant;
mod group;
mod hardware;
mod image;
mod import;
mod input;
mod login;
mod maintenance;
mod node;
mod operation;
mod out;
mod overlay;
mod pack;
mod pci;
mod power;
mod probe;
mod progress;
mod project;
mod queue;
mod report;
mod reservation;
mod reserve;
mod series;
mod ssh;
mod status;
mod switch;
mod table;
mod times;
mod upload;
mod usage;
mod user;
mod wait;
mod webhook;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let out = out::Out::new(cli.output);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = error::Error::Io { what: "the program cannot start".to_owned(), source };
            return out.fail(&error);
        }
    };
    let result = runtime.block_on(cli.run(&out));
    // A thread that still packs an upload must not hold the exit back.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => out.fail(&error),
    }
}
