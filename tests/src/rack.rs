//! The rack: builds namespace, bridge, nodes and BMCs, and takes them down, also a crashed one's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::bmc::Bmc;
use crate::chassis::{DiskConfig, NicConfig, NodeConfig};
use crate::console::Console;
use crate::detour;
use crate::disk::Disk;
use crate::foreign;
use crate::hardware::{Firmware, NicModel, NodeHw, RackSpec};
use crate::impostor;
use crate::netns::Netns;
use crate::node::Node;
use crate::sys;

/// The controller's address, on `br0`. Node N is at .10+N, its BMC at .100+N; .200 to .250 are the pool.
pub const CONTROLLER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// How long a rack lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Ends when its [`Rack`] is dropped and when this process ends, in whatever way.
    OfThisProcess,
    /// Stays up after [`Rack::leave_up`] until [`Rack::take_down`], or a new rack of its name.
    UntilTakenDown,
}

impl Lifetime {
    /// Starts a process that lives as long as the rack is meant to.
    pub(crate) fn spawn(self, command: Command) -> io::Result<Child> {
        match self {
            Lifetime::OfThisProcess => sys::spawn(command),
            Lifetime::UntilTakenDown => sys::spawn_detached(command),
        }
    }
}

/// A running rack.
#[derive(Debug)]
pub struct Rack {
    name: String,
    dir: PathBuf,
    netns: Netns,
    nodes: Vec<Node>,
    lifetime: Lifetime,
    left_up: bool,
    /// Held locked; see [`NodeConfig::owner`].
    _owner: File,
}

impl Rack {
    /// Builds the rack, all nodes off, after removing what an earlier one of this name left.
    pub fn start(spec: RackSpec) -> Result<Rack> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        ensure!(
            !spec.name.is_empty() && spec.name.len() <= 32 && spec.name.chars().all(plain),
            "a rack's name has 1 to 32 letters, digits and hyphens, unlike {:?}",
            spec.name
        );
        ensure!(spec.nodes.len() <= 99, "a rack has at most 99 nodes of its own");
        Rack::take_down(&spec.name)?;
        match Rack::build(&spec) {
            Ok(rack) => Ok(rack),
            Err(error) => {
                // The first error is the one to tell.
                let _ = Rack::take_down(&spec.name);
                Err(error.context(format!("cannot build the rack {}", spec.name)))
            }
        }
    }

    /// Starts a rack, runs a test on it and takes it down. If the test fails, its error says where
    /// consoles and logs were kept.
    pub fn with<T>(spec: RackSpec, test: impl FnOnce(&Rack) -> Result<T>) -> Result<T> {
        let rack = Rack::start(spec)?;
        test(&rack).map_err(|error| match rack.keep_logs() {
            Ok(kept) => error.context(format!("consoles and logs are kept in {}", kept.display())),
            Err(lost) => error.context(format!("the logs could not be kept ({lost:#})")),
        })
    }

    /// Ends and removes a rack by name, whoever built it; fine if there is none.
    pub fn take_down(name: &str) -> Result<()> {
        Netns::remove(&detour::netns_name(name))?;
        Netns::remove(&impostor::netns_name(name))?;
        Netns::remove(&foreign::netns_name(name))?;
        Netns::remove(&netns_name(name))?;
        let dir = work_dir(name);
        unmount_below(&dir)?;
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    fn build(spec: &RackSpec) -> Result<Rack> {
        let dir = work_dir(&spec.name);
        fs::create_dir_all(&dir)?;
        let owner_path = dir.join("owner");
        let owner = File::create(&owner_path)?;
        owner.lock()?;
        // ipmi_sim splits its command at spaces, which the path of a checkout may have.
        let chassis = dir.join("haas-chassis");
        std::os::unix::fs::symlink(built("haas-chassis")?, &chassis)?;

        let mut addresses = vec![format!("{CONTROLLER}/24")];
        addresses.extend((1..=spec.nodes.len()).map(|n| format!("{}/24", in_rack(100 + n))));
        let netns = Netns::create(&netns_name(&spec.name), &addresses, spec.switch)?;

        let mut nodes = Vec::new();
        for (number, hardware) in (1..).zip(&spec.nodes) {
            let ip = IpAddr::from(in_rack(100 + number));
            let (mut config, disks) = node_config(&dir, number, hardware, ip)?;
            if spec.lifetime == Lifetime::OfThisProcess {
                config.owner = Some(owner_path.clone());
            }
            fs::write(config.config_file(), serde_json::to_string_pretty(&config)?)?;
            for nic in &config.nics {
                netns.add_tap(&nic.tap, spec.switch)?;
            }
            let bmc = Bmc::start(&netns, spec.lifetime, ip, config.clone(), &chassis)?;
            nodes.push(Node {
                name: config.name.clone(),
                mac: config.nics[hardware.boot_nic].mac.clone(),
                boot_nic: hardware.boot_nic,
                address: in_rack(10 + number),
                bmc,
                console: Console::new(config.console()),
                disks,
                netns: netns.clone(),
                config,
            });
        }
        let (name, lifetime) = (spec.name.clone(), spec.lifetime);
        Ok(Rack { name, dir, netns, nodes, lifetime, left_up: false, _owner: owner })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything of the rack lies here; a test may add its own files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The namespace's name, for `ip netns exec`.
    pub fn netns(&self) -> String {
        netns_name(&self.name)
    }

    pub(crate) fn namespace(&self) -> &Netns {
        &self.netns
    }

    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Node `number`, counted from 1.
    ///
    /// # Panics
    /// If the rack has no such node.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// A command that will run in the rack's namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.netns.command(program)
    }

    /// Runs `body` in a thread inside the namespace; sockets that it makes stay there.
    pub fn in_netns<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.run(body)
    }

    /// Lets a rack with [`Lifetime::UntilTakenDown`] run on without this process.
    pub fn leave_up(mut self) -> Result<()> {
        ensure!(self.lifetime == Lifetime::UntilTakenDown, "this rack ends with its process");
        self.left_up = true;
        Ok(())
    }

    /// Waits like [`crate::wait_for`]; the error ends with the last lines of every console.
    pub fn wait_for(
        &self,
        what: &str,
        limit: std::time::Duration,
        condition: impl FnMut() -> bool,
    ) -> Result<()> {
        crate::wait::wait_for(what, limit, condition).with_context(|| {
            let tail = |node: &Node| format!("--- {}\n{}\n", node.name, node.console.tail(15));
            format!("the consoles end with:\n{}", self.nodes.iter().map(tail).collect::<String>())
        })
    }

    /// Copies logs and consoles out of the work directory, which will go. Returns where to.
    pub fn keep_logs(&self) -> Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let kept = target_dir()?.join("rack-logs").join(format!("{}-{now}", self.name));
        fs::create_dir_all(&kept)?;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let wanted = path.extension().is_some_and(|e| e == "serial" || e == "log");
            if let (true, Some(name)) = (wanted, path.file_name()) {
                fs::copy(&path, kept.join(name))?;
            }
        }
        Ok(kept)
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        if self.left_up {
            return;
        }
        let mut stderr = io::stderr();
        if std::thread::panicking() {
            let _ = match self.keep_logs() {
                Ok(kept) => writeln!(stderr, "consoles and logs are kept in {}", kept.display()),
                Err(error) => writeln!(stderr, "cannot keep the consoles: {error:#}"),
            };
        }
        for node in &self.nodes {
            node.bmc.unplug();
        }
        if let Err(error) = Rack::take_down(&self.name) {
            let _ = writeln!(stderr, "the rack {} was not removed: {error:#}", self.name);
        }
    }
}

