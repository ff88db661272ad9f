//! Disks that are missing, somebody else's, broken, full or too old: each is told in words, and
//! nothing is written that was not blank, ours, or claimed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::{Content, DiskHw, DiskModel, NicModel, NodeHw, OldOs, Rack, RackSpec, files};

use crate::support::{Lab, boots, with_lines};

fn disk(serial: &str, content: Content) -> DiskHw {
    DiskHw { bytes: 1 << 30, serial: Some(serial.to_owned()), content, ..DiskHw::default() }
}

fn node(disks: Vec<DiskHw>) -> NodeHw {
    NodeHw { disks, ..NodeHw::default() }
}

/// A disk as another operating system leaves it: a partition table, and ext4 with a file in it.
fn somebodys_disk(path: &Path) -> Result<()> {
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {output:?}");
        Ok(())
    };
    fs::File::create(path)?.set_len(256 << 20)?;
    let table = path.with_extension("table");
    fs::write(&table, "label: gpt\nstart=2048, size=400000, type=linux\n")?;
    run(Command::new("sfdisk").arg("-q").arg(path).stdin(Stdio::from(fs::File::open(&table)?)))?;
    let source = path.with_extension("d");
    fs::create_dir_all(&source)?;
    fs::write(source.join("thesis.tex"), "ten years of work")?;
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-E", "offset=1048576", "-d"])
        .arg(&source)
        .arg(path)
        .arg("190000k"))
}

/// debugfs on the overlay store's partition of a node that is off.
fn debugfs(disk: &tests::Disk, commands: &str) -> Result<String> {
    let list = Command::new("sfdisk").arg("-J").arg(disk.path()).output()?;
    let table: serde_json::Value = serde_json::from_slice(&list.stdout)?;
    let partitions = table["partitiontable"]["partitions"].as_array().context("no partitions")?;
    let store = partitions.iter().find(|p| p["name"] == "haas-overlay").context("no store")?;
    let offset = store["start"].as_u64().context("a partition has a start")? * 512;
    let script = disk.path().with_extension("debugfs");
    fs::write(&script, commands)?;
    let at = format!("{}?offset={offset}", disk.path().display());
    let output = Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&at).output()?;
    // What was cut off goes to lost+found, as a repair by hand would do.
    Command::new("e2fsck").arg("-fy").arg(at).output()?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_disk_that_is_not_ours_is_told_of_and_never_written_until_it_is_claimed() -> Result<()> {
    let content = std::env::temp_dir().join("faults-somebodys-disk.raw");
    somebodys_disk(&content)?;
    let theirs = || Content::File(content.clone());
    let old_os = Content::OldOs { marker: "OLD-OS-RUNS".into(), then: OldOs::Hangs };
    let ahci = |disk: DiskHw| DiskHw { model: DiskModel::Ahci, ..disk };
    let old_server = NodeHw {
        nics: vec![NicModel::E1000],
        disks: vec![ahci(disk("THEIRS", theirs())), ahci(disk("SPARE", Content::Blank))],
        ..NodeHw::default()
    };
    let read_only = DiskHw { read_only: true, ..disk("LOCKED", Content::Blank) };
    let small = DiskHw { bytes: 300 << 20, ..disk("SMALL", old_os) };
    let blanks = vec![disk("LEFT", Content::Blank), disk("RIGHT", Content::Blank)];
    let nodes = vec![old_server, node(vec![small]), node(vec![read_only]), node(blanks)];
    Rack::with(RackSpec::new("faults-disks", nodes), |rack| {
        let nodes = with_lines(
            &files::nodes_toml(rack)?,
            "node3",
            "overlay_disk = { serial = \"ABSENT\" }",
        );
        let lab = Lab::start_with(rack, "", nodes)?;
        refused(&lab)?;
        claimed(&lab)?;
        full(&lab)
    })?;
    Ok(fs::remove_file(content)?)
}

