//! Disks with a past: several of them on several controllers, found in another order at each boot, old
//! systems, RAIDs, sticks and virtual media among them; stores whose disks were swapped or copied, and
//! one that is damaged. What is not the node's is never written, and what is wrong is told in words.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{Content, Disk, DiskHw, DiskModel, NicModel, NodeHw, OldOs, Rack, RackSpec, files};

use crate::support::{self, Lab, with_lines};

fn disk(model: DiskModel, serial: &str, content: Content) -> DiskHw {
    DiskHw {
        bytes: 512 << 20,
        serial: Some(serial.to_owned()),
        model,
        content,
        ..DiskHw::default()
    }
}

fn old_os() -> Content {
    Content::OldOs { marker: "OLD-OS-RUNS".into(), then: OldOs::Hangs }
}

/// A GPT whose one partition begins at an odd sector and was a member of a RAID.
fn raid() -> Result<Content> {
    let path = std::env::temp_dir().join("disks-raid.raw");
    fs::File::create(&path)?.set_len(512 << 20)?;
    let mut table = Command::new("sfdisk");
    table.args(["-q", "--no-reread"]).arg(&path).stdin(std::process::Stdio::piped());
    let mut table = table.spawn()?;
    let lines = "label: gpt\nstart=2311, size=400001, type=raid\n";
    std::io::Write::write_all(&mut table.stdin.take().context("a pipe")?, lines.as_bytes())?;
    ensure!(table.wait()?.success(), "sfdisk fails");
    let superblock = 2311 * 512 + 4096;
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"\xfc\x4e\x2b\xa9", superblock)?;
    Ok(Content::File(path))
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_real_racks_disks_come_in_any_order_and_only_the_nodes_own_is_written() -> Result<()> {
    let fat: Vec<(u64, Vec<u8>)> = vec![(0x52, b"FAT32".to_vec()), (0x1fe, vec![0x55, 0xaa])];
    let mixed = NodeHw {
        nics: vec![NicModel::E1000],
        shuffled_disks: true,
        disks: vec![
            disk(DiskModel::Ahci, "OLD", old_os()),
            disk(DiskModel::Nvme, "SCRATCH", Content::Blank),
            disk(DiskModel::Ahci, "STORE", Content::Blank),
            disk(DiskModel::Usb, "STICK", Content::Bytes(fat)),
            disk(DiskModel::Removable, "MEDIUM", Content::Blank),
        ],
        ..NodeHw::default()
    };
    let full = NodeHw {
        nics: vec![NicModel::E1000],
        shuffled_disks: true,
        disks: vec![
            disk(DiskModel::Ahci, "OLD2", old_os()),
            disk(DiskModel::Nvme, "RAID", raid()?),
        ],
        ..NodeHw::default()
    };
    Rack::with(RackSpec::new("disks", vec![mixed, full]), |rack| {
        let scratch = "scratch_disks = [{ serial = \"SCRATCH\" }]";
        let nodes = with_lines(&files::nodes_toml(rack)?, "node1", scratch);
        let lab = Lab::start_with(rack, "", nodes)?;
        lab.switch("node[1-2]", "alice/work")?;
        finds_its_own(&lab)?;
        is_refused_until_one_is_claimed(&lab)
    })
}

/// The kernel's name of each disk on a node, and whether it is read-only, by serial.
fn disks_on(lab: &Lab<'_>, node: &str) -> Result<Vec<(String, String, bool)>> {
    let list = lab.json(&["disk", "list", node])?;
    let mut disks = Vec::new();
    for item in list["items"].as_array().context("a list")? {
        let text = |key: &str| item["disk"][key].as_str().unwrap_or_default().to_owned();
        let (name, serial) = (text("name"), text("serial"));
        let ro = lab.ssh("root", node, &format!("cat /sys/block/{name}/ro"))?;
        disks.push((serial, name, ro.trim() == "1"));
    }
    Ok(disks)
}

