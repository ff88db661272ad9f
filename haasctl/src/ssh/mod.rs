//! `ssh`, `exec` and `cp`: the system's own OpenSSH on nodes that it has never seen. haasd says at
//! which address a node is and how its key is known; nothing is asked, and nothing else is trusted.

mod cp;
mod exec;
mod fan_out;
mod known_hosts;

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use haas_api::{
    client::Client,
    names::NodeName,
    node::{Node, NodeState},
};

use crate::{
    cli::Session,
    error::{Error, io_error},
};

pub(crate) use cp::CpArgs;
pub(crate) use exec::ExecArgs;
pub(crate) use known_hosts::text as known_hosts_text;

/// As whom, and how.
#[derive(Debug, Args)]
struct Reach {
    /// The account on the nodes; your own name where none is given.
    #[arg(short, long, value_name = "NAME")]
    login: Option<String>,
    /// A private key to log in with, besides those that ssh knows of.
    #[arg(short, long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// An option of ssh_config(5), such as ForwardAgent=yes.
    #[arg(long, value_name = "KEY=VALUE")]
    ssh_option: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl ssh n01
  haasctl ssh n01 -l root
  haasctl ssh n01 -- uname -r
  haasctl ssh n01 --ssh-option LocalForward=8888:localhost:8888")]
pub(crate) struct SshArgs {
    /// The node.
    node: NodeName,
    #[command(flatten)]
    reach: Reach,
    /// A command to run in place of a shell. Its words are joined by spaces and read by the shell there.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl SshArgs {
    /// Becomes ssh; comes back only if it does not start.
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let access = Access::open(session, &client, &self.reach).await?;
        let node = client.node(&self.node).await?;
        let options = access
            .options(&node)
            .map_err(|why| Error::Failed(format!("{} cannot be reached: {why}", node.name)))?;
        let mut ssh = Command::new("ssh");
        ssh.args(options).arg("--").arg(node.name.as_str()).args(&self.command);
        Err(io_error(NO_SSH)(ssh.exec()))
    }
}

const NO_SSH: &str = "ssh cannot be started; install OpenSSH's client";

/// What all that reach nodes share.
#[derive(Debug)]
struct Access {
    login: String,
    known_hosts: PathBuf,
    identity: Option<PathBuf>,
    extra: Vec<String>,
}

impl Access {
    /// Asks haasd who we are and how its nodes are known, and writes that where ssh reads it.
    async fn open(session: &Session<'_>, client: &Client, reach: &Reach) -> Result<Self, Error> {
        let login = match &reach.login {
            Some(login) => login.clone(),
            None => client.whoami().await?.name.to_string(),
        };
        let authority = client.ssh_ca().await?;
        // All nodes, so that two of these at the same time write the same.
        let text = known_hosts::text(&authority.host_ca, &client.nodes(None).await?);
        let known_hosts = known_hosts::write(&session.fingerprint()?, &text)?;
        let (identity, extra) = (reach.identity.clone(), reach.ssh_option.clone());
        Ok(Self { login, known_hosts, identity, extra })
    }

    /// The options with which ssh and scp reach a node; the error says why they could not.
    fn options(&self, node: &Node) -> Result<Vec<OsString>, String> {
        let Some(address) = &node.address else { return Err("it has no address yet".to_owned()) };
        if node.observed.host_keys.is_empty() {
            return Err(no_key(node));
        }
        // Of what is said twice to ssh the first counts.
        let mut settings = vec![
            format!("UserKnownHostsFile={}", quoted(&self.known_hosts)),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "UpdateHostKeys=no".to_owned(),
            "VerifyHostKeyDNS=no".to_owned(),
            // OpenSSH before 8.5 has none, and would not start with it.
            "IgnoreUnknown=KnownHostsCommand".to_owned(),
            "KnownHostsCommand=none".to_owned(),
            "CheckHostIP=no".to_owned(),
            format!("HostName={address}"),
            format!("HostKeyAlias={}", node.name),
            format!("User={}", self.login),
        ];
        settings.extend(self.extra.iter().cloned());
        let mut options: Vec<OsString> =
            settings.into_iter().flat_map(|setting| ["-o".into(), setting.into()]).collect();
        if let Some(identity) = &self.identity {
            options.extend(["-i".into(), identity.into()]);
        }
        Ok(options)
    }
}

/// Why haasd knows no key of a node's ssh server.
fn no_key(node: &Node) -> String {
    match node.state {
        NodeState::Ready | NodeState::Unreachable => format!(
            "haasd was told no key of its ssh server: its image has none, or an older haasd has booted it \
             (haasctl power cycle {})",
            node.name
        ),
        NodeState::Unmanaged
        | NodeState::Idle
        | NodeState::Off
        | NodeState::Switching
        | NodeState::HandedOver
        | NodeState::Fault => format!("it does not run what haasd has booted: {}", node.reason),
    }
}

/// A path as ssh_config(5) reads it.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use haas_api::node::HostKey;

    use super::*;
    use crate::status::tests::sample;

    fn access() -> Access {
        Access {
            login: "alice".to_owned(),
            known_hosts: "/home/al ice/100%".into(),
            identity: Some("key".into()),
            extra: vec!["Port=2222".to_owned(), "StrictHostKeyChecking=no".to_owned()],
        }
    }

    #[test]
    fn a_node_is_reached_at_its_address_and_checked_by_its_name_before_all_else() {
        let mut node = sample();
        node.observed.host_keys = vec![HostKey {
            key: "ssh-ed25519 AAAA".to_owned(),
            names: vec!["n01".to_owned()],
            certified_until: None,
        }];
        let options = access().options(&node).unwrap();
        let said: Vec<_> =
            options.iter().filter_map(|o| o.to_str()).filter(|o| *o != "-o").collect();
        assert!(said.contains(&"HostName=10.0.0.11") && said.contains(&"HostKeyAlias=n01"));
        assert!(said.contains(&"User=alice") && said.contains(&"Port=2222"), "{said:?}");
        assert_eq!(said[0], "UserKnownHostsFile=\"/home/al ice/100%%\"");
        let checks: Vec<_> = said.iter().filter(|o| o.starts_with("StrictHost")).collect();
        assert_eq!(*checks[0], "StrictHostKeyChecking=yes", "the first one counts");
        assert_eq!(said[said.len() - 2..], ["-i", "key"]);
    }

    #[test]
    fn a_node_whose_key_nobody_knows_is_not_tried() {
        let mut node = sample();
        let why = access().options(&node).unwrap_err();
        assert!(why.contains("power cycle n01"), "{why}");
        node.state = NodeState::Off;
        node.reason = "off, as is wanted".to_owned();
        let why = access().options(&node).unwrap_err();
        assert!(why.contains("off, as is wanted"), "{why}");
        node.address = None;
        assert_eq!(access().options(&node).unwrap_err(), "it has no address yet");
    }
}
