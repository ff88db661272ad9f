//! The node's BMC, as the program of haasd's `exec` power driver: `power FOLDER VERB`.
//!
//! Every command is logged before it is done, so that tests count what haasd asked for. Switching on
//! starts the node's process, in a session of its own; switching off kills it.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::folder::{Bmc, Folder};

/// The node's process, known by its start too, since ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: i32,
    started: u64,
}

/// Does what `verb` says; `program` is this binary, which can also `run` a node.
pub fn command(folder: &Folder, verb: &str, program: &Path) -> Result<()> {
    folder.append("power.log", verb)?;
    let bmc = folder.behaviour()?.bmc;
    match bmc {
        Bmc::Works | Bmc::OffIsStuck => {}
        Bmc::Fails => bail!("simulated BMC: chassis command refused"),
        Bmc::Hangs => loop {
            std::thread::park();
        },
    }
    let lock = File::create(folder.path().join("power.lock"))?;
    lock.lock()?;
    match verb {
        "on" => on(folder, program),
        "off" if bmc == Bmc::OffIsStuck => Ok(()),
        "off" => off(folder),
        "soft" => {
            fs::write(folder.path().join("soft"), "")?;
            Ok(())
        }
        "status" => {
            let word = if is_on(folder)? { "on" } else { "off" };
            Ok(writeln!(std::io::stdout(), "{word}")?)
        }
        "bootdev-pxe" | "bootdev-disk" => {
            fs::write(folder.path().join("bootdev"), verb.trim_start_matches("bootdev-"))?;
            Ok(())
        }
        _ => bail!("{verb:?} is none of on, off, soft, status, bootdev-pxe, bootdev-disk"),
    }
}

/// Whether the node is on.
pub fn is_on(folder: &Folder) -> Result<bool> {
    Ok(process(folder)?.is_some())
}

/// Cuts the node's power, as a person at its plug does: in no log.
pub fn off(folder: &Folder) -> Result<()> {
    let Some(process) = process(folder)? else { return Ok(()) };
    kill(Pid::from_raw(process.pid), Signal::SIGKILL).or_else(|e| match e {
        nix::Error::ESRCH => Ok(()),
        other => Err(other),
    })?;
    let end = Instant::now() + Duration::from_secs(10);
    while started(process.pid) == Some(process.started) {
        if Instant::now() > end {
            bail!("the node's process {} does not end", process.pid);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Freezes the node: it is on and does nothing any more, as one whose kernel hangs.
pub fn freeze(folder: &Folder) -> Result<()> {
    let process = process(folder)?.context("the node is off")?;
    Ok(kill(Pid::from_raw(process.pid), Signal::SIGSTOP)?)
}

/// Lets a frozen node go on.
pub fn thaw(folder: &Folder) -> Result<()> {
    let process = process(folder)?.context("the node is off")?;
    Ok(kill(Pid::from_raw(process.pid), Signal::SIGCONT)?)
}

/// Switches the node on, as a person at its button does: in no log.
pub fn on(folder: &Folder, program: &Path) -> Result<()> {
    if is_on(folder)? {
        return Ok(());
    }
    // Both are for one power-on only.
    for name in ["soft", "booted-from"] {
        let _ = fs::remove_file(folder.path().join(name));
    }
    let _ = fs::rename(folder.path().join("bootdev"), folder.path().join("booted-from"));
    let log = File::options().create(true).append(true).open(folder.path().join("node.log"))?;
    let mut command = Command::new(program);
    command.arg("run").arg(folder.path());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Whoever ends haasd's power command and its group does not mean the node.
    command.process_group(0);
    let child = command.spawn().context("cannot start the node")?;
    let pid = i32::try_from(child.id())?;
    let started = started(pid).context("the node ended at once")?;
    folder.write("process.json", &Process { pid, started })
}

fn process(folder: &Folder) -> Result<Option<Process>> {
    let known: Option<Process> = folder.read("process.json")?;
    Ok(known.filter(|p| started(p.pid) == Some(p.started)))
}

/// The start time of a living process, in clock ticks since boot. A zombie does not live.
fn started(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    match *fields.first()? {
        "Z" | "X" | "x" => None,
        _ => fields.get(19)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::{Behaviour, NodeConfig};

    #[test]
    fn every_command_is_logged_also_those_that_fail() {
        let path = std::env::temp_dir().join(format!("sim-power-{}", std::process::id()));
        let config = NodeConfig { mac: String::new(), netns: String::new(), owner: None };
        let folder = Folder::create(&path, &config).expect("a folder in /tmp");
        let nothing = Path::new("/nonexistent");
        command(&folder, "off", nothing).expect("off is off already");
        command(&folder, "fly", nothing).expect_err("no such verb");
        folder
            .set_behaviour(&Behaviour { bmc: Bmc::Fails, ..Behaviour::default() })
            .expect("its folder is there");
        command(&folder, "on", nothing).expect_err("the BMC fails");
        assert!(!is_on(&folder).expect("no process file is no error"));
        let verbs: Vec<_> = folder.power_lines().into_iter().map(|line| line.verb).collect();
        assert_eq!(verbs, ["off", "fly", "on"]);
        fs::remove_dir_all(path).expect("it was made above");
    }
}
