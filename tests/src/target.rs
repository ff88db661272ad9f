//! `haas-iscsi` as a process, which a test ends in every way and starts again.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::netns::Netns;
use crate::process::Process;
use crate::rack::{Rack, built};
use crate::sys;

/// A server of one image. It ends with the value.
#[derive(Debug)]
pub struct Target {
    netns: Netns,
    arguments: Vec<String>,
    child: Child,
}

impl Target {
    /// Serves `file` in the rack's namespace under the name `target`. Returns when it is ready.
    pub fn start(
        rack: &Rack,
        listen: &str,
        target: &str,
        file: &Path,
        options: &[&str],
    ) -> Result<Target> {
        Target::start_in(rack.namespace(), listen, target, file, options)
    }

    pub(crate) fn start_in(
        netns: &Netns,
        listen: &str,
        target: &str,
        file: &Path,
        options: &[&str],
    ) -> Result<Target> {
        let mut arguments = ["--listen", listen, "--target", target].map(str::to_owned).to_vec();
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        arguments.push(file.to_str().context("the image's path is plain text")?.to_owned());
        let child = spawn(netns.command(built("haas-iscsi")?), &arguments)?;
        Ok(Target { netns: netns.clone(), arguments, child })
    }

    /// Starts it again as it was.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_some(), "the target still runs");
        self.child = spawn(self.netns.command(built("haas-iscsi")?), &self.arguments)?;
        Ok(())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, as systemd does before an upgrade.
    pub fn terminate(&mut self) -> Result<()> {
        let process = Process::of(self.child.id()).context("the target does not run")?;
        process.signal(Signal::SIGTERM);
        crate::wait::wait_for("the target to end", Duration::from_secs(20), || {
            self.child.try_wait().is_ok_and(|status| status.is_some())
        })?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the target ended with {status}");
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(mut command: Command, arguments: &[String]) -> Result<Child> {
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = sys::spawn(command).context("cannot start haas-iscsi")?;
    let mut line = String::new();
    let out = child.stdout.take().context("haas-iscsi has a piped output")?;
    BufReader::new(out).read_line(&mut line)?;
    ensure!(line.starts_with("ready"), "haas-iscsi did not start: {line:?}");
    Ok(child)
}
