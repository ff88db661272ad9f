//! A node's BMC: one `ipmi_sim` (OpenIPMI) that speaks real RMCP+, and the faults a BMC can have.
//!
//! ipmi_sim knows the cipher suites 0 to 3 only; ask for 3, or ipmitool wastes 10 s on finding out.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::chassis::{Entry, NodeConfig, read_log};
use crate::netns::Netns;
use crate::process::Process;
use crate::rack::Lifetime;
use crate::wait::wait_for;

pub const USER: &str = "admin";
pub const PASSWORD: &str = "s3cret";
pub const CIPHER_SUITE: u8 = 3;

/// How often the chassis was told what, since the rack started or since a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerCommands {
    pub on: usize,
    pub off: usize,
    pub reset: usize,
    /// ACPI power button.
    pub soft: usize,
    pub boot_device: usize,
}

/// One BMC of the rack.
#[derive(Debug)]
pub struct Bmc {
    /// Where it listens: IPMI over LAN, UDP.
    pub address: SocketAddr,
    netns: Netns,
    lifetime: Lifetime,
    node: NodeConfig,
    sim: Mutex<Option<Child>>,
    hub: Child,
}

impl Bmc {
    pub(crate) fn start(
        netns: &Netns,
        lifetime: Lifetime,
        ip: IpAddr,
        node: NodeConfig,
        chassis: &Path,
    ) -> Result<Bmc> {
        let state = node.dir.join(format!("bmc-{}", node.number));
        fs::create_dir_all(&state)?;
        fs::write(state.join("lan.conf"), lan_conf(ip, &node, chassis))?;
        fs::write(state.join("cmd.emu"), CMD_EMU)?;
        let address = SocketAddr::new(ip, 623);
        let netns = netns.clone();
        let serial = node.serial;
        let mut hub = netns.command(chassis);
        hub.arg(node.config_file()).arg("hub").stdin(Stdio::null()).stdout(Stdio::null());
        hub.stderr(File::create(state.join("hub"))?);
        let hub = lifetime.spawn(hub).context("cannot start the serial line")?;
        let bmc = Bmc { address, netns, lifetime, node, sim: Mutex::new(None), hub };
        // ipmi_sim tries to connect once, when it starts.
        wait_for("the serial line", Duration::from_secs(10), || {
            bmc.netns.run(|| TcpStream::connect(serial).is_ok()).unwrap_or(false)
        })?;
        bmc.plug_in()?;
        Ok(bmc)
    }

    /// Runs `ipmitool` against this BMC and returns what it printed.
    pub fn ipmitool(&self, args: &[&str]) -> Result<String> {
        let output = self.ipmitool_command(args).output().context("cannot run ipmitool")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("ipmitool {} to the BMC of {} failed: {said}", args.join(" "), self.node.name);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command of [`Bmc::ipmitool`], for what runs longer, e.g. `sol activate`.
    pub fn ipmitool_command(&self, args: &[&str]) -> Command {
        let mut command = self.netns.command("ipmitool");
        command.args(["-I", "lanplus", "-C", &CIPHER_SUITE.to_string()]);
        command.args(["-H", &self.address.ip().to_string(), "-U", USER]);
        // Not as an argument, where every user of the machine could read it.
        command.arg("-E").env("IPMI_PASSWORD", PASSWORD).args(args);
        command
    }

    /// All set commands that reached the chassis.
    pub fn commands(&self) -> Vec<Entry> {
        read_log(&self.node.command_log())
    }

    /// Counts the set commands since the rack started.
    pub fn power_commands(&self) -> PowerCommands {
        self.power_commands_since(SystemTime::UNIX_EPOCH)
    }

    /// Counts the set commands that came at or after `start`.
    pub fn power_commands_since(&self, start: SystemTime) -> PowerCommands {
        let mut count = PowerCommands::default();
        for entry in self.commands().iter().filter(|entry| entry.at >= start) {
            match entry.command.as_str() {
                "set power 1" => count.on += 1,
                "set power 0" => count.off += 1,
                "set reset 1" => count.reset += 1,
                "set shutdown 1" => count.soft += 1,
                other if other.starts_with("set boot ") => count.boot_device += 1,
                _ => {}
            }
        }
        count
    }

    /// The BMC hangs: it holds its port and answers nothing. The node stays as it is.
    pub fn silence(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Ends [`Bmc::silence`]. What was asked in between is answered now.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// From now on each set command takes `delay`, during which the BMC answers nothing. A client that
    /// asks again meanwhile is heard twice. Zero ends it.
    pub fn slow_down(&self, delay: Duration) -> Result<()> {
        Ok(fs::write(self.node.slow_file(), delay.as_millis().to_string())?)
    }

    /// The BMC itself loses power; its port is closed. The node stays as it is.
    pub fn unplug(&self) {
        if let Some(mut sim) = self.lock().take() {
            // Fails only if it has ended by itself, which is what we want.
            let _ = sim.kill();
            let _ = sim.wait();
        }
    }

    /// Starts the BMC, again if it was unplugged. Returns when it answers.
    pub fn plug_in(&self) -> Result<()> {
        self.unplug();
        let state = self.node.dir.join(format!("bmc-{}", self.node.number));
        let log = File::options().create(true).append(true).open(state.join("output"))?;
        let mut command = self.netns.command("ipmi_sim");
        command.current_dir(&state);
        command.args(["-c", "lan.conf", "-f", "cmd.emu", "-s", ".", "-n"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *self.lock() =
            Some(self.lifetime.spawn(command).context("cannot run ipmi_sim (package openipmi)")?);
        wait_for(
            &format!("the BMC of {} to answer", self.node.name),
            Duration::from_secs(20),
            || self.ipmitool(&["chassis", "power", "status"]).is_ok(),
        )
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = self.lock().as_ref().and_then(|sim| Process::of(sim.id())) {
            process.signal(signal);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        // A panic elsewhere leaves the handle as it was.
        self.sim.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::OfThisProcess {
            self.unplug();
            // Fails only if it has ended already.
            let _ = self.hub.kill();
            let _ = self.hub.wait();
        }
    }
}

fn lan_conf(ip: IpAddr, node: &NodeConfig, chassis: &Path) -> String {
    let levels = ["callback", "user", "operator", "admin"];
    let auths: String = levels
        .iter()
        .map(|level| format!("    allowed_auths_{level} none md2 md5 straight\n"))
        .collect();
    format!(
        "name \"{name}\"\n\
         set_working_mc 0x20\n\
         \x20 startlan 1\n\
         \x20   addr {ip} 623\n\
         \x20   priv_limit admin\n\
         {auths}\
         \x20   guid a123456789abcdefa123456789ab{number:04x}\n\
         \x20 endlan\n\
         \x20 chassis_control \"{chassis} {config}\"\n\
         \x20 sol \"tcp:{serial}\" 115200 history=16384\n\
         \x20 user 1 false \"\" \"\" user 10 none md2 md5 straight\n\
         \x20 user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n",
        name = node.name,
        number = node.number,
        chassis = chassis.display(),
        config = node.config_file().display(),
        serial = node.serial,
    )
}

const CMD_EMU: &str = "\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
sel_enable 0x20 1000 0x0a
mc_enable 0x20
";