/// What the agent of the old server found in it: QEMU's memory module, and disks that know SMART.
fn inventory_is_right(lab: &Lab<'_>) -> Result<()> {
    let node = lab.node("node1")?;
    let found = &node["hardware"]["inventory"];
    ensure!(node["summary"]["memory"] == 512 << 20, "{found}");
    ensure!(found["cpus"][0]["threads"] == 1, "{found}");
    let disks = found["disks"].as_array().context("disks")?;
    for serial in ["THEIRS", "SPARE"] {
        let disk = disks.iter().find(|disk| disk["serial"] == serial);
        let disk = disk.with_context(|| format!("no {serial} in {found}"))?;
        ensure!(disk["transport"] == "sata" && disk["smart"]["level"] == "ok", "{disk}");
    }
    // The image's own disk, which is iSCSI's, is none of the node's.
    ensure!(disks.len() == 2, "{found}");
    ensure!(found["nics"][0]["driver"] == "e1000", "{found}");
    ensure!(node["health"]["level"] == "ok", "{}", node["health"]);
    Ok(())
}

fn refused(lab: &Lab<'_>) -> Result<()> {
    let rack = lab.rack;
    let before = |node: usize, disk: usize| rack.node(node).disks[disk].fingerprint();
    let theirs = before(1, 0)?;
    let old_os = before(2, 0)?;
    let blanks = (before(4, 0)?, before(4, 1)?);
    lab.switch("node[1-4]", "alice/work")?;

    // The one blank disk of two is taken, on old hardware too; the other stays as it is.
    lab.wait_ready("node1")?;
    let row = lab.disk_row("node1", "THEIRS")?;
    ensure!(row.contains("not blank: gpt"), "{row}");
    ensure!(lab.disk_row("node1", "SPARE")?.contains("overlay store"));
    lab.ssh("alice", "node1", "echo kept > /home/alice/file")?;
    ensure!(before(1, 0)? == theirs, "somebody's disk was written to");
    inventory_is_right(lab)?;

    lab.wait_fault(
        "node2",
        &["overlay", "vda", "SMALL", "not blank", "boot sector", "disk claim"],
    )?;
    let row = lab.disk_row("node2", "SMALL")?;
    ensure!(row.contains("not blank: a boot sector"), "{row}");
    ensure!(before(2, 0)? == old_os, "the old system's disk was written to");

    // A controller may show its disks late, so the node goes on looking, and says what for.
    lab.wait_reason("node3", &["serial ABSENT", "vda (serial LOCKED)", "read-only"])?;
    lab.wait_fault("node4", &["LEFT", "RIGHT", "blank", "overlay_disk"])?;
    ensure!((before(4, 0)?, before(4, 1)?) == blanks, "a disk was chosen by guessing");

    // Without a disk there is still RAM, for who asks for it.
    lab.ok(&["switch", "node3", "--overlay", "none", "--force"])?;
    // And with two, the inventory says which.
    let nodes = fs::read_to_string(rack.dir().join("nodes.toml"))?;
    let nodes = with_lines(&nodes, "node4", "overlay_disk = { serial = \"RIGHT\" }");
    let file = lab.haasd.write("named.toml", nodes)?;
    lab.ok(&["node", "apply", file.to_str().context("plain text")?, "--yes"])?;
    lab.switch("node4", "alice/work")?;
    lab.wait_ready("node3")?;
    lab.wait_ready("node4")?;
    ensure!(before(4, 0)? == blanks.0, "the wrong one of two disks was taken");
    ensure!(lab.disk_row("node4", "RIGHT")?.contains("overlay store"));
    for name in ["node1", "node3", "node4"] {
        lab.power_off(name)?;
    }
    Ok(())
}

fn claimed(lab: &Lab<'_>) -> Result<()> {
    let disk = &lab.rack.node(2).disks[0];
    let before = disk.fingerprint()?;
    let boots_before = boots(lab, "node2")?.len();
    lab.refused(2, &["disk", "claim", "node2", "--serial", "SMALL"])?;
    let text = lab.refused(4, &["disk", "claim", "node2", "--serial", "SMALLER", "--wipe"])?;
    ensure!(text.contains("disk list node2"), "{text}");
    ensure!(disk.fingerprint()? == before, "the disk was written without a claim");
    lab.ok(&["disk", "claim", "node2", "--serial", "SMALL", "--wipe"])?;
    lab.wait_ready("node2")?;
    ensure!(boots(lab, "node2")?.len() == boots_before, "the held node was booted anew");
    let row = lab.disk_row("node2", "SMALL")?;
    ensure!(row.contains(" no "), "the claim was for one wipe: {row}");
    Ok(())
}

