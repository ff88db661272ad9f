//! Debian 12 as an image, on BIOS and on UEFI: systemd comes up with nothing failed, what a user
//! installs and removes is there again after a switch away and back, the boot NIC is left alone by the
//! image's own network software, and the node ends in order.

#[path = "faults_support.rs"]
mod support;

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use haas_api::{
    List,
    image::{BootRead, ImageSessions},
};
use support::{Lab, boots};
use tests::{Firmware, NodeHw, Output, Rack, RackSpec, files};

/// systemd starts much, and QEMU emulates every instruction of it, twice.
const BOOT: Duration = Duration::from_secs(420);
const NODES: [&str; 2] = ["node1", "node2"];

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_debian_boots_on_bios_and_uefi_and_keeps_what_its_user_installed() -> Result<()> {
    let node = |firmware| NodeHw { firmware, memory_mib: 1024, ..NodeHw::default() };
    let nodes = [Firmware::Bios, Firmware::UefiPxe].map(node).to_vec();
    Rack::with(RackSpec::new("debian", nodes), |rack| {
        let lab = Lab::start(rack)?;
        let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/debian-12");
        lab.ok(&["image", "build", recipe])?;
        works(&lab)?;
        is_counted_and_recorded(&lab)?;
        is_changed(&lab)?;
        survives_its_own_network_software(&lab)?;
        is_found_again(&lab)?;
        ends_in_order(&lab)
    })
}

fn bring_up(lab: &Lab<'_>, image: &str, overlay: &str) -> Result<()> {
    // haasd hears with the next heartbeat that our own logins are over.
    lab.ok(&["switch", "node[1-2]", "--image", image, "--overlay", overlay, "--force"])?;
    NODES.iter().try_for_each(|node| lab.ready_within(node, BOOT))
}

/// systemd is up, nothing has failed, and each node is itself.
fn works(lab: &Lab<'_>) -> Result<()> {
    bring_up(lab, "debian-12", "alice/work")?;
    for name in NODES {
        let state = lab.ssh_any("root", name, "systemctl is-system-running --wait")?;
        let failed = lab.ssh("root", name, "systemctl --failed --plain --no-legend")?;
        ensure!(state.stdout == "running\n", "{name} is {}: {failed}", state.stdout);
        let host =
            lab.ssh("alice", name, "hostname; id -un; sudo -n true 2>/dev/null || echo user")?;
        ensure!(host == format!("{name}\nalice\nuser\n"), "{name} says {host:?}");
    }
    Ok(())
}

/// The controller tells what each node read, and in which order the first of them did. The recording
/// is what `cargo xtask bench iscsi` replays; with HAAS_BLESS it is written anew.
fn is_counted_and_recorded(lab: &Lab<'_>) -> Result<()> {
    let sessions: ImageSessions =
        serde_json::from_str(&lab.ok(&["image", "sessions", "debian-12", "-o", "json"])?.stdout)?;
    ensure!(sessions.nodes.len() == NODES.len(), "{sessions:?}");
    for node in &sessions.nodes {
        let counts = &node.counts;
        ensure!(counts.sessions == 1 && counts.bytes > 10 << 20, "{node:?}");
        ensure!(counts.p50_us <= counts.p99_us && counts.p99_us.is_some(), "{node:?}");
    }
    ensure!(sessions.cached_bytes.is_some_and(|bytes| bytes > 10 << 20), "{sessions:?}");

    let reads: List<BootRead> =
        serde_json::from_str(&lab.ok(&["image", "reads", "debian-12", "-o", "json"])?.stdout)?;
    ensure!(reads.items.len() > 500, "{} reads", reads.items.len());
    ensure!(reads.items.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us), "not in order");
    let recorded: u64 = reads.items.iter().map(|read| u64::from(read.blocks) * 512).sum();
    ensure!(sessions.nodes.iter().any(|node| node.counts.bytes >= recorded), "{recorded} bytes");
    if std::env::var_os("HAAS_BLESS").is_some() {
        let line = |read: &BootRead| format!("{} {} {}\n", read.at_us, read.lba, read.blocks);
        let text: String = reads.items.iter().map(line).collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/load/debian-12.trace");
        std::fs::write(path, text).context("writing the recording")?;
    }
    Ok(())
}

/// apt installs a package and removes another one.
fn is_changed(lab: &Lab<'_>) -> Result<()> {
    for name in NODES {
        let mut copy = lab.ssh_command("root", name, "cat > /root/tree.deb")?;
        Output::of(copy.stdin(File::open(files::debian_package("tree")?)?))?
            .ok()
            .context("copying a package")?;
        let apt = "DEBIAN_FRONTEND=noninteractive apt-get -q -y";
        lab.ssh("root", name, &format!("{apt} install /root/tree.deb && {apt} purge nano"))?;
        lab.ssh("alice", name, &format!("echo of-{name} > /home/alice/file; sync"))?;
    }
    are_as_changed(lab)
}

fn are_as_changed(lab: &Lab<'_>) -> Result<()> {
    for name in NODES {
        let look =
            "tree --version | cut -c1-4; command -v nano || echo no nano; cat /home/alice/file";
        let found = lab.ssh("alice", name, look)?;
        ensure!(found == format!("tree\nno nano\nof-{name}\n"), "{name} has {found:?}");
    }
    Ok(())
}

/// networkd would take the boot NIC's address away and with it the root, if it were let.
fn survives_its_own_network_software(lab: &Lab<'_>) -> Result<()> {
    let networkd = "printf '[Match]\\nName=*\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/10-all.network \
                    && systemctl enable --now systemd-networkd && systemctl reboot";
    let before = boots(lab, "node1")?.len();
    for name in NODES {
        // The connection may end before the command does.
        lab.ssh_any("root", name, networkd)?;
    }
    lab.rack.wait_for("both nodes to boot anew", BOOT, || {
        boots(lab, "node1").is_ok_and(|boots| boots.len() > before)
            && boots(lab, "node2").is_ok_and(|boots| boots.len() > before)
    })?;
    for name in NODES {
        lab.ready_within(name, BOOT)?;
        let state =
            lab.ssh("root", name, "systemctl is-active systemd-networkd; networkctl --no-legend")?;
        ensure!(state.starts_with("active\n"), "{name}: {state}");
    }
    are_as_changed(lab)
}

/// Away to another image and another user's overlay, and back.
fn is_found_again(lab: &Lab<'_>) -> Result<()> {
    bring_up(lab, "minimal", "bob/work")?;
    bring_up(lab, "debian-12", "alice/work")?;
    are_as_changed(lab)
}

fn ends_in_order(lab: &Lab<'_>) -> Result<()> {
    let log = lab.haasd.log();
    let untidy = log.lines().find(|line| line.contains("goodbye") && line.contains("clean=false"));
    ensure!(untidy.is_none(), "an end was not clean: {untidy:?}");
    for (number, name) in (1..).zip(NODES) {
        let node = lab.rack.node(number);
        let (before, mark) = (node.bmc.power_commands(), node.console.mark());
        lab.power_off(name)?;
        let off = node.bmc.power_commands().off - before.off;
        ensure!(off == 0, "{name} was cut off: {}", node.console.since(mark));
        let last = lab.haasd.log();
        let last = last.lines().rev().find(|line| line.contains("goodbye"));
        ensure!(last.is_some_and(|line| line.contains("clean=true")), "{last:?}");
    }
    Ok(())
}
