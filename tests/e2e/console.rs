//! A node's serial console, from the kernel's first line to the login prompt, by haasctl.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Haasd, NodeHw, Rack, RackSpec, built, files, wait_for};

/// A boot takes minutes where many share two processors.
const BOOT: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(120);

struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_boot_is_watched_and_the_login_prompt_is_typed_at() -> Result<()> {
    Rack::with(RackSpec::new("sol", vec![NodeHw::default()]), |rack| {
        let config = files::haasd_toml(rack)? + "\n[console]\nlog = true\n";
        let haasd = Haasd::start(rack, &config, &files::nodes_toml(rack)?)?;
        let recipe = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/minimal");
        haasd.ctl(&["image", "build", &recipe.to_string_lossy()])?.ok()?;
        haasd.ctl(&["node", "manage", "node1"])?.ok()?;

        let screen = rack.dir().join("screen");
        let line = format!("{} console node1", built("haasctl")?.display());
        let mut command = rack.command("script");
        command.args(["-q", "-e", "-f", "-c", &line]).arg(&screen);
        command.env("HAASCTL_CONFIG", haasd.ctl_config());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut terminal = Terminal(command.spawn()?);
        let mut keys = terminal.0.stdin.take().context("piped")?;
        let seen = || String::from_utf8_lossy(&fs::read(&screen).unwrap_or_default()).into_owned();
        let sees = |text: &str, limit: Duration| {
            let what = format!("{text:?} on the console");
            wait_for(&what, limit, || seen().contains(text)).with_context(seen)
        };
        sees("[console of node1, logged: you type", SOON)?;
        let mut switch = haasd.ctl_command()?;
        switch.args(["switch", "node1", "--image", "minimal", "--overlay", "none", "--wait"]);
        let mut switch = Terminal(switch.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        sees("Linux version", BOOT)?;
        sees("login: ", BOOT)?;
        ensure!(switch.0.wait()?.success(), "the switch failed");
        // The node was handed over to whoever switched it: he takes the keys anew.
        keys.write_all(b"~t")?;
        wait_for("the keys", SOON, || seen().matches("[you type]").count() > 0)
            .with_context(seen)?;
        keys.write_all(b"root\r")?;
        sees("Password: ", SOON)?;
        keys.write_all(b"wrong\r")?;
        // Nobody comes in by a password; busybox says so in its own words, and asks again.
        wait_for("another prompt", SOON, || seen().matches("node1 login: ").count() > 1)
            .with_context(seen)?;
        keys.write_all(b"~.")?;
        ensure!(terminal.0.wait()?.success());

        let log = haasd.ctl(&["console", "--log", "node1", "--lines", "10000"])?.ok()?.stdout;
        for text in ["Linux version", "node1 login: ", "Password: "] {
            ensure!(log.contains(text), "{text:?} is not logged:\n{log}");
        }
        ensure!(!log.contains('\u{1b}'), "the log does something to a terminal");
        // The BMC's one session served the power commands of the boot too.
        ensure!(node_power_was_ordered(rack)?, "the node was not switched on by its BMC");
        Ok(())
    })
}

fn node_power_was_ordered(rack: &Rack) -> Result<bool> {
    Ok(rack.node(1).bmc.power_commands().on == 1)
}
