//! `bootagent`: PID 1 of the initramfs and, after switch_root, the node's agent.
//!
//! One static binary with several roles, told apart by how it is started:
//! as PID 1 it is [`init`]; that starts it again as [`init::AGENT_NAME`], the agent, which brings
//! the node up ([`node`]) and then looks after it ([`agent`]); the agent starts it as
//! [`identity::NAME`] and [`ssh::NAME`] to write into the user's root, and as [`checks::NAME`] to become a ready check;
//! and the kernel calls it as `modprobe`. systemd hands PID 1 back to it at the end ([`shutdown`]).
//!
//! It must never open a shell, never fall back to RAM where a disk was asked for, and never write
//! to a disk that is neither blank nor ours.

mod agent;
mod baseline;
mod button;
mod channel;
mod checks;
mod choose;
mod cmdline;
mod dhcp;
mod disk;
mod fault;
mod files;
mod guards;
mod hardware;
mod identity;
mod init;
mod iscsi;
mod kexec;
mod labels;
mod log;
mod modules;
mod net;
mod node;
mod overlay;
mod proof;
mod reach;
mod readonly;
mod ready;
mod rtnl;
mod scratch;
mod shutdown;
mod signature;
mod ssh;
mod store;
mod sys;
mod terminals;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let named = |name| init::is_named(program.as_deref(), name);
    if named(init::AGENT_NAME) {
        node::run()
    } else if named(identity::NAME) {
        match identity::main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    } else if named(ssh::NAME) {
        match ssh::main(arguments.next()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    } else if named(checks::NAME) {
        eprintln!("{}", checks::main(arguments));
        ExitCode::from(checks::NOT_STARTED)
    } else if named("modprobe") {
        // The kernel calls `modprobe -q -- ALIAS`.
        let mut modules = modules::Modules::open();
        for alias in arguments.filter_map(|a| a.into_string().ok()).filter(|a| !a.starts_with('-'))
        {
            modules.load_alias(&alias);
        }
        ExitCode::SUCCESS
    } else if std::process::id() == 1 && named(shutdown::NAME) {
        shutdown::hold_pid1();
    } else if std::process::id() == 1 {
        init::run();
    } else {
        eprintln!("bootagent runs as PID 1 of a node's initramfs and does nothing here");
        ExitCode::from(2)
    }
}
