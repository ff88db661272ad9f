//! The log of set commands: one line each, so that a test counts what reached the chassis.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::config::NodeConfig;

/// One command that the BMC passed to the chassis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: SystemTime,
    /// E.g. `set power 1`.
    pub command: String,
}

pub(super) fn append(node: &NodeConfig, command: &str) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let path = node.command_log();
    let mut file = File::options().create(true).append(true).open(&path)?;
    // One write, so that two calls at once do not mix their lines.
    let line = format!("{}.{:06} {command}\n", now.as_secs(), now.subsec_micros());
    file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// The commands of a log, oldest first; none if nothing was ever set.
pub fn read_log(path: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Entry> {
    let (time, command) = line.split_once(' ')?;
    let (seconds, micros) = time.split_once('.')?;
    let since =
        Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?);
    Some(Entry { at: UNIX_EPOCH + since, command: command.to_owned() })
}
