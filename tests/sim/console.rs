//! Consoles by the real programs: haasctl in a terminal, haasd, and a BMC that speaks serial over LAN.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Lines, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use haas_api::{console::ConsoleLine, node::NodeState};
use tests::{CONTROLLER, Haasd, Rack, built, files, wait_for, wait_some};

use crate::rack::{Controller, LONG, QUICK, SimRack, copy_tree, request, seed};

/// A BMC in the rack, and what its machine is to print.
pub(crate) struct Bmc {
    child: Child,
    orders: ChildStdin,
    /// Its answers are for nobody, but without a reader it ends.
    _said: Lines<BufReader<ChildStdout>>,
}

impl Bmc {
    pub(crate) fn start(rack: &Rack, port: u16) -> Result<Bmc> {
        let mut command = rack.command(built("haas-sim-bmc")?);
        command.args(["1", &format!("{CONTROLLER}:{port}")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("piped")?;
        let mut said = BufReader::new(child.stdout.take().context("piped")?).lines();
        while said.next().context("it has ended")?? != "ready" {}
        Ok(Bmc { child, orders, _said: said })
    }

    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(self.orders, "say {text}")?)
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// haasctl in a terminal, by script(1).
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: PathBuf,
}

impl Terminal {
    fn start(haasd: &Haasd<'_>, rack: &Rack, name: &str, args: &str) -> Result<Terminal> {
        let screen = rack.dir().join(name);
        let config = haasd.ctl_config();
        let line = format!("{} console {args}", built("haasctl")?.display());
        let mut command: Command = rack.command("script");
        command.args(["-q", "-e", "-f", "-c", &line]).arg(&screen).env("HAASCTL_CONFIG", config);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create("/dev/null")?);
        let mut child = command.spawn().context("cannot run script (package bsdutils)")?;
        let keys = child.stdin.take().context("piped")?;
        Ok(Terminal { child, keys, screen })
    }

    fn type_keys(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.screen).unwrap_or_default()).into_owned()
    }

    fn sees(&self, text: &str) -> Result<()> {
        let waited =
            wait_for(&format!("{text:?} on the screen"), LONG, || self.seen().contains(text));
        waited.with_context(|| self.seen())
    }

    fn ends(&mut self) -> Result<i32> {
        let child = &mut self.child;
        let status = wait_some("haasctl to end", LONG, || child.try_wait().ok().flatten())?;
        status.code().context("by a signal")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_console_is_typed_on_taken_over_and_logged_and_a_fault_carries_its_last_lines()
-> Result<()> {
    const PORT: u16 = 6230;
    let sim = SimRack::start("console", 0)?;
    let rack = &sim.rack;
    let mut bmc = Bmc::start(rack, PORT)?;
    copy_tree(seed()?, &rack.dir().join("state"))?;
    let config = format!("{}{QUICK}\n[console]\nlog = true\n", files::haasd_toml(rack)?);
    fs::write(rack.dir().join("bmc-password"), "s3cret")?;
    let nodes = format!(
        "[[node]]\nname = \"n1\"\nmac = \"52:54:00:77:01:01\"\naddress = \"10.77.0.11\"\npower = {{ driver = \"ipmi\", \
         address = \"{CONTROLLER}\", port = {PORT}, user = \"admin\", password_file = \"bmc-password\" }}\n"
    );
    let mut haas = Controller { haasd: Haasd::start(rack, &config, &nodes)?, sim: &sim };
    haas.manage("n1", true)?;

    let mut first = Terminal::start(&haas.haasd, rack, "first", "n1")?;
    first.sees("console of n1, logged: you type")?;
    first.sees("sim login: ")?;
    first.type_keys("from-the-first\r")?;
    first.sees("from-the-first\r")?;
    let mut second = Terminal::start(&haas.haasd, rack, "second", "n1")?;
    second.sees("admin types, ~t takes over")?;
    second.sees("from-the-first\r")?;
    second.type_keys("~t")?;
    second.sees("[you type]")?;
    first.sees("admin types, ~t takes over")?;
    second.type_keys("from-the-second\r~B")?;
    first.sees("from-the-second\r")?;
    first.sees("<BREAK>")?;

    // Nothing calls haasd: the boot fails, and what was printed before says why.
    let operation = haas.switch_as(request("n1", "none")?)??;
    second.sees("nobody types, ~t to type")?;
    for line in 0..60 {
        bmc.say(&format!("{line}: no bootable device"))?;
    }
    second.sees("59: no bootable device")?;
    haas.over(&operation.id)?;
    let node = haas.node("n1")?;
    ensure!(node.state == NodeState::Fault, "{node:?}");
    ensure!(node.console.len() == 50, "{:?}", node.console);
    ensure!(node.console.last().is_some_and(|line| line == "59: no bootable device"), "{node:?}");
    let shown = haas.haasd.ctl(&["node", "show", "n1"])?.ok()?.stdout;
    ensure!(shown.contains("its console before the fault:\n  10: no bootable device\n"), "{shown}");

    // haasctl outlives a haasd that is killed, whose console at the BMC is taken; the log has the gap.
    haas.haasd.kill()?;
    second.sees("trying again, ~. ends]")?;
    haas.haasd.launch()?;
    wait_for("the second to be back", LONG, || {
        second.seen().matches("[console of n1").count() > 1
    })?;
    second.type_keys("\r~t")?;
    second.sees("[connected]")?;
    second.type_keys("\r~.")?;
    ensure!(second.ends()? == 0);
    first.type_keys("\r~.")?;
    ensure!(first.ends()? == 0);
    let arguments = ["console", "--log", "n1", "--lines", "1000", "-o", "json"];
    let output = haas.haasd.ctl(&arguments)?.ok()?.stdout;
    let lines = output.lines().map(serde_json::from_str::<ConsoleLine>);
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    let has =
        |mark: bool, text: &str| lines.iter().any(|l| l.mark == mark && l.text.contains(text));
    ensure!(has(false, "from-the-first") && has(false, "0: no bootable device"), "{lines:?}");
    ensure!(has(true, "another tenant's") && has(true, "another session"), "{lines:?}");
    Ok(())
}
