//! Programs on nodes that read what is not in memory, for ever, and check every byte: what shows
//! whether a node outlives its target.
//!
//! Their data is a part of the image: many small files and two large ones, all random, whose
//! checksums the test knows. Before each read the node's caches are dropped, so that folders, data
//! and the programs themselves come from the target again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tests::{Output, wait_some};

use crate::support::{BOOT, Lab};

/// The image: `minimal` with the data.
pub(crate) const IMAGE: &str = "cold";
/// Programs on each node.
pub(crate) const READERS: usize = 2;

const FOLDER: &str = "usr/share/cold";
const BLOCK: usize = 256 << 10;
const SMALL_FILES: usize = 64;
const LARGE_FILES: usize = 2;
const BLOCKS_OF_A_LARGE_FILE: usize = 64;

/// What one program has done since its phase began, and all its mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) phase: String,
    pid: u32,
    pub(crate) reads: u64,
    /// Reads that gave other bytes than were written.
    pub(crate) wrong: u64,
    /// Reads and programs that ended with an error.
    pub(crate) failed: u64,
    /// The longest time that one read took.
    pub(crate) stall: Duration,
}

/// Makes the recipe and builds the image. Returns the list of its blocks for [`start`].
pub(crate) fn build(lab: &Lab<'_>) -> Result<String> {
    let recipes = lab.rack.dir().join("recipes");
    let folder = recipes.join(IMAGE);
    let data = folder.join("files").join(FOLDER);
    fs::create_dir_all(&data)?;
    let minimal = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/minimal");
    let mut copy = lab.rack.command("cp");
    Output::of(copy.arg("-a").arg(minimal).arg(&recipes))?.ok()?;
    fs::write(folder.join("recipe.toml"), RECIPE)?;

    let mut blocks = String::new();
    let mut random = File::open("/dev/urandom")?;
    for number in 0..SMALL_FILES + LARGE_FILES {
        let length = if number < SMALL_FILES { 1 } else { BLOCKS_OF_A_LARGE_FILE };
        let name = format!("data-{number}");
        let mut file = File::create(data.join(&name))?;
        for at in 0..length {
            let mut block = vec![0; BLOCK];
            random.read_exact(&mut block)?;
            file.write_all(&block)?;
            let sum = hex::encode(Sha256::digest(&block));
            blocks += &format!("{sum} /{FOLDER}/{name} {at}\n");
        }
    }
    lab.ok(&["image", "build", folder.to_str().context("plain text")?])?;
    Ok(blocks)
}

/// Starts the programs on a node that runs the image.
pub(crate) fn start(lab: &Lab<'_>, node: &str, blocks: &str) -> Result<()> {
    lab.ssh("root", node, "mkdir -p /run/cold; echo none > /run/cold/phase")?;
    for (name, text) in [("blocks", blocks), ("reader", READER)] {
        let source = lab.haasd.write(name, text)?;
        let mut put = lab.ssh_command("root", node, &format!("cat > /run/cold/{name}"))?;
        Output::of(put.stdin(File::open(source)?))?.ok()?;
    }
    let got = lab.ssh("root", node, "cat /run/cold/blocks")?;
    ensure!(got == blocks, "{node} got another list of blocks");
    for number in 1..=READERS {
        let line = format!(
            "setsid /bin/bash /run/cold/reader {number} < /dev/null > /run/cold/said.{number} 2>&1 &"
        );
        lab.ssh("root", node, &line)?;
    }
    Ok(())
}

/// Begins a phase on a node, and waits until all its programs have read something in it.
pub(crate) fn begin(lab: &Lab<'_>, node: &str, phase: &str) -> Result<Vec<Status>> {
    lab.ssh("root", node, &format!("echo {phase} > /run/cold/phase"))?;
    wait_some(&format!("the readers of {node} to begin {phase}"), BOOT, || {
        let all = look(lab, node).ok()?;
        all.iter().all(|one| one.phase == phase && one.reads > 0).then_some(all)
    })
}

/// Waits until the programs read again, the same ones as before, and returns what they say.
pub(crate) fn go_on(lab: &Lab<'_>, node: &str, before: &[Status]) -> Result<Vec<Status>> {
    let first = wait_some(&format!("the readers of {node}"), BOOT, || look(lab, node).ok())?;
    let all = wait_some(&format!("the readers of {node} to go on"), BOOT, || {
        let all = look(lab, node).ok()?;
        all.iter().zip(&first).all(|(now, then)| now.reads >= then.reads + 2).then_some(all)
    })
    .with_context(|| format!("they stood at {first:?}"))?;
    for (now, then) in all.iter().zip(before) {
        ensure!(now.pid == then.pid, "{node}: a reader died: {then:?}, then {now:?}");
        ensure!(now.phase == then.phase, "{node}: {then:?}, then {now:?}");
    }
    Ok(all)
}

fn look(lab: &Lab<'_>, node: &str) -> Result<Vec<Status>> {
    let text = lab.ssh("root", node, "cat /run/cold/status.*")?;
    let all: Vec<Status> = text.lines().filter_map(parse).collect();
    ensure!(all.len() == READERS, "{node} says {text:?}");
    Ok(all)
}

fn parse(line: &str) -> Option<Status> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [phase, pid, reads, wrong, failed, stall] = fields.as_slice() else { return None };
    Some(Status {
        phase: (*phase).to_owned(),
        pid: pid.parse().ok()?,
        reads: reads.parse().ok()?,
        wrong: wrong.parse().ok()?,
        failed: failed.parse().ok()?,
        stall: Duration::from_millis(stall.parse().ok()?),
    })
}

const RECIPE: &str = r#"
kind = "debian-packages"
name = "cold"
description = "minimal with data to read"
base = "minimal"
"#;

/// One line of `blocks` after the other: SHA-256, file, number of the block. A program with text of
/// its own is run too: an error in its pages would kill it.
const READER: &str = r#"
set -o pipefail
number=$1 phase= reads=0 wrong=0 failed=0 stall=0 at=$(($1 * 41))
mapfile -t blocks < /run/cold/blocks
clock() { read -r up idle < /proc/uptime; now=$((10#${up/./} * 10)); }
while :; do
    read -r asked < /run/cold/phase
    [ "$asked" = "$phase" ] || { phase=$asked; reads=0; stall=0; }
    read -r sum file block <<< "${blocks[at % ${#blocks[@]}]}"
    at=$((at + 1))
    echo 3 > /proc/sys/vm/drop_caches
    clock; began=$now
    if got=$(dd if="$file" bs=256k skip="$block" count=1 2> /dev/null | sha256sum); then
        [ "${got%% *}" = "$sum" ] || { wrong=$((wrong + 1)); echo "$file $block: $got, not $sum"; }
    else
        failed=$((failed + 1)); echo "$file $block cannot be read"
    fi
    dbclient -V 2> /dev/null || { failed=$((failed + 1)); echo "dbclient ended with $?"; }
    clock
    [ $((now - began)) -le $stall ] || stall=$((now - began))
    reads=$((reads + 1))
    echo "$phase $$ $reads $wrong $failed $stall" > /run/cold/status.$number
    sleep 1
done
"#;
