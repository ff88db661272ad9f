//! People of a rack: each has an ssh key pair in the rack's directory and logs in to nodes with it.
//!
//! The ssh client is OpenSSH's, as a user's would be, with nothing of this machine's own settings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::haasd::Output;
use crate::node::Node;
use crate::rack::Rack;
use crate::wait::wait_some;

/// How long an ssh server may take to come up on a node that is ready.
const SERVER: Duration = Duration::from_secs(60);

/// Somebody with a key.
#[derive(Clone, Debug)]
pub struct Person<'rack> {
    pub name: String,
    rack: &'rack Rack,
    key: PathBuf,
}

impl<'rack> Person<'rack> {
    /// Makes the person's key, unless there is one already.
    pub fn new(rack: &'rack Rack, name: &str) -> Result<Person<'rack>> {
        let keys = rack.dir().join("keys");
        fs::create_dir_all(&keys)?;
        let key = keys.join(name);
        if !key.exists() {
            let mut command = rack.command("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&key);
            Output::of(&mut command)?.ok().context("ssh-keygen (openssh-client)")?;
        }
        Ok(Person { name: name.to_owned(), rack, key })
    }

    /// The file with the public key.
    pub fn public_key(&self) -> PathBuf {
        self.key.with_extension("pub")
    }

    /// Runs a shell command on a node, logged in as `login` with this person's key and no other. An
    /// ssh server that is not up yet is tried again for a while; a key that it refuses is not.
    pub fn ssh(&self, node: &Node, login: &str, command: &str) -> Result<Output> {
        Output::of(&mut self.ssh_command(node, login, command)?)
    }

    /// The command of [`Person::ssh`], for a caller who does not wait for its end.
    pub fn ssh_command(&self, node: &Node, login: &str, command: &str) -> Result<Command> {
        let mut ssh = self.rack.command("ssh");
        ssh.arg("-F").arg(client_config(self.rack)?).arg("-i").arg(&self.key);
        ssh.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
        ssh.args(["-o", "ConnectTimeout=10", "-o", "ConnectionAttempts=30"]);
        ssh.arg(format!("{login}@{}", node.name)).arg(command);
        Ok(ssh)
    }

    /// Like [`Person::ssh`], but at the node's address, and only if the node's key is known from the
    /// lines of this file: nothing else is trusted, and nothing is asked.
    pub fn ssh_known(
        &self,
        node: &Node,
        login: &str,
        command: &str,
        known_hosts: &Path,
    ) -> Result<Output> {
        let mut ssh = self.rack.command("ssh");
        ssh.args(["-F", "none", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-i"]);
        ssh.arg(&self.key).args(["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=30"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
        ssh.args(["-o", "GlobalKnownHostsFile=/dev/null"]);
        ssh.arg(format!("{login}@{}", node.address)).arg(command);
        Output::of(&mut ssh)
    }

    /// The file with the private key.
    pub fn private_key(&self) -> &Path {
        &self.key
    }

    /// Like [`Person::ssh`] as root, which must succeed; returns what was printed.
    pub fn root(&self, node: &Node, command: &str) -> Result<String> {
        let what = || format!("{} as root on {}: {command}", self.name, node.name);
        Ok(self.ssh(node, "root", command)?.ok().with_context(what)?.stdout)
    }
}

/// The key that a node's ssh server shows to whoever connects. A server that is not up yet is waited
/// for.
pub fn host_key(rack: &Rack, node: &Node) -> Result<String> {
    let mut said = String::new();
    wait_some(&format!("the ssh server of {}", node.name), SERVER, || {
        let mut scan = rack.command("ssh-keyscan");
        scan.args(["-t", "ed25519", "-T", "10", &node.address.to_string()]);
        let output = Output::of(&mut scan).ok()?;
        said = output.stderr;
        let key = output.stdout.lines().find(|line| !line.starts_with('#'))?;
        key.split_whitespace().nth(2).map(str::to_owned)
    })
    .with_context(|| format!("ssh-keyscan says: {said}"))
}

/// Writes an ssh configuration that knows the nodes by name, and returns its place. Each overlay has
/// its own host keys, which a rack is too short-lived to remember.
pub fn client_config(rack: &Rack) -> Result<PathBuf> {
    let path = rack.dir().join("ssh_config");
    if !path.exists() {
        let nodes: String = rack
            .nodes()
            .iter()
            .map(|node| format!("Host {}\n  HostName {}\n", node.name, node.address))
            .collect();
        fs::write(&path, nodes + HOST_KEYS)?;
    }
    Ok(path)
}

/// A shell's start file with which what the demo shows can be typed as it stands there: enter by
/// `bash --rcfile FILE` in the rack's namespace.
pub fn shell_file(rack: &Rack, programs: &Path, haasctl_config: &Path) -> Result<PathBuf> {
    let config = client_config(rack)?;
    let keys = rack.dir().join("keys");
    let mut text = format!(
        "cd {}\nexport HAASCTL_CONFIG={}\nexport PATH={}:$PATH\nPS1='(rack {}) \\$ '\n",
        rack.dir().display(),
        haasctl_config.display(),
        programs.display(),
        rack.name()
    );
    let identities: String = fs::read_dir(&keys)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_none())
        .map(|path| format!(" -i {}", path.display()))
        .collect();
    text += &format!("alias ssh='ssh -F {}{identities}'\n", config.display());
    let path = rack.dir().join("shell");
    fs::write(&path, text)?;
    Ok(path)
}

const HOST_KEYS: &str = "\
Host *
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
";
