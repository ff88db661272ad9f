//! The rack's network namespace: a bridge, a tap per node, and the processes that live in it.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::hardware::SwitchHw;
use crate::process::Process;
use crate::sys;
use crate::wait::wait_for;

/// What passed through a node's tap, seen from the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub received_bytes: u64,
    pub received_packets: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
}

/// A network namespace of ours, named in /run/netns.
#[derive(Clone, Debug)]
pub(crate) struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    /// Makes the namespace with nothing in it but its loopback.
    pub(crate) fn create_empty(name: &str) -> Result<Netns> {
        ip(&["netns", "add", name])?;
        let netns = Netns::open(name)?;
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// One that is there.
    pub(crate) fn open(name: &str) -> Result<Netns> {
        let path = Path::new("/run/netns").join(name);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        Ok(Netns { name: name.to_owned(), file: Arc::new(file) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the namespace with the bridge `br0` in it, which has `addresses` (with prefix length).
    pub(crate) fn create(name: &str, addresses: &[String], switch: SwitchHw) -> Result<Netns> {
        let netns = Netns::create_empty(name)?;
        // Without a forwarding delay of zero the first DHCPDISCOVERs of a node are lost. The bridge has
        // an address of its own, or it would take another one with every tap that comes and goes.
        let bridge = ["link", "add", "br0", "address", "52:54:00:77:ff:01", "type", "bridge"];
        let (stp, delay) = match switch.forward_delay {
            Some(seconds) => ("1", (seconds * 100).to_string()),
            None => ("0", "0".to_owned()),
        };
        netns.ip(&[&bridge[..], &["forward_delay", &delay, "stp_state", stp]].concat())?;
        if let Some(mtu) = switch.mtu {
            netns.ip(&["link", "set", "br0", "mtu", &mtu.to_string()])?;
        }
        for address in addresses {
            netns.ip(&["address", "add", address, "dev", "br0"])?;
        }
        netns.ip(&["link", "set", "br0", "up"])?;
        Ok(netns)
    }

    /// Ends the processes in the namespace of this name and removes it; fine if there is none.
    pub(crate) fn remove(name: &str) -> Result<()> {
        if !Path::new("/run/netns").join(name).exists() {
            return Ok(());
        }
        wait_for(&format!("the processes of {name} to end"), Duration::from_secs(20), || {
            let left = pids(name);
            for process in &left {
                process.signal(nix::sys::signal::Signal::SIGKILL);
            }
            left.is_empty()
        })?;
        ip(&["netns", "delete", name])
    }

    pub(crate) fn add_tap(&self, tap: &str, switch: SwitchHw) -> Result<()> {
        self.ip(&["tuntap", "add", "dev", tap, "mode", "tap"])?;
        let mtu = switch.mtu.unwrap_or(1500).to_string();
        self.ip(&["link", "set", tap, "mtu", &mtu, "master", "br0", "up"])
    }

    /// The switch's port goes down, or up again: spanning tree then begins anew.
    pub(crate) fn set_port(&self, tap: &str, up: bool) -> Result<()> {
        self.ip(&["link", "set", tap, if up { "up" } else { "down" }])
    }

    /// Takes the tap out of the bridge: packets are lost, no end notices.
    pub(crate) fn cut(&self, tap: &str) -> Result<()> {
        self.ip(&["link", "set", tap, "nomaster"])
    }

    pub(crate) fn mend(&self, tap: &str) -> Result<()> {
        self.ip(&["link", "set", tap, "master", "br0"])
    }

    pub(crate) fn traffic(&self, tap: &str) -> Result<Traffic> {
        let text = ip_output(&["-n", &self.name, "-s", "-j", "link", "show", "dev", tap])?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let count = |direction: &str, what: &str| {
            links[0]["stats64"][direction][what]
                .as_u64()
                .with_context(|| format!("ip shows no {direction} {what} of {tap}"))
        };
        // What the namespace sends into the tap is what the node receives.
        Ok(Traffic {
            received_bytes: count("tx", "bytes")?,
            received_packets: count("tx", "packets")?,
            sent_bytes: count("rx", "bytes")?,
            sent_packets: count("rx", "packets")?,
        })
    }

    /// A command that will run in the namespace.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::enter_netns(&mut command, self.file.clone());
        command
    }

    /// Runs `body` in a thread that is in the namespace: sockets made there belong to it for good.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter the namespace {}", self.name))?;
                Ok(body())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip ARGS` in the namespace.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], args].concat())
    }
}

/// The processes of a namespace, as its owner sees them.
pub(crate) fn pids(name: &str) -> Vec<Process> {
    let listed = ip_output(&["netns", "pids", name]).unwrap_or_default();
    listed.lines().filter_map(|line| Process::of(line.trim().parse().ok()?)).collect()
}

pub(crate) fn ip(args: &[&str]) -> Result<()> {
    ip_output(args).map(drop)
}

fn ip_output(args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(args).output().context("cannot run ip (iproute2)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {} failed (a rack needs root): {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
