//! ssh without questions: the node's server shows a certificate of the cluster's authority, and its
//! users go to the other nodes of their set with keys that never leave this one.
//!
//! haasd signs public keys that this node has made itself. What a certificate is good for is haasd's
//! to say, so nothing here is secret but the private keys, which stay in the overlay.
//!
//! Files in the node's root are read and written by a process of its own, chrooted there, as
//! [`crate::identity`] does: before the image's init starts in the merged root, later in PID 1's.

mod config;
mod keys;
mod renewal;

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use haas_api::{
    agent::{BootPlan, SshCertificates, SshHostKey, SshKeys, SshUserKey},
    names::UserName,
};
use nix::unistd::{chdir, chroot};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub(crate) use config::write_client;
pub(crate) use keys::{fresh_host_keys, host_keys, make_user_key, user_files};
pub(crate) use renewal::Renewal;

/// `argv[0]` of the process that works in the node's root.
pub(crate) const NAME: &str = "@haas-ssh";

/// The root of a node whose init runs.
const RUNNING: &str = "/proc/1/root";

/// The public keys of a node, each with the private one's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    host: Vec<(PathBuf, SshHostKey)>,
    users: Vec<(PathBuf, SshUserKey)>,
}

impl Found {
    /// What haasd is told.
    pub(crate) fn keys(&self) -> SshKeys {
        SshKeys {
            host: self.host.iter().map(|(_, key)| key.clone()).collect(),
            users: self.users.iter().map(|(_, key)| key.clone()).collect(),
        }
    }
}

/// What the process is to do.
#[derive(Debug, Serialize, Deserialize)]
enum Task {
    Find { accounts: Vec<UserName> },
    Install { found: Found, certificates: SshCertificates, reload: bool },
}

/// Finds the node's public keys in a root.
pub(crate) fn find(root: &str, plan: &BootPlan) -> Result<Found, String> {
    run(root, &Task::Find { accounts: accounts(plan) })
}

/// Writes certificates beside the keys that they are for, and has the ssh server show them.
pub(crate) fn install(
    root: &str,
    found: Found,
    certificates: SshCertificates,
) -> Result<(), String> {
    let reload = root == RUNNING;
    run(root, &Task::Install { found, certificates, reload })
}

/// The accounts that have a key of their own for the other nodes: who may log in, and root.
pub(crate) fn accounts(plan: &BootPlan) -> Vec<UserName> {
    let mut names: Vec<_> = plan.logins.iter().map(|login| login.name.clone()).collect();
    if plan.logins.iter().any(|login| login.root) {
        names.extend("root".parse());
    }
    names
}

/// The line of `authorized_keys` that lets these users of the node's set in.
pub(crate) fn trust(plan: &BootPlan, names: &[&str]) -> Option<String> {
    let ssh = plan.ssh.as_ref()?;
    let set = ssh.set.as_ref()?;
    let principals: Vec<_> = names.iter().map(|name| format!("{set}/{name}")).collect();
    Some(format!("cert-authority,principals=\"{}\" {}", principals.join(","), ssh.user_ca))
}

/// The process itself: the root is its argument, the task comes on its standard input, and what it
/// has found goes to its standard output.
pub(crate) fn main(root: Option<std::ffi::OsString>) -> Result<(), String> {
    let task: Task =
        serde_json::from_reader(io::stdin().lock()).map_err(|e| format!("bad input: {e}"))?;
    let root = root.ok_or("no root is named")?;
    chroot(Path::new(&root))
        .and_then(|()| chdir("/"))
        .map_err(|e| format!("cannot enter the root: {e}"))?;
    match do_task(Path::new("/"), task)? {
        Some(found) => serde_json::to_writer(io::stdout().lock(), &found),
        None => serde_json::to_writer(io::stdout().lock(), &()),
    }
    .map_err(|e| format!("the result cannot be told: {e}"))
}

fn do_task(root: &Path, task: Task) -> Result<Option<Found>, String> {
    match task {
        Task::Find { accounts } => {
            keys::find(root, &accounts).map(Some).map_err(|e| format!("ssh keys: {e}"))
        }
        Task::Install { found, certificates, reload } => {
            config::install(root, &found, &certificates)
                .map_err(|e| format!("ssh certificates: {e}"))?;
            if reload {
                config::reload(root)?;
            }
            Ok(None)
        }
    }
}

fn run<T: DeserializeOwned>(root: &str, task: &Task) -> Result<T, String> {
    let lost = |e: io::Error| format!("the process for ssh: {e}");
    let mut child = Command::new("/init")
        .arg0(NAME)
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(lost)?;
    let text = serde_json::to_vec(task).map_err(|e| format!("cannot be encoded: {e}"))?;
    let sent = child.stdin.take().map(|mut pipe| pipe.write_all(&text));
    let output = child.wait_with_output().map_err(lost)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    sent.transpose().map_err(lost)?;
    serde_json::from_slice(&output.stdout).map_err(|e| format!("the process for ssh: {e}"))
}

#[cfg(test)]
mod tests {
    use haas_api::agent::{Login, SshPlan};

    use super::*;

    #[test]
    fn a_set_lets_in_its_own_users_by_name() {
        let mut plan = crate::channel::fake::plan(0);
        assert_eq!(trust(&plan, &["alice"]), None, "an older haasd has no authority");
        let ca = |name: &str| format!("ssh-ed25519 {name}");
        plan.ssh = Some(SshPlan { host_ca: ca("H"), user_ca: ca("U"), set: Some("o1".into()) });
        assert_eq!(
            trust(&plan, &["root", "alice"]).as_deref(),
            Some("cert-authority,principals=\"o1/root,o1/alice\" ssh-ed25519 U")
        );
        plan.ssh = Some(SshPlan { host_ca: ca("H"), user_ca: ca("U"), set: None });
        assert_eq!(trust(&plan, &["alice"]), None, "in a rescue nobody comes from elsewhere");
    }

    #[test]
    fn root_has_a_key_where_somebody_may_be_root() {
        let mut plan = crate::channel::fake::plan(0);
        assert_eq!(accounts(&plan), []);
        let login = |name: &str, root| Login {
            name: name.parse().expect("a name"),
            uid: 10_001,
            ssh_keys: Vec::new(),
            root,
            sudo: false,
        };
        plan.logins = vec![login("alice", false)];
        assert_eq!(accounts(&plan).len(), 1);
        plan.logins.push(login("bob", true));
        let names: Vec<_> = accounts(&plan).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["alice", "bob", "root"]);
    }
}