/// A binary of this workspace, built in the same profile as what runs now.
pub fn built(name: &str) -> Result<PathBuf> {
    let path = profile_dir()?.join(name);
    if !path.exists() {
        bail!("{} is not built; the suites that need it run by cargo xtask e2e", path.display());
    }
    Ok(path)
}

/// `target/debug`, found from our own place in it: binaries lie there, tests one folder deeper.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().context("this program lies in no folder")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_owned())
}

/// Cargo's target folder, where xtask also puts `agent.cpio.zst`.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("the profile's folder has a parent")?.to_owned())
}

/// The address 10.77.0.`last`.
fn in_rack(last: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(last).expect("a rack has at most 99 nodes"))
}

fn netns_name(rack: &str) -> String {
    format!("haas-{rack}")
}

/// Short, since a Unix socket's path has at most 107 bytes.
fn work_dir(rack: &str) -> PathBuf {
    std::env::temp_dir().join(format!("haas-rack-{rack}"))
}

fn node_config(
    dir: &Path,
    number: usize,
    hardware: &NodeHw,
    bmc: IpAddr,
) -> Result<(NodeConfig, Vec<Disk>)> {
    let name = format!("node{number}");
    let mut disks = Vec::new();
    let mut disk_configs = Vec::new();
    for (i, disk) in hardware.disks.iter().enumerate() {
        let file = dir.join(format!("{name}-disk{i}.raw"));
        disks.push(Disk::create(file.clone(), disk.bytes, &disk.content)?);
        disk_configs.push(DiskConfig {
            file,
            serial: disk.serial.clone(),
            model: disk.model,
            read_only: disk.read_only,
        });
    }
    let config = NodeConfig {
        name,
        number,
        dir: dir.to_owned(),
        owner: None,
        firmware: hardware.firmware,
        memory_mib: hardware.memory_mib,
        nics: hardware.nics.iter().enumerate().map(|(i, model)| nic(number, i, *model)).collect(),
        first_nic: hardware.first_nic,
        disks: disk_configs,
        shuffled_disks: hardware.shuffled_disks,
        self_test: hardware.self_test,
        clock: hardware.clock.clone(),
        serial: SocketAddr::new(bmc, 4000),
    };
    if hardware.firmware != Firmware::Bios {
        let fresh = match hardware.firmware {
            Firmware::UefiSecure => "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
            _ => "/usr/share/OVMF/OVMF_VARS_4M.fd",
        };
        fs::copy(fresh, config.uefi_variables()).with_context(|| format!("cannot copy {fresh}"))?;
    }
    Ok((config, disks))
}

/// A node's card number `i`, from 0.
fn nic(number: usize, i: usize, model: NicModel) -> NicConfig {
    let tap = if i == 0 { format!("tap{number}") } else { format!("tap{number}-{i}") };
    NicConfig { tap, mac: format!("52:54:00:77:{i:02x}:{number:02x}"), model }
}

/// Unmounts what a crashed daemon may have left mounted below the work directory.
fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    // Deeper ones come later in the table.
    below.reverse();
    for point in below {
        Command::new("umount").args(["-l", point]).status().context("cannot run umount")?;
    }
    Ok(())
}
