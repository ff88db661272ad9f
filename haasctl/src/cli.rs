//! The commands, and what they share: how to print, and which haasd to speak to.

use clap::{Parser, Subcommand};
use haas_api::client::Client;

use crate::{
    audit, calendar, completion, config, console, context, disk, doctor, drift,
    error::Error,
    events, grant, group, image, login, maintenance, node, operation,
    out::{Format, Out},
    overlay, power, project, queue, reservation, reserve, ssh, status, switch, usage, user,
    webhook,
};

/// Exit codes, as `--help` shows them.
const EXIT_CODES: &str = "\
Exit codes:
  0  done                        5  conflict: busy, reserved or in use
  1  failed                      6  not allowed, or no valid token
  2  wrong usage                 7  out of time
  3  some nodes, not all         8  haasd cannot be reached or trusted
  4  not found

Examples:
  haasctl status
  haasctl switch n[01-16] --image minimal --overlay dev --wait
  haasctl rollback @rack1 --dry-run";

/// The command line of haas: switch bare nodes between images and overlays.
#[derive(Debug, Parser)]
#[command(name = "haasctl", version, after_help = EXIT_CODES, propagate_version = true)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// How to print results.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,

    /// The context to use instead of the current one.
    #[arg(long, global = true, env = "HAASCTL_CONTEXT", value_name = "NAME")]
    context: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Move nodes to an image and an overlay.
    Switch(switch::SwitchArgs),
    /// Move nodes back to what they had before the last change.
    Rollback(switch::RollbackArgs),
    /// Reserve nodes for a time, with an image and an overlay on them.
    Reserve(Box<reserve::ReserveArgs>),
    /// List your own reservations.
    Mine(reservation::MineArgs),
    /// Reservations: what is in the calendar, and what happened to it.
    #[command(subcommand)]
    Reservation(reservation::Command),
    /// Give a reservation more time.
    Extend(reservation::ExtendArgs),
    /// Give a reservation's nodes back, or take back one that has none yet.
    Release(reservation::ReleaseArgs),
    /// Say why a reservation waits, and what would let it start earlier.
    Explain(reservation::ExplainArgs),
    /// Show how many nodes are free when.
    Calendar(calendar::CalendarArgs),
    /// Queues: where reservations wait.
    #[command(subcommand)]
    Queue(queue::Command),
    /// Maintenance: nodes and times in which nothing is planned on them.
    #[command(subcommand)]
    Maintenance(maintenance::Command),
    /// Show how many node-hours were used, by project, user and queue.
    Usage(usage::UsageArgs),
    /// Show what nodes run and what they are doing.
    Status(status::StatusArgs),
    /// Show whether a reboot would change what nodes run, and what of it.
    Drift(drift::DriftArgs),
    /// Log in to a node, or run a command on it, with its key checked by haasd's authority.
    Ssh(ssh::SshArgs),
    /// Run a command on many nodes at once; nodes with the same output are shown together.
    Exec(ssh::ExecArgs),
    /// Copy files to many nodes at once, or from one.
    Cp(ssh::CpArgs),
    /// A node's serial console: type, watch, or show its log.
    Console(console::ConsoleArgs),
    /// Nodes: what there is, how they booted, the inventory.
    #[command(subcommand)]
    Node(node::Command),
    /// Power: on, off, cycle, status.
    #[command(subcommand)]
    Power(power::Command),
    /// Overlays: the persistent writable layers of users.
    #[command(subcommand)]
    Overlay(overlay::Command),
    /// The disks of nodes that can hold overlays.
    #[command(subcommand)]
    Disk(disk::Command),
    /// Images: build, import, name, remove.
    #[command(subcommand)]
    Image(image::Command),
    /// Users, their ssh keys and their tokens.
    #[command(subcommand)]
    User(user::Command),
    /// Groups of users.
    #[command(subcommand)]
    Group(group::Command),
    /// Projects: tenants with members, limits, and overlays and images of their own.
    #[command(subcommand)]
    Project(project::Command),
    /// Grants: who may use which nodes, images, overlays and queues.
    #[command(subcommand)]
    Grant(grant::Command),
    /// Make an account for yourself, where haasd lets people, and log in.
    Register(login::RegisterArgs),
    /// Get a token for a name and a password, and keep it in a context.
    Login(login::LoginArgs),
    /// End the token of this context.
    Logout(login::LogoutArgs),
    /// Who changed what, or tried to.
    Audit(audit::AuditArgs),
    /// What has happened, and what happens.
    Events(events::EventsArgs),
    /// Webhooks: programs that are sent what happens.
    #[command(subcommand)]
    Webhook(webhook::Command),
    /// Operations: switches, rollbacks and power requests in progress or over.
    #[command(subcommand)]
    Operation(operation::Command),
    /// Look at what may keep haasd from its work: interfaces, ports, BMCs, clock, disk, programs.
    Doctor(doctor::DoctorArgs),
    /// Contexts: which haasd to speak to, and as whom.
    #[command(subcommand)]
    Context(context::Command),
    /// Write a completion script for a shell.
    Completion(completion::CompletionArgs),
}

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// Where results go.
    pub(crate) out: &'a Out,
    context: Option<String>,
}

