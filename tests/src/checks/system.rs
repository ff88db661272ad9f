//! What a node's user finds on it: every file, and who the node says that it is.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::rack::Rack;
use crate::ssh::{Person, host_key};

/// A node's system as one person sees it at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// What `/run/haas/rank` says.
    pub rank: String,
    pub machine_id: String,
    /// The key that its ssh server shows.
    pub host_key: String,
    /// One line per file, folder and link: mode, owner, size, time and name, and one with the
    /// SHA-256 of each file's bytes.
    files: BTreeSet<String>,
}

/// Prints rank and machine-id, then the files. The whole of /usr too: a change that an overlay lets
/// through from somewhere else would be seen.
const LOOK: &str = "\
cat /run/haas/rank /etc/machine-id
cd / && find etc home root usr -xdev -exec stat -c '%f %u:%g %s %Y %N' {} +
find etc home root usr -xdev -type f -exec sha256sum {} +";

impl System {
    /// Looks at a node, as root.
    pub fn look(rack: &Rack, person: &Person<'_>, node: &Node) -> Result<System> {
        let host_key = host_key(rack, node)?;
        let text = person.root(node, LOOK)?;
        let mut lines = text.lines().map(str::to_owned);
        let rank = lines.next().context("no rank")?;
        let machine_id = lines.next().context("no machine-id")?;
        let files: BTreeSet<String> = lines.collect();
        ensure!(machine_id.len() == 32, "{} has the machine-id {machine_id:?}", node.name);
        ensure!(files.len() > 500, "{} shows only {} files", node.name, files.len());
        Ok(System { rank, machine_id, host_key, files })
    }

    /// How many files, folders and links there are.
    pub fn count(&self) -> usize {
        self.files.iter().filter(|line| !is_hash(line)).count()
    }

    /// The lines that only one of both has.
    pub fn differences<'a>(&'a self, other: &'a System) -> Vec<&'a str> {
        self.files.symmetric_difference(&other.files).map(String::as_str).collect()
    }

    /// How many files, folders and links are new, gone or changed.
    pub fn changes(&self, other: &System) -> usize {
        let names: BTreeSet<&str> = self.differences(other).into_iter().map(name).collect();
        names.len()
    }

    /// Fails if any file differs.
    pub fn is_same(&self, other: &System) -> Result<()> {
        let differences = self.differences(other);
        let shown = &differences[..differences.len().min(12)];
        ensure!(
            differences.is_empty(),
            "{} lines differ, such as\n{}",
            differences.len(),
            shown.join("\n")
        );
        Ok(())
    }

    /// Fails if rank, machine-id or host key differ.
    pub fn has_identity_of(&self, other: &System) -> Result<()> {
        ensure!(self.rank == other.rank, "rank {} is now {}", self.rank, other.rank);
        ensure!(self.machine_id == other.machine_id, "the machine-id is another");
        ensure!(self.host_key == other.host_key, "the host key is another");
        Ok(())
    }

    /// Fails if machine-id or host key are the same.
    pub fn is_another(&self, other: &System) -> Result<()> {
        ensure!(self.machine_id != other.machine_id, "the machine-id is shared");
        ensure!(self.host_key != other.host_key, "the host key is shared");
        Ok(())
    }
}

/// The name in a line of either kind.
fn name(line: &str) -> &str {
    if is_hash(line) {
        return line.get(66..).unwrap_or(line);
    }
    line.split('\'').nth(1).unwrap_or(line)
}

fn is_hash(line: &str) -> bool {
    line.split(' ').next().is_some_and(|word| word.len() == 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[&str]) -> System {
        System {
            rank: "0".to_owned(),
            machine_id: "a".repeat(32),
            host_key: "k".to_owned(),
            files: files.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn a_file_that_is_gone_new_or_changed_is_a_difference() {
        let before = system(&["81a4 0:0 5 1 'etc/a'", "81a4 0:0 5 1 'etc/b'"]);
        assert!(before.is_same(&before.clone()).is_ok());
        assert!(before.is_another(&before.clone()).is_err());
        let after = system(&["81a4 0:0 6 2 'etc/a'"]);
        assert_eq!((before.differences(&after).len(), before.changes(&after)), (3, 2));
        assert!(before.is_same(&after).is_err());
        let hash = "0".repeat(64) + "  etc/a";
        let hashed = system(&[&hash, "81a4 0:0 5 1 'etc/a'", "a1ff 0:0 1 1 'etc/l' -> 'a'"]);
        assert_eq!((hashed.count(), hashed.changes(&system(&[]))), (2, 2));
    }
}