fn finds_its_own(lab: &Lab<'_>) -> Result<()> {
    let node = lab.rack.node(1);
    let prints = |of: &[usize]| -> Result<Vec<String>> {
        of.iter().map(|i| Ok(node.disks[*i].fingerprint()?)).collect()
    };
    // All but the store's and the scratch disk.
    let untouched = prints(&[0, 3, 4])?;
    lab.wait_ready("node1")?;
    lab.ssh("alice", "node1", "echo kept > /home/alice/file; sync")?;
    for (serial, word) in [
        ("OLD", "not blank: a boot sector"),
        ("SCRATCH", "blank"),
        ("STORE", "overlay store"),
        ("MEDIUM", "unusable: removable"),
    ] {
        let row = lab.disk_row("node1", serial)?;
        ensure!(row.contains(word), "{serial} is not {word}: {row}");
    }
    let mut orders = std::collections::BTreeSet::new();
    for round in 0..3 {
        if round > 0 {
            lab.ok(&["power", "cycle", "node1", "--force", "--wait"])?;
            lab.wait_ready("node1")?;
        }
        ensure!(lab.ssh("alice", "node1", "cat /home/alice/file")?.trim() == "kept");
        let mut order = Vec::new();
        for (serial, name, read_only) in disks_on(lab, "node1")? {
            let may_write = matches!(serial.as_str(), "STORE" | "SCRATCH");
            ensure!(read_only != may_write, "{serial} ({name}): read-only is {read_only}");
            let write =
                format!("dd if=/dev/urandom of=/dev/{name} bs=4k seek=99 count=1 conv=fsync");
            if serial != "STORE" {
                let wrote = lab.ssh_any("root", "node1", &write)?.code == Some(0);
                ensure!(
                    wrote == may_write,
                    "{serial} ({name}): root's write went through: {wrote}"
                );
            }
            order.push((name, serial));
        }
        order.sort();
        orders.insert(order);
    }
    plugged_in_later(lab)?;
    ensure!(orders.len() > 1, "the order never changed: {orders:?}");
    ensure!(prints(&[0, 3, 4])? == untouched, "a disk was written that is not the node's");
    ensure!(!node.console.text().contains("OLD-OS-RUNS"), "the old system was started");
    Ok(())
}

/// A disk that comes while users are there is not theirs either.
fn plugged_in_later(lab: &Lab<'_>) -> Result<()> {
    let disk = lab.rack.node(1).plug_disk("LATER", 64 << 20)?;
    let sectors = (64 << 20) / 512;
    let find = format!("grep -lx {sectors} /sys/block/sd*/size");
    let mut found = String::new();
    support::soon("the kernel to show the new disk", || {
        found = lab.ssh_any("root", "node1", &find).map(|out| out.stdout).unwrap_or_default();
        !found.trim().is_empty()
    })?;
    let name = found.trim().split('/').nth(3).context("a name")?.to_owned();
    support::soon("the new disk to be read-only", || {
        let read = lab.ssh("root", "node1", &format!("cat /sys/block/{name}/ro"));
        read.is_ok_and(|text| text.trim() == "1")
    })?;
    let write = format!("dd if=/dev/urandom of=/dev/{name} bs=4k count=1 conv=fsync");
    ensure!(lab.ssh_any("root", "node1", &write)?.code != Some(0), "a new disk was written");
    ensure!(disk.read_at(0, 4096)? == [0; 4096], "a new disk was written");
    Ok(())
}

