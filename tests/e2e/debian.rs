//! Debian 12 as an image, on BIOS and on UEFI: systemd comes up with nothing failed, ssh knows the nodes
//! by their certificates and users go from one to the other, what a user installs and removes is there
//! again after a switch away and back, the boot NIC is left alone by the image's own network software,
//! and the node ends in order.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use haas_api::{
    List,
    image::{BootRead, ImageSessions},
};
use tests::ssh::Person;
use tests::{Firmware, NodeHw, Output, Rack, RackSpec, files};

use crate::support::{Lab, boots};

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
        let (alice, bob) = (with_openssh_key(&lab, "alice")?, with_openssh_key(&lab, "bob")?);
        works(&lab)?;
        ssh_knows_the_nodes_by_their_certificates(&lab, &alice)?;
        users_go_from_node_to_node(&lab)?;
        is_counted_and_recorded(&lab)?;
        is_changed(&lab)?;
        survives_its_own_network_software(&lab)?;
        is_found_again(&lab, &bob)?;
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

/// Somebody who has a key that OpenSSH reads, beside that of the lab.
fn with_openssh_key<'r>(lab: &Lab<'r>, name: &str) -> Result<Person<'r>> {
    let person = Person::new(lab.rack, name)?;
    let (own, key) = (lab.rack.dir().join(format!("{name}.pub")), person.public_key());
    let text = |path: &std::path::Path| path.display().to_string();
    lab.ok(&["user", "keys", name, &text(&own), &text(&key)])?;
    Ok(person)
}

/// Strictly, with nothing known but haasd's authority: by plain ssh and by haasctl.
fn ssh_knows_the_nodes_by_their_certificates(lab: &Lab<'_>, alice: &Person<'_>) -> Result<()> {
    let known = lab.ok(&["node", "export", "--to", "known-hosts"])?.stdout;
    let lines: Vec<_> = known.lines().filter(|line| !line.starts_with('#')).collect();
    ensure!(lines.len() == 1 && lines[0].starts_with("@cert-authority node1,"), "{known}");
    let file = lab.haasd.write("known_hosts", &known)?;
    for (number, name) in (1..).zip(NODES) {
        let node = lab.rack.node(number);
        let output = alice.ssh_known(node, "root", "hostname", &file)?.ok()?;
        ensure!(output.stdout == format!("{name}\n") && output.stderr.is_empty(), "{output:?}");
        let shown = lab.ok(&["node", "show", name])?.stdout;
        ensure!(shown.contains("ssh-ed25519, certificate until 20"), "{shown}");
        // Another authority's word is worth nothing.
        let authority = lines[0].rsplit(' ').next().context("a key")?;
        let other = std::fs::read_to_string(alice.public_key())?;
        let other = other.split(' ').nth(1).context("a key")?;
        let forged = lab.haasd.write("forged_hosts", known.replace(authority, other))?;
        let refused = alice.ssh_known(node, "root", "hostname", &forged)?;
        ensure!(refused.code == Some(255) && refused.stdout.is_empty(), "{refused:?}");
    }
    let key = alice.private_key().display().to_string();
    let by_haasctl = |args: &[&str], command: &[&str]| {
        let options = ["-i", &key, "--ssh-option", "IdentitiesOnly=yes"];
        lab.ok(&[args, &options, command].concat())
    };
    let output = by_haasctl(&["ssh", "node1", "-l", "alice"], &["--", "hostname; id -un"])?;
    ensure!(output.stdout == "node1\nalice\n" && output.stderr.is_empty(), "{output:?}");
    let same = by_haasctl(&["exec", "node[1-2]", "-l", "root"], &["--", "id", "-un"])?.stdout;
    ensure!(same == "--- node[1-2] (2 nodes)\nroot\n", "{same}");
    let ranks = by_haasctl(&["exec", "node[1-2]", "-l", "root"], &["--", "cat /run/haas/rank"])?;
    ensure!(ranks.stdout == "--- node1 (1 node)\n0\n--- node2 (1 node)\n1\n", "{ranks:?}");
    let own = file.display().to_string();
    by_haasctl(&["cp", &own, "node[1-2]:copied", "-l", "alice"], &[])?;
    let back = lab.rack.dir().join("back").display().to_string();
    by_haasctl(&["cp", "node2:copied", &back, "-l", "alice"], &[])?;
    ensure!(std::fs::read_to_string(back)? == known, "what came back is something else");
    let hosts = lab.ok(&["overlay", "hostfile", "alice/work"])?.stdout;
    ensure!(hosts == "node1\nnode2\n", "{hosts}");
    Ok(())
}

/// Without a key of their own, and strictly: as MPI does it.
fn users_go_from_node_to_node(lab: &Lab<'_>) -> Result<()> {
    let ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ForwardAgent=no";
    for (from, to) in [("node1", "node2"), ("node2", "node1")] {
        let line = format!("{ssh} {to} 'hostname; id -un'; {ssh} root@{to} id -un");
        let said = lab.ssh("alice", from, &line)?;
        ensure!(said == format!("{to}\nalice\nroot\n"), "alice on {from}: {said:?}");
        let said = lab.ssh("root", from, &format!("{ssh} {to} 'hostname; id -un' 2>&1"))?;
        ensure!(said == format!("{to}\nroot\n"), "root on {from}: {said:?}");
    }
    // root's key is for root: alice is another account.
    let refused = lab.ssh_any("root", "node1", &format!("{ssh} alice@node2 id -un 2>&1"))?;
    ensure!(refused.stdout.contains("Permission denied"), "{refused:?}");
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
fn is_found_again(lab: &Lab<'_>, bob: &Person<'_>) -> Result<()> {
    bring_up(lab, "minimal", "bob/work")?;
    // dropbear shows no certificate: its key itself is known.
    let key = bob.private_key().display().to_string();
    let said = lab.ok(&["exec", "node[1-2]", "-l", "bob", "-i", &key, "--", "id", "-un"])?.stdout;
    ensure!(said == "--- node[1-2] (2 nodes)\nbob\n", "{said}");
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