impl Session<'_> {
    /// The name of the context that the caller asked for, if any.
    pub(crate) fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Keeps a new token in the context in use.
    pub(crate) fn keep_token(&self, token: &str) -> Result<(), Error> {
        let mut config = config::load()?;
        let (name, context) = config.pick(self.context())?;
        let (name, context) = (name.to_owned(), context.clone());
        config.keep_token(&name, &context.url, &context.fingerprint, token, false)
    }

    /// The fingerprint of the haasd in use.
    pub(crate) fn fingerprint(&self) -> Result<String, Error> {
        let config = config::load()?;
        Ok(config.pick(self.context())?.1.fingerprint.clone())
    }

    /// A client for the context in use.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        let config = config::load()?;
        if let Some(warning) = &config.warning {
            self.out.note(warning)?;
        }
        config.client(self.context())
    }
}

impl Cli {
    /// Does what was asked.
    pub(crate) async fn run(self, out: &Out) -> Result<(), Error> {
        // An empty HAASCTL_CONTEXT is none.
        let context = self.context.filter(|name| !name.is_empty());
        let session = Session { out, context };
        match self.command {
            Command::Switch(args) => args.run(&session).await,
            Command::Rollback(args) => args.run(&session).await,
            Command::Reserve(args) => args.run(&session).await,
            Command::Mine(args) => args.run(&session).await,
            Command::Reservation(command) => command.run(&session).await,
            Command::Extend(args) => args.run(&session).await,
            Command::Release(args) => args.run(&session).await,
            Command::Explain(args) => args.run(&session).await,
            Command::Calendar(args) => args.run(&session).await,
            Command::Queue(command) => command.run(&session).await,
            Command::Maintenance(command) => command.run(&session).await,
            Command::Usage(args) => args.run(&session).await,
            Command::Status(args) => args.run(&session).await,
            Command::Drift(args) => args.run(&session).await,
            Command::Ssh(args) => args.run(&session).await,
            Command::Exec(args) => args.run(&session).await,
            Command::Cp(args) => args.run(&session).await,
            Command::Console(args) => args.run(&session).await,
            Command::Node(command) => command.run(&session).await,
            Command::Register(args) => args.run(&session).await,
            Command::Login(args) => args.run(&session).await,
            Command::Logout(args) => args.run(&session).await,
            Command::Audit(args) => args.run(&session).await,
            Command::Power(command) => command.run(&session).await,
            Command::Overlay(command) => command.run(&session).await,
            Command::Disk(command) => command.run(&session).await,
            Command::Image(command) => command.run(&session).await,
            Command::User(command) => command.run(&session).await,
            Command::Group(command) => command.run(&session).await,
            Command::Project(command) => command.run(&session).await,
            Command::Grant(command) => command.run(&session).await,
            Command::Events(args) => args.run(&session).await,
            Command::Webhook(command) => command.run(&session).await,
            Command::Operation(command) => command.run(&session).await,
            Command::Doctor(args) => args.run(&session).await,
            Command::Context(command) => command.run(&session),
            Command::Completion(args) => args.run(&session),
        }
    }
}

/// Reads a node set argument. Only an empty one is refused here: haasd knows the groups and the
/// nodes, and an empty set must never come to mean all of them.
pub(crate) fn nodeset(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.chars().all(|c| c.is_whitespace() || c == ',') {
        return Err("the node set is empty; name nodes, n[01-16], or groups, @rack1".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_empty_node_set_is_refused() {
        for empty in ["", " ", ",", " , ,\t"] {
            assert!(nodeset(empty).is_err(), "{empty:?}");
            let error = Cli::try_parse_from(["haasctl", "switch", empty, "--image", "minimal"]);
            assert_eq!(error.unwrap_err().exit_code(), 2);
        }
        assert_eq!(nodeset(" n[01-02],@a "), Ok("n[01-02],@a".to_owned()));
    }

    #[test]
    fn the_reference_names_every_command_and_option() {
        fn visit(command: &clap::Command, path: &str, reference: &str) {
            let has_subcommands = command.get_subcommands().next().is_some();
            assert!(
                has_subcommands || reference.contains(&format!("`{path}")),
                "{path} is missing"
            );
            for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
                let option = format!("--{option}");
                assert!(reference.contains(&option), "{path} {option} is missing");
            }
            for subcommand in command.get_subcommands() {
                visit(subcommand, format!("{path} {}", subcommand.get_name()).trim(), reference);
            }
        }
        visit(&Cli::command(), "", include_str!("../../docs/reference/cli.md"));
    }

    #[test]
    fn every_command_has_help_and_examples() {
        fn visit(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} says nothing about itself");
            let mut subcommands = command.get_subcommands().peekable();
            if subcommands.peek().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("haasctl "), "{path} has no example");
            }
            for subcommand in subcommands {
                visit(subcommand, &format!("{path} {}", subcommand.get_name()));
            }
            for argument in command.get_arguments() {
                let known = ["help", "version"].contains(&argument.get_id().as_str());
                assert!(
                    known || argument.get_help().is_some(),
                    "{path}: {} has no help",
                    argument.get_id()
                );
            }
        }
        visit(&Cli::command(), "haasctl");
    }
}