fn is_refused_until_one_is_claimed(lab: &Lab<'_>) -> Result<()> {
    let disks = &lab.rack.node(2).disks;
    let before = (disks[0].fingerprint()?, disks[1].fingerprint()?);
    let words = ["OLD2", "a boot sector", "RAID", "gpt: md RAID", "disk claim node2", "--wipe"];
    lab.wait_fault("node2", &words)?;
    ensure!((disks[0].fingerprint()?, disks[1].fingerprint()?) == before, "a disk was written");
    lab.refused(5, &["disk", "accept", "node2"])?;
    lab.ok(&["disk", "claim", "node2", "--serial", "RAID", "--wipe"])?;
    lab.wait_ready("node2")?;
    ensure!(lab.disk_row("node2", "RAID")?.contains("overlay store"));
    lab.ok(&["power", "cycle", "node2", "--force", "--wait"])?;
    lab.wait_ready("node2")?;
    ensure!(disks[0].fingerprint()? == before.0, "the disk that was not claimed was written");
    lab.power_off("node1")?;
    lab.power_off("node2")
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_swapped_and_copied_stores_are_refused_until_they_are_accepted() -> Result<()> {
    let node = |serial: &str| NodeHw {
        disks: vec![disk(DiskModel::VirtioBlk, serial, Content::Blank)],
        ..NodeHw::default()
    };
    Rack::with(RackSpec::new("disks-swapped", vec![node("ONE"), node("TWO")]), |rack| {
        let lab = Lab::start(rack)?;
        swapped(&lab)?;
        copied(&lab)?;
        damaged(&lab)
    })
}

fn whose(lab: &Lab<'_>, node: &str) -> Result<(String, String)> {
    let line = "cat /home/alice/file; cat /run/haas/rank";
    let text = lab.ssh("alice", node, line)?;
    let mut lines = text.lines().map(str::to_owned);
    Ok((lines.next().unwrap_or_default(), lines.next().unwrap_or_default()))
}

fn data(of: &str, rank: u32) -> (String, String) {
    (of.to_owned(), rank.to_string())
}

fn swapped(lab: &Lab<'_>) -> Result<()> {
    let (one, two) = (&lab.rack.node(1).disks[0], &lab.rack.node(2).disks[0]);
    lab.bring_up(&["node1", "node2"], "alice/work")?;
    for node in ["node1", "node2"] {
        lab.ssh("alice", node, &format!("echo of-{node} > /home/alice/file; sync"))?;
    }
    ensure!(whose(lab, "node1")? == data("of-node1", 0), "ranks are not in the nodes' order");
    lab.ok(&["power", "off", "node[1-2]", "--force", "--wait"])?;
    swap(lab, one, two)?;
    let before = (one.fingerprint()?, two.fingerprint()?);

    lab.switch("node[1-2]", "alice/work")?;
    lab.wait_fault("node1", &["vda", "ONE", "overlays of node node2", "disk accept node1"])?;
    lab.wait_fault("node2", &["vda", "TWO", "overlays of node node1", "disk accept node2"])?;
    ensure!((one.fingerprint()?, two.fingerprint()?) == before, "a disk was written unasked");

    lab.ok(&["disk", "accept", "node1"])?;
    lab.wait_ready("node1")?;
    ensure!(whose(lab, "node1")? == data("of-node2", 1), "the data came without its rank");
    ensure!(lab.state("node2") == "fault", "one node's word counted for two");
    ensure!(two.fingerprint()? == before.1, "node2's disk was written unasked");
    lab.refused(5, &["disk", "accept", "node1"])?;
    lab.ok(&["disk", "accept", "node2", "--serial", "TWO"])?;
    lab.wait_ready("node2")?;
    ensure!(whose(lab, "node2")? == data("of-node1", 0), "the data came without its rank");

    // From now on each is the node's own.
    lab.ok(&["power", "cycle", "node[1-2]", "--force", "--wait"])?;
    for (node, was) in [("node1", data("of-node2", 1)), ("node2", data("of-node1", 0))] {
        lab.wait_ready(node)?;
        ensure!(whose(lab, node)? == was);
        ensure!(
            lab.disk_row(node, if node == "node1" { "ONE" } else { "TWO" })?.contains("overlay")
        );
    }
    Ok(())
}

fn swap(lab: &Lab<'_>, one: &Disk, two: &Disk) -> Result<()> {
    let kept = lab.rack.dir().join("kept.raw");
    one.keep(&kept)?;
    one.replace(&Content::File(two.path().to_owned()))?;
    two.replace(&Content::File(kept.clone()))?;
    Ok(fs::remove_file(kept)?)
}

/// The disk of node1 is copied into node2: there are never two writers.
fn copied(lab: &Lab<'_>) -> Result<()> {
    let (one, two) = (&lab.rack.node(1).disks[0], &lab.rack.node(2).disks[0]);
    lab.power_off("node2")?;
    lab.ok(&["power", "cycle", "node1", "--force", "--wait"])?;
    lab.wait_ready("node1")?;
    two.replace(&Content::File(one.path().to_owned()))?;
    let copy = two.fingerprint()?;
    lab.switch("node2", "alice/work")?;
    lab.wait_fault("node2", &["TWO", "overlays of node node1", "disk accept node2"])?;
    let told = lab.refused(5, &["disk", "accept", "node2"])?;
    ensure!(told.contains("node1 is on") && told.contains("power off node1"), "{told}");
    ensure!(two.fingerprint()? == copy && lab.state("node1") == "ready");

    lab.power_off("node1")?;
    let original = one.fingerprint()?;
    lab.ok(&["disk", "accept", "node2"])?;
    lab.wait_ready("node2")?;
    ensure!(whose(lab, "node2")? == data("of-node2", 1));
    lab.switch("node1", "alice/work")?;
    lab.wait_fault("node1", &["ONE", "copy", "node2 has by now", "disk accept node1"])?;
    ensure!(one.fingerprint()? == original, "the second of two copies was written");
    let told = lab.refused(5, &["disk", "accept", "node1"])?;
    ensure!(told.contains("node2 is on"), "{told}");
    lab.ok(&["power", "off", "node[1-2]", "--force", "--wait"])?;
    Ok(())
}

/// Nothing is repaired that could lose a file, until an admin says so.
fn damaged(lab: &Lab<'_>) -> Result<()> {
    let two = &lab.rack.node(2).disks[0];
    let list = Command::new("sfdisk").arg("-J").arg(two.path()).output()?;
    let table: serde_json::Value = serde_json::from_slice(&list.stdout)?;
    let start = table["partitiontable"]["partitions"][0]["start"].as_u64().context("a start")?;
    let script = two.path().with_extension("debugfs");
    fs::write(&script, "set_inode_field /reserve block[0] 0xdeadbeef\nset_super_value state 2\n")?;
    let at = format!("{}?offset={}", two.path().display(), start * 512);
    let done = Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&at).output()?;
    ensure!(done.status.success(), "{done:?}");

    lab.refused(5, &["disk", "repair", "node2", "--yes"])?;
    lab.switch("node2", "alice/work")?;
    lab.wait_fault("node2", &["vda1", "is damaged", "corrupt extent", "disk repair node2"])?;
    lab.refused(2, &["disk", "repair", "node2"])?;
    lab.ok(&["disk", "repair", "node2", "--yes"])?;
    lab.wait_ready("node2")?;
    ensure!(whose(lab, "node2")?.0 == "of-node2");
    lab.power_off("node2")
}