/// A user fills the small disk to the last byte: he can still boot, log in and make room, and the
/// other overlay on it loses nothing.
fn full(lab: &Lab<'_>) -> Result<()> {
    lab.bring_up(&["node2"], "bob/work")?;
    lab.ssh("bob", "node2", "echo of-bob > /home/bob/file; sync")?;
    lab.bring_up(&["node2"], "alice/work")?;
    let fill = "dd if=/dev/zero of=/home/alice/big bs=64k; sync; dd if=/dev/zero of=/home/alice/rest bs=1k";
    let told = lab.ssh_any("alice", "node2", fill)?;
    ensure!(told.stderr.contains("No space left"), "the disk never was full: {told:?}");
    lab.ok(&["power", "cycle", "node2", "--force", "--wait"])?;
    lab.wait_ready("node2")?;
    let told =
        lab.ssh_any("alice", "node2", "dd if=/dev/zero of=/home/alice/more bs=64k count=80")?;
    ensure!(told.stderr.contains("No space left"), "{told:?}");
    lab.ssh("alice", "node2", "rm /home/alice/big && echo room > /home/alice/file && sync")?;
    lab.bring_up(&["node2"], "bob/work")?;
    let kept = lab.ssh("bob", "node2", "cat /home/bob/file; ls /home")?;
    ensure!(kept.starts_with("of-bob") && !kept.contains("alice"), "{kept}");
    Ok(())
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_store_that_is_foreign_lost_or_old_is_never_replaced_silently() -> Result<()> {
    let nodes =
        vec![node(vec![disk("ONE", Content::Blank)]), node(vec![disk("TWO", Content::Blank)])];
    Rack::with(RackSpec::new("faults-store", nodes), |rack| stores(&Lab::start(rack)?))
}

fn stores(lab: &Lab<'_>) -> Result<()> {
    let rack = lab.rack;
    let (mine, other) = (&rack.node(1).disks[0], &rack.node(2).disks[0]);
    lab.bring_up(&["node1"], "alice/work")?;
    lab.ssh("alice", "node1", "echo first > /home/alice/file; sync")?;
    lab.power_off("node1")?;
    let old = rack.dir().join("old.raw");
    mine.keep(&old)?;

    // The disk of node1 in node2, and a blank one in node1.
    other.replace(&Content::File(old.clone()))?;
    let foreign = other.fingerprint()?;
    mine.replace(&Content::Blank)?;
    let blank = mine.fingerprint()?;
    lab.switch("node[1-2]", "alice/work")?;
    lab.wait_fault("node2", &["vda", "TWO", "overlays of node node1", "disk claim node2"])?;
    ensure!(lab.disk_row("node2", "TWO")?.contains("foreign store: node node1"));
    ensure!(other.fingerprint()? == foreign, "a foreign store was written to");
    lab.wait_fault("node1", &["store", "vda", "ONE", "put the old disk back", "disk claim node1"])?;
    ensure!(mine.fingerprint()? == blank, "a lost store was replaced by a new one");

    // The right disk again. A second opening makes the copy an old one.
    lab.ok(&["power", "off", "node[1-2]", "--force", "--wait"])?;
    mine.replace(&Content::File(old.clone()))?;
    other.replace(&Content::Blank)?;
    lab.bring_up(&["node1"], "alice/work")?;
    lab.ssh("alice", "node1", "cat /home/alice/file; echo second > /home/alice/file; sync")?;
    lab.power_off("node1")?;
    let newest = rack.dir().join("newest.raw");
    mine.keep(&newest)?;
    mine.replace(&Content::File(old))?;
    lab.switch("node1", "alice/work")?;
    lab.wait_fault("node1", &["old copy", "vda", "newest disk back", "disk claim node1"])?;
    lab.power_off("node1")?;

    // A shard that was there once, deleted behind our back.
    mine.replace(&Content::File(newest))?;
    let listed = debugfs(mine, "ls -p /overlays\n")?;
    let shard = listed
        .lines()
        .filter_map(|line| line.split('/').nth(5))
        .find(|name| name.len() == 26)
        .with_context(|| format!("no shard in {listed}"))?;
    debugfs(mine, &format!("unlink /overlays/{shard}\n"))?;
    lab.switch("node1", "alice/work")?;
    let why = lab.wait_fault("node1", &["shard", "alice/work", "rank 0"])?;
    ensure!(why.contains("overlay rm") || why.contains("restore"), "{why}");
    // Nobody else on this disk is harmed.
    lab.bring_up(&["node1"], "bob/work")?;
    lab.ok(&["power", "off", "node1", "--force", "--wait"])?;
    Ok(())
}
