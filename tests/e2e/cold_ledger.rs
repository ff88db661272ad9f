//! What a node has written to its overlay and synced: records whose content the test can tell from
//! their number, so that each can be checked after a power cut.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// The records of one node.
#[derive(Debug)]
pub(crate) struct Ledger {
    node: String,
    /// How many were synced: all with a lower number.
    synced: usize,
}

impl Ledger {
    pub(crate) fn new(node: &str) -> Ledger {
        Ledger { node: node.to_owned(), synced: 0 }
    }

    /// A shell script that writes one record after the other, for ever, and prints the number of each
    /// that has been synced. `last` is replaced as editors and databases do it.
    pub(crate) fn writer(&self) -> String {
        format!(
            "mkdir -p ~/ledger && cd ~/ledger && n={} && while :; do \
             yes \"{} $n\" | head -c $((n * 7919 % 40000 + 100)) | dd of=$n conv=fsync 2> /dev/null \
             && echo $n | dd of=new conv=fsync 2> /dev/null && mv new last && sync . \
             && echo $n; n=$((n + 1)); done",
            self.synced, self.node
        )
    }

    /// Takes down what the writer printed before its power was cut.
    pub(crate) fn was_synced(&mut self, printed: &str) -> Result<()> {
        let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let number: usize = line.parse().with_context(|| format!("not a record: {line:?}"))?;
            ensure!(number == self.synced, "the writer left out {}: {number}", self.synced);
            self.synced += 1;
        }
        Ok(())
    }

    /// A shell script that prints what [`Ledger::check`] reads.
    pub(crate) fn list(&self) -> &'static str {
        "cd ~/ledger 2> /dev/null || exit 0; cat last; sha256sum [0-9]*"
    }

    /// Looks for each synced record; says how many there are.
    pub(crate) fn check(&self, found: &str) -> Result<usize> {
        if self.synced == 0 {
            return Ok(0);
        }
        let mut lines = found.lines();
        let last: usize = lines.next().and_then(|line| line.parse().ok()).context("no last")?;
        ensure!(last + 1 >= self.synced, "the last record is {last}, not {}", self.synced - 1);
        let sums: BTreeMap<&str, &str> =
            lines.filter_map(|line| line.split_once("  ")).map(|(sum, name)| (name, sum)).collect();
        for number in 0..self.synced {
            let sum = sums.get(number.to_string().as_str());
            let sum = sum.with_context(|| format!("{} has lost record {number}", self.node))?;
            let right = hex::encode(Sha256::digest(self.record(number)));
            ensure!(**sum == right, "{}: record {number} has other bytes", self.node);
        }
        Ok(self.synced)
    }

    fn record(&self, number: usize) -> Vec<u8> {
        let line = format!("{} {number}\n", self.node);
        line.bytes().cycle().take(number * 7919 % 40000 + 100).collect()
    }
}
