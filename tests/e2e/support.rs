//! What the fault suites share: a rack with haasd, an image and two users, and the questions that
//! they ask again and again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Haasd, Output, Rack, files, wait_for, wait_some};

/// Generous: the machine may be shared, and QEMU emulates every instruction.
pub(crate) const BOOT: Duration = Duration::from_secs(150);
/// For what needs no boot.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A rack on which haasd is ready to switch nodes to `minimal`.
pub(crate) struct Lab<'r> {
    pub(crate) rack: &'r Rack,
    pub(crate) haasd: Haasd<'r>,
}

impl<'r> Lab<'r> {
    /// Starts haasd with the rack's usual files and builds the image.
    pub(crate) fn start(rack: &'r Rack) -> Result<Lab<'r>> {
        Lab::start_with(rack, "", files::nodes_toml(rack)?)
    }

    /// The same with lines at the end of haasd.toml and with another inventory.
    pub(crate) fn start_with(rack: &'r Rack, config: &str, nodes: String) -> Result<Lab<'r>> {
        Lab::start_on(rack, &format!("{}{config}", files::haasd_toml(rack)?), &nodes)
    }

    /// The same with another haasd.toml.
    pub(crate) fn start_on(rack: &'r Rack, config: &str, nodes: &str) -> Result<Lab<'r>> {
        let lab = Lab { rack, haasd: Haasd::start(rack, config, nodes)? };
        let state = rack.dir().join("state");
        let fingerprint = std::fs::read_to_string(state.join("fingerprint"))?;
        let token = state.join("admin.token");
        let token = token.to_str().context("the rack's directory is plain text")?;
        let url = format!("https://{}:8443", tests::CONTROLLER);
        let pin = fingerprint.trim();
        lab.ok(&[
            "context",
            "add",
            "rack",
            "--url",
            &url,
            "--fingerprint",
            pin,
            "--token-file",
            token,
            "--use",
        ])?;
        let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/minimal");
        lab.ok(&["image", "build", recipe])?;
        for user in ["alice", "bob"] {
            lab.add_user(user)?;
        }
        lab.ok(&["node", "manage", "@all"])?;
        Ok(lab)
    }

    fn key(&self, user: &str) -> PathBuf {
        self.rack.dir().join(format!("{user}.key"))
    }

    fn add_user(&self, user: &str) -> Result<()> {
        let key = self.key(user);
        let mut make = std::process::Command::new("dropbearkey");
        let made = make.args(["-t", "ed25519", "-f"]).arg(&key).output()?;
        let text = String::from_utf8(made.stdout)?;
        let public = text.lines().find(|line| line.starts_with("ssh-ed25519"));
        let file = self.haasd.write(
            &format!("{user}.pub"),
            format!("{}\n", public.with_context(|| format!("dropbearkey printed {text:?}"))?),
        )?;
        let file = file.to_str().context("the rack's directory is plain text")?.to_owned();
        self.ok(&["user", "add", user, "--keys", &file])?;
        self.ok(&["overlay", "create", &format!("{user}/work")])?;
        Ok(())
    }

    /// haasctl, which must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Result<Output> {
        self.haasd.ctl(args)?.ok().with_context(|| format!("haasctl {}", args.join(" ")))
    }

    /// haasctl, which must fail with this code; all that it printed.
    pub(crate) fn refused(&self, code: i32, args: &[&str]) -> Result<String> {
        let output = self.haasd.ctl(args)?;
        let text = format!("{}{}", output.stdout, output.stderr);
        let line = args.join(" ");
        ensure!(output.code == Some(code), "haasctl {line}: {:?}, not {code}: {text}", output.code);
        Ok(text)
    }

    /// haasctl's answer as data.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.ok(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {}", output.stdout))
    }

    /// What `node show` says.
    pub(crate) fn node(&self, name: &str) -> Result<Value> {
        self.json(&["node", "show", name])
    }

    /// The node's state, in its one word.
    pub(crate) fn state(&self, name: &str) -> String {
        let node = self.node(name).unwrap_or_default();
        node["state"].as_str().unwrap_or("unknown").to_owned()
    }

    /// Starts a switch of one node to `minimal` and does not wait.
    pub(crate) fn switch(&self, nodes: &str, overlay: &str) -> Result<Output> {
        self.ok(&["switch", nodes, "--image", "minimal", "--overlay", overlay])
    }

    pub(crate) fn wait_ready(&self, name: &str) -> Result<()> {
        self.ready_within(name, BOOT)
    }

    pub(crate) fn ready_within(&self, name: &str, limit: Duration) -> Result<()> {
        let mut state = String::new();
        self.rack
            .wait_for(&format!("{name} to be ready"), limit, || {
                state = self.state(name);
                state == "ready" || state == "fault"
            })
            .with_context(|| format!("{name} is {state}"))?;
        let reason = self.node(name)?["reason"].clone();
        ensure!(state == "ready", "{name} is not ready but in fault: {reason}");
        Ok(())
    }

    /// Switches, and waits until all of `nodes` (plain names) are ready.
    pub(crate) fn bring_up(&self, nodes: &[&str], overlay: &str) -> Result<()> {
        self.switch(&nodes.join(","), overlay)?;
        nodes.iter().try_for_each(|node| self.wait_ready(node))
    }

    /// Waits for a fault and returns its reason, which must say all of `words`.
    pub(crate) fn wait_fault(&self, name: &str, words: &[&str]) -> Result<String> {
        self.rack.wait_for(&format!("a fault of {name}"), BOOT, || self.state(name) == "fault")?;
        let node = self.node(name)?;
        let reason = node["reason"].as_str().context("a node has a reason")?.to_owned();
        for word in words {
            ensure!(reason.contains(word), "the fault of {name} does not say {word:?}: {reason}");
        }
        Ok(reason)
    }

    /// Waits until `node show` gives a reason with all of `words`, in whatever state.
    pub(crate) fn wait_reason(&self, name: &str, words: &[&str]) -> Result<String> {
        let mut last = String::new();
        wait_some(&format!("{name} to say {words:?}"), BOOT, || {
            last = self.node(name).ok()?["reason"].as_str()?.to_owned();
            words.iter().all(|word| last.contains(word)).then(|| last.clone())
        })
        .with_context(|| format!("it says {last:?}"))
    }

    /// Powers a node off in order and waits for it.
    pub(crate) fn power_off(&self, name: &str) -> Result<()> {
        self.ok(&["power", "off", name, "--force", "--wait"])?;
        Ok(())
    }

    /// A command on a node, as that user. `root` comes in with alice's key.
    pub(crate) fn ssh_command(
        &self,
        user: &str,
        name: &str,
        line: &str,
    ) -> Result<std::process::Command> {
        let node = self.rack.nodes().iter().find(|node| node.name == name);
        let address = node.with_context(|| format!("the rack has no {name}"))?.address;
        let key = self.key(if user == "root" { "alice" } else { user });
        let mut ssh = self.rack.command("timeout");
        // A home of its own keeps the hosts' keys out of root's.
        ssh.env("HOME", self.rack.dir());
        ssh.args(["-k", "5", "180", "dbclient", "-y", "-y", "-T", "-i"]).arg(key);
        ssh.arg(format!("{user}@{address}")).arg(line).stdin(std::process::Stdio::null());
        Ok(ssh)
    }

    /// Runs a command on a node as that user and returns what it printed; it must succeed.
    pub(crate) fn ssh(&self, user: &str, name: &str, line: &str) -> Result<String> {
        let output = self.ssh_any(user, name, line)?;
        Ok(output.ok().with_context(|| format!("{user}@{name}: {line}"))?.stdout)
    }

    /// The same, however it ends. Tried again while the node's sshd comes up.
    pub(crate) fn ssh_any(&self, user: &str, name: &str, line: &str) -> Result<Output> {
        let mut last = None;
        let comes_up = wait_for(&format!("the sshd of {name}"), SOON, || {
            let output = self.ssh_command(user, name, line).map(|mut ssh| ssh.output());
            let Ok(Ok(output)) = output else { return false };
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let refused = stderr.contains("Connection refused");
            last = Some(Output {
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr,
                code: output.status.code(),
            });
            !refused
        });
        comes_up.with_context(|| format!("{last:?}"))?;
        last.context("it was run")
    }

    /// The state of the disk of this serial, as `disk list` shows it to people.
    pub(crate) fn disk_row(&self, name: &str, serial: &str) -> Result<String> {
        let list = self.ok(&["disk", "list", name])?.stdout;
        let row = list.lines().find(|line| line.contains(serial)).map(str::to_owned);
        row.with_context(|| format!("no disk {serial} in:\n{list}"))
    }
}

/// The rack's inventory with lines added to the stanza of one node.
pub(crate) fn with_lines(nodes: &str, name: &str, lines: &str) -> String {
    let at = format!("name = \"{name}\"\n");
    nodes.replace(&at, &format!("{at}{lines}\n"))
}

/// The boots of a node so far, newest or oldest first as haasd has them.
pub(crate) fn boots(lab: &Lab<'_>, name: &str) -> Result<Vec<Value>> {
    let list = lab.json(&["node", "boots", name])?;
    Ok(list["items"].as_array().context("a list of boots")?.clone())
}

/// Waits without a rack's consoles.
pub(crate) fn soon(what: &str, condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, SOON, condition)
}

/// A number of the environment, for a shorter or longer run.
pub(crate) fn number<T: std::str::FromStr>(variable: &str, usual: T) -> Result<T> {
    match std::env::var(variable) {
        Ok(text) => text.parse().ok().with_context(|| format!("{variable}={text} is no number")),
        Err(_) => Ok(usual),
    }
}
